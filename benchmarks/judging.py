"""An age clock's scores on the test people, from its quantiles: ours and everybody else's by the same lines."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from bars import Watch
from boosted import LEVELS
from numpy.typing import NDArray

from henaw.evaluation.bootstrap import Bootstrapped, Statistic, mean_of
from henaw.evaluation.metrics import crps_from_quantiles

Array = NDArray[np.float64]

MAE, CRPS, HIT, WIDTH = range(4)  # columns of ``scores``
LOWER, MEDIAN, UPPER = 4, 49, 94  # of ``LEVELS``: 0.05, 0.5, 0.95


@dataclass
class Judged:
    """One clock's scores in every seed, (n, 4) each, and what fitting it cost."""

    seeds: list[Array] = field(default_factory=list)
    cost: Watch = field(default_factory=Watch)

    def add(self, quantiles: Array, age: Array, cost: Watch) -> None:
        """Add a seed: quantiles (n, 99) and the truth (n,)."""
        self.seeds.append(scores(quantiles, age))
        self.cost.wall, self.cost.cpu = self.cost.wall + cost.wall, self.cost.cpu + cost.cpu

    @property
    def statistic(self) -> Statistic:
        """The four figures, means over the seeds."""
        return mean_of(np.mean(self.seeds, axis=0))

    def each_seed(self, column: int, digits: int) -> str:
        """A figure in each seed."""
        return " ".join(f"{seed[:, column].mean():.{digits}f}" for seed in self.seeds)


def scores(quantiles: Array, age: Array) -> Array:
    """Absolute error of the median, CRPS, hit and width of the 90 % interval: (n, 4) from quantiles (n, 99)."""
    lower, median, upper = quantiles[:, [LOWER, MEDIAN, UPPER]].T
    hit = (lower <= age) & (age <= upper)
    return np.stack(
        [np.abs(median - age), crps_from_quantiles(quantiles, LEVELS, age), hit.astype(float), upper - lower], axis=1
    )


def single(found: Bootstrapped, which: int) -> Bootstrapped:
    """One of the four figures of ``Judged.statistic``."""
    return Bootstrapped(found.value[which], found.draws[:, which])
