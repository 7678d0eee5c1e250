"""No person on two sides, everybody somewhere, the same split whatever the pseudonyms are."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.config import load_config
from henaw.data.splits import split
from henaw.errors import BadInput
from henaw.settings import Split as Settings


def settings(**changes: Any) -> Settings:
    return Settings.model_validate(load_config().split.model_dump() | changes)


def visits(people: int, seed: int = 0) -> pd.DataFrame:
    """Each person comes one to three times, in mixed order."""
    rng = np.random.default_rng(seed)
    person = rng.permutation(np.repeat(np.arange(people), rng.integers(1, 4, people)))
    return pd.DataFrame(
        {
            "participant": pd.Series([f"{number:032x}" for number in person], dtype="str"),
            "cycle": pd.Series(rng.choice(["1", "2", "3", "2009-2010"], len(person)), dtype="str"),
        }
    )


BY_CYCLE = {"by": "column", "column": "cycle", "train": ["1", "2"], "test": ["2009-2010"]}


@given(
    people=st.integers(30, 200),
    seed=st.integers(0, 2**32 - 1),
    test=st.floats(0.05, 0.6),
    calibration=st.floats(0.1, 0.5),
)
def test_by_person_everybody_is_on_exactly_one_side(people: int, seed: int, test: float, calibration: float) -> None:
    table = visits(people, seed % 7)
    parts = split(table, settings(test_fraction=test, calibration_fraction=calibration), seed)
    rows = np.concatenate([parts.train, parts.calibration, parts.test])
    assert sorted(rows) == list(range(len(table)))
    sides = [set(table["participant"].iloc[side]) for side in (parts.train, parts.calibration, parts.test)]
    assert sum(map(len, sides)) == len(set.union(*sides)) == people
    tests = round(test * people)
    assert [len(side) for side in sides[1:]] == [round(calibration * (people - tests)), tests]
    assert all((np.diff(side) > 0).all() for side in (parts.train, parts.calibration, parts.test) if len(side) > 1)


@given(seed=st.integers(0, 1000), named=st.booleans())
def test_by_column_test_rows_are_all_and_only_those_named(seed: int, named: bool) -> None:
    table = visits(100, seed)
    table.loc[::17, "cycle"] = np.nan
    parts = split(table, settings(**BY_CYCLE | ({} if named else {"train": []})), seed)
    np.testing.assert_array_equal(parts.test, np.flatnonzero(table["cycle"] == "2009-2010"))
    training = np.sort(np.concatenate([parts.train, parts.calibration]))
    testers = set(table["participant"].iloc[parts.test])
    expected = table["cycle"].isin(["1", "2"] if named else ["1", "2", "3"]) & ~table["participant"].isin(testers)
    np.testing.assert_array_equal(training, np.flatnonzero(expected))
    calibrating = set(table["participant"].iloc[parts.calibration])
    assert calibrating.isdisjoint(table["participant"].iloc[parts.train])
    everyone = set(table["participant"].iloc[training]) | testers
    assert parts.people["left_out"] == table["participant"].nunique() - len(everyone)


@pytest.mark.parametrize("changes", [{}, BY_CYCLE])
def test_split_depends_on_seed_and_not_on_pseudonyms(changes: dict[str, Any]) -> None:
    table = visits(200)
    renamed = table.assign(participant="f" + table["participant"].str[::-1])
    first, again, other_names, other_seed = (
        split(rows, settings(**changes), seed) for rows, seed in ((table, 3), (table, 3), (renamed, 3), (table, 4))
    )
    for side in ("train", "calibration", "test"):
        np.testing.assert_array_equal(getattr(first, side), getattr(again, side))
        np.testing.assert_array_equal(getattr(first, side), getattr(other_names, side))
    assert not np.array_equal(first.calibration, other_seed.calibration)


def test_split_follows_people_not_rows() -> None:
    once = visits(100).drop_duplicates("participant", ignore_index=True)
    twice = pd.concat([once, once], ignore_index=True)
    np.testing.assert_array_equal(
        split(twice, settings(), 0).test,
        np.concatenate([split(once, settings(), 0).test + shift for shift in (0, 100)]),
    )


def test_values_may_be_numbers() -> None:
    table = visits(100)
    by_text = split(table, settings(**BY_CYCLE | {"train": ["1"], "test": ["2"]}), 0)
    by_number = split(table, settings(**BY_CYCLE | {"train": [1], "test": [2]}), 0)
    np.testing.assert_array_equal(by_text.test, by_number.test)


def test_counts_are_of_people_and_small_ones_are_hidden() -> None:
    parts = split(visits(100), settings(), 0)
    assert parts.people == {"train": 72, "calibration": 8, "test": 20, "left_out": 0}
    assert parts.to_dict() == {"train": 70, "calibration": 10, "test": 20, "left_out": 0}
    few = split(visits(20), settings(), 0)
    assert few.people["calibration"] == 2
    assert few.to_dict() == {"train": 15, "calibration": "<5", "test": "<5", "left_out": 0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            BY_CYCLE | {"test": ["2011-2012"]},
            r"split.test: nobody in the selected cohort has '2011-2012' in column cycle",
        ),
        (BY_CYCLE | {"train": ["1", 9]}, r"split.train: nobody in the selected cohort has 9 in column cycle"),
        (BY_CYCLE | {"column": "centre"}, r"split.column: the cohort has no column centre"),
        (BY_CYCLE | {"train": [], "test": ["1", "2", "3", "2009-2010"]}, r"nobody is left for train"),
        ({"test_fraction": 0.001}, r"nobody is left for test among 50 participants"),
        ({"calibration_fraction": 0.001}, r"nobody is left for calibration"),
        ({"test_fraction": 0.999}, r"nobody is left for train"),
    ],
)
def test_what_cannot_be_split_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        split(visits(50), settings(**changes), 0)


def test_an_empty_cohort_is_refused() -> None:
    with pytest.raises(BadInput, match="nobody is left for train among 0 participants"):
        split(visits(50).iloc[:0], settings(), 0)
