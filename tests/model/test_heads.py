"""A member's outputs, whatever they are, are a quantile function; the special cases are those of scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from scipy.special import expit, ndtri
from scipy.stats import norm

from henaw.model.bins import BinsHead
from henaw.model.heads import Head, QuantileHead
from henaw.model.losses import quantile_function
from tests.scenarios import BINS, BOUNDED, GAUSSIAN, HEADS, OWN_AGE, QUANTILE_HEADS, UNBENT

Array = NDArray[np.float64]

LEVELS = np.array([1e-6, 0.001, 0.05, 0.1, 0.2, 0.3, 0.5, 0.6, 0.8, 0.9, 0.95, 0.999, 1 - 1e-6])
AGES = np.array([31.0, 52.5, 70.0])

every_head = pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
every_quantile_head = pytest.mark.parametrize("head", QUANTILE_HEADS.values(), ids=QUANTILE_HEADS)


def drawn(head: Head, seed: int = 0, size: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(0, size, (4, len(AGES), head.outputs))


@every_head
@given(data=st.data(), levels=st.lists(st.floats(1e-12, 1 - 1e-12), min_size=2, max_size=9))
@settings(max_examples=100)
def test_quantiles_never_fall_as_the_level_rises(head: Head, data: st.DataObject, levels: list[float]) -> None:
    size = data.draw(st.sampled_from([3.0, 100.0, 1e6]))
    outputs = data.draw(arrays(float, (2, 3, head.outputs), elements=st.floats(-size, size)))
    quantiles = head.quantiles(outputs, ndtri(np.sort(levels)), AGES)
    assert np.isfinite(quantiles).all()
    rounding = 1e-13 * (1 + np.abs(quantiles[..., 1:]))
    assert (np.diff(quantiles) >= -rounding).all()


@every_head
def test_quantiles_of_usual_outputs_rise_strictly(head: Head) -> None:
    assert (np.diff(head.quantiles(drawn(head), ndtri(LEVELS), AGES)) > 0).all()


def test_without_knots_the_identity_is_scipys_gaussian() -> None:
    outputs = drawn(GAUSSIAN)
    location, sd = outputs[..., :1], np.log1p(np.exp(outputs[..., 1:]))
    expected = norm.ppf(LEVELS, 50 + 12 * location, 12 * sd)
    np.testing.assert_allclose(GAUSSIAN.quantiles(outputs, ndtri(LEVELS), AGES), expected, rtol=1e-12)
    around_own_age = norm.ppf(LEVELS, AGES[:, None] + 10 * location, 10 * sd)
    np.testing.assert_allclose(OWN_AGE.quantiles(outputs, ndtri(LEVELS), AGES), around_own_age, rtol=1e-12)


def test_one_knot_in_the_middle_is_the_two_piece_normal() -> None:
    """Fechner's: halves of two Gaussians, which meet at the median."""
    head = QuantileHead(knots=(0.5,), link="identity", center=50.0, scale=12.0, low=0.0, high=0.0)
    outputs = drawn(head)
    below, above = np.moveaxis(12 * np.log1p(np.exp(outputs[..., 1:])), -1, 0)[..., None]
    z = ndtri(LEVELS)
    expected = 50 + 12 * outputs[..., :1] + np.where(z < 0, below, above) * z
    np.testing.assert_allclose(head.quantiles(outputs, z, AGES), expected, rtol=1e-12)


def test_slopes_between_knots_are_those_of_the_outputs() -> None:
    """Hand-worked: knots at Φ(±1); 2 below −1, 1 between, 3 above +1."""
    head = QuantileHead(knots=(norm.cdf(-1), norm.cdf(1)), link="identity", center=0.0, scale=1.0, low=0.0, high=0.0)
    outputs = np.array([0.5, *np.log(np.expm1([2.0, 1.0, 3.0]))])[None, None]
    quantiles = head.quantiles(outputs, np.array([-3.0, -1.0, 0.0, 0.25, 1.0, 2.0]), np.zeros(1))
    np.testing.assert_allclose(quantiles[0, 0], [0.5 - 1 - 4, 0.5 - 1, 0.5, 0.75, 0.5 + 1, 0.5 + 1 + 3], atol=1e-9)


