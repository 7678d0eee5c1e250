"""Whoever was on a side stays there, with more people, fewer people, and other visits; nobody is ever on two."""

import stat
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, reject
from hypothesis import settings as examples
from hypothesis import strategies as st

from henaw.config import Config, load_config
from henaw.data import stored_splits
from henaw.data.splits import SIDES, Split, split
from henaw.data.stored_splits import kept_split, remove_people
from henaw.errors import BadInput, IntegrityError

BY = {
    "person": {},
    "cycle": {"by": "column", "column": "cycle", "train": ["1", "2"], "test": ["3"]},
    "centre": {"by": "column", "column": "centre", "train": [], "test": ["11010"]},
    "date": {"by": "date", "column": "seen", "day": "2010-06-30"},
}


def visits(people: int, seed: int = 0, *, first: int = 0) -> pd.DataFrame:
    """People ``first`` and following come one to three times, in mixed order."""
    rng = np.random.default_rng(seed)
    person = rng.permutation(np.repeat(np.arange(first, first + people), rng.integers(1, 4, people)))
    return pd.DataFrame(
        {
            "participant": pd.Series([f"{number:032x}" for number in person], dtype="str"),
            "cycle": pd.Series(rng.choice(["1", "2", "3"], len(person)), dtype="str"),
            "centre": pd.Series(rng.choice(["11010", "11011", "11012"], len(person)), dtype="str"),
            "seen": pd.Series(
                (np.datetime64("2009-01-01") + rng.integers(0, 1000, len(person))).astype(str), dtype="str"
            ),
        }
    )


def settings(state: Path, by: str = "person", **changes: Any) -> Config:
    config = load_config(data="people.csv").model_copy(update=changes)
    rule = config.split.model_validate(config.split.model_dump() | BY[by])
    source = config.source.model_copy(update={"kind": "table"})
    return config.model_copy(
        update={"split": rule, "source": source, "state": config.state.model_copy(update={"folder": str(state)})}
    )


def sides(table: pd.DataFrame, parts: Split) -> dict[str, set[str]]:
    return {side: set(table["participant"].iloc[getattr(parts, side)]) for side in SIDES}


def kept_people(path: Path) -> set[str]:
    return {person for people in stored_splits._read(path).values() for person in people}


def require_apart(table: pd.DataFrame, parts: Split) -> dict[str, set[str]]:
    found = sides(table, parts)
    assert sum(map(len, found.values())) == len(set.union(*found.values()))
    assert {name: len(people) for name, people in found.items()} == {name: parts.people[name] for name in SIDES}
    return found


@example(by="person", seed=0, more=0, drop=5)  # some have gone, and nobody is there to take their places
@examples(max_examples=40)
@given(by=st.sampled_from(list(BY)), seed=st.integers(0, 2**32 - 1), more=st.integers(0, 150), drop=st.integers(0, 30))
def test_when_the_cohort_grows_everybody_keeps_a_side_and_visits_never_straddle(
    tmp_path_factory: pytest.TempPathFactory, by: str, seed: int, more: int, drop: int
) -> None:
    config = settings(tmp_path_factory.mktemp("state"), by, seed=seed)
    young = visits(80, seed % 11)
    before = require_apart(young, kept_split(young, config))
    known = sorted(set(young["participant"]))[drop:]
    grown = pd.concat([visits(80, seed % 11 + 1), visits(more, seed % 5, first=80)], ignore_index=True)
    grown = grown[grown["participant"].isin(known) | (grown["participant"] >= f"{80:032x}")].reset_index(drop=True)
    try:
        parts = kept_split(grown, config)
    except BadInput:  # whoever was left of a side has gone
        reject()
    after = require_apart(grown, parts)
    for side in SIDES:
        for other in SIDES:
            assert side == other or before[side].isdisjoint(after[other])
    if by == "person":
        assert {person for people in after.values() for person in people} == set(grown["participant"])
        wanted = round(0.2 * grown["participant"].nunique())
        stay = len(before["test"] & set(grown["participant"]))
        fresh = len(set(grown["participant"]) - set(young["participant"]))
        assert len(after["test"]) == max(stay, min(wanted, stay + fresh))
    else:
        allowed = split(grown, config.split, seed)
        assert set(parts.test) <= set(allowed.test)
    again = kept_split(grown, config)
    for side in SIDES:
        np.testing.assert_array_equal(getattr(again, side), getattr(parts, side))


