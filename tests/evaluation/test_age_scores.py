"""Scores of each person against closed forms."""

import numpy as np
import pytest
import scoringrules
from scipy.special import ndtr

from henaw.evaluation.age_scores import age_scores, misplaced_of, mixture_scores, year_of_age_nll
from henaw.model.calibration import identity
from henaw.model.distribution import EnsembleDistribution
from henaw.model.heads import QuantileHead
from tests.scenarios import people_of

HEAD = QuantileHead(knots=(), link="identity", center=50.0, scale=10.0, low=0.0, high=0.0)
COVERAGES = [0.5, 0.9]


def one_member(people=200, seed=0):
    """Gaussian predictions of one member; mean, standard deviation and a true age besides."""
    rng = np.random.default_rng(seed)
    outputs = rng.normal(0, 0.5, (1, people, 2))
    mean, sd = 50 + 10 * outputs[0, :, 0], 10 * np.logaddexp(0, outputs[0, :, 1])
    age = np.floor(mean + sd * rng.normal(size=people))
    return EnsembleDistribution(HEAD, outputs, age, identity()), mean, sd, age


def test_scores_of_gaussians_are_those_of_the_closed_forms():
    distribution, mean, sd, age = one_member()
    scores = age_scores(distribution, age, COVERAGES)
    np.testing.assert_allclose(scores["mae_years"], np.abs(mean - age), atol=1e-9)
    np.testing.assert_allclose(scores["mean_error_years"], mean - age, atol=1e-9)
    exact = scoringrules.crps_normal(age, mean, sd)
    assert scores["crps_years"].mean() == pytest.approx(exact.mean(), rel=2e-4)
    assert scores["crps_99_years"].mean() == pytest.approx(1.01 * exact.mean(), rel=5e-3)
    np.testing.assert_array_equal(scores["coverage_90"], np.abs(age - mean) <= 1.6448536 * sd)
    np.testing.assert_allclose(scores["width_50_years"], 2 * 0.67448975 * sd, rtol=1e-6)
    np.testing.assert_allclose(scores["aleatoric_sd_years"], sd, rtol=1e-9)
    np.testing.assert_allclose(scores["epistemic_sd_years"], 0, atol=1e-6)


def test_likelihood_is_of_the_year_around_a_whole_age():
    distribution, mean, sd, age = one_member()
    expected = -np.log(ndtr((age + 0.5 - mean) / sd) - ndtr((age - 0.5 - mean) / sd))
    np.testing.assert_allclose(year_of_age_nll(distribution, age), expected, rtol=1e-6)
    np.testing.assert_allclose(year_of_age_nll(distribution, age + 0.3), expected, rtol=1e-6)
    assert year_of_age_nll(distribution, age + 1000).max() == pytest.approx(-np.log(1e-9))


def test_the_mixture_of_one_member_is_its_barycenter():
    distribution, _, _, age = one_member()
    ours, (mixture, median) = age_scores(distribution, age, COVERAGES), mixture_scores(distribution, age, COVERAGES)
    np.testing.assert_allclose(median, distribution.median, atol=1e-9)
    assert mixture.keys() <= ours.keys()
    for name, values in mixture.items():
        assert values.mean() == pytest.approx(ours[name].mean(), rel=0.01), name


def test_the_mixture_of_members_that_differ_is_wider_than_their_barycenter():
    distribution = people_of(HEAD, 100, members=8)
    ours, (mixture, _) = (scores(distribution, distribution.age, COVERAGES) for scores in (age_scores, mixture_scores))
    assert (mixture["width_90_years"] > ours["width_90_years"] - 1e-6).mean() > 0.95


def test_misplaced_people_are_those_who_would_have_to_move():
    even = (np.arange(1_000) + 0.5) / 1_000
    whole = np.ones((1_000, 1))
    assert misplaced_of(even)(whole)[0] == pytest.approx(0, abs=1e-12)
    assert misplaced_of(even / 2)(whole)[0] == pytest.approx(0.5)
    assert misplaced_of(np.ones(1_000))(whole)[0] == pytest.approx(0.9)
