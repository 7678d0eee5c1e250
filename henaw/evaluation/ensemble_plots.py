"""Figures of the ensemble: how wide its intervals are, and its barycenter beside the mixture of its members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation.metrics import midpoint_levels
from henaw.evaluation.mixture import POOLED, member_quantiles, pooled
from henaw.evaluation.plots import AGE_BAND_YEARS
from henaw.evaluation.style import (
    BLUE,
    GRAY,
    LIGHT_GRAY,
    ORANGE,
    describe,
    ends,
    held_out,
    legend,
    new_figure,
    withhold,
)
from henaw.model.clock import Clock
from henaw.model.distribution import EnsembleDistribution

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_REACHES = ((0.0, 0), (0.2, 0), (0.4, 0), (0.6, 0), (0.8, 0), (0.0, 3))
"""Of the six examples: how far from the median their markers lie, and how many are missing."""
_COLORS = ("#D55E00", "#E69F00", "#0072B2", "#56B4E9", "#009E73", "#CC79A7")


def interval_width_by_age(age: Array, distribution: EnsembleDistribution, coverages: Sequence[float]) -> Figure:
    """Mean width of the central intervals, and mean standard deviations, in bands of true ``age`` (n,)."""
    figure, (widths, sds) = new_figure(10.4, 4.7, columns=2)
    starts = np.arange(*ends(age, step=AGE_BAND_YEARS), AGE_BAND_YEARS)
    bands = [(age >= start) & (age < start + AGE_BAND_YEARS) for start in starts]
    shown = [position for position, rows in enumerate(bands) if rows.sum() >= SMALLEST_CELL]
    note = f"Left out: bands of fewer than {SMALLEST_CELL} people" if len(shown) < len(bands) else ""
    describe(widths, "Width of the interval by age", held_out(age), note)
    describe(sds, "Two parts of the uncertainty by age", f"means in bands of {AGE_BAND_YEARS} years", note)
    widths.set(xlabel="Chronological age (years)", ylabel="Mean width (years)")
    sds.set(xlabel="Chronological age (years)", ylabel="Mean standard deviation (years)")
    if not shown:
        withhold(figure, widths)
        return withhold(figure, sds)
    middles = starts[shown] + AGE_BAND_YEARS / 2
    for color, coverage in zip(_COLORS, sorted(coverages, reverse=True), strict=False):
        lower, upper = distribution.interval(coverage)
        means = [(upper - lower)[bands[position]].mean() for position in shown]
        widths.plot(middles, means, "o-", color=color, markersize=4, label=f"{100 * coverage:g} % interval")
    for color, values, name in (
        (BLUE, distribution.aleatoric_sd, "aleatoric: the barycenter's spread"),
        (ORANGE, distribution.epistemic_sd, "epistemic: the members' disagreement"),
    ):
        means = [values[bands[position]].mean() for position in shown]
        sds.plot(middles, means, "o-", color=color, markersize=4, label=name)
    for axes in (widths, sds):
        axes.set_ylim(0, 1.32 * axes.get_ylim()[1])
        legend(axes, "upper left")
    return figure


@dataclass(frozen=True)
class Example:
    """A person who does not exist: ``biomarkers`` (m,) in canonical units, sex code and age in years."""

    title: str
    biomarkers: Array
    sex: float
    age: float


def examples(clock: Clock, seed: int = 0) -> list[Example]:
    """Six people who do not exist, from the medians of sex and age outwards, the last with markers missing.

    Medians and the ends of the training range both rest on five people or more, and are nobody's values.
    """
    random = np.random.default_rng(seed)
    found = []
    for number, (reach, missing) in enumerate(_REACHES):
        sex, age = float(number % 2), (35.0, 50.0, 65.0)[number % 3]
        usual = clock.reference.of(np.array([sex]), np.array([age]))[0]
        end = np.where(random.random(len(usual)) < 0.5, clock.trained_on.lowest, clock.trained_on.highest)
        with np.errstate(invalid="ignore", divide="ignore"):
            logs = usual * np.where((end > 0) & (usual > 0), end / usual, 1.0) ** reach
        markers = np.where((end > 0) & (usual > 0), logs, usual + reach * (end - usual))
        title = f"markers {100 * reach:.0f} % of the way to an extreme" if reach else "all markers at the median"
        if missing:
            left_out = random.permutation(len(usual))[: min(missing, clock.max_missing)]
            markers[left_out] = np.nan
            title = f"at the median, {len(left_out)} markers missing"
        found.append(Example(title, markers, sex, age))
    return found


def barycenter_against_mixture(clock: Clock, coverage: float = 0.9) -> Figure:
    """Distribution functions of the members, their barycenter and their mixture, for six people who do not exist."""
    people = examples(clock)
    biomarkers = np.stack([person.biomarkers for person in people])
    sex, age = (np.array([getattr(person, name) for person in people]) for name in ("sex", "age"))
    distribution = clock.predict(biomarkers, sex, age)
    levels = midpoint_levels(POOLED)
    center = distribution.quantiles(levels)
    figure, grid = new_figure(12.0, 7.6, rows=2, columns=3)
    shown = np.flatnonzero((levels > (1 - coverage) / 40) & (levels < 1 - (1 - coverage) / 40))
    for rows, members in member_quantiles(distribution, levels):
        for position, row in enumerate(rows):
            for number, quantiles in enumerate(members[:, position]):
                label = f"{len(members)} members" if number == 0 else None
                grid[row].plot(quantiles[shown], levels[shown], color=LIGHT_GRAY, linewidth=0.9, label=label)
    for rows, pool in pooled(distribution):
        for row, quantiles in zip(rows, pool, strict=True):
            probability = midpoint_levels(pool.shape[1])
            axes, person = grid[row], people[row]
            axes.plot(center[row], levels, color=BLUE, linewidth=2.2, label="barycenter")
            axes.plot(quantiles, probability, color=ORANGE, linewidth=1.8, linestyle="--", label="mixture")
            sexes = ("woman", "man")[int(person.sex)]
            told = f"{sexes} of {person.age:g}"
            aleatoric, epistemic = distribution.aleatoric_sd[row], distribution.epistemic_sd[row]
            spread = f"SD {aleatoric:.1f}, members' disagreement {epistemic:.1f} years"
            describe(axes, f"{chr(65 + int(row))}: {told}", person.title, spread)
            axes.set(xlabel="Biological age (years)", ylabel="Probability up to it", ylim=(0, 1))
            axes.axhline(0.5, color=GRAY, linewidth=0.8, linestyle=":")
    legend(grid[0], "lower right")
    figure.suptitle(
        "Barycenter and mixture of the members, for six people who do not exist", fontsize=14, x=0.01, ha="left"
    )
    return figure
