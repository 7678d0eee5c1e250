"""The linear pool of an ensemble's members, which is reported beside their barycenter.

The mixture averages the members' distribution functions, where the barycenter averages their quantile functions. Its
quantiles have no closed form: each member stands for equally many of its own quantiles, and the pool is sorted.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from henaw.evaluation.metrics import midpoint_levels
from henaw.model.distribution import EnsembleDistribution
from henaw.model.ensemble import blocks
from henaw.model.hazard import Gompertz
from henaw.model.wasserstein import NODE_WEIGHTS

Array = NDArray[np.float64]
Rows = NDArray[np.intp]

POOLED = 99  # quantiles that each member stands for


def member_quantiles(distribution: EnsembleDistribution, levels: Array) -> Iterator[tuple[Rows, Array]]:
    """Row positions (b,) and the members' own quantiles (K, b, q) at ``levels`` (q,), block by block."""
    band, z = distribution.calibration.bands(distribution.uncalibrated_median), ndtri(levels)
    for index in range(len(distribution.calibration.levels)):
        rows = np.flatnonzero(band == index)
        scores = distribution.calibration.network_scores(index, z)
        for block in blocks(len(rows)):
            chosen = rows[block]
            outputs, age = distribution.outputs[:, chosen], distribution.age[chosen]
            yield chosen, distribution.head.quantiles(outputs, scores, age)


def pooled(distribution: EnsembleDistribution) -> Iterator[tuple[Rows, Array]]:
    """Row positions (b,) and quantiles (b, m) of the mixture at ``midpoint_levels(m)``, m = K·99, block by block."""
    for rows, quantiles in member_quantiles(distribution, midpoint_levels(POOLED)):
        yield rows, np.sort(quantiles.transpose(1, 0, 2).reshape(len(rows), -1), axis=1)


def quantiles_of_pool(pool: Array, levels: Array) -> Array:
    """Quantiles (b, q) at ``levels`` (q,) of sorted ``pool`` (b, m); straight lines between its midpoints."""
    place = np.clip(levels * pool.shape[1] - 0.5, 0, pool.shape[1] - 1)
    below = np.floor(place).astype(np.intp)
    above = np.minimum(below + 1, pool.shape[1] - 1)
    return np.asarray(pool[:, below] + (place - below) * (pool[:, above] - pool[:, below]))


def mixture_survival(distribution: EnsembleDistribution, hazard: Gompertz, years: Array) -> Array:
    """Probability to live ``years`` (q,) more, shape (n, q): the mean of the members' own."""
    survival = np.empty((len(distribution), len(years)))
    for rows, ages in distribution.member_nodes():
        in_a_year = hazard.cumulative(ages, 1.0)
        for column, later in enumerate(years):
            accumulated = in_a_year * (np.expm1(hazard.beta * later) / np.expm1(hazard.beta))
            survival[rows, column] = (np.exp(-accumulated) @ NODE_WEIGHTS).mean(axis=0)
    return survival
