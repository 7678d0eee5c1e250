"""Features are finite whatever the values, what is missing says so, and scaling withstands outliers and constants."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from henaw.data.panel import Panel
from henaw.model.features import (
    CLIP,
    RATIO_LIMITS,
    FeatureScaling,
    dependence,
    fit_scaling,
    log_ast_alt,
    raw_features,
)
from tests.scenarios import BLOOD9, KNOWN, blood_rows

NASTY = st.sampled_from([0.0, -0.0, -1.0, 5e-324, -5e-324, 1e-308, 1e308, 1.7e308, np.nan, np.inf, -np.inf, 30.0, 31.0])
VALUES = st.one_of(NASTY, st.floats(), st.floats(1, 5000))
LOG = np.array([marker.transform == "log" for marker in BLOOD9.biomarkers])


def blood_values(people: int) -> np.ndarray:
    return blood_rows(people, 0)[list(BLOOD9.names)].to_numpy(copy=True)


@given(arrays(float, 6, elements=VALUES), arrays(float, 6, elements=VALUES))
@settings(max_examples=300)
def test_log_ast_alt_is_missing_or_within_its_limits(ast: np.ndarray, alt: np.ndarray) -> None:
    feature = log_ast_alt(ast, alt)
    usable = np.isfinite(ast) & np.isfinite(alt) & (ast > 0) & (alt > 0)
    np.testing.assert_array_equal(np.isnan(feature), ~usable)
    assert ((feature[usable] >= np.log(RATIO_LIMITS[0])) & (feature[usable] <= np.log(RATIO_LIMITS[1]))).all()


@pytest.mark.parametrize(
    ("ast", "alt", "expected"),
    [(40, 20, np.log(2)), (30, 30, 0), (1e308, 5e-324, np.log(10)), (5e-324, 1e308, np.log(0.1)), (1e308, 1e308, 0)],
)
def test_log_ast_alt_known_values(ast: float, alt: float, expected: float) -> None:
    assert log_ast_alt(np.array([ast]), np.array([alt]))[0] == pytest.approx(expected, abs=1e-12)


@given(arrays(float, (4, len(BLOOD9.names)), elements=VALUES))
@settings(max_examples=200)
def test_scaled_features_are_finite_and_clipped_whatever_the_values(biomarkers: np.ndarray) -> None:
    scaling = fit_scaling(raw_features(BLOOD9, blood_values(50)))
    features = raw_features(BLOOD9, biomarkers)
    assert not np.isinf(features).any()
    scaled, present = scaling.apply(features)
    assert np.isfinite(scaled).all()
    assert (np.abs(scaled) <= CLIP).all()
    np.testing.assert_array_equal(present, ~np.isnan(features))
    assert (scaled[present == 0] == 0).all()


def test_transforms_are_the_panels() -> None:
    biomarkers = np.array([[2.0, 40, 80, 45, 30, 13, 25, 24, 12]])
    features = raw_features(BLOOD9, biomarkers)[0]
    np.testing.assert_allclose(features[:-1], np.where(LOG, np.log(biomarkers[0]), biomarkers[0]))
    assert features[-1] == pytest.approx(np.log(2))
    with_log1p = Panel.model_validate(
        {
            **KNOWN.model_dump(),
            "biomarkers": [{**KNOWN.biomarkers[0].model_dump(), "transform": "log1p", "plausible": (0, 9)}],
        }
    )
    np.testing.assert_allclose(raw_features(with_log1p, np.array([[0.0], [np.e - 1], [-1.0]])), [[0], [1], [np.nan]])


def test_a_missing_marker_is_zero_with_its_presence_bit_zero_and_takes_the_ratio_with_it() -> None:
    biomarkers = blood_values(3)
    ast = BLOOD9.names.index("ast_u_l")
    biomarkers[1, ast] = np.nan
    scaled, present = FeatureScaling(np.full(10, 0.1), np.ones(10)).apply(raw_features(BLOOD9, biomarkers))
    np.testing.assert_array_equal(np.argwhere(present == 0), [[1, ast], [1, 9]])
    np.testing.assert_array_equal(scaled[1, [ast, 9]], 0)


def test_dependence_names_the_features_that_a_marker_enters() -> None:
    """Hide each marker in turn: exactly the features that the table says disappear."""
    biomarkers = np.repeat(blood_values(1), len(BLOOD9.names), axis=0)
    np.fill_diagonal(biomarkers, np.nan)
    np.testing.assert_array_equal(dependence(BLOOD9), np.isnan(raw_features(BLOOD9, biomarkers)))


def test_scaling_is_the_median_and_the_robust_standard_deviation_whatever_the_outliers() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal([10, -3], [2, 0.5], (100_000, 2))
    features[::50] = 1e6
    features[1::50, 0] = np.nan
    scaling = fit_scaling(features)
    np.testing.assert_allclose(scaling.center, [10, -3], atol=0.08)
    np.testing.assert_allclose(scaling.scale, [2, 0.5], rtol=0.05)


@pytest.mark.parametrize("value", [0.0, 0.1, 44.1, 1e-300, -2.5e9])
def test_a_constant_marker_carries_nothing_and_does_not_magnify_what_differs_from_it(value: float) -> None:
    """The standard deviation of a constant, computed, is a rounding error: no scale to divide by."""
    scaling = fit_scaling(np.full((1001, 1), value))
    assert (scaling.center[0], scaling.scale[0]) == (value, 1.0)
    scaled, _ = scaling.apply(np.array([[value], [value + 0.5], [np.nan]]))
    np.testing.assert_allclose(scaled, [[0], [0.5], [0]], atol=1e-6)


def test_a_marker_that_most_people_share_is_scaled_by_its_standard_deviation() -> None:
    column = np.r_[np.full(90, 2.1), np.linspace(3, 30, 10)]
    scaling = fit_scaling(column[:, None])
    assert scaling.center[0] == 2.1
    assert scaling.scale[0] == pytest.approx(column.std())


def test_a_marker_that_nobody_has_carries_nothing() -> None:
    scaling = fit_scaling(np.full((5, 1), np.nan))
    assert (scaling.center[0], scaling.scale[0]) == (0.0, 1.0)


def test_clipping_is_at_five_standard_deviations_on_both_sides() -> None:
    scaled, _ = FeatureScaling(np.array([10.0]), np.array([2.0])).apply(
        np.array([[-1e9], [1.0], [19.9], [20.1], [1e308]])
    )
    np.testing.assert_allclose(scaled[:, 0], [-5, -4.5, 4.95, 5, 5])


def test_what_overflows_is_clipped_without_a_warning() -> None:
    scaled, _ = FeatureScaling(np.array([0.0]), np.array([1e-3])).apply(np.array([[1e308], [-1e308]]))
    np.testing.assert_array_equal(scaled[:, 0], [5, -5])
