"""The files of a UK Biobank export: found and checked before any work, then read column by column and joined by eid.

Ids stay in this module and ``ukbiobank.py``; no message holds one.
"""

from __future__ import annotations

import logging
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
from isal import isal_zlib

from henaw.data.files import is_folder
from henaw.data.table import SUFFIXES, read_table, table_columns, table_header
from henaw.data.ukb_names import Variable, is_id, variable
from henaw.data.withdrawals import Withdrawals
from henaw.errors import BadInput

logger = logging.getLogger(__name__)

Meaning = Callable[["pd.Series[str]", str], "pd.Series[Any]"] | None
"""What text cells of a named place mean; None: they are numbers."""

_SAMPLE_BYTES = 1 << 20


@dataclass(frozen=True)
class Export:
    """A file with a column of ids, and which of its other columns hold which variable."""

    path: Path
    id_column: str
    columns: Mapping[Variable, Sequence[str]]


@dataclass(frozen=True, eq=False)
class Values:
    """What an export holds of its participants; a row each, in the same order."""

    eids: pd.Series[str]
    columns: Mapping[Variable, pd.Series[Any]]

    def of(self, field: int, instance: int) -> list[pd.Series[Any]]:
        """The values of ``field`` at a visit, in the order of its array; none where the export has none."""
        return [self.columns[one] for one in sorted(self.columns) if one[:2] == (field, instance)]


def is_export(path: Path) -> bool:
    """Whether ``path`` is an export, or a folder with tables in it; a file that cannot be read is none."""
    if is_folder(path):
        return any(True for _ in _files(path))
    try:
        export = _export(path)
    except BadInput:
        return False
    return export is not None and bool(export.columns)


def find_exports(path: Path) -> list[Export]:
    """The files of the export at ``path``: one, or all in a folder and its subfolders, by name.

    Tables in the folder without a column of ids are left alone; hidden files and other kinds of files, too.

    Raises:
        BadInput: no such path, no export there, or a file that cannot be read (an empty or damaged one, UTF-16, …).
    """
    exports: list[Export] = []
    for file in _files(path):
        export = _export(file)
        if export is None:
            logger.info("%s: no column of participants' ids (eid): left alone", file)
        else:
            exports.append(export)
    if not any(export.columns for export in exports):
        raise BadInput(
            f"{path}: not an export of UK Biobank; expected a column eid and columns like 30710-0.0, f.30710.0.0, "
            f"n_30710_0_0 or p30710_i0, in a file whose name ends in {', '.join(SUFFIXES)}"
        )
    return exports


def read_variables(exports: Sequence[Export], wanted: Mapping[Variable, Meaning], withdrawn: Withdrawals) -> Values:
    """The ``wanted`` variables that ``exports`` have, for each participant of any file who has not ``withdrawn``.

    A variable that several columns or files hold is theirs together: where one has no value another's counts.

    Raises:
        BadInput: a cell that is no number or not what it should mean, rows without an id or with one that occurs twice
            in a file, or two different values of a variable for a participant.
    """
    found: dict[Variable, list[tuple[str, pd.Series[Any]]]] = defaultdict(list)
    people: pd.Index[str] = pd.Index([], dtype="str")
    for export in exports:
        held = {name: one for one, names in export.columns.items() if one in wanted for name in names}
        if not held:
            continue
        cells = _cells(export, held, wanted)
        people = cells.index if not len(people) else people.union(cells.index, sort=False)
        for name in held:
            found[held[name]].append((f"column {name} of {export.path}", cells[name]))
    people = people[~withdrawn.rows(people.to_series())]
    logger.info("%d participants in %d files", len(people), len(exports))
    columns = {one: _together(one, found.pop(one), people).reset_index(drop=True) for one in sorted(found)}
    return Values(people.to_series().reset_index(drop=True), columns)


def read_ids(path: Path) -> pd.Series[str]:
    """The ids in ``path``: a table with a column eid, or text without a header, an id a line.

    Raises:
        BadInput: no such file, not readable, or neither of the two.
    """
    names = [name for name in _names(table_header(path)) if is_id(name)] if path.name.lower().endswith(SUFFIXES) else []
    if names:
        ids = read_table(path, numbers=[], texts=names[:1])[names[0]].dropna()
    else:
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise BadInput(f"{path}: cannot be read: {getattr(error, 'strerror', 'not UTF-8')}") from None
        ids = pd.Series(lines, dtype="str").str.strip()
        ids = ids[ids != ""]
    wrong = ~ids.str.strip().str.fullmatch(r"[A-Za-z0-9_-]{1,64}").astype(bool)
    if wrong.any() or ids.empty:
        raise BadInput(f"{path}: {wrong.sum()} of {len(ids)} lines hold no id; expected ids alone, or a column eid")
    return ids.str.strip()


