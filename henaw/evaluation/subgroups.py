"""For whom a clock is good: scores by predicted age, true age, sex and number of missing markers, with intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from henaw.errors import BadInput
from henaw.evaluation.bootstrap import Statistic, among, bootstrap, mean_of, people_in
from henaw.evaluation.suppression import publishable

Array = NDArray[np.float64]
Groups = Mapping[str, NDArray[np.bool_]]
"""A partition: which rows (n,) belong to each group, by the group's name; nobody in two."""

AGE_EDGES = (35, 50, 65)
MOST_MISSING = 3  # who lacks more markers stands with those who lack so many


@dataclass(frozen=True)
class SubgroupFigures:
    """What may be published of subgroups.

    Attributes:
        table: a row a partition, group and figure: ``partition``, ``group``, ``n`` (people), ``figure``, ``value``,
            ``lower``, ``upper`` (95 % interval, bootstrap by person).
        withheld: ``partition: group`` of those left out, as too small or giving away one that is.
    """

    table: pd.DataFrame
    withheld: tuple[str, ...]


def figures_by_subgroup(
    scores: Mapping[str, Array],
    partitions: Mapping[str, Groups],
    participants: ArrayLike,
    *,
    draws: int = 1000,
    seed: int = 0,
) -> SubgroupFigures:
    """The mean of each score in each group.

    Args:
        scores: a score a row (n,), by the name of its mean: absolute errors for MAE, hits (1 or 0) of an interval for
            its coverage, its widths, CRPS; differences to a reference's scores give paired comparisons.
        partitions: from ``standard_partitions``.
        participants: whose row it is, shape (n,); a person's rows are resampled together.
        draws: resampled cohorts.
        seed: of them.

    Raises:
        BadInput: scores that are not finite.
    """
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise BadInput(f"subgroups: {name}: expected a finite score for everyone")
    matrix = np.stack(list(scores.values()), axis=1)
    statistics: dict[str, Statistic] = {}
    counts: dict[str, tuple[str, str, int]] = {}
    withheld = []
    for partition, groups in partitions.items():
        sizes = {group: people_in(participants, rows) for group, rows in groups.items()}
        shown = publishable(sizes)
        for group, rows in groups.items():
            key = f"{partition}: {group}"
            if group in shown:
                statistics[key] = among(rows, mean_of(matrix[rows]))
                counts[key] = (partition, group, sizes[group])
            elif sizes[group]:
                withheld.append(key)
    table = []
    for key, found in bootstrap(statistics, participants, draws=draws, seed=seed).items():
        for figure, value, lower, upper in zip(scores, found.value, *found.interval(), strict=True):
            table.append((*counts[key], figure, float(value), float(lower), float(upper)))
    columns = ["partition", "group", "n", "figure", "value", "lower", "upper"]
    return SubgroupFigures(pd.DataFrame(table, columns=columns), tuple(withheld))


def standard_partitions(age: Array, predicted: Array, sex: ArrayLike, missing: ArrayLike) -> dict[str, Groups]:
    """Everyone; bands of predicted and of true age; sex; number of missing markers.

    Args:
        age: true age in years, shape (n,).
        predicted: predicted age in years, shape (n,).
        sex: ``female``, ``male`` or missing, shape (n,).
        missing: how many of the panel's markers are missing, shape (n,).
    """
    sexes = np.asarray(sex, dtype=object)
    by_sex = {name: sexes == name for name in ("female", "male")}
    numbers = np.minimum(np.asarray(missing, dtype=np.int64), MOST_MISSING)
    return {
        "all": {"all": np.ones(len(age), dtype=np.bool_)},
        "predicted age": age_bands(predicted),
        "true age": age_bands(age),
        "sex": by_sex | {"not stated": ~(by_sex["female"] | by_sex["male"])},
        "missing markers": {
            f"{number} and more" if number == MOST_MISSING else str(number): numbers == number
            for number in np.unique(numbers)
        },
    }


def age_bands(age: Array, edges: tuple[int, ...] = AGE_EDGES) -> Groups:
    """Bands of completed years: up to 34, 35–49, 50–64, 65 and more, of ``age`` (n,)."""
    inner = [f"{low}–{high - 1}" for low, high in pairwise(edges)]
    names = [f"under {edges[0]}", *inner, f"{edges[-1]} and more"]
    ends = pairwise((-np.inf, *edges, np.inf))
    return {name: (age >= low) & (age < high) for name, (low, high) in zip(names, ends, strict=True)}
