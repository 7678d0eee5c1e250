"""Newer people count for more, by the rule that the settings state, and a fit follows them."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from henaw.errors import BadInput
from henaw.settings import Training
from henaw.training.batches import Disturbance, TrainingData, epoch_batches, shuffled
from henaw.training.fit import fit_clock
from henaw.training.recency import recency_weights
from henaw.training.telemetry import Events
from tests.scenarios import KNOWN, known_cohort, tiny_config

CYCLES = ["2003-2004", "1999-2000", "2001-2002", "2003-2004"]


def settings(half_life: float = 1.0, column: str = "cycle") -> Training:
    return tiny_config(f"training.recency_column={column} training.recency_half_life={half_life}").training


@pytest.mark.parametrize(
    ("values", "half_life", "ratios"),
    [(CYCLES, 1.0, [4, 1, 2, 4]), (CYCLES, 2.0, [2, 1, 2**0.5, 2]), ([9, 10, 9, 10], 1.0, [1, 2, 1, 2])],
)
def test_every_half_life_back_halves_the_weight(values: list[object], half_life: float, ratios: list[float]) -> None:
    weights = recency_weights(pd.DataFrame({"cycle": values}), settings(half_life))
    np.testing.assert_allclose(weights / weights.min(), ratios)
    assert weights.mean() == pytest.approx(1)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30), st.floats(0.3, 50))
def test_weights_have_mean_one_and_never_fall_with_time(values: list[int], half_life: float) -> None:
    weights = recency_weights(pd.DataFrame({"cycle": values}), settings(half_life))
    assert weights.mean() == pytest.approx(1)
    assert (np.diff(weights[np.argsort(values, kind="stable")]) >= 0).all()


def test_without_a_column_everybody_counts_alike() -> None:
    assert (recency_weights(pd.DataFrame({"cycle": CYCLES}), tiny_config().training) == 1).all()


@pytest.mark.parametrize("table", [pd.DataFrame({"age_years": [50.0]}), pd.DataFrame({"cycle": ["1999-2000", None]})])
def test_a_column_that_is_not_there_is_named(table: pd.DataFrame) -> None:
    with pytest.raises(BadInput, match=r"training\.recency_column: column cycle"):
        recency_weights(table, settings())


def test_a_batch_carries_the_weights_of_its_own_people() -> None:
    people = TrainingData(
        *(torch.zeros(40, 2),) * 2, torch.zeros(40, 1), torch.arange(40.0)[:, None], torch.arange(40.0), torch.eye(2)
    )
    for batch in epoch_batches(people, shuffled(40, 3, 0)(0), 16, Disturbance(0.0, 0.0), 0, 0):
        for piece in batch.split(7):
            assert torch.equal(piece.weights, piece.targets[..., 0])


def test_a_clock_follows_the_newer_people_where_old_and_new_disagree() -> None:
    """The old half reads ten years older with the same markers; with recency the clock sides with the new half."""
    new = known_cohort(600, 0).table
    old = new.assign(age_years=new["age_years"] + 10)
    both = pd.concat([old.assign(cycle="1999-2000"), new.assign(cycle="2009-2010")], ignore_index=True)
    biases = []
    for overrides in ("", "training.recency_column=cycle training.recency_half_life=0.2"):
        config = tiny_config(f"training.epochs=30 {overrides}")
        clock, _ = fit_clock(both, both.iloc[::2], KNOWN, config, Events())
        median = clock.predict(
            new[list(KNOWN.names)].to_numpy(), (new["sex"] == "male").to_numpy(float), new["age_years"].to_numpy()
        ).median
        biases.append(float(np.mean(median - new["age_years"])))
    assert biases[0] > 3
    assert abs(biases[1]) < 2
