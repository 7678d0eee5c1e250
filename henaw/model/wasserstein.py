"""The Wasserstein-2 barycenter of one-dimensional Gaussian predictions, and the members' distance from it.

In one dimension the barycenter's quantile function is the average of the members' quantile functions (Agueh & Carlier
2011, section 6; Vincent 1912). For Gaussians N(m_k, s_k²) that is N(Σ w_k m_k, (Σ w_k s_k)²), and the distance is
W2²(N(m, s²), N(m', s'²)) = (m − m')² + (s − s')².
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gaussian_barycenter(means: Array, sds: Array, weights: Array | None = None) -> tuple[Array, Array]:
    """Barycenter of Gaussian members.

    Args:
        means: members' means, shape (K, n).
        sds: members' standard deviations, shape (K, n).
        weights: members' weights, shape (K,), summing to 1; default equal.

    Returns:
        Mean and standard deviation of the barycenter, each of shape (n,).
    """
    return _average(means, weights), _average(sds, weights)


def gaussian_disagreement(means: Array, sds: Array, weights: Array | None = None) -> Array:
    """Root mean squared W2 distance of Gaussian members from their barycenter, shape (n,).

    With the barycenter's variance it adds up to the variance of the mixture of the members:
    Var(mixture) = Var(barycenter) + Σ_k w_k W2²(member_k, barycenter).
    """
    mean, sd = gaussian_barycenter(means, sds, weights)
    return np.sqrt(_average((means - mean) ** 2 + (sds - sd) ** 2, weights))


def _average(values: Array, weights: Array | None) -> Array:
    """Average over the members of ``values`` (K, n), n = 0 included."""
    average: Array = values.mean(axis=0) if weights is None else weights @ values / weights.sum()
    return average
