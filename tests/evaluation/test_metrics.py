"""Scores against closed forms, an independent package (scoringrules) and their defining properties."""

import numpy as np
import pytest
import scoringrules
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from henaw.evaluation import metrics

FINITE = st.floats(-200, 200)


@pytest.fixture(scope="module")
def people():
    """Means, standard deviations and ages of 400 people."""
    random = np.random.default_rng(7)
    return random.uniform(20, 80, 400), random.uniform(0.5, 15, 400), random.uniform(20, 80, 400)


def test_errors_are_prediction_minus_truth():
    predicted, truth = np.array([50.0, 40.0, 61.0]), np.array([48.0, 44.0, 60.0])
    assert metrics.mean_error(predicted, truth) == pytest.approx(-1 / 3)
    assert metrics.mean_absolute_error(predicted, truth) == pytest.approx(7 / 3)
    assert metrics.root_mean_squared_error(predicted, truth) == pytest.approx(np.sqrt(7))


def test_pearson_r_equals_numpys(people):
    mean, _, age = people
    assert metrics.pearson_r(mean, mean + age) == pytest.approx(np.corrcoef(mean, mean + age)[0, 1], abs=1e-13)


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1.0, 1e200])
def test_pearson_r_of_a_line_is_one_at_any_scale(scale):
    x = np.array([1.0, 2.0, 4.0])
    assert metrics.pearson_r(scale * x, -x) == pytest.approx(-1)
    assert metrics.pearson_r(3 + x, scale * x) == pytest.approx(1)


@pytest.mark.parametrize("constant", [[0.1, 0.1, 0.1], [0.0, 0.0, 0.0]])
def test_pearson_r_of_a_constant_is_undefined(constant):
    assert metrics.pearson_r(np.array(constant), np.array([1.0, 2.0, 3.0])) is None
    assert metrics.pearson_r(np.array([1.0, 2.0, 3.0]), np.array(constant)) is None
    assert metrics.pearson_r(np.array([1.0]), np.array([2.0])) is None


def test_gaussian_crps_at_the_mean():
    sd = np.array([0.5, 1.0, 9.0])
    expected = sd * (np.sqrt(2) - 1) / np.sqrt(np.pi)
    np.testing.assert_allclose(metrics.crps_gaussian(np.full(3, 50.0), sd, np.full(3, 50.0)), expected, rtol=1e-14)


def test_gaussian_crps_equals_scoringrules(people):
    mean, sd, age = people
    np.testing.assert_allclose(
        metrics.crps_gaussian(mean, sd, age), scoringrules.crps_normal(age, mean, sd), rtol=1e-10
    )


def test_gaussian_crps_of_a_near_certain_prediction_is_the_absolute_error():
    score = metrics.crps_gaussian(np.array([50.0]), np.array([1e-9]), np.array([47.0]))
    np.testing.assert_allclose(score, 3.0, atol=1e-8)


def test_gaussian_crps_is_lowest_for_the_true_distribution():
    age = np.random.default_rng(3).normal(50, 8, 20_000)
    scores = {
        (shift, sd): metrics.crps_gaussian(np.full(20_000, 50.0 + shift), np.full(20_000, sd), age).mean()
        for shift in (-2.0, 0.0, 2.0)
        for sd in (5.0, 8.0, 12.0)
    }
    assert min(scores, key=lambda key: scores[key]) == (0.0, 8.0)


@given(mean=FINITE, sd=st.floats(0.1, 50), age=FINITE, shift=FINITE, scale=st.floats(0.1, 10))
def test_gaussian_crps_moves_and_scales_with_its_unit(mean, sd, age, shift, scale):
    one = metrics.crps_gaussian(np.array([mean]), np.array([sd]), np.array([age]))
    other = metrics.crps_gaussian(
        np.array([scale * mean + shift]), np.array([scale * sd]), np.array([scale * age + shift])
    )
    np.testing.assert_allclose(other, scale * one, rtol=1e-6, atol=1e-9)


