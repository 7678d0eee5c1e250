"""Frames are taken apart and put together alike, whatever their size and kinds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from henaw.errors import BadInput
from henaw.model.answers import answer, example_rows, input_columns
from henaw.model.frames import _FEW_ROWS, arrays_of
from tests.scenarios import BLOOD9, blood_clock, blood_rows

CLOCK = blood_clock()
MANY = 2 * _FEW_ROWS

NUMBERS = {
    "float": pd.Series([30.5, 31.0] * MANY),
    "category": pd.Series([30.5, 31.0] * MANY, dtype="category"),
    "sparse": pd.Series([30.5, np.nan] * MANY, dtype="Sparse[float64]"),
    "integer": pd.Series([30, 31] * MANY),
    "nullable": pd.Series([30.5, None] * MANY, dtype="Float64"),
    "object": pd.Series([30.5, None] * MANY, dtype=object),
}
NO_NUMBERS = {
    "category": pd.Series(["30.5", "31"] * MANY, dtype="category"),
    "true": pd.Series([True, False] * MANY, dtype="category"),
    "text": pd.Series([30.5, "31"] * MANY, dtype=object),
    "date": pd.Series([pd.Timestamp("1961-09-08"), pd.NaT] * MANY),
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_a_few_rows_are_read_as_among_many(kind: str) -> None:
    rows = blood_rows(MANY, 0).assign(crp_mg_l=NUMBERS[kind][:MANY])
    rows.loc[3, "sex"] = None
    whole = arrays_of(BLOOD9, rows)
    for start in range(0, MANY, 7):
        for found, expected in zip(arrays_of(BLOOD9, rows[start : start + 7]), whole, strict=True):
            assert found.dtype == np.float64
            np.testing.assert_array_equal(found, expected[start : start + 7])


@pytest.mark.parametrize("count", [2, MANY])
@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_number_is_none_in_few_rows_and_in_many(kind: str, count: int) -> None:
    rows = blood_rows(count, 0).assign(crp_mg_l=NO_NUMBERS[kind][:count])
    with pytest.raises(BadInput, match=r"^column crp_mg_l: expected numbers"):
        arrays_of(BLOOD9, rows)


def test_the_example_has_the_columns_of_a_request() -> None:
    rows = pd.DataFrame(example_rows(CLOCK))
    assert tuple(rows.columns) == input_columns(BLOOD9)
    assert answer(CLOCK, rows, 0.9)["flags"].tolist() == ["", f"missing:{BLOOD9.names[0]}"]
