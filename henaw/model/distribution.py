"""What a clock predicts for each person: a distribution of biological age."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from henaw.errors import BadInput
from henaw.model.wasserstein import gaussian_barycenter, gaussian_disagreement

Array = NDArray[np.float64]


class Distribution(Protocol):
    """Predictive distributions of n people; every quantity is in years."""

    @property
    def mean(self) -> Array:
        """Expected biological age, shape (n,)."""

    @property
    def median(self) -> Array:
        """Median biological age, the one that is reported, shape (n,)."""

    @property
    def aleatoric_sd(self) -> Array:
        """Standard deviation of the barycenter: spread that more members would not remove, shape (n,)."""

    @property
    def epistemic_sd(self) -> Array:
        """Root mean squared W2 distance of the members from the barycenter: their disagreement, shape (n,)."""

    def quantiles(self, levels: Array) -> Array:
        """Quantiles at ``levels`` (q,), shape (n, q)."""

    def interval(self, coverage: float) -> tuple[Array, Array]:
        """Lower and upper end of the central interval, each (n,)."""

    def cdf(self, values: Array) -> Array:
        """Probability of a biological age up to ``values`` (n,), shape (n,)."""


def central_levels(coverage: float) -> Array:
    """The two quantile levels of a central interval.

    Raises:
        BadInput: ``coverage`` does not lie strictly between 0 and 1, or so near to 1 that the upper level is 1.
    """
    lower, upper = (1 - coverage) / 2, (1 + coverage) / 2
    if not (coverage > 0 and upper < 1):
        raise BadInput(f"coverage: expected a number between 0 and 1, found {coverage:g}")
    return np.array([lower, upper])


@dataclass(frozen=True)
class GaussianEnsemble:
    """The W2 barycenter of K Gaussian members, and how far they lie apart.

    Attributes:
        means: members' means in years, shape (K, n).
        sds: members' standard deviations in years, shape (K, n).
    """

    means: Array
    sds: Array

    @cached_property
    def _barycenter(self) -> tuple[Array, Array]:
        return gaussian_barycenter(self.means, self.sds)

    @property
    def mean(self) -> Array:
        """Mean of the barycenter, shape (n,)."""
        return self._barycenter[0]

    @property
    def median(self) -> Array:
        """Median of the barycenter: for a Gaussian its mean, shape (n,)."""
        return self._barycenter[0]

    @property
    def aleatoric_sd(self) -> Array:
        """Standard deviation of the barycenter, shape (n,)."""
        return self._barycenter[1]

    @cached_property
    def epistemic_sd(self) -> Array:
        """Root mean squared W2 distance of the members from the barycenter, shape (n,)."""
        return gaussian_disagreement(self.means, self.sds)

    def quantiles(self, levels: Array) -> Array:
        """Quantiles of the barycenter at ``levels`` (q,), shape (n, q)."""
        mean, sd = self._barycenter
        deviations: Array = ndtri(np.asarray(levels, dtype=np.float64))
        return mean[:, None] + sd[:, None] * deviations

    def interval(self, coverage: float) -> tuple[Array, Array]:
        """Ends of the central interval, each (n,).

        Raises:
            BadInput: ``coverage`` does not lie strictly between 0 and 1.
        """
        lower, upper = self.quantiles(central_levels(coverage)).T
        return lower, upper

    def cdf(self, values: Array) -> Array:
        """Probability of a biological age up to ``values`` (n,), shape (n,)."""
        mean, sd = self._barycenter
        probability: Array = ndtr((values - mean) / sd)
        return probability