def test_pinball_loss_equals_scoringrules(people):
    mean, sd, age = people
    levels = np.array([0.05, 0.5, 0.9])
    quantiles = mean[:, None] + sd[:, None] * norm.ppf(levels)
    expected = np.column_stack(
        [scoringrules.quantile_score(age, quantiles[:, k], level) for k, level in enumerate(levels)]
    )
    np.testing.assert_allclose(metrics.pinball_loss(quantiles, levels, age), expected, rtol=1e-12)


def test_crps_from_quantiles_equals_scoringrules(people):
    mean, sd, age = people
    levels = np.arange(1, 100) / 100
    quantiles = mean[:, None] + sd[:, None] * norm.ppf(levels)
    np.testing.assert_allclose(
        metrics.crps_from_quantiles(quantiles, levels, age),
        scoringrules.crps_quantile(age, quantiles, levels),
        rtol=1e-12,
    )


def test_crps_from_quantiles_at_midpoints_reaches_the_closed_form(people):
    mean, sd, age = people
    exact = metrics.crps_gaussian(mean, sd, age)
    levels = metrics.midpoint_levels(400)
    found = metrics.crps_from_quantiles(mean[:, None] + sd[:, None] * norm.ppf(levels), levels, age)
    assert found.mean() == pytest.approx(exact.mean(), rel=1e-4)
    percents = np.arange(1, 100) / 100
    rough = metrics.crps_from_quantiles(mean[:, None] + sd[:, None] * norm.ppf(percents), percents, age)
    assert 1.005 < rough.mean() / exact.mean() < 100 / 99


@given(count=st.integers(1, 500))
def test_midpoint_levels_are_symmetric_and_inside(count):
    levels = metrics.midpoint_levels(count)
    assert levels[0] > 0
    np.testing.assert_allclose(levels + levels[::-1], 1)
    np.testing.assert_allclose(np.diff(levels), 1 / count)


def test_intervals_are_closed_and_widths_are_means():
    lower, upper = np.array([40.0, 40.0, 40.0, 40.0]), np.array([50.0, 50.0, 52.0, 60.0])
    truth = np.array([40.0, 50.0, 52.1, 39.9])
    assert metrics.interval_coverage(lower, upper, truth) == 0.5
    assert metrics.interval_width(lower, upper) == 13.0


def test_coverages_from_the_pit_are_those_of_the_intervals_and_quantiles(people):
    mean, sd, age = people
    pit = norm.cdf(age, mean, sd)
    for level in (0.1, 0.5, 0.9):
        tail = sd * norm.ppf((1 + level) / 2)
        expected = metrics.interval_coverage(mean - tail, mean + tail, age)
        assert metrics.central_coverage(pit, np.array([level])) == expected
        assert metrics.quantile_coverage(pit, np.array([level])) == np.mean(age <= mean + sd * norm.ppf(level))


def test_who_lies_at_the_end_of_an_interval_is_inside():
    assert metrics.quantile_coverage(np.array([0.25, 0.75]), np.array([0.25])) == 0.5
    assert metrics.central_coverage(np.array([0.25, 0.75, 0.125]), np.array([0.5])) == pytest.approx(2 / 3)


def test_pit_histogram_counts_everybody_once():
    pit = np.array([0.0, 0.05, 0.25, 0.999, 1.0])
    assert metrics.pit_histogram(pit, 4).tolist() == [2, 1, 0, 2]


def test_pit_of_a_calibrated_prediction_is_uniform():
    random = np.random.default_rng(5)
    mean, sd = random.uniform(20, 80, 40_000), random.uniform(2, 15, 40_000)
    pit = norm.cdf(random.normal(mean, sd), mean, sd)
    levels = np.linspace(0.1, 0.9, 9)
    np.testing.assert_allclose(metrics.central_coverage(pit, levels), levels, atol=0.01)
    np.testing.assert_allclose(metrics.quantile_coverage(pit, levels), levels, atol=0.01)
    np.testing.assert_allclose(metrics.pit_histogram(pit, 10) / 40_000, 0.1, atol=0.01)
