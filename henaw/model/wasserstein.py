"""The Wasserstein-2 barycenter of one-dimensional predictions, and the members' distance from it.

In one dimension W2²(F, G) = ∫ (F⁻¹(u) − G⁻¹(u))² du, and the barycenter's quantile function is the average of the
members' (Agueh & Carlier 2011, section 6). Integrals over the level u = Φ(z) are trapezoid sums over z with the normal
density as weight: as good as exact for Gaussians, whose quantile functions are straight lines in z, and far better than
Gauss–Hermite sums of as many nodes where a quantile function bends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

NODES: Array = np.linspace(-7.0, 7.0, 71)
NODE_WEIGHTS: Array = np.exp(-0.5 * NODES**2) / np.exp(-0.5 * NODES**2).sum()
"""Normal scores (q,) and weights (q,), summing to 1, with which ``∫ f(u) du ≈ Σ w f(Φ(z))``."""


@dataclass(frozen=True)
class Moments:
    """Of n barycenters, each (n,): mean, standard deviation, and root mean squared W2 distance of the members.

    The variance of the mixture of the members is ``sd² + disagreement²``.
    """

    mean: Array
    sd: Array
    disagreement: Array


def barycenter(quantiles: Array, weights: Array | None = None) -> Array:
    """Quantiles (n, q) of the barycenter of members with ``quantiles`` (K, n, q); ``weights`` (K,), default equal."""
    if weights is None:
        average: Array = np.add.reduce(quantiles, axis=0)  # what mean does, without its questions
        average /= len(quantiles)
        return average
    return np.tensordot(weights / weights.sum(), quantiles, axes=1)


def barycenter_moments(quantiles: Array, weights: Array | None = None) -> Moments:
    """Moments of the barycenter of members with quantiles (K, n, nodes) at the levels Φ(``NODES``)."""
    return moments_around(barycenter(quantiles, weights), quantiles, weights)


def moments_around(center: Array, quantiles: Array, weights: Array | None = None) -> Moments:
    """As ``barycenter_moments``, where the barycenter ``center`` (n, nodes) is known already."""
    mean = center.dot(NODE_WEIGHTS)
    squared = quantiles - center
    squared *= squared
    spread = center - mean[:, None]
    spread *= spread
    return Moments(
        mean=mean,
        sd=np.sqrt(spread.dot(NODE_WEIGHTS)),
        disagreement=np.sqrt(barycenter(squared.dot(NODE_WEIGHTS), weights)),
    )
