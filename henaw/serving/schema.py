"""The four JSON forms of MLflow's scoring protocol, checked against the model's signature, and what is wrong with them.

Stricter than MLflow where it would guess: text and true/false are no numbers, every row has every column, and nothing
is ignored. A refusal names rows, columns of the signature and rules, never what the caller wrote.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.model.answers import DEFAULT_COVERAGE, input_columns
from henaw.model.clock import SEXES
from henaw.model.distribution import central_levels
from henaw.serving.refusals import MOST_DETAILS, Detail, Refusal
from henaw.serving.strict_json import malformed, require_shallow

Array = NDArray[np.float64]

FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs")
_NUMBERS: set[type] = {float, int, type(None)}
_TEXTS: set[type] = {str, type(None)}
_SEX_CODES = {sex: float(code) for code, sex in enumerate(SEXES)}


@dataclass(frozen=True, eq=False)
class Rows:
    """What a request asks about: arrays as ``answer_arrays`` takes them, and the coverage of the interval."""

    biomarkers: Array
    sex: Array
    age: Array
    coverage: float

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.age)


def read_rows(panel: Panel, body: dict[str, Any], most_rows: int) -> Rows:
    """The rows that ``body`` holds.

    Raises:
        Refusal: ``SCHEMA_MISMATCH``, ``TOO_LARGE`` (more than ``most_rows``) or ``MALFORMED_REQUEST`` (a number beyond
            a double, nesting too deep).
    """
    try:
        return _read(panel, body, most_rows)
    except Refusal:
        require_shallow(body)  # what is known is flat: only a body that is refused anyway can be too deep
        raise


def _read(panel: Panel, body: dict[str, Any], most_rows: int) -> Rows:
    forms = [name for name in FORMS if name in body]
    if len(forms) != 1:
        raise _mismatch(f"expected exactly one of {', '.join(FORMS)}", [Detail(None, None, "one_form")])
    if len(body) > 1 + ("params" in body):
        raise _mismatch(f"expected {forms[0]} and params, and no other field", [Detail(None, None, "unknown_field")])
    coverage = _coverage(body.get("params"))
    expected = input_columns(panel)
    value = body[forms[0]]
    if forms[0] == "dataframe_split":
        columns = _of_split(value, expected, most_rows)
    elif isinstance(value, list):
        columns = _of_records(value, expected, most_rows)
    elif isinstance(value, dict) and forms[0] in ("instances", "inputs"):
        columns = _of_columns(value, expected, most_rows)
    else:
        raise _mismatch(f"{forms[0]}: expected a list of objects, one a row", [Detail(None, None, "form")])
    return _converted(panel, columns, coverage)


def _coverage(params: Any) -> float:
    if params is None:
        return DEFAULT_COVERAGE
    if not isinstance(params, dict) or params.keys() - {"coverage"}:
        raise _mismatch('params: expected {"coverage": number} or nothing', [Detail(None, None, "unknown_parameter")])
    coverage = params.get("coverage", DEFAULT_COVERAGE)
    if type(coverage) not in (float, int):
        raise _mismatch("params.coverage: expected a number", [Detail(None, None, "parameter_type")])
    if coverage in (float("inf"), float("-inf")):
        raise malformed("a number is beyond the range of a double")
    try:
        central_levels(float(coverage))
    except BadInput:
        message = "params.coverage: expected a number strictly between 0 and 1"
        raise _mismatch(message, [Detail(None, None, "parameter_range")]) from None
    return float(coverage)


def _of_split(value: Any, expected: tuple[str, ...], most_rows: int) -> dict[str, Sequence[Any]]:
    form = 'dataframe_split: expected {"columns": [names], "data": [[cells], …]}'
    if not isinstance(value, dict) or not {"columns", "data"} <= value.keys() <= {"columns", "data", "index"}:
        raise _mismatch(form, [Detail(None, None, "form")])
    names, data, index = value["columns"], value["data"], value.get("index")
    if not isinstance(names, list) or not set(map(type, names)) <= {str} or not isinstance(data, list):
        raise _mismatch(form, [Detail(None, None, "form")])
    require_rows(len(data), most_rows)
    require_columns(names, expected)
    if index is not None and (
        not isinstance(index, list) or len(index) != len(data) or set(map(type, index)) & {list, dict}
    ):
        raise _mismatch("dataframe_split.index: expected one label for each row", [Detail(None, None, "index")])
    width = len(names)
    if set(map(type, data)) - {list} or set(map(len, data)) - {width}:
        wrong = [Detail(row, None, "row_length") for row, cells in enumerate(data) if _width(cells) != width]
        raise _mismatch("dataframe_split.data: expected a list of cells for each row, as many as columns", wrong)
    return dict(zip(names, zip(*data, strict=True) if data else [()] * width, strict=True))


def _width(cells: Any) -> int:
    return len(cells) if isinstance(cells, list) else -1


def _of_records(value: list[Any], expected: tuple[str, ...], most_rows: int) -> dict[str, Sequence[Any]]:
    require_rows(len(value), most_rows)
    if not value or set(map(type, value)) != {dict}:
        raise _mismatch("expected a list of at least one row, each an object", [Detail(None, None, "form")])
    wanted = set(expected)
    if any(record.keys() != wanted for record in value):
        wrong = [
            detail
            for row, record in enumerate(value)
            if record.keys() != wanted
            for detail in _column_faults(list(record), expected, row)
        ]
        raise _mismatch(_COLUMNS_MESSAGE, wrong)
    return {name: [record[name] for record in value] for name in expected}


def _of_columns(value: dict[str, Any], expected: tuple[str, ...], most_rows: int) -> dict[str, Sequence[Any]]:
    """Columns of equal length; a single value, as MLflow has it, stands for all rows."""
    require_columns(list(value), expected)
    lengths = {len(cells) for cells in value.values() if isinstance(cells, list)}
    if len(lengths) > 1:
        raise _mismatch("expected columns of equal length", [Detail(None, None, "column_length")])
    rows = lengths.pop() if lengths else 1
    require_rows(rows, most_rows)
    return {name: cells if isinstance(cells, list) else [cells] * rows for name, cells in value.items()}


def require_rows(rows: int, most: int) -> None:
    """Refuse more than ``most`` rows.

    Raises:
        Refusal: ``TOO_LARGE``.
    """
    if rows > most:
        raise Refusal("TOO_LARGE", f"expected at most {most} rows a request")


def require_columns(names: list[str], expected: tuple[str, ...]) -> None:
    """Refuse ``names`` that are not the ``expected`` ones, each once, in whatever order.

    Raises:
        Refusal: ``SCHEMA_MISMATCH``.
    """
    if len(names) != len(expected) or set(names) != set(expected):
        raise _mismatch(_COLUMNS_MESSAGE, _column_faults(names, expected, None))


_COLUMNS_MESSAGE = "expected each column of the signature once, and no other"


def _column_faults(names: list[str], expected: tuple[str, ...], row: int | None) -> list[Detail]:
    """A column that is not the signature's has no name here: what a caller calls it may be anything."""
    faults = [Detail(row, name, "missing_column") for name in expected if name not in names]
    faults += [Detail(row, name, "repeated_column") for name in expected if names.count(name) > 1]
    faults += [Detail(row, None, "unknown_column") for name in names if name not in expected]
    return faults[: MOST_DETAILS + 1]