@pytest.mark.parametrize("head", [BOUNDED, UNBENT, BINS], ids=["bounded", "unbent", "bins"])
@given(data=st.data())
@settings(max_examples=100)
def test_what_has_a_support_stays_within_it(head: QuantileHead | BinsHead, data: st.DataObject) -> None:
    outputs = data.draw(arrays(float, (2, 3, head.outputs), elements=st.floats(-1e3, 1e3)))
    quantiles = head.quantiles(outputs, ndtri(np.array([1e-300, 1e-9, *LEVELS, 1 - 1e-16])), AGES)
    assert (quantiles >= head.low).all()
    assert (quantiles <= head.high).all()


def test_the_logit_is_the_latent_quantile_carried_over() -> None:
    outputs, z = drawn(BOUNDED), ndtri(LEVELS)
    plain = QuantileHead(BOUNDED.knots, "identity", center=0.0, scale=1.0, low=0.0, high=0.0)
    expected = 19.5 + 60 * expit(plain.quantiles(outputs, z, AGES))
    np.testing.assert_allclose(BOUNDED.quantiles(outputs, z, AGES), expected, rtol=1e-12)


@every_quantile_head
def test_the_median_is_told_by_the_first_output_alone(head: QuantileHead) -> None:
    outputs = drawn(head)
    spread = np.concatenate([outputs[..., :1], drawn(head, 1)[..., 1:]], axis=-1)
    z = np.zeros(1)
    np.testing.assert_allclose(head.quantiles(outputs, z, AGES), head.quantiles(spread, z, AGES), rtol=1e-12)


@every_head
def test_one_level_for_each_person_is_the_same_function(head: Head) -> None:
    outputs, z = drawn(head), np.array([-2.3, 0.1, 1.7])
    every = head.quantiles(outputs, z, AGES)
    np.testing.assert_allclose(head.quantiles_at(outputs, z, AGES), np.einsum("knn->kn", every), rtol=1e-12)


@every_head
def test_nothing_that_is_given_is_changed(head: Head) -> None:
    outputs, ages = drawn(head), AGES.copy()
    head.quantiles(outputs, ndtri(LEVELS), ages)
    head.quantiles_at(outputs, np.ones(3), ages)
    np.testing.assert_array_equal(outputs, drawn(head))
    np.testing.assert_array_equal(ages, AGES)


@every_quantile_head
def test_training_and_answering_mean_the_same_by_the_outputs(head: QuantileHead) -> None:
    """PyTorch in single precision, numpy in double: equal to a ten-thousandth of a year."""
    outputs, z = drawn(head, size=2.0), ndtri(LEVELS)
    quantiles = quantile_function(head, z, torch.device("cpu"))
    found = quantiles(torch.tensor(outputs, dtype=torch.float32), torch.tensor(AGES, dtype=torch.float32))
    np.testing.assert_allclose(found.numpy(), head.quantiles(outputs, z, AGES), rtol=1e-6, atol=1e-4)


@every_quantile_head
def test_an_untrained_member_is_centered_and_about_as_wide_as_the_ages(head: QuantileHead) -> None:
    start = np.broadcast_to(head.initial_bias(), (1, 3, head.outputs))
    assert head.initial_bias().shape == (head.outputs,)
    low, middle, high = np.moveaxis(head.quantiles(start, ndtri(np.array([0.1, 0.5, 0.9])), AGES)[0], -1, 0)
    center = AGES if head.center is None else 50.0 if head.link == "identity" else (head.low + head.high) / 2
    np.testing.assert_allclose(middle, center)
    spread = head.scale if head.link == "identity" else (head.high - head.low) / 12**0.5
    assert (high - low > spread).all()
    assert (high - low < 4 * spread).all()


@every_head
def test_nobody_is_no_error(head: Head) -> None:
    nobody = np.empty((4, 0, head.outputs))
    assert head.quantiles(nobody, ndtri(LEVELS), np.empty(0)).shape == (4, 0, len(LEVELS))
    assert head.quantiles_at(nobody, np.empty(0), np.empty(0)).shape == (4, 0)
