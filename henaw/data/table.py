"""Participant tables on disk: CSV, TSV (plain or gzip) and Parquet, read strictly and in batches.

Only the columns asked for are kept in memory. Numbers are parsed strictly, rounded correctly; what is not a number is
refused by column and row, because a value misread is worse than one not read. Missing is an empty cell or one of
``MISSING``. No message shows a cell.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from henaw.data.delimited import delimited_batches, delimited_columns, header_line
from henaw.data.files import require_file
from henaw.errors import BadInput

MISSING = ("", ".", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""What a cell without a value may say."""

SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".tab", ".tab.gz", ".txt", ".txt.gz", ".parquet")
"""Endings of a table's name: commas in .csv, tabs in .tsv, .tab and .txt."""

_BATCH_ROWS = 65_536
_MANY = 6
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


def table_header(path: Path) -> str:
    """The names of the columns of the table at ``path`` as they stand there, unparsed: what kind of table is it?

    Raises:
        BadInput: no such file, not a regular file, empty, or not what its name says.
    """
    suffix = _checked_suffix(path)
    if suffix == ".parquet":
        return "\t".join(table_columns(path))
    return header_line(path, gzipped=suffix.endswith(".gz"))


def table_columns(path: Path) -> list[str]:
    """Names of the columns of the table at ``path``; only its head is read.

    Raises:
        BadInput: no such file, not a regular file, empty, not what its name says, or a header that cannot be right.
    """
    suffix = _checked_suffix(path)
    if suffix == ".parquet":
        with _opened_parquet(path) as file:
            names: list[str] = file.schema_arrow.names
    else:
        names = delimited_columns(path, _delimiter(suffix), gzipped=suffix.endswith(".gz"))
    repeated = [name for name, times in Counter(names).items() if name and times > 1]
    if repeated:  # by its place: a table without a header has values there
        first, second, *_ = (place for place, name in enumerate(names, 1) if name == repeated[0])
        more = f", and {len(repeated) - 1} more names occur twice" if len(repeated) > 1 else ""
        raise BadInput(f"{path}: columns {first} and {second} have the same name{more}; expected each name once")
    return names


def read_table(
    path: Path, *, numbers: Sequence[str], texts: Sequence[str] = (), optional: Iterable[str] = ()
) -> pd.DataFrame:
    """The whole table as one frame with a RangeIndex: the batches of ``scan_table`` put together.

    Raises:
        BadInput: as ``scan_table``, or the table has no rows.
    """
    batches = list(scan_table(path, numbers=numbers, texts=texts, optional=optional))
    if not batches:
        raise BadInput(f"{path}: no rows after the header; expected one a participant and visit")
    return pd.concat(batches, ignore_index=True)


def scan_table(
    path: Path, *, numbers: Sequence[str], texts: Sequence[str] = (), optional: Iterable[str] = ()
) -> Iterator[pd.DataFrame]:
    """Batches of rows in the order of the file, in memory that does not grow with it.

    Args:
        path: a file whose name ends in one of ``SUFFIXES``.
        numbers: columns to read as float64, NaN = missing.
        texts: columns to read as ``str``, NaN = missing; numbers in Parquet become their digits.
        optional: those of the above that the file may lack; the frames then lack them too.

    Raises:
        BadInput: one line for what is wrong with the file or its cells, when the scan gets there: batches before
            the first fault have been handed on.
    """
    present = table_columns(path)
    wanted = [name for name in dict.fromkeys([*numbers, *texts]) if name in present or name not in set(optional)]
    require_columns(path, wanted, present)
    cells = _Cells(path)
    first_row = 1
    for batch in _batches(path, wanted):
        converted = {
            name: cells.to_number(name, batch.column(name), first_row)
            if name in numbers
            else cells.to_text(name, batch.column(name))
            for name in wanted
        }
        first_row += batch.num_rows
        if batch.num_rows and not cells.faults:
            yield pa.table(converted).to_pandas()
    cells.refuse_faults()


def require_columns(
    path: Path,
    wanted: Iterable[str],
    present: Sequence[str],
    why: str = "expected the participant table's names, with their units",
) -> None:
    """Check that every column ``wanted`` is ``present`` in the table at ``path``.

    Raises:
        BadInput: the missing ones, the nearest name for each, and ``why`` they are needed.
    """
    missing = [name for name in wanted if name not in present]
    if missing:
        shown = ", ".join(f"{name}{_nearest(name, present)}" for name in missing)
        raise BadInput(f"{path}: no column {shown}; {why}")