@pytest.mark.parametrize("by", list(BY))
def test_equal_input_gives_the_equal_split_with_a_file_and_without(tmp_path: Path, by: str) -> None:
    table = visits(200, 5)
    config = settings(tmp_path / "one", by)
    first, second = kept_split(table, config), kept_split(table, config)
    elsewhere = kept_split(table, settings(tmp_path / "two", by))
    plain = split(table, config.split, config.seed)
    for side in SIDES:
        for other in (second, elsewhere, plain):
            np.testing.assert_array_equal(getattr(first, side), getattr(other, side))


def test_other_people_with_the_same_settings_are_drawn_as_if_alone(tmp_path: Path) -> None:
    config, others = settings(tmp_path), visits(60, 3, first=1000)
    kept_split(visits(100), config)
    found = kept_split(others, config)
    np.testing.assert_array_equal(found.test, split(others, config.split, config.seed).test)


def test_other_settings_have_a_split_of_their_own(tmp_path: Path) -> None:
    table = visits(100)
    kept_split(table, settings(tmp_path))
    for config in (settings(tmp_path, seed=1), settings(tmp_path, "cycle"), settings(tmp_path, panel="phenoage9")):
        parts = kept_split(table, config)
        np.testing.assert_array_equal(parts.test, split(table, config.split, config.seed).test)
    assert len(list((tmp_path / "splits").glob("*.json"))) == 4


def test_by_date_up_to_the_day_trains_and_after_it_tests(tmp_path: Path) -> None:
    table = visits(100)
    table.loc[::9, "seen"] = None
    parts = kept_split(table, settings(tmp_path, "date"))
    assert (table["seen"].iloc[parts.test] > "2010-06-30").all()
    training = np.concatenate([parts.train, parts.calibration])
    assert (table["seen"].iloc[training] <= "2010-06-30").all()
    assert set(parts.test) == set(np.flatnonzero(table["seen"] > "2010-06-30"))
    assert parts.people["left_out"] > 0


def test_files_are_private_and_hold_no_more_than_sides(tmp_path: Path) -> None:
    kept_split(visits(100), settings(tmp_path / "state"))
    folder = tmp_path / "state" / "splits"
    (path,) = folder.iterdir()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("fault", ["cut", "changed", "empty", "other"])
def test_a_damaged_file_stops_rather_than_moves_people(tmp_path: Path, fault: str) -> None:
    table, config = visits(100), settings(tmp_path)
    kept_split(table, config)
    (path,) = (tmp_path / "splits").iterdir()
    text = path.read_text()
    path.write_text({"cut": text[:-9], "changed": text.replace("7", "8", 1), "empty": "", "other": "[]"}[fault])
    with pytest.raises(IntegrityError, match=r"\.json: damaged; remove it for a split drawn anew"):
        kept_split(table, config)
    with pytest.raises(IntegrityError):
        remove_people(tmp_path, {"0" * 32})


def test_rows_that_are_people_of_their_own_are_not_kept(tmp_path: Path) -> None:
    config = settings(tmp_path)
    config = config.model_copy(update={"source": config.source.model_copy(update={"id_columns": []})})
    kept_split(visits(50), config)
    assert not (tmp_path / "splits").exists()


def test_who_withdraws_leaves_every_split(tmp_path: Path) -> None:
    table = visits(100)
    for by in BY:
        kept_split(table, settings(tmp_path, by))
    gone = set(table["participant"].iloc[:3])
    assert remove_people(tmp_path, gone) == 4
    assert not any(gone & kept_people(path) for path in (tmp_path / "splits").glob("*.json"))
    assert remove_people(tmp_path, gone) == 0
    left = table[~table["participant"].isin(gone)].reset_index(drop=True)
    before = sides(table, split(table, settings(tmp_path).split, 0))
    after = sides(left, kept_split(left, settings(tmp_path)))
    assert before["train"] >= after["train"]
    assert after["test"] >= before["test"] - gone


def split_part(state: Path, first: int) -> None:
    kept_split(visits(100, first, first=first), settings(state))


def test_processes_that_grow_it_at_once_lose_nobody(tmp_path: Path) -> None:
    processes = [get_context("fork").Process(target=split_part, args=(tmp_path, 100 * number)) for number in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    (path,) = (tmp_path / "splits").iterdir()
    assert kept_people(path) == {f"{number:032x}" for number in range(600)}
