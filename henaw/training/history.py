"""The history of a run: a row an epoch, all of them in a JSON-lines file, the last ones in memory."""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from henaw.data.files import disk_errors, flush_to_disk, write_atomically

Row = dict[str, float]
PlainRow = dict[str, float | None]

IN_MEMORY = 1000


class History:
    """Rows of the epochs that are over."""

    def __init__(self, path: Path | None) -> None:
        """Keep all rows in the file ``path`` (None: only the last ones, in memory)."""
        self._path = path
        self.recent: deque[Row] = deque(maxlen=IN_MEMORY)

    def append(self, row: Row) -> None:
        """Add the row of an epoch.

        Raises:
            EnvironmentProblem: it cannot be written.
        """
        self.recent.append(row)
        if self._path is not None:
            with disk_errors(self._path), open(self._path, "a", encoding="utf-8", opener=_private) as file:
                file.write(_line(row))

    def keep_first(self, epochs: int) -> int:
        """Drop the rows of epoch ``epochs`` and later ones, to be done again; returns the first without a row."""
        self.recent.clear()
        if self._path is None or not self._path.exists():
            return 0
        path, told = self._path, 0

        def rewrite(temporary: Path) -> None:
            nonlocal told
            with temporary.open("w", encoding="utf-8") as file:
                for row in read_history(path):
                    if told <= row["epoch"] < epochs:
                        file.write(_line(row))
                        self.recent.append(row)
                        told = int(row["epoch"]) + 1

        write_atomically(path, rewrite)
        return told

    def flush(self) -> None:
        """See to it that the rows are on the disk."""
        if self._path is not None and self._path.exists():
            with disk_errors(self._path):
                flush_to_disk(self._path)


def read_history(path: Path) -> Iterator[Row]:
    """The rows of a history file, up to one that a crash cut short."""
    with disk_errors(path, "read"), path.open("rb") as file:
        for line in file:
            try:
                row = json.loads(line)
            except ValueError:
                return
            yield from_plain(row)


def plain(row: Row) -> PlainRow:
    """``row`` for JSON, which knows no NaN: an average over no steps is null."""
    return {name: value if math.isfinite(value) else None for name, value in row.items()}


def from_plain(row: PlainRow) -> Row:
    """The row of which ``row`` is the plain form."""
    return {name: math.nan if value is None else value for name, value in row.items()}


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _line(row: Row) -> str:
    return json.dumps(plain(row), allow_nan=False) + "\n"