def _nearest(name: str, present: Sequence[str]) -> str:
    found = difflib.get_close_matches(name, present, n=_MANY, cutoff=0.6)
    alike = difflib.get_close_matches(name, found, n=_MANY, cutoff=0.75)
    # many names of a kind are ids perhaps, in a table that lies on its side
    return f" (nearest: {found[0]})" if found and len(alike) < _MANY else ""


def _checked_suffix(path: Path) -> str:
    expected = f"expected a file whose name ends in {', '.join(SUFFIXES)}"
    require_file(path, expected)
    if path.stat().st_size == 0:
        raise BadInput(f"{path}: is empty; expected a header and rows")
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return suffix
    raise BadInput(f"{path}: unknown kind of file; {expected}")


def _delimiter(suffix: str) -> str:
    return "," if suffix.startswith(".csv") else "\t"


def _batches(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    suffix = _checked_suffix(path)
    if suffix == ".parquet":
        with _opened_parquet(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=columns):
                batch.validate(full=True)  # text in UTF-8
                yield batch
    else:
        yield from delimited_batches(path, _delimiter(suffix), columns, gzipped=suffix.endswith(".gz"))


@contextmanager
def _opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            yield file
    except (pa.ArrowException, OSError):
        raise BadInput(f"{path}: not a Parquet file, or a damaged one") from None


@dataclass
class _Cells:
    """Converts columns; what is not a number is counted until the whole file is read."""

    path: Path
    faults: dict[str, int] = field(default_factory=dict)  # rows by column
    first: tuple[str, int, str] | None = None  # column, row, what it looks like

    def to_number(self, name: str, column: pa.Array, first_row: int) -> pa.Array:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        kind = column.type
        if pa.types.is_string(kind) or pa.types.is_large_string(kind):
            column = _without_missing(pc.utf8_trim_whitespace(column))
            try:
                values = pc.cast(column, pa.float64())
            except pa.ArrowInvalid:
                values = None
        elif pa.types.is_boolean(kind) or pa.types.is_null(kind):
            values = pc.cast(pc.cast(column, pa.int8()), pa.float64())
        elif pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
            values = pc.cast(column, pa.float64(), safe=False)
        else:
            raise BadInput(f"{self.path}: column {name} holds {kind}; expected numbers")
        if values is None or pc.any(pc.is_inf(values)).as_py():
            self._note(name, column.to_pylist(), first_row)
        return values

    def to_text(self, name: str, column: pa.Array) -> pa.Array:
        if pa.types.is_dictionary(column.type):
            column = column.dictionary_decode()
        if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
            raise BadInput(f"{self.path}: column {name} holds {column.type}; expected text")
        return _without_missing(pc.cast(column, pa.string()))

    def refuse_faults(self) -> None:
        if self.first is None:
            return
        column, row, looks = self.first
        counts = ", ".join(f"{name} ({rows} rows)" for name, rows in self.faults.items())
        raise BadInput(
            f"{self.path}: not a number in column {counts}; the first in row {row} after the header, column {column}: "
            f"{looks}"
        )

    def _note(self, name: str, cells: list[Any], first_row: int) -> None:
        wrong = [row for row, cell in enumerate(cells, first_row) if not _is_number_or_missing(cell)]
        self.faults[name] = self.faults.get(name, 0) + len(wrong)
        if self.first is None:
            self.first = (name, wrong[0], _looks(str(cells[wrong[0] - first_row])))


def _without_missing(text: pa.Array) -> pa.Array:
    return pc.if_else(pc.is_in(text, pa.array(MISSING, text.type)), pa.scalar(None, text.type), text)


def _is_number_or_missing(cell: Any) -> bool:
    if cell is None or (isinstance(cell, float) and math.isnan(cell)):
        return True
    return bool(_NUMBER.fullmatch(str(cell))) and math.isfinite(float(cell))


def _looks(cell: str) -> str:
    """What is wrong with ``cell``, without its content."""
    if re.fullmatch(r"[+-]?[0-9.]*,[0-9]+", cell):
        return "a decimal comma; expected a point"
    if re.match(r"[<>≤≥]", cell):
        return "a limit like '<' or '>'; expected a number or an empty cell"
    if _NUMBER.fullmatch(cell) or re.fullmatch(r"[+-]?inf(inity)?", cell, re.IGNORECASE):
        return "not finite; expected a number or an empty cell"
    return "text; expected a number or an empty cell"
