"""Distributional conformal calibration: levels are mapped so that what is called 90 % holds 90 %.

The probability integral transform (PIT) of people whom the network was not fitted to would be uniform if its levels
were honest. Its empirical quantile function, with the finite-sample correction of conformal prediction, is the map from
the level that is asked for to the level that the network must be asked for (Chernozhukov, Wüthrich & Zhu 2021), by band
of predicted age (Mondrian), shrunk towards the identity where people are few. Median, interval and quantiles all pass
through the same map.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]

GRID = np.array([0.0, 0.01, 0.025, 0.05, *np.arange(1, 10) / 10, 0.95, 0.975, 0.99, 1.0])
"""Levels at which the map is stored; straight lines between."""
_MOST_KEPT = 256  # maps applied to scores, a few hundred bytes each


@dataclass(frozen=True)
class Calibration:
    """The map of levels for each band of predicted age.

    Attributes:
        edges: boundaries of the bands in years of uncalibrated median, ascending, (B − 1,).
        levels: the network's levels for ``GRID``, ascending from 0 to 1, (B, len(GRID)).
    """

    edges: Array
    levels: Array

    def bands(self, median: Array) -> NDArray[np.intp]:
        """Band (n,) of each uncalibrated median (n,)."""
        return self.edges.searchsorted(median, side="right")

    def network_scores(self, band: int, z: Array) -> Array:
        """Normal scores to ask the network for, given those that are wanted (q,)."""
        key = (band, z.tobytes())  # one answer asks for the same scores as the next, and the map takes longer to apply
        if (known := self._asked.get(key)) is None:
            if len(self._asked) >= _MOST_KEPT:
                self._asked.clear()
            known = self._asked[key] = self._mapped(band, z)
        return known

    @cached_property
    def _asked(self) -> dict[tuple[int, bytes], Array]:
        """Scores that were asked for, and what became of them."""
        return {}

    def _mapped(self, band: int, z: Array) -> Array:
        mapped = np.interp(ndtr(z), GRID, self.levels[band])
        # beyond the last levels that the map can tell apart, the score itself goes on
        return np.where((mapped > 0) & (mapped < 1) & (np.abs(z) < 6), ndtri(np.clip(mapped, 1e-9, 1 - 1e-9)), z)

    def calibrated_levels(self, bands: NDArray[np.intp], levels: Array) -> Array:
        """The inverse: calibrated probability (n,) of the network's probability ``levels`` (n,)."""
        result = np.empty_like(levels)
        for band in range(len(self.levels)):
            rows = bands == band
            result[rows] = np.interp(levels[rows], self.levels[band], GRID)
        return result


def identity() -> Calibration:
    """The map that changes nothing."""
    return Calibration(np.empty(0), GRID[None])


def fit_calibration(pit: Array, median: Array, bands: int, least_people: int, shrinkage: float) -> Calibration:
    """Fit the map on people whom the network was not fitted to.

    Args:
        pit: the network's probability of an age up to the true one, (n,).
        median: its median, years, (n,).
        bands: number of bands of predicted age, of equally many people.
        least_people: fewest people in a band; with fewer there are fewer bands.
        shrinkage: people that the identity counts for, positive.
    """
    count = max(1, min(bands, len(pit) // max(1, least_people)))
    edges = np.unique(np.quantile(median, np.arange(1, count) / count)) if count > 1 else np.empty(0)
    band = np.searchsorted(edges, median, side="right")
    levels = [_level_map(pit[band == index], shrinkage) for index in range(len(edges) + 1)]
    return Calibration(edges, np.stack(levels))


def _level_map(pit: Array, shrinkage: float) -> Array:
    people = len(pit)
    if not people:
        return GRID
    # Weibull: the k-th of n stands for level k/(n + 1), which exchangeability promises somebody new, at both ends
    empirical = np.quantile(pit, GRID, method="weibull")
    # a positive weight of the identity keeps the map strictly ascending, and so invertible
    mixed: Array = (people * empirical + shrinkage * GRID) / (people + shrinkage)
    mixed[[0, -1]] = 0.0, 1.0
    return mixed
