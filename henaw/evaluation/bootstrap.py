"""How sure a figure is: the bootstrap over people, and paired differences between clocks judged on the same people.

A resampled cohort is not a new table but a weight a row: how often its person was drawn. A ``Statistic`` is a figure as
a function of those weights, for many cohorts at once, so that a thousand cohorts cost matrix products and no sorting.
All statistics of one ``bootstrap`` see the same cohorts: the difference of two of them is paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from henaw.errors import BadInput

Array = NDArray[np.float64]
Statistic = Callable[[Array], Array]
"""Weights (n, b) of n rows in b cohorts → the figure in each, shape (b,) or (b, …); NaN where it is undefined."""

LEVEL = 0.95  # of an interval
_COHORTS_AT_ONCE = 32  # bounds memory: 7 MB of weights for 27,000 people


@dataclass(frozen=True)
class Estimate:
    """A figure and the ends of its 95 % interval."""

    value: float
    lower: float
    upper: float

    @property
    def numbers(self) -> tuple[float, float, float]:
        """Value, lower end, upper end."""
        return self.value, self.lower, self.upper

    @property
    def decided(self) -> bool:
        """Whether the interval of a difference leaves out 0; otherwise the two tie."""
        return self.lower > 0 or self.upper < 0


@dataclass(frozen=True)
class Bootstrapped:
    """A statistic of the cohort itself, shape (…), and of each resampled one, shape (draws, …)."""

    value: Array
    draws: Array

    def __sub__(self, other: Bootstrapped) -> Bootstrapped:
        """The paired difference; both must come from one call of ``bootstrap``."""
        return Bootstrapped(self.value - other.value, self.draws - other.draws)

    def interval(self) -> tuple[Array, Array]:
        """Ends of the percentile interval (Efron & Tibshirani 1993, chapter 13), each (…), over the defined draws."""
        tail = (1 - LEVEL) / 2
        defined = np.isfinite(self.draws).any(axis=0)
        draws = np.where(defined, self.draws, 0.0)
        lower, upper = (np.where(defined, end, np.nan) for end in np.nanquantile(draws, [tail, 1 - tail], axis=0))
        return lower, upper

    def estimate(self) -> Estimate:
        """The figure with its interval, where it is one number."""
        lower, upper = self.interval()
        return Estimate(float(self.value), float(lower), float(upper))


def bootstrap(
    statistics: Mapping[str, Statistic], participants: ArrayLike, *, draws: int = 1000, seed: int = 0
) -> dict[str, Bootstrapped]:
    """Evaluate statistics on the cohort and on ``draws`` cohorts of as many people, drawn with replacement.

    Args:
        statistics: figures by name, each a function of the weights of the same n rows.
        participants: whose row it is, shape (n,): all rows of a person are drawn together.
        draws: number of resampled cohorts.
        seed: of the draws; the cohorts depend on it, on ``draws`` and on the participants' number alone.

    Raises:
        BadInput: nobody to draw from, or no draws.
    """
    people, person = np.unique(np.asarray(participants), return_inverse=True)
    if not len(people) or draws < 1:
        raise BadInput(f"bootstrap: {len(people)} people, {draws} draws; expected at least one of each")
    random = np.random.default_rng(seed)
    whole = np.ones((len(person), 1))
    values = {name: statistic(whole)[0] for name, statistic in statistics.items()}
    found: dict[str, list[Array]] = {name: [] for name in statistics}
    for start in range(0, draws, _COHORTS_AT_ONCE):
        cohorts = min(_COHORTS_AT_ONCE, draws - start)
        weights = np.empty((len(person), cohorts))
        for column in range(cohorts):
            drawn = random.integers(len(people), size=len(people))
            weights[:, column] = np.bincount(drawn, minlength=len(people))[person]
        for name, statistic in statistics.items():
            found[name].append(statistic(weights))
    return {name: Bootstrapped(values[name], np.concatenate(found[name])) for name in statistics}


def people_in(participants: ArrayLike, rows: NDArray[np.bool_]) -> int:
    """How many people have a row in ``rows`` (n,)."""
    return len(np.unique(np.asarray(participants)[rows]))


def among(rows: NDArray[np.bool_], statistic: Statistic) -> Statistic:
    """A ``statistic`` of the people in ``rows`` (n,) alone, as a function of the weights of all n."""
    return statistic if rows.all() else lambda weights: statistic(weights[rows])


def mean_of(scores: Array) -> Statistic:
    """The mean of ``scores``, one a row (n,) or m (n, m): absolute errors give MAE, hits of an interval coverage."""

    def statistic(weights: Array) -> Array:
        with np.errstate(invalid="ignore"):
            total = weights.sum(axis=0)
            return np.asarray((weights.T @ scores) / (total if scores.ndim == 1 else total[:, None]))

    return statistic


def root_mean_square_of(errors: Array) -> Statistic:
    """Root of the mean squared error, ``errors`` (n,)."""
    squared = mean_of(errors**2)
    return lambda weights: np.sqrt(squared(weights))


def correlation_of(x: Array, y: Array) -> Statistic:
    """Pearson's correlation of ``x`` (n,) and ``y`` (n,)."""
    x, y = x - x.mean(), y - y.mean()  # moments about 0 would cancel
    moments = mean_of(np.stack([x, y, x * x, y * y, x * y], axis=1))

    def statistic(weights: Array) -> Array:
        mean_x, mean_y, xx, yy, xy = moments(weights).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((xy - mean_x * mean_y) / np.sqrt((xx - mean_x**2) * (yy - mean_y**2)))

    return statistic
