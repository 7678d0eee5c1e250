"""Told the era in training, a clock answers as of the newest, and nothing of the era is left in it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.config import Config
from henaw.errors import BadInput
from henaw.model.clock import Clock
from henaw.training.era import STEP, eras, without_era
from henaw.training.fit import fit_clock
from henaw.training.telemetry import Events
from tests.scenarios import KNOWN, known_cohort, tiny_config

CYCLES = ["2003-2004", "1999-2000", "2001-2002", "2003-2004"]
TOLD = "training.era_column=cycle"
SETTINGS = tiny_config(TOLD).training


def table(values: list[object]) -> pd.DataFrame:
    return pd.DataFrame({"cycle": values})


@pytest.mark.parametrize(
    ("values", "others", "steps", "of_others"),
    [
        (CYCLES, ["2001-2002"], [0, -2, -1, 0], [-1]),
        ([9, 10, 9], [10, 9], [-1, 0, -1], [0, -1]),  # as numbers: 9 comes before 10
        (["9", "10"], ["10", "9"], [-1, 0], [0, -1]),
        (["a", "c"], ["b"], [-2, 0], [-1]),  # an era that only a calibration person has
        (["a", "b"], ["c"], [-1, 0], [0]),  # and one that is newer than anybody's who trains
        (["2009"], ["2009"], [0], [0]),
    ],
)
def test_the_newest_era_is_nought_and_older_ones_lie_below(
    values: list[object], others: list[object], steps: list[int], of_others: list[int]
) -> None:
    found = eras(table(values), table(others), SETTINGS)
    assert found is not None
    np.testing.assert_allclose(found[0] / STEP, steps)
    np.testing.assert_allclose(found[1] / STEP, of_others)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.lists(st.integers(0, 9), min_size=1, max_size=9))
def test_eras_keep_the_order_of_their_values(values: list[int], others: list[int]) -> None:
    found = eras(table(values), table(others), SETTINGS)
    assert found is not None
    both, known = np.concatenate(found), np.minimum([*values, *others], max(values))
    assert found[0].max() == 0
    for one, other in zip(both, known, strict=True):
        assert ((both > one) == (known > other)).all()


def test_without_a_column_there_is_no_era() -> None:
    assert eras(table(CYCLES), table(CYCLES), tiny_config().training) is None


@pytest.mark.parametrize("people", [pd.DataFrame({"age_years": [50.0]}), table(["1999-2000", None])])
def test_a_column_that_is_not_there_is_named(people: pd.DataFrame) -> None:
    with pytest.raises(BadInput, match=r"training\.era_column: column cycle"):
        eras(people, people, tiny_config(TOLD).training)


def test_what_is_taken_away_is_the_last_input_alone() -> None:
    rng = np.random.default_rng(0)
    weights = {"layer0.weight": rng.normal(size=(3, 5, 4)), "layer0.bias": rng.normal(size=(3, 4))}
    inputs = np.column_stack([rng.normal(size=(6, 4)), np.zeros(6)])
    np.testing.assert_allclose(
        inputs @ weights["layer0.weight"], inputs[:, :-1] @ without_era(weights)["layer0.weight"]
    )
    assert without_era(weights)["layer0.bias"] is weights["layer0.bias"]


def drifted(people: int, seed: int) -> pd.DataFrame:
    """Three eras; with the same markers people of each are ten years younger than those of the one before."""
    steps = np.arange(people) % 3
    cohort = known_cohort(people, seed).table
    years = {0: "1999-2000", 1: "2001-2002", 2: "2003-2004"}
    return cohort.assign(age_years=cohort["age_years"] + 10.0 * (2 - steps), cycle=[years[step] for step in steps])


def clock_of(config: Config) -> Clock:
    return fit_clock(drifted(900, 0), drifted(450, 1), KNOWN, config, Events())[0]


def errors(clock: Clock, people: pd.DataFrame) -> np.ndarray:
    sex = (people["sex"] == "male").to_numpy(float)
    age = people["age_years"].to_numpy()
    return np.asarray(clock.predict(people[list(KNOWN.names)].to_numpy(), sex, age).median - age)


def test_a_clock_answers_as_of_the_newest_era() -> None:
    newest = known_cohort(600, 2).table
    settings = "training.epochs=50 network.hidden=[16] calibration.shrinkage=1"
    of_all, of_newest = (clock_of(tiny_config(f"{settings} {told}")) for told in ("", TOLD))
    assert errors(of_all, newest).mean() > 6
    assert abs(errors(of_newest, newest).mean()) < 1.5
    assert of_newest.shape == of_all.shape, "answering knows nothing of eras"


def test_people_of_older_eras_calibrate_a_clock_in_their_own() -> None:
    """Calibrated as if of today, the old would look too old to it, and the map would shift every answer."""
    newest = known_cohort(2000, 3).table
    clock = clock_of(tiny_config(f"training.epochs=50 network.hidden=[16] calibration.shrinkage=1 {TOLD}"))
    sex, age = (newest["sex"] == "male").to_numpy(float), newest["age_years"].to_numpy()
    below = clock.predict(newest[list(KNOWN.names)].to_numpy(), sex, age).cdf(age)
    assert below.mean() == pytest.approx(0.5, abs=0.06)
    assert ((below > 0.05) & (below < 0.95)).mean() == pytest.approx(0.9, abs=0.04)
