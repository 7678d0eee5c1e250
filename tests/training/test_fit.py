"""A fitted clock says what is known of a simulated cohort, its uncertainty included, and depends on whom it should."""

import numpy as np
import pandas as pd
import pytest

from henaw.config import Config
from henaw.errors import BadInput, EnvironmentProblem
from henaw.model.answers import answer
from henaw.model.clock import Clock
from henaw.model.features import fit_scaling, raw_features
from henaw.training.fit import fit_clock, people_arrays
from tests.scenarios import BLOOD9, KNOWN, LOOSE_SD, TIGHT_SD, Recorder, blood_rows, known_cohort, tiny_config

ENOUGH = (
    "network.members=4 network.hidden=[32,32] training.epochs=40 training.batch_size=250 training.learning_rate=0.01 "
    "training.mask_rate=0.05"
)


@pytest.fixture(scope="module", params=["crps", "nll"])
def fitted(request: pytest.FixtureRequest) -> tuple[Clock, list[dict[str, float]]]:
    """A clock of people whose age given their markers is known."""
    config = tiny_config(f"{ENOUGH} training.loss={request.param}")
    people, calibration = known_cohort(4000, 0).table, known_cohort(2000, 1).table
    return fit_clock(people, calibration, KNOWN, config, Recorder())


def quickly(people: pd.DataFrame, calibration: pd.DataFrame, config: Config | None = None) -> Clock:
    return fit_clock(people, calibration, BLOOD9, config or tiny_config("training.epochs=1"), Recorder())[0]


def test_the_known_distribution_of_everybodys_age_is_recovered(fitted: tuple[Clock, list[dict[str, float]]]) -> None:
    """New people: the predicted mean is μ(x), the spread σ(x), and people of both groups are where they should be."""
    clock, _ = fitted
    cohort = known_cohort(4000, 2)
    biomarkers, sex, age = people_arrays(cohort.table, KNOWN)
    distribution = clock.predict(biomarkers, sex)
    usual = np.abs(biomarkers[:, 0]) < 2  # where there are people enough to learn from
    tight, loose = usual & (cohort.sd == TIGHT_SD), usual & (cohort.sd == LOOSE_SD)
    assert np.abs(distribution.median - cohort.mean)[tight].mean() < 0.4
    assert np.abs(distribution.median - cohort.mean)[loose].mean() < 0.9
    assert distribution.aleatoric_sd[tight].mean() == pytest.approx(TIGHT_SD, rel=0.15)
    assert distribution.aleatoric_sd[loose].mean() == pytest.approx(LOOSE_SD, rel=0.1)
    for group in (tight, loose):
        covered = (distribution.cdf(age) > 0.05) & (distribution.cdf(age) < 0.95)
        assert covered[group].mean() == pytest.approx(0.9, abs=0.035)


def test_without_the_marker_that_tells_looseness_the_interval_lies_between(
    fitted: tuple[Clock, list[dict[str, float]]],
) -> None:
    clock, _ = fitted
    rows = known_cohort(200, 3).table.assign(looseness=np.nan)
    answers = answer(clock, rows, 0.9)
    assert answers["flags"].str.contains("missing:looseness").all()
    spread = answers["aleatoric_sd_years"].astype(float)
    assert TIGHT_SD + 0.5 < spread.median() < LOOSE_SD - 0.5


def test_the_adjusted_gap_has_nothing_to_do_with_age(fitted: tuple[Clock, list[dict[str, float]]]) -> None:
    clock, _ = fitted
    rows = known_cohort(4000, 4).table
    answers = answer(clock, rows, 0.9)
    age = rows["age_years"].to_numpy()
    assert abs(np.corrcoef(answers["age_gap_years"].astype(float), age)[0, 1]) > 0.3
    assert abs(np.corrcoef(answers["age_gap_adjusted_years"].astype(float), age)[0, 1]) < 0.1


def test_the_history_is_of_every_epoch(fitted: tuple[Clock, list[dict[str, float]]]) -> None:
    _, history = fitted
    assert [row["epoch"] for row in history] == list(range(len(history)))
    assert history[-1]["validation_loss"] < history[0]["validation_loss"]


