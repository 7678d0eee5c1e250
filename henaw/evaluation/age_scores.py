"""What is known of each person's prediction: scores (n,) whose means are the figures of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from henaw.evaluation.bootstrap import Statistic, mean_of
from henaw.evaluation.metrics import crps_from_quantiles, midpoint_levels
from henaw.evaluation.mixture import pooled, quantiles_of_pool
from henaw.model.distribution import EnsembleDistribution, central_levels

Array = NDArray[np.float64]

PERCENTILES = np.arange(1, 100) / 100
_CRPS_LEVELS = 400  # for a Gaussian the mean over 400 quantiles is within 0.01 % of the closed form
_LEVELS_AT_ONCE = 20  # bounds the memory that a large cohort needs
_LEAST_PROBABILITY = 1e-9  # of a year of age; a person outside the support would otherwise cost infinitely much


def age_scores(distribution: EnsembleDistribution, age: Array, coverages: Iterable[float]) -> dict[str, Array]:
    """Scores against true ``age`` (n,), by the name of their mean; point errors are those of the median."""
    predicted = distribution.median
    return {
        "mae_years": np.abs(predicted - age),
        "mean_error_years": predicted - age,
        "crps_years": _crps(distribution, age, midpoint_levels(_CRPS_LEVELS)),
        "crps_99_years": _crps(distribution, age, PERCENTILES),
        "nll_nats": year_of_age_nll(distribution, age),
        **coverage_scores(distribution, age, coverages),
        **spread_scores(distribution, coverages),
    }


def spread_scores(distribution: EnsembleDistribution, coverages: Iterable[float]) -> dict[str, Array]:
    """How sure the clock says that it is: needs no truth."""
    intervals = {f"{100 * coverage:g}": distribution.interval(coverage) for coverage in coverages}
    widths = {f"width_{percent}_years": upper - lower for percent, (lower, upper) in intervals.items()}
    sds = {"aleatoric_sd_years": distribution.aleatoric_sd, "epistemic_sd_years": distribution.epistemic_sd}
    return widths | sds


def coverage_scores(distribution: EnsembleDistribution, age: Array, coverages: Iterable[float]) -> dict[str, Array]:
    """1 where ``age`` (n,) is inside the interval, else 0."""
    hits = {}
    for coverage in coverages:
        lower, upper = distribution.interval(coverage)
        hits[f"coverage_{100 * coverage:g}"] = ((lower <= age) & (age <= upper)).astype(np.float64)
    return hits


def mixture_scores(
    distribution: EnsembleDistribution, age: Array, coverages: Iterable[float]
) -> tuple[dict[str, Array], Array]:
    """Scores of the mixture of the members, named as those of the barycenter; and its median (n,)."""
    ends = {f"{100 * coverage:g}": central_levels(coverage) for coverage in coverages}
    names = ["mae_years", "crps_years", "crps_99_years", *(f"coverage_{percent}" for percent in ends)]
    names += [f"width_{percent}_years" for percent in ends]
    scores = {name: np.empty(len(age)) for name in names}
    median = np.empty(len(age))
    for rows, pool in pooled(distribution):
        truth = age[rows]
        median[rows] = quantiles_of_pool(pool, np.array([0.5]))[:, 0]
        scores["mae_years"][rows] = np.abs(median[rows] - truth)
        scores["crps_years"][rows] = crps_from_quantiles(pool, midpoint_levels(pool.shape[1]), truth)
        percentiles = quantiles_of_pool(pool, PERCENTILES)
        scores["crps_99_years"][rows] = crps_from_quantiles(percentiles, PERCENTILES, truth)
        for percent, levels in ends.items():
            lower, upper = quantiles_of_pool(pool, levels).T
            scores[f"coverage_{percent}"][rows] = (lower <= truth) & (truth <= upper)
            scores[f"width_{percent}_years"][rows] = upper - lower
    return scores, median


def year_of_age_nll(distribution: EnsembleDistribution, age: Array) -> Array:
    """−log of the probability of the year around ``age`` (n,) rounded to whole years, in nats; at most 20.7."""
    year = np.floor(age + 0.5)
    probability = distribution.cdf(year + 0.5) - distribution.cdf(year - 0.5)
    return np.asarray(-np.log(np.maximum(probability, _LEAST_PROBABILITY)))


def misplaced_of(pit: Array, parts: int = 10) -> Statistic:
    """Share of people who would have to move for all ``parts`` of the histogram of ``pit`` (n,) to be alike."""
    part = np.minimum((pit * parts).astype(np.intp), parts - 1)
    shares = mean_of((part[:, None] == np.arange(parts)).astype(np.float64))
    return lambda weights: np.abs(shares(weights) - 1 / parts).sum(axis=1) / 2


def _crps(distribution: EnsembleDistribution, age: Array, levels: Array) -> Array:
    total = np.zeros(len(age))
    for start in range(0, len(levels), _LEVELS_AT_ONCE):
        some = levels[start : start + _LEVELS_AT_ONCE]
        total += len(some) * crps_from_quantiles(distribution.quantiles(some), some, age)
    return np.asarray(total / len(levels))
