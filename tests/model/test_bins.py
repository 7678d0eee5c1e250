"""Histograms of age: quantiles worked by hand, inverted by np.interp, and whole where probabilities underflow."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from henaw.model import ensemble
from henaw.model.bins import BinsHead
from henaw.model.wasserstein import NODES
from tests.scenarios import BINS, people_of

Array = NDArray[np.float64]

THREE = BinsHead(low=20.0, high=45.0, width=10.0)  # bins of 10, 10 and 5 years
ONE = BinsHead(low=49.5, high=50.5, width=2.0)


def of(head: BinsHead, levels: Array, logits: Array) -> Array:
    """Quantiles of one member and person."""
    return head.quantiles(logits[None, None], ndtri(levels), np.zeros(1))[0, 0]


def test_quantiles_worked_by_hand() -> None:
    """1/2, 1/4 and 1/4: the first half lies evenly between 20 and 30, the next quarter up to 40, the last up to 45."""
    levels = np.array([0.1, 0.25, 0.5, 0.625, 0.75, 0.875, 0.95])
    found = of(THREE, levels, np.log([2.0, 1.0, 1.0]))
    np.testing.assert_allclose(found, [22, 25, 30, 35, 40, 42.5, 44], rtol=1e-12)


@pytest.mark.parametrize(
    ("head", "edges"),
    [
        (THREE, [20, 30, 40, 45]),
        (ONE, [49.5, 50.5]),
        (BinsHead(19.5, 20.5, 0.25), [19.5, 19.75, 20, 20.25, 20.5]),
        (BinsHead(0.0, 2.1, 0.3), np.arange(8) * 0.3),
    ],
    ids=["narrow last", "wider than the support", "quarters", "seven bins, though 2.1 / 0.3 is more than 7"],
)
def test_bins_cover_the_support_and_the_last_may_be_narrower(head: BinsHead, edges: list[float]) -> None:
    np.testing.assert_allclose(head.edges, edges, rtol=1e-15, atol=1e-12)
    assert head.outputs == len(edges) - 1


@given(st.integers(0, 10_000), st.sampled_from([0.1, 1.0, 5.0]))
@settings(max_examples=50)
def test_quantiles_invert_the_piecewise_linear_distribution_function(seed: int, size: float) -> None:
    outputs = np.random.default_rng(seed).normal(0, size, (3, 4, BINS.outputs))
    probability = np.exp(outputs - outputs.max(axis=-1, keepdims=True))
    cumulative = np.concatenate([np.zeros((3, 4, 1)), probability.cumsum(axis=-1)], axis=-1)
    cumulative /= cumulative[..., -1:]
    quantiles = BINS.quantiles(outputs, NODES[np.abs(NODES) < 5], np.zeros(4))
    back = [
        np.interp(quantiles[member, person], BINS.edges, cumulative[member, person])
        for member in range(3)
        for person in range(4)
    ]
    np.testing.assert_allclose(back, np.tile(ndtr(NODES[np.abs(NODES) < 5]), (12, 1)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("gone", [-800.0, -1e6, -1e300], ids=str)
def test_a_bin_that_underflows_is_jumped_over(gone: float) -> None:
    """Nothing is lost or not a number where the distribution function is flat, at either end and in the middle."""
    levels = np.array([1e-300, 1e-9, 0.25, 0.499999, 0.500001, 0.75, 1 - 1e-9, 1.0])
    ends = of(THREE, levels, np.array([0.0, gone, 0.0]))
    np.testing.assert_allclose(ends, [20, 20, 25, 30, 40, 42.5, 45, 45], atol=1e-4)
    np.testing.assert_allclose(of(THREE, levels, np.array([gone, 0.0, gone]))[[0, 2, 5, 7]], [30, 32.5, 37.5, 40])
    on_the_edge = np.array([[[0.0, gone, 0.0]]]), np.zeros(1), np.zeros(1)
    assert THREE.quantiles(*on_the_edge).item() == THREE.quantiles_at(*on_the_edge).item() == 40


@given(data=st.data())
@settings(max_examples=100)
def test_whatever_the_logits_every_score_has_a_finite_quantile_within_the_support(data: st.DataObject) -> None:
    outputs = data.draw(arrays(float, (2, 3, BINS.outputs), elements=st.floats(-1e300, 1e300)))
    z = np.array([-np.inf, -40, -8.5, -3, 0, 3, 8.5, 40, np.inf])
    for quantiles in (BINS.quantiles(outputs, z, np.zeros(3)), BINS.quantiles_at(outputs, z[:3], np.zeros(3))):
        assert np.isfinite(quantiles).all()
        assert (quantiles >= BINS.low).all()
        assert (quantiles <= BINS.high).all()
    assert (np.diff(BINS.quantiles(outputs, z, np.zeros(3))) >= -1e-12).all()


def test_levels_may_come_in_any_order_and_more_than_once() -> None:
    outputs, z = np.random.default_rng(0).normal(0, 1, (2, 5, BINS.outputs)), np.array([1.0, -2.0, 0.3, -2.0, 1.5, 0.0])
    found = BINS.quantiles(outputs, z, np.zeros(5))
    ascending = BINS.quantiles(outputs, np.sort(z), np.zeros(5))
    np.testing.assert_array_equal(np.sort(found, axis=-1), ascending)
    for column, score in enumerate(z):
        alone = BINS.quantiles(outputs, np.array([score]), np.zeros(5))[..., 0]
        np.testing.assert_array_equal(found[..., column], alone)
    assert BINS.quantiles(outputs, np.empty(0), np.zeros(5)).shape == (2, 5, 0)


def test_an_untrained_member_finds_every_age_as_likely_as_any_other() -> None:
    levels = np.linspace(0.01, 0.99, 25)
    for head in (BINS, THREE, ONE):
        expected = head.low + (head.high - head.low) * levels
        np.testing.assert_allclose(of(head, levels, head.initial_bias()), expected, rtol=1e-12)


def test_people_alone_and_in_blocks_are_the_same() -> None:
    """Across the boundary of blocks, too, bit by bit."""
    people = ensemble.BLOCK_ROWS + 3
    outputs, z = np.random.default_rng(0).normal(0, 1, (2, people, BINS.outputs)), np.linspace(-3, 3, people)
    together = BINS.quantiles_at(outputs, z, np.zeros(people))
    for row in (0, 17, ensemble.BLOCK_ROWS - 1, ensemble.BLOCK_ROWS, people - 1):
        alone = BINS.quantiles_at(outputs[:, [row]], z[[row]], np.zeros(1))[:, 0]
        np.testing.assert_array_equal(alone, together[:, row])
        np.testing.assert_array_equal(BINS.quantiles(outputs[:, [row]], z[[row]], np.zeros(1))[:, 0, 0], alone)


def test_a_barycenter_of_members_that_are_sure_of_one_bin_lies_between() -> None:
    """Hand-worked: one member is sure of 20–30, the other of 30–40; half of the way is uniform between 25 and 35."""
    distribution = people_of(THREE, 1, members=2)
    distribution.outputs[:] = np.array([[[0.0, -900, -900]], [[-900, 0.0, -900]]])
    np.testing.assert_allclose(distribution.quantiles(np.array([0.1, 0.5, 0.9]))[0], [26, 30, 34], atol=1e-9)
    np.testing.assert_allclose(distribution.mean, 30, atol=0.01)
    np.testing.assert_allclose(distribution.aleatoric_sd, 10 / 12**0.5, atol=0.01)
    np.testing.assert_allclose(distribution.epistemic_sd, 5, atol=0.01)
    np.testing.assert_allclose(distribution.cdf(np.array([27.5])), 0.25, atol=1e-9)
