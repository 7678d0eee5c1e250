"""The mixture against its definition: the average of the members' distribution functions."""

import numpy as np
import pytest
from scipy.special import ndtr

from henaw.evaluation.metrics import midpoint_levels
from henaw.evaluation.mixture import member_quantiles, mixture_survival, pooled, quantiles_of_pool
from henaw.model.heads import QuantileHead
from tests.scenarios import BINS, HAZARD, people_of

GAUSSIAN = QuantileHead(knots=(), link="identity", center=50.0, scale=10.0, low=0.0, high=0.0)
BENT = QuantileHead(knots=(0.1, 0.5, 0.9), link="logit", center=None, scale=1.0, low=20.0, high=80.0)


@pytest.mark.parametrize("head", [GAUSSIAN, BENT, BINS])
@pytest.mark.parametrize("calibrated", [False, True])
def test_the_members_average_to_the_barycenter(head, calibrated):
    distribution, levels = people_of(head, 50, calibrated=calibrated), np.array([0.05, 0.3, 0.5, 0.97])
    met = np.zeros(50)
    for rows, quantiles in member_quantiles(distribution, levels):
        np.testing.assert_allclose(quantiles.mean(axis=0), distribution.quantiles(levels)[rows], rtol=1e-12)
        met[rows] += 1
    assert (met == 1).all()


def test_the_pool_has_the_quantiles_of_the_averaged_distribution_functions():
    distribution = people_of(GAUSSIAN, 6, members=4)
    location = 50 + 10 * distribution.outputs[..., 0]
    scale = 10 * np.logaddexp(0, distribution.outputs[..., 1])
    levels = np.array([0.02, 0.25, 0.5, 0.9, 0.98])
    for rows, pool in pooled(distribution):
        found = quantiles_of_pool(pool, levels)
        for row, values in zip(rows, found, strict=True):
            probability = ndtr((values - location[:, row, None]) / scale[:, row, None]).mean(axis=0)
            np.testing.assert_allclose(probability, levels, atol=0.5 / 99)  # a member steps by 1/99


def test_quantiles_of_a_pool_invert_its_midpoints():
    pool = np.sort(np.random.default_rng(0).normal(size=(3, 40)), axis=1)
    np.testing.assert_allclose(quantiles_of_pool(pool, midpoint_levels(40)), pool, atol=1e-12)
    assert (quantiles_of_pool(pool, np.array([0.0, 1.0])) == pool[:, [0, -1]]).all()


@pytest.mark.parametrize("head", [BENT, BINS])
def test_variance_of_the_mixture_is_that_of_the_barycenter_and_the_members_distance(head):
    distribution = people_of(head, 40)
    for rows, pool in pooled(distribution):
        total = distribution.aleatoric_sd[rows] ** 2 + distribution.epistemic_sd[rows] ** 2
        np.testing.assert_allclose(pool.var(axis=1), total, rtol=0.03)


def test_survival_of_the_mixture_is_the_mean_of_the_members_survival():
    distribution, years = people_of(GAUSSIAN, 20), np.array([1.0, 5.0, 10.0])
    alone = []
    for member in range(distribution.outputs.shape[0]):
        only = type(distribution)(GAUSSIAN, distribution.outputs[[member]], distribution.age, distribution.calibration)
        alone.append(HAZARD.survival(only, years))
    np.testing.assert_allclose(mixture_survival(distribution, HAZARD, years), np.mean(alone, axis=0), rtol=1e-10)
