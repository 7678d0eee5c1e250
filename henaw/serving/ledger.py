"""What was counted of champion and challenger, in files that outlive the server: one a process and day, sums only.

What is added waits in memory until it can leave without telling of fewer than five rows; so two states of a file differ
by five rows or by none. A file is rewritten whole: where the disk is full the old state stays, and the next one holds
what this one should have.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
import os
import secrets
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from henaw.data.files import private_folder, write_atomically
from henaw.errors import HenawError
from henaw.serving.tallies import Tally

logger = logging.getLogger(__name__)

FOLDER = "compared"  # in state.folder
FLUSH_SECONDS = 10.0
_FORMAT = 1


@dataclass(frozen=True)
class Subject:
    """Whose figures they are.

    Attributes:
        kind: ``split`` or ``shadow``.
        champion, challenger: versions, as ``henaw/3``.
        arm: ``champion`` or ``challenger`` of a split; ``both`` of a shadow.
    """

    kind: str
    champion: str
    challenger: str
    arm: str


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


class Ledger:
    """What one process counts."""

    def __init__(self, state: Path, today: Callable[[], str] = _today) -> None:
        """Files lie in a folder below ``state``, which is made when the first is written."""
        self._folder, self._today = state / FOLDER, today
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}.json"
        self._day = today()
        self._waiting: dict[Subject, Tally] = {}
        self._written: dict[Subject, Tally] = {}
        self._access, self._flushing = threading.Lock(), threading.Lock()
        self._failing = False

    def add(self, subject: Subject, change: Callable[[Tally], None]) -> None:
        """Have ``change`` count something of ``subject``."""
        with self._access:
            change(self._waiting.setdefault(subject, Tally()))

    def flush(self) -> tuple[dict[Subject, Tally], bool]:
        """Write what may leave; returns what newly left, and False where the file could not be written."""
        with self._flushing:
            with self._access:
                leaving = {subject: tally for subject, tally in self._waiting.items() if tally.may_leave}
                for subject in leaving:
                    del self._waiting[subject]
            for subject, tally in leaving.items():
                self._written.setdefault(subject, Tally()).merge(tally)
            done = self._write() if leaving or self._failing else True
            if done and (day := self._today()) != self._day:
                self._day, self._written = day, {}
            return leaving, done

    def _write(self) -> bool:
        records = [{**asdict(subject), **tally.to_json()} for subject, tally in self._written.items()]
        text = json.dumps({"format": _FORMAT, "day": self._day, "records": records})
        path = self._folder / f"{self._day}-{self._name}"
        try:
            private_folder(self._folder)
            write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
        except HenawError as error:
            if not self._failing:
                logger.error("the comparison is not written, answers go on and it is tried again: %s", error)
            self._failing = True
            return False
        self._failing = False
        return True


@dataclass(frozen=True)
class Found:
    """All that was written.

    Attributes:
        tallies: by whose figures they are.
        days: the first and the last of them, None where there is nothing.
        unreadable: files that are none of a ledger's.
    """

    tallies: dict[Subject, Tally]
    days: tuple[str, str] | None
    unreadable: int


def read_ledgers(state: Path, since: str = "") -> Found:
    """Add up the files of all processes, of days from ``since`` (as 2026-11-30) on."""
    tallies: dict[Subject, Tally] = {}
    days, unreadable = [], 0
    for path in sorted((state / FOLDER).glob("*.json")):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            if document["format"] != _FORMAT:
                raise ValueError
            records = [
                (Subject(*(record[name] for name in Subject.__match_args__)), Tally.from_json(record))
                for record in document["records"]
            ]
            day = str(document["day"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            unreadable += 1
            continue
        if day < since:
            continue
        days.append(day)
        for subject, tally in records:
            tallies.setdefault(subject, Tally()).merge(tally)
    return Found(tallies, (min(days), max(days)) if days else None, unreadable)
