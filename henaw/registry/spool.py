"""What a run has still to write to the tracking store: a file of JSON lines on this machine, only ever appended to.

A line is an entry, numbered from 1; or ``{"done": n}``: all entries up to n are written; or ``{"named": {…}}``: the id
under which the store knows a run that was opened while it was away. An entry is on its way to the disk when ``append``
returns (a killed process loses none), and on it after ``sync`` (nor does a machine without power). Files to be uploaded
lie beside it, each group in a folder of its own.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import filelock

from henaw.data.files import flush_to_disk, private_folder
from henaw.errors import EnvironmentProblem, HenawError

logger = logging.getLogger(__name__)

Entry = dict[str, Any]

IN_MEMORY = 100_000  # entries kept where the disk takes none
_EMPTIED_BEYOND = 1 << 20  # bytes


class Spool:
    """Entries in their order; one process writes, any of its threads.

    Where the disk does not take an entry, it and those after it wait in memory: a full disk is a warning here.
    """

    def __init__(self, folder: Path, header: dict[str, str] | None = None) -> None:
        """Go on with what ``folder`` holds, or begin with ``header``; ``folder`` is this process's until it is closed.

        Raises:
            EnvironmentProblem: another process has it.
        """
        self.folder, self.path = folder, folder / "journal.jsonl"
        self.header: dict[str, str] = header or {}
        self.names: dict[str, str] = {}
        self._mutex = threading.RLock()
        self._file: int | None = None
        self._lock: filelock.BaseFileLock | None = None
        self._number = self._done = 0
        self._read_to = self._size = 0
        self._waiting: deque[Entry] = deque()
        self._dropped = 0
        self._synced: set[str] = set()
        try:
            self._open()
        except (OSError, HenawError) as error:
            if isinstance(error.__cause__, filelock.Timeout):
                self.close()
                raise
            logger.warning("%s: %s; what cannot be written to the tracking store waits in memory", folder, error)
        self.recovered = self._number  # the last entry of processes before this one

    def _open(self) -> None:
        private_folder(self.folder)
        self._lock = filelock.FileLock(self.folder / "lock", mode=0o600, fallback_to_soft=False)
        try:
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            self._lock = None
            raise EnvironmentProblem(f"{self.folder}: another process is writing this run") from error
        self._file = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._size = os.fstat(self._file).st_size
        for line in os.pread(self._file, self._size, 0).split(b"\n"):
            entry = _parsed(line)
            self.header = entry.get("header", self.header)
            self._done = max(self._done, entry.get("done", 0))
            self.names |= entry.get("named", {})
            self._number = max(self._number, entry.get("n", 0))
        if self._size and os.pread(self._file, 1, self._size - 1) != b"\n":  # cut short by a crash
            self._write(b"\n")
        if not self._size:
            self._write_line({"header": self.header})

    @property
    def pending(self) -> int:
        """Entries that are not written to the store yet."""
        return self._number - self._done

    def append(self, entry: Entry) -> int:
        """Add an entry; returns its number."""
        with self._mutex:
            if len(self._waiting) >= IN_MEMORY:
                self._drop()
                return self._number
            self._number += 1
            entry = {"n": self._number, **entry}
            if self._waiting or not self._write_line(entry):
                self._waiting.append(entry)
            return self._number

    def _drop(self) -> None:
        self._dropped += 1
        if self._dropped == 1:
            logger.error("no disk space in %s and no tracking store: what is logged from now on is lost", self.folder)

    def stage(self, write: Callable[[Path], object]) -> str | None:
        """Have ``write`` put files into a new folder, for an entry ``{"files": …}`` to upload; None where no disk can.

        They are this spool's from then on.
        """
        for make in (self._own_folder, _elsewhere):
            try:
                staged = make()
                write(staged)
            except (OSError, HenawError) as error:
                logger.warning("files to be logged: %s", error)
            else:
                return str(staged.relative_to(self.folder) if staged.is_relative_to(self.folder) else staged)
        logger.error("no disk takes the files to be logged: they are lost")
        return None

    def _own_folder(self) -> Path:
        return private_folder(self.folder / "files" / secrets.token_hex(8))

    def head(self, most: int) -> list[Entry]:
        """The first entries that are not written yet, up to ``most``."""
        with self._mutex:
            found = self._on_disk(most)
            return found or [self._waiting[place] for place in range(min(most, len(self._waiting)))]

    def _on_disk(self, most: int) -> list[Entry]:
        found: list[Entry] = []
        place, rest = self._read_to, b""
        while self._file is not None and place < self._size and len(found) < most:
            block = os.pread(self._file, 1 << 16, place)
            place += len(block)
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                entry = _parsed(line)
                if entry.get("n", 0) > self._done:
                    found.append(entry)
                elif not found:
                    self._read_to += len(line) + 1
        return found[:most]

    def done(self, entries: Sequence[Entry]) -> None:
        """``entries``, the first of those pending, are written to the store."""
        with self._mutex:
            self._done = entries[-1]["n"]
            while self._waiting and self._waiting[0]["n"] <= self._done:
                self._waiting.popleft()
            self._write_line({"done": self._done})
            if self._size > _EMPTIED_BEYOND and not self.pending:
                self._empty()
        for entry in entries:
            if "files" in entry:
                shutil.rmtree(self.folder / entry["files"], ignore_errors=True)

    def _empty(self) -> None:
        """Forget what is done with; the rest of a long run needs the space."""
        assert self._file is not None, "it has a size"
        os.ftruncate(self._file, 0)
        self._size = self._read_to = 0
        for line in ({"header": self.header}, {"named": self.names}, {"n": self._number}, {"done": self._done}):
            self._write_line(line)

    def name(self, local: str, run: str) -> None:
        """The run that was opened as ``local`` is ``run`` in the store."""
        with self._mutex:
            self.names[local] = run
            self._write_line({"named": {local: run}})

    def keep_refused(self, entry: Entry, reason: str) -> None:
        """Set aside an entry that the store will never take."""
        line = json.dumps(entry | {"refused": reason}) + "\n"
        try:
            with open(self.folder / "refused.jsonl", "a", encoding="utf-8", opener=_private) as file:
                file.write(line)
        except OSError as error:
            logger.error("%s: %s", self.folder, error.strerror)

    def sync(self) -> None:
        """See to it that what waits is on the disk."""
        with self._mutex:
            while self._waiting and self._write_line(self._waiting[0]):
                self._waiting.popleft()
            try:
                if self._file is not None:
                    os.fsync(self._file)
                for path in (self.folder / "files").rglob("*"):
                    if str(path) not in self._synced:
                        flush_to_disk(path)
                        self._synced.add(str(path))
            except OSError as error:
                logger.warning("%s: %s", self.folder, error.strerror)

    def close(self) -> None:
        """Leave the folder to others; it is gone where nothing is left to be written."""
        with self._mutex:
            if self._file is not None:
                os.close(self._file)
            if self._lock is not None:
                if not self.pending and not (self.folder / "refused.jsonl").exists():
                    shutil.rmtree(self.folder, ignore_errors=True)
                self._lock.release()
            self._file = self._lock = None
            if self._waiting:
                logger.error("%s: what was logged last (%d entries) is lost", self.folder, len(self._waiting))

    def _write_line(self, line: dict[str, Any]) -> bool:
        return self._write(json.dumps(line).encode() + b"\n")

    def _write(self, line: bytes) -> bool:
        """Append to the file, whole or not at all; whether it did."""
        if self._file is None:
            return False
        try:
            if os.write(self._file, line) == len(line):
                self._size += len(line)
                return True
            reason = "no space left"
        except OSError as error:
            reason = error.strerror or "not written"
        os.ftruncate(self._file, self._size)
        if not self._waiting:
            logger.warning("%s: %s; what cannot be written to the tracking store waits in memory", self.path, reason)
        return False


def _parsed(line: bytes) -> dict[str, Any]:
    """The line's content; nothing where a crash cut it short."""
    try:
        content = json.loads(line)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _elsewhere() -> Path:
    return Path(tempfile.mkdtemp(prefix="henaw-"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
