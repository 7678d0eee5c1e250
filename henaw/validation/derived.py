"""Columns that the suites judge and no source has: what several columns say together, as one number a row.

Great Expectations judges columns; whether a person's visits agree, or whether the same blood stands under two ids, is a
fact about several. Each such fact is computed here under a name that a line of a suite may use like any column's.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.cohort import PARTICIPANT
from henaw.data.panel import Panel
from henaw.data.selection import rows_with

Floats = NDArray[np.float64]

_DAYS_PER_YEAR = 365.25
_LEAST_IN_COMMON = 5  # with fewer markers measured, two people may well have the same values
_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd, its bits well mixed: Knuth's multiplicative hashing
_YES = (1, "yes", "true")


@dataclass(frozen=True)
class Derived:
    """A column made of others: what it says, the columns it ``needs``, and how it is made of table and biomarkers."""

    title: str
    needs: tuple[str, ...]
    make: Callable[[pd.DataFrame, pd.DataFrame], Floats]


def derive(table: pd.DataFrame, panel: Panel) -> dict[str, Floats]:
    """The derived columns, by name, for which ``table`` has what is needed; NaN where nothing can be said."""
    markers = table[[name for name in panel.names if name in table and table[name].dtype == np.float64]]
    usable = {name for name in table.columns if table[name].dtype.kind == _kind(name)}
    return {name: one.make(table, markers) for name, one in DERIVED.items() if usable.issuperset(one.needs)}


def _kind(name: str) -> str:
    """The kind of column that the schema suite asks for; what has another is refused there, not judged here."""
    return "f" if name in ("age_years", "died", "followup_months") else "O"


def _biomarkers_measured(_: pd.DataFrame, markers: pd.DataFrame) -> Floats:
    return markers.notna().sum(axis=1).to_numpy(dtype=np.float64)


def _same_blood(table: pd.DataFrame, markers: pd.DataFrame) -> Floats:
    """A number for each combination of age, sex and biomarkers, so that equal numbers are equal people."""
    mixed = pd.factorize(table["sex"])[0].astype(np.uint64)
    for column in (table["age_years"], *(markers[name] for name in markers)):
        values = column.to_numpy(dtype=np.float64) + 0.0  # -0.0 is 0.0
        mixed = (mixed ^ np.where(np.isnan(values), np.nan, values).view(np.uint64)) * _MIX
        mixed ^= mixed >> np.uint64(29)
    numbers = (mixed >> np.uint64(11)).astype(np.float64)  # 53 bits, which a float holds exactly
    numbers[markers.notna().sum(axis=1).to_numpy() < _LEAST_IN_COMMON] = np.nan
    return numbers


def _age_at_end(table: pd.DataFrame, _: pd.DataFrame) -> Floats:
    return (table["age_years"] + table["followup_months"] / 12).to_numpy(dtype=np.float64)


def _outcome_halves(table: pd.DataFrame, _: pd.DataFrame) -> Floats:
    half: pd.Series[bool] = table["died"].isna() ^ table["followup_months"].isna()
    return half.to_numpy().astype(np.float64)


def _pregnant_man(table: pd.DataFrame, _: pd.DataFrame) -> Floats:
    return ((table["sex"] == "male").to_numpy(dtype=np.bool_) & rows_with(table["pregnant"], _YES)).astype(np.float64)


def _visit_days_ago(table: pd.DataFrame, _: pd.DataFrame) -> Floats:
    day = _days(table["visit_date"])
    today = (dt.datetime.now(dt.UTC).date() - dt.date(1970, 1, 1)).days
    unreadable = np.isnan(day) & table["visit_date"].notna().to_numpy()
    return np.where(unreadable, np.inf, today - day)


def _sexes_of_person(table: pd.DataFrame, _: pd.DataFrame) -> Floats:
    counts: Floats = table.groupby(PARTICIPANT)["sex"].transform("nunique").to_numpy(dtype=np.float64)
    return counts


def _years_between_age_and_dates(table: pd.DataFrame, _: pd.DataFrame) -> Floats:
    """How far apart the births lie that a person's ages and dates of visits lead to."""
    born = table["age_years"] - _days(table["visit_date"]) / _DAYS_PER_YEAR
    of_person = born.groupby(table[PARTICIPANT])
    apart: Floats = (of_person.transform("max") - of_person.transform("min")).to_numpy()
    return apart


def _days(dates: pd.Series[Any]) -> Floats:
    """Days since 1970 of dates as 2008-03-17, NaN for what is none."""
    read = pd.to_datetime(dates, format="%Y-%m-%d", errors="coerce").to_numpy(dtype="datetime64[D]")
    return np.where(np.isnat(read), np.nan, read.astype(np.int64).astype(np.float64))


DERIVED = {
    "biomarkers_measured": Derived("how many of the panel's biomarkers have a value", (), _biomarkers_measured),
    "same_blood": Derived(
        f"a number that rows share whose age, sex and biomarkers ({_LEAST_IN_COMMON} or more) are all equal",
        ("age_years", "sex"),
        _same_blood,
    ),
    "age_at_end": Derived("age at death or at the end of follow-up", ("age_years", "followup_months"), _age_at_end),
    "outcome_halves": Derived(
        "1 where only one of died and followup_months has a value", ("died", "followup_months"), _outcome_halves
    ),
    "pregnant_man": Derived("1 where a man is recorded as pregnant", ("sex", "pregnant"), _pregnant_man),
    "visit_days_ago": Derived(
        "days from visit_date until today; infinite where it is no date", ("visit_date",), _visit_days_ago
    ),
    "sexes_of_person": Derived(
        "how many sexes the person's visits give", ("participant", "sex", "visit"), _sexes_of_person
    ),
    "years_between_age_and_dates": Derived(
        "how many years ages and visit dates of a person's visits disagree by",
        ("participant", "visit", "age_years", "visit_date"),
        _years_between_age_and_dates,
    ),
}
"""By name, as the suites use them; ``expectations/README.md`` lists them."""
