"""Kaplan–Meier against lifelines, calibration and Brier scores against closed forms and simulated cohorts."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lifelines import KaplanMeierFitter

from henaw.errors import BadInput
from henaw.evaluation.bootstrap import bootstrap
from henaw.evaluation.survival import (
    brier_of,
    calibration_of,
    integrated_brier_of,
    kaplan_meier,
    observed_risk_of,
    risk_calibration,
)

WHOLE = np.ones((20_000, 1))


def simulate(people=20_000, seed=0, censoring=0.05):
    """Exponential survival with known hazards a year, in whole months; follow-up ends at random or after 15 years."""
    random = np.random.default_rng(seed)
    hazard = 0.02 * np.exp(random.normal(0, 1, people))
    death, end = random.exponential(1 / hazard), np.minimum(random.exponential(1 / censoring, people), 15.0)
    years = np.ceil(np.minimum(death, end) * 12) / 12
    return hazard, years, (death <= end).astype(float), death


@pytest.fixture(scope="module")
def cohort():
    return simulate()


def test_kaplan_meier_equals_lifelines(cohort):
    _, years, died, _ = cohort
    ours, theirs = kaplan_meier(years[:500], died[:500]), KaplanMeierFitter().fit(years[:500], died[:500])
    np.testing.assert_allclose(ours.survival, theirs.survival_function_at_times(ours.years).to_numpy(), rtol=1e-12)
    table = theirs.event_table.loc[ours.years]
    np.testing.assert_array_equal(ours.at_risk, table["at_risk"])
    np.testing.assert_array_equal(ours.deaths, table["observed"])
    lower, upper = theirs.confidence_interval_.loc[ours.years].to_numpy().T
    begun = ours.survival < 1
    np.testing.assert_allclose(ours.interval()[0][begun], lower[begun], rtol=1e-9)
    np.testing.assert_allclose(ours.interval()[1][begun], upper[begun], rtol=1e-9)


def test_kaplan_meier_without_censoring_counts_the_living():
    years = np.array([1.0, 2.0, 2.0, 5.0])
    curve = kaplan_meier(years, np.ones(4))
    np.testing.assert_allclose(curve.at([0.5, 1, 1.5, 2, 4.9, 5, 9]), [1, 0.75, 0.75, 0.25, 0.25, 0, 0], atol=1e-15)
    assert np.isnan(curve.interval()[0][-1])


@given(st.integers(0, 2**32))
@example(71190)  # the last death is of someone who was not drawn
def test_statistics_of_weights_are_those_of_repeated_people(seed):
    hazard, years, died, _ = simulate(60, seed, censoring=0.2)
    drawn = np.random.default_rng(seed).integers(60, size=60)
    weights = np.bincount(drawn, minlength=60)[:, None].astype(float)
    grid = np.array([1.0, 2.5])
    if years[drawn].max() <= grid[-1]:
        return
    alive = np.exp(-hazard[:, None] * grid)
    repeated = alive[drawn], grid, years[drawn], died[drawn]
    np.testing.assert_allclose(brier_of(alive, grid, years, died)(weights), brier_of(*repeated)(WHOLE[:60]))
    risk, seen = 1 - alive[:, 1], (years[drawn], died[drawn])
    assert observed_risk_of(years, died, 2.5)(weights)[0] == pytest.approx(1 - kaplan_meier(*seen).at(2.5))
    found = calibration_of(risk, years, died, 2.5)(weights)[0]
    assert found == pytest.approx((1 - kaplan_meier(*seen).at(2.5)) / risk[drawn].mean())


def by_hand(alive, time, years, died):
    """The Brier score of Graf et al. written out person by person."""

    def uncensored(moment, inclusive):
        product = 1.0
        for end in np.unique(years[died == 0]):
            if end < moment or (inclusive and end == moment):
                at_risk = np.sum(years >= end) - np.sum((years == end) & (died == 1))
                product *= 1 - np.sum((years == end) & (died == 0)) / at_risk
        return product

    total = 0.0
    for probability, end, death in zip(alive, years, died, strict=True):
        if end > time:
            total += (1 - probability) ** 2 / uncensored(time, inclusive=True)
        elif death:
            total += probability**2 / uncensored(end, inclusive=False)
    return total / len(years)


def test_brier_score_is_grafs():
    hazard, years, died, _ = simulate(80, seed=3, censoring=0.2)
    grid = np.array([0.5, 2.0, 4.0])
    alive = np.exp(-hazard[:, None] * grid)
    expected = [by_hand(column, time, years, died) for column, time in zip(alive.T, grid, strict=True)]
    np.testing.assert_allclose(brier_of(alive, grid, years, died)(WHOLE[:80])[0], expected, rtol=1e-12)


def test_brier_score_under_censoring_is_that_of_complete_follow_up(cohort):
    hazard, years, died, death = cohort
    grid = np.array([3.0, 6.0, 9.0])
    alive = np.exp(-hazard[:, None] * grid)
    complete = np.mean((alive - (death[:, None] > grid)) ** 2, axis=0)
    found = bootstrap({"brier": brier_of(alive, grid, years, died)}, range(20_000), draws=60)["brier"]
    np.testing.assert_array_less(np.abs(found.value - complete), 2 * found.draws.std(axis=0))
    wrong = brier_of(np.clip(alive - 0.1, 0, 1), grid, years, died)(WHOLE)[0]
    assert (wrong > found.value).all()


def test_integrated_brier_score_of_a_coin():
    years, died = np.array([2.0, 4.0, 6.0, 20.0]), np.array([1.0, 1.0, 1.0, 0.0])
    grid = np.arange(0.1, 10.01, 0.1)
    found = integrated_brier_of(np.full((4, 100), 0.5), grid, years, died)(WHOLE[:4])
    assert found == pytest.approx(0.25 * (10 - 0.05) / 10)  # a quarter always, but it begins at 0
    truth = (years[:, None] > grid).astype(float)
    assert integrated_brier_of(truth, grid, years, died)(WHOLE[:4]) == 0


def test_brier_score_beyond_the_follow_up_is_refused():
    with pytest.raises(BadInput, match="at 5 years"):
        brier_of(np.ones((3, 1)), np.array([5.0]), np.array([1.0, 2.0, 5.0]), np.zeros(3))


def test_known_hazards_are_calibrated_and_twice_as_much_is_half(cohort):
    hazard, years, died, _ = cohort
    risk = 1 - np.exp(-10 * hazard)
    statistics = {"true": calibration_of(risk, years, died, 10.0), "double": calibration_of(2 * risk, years, died, 10)}
    found = bootstrap(statistics, range(20_000), draws=200)
    estimate = found["true"].estimate()
    assert estimate.lower < 1 < estimate.upper
    assert estimate.upper - estimate.lower < 0.08
    np.testing.assert_allclose(2 * found["double"].draws, found["true"].draws)


def test_deciles_of_known_risk(cohort):
    hazard, years, died, _ = cohort
    table = risk_calibration(1 - np.exp(-10 * hazard), years, died, 10.0, range(20_000), draws=200)
    assert list(table["group"]) == list(range(1, 11))
    assert (table["n"] == 2000).all()
    assert table["expected"].is_monotonic_increasing
    inside = (table["ratio_lower"] <= 1) & (table["ratio_upper"] >= 1)
    assert inside.sum() >= 8
    np.testing.assert_allclose(table["ratio"], table["observed"] / table["expected"])
    assert (table["observed_lower"] <= table["observed"]).all()
    assert (table["observed"] <= table["observed_upper"]).all()


def test_deciles_with_few_deaths_show_none():
    people = np.arange(200)
    risk = people / 1000
    died = np.isin(people, [3, 21, 22, 23, 24, 25, 26, 41, 42, 61, 62, 63]) | (people >= 80)
    years = np.where(died, 1.0, 9.0)
    table = risk_calibration(risk, years, died.astype(float), 5.0, people, draws=20).set_index("group")
    hidden = table.index[table["observed"].isna()].tolist()
    assert hidden == [1, 3, 4]  # 1, 2 and 3 deaths; together at least five, so that nobody can work them out
    assert table.loc[hidden, ["ratio", "ratio_lower", "observed_upper"]].isna().all(axis=None)
    two_visits = risk_calibration(risk, years, died.astype(float), 5.0, people // 2, draws=20).set_index("group")
    assert np.isnan(two_visits.loc[2, "observed"])  # six deaths on paper, four people


@pytest.mark.parametrize(
    ("years", "died"), [([], []), ([1.0, 2.0], [1.0]), ([1.0, np.nan], [1.0, 0.0]), ([1.0, 2.0], [np.nan, 0.0])]
)
def test_follow_up_that_is_not_known_is_refused(years, died):
    with pytest.raises(BadInput, match="survival"):
        kaplan_meier(np.array(years), np.array(died))
