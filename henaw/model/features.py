"""From biomarkers in their units to the network's inputs.

Skewed markers are logged, every marker is centered and scaled robustly (median, and interquartile range of the
training people as a standard deviation) and clipped to ±5. A missing value becomes 0 together with a presence bit of 0,
so that a person with missing markers still has inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from henaw.data.panel import DERIVED_NEEDS, Panel, Transform

Array = NDArray[np.float64]

CLIP = 5.0
IQR_PER_SD = 1.3489795003921634  # of a Gaussian: 2·Φ⁻¹(3/4)
RATIO_LIMITS = (0.1, 10.0)  # of AST/ALT
_TRANSFORMS: dict[Transform, np.ufunc] = {"log": np.log, "log1p": np.log1p}  # the identity changes nothing
_LEAST_LOG, _MOST_LOG = np.log(RATIO_LIMITS)


def log_ast_alt(ast: Array, alt: Array) -> Array:
    """log(AST/ALT) with the ratio clamped to [0.1, 10]; missing where either is missing, not finite or not positive."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _within_limits(np.log(ast) - np.log(alt))


def _within_limits(difference: Array) -> Array:
    """Of logs: it neither overflows nor underflows where the ratio would, and is not finite where a log is not."""
    return np.where(np.isfinite(difference), np.minimum(np.maximum(difference, _LEAST_LOG), _MOST_LOG), np.nan)


def raw_features(panel: Panel, biomarkers: Array) -> Array:
    """Transformed markers and derived features before scaling.

    Args:
        panel: names the markers, their transforms and the derived features.
        biomarkers: values in canonical units, shape (n, m), NaN = missing.

    Returns:
        Shape (n, p) with p = m + derived features; NaN where a value is missing or its logarithm does not exist.
    """
    markers = biomarkers.shape[1]
    features = np.empty((len(biomarkers), markers + len(panel.derived)))
    transformed = features[:, :markers]
    transformed[:] = biomarkers
    with np.errstate(divide="ignore", invalid="ignore"):
        for transform, columns in _columns(panel.transforms):
            transform(biomarkers, out=transformed, where=columns)
        for position, feature in enumerate(panel.derived, start=markers):
            first, second = (
                features[:, place] if panel.transforms[place] == "log" else np.log(biomarkers[:, place])
                for place in (panel.names.index(name) for name in DERIVED_NEEDS[feature])
            )
            features[:, position] = _within_limits(first - second)
    present = np.isfinite(features)
    if np.count_nonzero(present) < features.size:
        features[~present] = np.nan
    return features


@lru_cache
def _columns(transforms: tuple[Transform, ...]) -> tuple[tuple[np.ufunc, NDArray[np.bool_]], ...]:
    """Each function that changes values, and the columns (m,) that it changes."""
    return tuple(
        (function, np.array([transform == name for transform in transforms]))
        for name, function in _TRANSFORMS.items()
        if name in transforms
    )


def dependence(panel: Panel) -> NDArray[np.bool_]:
    """Which features each marker enters, shape (m, p): hiding marker i hides every feature j with ``[i, j]`` true."""
    table = np.zeros((len(panel.names), len(panel.names) + len(panel.derived)), dtype=bool)
    np.fill_diagonal(table, True)
    for position, feature in enumerate(panel.derived, start=len(panel.names)):
        for name in DERIVED_NEEDS[feature]:
            table[panel.names.index(name), position] = True
    return table


@dataclass(frozen=True)
class FeatureScaling:
    """Center and scale of every feature, fitted on training people; shapes (p,)."""

    center: Array
    scale: Array

    def apply(self, features: Array) -> tuple[Array, Array]:
        """Scale ``features`` (n, p).

        Returns:
            Scaled values, 0 where missing, and presence (1 or 0); both (n, p).
        """
        present = np.isfinite(features)
        with np.errstate(over="ignore"):  # what overflows is clipped all the same
            scaled = features - self.center
            scaled /= self.scale
        np.minimum(np.maximum(scaled, -CLIP, out=scaled), CLIP, out=scaled)
        if np.count_nonzero(present) < present.size:
            scaled[~present] = 0.0
        return scaled, present.astype(np.float64)


def fit_scaling(features: Array) -> FeatureScaling:
    """Median and robust standard deviation of each feature of ``features`` (n, p).

    A feature without spread gets scale 1, one that nobody has gets center 0: both then carry nothing.
    """
    center, scale = np.zeros(features.shape[1]), np.ones(features.shape[1])
    for position, column in enumerate(features.T):
        seen = column[np.isfinite(column)]
        if seen.size:
            low, center[position], high = np.quantile(seen, [0.25, 0.5, 0.75])
            if np.ptp(seen) > 0:  # the standard deviation of a constant is its rounding error, not 0
                # half the people on one value: no quartile range
                scale[position] = (high - low) / IQR_PER_SD or seen.std() or 1.0
    return FeatureScaling(center, scale)
