"""A fitted clock says what is known of a simulated cohort, its uncertainty included, and depends on whom it should."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from henaw.config import Config
from henaw.errors import BadInput, EnvironmentProblem
from henaw.evaluation.concordance import harrell_c
from henaw.model.answers import answer, number_columns
from henaw.model.bins import BinsHead
from henaw.model.calibration import identity
from henaw.model.clock import Clock
from henaw.model.features import fit_scaling, raw_features
from henaw.model.hazard import fit_gompertz
from henaw.model.heads import Head, QuantileHead
from henaw.training.checkpoint import WrongRun
from henaw.training.checkpoints import Checkpoints
from henaw.training.fit import fit_clock, fit_pack, follow_up, people_arrays
from tests.scenarios import (
    BLOOD9,
    KNOWN,
    LOOSE_SD,
    TIGHT_SD,
    Recorder,
    blood_rows,
    known_cohort,
    mortal_cohort,
    tiny_config,
)

ENOUGH = (
    "network.members=4 network.hidden=[32,32] training.epochs=40 training.batch_size=250 training.learning_rate=0.01 "
    "training.mask_rate=0.05 training.input_noise=0"
)


@pytest.fixture(
    scope="module",
    params=[
        "network.head=quantiles",
        "network.head=gaussian",
        "network.head=gaussian training.loss=beta_nll",
        "network.head=bins network.bin_years=2 training.nll_weight=1",
    ],
)
def fitted(request: pytest.FixtureRequest) -> tuple[Clock, list[dict[str, float]]]:
    """A clock of people whose age given their markers is known."""
    config = tiny_config(f"{ENOUGH} {request.param}")
    people, calibration = known_cohort(4000, 0).table, known_cohort(2000, 1).table
    return fit_clock(people, calibration, KNOWN, config, Recorder())


def quickly(people: pd.DataFrame, calibration: pd.DataFrame, config: Config | None = None) -> Clock:
    return fit_clock(people, calibration, BLOOD9, config or tiny_config("training.epochs=1"), Recorder())[0]


def test_the_known_distribution_of_everybodys_age_is_recovered(fitted: tuple[Clock, list[dict[str, float]]]) -> None:
    """New people: the predicted mean is μ(x), the spread σ(x), and people of both groups are where they should be."""
    clock, _ = fitted
    cohort = known_cohort(4000, 2)
    biomarkers, sex, age = people_arrays(cohort.table, KNOWN)
    distribution = clock.predict(biomarkers, sex, age)
    usual = np.abs(biomarkers[:, 0]) < 2  # where there are people enough to learn from
    tight, loose = usual & (cohort.sd == TIGHT_SD), usual & (cohort.sd == LOOSE_SD)
    assert np.abs(distribution.median - cohort.mean)[tight].mean() < 0.4
    assert np.abs(distribution.median - cohort.mean)[loose].mean() < 0.9
    # logits of bins follow what is told to two years less sharply, and come out somewhat too wide
    binned = isinstance(clock.shape.head, BinsHead)
    assert distribution.aleatoric_sd[tight].mean() == pytest.approx(TIGHT_SD, rel=0.35 if binned else 0.15)
    assert distribution.aleatoric_sd[loose].mean() == pytest.approx(LOOSE_SD, rel=0.1)
    for group in (tight, loose):
        covered = (distribution.cdf(age) > 0.05) & (distribution.cdf(age) < 0.95)
        assert covered[group].mean() == pytest.approx(0.9, abs=0.07 if binned else 0.035)


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
        assert isinstance(clock.shape.head, QuantileHead)
        assert clock.shape.head.center == people["age_years"].mean()
        assert clock.shape.head.scale == pytest.approx(people["age_years"].std(ddof=0))
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
    # fitted to what float32 inputs led to
    assert adjusted.mean() == pytest.approx(0, abs=1e-6)
    assert np.corrcoef(adjusted, calibration["age_years"])[0, 1] == pytest.approx(0, abs=1e-6)


def test_the_settings_shape_the_clock() -> None:
    config = tiny_config(
        "network.members=2 network.hidden=[5,6] network.link=identity network.knots=[0.2,0.7] scoring.max_missing=1 "
        "training.epochs=1"
    )
    clock = quickly(blood_rows(60, 0), blood_rows(20, 1), config)
    assert (clock.shape.members, clock.shape.hidden) == (2, (5, 6))
    head = clock.shape.head
    assert isinstance(head, QuantileHead)
    assert (head.link, head.knots) == ("identity", (0.2, 0.7))
    assert clock.max_missing == 1
    assert clock.shape.inputs == 2 * (len(BLOOD9.names) + len(BLOOD9.derived)) + 1
    assert {name: values.shape for name, values in clock.weights.items()} == clock.shape.parameter_shapes()


@pytest.mark.parametrize(
    ("overrides", "head"),
    [
        ("network.head=bins", BinsHead(29.5, 70.5, 1.0)),
        ("network.head=bins network.bin_years=2.5", BinsHead(29.5, 70.5, 2.5)),
        ("network.head=gaussian", QuantileHead((), "identity", 50.0, 10.0, 29.5, 70.5)),
    ],
)
def test_the_settings_choose_the_head(overrides: str, head: Head) -> None:
    people = blood_rows(60, 0).assign(age_years=[30.0, *[40.0, 60.0] * 29, 70.0])
    found = quickly(people, people, tiny_config(f"{overrides} training.epochs=1")).shape.head
    if isinstance(found, QuantileHead):
        assert found.scale == pytest.approx(people["age_years"].std(ddof=0))
        found = replace(found, scale=10.0)
    assert found == head


@pytest.mark.parametrize(
    ("overrides", "fields"),
    [
        ("network.head=bins", r"network\.head\.center, .*network\.head\.width"),
        ("network.head=gaussian", r"network\.head\.knots, network\.head\.link"),
        ("network.head=bins network.bin_years=2", r"network\.head\.center, .*network\.head\.width"),
    ],
)
def test_a_run_does_not_go_on_with_another_head(tmp_path: Path, overrides: str, fields: str) -> None:
    people, calibration = blood_rows(60, 0), blood_rows(20, 1)
    for chosen in ("", overrides):
        config = tiny_config(f"training.epochs=2 {chosen}")
        saved = Checkpoints(tmp_path / "run", config.training)
        if chosen:
            with pytest.raises(WrongRun, match=fields):
                fit_clock(people, calibration, BLOOD9, config, Recorder(), saved)
        else:
            fit_clock(people, calibration, BLOOD9, config, Recorder(), saved)


def test_fitting_twice_is_bitwise_the_same_and_another_seed_another_clock() -> None:
    people, calibration = blood_rows(200, 0), blood_rows(60, 1)
    one, again, other = (
        quickly(people, calibration, tiny_config(f"seed={seed} network.dropout=0.2")) for seed in (5, 5, 6)
    )
    for name, values in one.weights.items():
        np.testing.assert_array_equal(values, again.weights[name])
    assert one.gap == again.gap
    assert not np.array_equal(one.weights["layer0.weight"], other.weights["layer0.weight"])


def test_clocks_of_a_pack_are_those_that_would_be_fitted_alone() -> None:
    people, calibration = blood_rows(200, 0), blood_rows(60, 1)
    configs = [tiny_config(f"training.learning_rate={rate} network.dropout=0.2") for rate in (0.01, 0.002)]
    clocks = dict(fit_pack(people, calibration, BLOOD9, configs, [Recorder(), Recorder()]))
    for number, config in enumerate(configs):
        clock, alone = clocks[number], quickly(people, calibration, config)
        assert isinstance(clock, Clock)
        assert clock.gap == alone.gap
        for name, values in alone.weights.items():
            np.testing.assert_array_equal(clock.weights[name], values)
        np.testing.assert_array_equal(clock.calibration.levels, alone.calibration.levels)


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


@pytest.mark.parametrize(("name", "value"), [("sex", None), ("sex", "other"), ("age_years", np.nan)])
@pytest.mark.parametrize("of_calibration", [False, True])
def test_people_without_sex_or_age_are_refused(name: str, value: object, of_calibration: bool) -> None:
    people, lacking = blood_rows(20, 0), blood_rows(20, 1)
    lacking[name] = lacking[name].where(lacking.index != 7, value)
    with pytest.raises(BadInput, match=r"^training: sex or age_years is missing or unknown for somebody"):
        quickly(*((people, lacking) if of_calibration else (lacking, people)))


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match="no GPU"):
        quickly(blood_rows(20, 0), blood_rows(20, 1), tiny_config("training.device=cuda"))


# --- support and calibration of the age clock ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ages", "support"),
    [((20.0, 79.0), (19.5, 79.5)), ((20.4, 79.9), (19.5, 80.5)), ((50.0, 50.0), (49.5, 50.5))],
    ids=["whole", "fractional", "one age"],
)
@pytest.mark.parametrize("head", ["quantiles", "bins"])
def test_the_support_holds_every_age_trained_on(
    head: str, ages: tuple[float, float], support: tuple[float, float]
) -> None:
    people = blood_rows(60, 0).assign(age_years=np.linspace(*ages, 60))
    clock = quickly(people, people, tiny_config(f"network.head={head} training.epochs=1"))
    assert isinstance(clock.shape.head, QuantileHead | BinsHead)
    assert (clock.shape.head.low, clock.shape.head.high) == support
    answers = answer(clock, people, 0.9999)
    assert (answers["lower_years"].astype(float) >= support[0]).all()
    assert (answers["upper_years"].astype(float) <= support[1]).all()


def test_calibration_repairs_a_clock_that_was_stopped_too_early() -> None:
    """After one epoch a network is far too wide; what it says of people like those it was calibrated on still holds."""
    hasty = "training.epochs=2 training.learning_rate=0.002 calibration.shrinkage=1 calibration.least_people=100"
    people, calibration = known_cohort(500, 0).table, known_cohort(3000, 1).table
    clock, _ = fit_clock(people, calibration, KNOWN, tiny_config(hasty), Recorder())
    cohort = known_cohort(3000, 2).table
    raw = replace(clock, calibration=identity())
    held = {}
    for name, made in (("raw", raw), ("calibrated", clock)):
        lower, upper = made.predict(*people_arrays(cohort, KNOWN)).interval(0.8)
        held[name] = ((lower <= cohort["age_years"]) & (cohort["age_years"] <= upper)).mean()
    assert held["calibrated"] == pytest.approx(0.8, abs=0.03)
    assert abs(held["raw"] - 0.8) > 0.05


@pytest.mark.parametrize(("least", "bands"), [(1000, 1), (300, 2), (100, 4)])
def test_bands_are_as_many_as_the_settings_and_the_people_allow(least: int, bands: int) -> None:
    config = tiny_config(f"training.epochs=1 calibration.bands=4 calibration.least_people={least}")
    clock, _ = fit_clock(known_cohort(200, 0).table, known_cohort(600, 1).table, KNOWN, config, Recorder())
    assert len(clock.calibration.levels) == bands
    assert clock.hazard is None


# --- the mortality clock ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal() -> Clock:
    config = tiny_config(
        "target=mortality network.members=3 network.hidden=[32] training.epochs=12 training.batch_size=250 "
        "training.learning_rate=0.01 training.mask_rate=0.05 training.input_noise=0"
    )
    return fit_clock(mortal_cohort(6000, 0).table, mortal_cohort(1500, 1).table, KNOWN, config, Recorder())[0]


def test_biological_age_is_found_from_deaths_alone(mortal: Clock) -> None:
    """New people: nearer to the truth than age, and a better order of who dies first."""
    cohort = mortal_cohort(3000, 2)
    biomarkers, sex, age = people_arrays(cohort.table, KNOWN)
    found = mortal.predict(biomarkers, sex, age).median
    truth = cohort.biological_age
    assert np.corrcoef(found, truth)[0, 1] > 0.97 > np.corrcoef(age, truth)[0, 1] + 0.03
    assert np.corrcoef(found - age, truth - age)[0, 1] > 0.9
    years, died = follow_up(cohort.table, 20)
    assert harrell_c(found, years, died) > harrell_c(age, years, died) + 0.02
    assert harrell_c(found, years, died) > harrell_c(truth, years, died) - 0.01


def test_its_hazard_is_the_populations_and_its_risk_holds(mortal: Clock) -> None:
    people = mortal_cohort(6000, 0).table
    years, died = follow_up(people, 20)
    assert mortal.target == "mortality"
    assert mortal.hazard == fit_gompertz(people["age_years"].to_numpy(), years, died)
    cohort = mortal_cohort(8000, 3)
    distribution = mortal.predict(*people_arrays(cohort.table, KNOWN))
    for horizon in (2.0, 5.0):  # nobody is censored before
        happened = (cohort.table["died"] == 1) & (cohort.table["followup_months"] <= 12 * horizon)
        assert mortal.hazard.risk(distribution, horizon).mean() == pytest.approx(happened.mean(), rel=0.15)


def test_nobody_can_calibrate_a_biological_age(mortal: Clock) -> None:
    np.testing.assert_array_equal(mortal.calibration.levels, identity().levels)
    rows = mortal_cohort(1500, 1).table
    adjusted = answer(mortal, rows, 0.9)["age_gap_adjusted_years"].astype(float)
    assert adjusted.mean() == pytest.approx(0, abs=1e-6)


def test_a_constant_and_an_absent_marker_do_the_mortality_clock_no_harm() -> None:
    people, calibration = (mortal_cohort(400, seed).table.assign(looseness=np.nan) for seed in (0, 1))
    people["signal"] = 4.2
    clock, _ = fit_clock(people, calibration, KNOWN, tiny_config("target=mortality training.epochs=1"), Recorder())
    answers = answer(clock, mortal_cohort(50, 2).table, 0.9)
    assert np.isfinite(answers[list(number_columns("mortality"))].astype(float)).all(axis=None)


def test_follow_up_is_capped_and_later_deaths_are_censored() -> None:
    table = pd.DataFrame({"followup_months": [12.0, 240.0, 240.1, 300.0, 0.0], "died": [1.0, 1, 1, 0, 0]})
    years, died = follow_up(table, 20)
    np.testing.assert_allclose(years, [1, 20, 20, 20, 0])
    np.testing.assert_array_equal(died, [1, 1, 0, 0, 0])


@pytest.mark.parametrize("name", ["died", "followup_months"])
@pytest.mark.parametrize("how", ["absent", "missing for one"])
def test_without_follow_up_there_is_no_mortality_clock(name: str, how: str) -> None:
    people = mortal_cohort(50, 0).table
    if how == "absent":
        people = people.drop(columns=name)
    else:
        people.loc[7, name] = np.nan
    with pytest.raises(BadInput, match=rf"^target mortality: column {name} is missing for somebody"):
        fit_clock(people, mortal_cohort(50, 1).table, KNOWN, tiny_config("target=mortality"), Recorder())


def test_without_deaths_there_is_no_mortality_clock() -> None:
    people = mortal_cohort(50, 0).table.assign(died=0.0)
    with pytest.raises(BadInput, match=r"^mortality: fewer than two deaths"):
        fit_clock(people, mortal_cohort(50, 1).table, KNOWN, tiny_config("target=mortality"), Recorder())
