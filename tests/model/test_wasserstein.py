"""The closed forms against POT, against quantile functions averaged numerically, and against the variance identity."""

import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.stats import norm

from henaw.model.wasserstein import gaussian_barycenter, gaussian_disagreement

Array = NDArray[np.float64]

ENSEMBLES = st.integers(1, 8).flatmap(
    lambda members: st.tuples(
        arrays(float, (members, 3), elements=st.floats(-120, 120)),
        arrays(float, (members, 3), elements=st.floats(0.01, 60)),
        arrays(float, members, elements=st.floats(0.01, 1)).map(lambda weights: weights / weights.sum()),
    )
)


@pytest.fixture(params=[None, [0.5, 0.2, 0.2, 0.05, 0.05]], ids=["equal", "weighted"])
def weights(request: pytest.FixtureRequest) -> Array | None:
    return None if request.param is None else np.array(request.param)


def ensemble(seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(55, 10, (5, 4)), rng.uniform(0.5, 12, (5, 4))


def test_barycenter_is_that_of_pot(weights: Array | None) -> None:
    means, sds = ensemble()
    mean, sd = gaussian_barycenter(means, sds, weights)
    for person in range(means.shape[1]):
        expected_mean, expected_variance = ot.gaussian.bures_wasserstein_barycenter(
            means[:, person, None], sds[:, person, None, None] ** 2, weights=weights
        )
        assert mean[person] == pytest.approx(expected_mean.item(), abs=1e-9)
        assert sd[person] == pytest.approx(expected_variance.item() ** 0.5, abs=1e-6)


def test_disagreement_is_pots_distance_between_quantiles(weights: Array | None) -> None:
    """POT transports 20,000 equally likely points of each member to those of the barycenter."""
    means, sds = ensemble()
    deviations = norm.ppf((np.arange(20_000) + 0.5) / 20_000)
    mean, sd = gaussian_barycenter(means, sds, weights)
    for person in range(means.shape[1]):
        squared = [
            ot.emd2_1d(means[k, person] + sds[k, person] * deviations, mean[person] + sd[person] * deviations)
            for k in range(len(means))
        ]
        expected = np.average(squared, weights=weights) ** 0.5
        assert gaussian_disagreement(means, sds, weights)[person] == pytest.approx(expected, rel=1e-4)


def test_barycenters_quantiles_are_the_average_of_the_members_quantiles(weights: Array | None) -> None:
    means, sds = ensemble()
    levels = np.linspace(0.001, 0.999, 999)
    mean, sd = gaussian_barycenter(means, sds, weights)
    members = norm.ppf(levels[:, None, None], means, sds)
    np.testing.assert_allclose(
        norm.ppf(levels[:, None], mean, sd), np.average(members, axis=1, weights=weights), atol=1e-9
    )


@given(ENSEMBLES)
@settings(max_examples=100, deadline=None)
def test_variances_add_up_to_that_of_the_mixture(drawn: tuple[Array, Array, Array]) -> None:
    means, sds, weights = drawn
    _, sd = gaussian_barycenter(means, sds, weights)
    pooled_mean = weights @ means
    mixture = weights @ (sds**2 + means**2) - pooled_mean**2
    np.testing.assert_allclose(sd**2 + gaussian_disagreement(means, sds, weights) ** 2, mixture, rtol=1e-9, atol=1e-7)


@given(ENSEMBLES)
@settings(max_examples=50, deadline=None)
def test_weights_select_and_equal_weights_are_the_default(drawn: tuple[Array, Array, Array]) -> None:
    means, sds, _ = drawn
    only_last = np.eye(len(means))[-1]
    np.testing.assert_array_equal(gaussian_barycenter(means, sds, only_last), (means[-1], sds[-1]))
    np.testing.assert_array_equal(gaussian_disagreement(means, sds, only_last), 0)
    equal = np.full(len(means), 1 / len(means))
    np.testing.assert_allclose(gaussian_barycenter(means, sds), gaussian_barycenter(means, sds, equal), atol=1e-9)


def test_members_that_agree_do_not_disagree() -> None:
    means, sds = np.full((4, 2), 61.5), np.full((4, 2), 3.25)
    np.testing.assert_array_equal(gaussian_barycenter(means, sds), (means[0], sds[0]))
    np.testing.assert_array_equal(gaussian_disagreement(means, sds), 0)