def test_scaling_and_ranges_are_of_the_training_people_alone() -> None:
    people, calibration = blood_rows(200, 0), blood_rows(60, 1)
    strange = calibration.assign(crp_mg_l=calibration["crp_mg_l"] * 2, age_years=calibration["age_years"] + 40)
    one, other = quickly(people, calibration), quickly(people, strange)
    expected = fit_scaling(raw_features(BLOOD9, people[list(BLOOD9.names)].to_numpy()))
    for clock in (one, other):
        np.testing.assert_array_equal(clock.scaling.center, expected.center)
        np.testing.assert_array_equal(clock.scaling.scale, expected.scale)
        assert clock.shape.center_years == people["age_years"].mean()
        assert clock.shape.scale_years == pytest.approx(people["age_years"].std(ddof=0))
        for position, name in enumerate(BLOOD9.names):
            ascending = np.sort(people[name])
            assert clock.trained_on.lowest[position] == pytest.approx(ascending[:5].mean())
            assert clock.trained_on.highest[position] == pytest.approx(ascending[-5:].mean())
        assert clock.trained_on.ages == (30, 69)
    assert one.gap != other.gap, "the regression of the gap is the calibration people's"


def test_the_gaps_regression_is_fitted_on_the_calibration_people() -> None:
    calibration = blood_rows(60, 1)
    clock = quickly(blood_rows(200, 0), calibration)
    answers = answer(clock, calibration, 0.9)
    adjusted = answers["age_gap_adjusted_years"].astype(float)
    assert adjusted.mean() == pytest.approx(0, abs=1e-9)
    assert np.corrcoef(adjusted, calibration["age_years"])[0, 1] == pytest.approx(0, abs=1e-9)


def test_the_settings_shape_the_clock() -> None:
    config = tiny_config(
        "network.members=2 network.hidden=[5,6] network.sd_floor_years=1.5 scoring.max_missing=1 training.epochs=1"
    )
    clock = quickly(blood_rows(60, 0), blood_rows(20, 1), config)
    assert (clock.shape.members, clock.shape.hidden, clock.shape.sd_floor_years) == (2, (5, 6), 1.5)
    assert clock.max_missing == 1
    assert clock.shape.inputs == 2 * (len(BLOOD9.names) + len(BLOOD9.derived)) + 1
    assert {name: values.shape for name, values in clock.weights.items()} == clock.shape.parameter_shapes()


def test_fitting_twice_is_bitwise_the_same_and_another_seed_another_clock() -> None:
    people, calibration = blood_rows(200, 0), blood_rows(60, 1)
    one, again, other = (
        quickly(people, calibration, tiny_config(f"seed={seed} network.dropout=0.2")) for seed in (5, 5, 6)
    )
    for name, values in one.weights.items():
        np.testing.assert_array_equal(values, again.weights[name])
    assert one.gap == again.gap
    assert not np.array_equal(one.weights["layer0.weight"], other.weights["layer0.weight"])


def test_markers_that_nobody_or_hardly_anybody_has_do_no_harm() -> None:
    people = blood_rows(200, 0)
    people["crp_mg_l"] = np.nan
    people.loc[3:, "rdw_pct"] = np.nan
    people["albumin_g_l"] = 44.1
    clock = quickly(people, blood_rows(60, 1))
    assert np.isnan(clock.trained_on.lowest[[BLOOD9.names.index("crp_mg_l"), BLOOD9.names.index("rdw_pct")]]).all()
    answers = answer(clock, blood_rows(10, 2), 0.9)
    assert np.isfinite(answers["biological_age_years"].astype(float)).all()
    assert not answers["flags"].str.contains("crp_mg_l|rdw_pct").any()


@pytest.mark.parametrize(("people", "calibration"), [(4, 20), (20, 4), (0, 20), (20, 0)])
def test_too_few_people_are_refused(people: int, calibration: int) -> None:
    with pytest.raises(BadInput, match=r"^training: expected at least 5 people"):
        quickly(blood_rows(people, 0), blood_rows(calibration, 1))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="no GPU"):
        quickly(blood_rows(20, 0), blood_rows(20, 1), tiny_config("training.device=cuda"))