def estimated_rows(exports: Sequence[Export]) -> int:
    """About how many participants ``exports`` hold: files with the same columns are taken for parts of one table."""
    parts: dict[frozenset[Variable], int] = defaultdict(int)
    for export in exports:
        parts[frozenset(export.columns)] += _rows(export.path)
    return max(parts.values())


def _files(path: Path) -> Iterator[Path]:
    if not is_folder(path):
        yield path
        return

    def refuse(error: OSError) -> None:
        raise BadInput(f"{error.filename}: cannot be read: {error.strerror}")

    visited: set[str] = set()
    for folder, subfolders, names in os.walk(path, onerror=refuse, followlinks=True):
        if (place := os.path.realpath(folder)) in visited:  # a link that leads back
            subfolders.clear()
            continue
        visited.add(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        for name in sorted(names):
            if name.lower().endswith(SUFFIXES) and not name.startswith("."):
                yield Path(folder) / name


def _export(path: Path) -> Export | None:
    """The export at ``path``, None where nothing in its first line looks like a column of ids."""
    if not any(is_id(name) for name in _names(table_header(path))):
        return None
    columns: dict[Variable, list[str]] = defaultdict(list)
    names = table_columns(path)
    ids = [name for name in names if is_id(name)]
    if len(ids) != 1:
        raise BadInput(f"{path}: {len(ids)} columns of participants' ids ({', '.join(ids)}); expected one")
    for name in names:
        if one := variable(name):
            columns[one].append(name)
    return Export(path, ids[0], columns)


def _names(header: str) -> list[str]:
    return [name.strip(' "') for name in re.split("[,;\t|]", header)]


def _cells(export: Export, held: Mapping[str, Variable], wanted: Mapping[Variable, Meaning]) -> pd.DataFrame:
    numbers = [name for name, one in held.items() if wanted[one] is None]
    texts = [name for name in held if name not in numbers]
    rows = read_table(export.path, numbers=numbers, texts=[export.id_column, *texts])
    ids = rows.pop(export.id_column).str.strip()
    if nameless := int((ids.isna() | (ids == "")).sum()):
        raise BadInput(f"{export.path}: {nameless} of {len(ids)} rows have no id in column {export.id_column}")
    if repeated := int(ids.duplicated().sum()):
        raise BadInput(f"{export.path}: {repeated} of {len(ids)} rows repeat an id; expected each participant once")
    for name in texts:
        meaning = wanted[held[name]]
        assert meaning is not None
        rows[name] = meaning(rows[name].str.strip(), f"{export.path}: column {name}")
    return rows.set_index(pd.Index(ids))


def _together(one: Variable, columns: Sequence[tuple[str, pd.Series[Any]]], people: pd.Index[str]) -> pd.Series[Any]:
    place, values = columns[0]
    values = values.reindex(people)
    for other_place, other in columns[1:]:
        others = other.reindex(people)
        both = values.notna() & others.notna()
        if differing := int((both & ~_equal(values, others)).sum()):
            raise BadInput(
                f"field {one}: {differing} participants have one value in {place} and another in {other_place}; "
                "expected equal ones, or one of the columns gone"
            )
        values = values.fillna(others)
    return values


def _equal(values: pd.Series[Any], others: pd.Series[Any]) -> pd.Series[bool]:
    if values.dtype == "float64":  # a file may hold single precision
        return (values - others).abs() <= 1e-6 * values.abs()
    return values == others


def _rows(path: Path) -> int:
    if path.name.lower().endswith(".parquet"):
        return int(pq.read_metadata(path).num_rows)
    with path.open("rb") as file:
        sample = file.read(_SAMPLE_BYTES)
    read = len(sample)
    if path.name.lower().endswith(".gz"):
        sample = isal_zlib.decompressobj(31).decompress(sample)
    per_row = (len(sample) - sample.find(b"\n")) / max(sample.count(b"\n") - 1, 1)
    return int(path.stat().st_size / read * len(sample) / per_row)
