"""Survival as it was seen, and how well predicted survival fits it: Kaplan–Meier, calibration of risk, Brier scores.

Everyone was followed for some ``years`` (n,) until they ``died`` (n,; 1) or were censored (0), alive when last heard
of. What is resampled is a function of weights, as ``henaw.evaluation.bootstrap`` has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from scipy.special import ndtri

from henaw.errors import BadInput
from henaw.evaluation.bootstrap import LEVEL, Statistic, among, bootstrap, mean_of, people_in
from henaw.evaluation.suppression import publishable

Array = NDArray[np.float64]


@dataclass(frozen=True)
class SurvivalCurve:
    """The Kaplan–Meier estimate; all shapes (T,), by distinct time of follow-up.

    Attributes:
        years: the times, ascending.
        survival: probability to live longer.
        at_risk: people followed at least so long.
        deaths: how many of them died then.
    """

    years: Array
    survival: Array
    at_risk: Array
    deaths: Array

    def at(self, years: ArrayLike) -> Array:
        """Survival at ``years`` (q,): 1 before the first time, the last value after the last."""
        return np.append(1.0, self.survival)[np.searchsorted(self.years, years, side="right")]

    def interval(self) -> tuple[Array, Array]:
        """Ends of the pointwise 95 % interval, each (T,); NaN while nobody has died, and where nobody is left.

        Greenwood's variance on the scale of log(−log S), which stays within 0 and 1 (Kalbfleisch & Prentice 2002,
        section 1.4).
        """
        with np.errstate(divide="ignore", invalid="ignore"):
            greenwood = np.cumsum(self.deaths / (self.at_risk * (self.at_risk - self.deaths)))
            margin = -ndtri((1 + LEVEL) / 2) * np.sqrt(greenwood) / np.log(self.survival)
            lower, upper = (self.survival ** np.exp(sign * margin) for sign in (1, -1))
        within = (self.survival > 0) & (self.survival < 1)
        return np.where(within, lower, np.nan), np.where(within, upper, np.nan)


def kaplan_meier(years: Array, died: Array) -> SurvivalCurve:
    """Survival of the people followed ``years``, ``died`` (Kaplan & Meier 1958, JASA 53).

    Raises:
        BadInput: nobody, lengths that differ, or a value that is missing.
    """
    times = _Times.of(years, died)
    at_risk, deaths = (counts[:, 0] for counts in times.counts(np.ones((len(years), 1))))
    return SurvivalCurve(times.years, np.asarray(np.cumprod(1 - deaths / at_risk)), at_risk, deaths)


def observed_risk_of(years: Array, died: Array, horizon: float) -> Statistic:
    """Kaplan–Meier risk of death within ``horizon`` years."""
    times = _Times.of(years, died)
    last = int(np.searchsorted(times.years, horizon, side="right"))

    def statistic(weights: Array) -> Array:
        at_risk, deaths = times.counts(weights)
        return np.asarray(1 - np.prod(1 - deaths[:last] / np.maximum(at_risk[:last], 1), axis=0))

    return statistic


def calibration_of(risk: Array, years: Array, died: Array, horizon: float) -> Statistic:
    """Observed over expected: Kaplan–Meier risk within ``horizon`` years over the mean predicted ``risk`` (n,)."""
    observed, expected = observed_risk_of(years, died, horizon), mean_of(risk)

    def statistic(weights: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return observed(weights) / expected(weights)

    return statistic


def risk_calibration(
    risk: Array,
    years: Array,
    died: Array,
    horizon: float,
    participants: ArrayLike,
    *,
    groups: int = 10,
    draws: int = 1000,
    seed: int = 0,
) -> pd.DataFrame:
    """Observed and expected risk of death within ``horizon`` years, in equal groups by predicted ``risk`` (n,).

    The groups are those of the cohort itself, in every resampled cohort too.

    Returns:
        A row a group, from low risk to high: ``group`` (from 1), ``n`` rows, ``expected`` (mean predicted risk),
        ``observed`` (Kaplan–Meier) and ``ratio`` (observed/expected), both with ``…_lower`` and ``…_upper``. What was
        observed is NaN where it rests on fewer than five deaths, or would give such a group away.
    """
    group = np.argsort(np.argsort(risk, kind="stable"), kind="stable") * groups // len(risk)
    members = {number: group == number - 1 for number in range(1, groups + 1)}
    dead = (died > 0) & (years <= horizon)
    shown = publishable({str(number): people_in(participants, rows & dead) for number, rows in members.items()})
    statistics: dict[str, Statistic] = {}
    for number, rows in members.items():
        if str(number) in shown:
            seen = years[rows], died[rows], horizon
            statistics[f"observed {number}"] = among(rows, observed_risk_of(*seen))
            statistics[f"ratio {number}"] = among(rows, calibration_of(risk[rows], *seen))
    found = bootstrap(statistics, participants, draws=draws, seed=seed)
    table = []
    for number, rows in members.items():
        row = {"group": number, "n": int(rows.sum()), "expected": float(risk[rows].mean())}
        for name in ("observed", "ratio"):
            seen_here = found.get(f"{name} {number}")
            ends = [np.nan] * 3 if seen_here is None else seen_here.estimate().numbers
            row |= dict(zip((name, f"{name}_lower", f"{name}_upper"), ends, strict=True))
        table.append(row)
    return pd.DataFrame(table)


def brier_of(survival: Array, grid: Array, years: Array, died: Array) -> Statistic:
    """Brier score of predicted ``survival`` (n, q) at the times ``grid`` (q,); of weights (n, b), shape (b, q).

    The squared distance of the predicted probability to be alive from being alive (1) or dead (0). Who was censored
    before is stood for by others, weighted by the inverse probability G of not being censored, itself the Kaplan–Meier
    estimate of each weighted cohort (Graf et al. 1999, Statistics in Medicine 18).

    Raises:
        BadInput: a time at which nobody is followed any more, or as ``kaplan_meier``.
    """
    times = _Times.of(years, died)
    if grid.max() >= times.years[-1]:
        raise BadInput(f"Brier score at {grid.max():g} years: expected a time before the follow-up ends")
    death = died > 0
    squared_if_dead = np.where(years[death, None] <= grid, survival[death] ** 2, 0.0)
    squared_if_alive = np.where(years[:, None] > grid, (1 - survival) ** 2, 0.0)
    at_death = times.position[death]
    at_grid = np.searchsorted(times.years, grid, side="right")

    def statistic(weights: Array) -> Array:
        at_risk, deaths = times.counts(weights)
        censored = -np.diff(at_risk, axis=0, append=0.0) - deaths
        # those who died at a time were no longer there to be censored at it
        uncensored = np.cumprod(1 - censored / np.maximum(at_risk - deaths, 1), axis=0)
        uncensored = np.concatenate([np.ones((1, weights.shape[1])), uncensored])  # [i]: just before time i
        reached = np.where(uncensored > 0, uncensored, 1.0)  # past the last who is followed there is nobody to weight
        with np.errstate(divide="ignore", invalid="ignore"):
            dead = (weights[death] / reached[at_death]).T @ squared_if_dead
            alive = weights.T @ squared_if_alive / uncensored[at_grid].T
            return np.asarray((dead + alive) / weights.sum(axis=0)[:, None])

    return statistic


def integrated_brier_of(survival: Array, grid: Array, years: Array, died: Array) -> Statistic:
    """Mean of the Brier score from the examination to the last time of ``grid`` (q,), ascending and above 0.

    The trapezoid rule over ``brier_of``; at time 0 everyone is alive, and the score is 0.
    """
    score = brier_of(survival, grid, years, died)
    width = np.diff(grid, prepend=0.0)
    share = (width + np.append(width[1:], 0.0)) / (2 * grid[-1])
    return lambda weights: score(weights) @ share


@dataclass(frozen=True)
class _Times:
    """The distinct times of follow-up ``years`` (T,), and who falls on each.

    Attributes:
        position: which of the times is whose, (n,).
        people_at, deaths_at: 1 where a person's follow-up ended, or they died, at a time; sparse, (T, n).
    """

    years: Array
    position: NDArray[np.intp]
    people_at: sparse.csr_array
    deaths_at: sparse.csr_array

    @classmethod
    def of(cls, years: Array, died: Array) -> _Times:
        if not len(years) or years.shape != died.shape or not np.isfinite([years, died]).all():
            raise BadInput(f"survival: expected as many finite years of follow-up as deaths, found {years.shape[0]:,}")
        distinct, position = np.unique(years, return_inverse=True)
        where, shape = (position, np.arange(len(years))), (len(distinct), len(years))
        ends = (np.ones(len(years)), (died > 0).astype(np.float64))
        return cls(distinct, position, *(sparse.csr_array((each, where), shape=shape) for each in ends))

    def counts(self, weights: Array) -> tuple[Array, Array]:
        """People followed at least until each time, and deaths at it, of weights (n, b); both (T, b)."""
        return np.cumsum((self.people_at @ weights)[::-1], axis=0)[::-1], self.deaths_at @ weights
