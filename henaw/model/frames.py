"""Between pandas and the arrays that are answered: most of what a row costs where a frame is asked for.

A frame is taken apart and put together as a whole, as pandas takes some ten microseconds for each column.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import chain
from numbers import Number
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.internals import create_dataframe_from_blocks  # type: ignore[import-not-found]  # no stubs yet

from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.model.clock import SEXES

if TYPE_CHECKING:
    from henaw.model.answers import Answers

Array = NDArray[np.float64]

_FEW_ROWS = 32  # past that columns are the faster way
_TEXT = pd.StringDtype("python", na_value=np.nan)  # pandas' own ``str``, with texts as they are: Arrow's take longer
_SEX_CODES = {sex: float(code) for code, sex in enumerate(SEXES)}


def frame_of(answers: Answers, first: Sequence[str], index: pd.Index) -> pd.DataFrame:
    """One row for each answer: the columns ``first``, then those that ``answers`` has besides."""
    names = (*first, *(name for name in answers.numbers if name not in first))
    numbers: NDArray[Any] = np.array(list(answers.numbers.values()))
    if answers.abstains.any():
        numbers = numbers.astype(object)
        numbers[:, answers.abstains] = None
    texts = [pd.array(np.array(texts, dtype=object), dtype=_TEXT) for texts in (answers.status, answers.flags)]
    columns, of_numbers, of_texts = _places(names, tuple(answers.numbers))
    blocks: list[tuple[Any, NDArray[np.intp]]] = [(numbers, of_numbers), *zip(texts, of_texts, strict=True)]
    frame: pd.DataFrame = create_dataframe_from_blocks(blocks, index=index, columns=columns)
    return frame


@lru_cache
def _places(
    names: tuple[str, ...], numbers: tuple[str, ...]
) -> tuple[pd.Index, NDArray[np.intp], list[NDArray[np.intp]]]:
    return (
        pd.Index(names),
        np.array([names.index(name) for name in numbers], dtype=np.intp),
        [np.array([names.index(name)], dtype=np.intp) for name in ("status", "flags")],
    )


def arrays_of(panel: Panel, rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Biomarkers (n, m), sex code (n,) and age (n,) as float64, NaN = missing or unusable.

    Raises:
        BadInput: a column is missing, repeated or not numeric.
    """
    expected = (*panel.names, "sex", "age_years")
    columns = rows.columns.tolist()
    if missing := [name for name in expected if name not in columns]:
        raise BadInput(f"columns missing: {', '.join(missing)}; expected {', '.join(expected)}")
    if len(columns) > len(expected) and (repeated := [name for name in expected if columns.count(name) > 1]):
        raise BadInput(f"columns more than once: {', '.join(repeated)}; expected each once")
    numbers = (*panel.names, "age_years")
    if len(rows) <= _FEW_ROWS:
        cells = dict(zip(columns, rows.to_numpy(dtype=object).T.tolist(), strict=True))
        wanted, sexes = [cells[name] for name in numbers], cells["sex"]
        values = np.array(wanted, dtype=np.float64) if {*map(type, chain(*wanted))} <= {float} else None
    else:
        values, sexes = None, rows["sex"].tolist()
    if values is None:
        values = np.array([_numbers(rows[name], name) for name in numbers])
    sex = np.array([_SEX_CODES.get(value, np.nan) if isinstance(value, str) else np.nan for value in sexes])
    return np.ascontiguousarray(values[:-1].T), sex.astype(np.float64), values[-1]


def _numbers(column: pd.Series[Any], name: str) -> Array:
    """``column`` as float64; what pandas would turn into a number (text, true/false, dates) is refused."""
    if column.dtype == np.float64:  # as MLflow hands columns over: not worth half a millisecond of questions
        return column.to_numpy()
    if isinstance(column.dtype, pd.CategoricalDtype | pd.SparseDtype):
        column = column.astype(object)  # what it holds decides, as in a few rows
    from pandas.api import types as kinds

    seen = column.dropna()
    if kinds.is_bool_dtype(column) or any(isinstance(value, bool | np.bool_) for value in _objects(seen)):
        raise BadInput(f"column {name}: expected numbers, found true/false")
    if len(seen) and not kinds.is_any_real_numeric_dtype(column) and not kinds.is_object_dtype(column):
        raise BadInput(f"column {name}: expected numbers, found {column.dtype}")
    if not all(isinstance(value, Number) for value in _objects(seen)):
        raise BadInput(f"column {name}: expected numbers, found text")
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, OverflowError):
        raise BadInput(f"column {name}: expected numbers that fit a double") from None


def _objects(column: pd.Series[Any]) -> list[Any]:
    return column.tolist() if column.dtype == object else []
