"""Scores of predictions, as small functions of arrays whose first axis is people.

Those that return (n,) score each person, so that a subgroup's score, or a bootstrap's, is the mean over its rows.
Errors are always prediction minus truth.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]


def mean_error(predicted: Array, truth: Array) -> float:
    """Mean of prediction minus truth (n,): above 0, people are predicted too old."""
    return float(np.mean(predicted - truth))


def mean_absolute_error(predicted: Array, truth: Array) -> float:
    """Mean distance of ``predicted`` (n,) from ``truth`` (n,), in their unit."""
    return float(np.mean(np.abs(predicted - truth)))


def root_mean_squared_error(predicted: Array, truth: Array) -> float:
    """Root of the mean squared distance of ``predicted`` (n,) from ``truth`` (n,), in their unit."""
    return float(np.sqrt(np.mean((predicted - truth) ** 2)))


def pearson_r(x: Array, y: Array) -> float | None:
    """Pearson's correlation of ``x`` (n,) and ``y`` (n,); ``None`` where one of them does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.clip(_direction(x) @ _direction(y), -1, 1))


def _direction(values: Array) -> Array:
    """``values`` centered and scaled to length 1; scaled one by one, because a product of tiny norms underflows."""
    centered = values - values.mean()
    centered = centered / np.abs(centered).max()
    return np.asarray(centered / np.linalg.norm(centered))


def crps_gaussian(mean: Array, sd: Array, truth: Array) -> Array:
    """Continuous ranked probability score of N(mean, sd²), ``sd`` > 0; shape (n,), in the unit of ``truth``.

    CRPS = sd·(z·(2Φ(z) − 1) + 2φ(z) − 1/√π), z = (truth − mean)/sd (Gneiting & Raftery 2007, JASA 102, equation 21).
    """
    z = (truth - mean) / sd
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi)))


def pinball_loss(quantiles: Array, levels: Array, truth: Array) -> Array:
    """Loss of each quantile: (1{y ≤ q} − τ)·(q − y) (Koenker & Bassett 1978, Econometrica 46).

    Args:
        quantiles: predicted quantiles, shape (n, q).
        levels: their levels τ, shape (q,).
        truth: what was observed, shape (n,).

    Returns:
        Losses in the unit of ``truth``, shape (n, q).
    """
    excess = quantiles - truth[:, None]
    return np.asarray(((excess >= 0) - levels) * excess)


def crps_from_quantiles(quantiles: Array, levels: Array, truth: Array) -> Array:
    """CRPS of a distribution known by its quantiles (n, q): twice their mean pinball loss; shape (n,).

    CRPS = 2·∫₀¹ pinball_τ dτ (Laio & Tamea 2007, HESS 11; Gneiting & Ranjan 2011, JBES 29). The mean is the midpoint
    rule for the integral where ``levels`` are ``midpoint_levels(q)``; for 1 %, 2 %, …, 99 % it is up to 1 % too large.
    """
    return np.asarray(2 * pinball_loss(quantiles, levels, truth).mean(axis=1))


def midpoint_levels(count: int) -> Array:
    """``count`` quantile levels in the middles of equal parts of (0, 1), shape (count,)."""
    return (np.arange(count) + 0.5) / count


def interval_coverage(lower: Array, upper: Array, truth: Array) -> float:
    """Fraction of ``truth`` (n,) within the closed intervals from ``lower`` (n,) to ``upper`` (n,)."""
    return float(np.mean((lower <= truth) & (truth <= upper)))


def interval_width(lower: Array, upper: Array) -> float:
    """Mean width of the intervals from ``lower`` (n,) to ``upper`` (n,), in their unit."""
    return float(np.mean(upper - lower))


def central_coverage(pit: Array, coverages: Array) -> Array:
    """Fraction of people within the central interval of each nominal coverage (q,), shape (q,).

    The interval of coverage c holds a person where |2·PIT − 1| ≤ c, ``pit`` (n,) being the predictive distribution's
    function at the truth (Dawid 1984, JRSS A 147).
    """
    return _fraction_up_to(np.abs(2 * pit - 1), coverages)


def quantile_coverage(pit: Array, levels: Array) -> Array:
    """Fraction of people at or below their predicted quantile of each level (q,), shape (q,)."""
    return _fraction_up_to(pit, levels)


def _fraction_up_to(values: Array, thresholds: Array) -> Array:
    return np.searchsorted(np.sort(values), thresholds, side="right") / len(values)


def pit_histogram(pit: Array, bins: int) -> NDArray[np.int64]:
    """People in each of ``bins`` equal parts of [0, 1], shape (bins,); all alike where predictions are calibrated."""
    return np.histogram(pit, bins=bins, range=(0, 1))[0].astype(np.int64)
