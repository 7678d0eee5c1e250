"""Recalibration: a planted shift and slope are found again, and risk fits people whom the fit has not seen."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from henaw.errors import BadInput
from henaw.evaluation.recalibration import recalibrate
from henaw.model.calibration import identity
from henaw.model.clock import Clock, TrainingRange
from henaw.model.ensemble import EnsembleShape
from henaw.model.features import FeatureScaling
from henaw.model.gap import GapRegression
from henaw.model.hazard import Gompertz
from henaw.model.reference import fit_reference
from tests.scenarios import HAZARD, KNOWN, OWN_AGE, blood_clock, mortal_cohort

GAP = 8.0
SHIFT, SLOPE = 0.1, 0.9
TARGET = Gompertz(SHIFT + SLOPE * HAZARD.alpha, SLOPE * HAZARD.beta)


def true_clock() -> Clock:
    """Says of everyone in ``mortal_cohort`` the biological age by which the hazard runs, give or take a month."""
    shape = EnsembleShape(members=2, inputs=6, hidden=(), head=OWN_AGE)
    weights = {name: np.zeros(size) for name, size in shape.parameter_shapes().items()}
    weights["layer0.weight"][:, 0, 0] = GAP / OWN_AGE.scale
    weights["layer0.bias"][:, 1] = -5.0  # softplus: 0.007 of the scale
    return Clock(
        panel=KNOWN,
        scaling=FeatureScaling(np.zeros(2), np.ones(2)),
        shape=shape,
        weights=weights,
        calibration=identity(),
        gap=GapRegression(0.0, 0.0, 1.0),
        hazard=HAZARD,
        trained_on=TrainingRange(np.full(2, -5.0), np.full(2, 5.0), (30, 80)),
        reference=fit_reference(np.zeros((9, 2)), np.zeros(9), np.full(9, 50.0)),
        max_missing=1,
    )


def cohorts(hazard: Gompertz, people: int = 8000) -> tuple[pd.DataFrame, pd.DataFrame]:
    table = mortal_cohort(people, 1, gap=GAP, hazard=hazard).table
    return table.iloc[: people // 2], table.iloc[people // 2 :]


def test_a_planted_shift_and_slope_are_found_and_risk_fits_others() -> None:
    fit, judge = cohorts(TARGET)
    found = recalibrate(true_clock(), fit, judge, 10.0, 0)
    assert found.slope == pytest.approx(SLOPE, abs=0.04)
    # level and slope trade off; where people die the log hazard itself is known better
    at_70 = found.clock.hazard.alpha + 70 * found.clock.hazard.beta  # type: ignore[union-attr]
    assert at_70 == pytest.approx(TARGET.alpha + 70 * TARGET.beta, abs=0.08)
    assert at_70 == pytest.approx(found.shift + found.slope * (HAZARD.alpha + 70 * HAZARD.beta), abs=1e-9)
    for before, after in found.ratios.values():
        assert before.value > 1.3, "the target cohort dies more than the clock says"
        assert 0.93 < after.value < 1.07
        assert after.lower < 1 < after.upper
    assert (found.fitted, found.judged) == (4000, 4000)
    assert set(found.ratios) == {5, 10}


def test_only_the_hazard_changes() -> None:
    clock = true_clock()
    found = recalibrate(clock, *cohorts(TARGET, 2000), 10.0, 0).clock
    assert found.hazard != clock.hazard
    assert replace(found, hazard=clock.hazard).__dict__ == clock.__dict__


def test_a_cohort_like_the_clocks_own_leaves_it_nearly_as_it_was() -> None:
    found = recalibrate(true_clock(), *cohorts(HAZARD), 10.0, 0)
    assert found.slope == pytest.approx(1.0, abs=0.05)
    before, after = found.ratios[10]
    assert before.value == pytest.approx(after.value, abs=0.06)


def test_deaths_after_the_cap_do_not_count() -> None:
    fit, judge = cohorts(TARGET, 2000)
    late = fit["followup_months"] > 60
    changed = fit.assign(died=np.where(late, 0.0, fit["died"]), followup_months=fit["followup_months"].clip(upper=900))
    assert recalibrate(true_clock(), fit, judge, 5.0, 0).clock.hazard == (
        recalibrate(true_clock(), changed, judge, 5.0, 0).clock.hazard
    )


def test_who_would_not_be_answered_is_not_counted() -> None:
    fit, judge = cohorts(TARGET, 2000)
    fit, judge = fit.copy(), judge.copy()
    fit.iloc[:100, fit.columns.get_indexer(KNOWN.names)] = np.nan
    judge.iloc[:7, judge.columns.get_indexer(KNOWN.names)] = np.nan
    found = recalibrate(true_clock(), fit, judge, 10.0, 0)
    assert (found.fitted, found.judged) == (900, 993)


def test_a_horizon_that_nearly_nobody_reached_is_left_out() -> None:
    fit, judge = cohorts(TARGET, 2000)
    early = judge["followup_months"] > 84
    judge = judge.assign(
        died=np.where(early, 0.0, judge["died"]), followup_months=judge["followup_months"].clip(upper=84)
    )
    found = recalibrate(true_clock(), fit, judge, 10.0, 0)
    assert set(found.ratios) == {5}
    assert "10 years" not in found.markdown()
    assert "observed_over_expected_5y_after" in found.metrics


def test_what_cannot_be_refitted_is_one_line() -> None:
    fit, judge = cohorts(TARGET, 400)
    backwards = fit.assign(died=(fit["age_years"] < 45).astype(float), followup_months=60.0)
    for clock, people, words in (
        (blood_clock(), fit, "is an age clock"),
        (true_clock(), fit.drop(columns="died"), "column died is missing"),
        (true_clock(), fit.assign(died=0.0), "fewer than 5 deaths within 10 years"),
        (true_clock(), fit.head(0), "fewer than 5 deaths"),
        (true_clock(), pd.concat([fit.head(1).assign(died=1.0, followup_months=60.0)] * 9), "fewer than 5 deaths"),
        (true_clock(), fit.assign(died=1.0, followup_months=0.0), "nobody was followed"),
        (true_clock(), backwards, "does not rise with biological age"),
    ):
        with pytest.raises(BadInput) as raised:
            recalibrate(clock, people, judge, 10.0, 0)
        assert words in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("judges", [0, 1, 4])
def test_very_few_who_judge_are_not_counted_out(judges: int) -> None:
    fit, judge = cohorts(TARGET, 400)
    found = recalibrate(true_clock(), fit, judge.head(judges), 10.0, 0)
    assert not found.ratios
    assert "of fewer than 5 other people" in found.markdown()
