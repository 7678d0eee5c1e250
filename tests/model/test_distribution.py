"""One distribution a person: quantiles, interval, median and cdf all come from it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from henaw.errors import BadInput
from henaw.model.distribution import Distribution, GaussianEnsemble, central_levels

RNG = np.random.default_rng(0)
ENSEMBLE = GaussianEnsemble(RNG.normal(55, 8, (6, 7)), RNG.uniform(1, 9, (6, 7)))
ENSEMBLES = st.builds(
    GaussianEnsemble,
    arrays(float, (4, 3), elements=st.floats(-50, 150)),
    arrays(float, (4, 3), elements=st.floats(0.5, 50)),
)
LEVELS = st.floats(1e-6, 1 - 1e-6)


def test_it_is_a_distribution_and_the_barycenter_is_what_it_reports() -> None:
    distribution: Distribution = ENSEMBLE
    np.testing.assert_allclose(distribution.mean, ENSEMBLE.means.mean(axis=0))
    np.testing.assert_allclose(distribution.aleatoric_sd, ENSEMBLE.sds.mean(axis=0))
    expected = np.sqrt(ENSEMBLE.means.var(axis=0) + ENSEMBLE.sds.var(axis=0))
    np.testing.assert_allclose(distribution.epistemic_sd, expected)


def test_quantiles_and_cdf_are_those_of_scipys_gaussian() -> None:
    levels = np.array([0.01, 0.25, 0.5, 0.9, 0.999])
    expected = norm.ppf(levels, ENSEMBLE.mean[:, None], ENSEMBLE.aleatoric_sd[:, None])
    np.testing.assert_allclose(ENSEMBLE.quantiles(levels), expected, rtol=1e-12)
    values = ENSEMBLE.mean + np.linspace(-10, 10, 7)
    np.testing.assert_allclose(ENSEMBLE.cdf(values), norm.cdf(values, ENSEMBLE.mean, ENSEMBLE.aleatoric_sd), rtol=1e-12)


@given(ENSEMBLES, LEVELS)
@settings(max_examples=100, deadline=None)
def test_cdf_undoes_quantiles_and_the_median_is_the_middle(distribution: GaussianEnsemble, level: float) -> None:
    np.testing.assert_allclose(distribution.cdf(distribution.quantiles(np.array([level]))[:, 0]), level, atol=1e-9)
    np.testing.assert_array_equal(distribution.quantiles(np.array([0.5]))[:, 0], distribution.median)


@given(ENSEMBLES, st.lists(st.floats(0.001, 0.999), min_size=2, max_size=6, unique=True))
@settings(max_examples=100, deadline=None)
def test_intervals_are_nested_and_around_the_median(distribution: GaussianEnsemble, coverages: list[float]) -> None:
    ends = [distribution.interval(coverage) for coverage in sorted(coverages)]
    for (lower, upper), (wider_lower, wider_upper) in pairwise(ends):
        assert (wider_lower <= lower).all()
        assert (upper <= wider_upper).all()
        assert ((lower <= distribution.median) & (distribution.median <= upper)).all()


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95])
def test_an_interval_is_made_of_quantiles_and_holds_its_coverage(coverage: float) -> None:
    lower, upper = ENSEMBLE.interval(coverage)
    np.testing.assert_array_equal(np.stack([lower, upper], axis=1), ENSEMBLE.quantiles(central_levels(coverage)))
    np.testing.assert_allclose(ENSEMBLE.cdf(upper) - ENSEMBLE.cdf(lower), coverage, atol=1e-12)


def test_the_levels_of_ninety_percent_are_q05_and_q95() -> None:
    np.testing.assert_allclose(central_levels(0.9), [0.05, 0.95], rtol=1e-15)


@pytest.mark.parametrize("coverage", [0, 1, -0.1, 1.5, 90, np.nan, np.inf, -np.inf, 1 - 1e-16])
def test_an_impossible_coverage_is_refused(coverage: float) -> None:
    with pytest.raises(BadInput, match=r"^coverage: expected a number between 0 and 1"):
        ENSEMBLE.interval(coverage)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
@settings(max_examples=200, deadline=None)
def test_whatever_coverage_is_accepted_has_finite_ends(coverage: float) -> None:
    """The largest double below 1 would round to a quantile at level 1: infinity."""
    try:
        ends = ENSEMBLE.interval(coverage)
    except BadInput:
        assert coverage > 1 - 1e-15
    else:
        assert np.isfinite(ends).all()


def test_nobody_is_no_error() -> None:
    nobody = GaussianEnsemble(np.empty((3, 0)), np.empty((3, 0)))
    assert nobody.median.shape == nobody.epistemic_sd.shape == nobody.interval(0.9)[0].shape == (0,)
    assert nobody.quantiles(np.array([0.1, 0.9])).shape == (0, 2)
