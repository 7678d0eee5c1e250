"""Who trained what is found again, by pseudonym, and a damaged record is never taken for "nobody"."""

import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from henaw.data.trainings import record_training, trainings_with
from henaw.errors import BadInput, IntegrityError


def people(*numbers: int) -> pd.Series:
    return pd.Series([f"{number:032x}" for number in numbers], dtype="str")


def test_runs_are_found_by_whom_they_were_trained_with(tmp_path: Path) -> None:
    record_training(tmp_path, "a", people(1, 2, 3, 3))
    record_training(tmp_path, "b", people(3, 2, 1))
    record_training(tmp_path, "c", people(3, 256 << 64))  # ends in zero bytes
    assert trainings_with(tmp_path, people(2)) == ["a", "b"]
    assert trainings_with(tmp_path, people(3)) == ["a", "b", "c"]
    assert trainings_with(tmp_path, people(256 << 64, 77)) == ["c"]
    assert trainings_with(tmp_path, people(4, 256 << 72)) == trainings_with(tmp_path, []) == []
    assert len(list((tmp_path / "trainings").glob("*.people"))) == 2


@settings(max_examples=30)
@given(of_run=st.sets(st.integers(0, 2**128 - 1), min_size=1), asked=st.sets(st.integers(0, 2**128 - 1), min_size=1))
def test_exactly_the_common_people_count(
    tmp_path_factory: pytest.TempPathFactory, of_run: set[int], asked: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("state")
    record_training(folder, "run", people(*of_run))
    assert trainings_with(folder, people(*asked)) == (["run"] if of_run & asked else [])
    assert trainings_with(folder, people(*asked, *list(of_run)[:1])) == ["run"]


def test_modes_are_private(tmp_path: Path) -> None:
    record_training(tmp_path / "state", "a", people(1))
    folder = tmp_path / "state" / "trainings"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}


@pytest.mark.parametrize("fault", ["record", "people", "people gone", "record empty"])
def test_a_damaged_record_is_said(tmp_path: Path, fault: str) -> None:
    record_training(tmp_path, "a", people(*range(50)))
    (members,) = (tmp_path / "trainings").glob("*.people")
    if fault == "people":
        members.write_bytes(members.read_bytes()[:-1] + b"?")
    elif fault == "people gone":
        members.unlink()
    else:
        (tmp_path / "trainings" / "a.json").write_text("{}" if fault == "record" else "")
    with pytest.raises(IntegrityError, match=r"trainings/a.json: damaged"):
        trainings_with(tmp_path, people(1000))


def test_a_name_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="not the id of a run"):
        record_training(tmp_path, "../a", people(1))


def test_a_person_takes_sixteen_bytes(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).bytes(16 * 20_000)
    many = pd.Series([rows[start : start + 16].hex() for start in range(0, len(rows), 16)], dtype="str")
    record_training(tmp_path, "a", many)
    assert sum(path.stat().st_size for path in (tmp_path / "trainings").glob("*.people")) == 16 * 20_000
    assert trainings_with(tmp_path, many[19_999:]) == ["a"]
