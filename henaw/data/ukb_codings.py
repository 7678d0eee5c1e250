"""What the cells of a UK Biobank export mean: dates, sex, months, codes, and codes for "no answer".

An export holds codes or, where it was made so, their labels (Stata, the platform's table exporter).
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

from henaw.errors import BadInput

NO_ANSWER = (-1, -3, -121, -818)
"""Codes of "do not know" and "prefer not to answer", at the assessment centre and in the online questionnaires."""

_NO_ANSWER_LABELS = ("do not know", "prefer not to answer")
_NO_DATE = ("1900-01-01", "1901-01-01", "1902-02-02", "1903-03-03", "1909-09-09", "2037-07-07")  # data-codings 272, 819
_SEXES = {"0": "female", "1": "male", "female": "female", "male": "male"}  # data-coding 9
_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_name) if name}
_SHORT_MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name}


def codes(cells: pd.Series[str], place: str) -> pd.Series[Any]:
    """Codes as text; a whole number that some tool wrote as 1.0 is 1; those of "no answer" are missing."""
    del place
    return _mapped(cells, _code, "str")


def sexes(cells: pd.Series[str], place: str) -> pd.Series[Any]:
    """Female or male; another code stays as it is, for validation to find."""
    del place
    return _mapped(cells, lambda cell: _SEXES.get(str(_code(cell.lower())), _code(cell)), "str")


def months(cells: pd.Series[str], place: str) -> pd.Series[Any]:
    """Months as numbers, from 1.

    Raises:
        BadInput: something else.
    """
    return _all_known(cells, _mapped(cells, _month, "float64"), place, "a month; expected 1 to 12, or its name")


def dates(cells: pd.Series[str], place: str) -> pd.Series[Any]:
    """Dates as ``datetime64``: 2008-03-17 (a time of day is dropped), 17mar2008, or Stata's days since 1960-01-01.

    Raises:
        BadInput: something else.
    """
    known = _all_known(cells, _mapped(cells, _day, "datetime64[s]"), place, "a date; expected 2008-03-17 or 17mar2008")
    return known.mask(known.isin(pd.to_datetime(list(_NO_DATE))))


def answered(numbers: pd.Series[Any]) -> pd.Series[Any]:
    """``numbers`` without the codes of "no answer"."""
    return numbers.mask(numbers.isin(NO_ANSWER)) if (numbers < 0).any() else numbers


def _mapped(cells: pd.Series[str], meaning: Callable[[str], Any], dtype: str) -> pd.Series[Any]:
    """``meaning`` of each cell; it is asked once for each different one."""
    positions, different = pd.factorize(cells)
    meanings = pd.Series([*(meaning(cell) for cell in different.tolist()), None], dtype=dtype)
    return meanings.take(positions % len(meanings)).set_axis(cells.index)


def _all_known(cells: pd.Series[str], values: pd.Series[Any], place: str, expected: str) -> pd.Series[Any]:
    if unknown := int((values.isna() & cells.notna()).sum()):
        raise BadInput(f"{place}: {unknown} of {len(cells)} cells are not {expected}")
    return values


def _code(cell: str) -> str | None:
    if found := re.fullmatch(r"(-?[0-9]+)\.0*", cell):
        cell = found[1]
    if cell in map(str, NO_ANSWER) or cell.lower() in _NO_ANSWER_LABELS:
        return None
    return cell


def _month(cell: str) -> int | None:
    number = _code(cell)
    if number is not None and number.isdigit() and 1 <= int(number) <= 12:
        return int(number)
    return _MONTHS.get(cell.lower())


def _day(cell: str) -> np.datetime64 | None:
    try:
        if found := re.fullmatch(r"([0-9]{4}-[0-9]{2}-[0-9]{2})([ T].*)?", cell):
            return np.datetime64(found[1], "s")
        if found := re.fullmatch(r"([0-9]{1,2})([a-z]{3})([0-9]{4})", cell.lower()):
            month = _SHORT_MONTHS.get(found[2], 0)
            return np.datetime64(f"{found[3]}-{month:02}-{int(found[1]):02}", "s")
        if found := re.fullmatch(r"(-?[0-9]{1,5})(\.0*)?", cell):
            return np.datetime64("1960-01-01", "s") + np.timedelta64(int(found[1]), "D")
    except ValueError:
        pass
    return None
