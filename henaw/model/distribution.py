"""What a clock predicts for each person: a distribution of biological age."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from henaw.errors import BadInput
from henaw.model import ensemble
from henaw.model.calibration import Calibration
from henaw.model.ensemble import blocks
from henaw.model.heads import Head
from henaw.model.wasserstein import NODES, Moments, barycenter, barycenter_moments, moments_around

Array = NDArray[np.float64]
Positions = NDArray[np.intp] | slice


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


@dataclass(frozen=True, eq=False)
class Summary:
    """What is reported of n people, in years, each (n,)."""

    median: Array
    lower: Array
    upper: Array
    aleatoric_sd: Array
    epistemic_sd: Array


@dataclass(frozen=True, eq=False)
class EnsembleDistribution:
    """The calibrated W2 barycenter of K members, and how far they lie apart.

    Attributes:
        head: what the members' outputs mean.
        outputs: (K, n, outputs).
        age: chronological ages (n,); only a head without a center of its own needs them.
        calibration: the map of levels.
    """

    head: Head
    outputs: Array
    age: Array
    calibration: Calibration

    def __len__(self) -> int:
        """Number of people."""
        return int(self.outputs.shape[1])

    @cached_property
    def _bands(self) -> NDArray[np.intp]:
        return self.calibration.bands(self.uncalibrated_median)

    @cached_property
    def uncalibrated_median(self) -> Array:
        """Median of the barycenter before calibration, which assigns the band, shape (n,)."""
        return barycenter(self.head.medians(self.outputs, self.age))

    def _members(self, z: Array) -> Iterator[tuple[Positions, Array]]:
        """Row positions (b,) and members' calibrated quantiles (K, b, q) at scores ``z`` (q,), block by block."""
        if len(self) == 1:  # what serving is asked most: nothing to choose from
            band = self.calibration.bands(barycenter(self.head.medians(self.outputs, self.age)))
            scores = self.calibration.network_scores(int(band[0]), z)
            yield slice(None), self.head.quantiles(self.outputs, scores, self.age)
            return
        for band in sorted(set(self._bands.tolist())):
            rows = np.flatnonzero(self._bands == band)
            scores = self.calibration.network_scores(band, z)
            for block in blocks(len(rows), ensemble.QUANTILE_ROWS):
                chosen = rows[block]
                yield chosen, self.head.quantiles(self.outputs[:, chosen], scores, self.age[chosen])

    @cached_property
    def _moments(self) -> Moments:
        mean, sd, disagreement = (np.empty(len(self)) for _ in range(3))
        for rows, quantiles in self._members(NODES):
            found = barycenter_moments(quantiles)
            mean[rows], sd[rows], disagreement[rows] = found.mean, found.sd, found.disagreement
        return Moments(mean, sd, disagreement)

    @property
    def mean(self) -> Array:
        """Mean of the barycenter, shape (n,)."""
        return self._moments.mean

    @cached_property
    def median(self) -> Array:
        """Median of the barycenter, shape (n,)."""
        return self.quantiles(np.array([0.5]))[:, 0]

    @property
    def aleatoric_sd(self) -> Array:
        """Standard deviation of the barycenter, shape (n,)."""
        return self._moments.sd

    @property
    def epistemic_sd(self) -> Array:
        """Root mean squared W2 distance of the members from the barycenter, shape (n,)."""
        return self._moments.disagreement

    def nodes(self) -> Array:
        """Quantiles (n, nodes) at the levels of ``wasserstein.NODES``, for expectations over the barycenter."""
        return self._at_scores(NODES)

    def member_nodes(self) -> Iterator[tuple[Positions, Array]]:
        """Row positions (b,) and the members' own quantiles (K, b, nodes), block by block."""
        return self._members(NODES)

    def member_medians(self) -> Array:
        """The members' own medians, shape (K, n); their mean is the barycenter's."""
        result = np.empty(self.outputs.shape[:2])
        for rows, quantiles in self._members(np.zeros(1)):
            result[:, rows] = quantiles[..., 0]
        return result

    def quantiles(self, levels: Array) -> Array:
        """Quantiles of the barycenter at ``levels`` (q,), shape (n, q)."""
        return self._at_scores(ndtri(np.asarray(levels, dtype=np.float64)))

    def _at_scores(self, z: Array) -> Array:
        result = np.empty((len(self), len(z)))
        for rows, quantiles in self._members(z):
            result[rows] = barycenter(quantiles)
        return result

    def interval(self, coverage: float) -> tuple[Array, Array]:
        """Ends of the central interval, each (n,).

        Raises:
            BadInput: ``coverage`` does not lie strictly between 0 and 1.
        """
        lower, upper = self.quantiles(central_levels(coverage)).T
        return lower, upper

    def summary(self, coverage: float) -> Summary:
        """What is reported of everybody: as ``median``, ``interval`` and the standard deviations, in one pass.

        Raises:
            BadInput: ``coverage`` does not lie strictly between 0 and 1.
        """
        found = np.empty((5, len(self)))
        for rows, quantiles in self._members(_summary_scores(coverage)):
            center = barycenter(quantiles)
            moments = moments_around(center[:, : len(NODES)], quantiles[:, :, : len(NODES)])
            found[:3, rows] = center[:, len(NODES) :].T
            found[3, rows], found[4, rows] = moments.sd, moments.disagreement
        return Summary(*found)

    def cdf(self, values: Array) -> Array:
        """Probability of a biological age up to ``values`` (n,), shape (n,); NaN for NaN."""
        return self.calibration.calibrated_levels(self._bands, self.uncalibrated_cdf(values))

    def uncalibrated_cdf(self, values: Array) -> Array:
        """The same before calibration: the probability integral transform that calibration is fitted on."""
        low, high = np.full(len(self), -_FARTHEST), np.full(len(self), _FARTHEST)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            below = self.head.quantiles_at(self.outputs, middle, self.age).mean(axis=0) < values
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        return np.where(np.isnan(values), np.nan, ndtr((low + high) / 2))


@lru_cache(maxsize=64)
def _summary_scores(coverage: float) -> Array:
    """Normal scores of what ``summary`` says: the nodes of the moments, the median, and both ends."""
    return np.concatenate([NODES, [0.0], ndtri(central_levels(coverage))])


_FARTHEST, _BISECTIONS = 8.0, 40  # scores beyond ±8 have probability 1e-15; 40 halvings leave 1e-11