def _converted(panel: Panel, columns: dict[str, Sequence[Any]], coverage: float) -> Rows:
    numbers = (*panel.names, "age_years")
    cells, sexes = [columns[name] for name in numbers], columns["sex"]
    if not (_NUMBERS.issuperset(map(type, chain.from_iterable(cells))) and _TEXTS.issuperset(map(type, sexes))):
        wrong = [
            detail
            for name, column in zip(numbers, cells, strict=True)
            for detail in _mistyped(column, name, _NUMBERS, "not_a_number")
        ]
        wrong += _mistyped(sexes, "sex", _TEXTS, "not_text")
        raise _mismatch("expected numbers or null, and text or null for sex", sorted(wrong, key=_by_row))
    values: Array = np.array(cells, dtype=np.float64)
    if np.count_nonzero(np.isinf(values)):
        raise malformed("a number is beyond the range of a double")
    sex = np.array([_SEX_CODES.get(cell, np.nan) for cell in sexes], dtype=np.float64)
    return Rows(np.ascontiguousarray(values[:-1].T), sex, values[-1], coverage)


def _mistyped(cells: Sequence[Any], name: str, types: set[type], rule: str) -> list[Detail]:
    rows = (row for row, cell in enumerate(cells) if type(cell) not in types)
    return [Detail(row, name, rule) for row in islice(rows, MOST_DETAILS)]


def _by_row(detail: Detail) -> int:
    return detail.row or 0


def _mismatch(message: str, details: list[Detail]) -> Refusal:
    return Refusal("SCHEMA_MISMATCH", message, details)
