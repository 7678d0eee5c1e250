"""Who has withdrawn: lists of ids as UK Biobank sends them, and pseudonyms that ``henaw withdraw`` keeps here.

Both count at every reading of a source, before anything else is counted. The lists stay where the user has them. What
``henaw withdraw`` was told is kept in the state folder (mode 0600), as pseudonyms, because the source still has the
person.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.files import digest_values, is_folder, private_folder, require_file, write_atomically
from henaw.data.locks import locked
from henaw.data.participants import are_among, load_or_create_key, pseudonyms
from henaw.errors import BadInput, EnvironmentProblem, IntegrityError

logger = logging.getLogger(__name__)

LEDGER_FILE = "withdrawn.json"

_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LARGEST_LIST = 1 << 26
_LOCK_SECONDS = 60.0
_PSEUDONYM = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class Withdrawals:
    """Whose rows are never used: by id, as the source writes it, and by pseudonym."""

    ids: frozenset[str]
    pseudonyms: frozenset[str]
    state: Path

    @property
    def digest(self) -> str:
        """What a cohort follows from, in 64 hexadecimal digits; the order and files of the lists do not count.

        It is of pseudonyms, because it leaves this machine: who withdrew could be found by trying all ids.
        """
        people = set(self.pseudonyms)
        if self.ids:
            people |= set(pseudonyms(pd.Series(sorted(self.ids), dtype="str"), load_or_create_key(self.state)))
        return digest_values(sorted(people))

    def rows(self, ids: pd.Series[str]) -> NDArray[np.bool_]:
        """Which of ``ids``, a source's, belong to a person who has withdrawn, (n,); how many is logged, none too.

        Raises:
            BadInput: ids that break the rule.
            EnvironmentProblem: the pseudonym key cannot be read.
        """
        gone = are_among(ids, self.ids)
        if self.pseudonyms:
            gone = gone | are_among(pseudonyms(ids, load_or_create_key(self.state)), self.pseudonyms)
        if self.ids or self.pseudonyms:
            logger.info("withdrawn: %d rows of the source are left out", gone.sum())
        return gone


def withdrawals(lists: Sequence[str], state: Path) -> Withdrawals:
    """What the ``lists`` (files, or folders of them) say together, and what is kept in folder ``state``.

    Raises:
        BadInput: no such list, or not one.
        IntegrityError: what is kept is damaged.
    """
    ids = frozenset(one for path in lists for one in read_ids_to_withdraw(Path(path)))
    return Withdrawals(ids, withdrawn_pseudonyms(state), state)


def read_ids_to_withdraw(path: Path) -> frozenset[str]:
    """The ids in ``path``, one a line without a header (``w12345_20260101.csv``); of a folder, those of all its files.

    An empty file names nobody: UK Biobank sends one where nobody has withdrawn yet.

    Raises:
        BadInput: no such file, an empty folder, or something else than ids in it.
    """
    return frozenset(one for file in _list_files(path) for one in _read_list(file))


def withdrawn_pseudonyms(state: Path) -> frozenset[str]:
    """Pseudonyms of those whom ``henaw withdraw`` was told of.

    Raises:
        IntegrityError: the file is damaged: better no run than one with them.
    """
    path = state / LEDGER_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))["withdrawn"]
    except FileNotFoundError:
        return frozenset()
    except OSError as error:
        raise EnvironmentProblem(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        told = None
    if not isinstance(told, list) or not all(isinstance(one, str) and _PSEUDONYM.fullmatch(one) for one in told):
        raise IntegrityError(f"{path}: damaged; remove it and run henaw withdraw again with every list")
    return frozenset(told)


def remember_withdrawn(state: Path, people: Iterable[str]) -> frozenset[str]:
    """Add ``people`` (pseudonyms) to those whose rows are never used again; returns all of them.

    Raises:
        EnvironmentProblem: the disk does not allow it, or another ``henaw withdraw`` does not end.
        IntegrityError: what is kept is damaged.
    """
    path = private_folder(state) / LEDGER_FILE
    with locked(path.with_suffix(".lock"), _LOCK_SECONDS) as lock:
        if not lock.alone:
            raise EnvironmentProblem(f"{path}: another process is changing it, or its disk knows no locks; try again")
        everyone = withdrawn_pseudonyms(state) | frozenset(people)
        content = json.dumps({"withdrawn": sorted(everyone)}, indent=1)
        write_atomically(path, lambda temporary: temporary.write_text(content + "\n"))
    return everyone


def _list_files(path: Path) -> list[Path]:
    if not is_folder(path):
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if not file.name.startswith("."))
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    if not files:
        raise BadInput(f"{path}: an empty folder; expected lists of withdrawn participants, as w12345_20260101.csv")
    return files


def _read_list(path: Path) -> Iterator[str]:
    expected = "expected a list of withdrawn participants: one id a line, no header"
    require_file(path, expected)
    try:
        if path.stat().st_size > _LARGEST_LIST:
            raise BadInput(f"{path}: is larger than {_LARGEST_LIST >> 20} MiB; {expected}")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadInput(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadInput(f"{path}: is not text in UTF-8; {expected}") from None
    cells = [line.strip() for line in lines]
    found = {number: cell.removeprefix('"').removesuffix('"') for number, cell in enumerate(cells, 1) if cell}
    wrong = [number for number, cell in found.items() if not _ID.fullmatch(cell)]
    if wrong:
        raise BadInput(
            f"{path}: {len(wrong)} of {len(found)} lines hold no id, the first is line {wrong[0]}; {expected}"
        )
    yield from found.values()
