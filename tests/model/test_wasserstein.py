"""The barycenter against POT, against quantile functions averaged numerically, and against the variance identity."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import norm

from henaw.model.heads import Head
from henaw.model.wasserstein import NODE_WEIGHTS, NODES, barycenter, barycenter_moments
from tests.scenarios import BENT, BINS, BOUNDED, GAUSSIAN, UNBENT

Array = NDArray[np.float64]

PEOPLE = 4
MIDPOINTS = ndtri((np.arange(20_000) + 0.5) / 20_000)  # equally likely levels
ENSEMBLES = st.integers(1, 8).flatmap(
    lambda members: st.tuples(
        arrays(float, (members, 3), elements=st.floats(-120, 120)),
        arrays(float, (members, 3), elements=st.floats(0.01, 60)),
        arrays(float, members, elements=st.floats(0.01, 1)),
    )
)


@pytest.fixture(params=[None, [0.5, 0.2, 0.2, 0.05, 0.05], [5, 2, 2, 0.5, 0.5]], ids=["equal", "weighted", "unnormed"])
def weights(request: pytest.FixtureRequest) -> Array | None:
    return None if request.param is None else np.array(request.param)


def gaussians(seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(55, 10, (5, PEOPLE)), rng.uniform(0.5, 12, (5, PEOPLE))


def at(z: Array, means: Array, sds: Array) -> Array:
    """Quantiles (K, n, q) of Gaussians at scores ``z``."""
    return means[..., None] + sds[..., None] * z


def members_of(head: Head, z: Array, seed: int = 0) -> Array:
    outputs = np.random.default_rng(seed).normal(0, 0.7, (5, PEOPLE, head.outputs))
    return head.quantiles(outputs, z, np.full(PEOPLE, 50.0))


def normed(weights: Array | None) -> Array:
    return np.full(5, 0.2) if weights is None else weights / weights.sum()


def test_nodes_integrate_over_the_level() -> None:
    """E[Z⁰], E[Z], E[Z²], E[Z⁴] and E[exp(Z)] of a standard Gaussian."""
    for function, expected in ((np.ones_like, 1), (np.positive, 0), (np.square, 1), (np.exp, np.exp(0.5))):
        assert function(NODES) @ NODE_WEIGHTS == pytest.approx(expected, abs=1e-8)
    assert pytest.approx(3, abs=1e-7) == NODES**4 @ NODE_WEIGHTS
    assert (NODE_WEIGHTS > 0).all()


def test_gaussians_barycenter_is_that_of_pot(weights: Array | None) -> None:
    means, sds = gaussians()
    found = barycenter_moments(at(NODES, means, sds), weights)
    for person in range(PEOPLE):
        expected_mean, expected_variance = ot.gaussian.bures_wasserstein_barycenter(
            means[:, person, None], sds[:, person, None, None] ** 2, weights=normed(weights)
        )
        assert found.mean[person] == pytest.approx(expected_mean.item(), abs=1e-9)
        assert found.sd[person] == pytest.approx(expected_variance.item() ** 0.5, abs=1e-6)


@given(ENSEMBLES)
@settings(max_examples=100)
def test_moments_of_gaussians_are_exact(drawn: tuple[Array, Array, Array]) -> None:
    """Mean and sd of the barycenter are the weighted means; W2² between Gaussians is (m − m')² + (s − s')²."""
    means, sds, weights = drawn
    found = barycenter_moments(at(NODES, means, sds), weights)
    shares = weights / weights.sum()
    np.testing.assert_allclose(found.mean, shares @ means, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(found.sd, shares @ sds, rtol=1e-9)
    squared = shares @ ((means - shares @ means) ** 2 + (sds - shares @ sds) ** 2)
    np.testing.assert_allclose(found.disagreement, np.sqrt(squared), rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(
    "head", [GAUSSIAN, BENT, UNBENT, BOUNDED, BINS], ids=["gaussian", "bent", "unbent", "bounded", "bins"]
)
def test_disagreement_is_pots_distance_from_the_barycenter(head: Head, weights: Array | None) -> None:
    """POT transports 20,000 equally likely points of each member to those of the barycenter."""
    points = members_of(head, MIDPOINTS)
    center = barycenter(points, weights)
    found = barycenter_moments(members_of(head, NODES), weights)
    for person in range(PEOPLE):
        squared = [ot.emd2_1d(member, center[person]) for member in points[:, person]]
        expected = np.average(squared, weights=normed(weights)) ** 0.5
        assert found.disagreement[person] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("head", [GAUSSIAN, BOUNDED, BINS], ids=["gaussian", "bounded", "bins"])
def test_nothing_lies_nearer_to_the_members_than_their_barycenter(head: Head) -> None:
    """What makes it the barycenter: by POT, it has the least mean squared W2 distance, the mixture included."""
    points = members_of(head, MIDPOINTS[::10])
    center, rng = barycenter(points), np.random.default_rng(0)

    def distance(candidate: Array, person: int) -> float:
        return float(np.mean([ot.emd2_1d(member, candidate) for member in points[:, person]]))

    for person in range(PEOPLE):
        mixture = np.quantile(points[:, person], (np.arange(2000) + 0.5) / 2000)
        middle = center[person]
        others = [
            mixture,
            middle + 0.3,
            middle.mean() + 1.03 * (middle - middle.mean()),
            np.sort(middle + rng.normal(0, 0.3, 2000)),
            *points[:, person],
        ]
        assert all(distance(middle, person) < distance(other, person) for other in others)


def test_barycenters_quantiles_are_the_average_of_the_members_quantiles(weights: Array | None) -> None:
    levels = np.linspace(0.001, 0.999, 999)
    members = members_of(BOUNDED, ndtri(levels))
    expected = np.average(members, axis=0, weights=weights)
    np.testing.assert_allclose(barycenter(members, weights), expected, atol=1e-9)
    means, sds = gaussians()
    shares = normed(weights)
    expected = norm.ppf(levels, (shares @ means)[:, None], (shares @ sds)[:, None])
    np.testing.assert_allclose(barycenter(at(ndtri(levels), means, sds), weights), expected, atol=1e-9)


@given(ENSEMBLES)
@settings(max_examples=100)
def test_variances_add_up_to_that_of_the_mixture(drawn: tuple[Array, Array, Array]) -> None:
    means, sds, weights = drawn
    found = barycenter_moments(at(NODES, means, sds), weights)
    shares = weights / weights.sum()
    mixture = shares @ (sds**2 + means**2) - (shares @ means) ** 2
    np.testing.assert_allclose(found.sd**2 + found.disagreement**2, mixture, rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("head", [BENT, BOUNDED, BINS], ids=["bent", "bounded", "bins"])
def test_variances_add_up_for_every_form_of_member(head: Head, weights: Array | None) -> None:
    points, found = members_of(head, MIDPOINTS), barycenter_moments(members_of(head, NODES), weights)
    for person in range(PEOPLE):
        mean = normed(weights) @ points[:, person].mean(axis=1)
        mixture = normed(weights) @ ((points[:, person] - mean) ** 2).mean(axis=1)
        assert found.sd[person] ** 2 + found.disagreement[person] ** 2 == pytest.approx(mixture, rel=0.02)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("head", "years"),
    [(UNBENT, 0.001), (BENT, 0.03), (BOUNDED, 0.03), (BINS, 0.25)],
    ids=["0", "3", "5 knots", "14 bins"],
)
def test_the_nodes_stand_for_twenty_thousand_levels(head: Head, years: float, seed: int) -> None:
    """To a thousandth of a year where quantile functions are smooth; a bend between two nodes costs hundredths.

    These bins are coarse and without any order: up to a fifth of a year.
    """
    dense = members_of(head, MIDPOINTS, seed)
    found, center = barycenter_moments(members_of(head, NODES, seed)), dense.mean(axis=0)
    np.testing.assert_allclose(found.mean, center.mean(axis=1), atol=years)
    np.testing.assert_allclose(found.sd, center.std(axis=1), atol=years)
    expected = np.sqrt(((dense - center) ** 2).mean(axis=(0, 2)))
    np.testing.assert_allclose(found.disagreement, expected, atol=years)


@given(ENSEMBLES)
@settings(max_examples=50)
def test_weights_select_and_equal_weights_are_the_default(drawn: tuple[Array, Array, Array]) -> None:
    means, sds, _ = drawn
    quantiles = at(NODES, means, sds)
    only_last = np.eye(len(means))[-1]
    np.testing.assert_array_equal(barycenter(quantiles, only_last), quantiles[-1])
    np.testing.assert_array_equal(barycenter_moments(quantiles, only_last).disagreement, 0)
    np.testing.assert_allclose(barycenter(quantiles), barycenter(quantiles, np.full(len(means), 7.0)), atol=1e-9)


def test_members_that_agree_do_not_disagree() -> None:
    quantiles = at(NODES, np.full((4, 2), 61.5), np.full((4, 2), 3.25))
    found = barycenter_moments(quantiles)
    np.testing.assert_array_equal(barycenter(quantiles), quantiles[0])
    np.testing.assert_array_equal(found.disagreement, 0)
    np.testing.assert_allclose(found.sd, 3.25, rtol=1e-9)


def test_nobody_is_no_error() -> None:
    found = barycenter_moments(np.empty((4, 0, len(NODES))))
    assert found.mean.shape == found.sd.shape == found.disagreement.shape == (0,)
