"""Figures of an age clock: predicted against true age, calibration, the gap and the interval by age.

Each function returns a ``matplotlib.figure.Figure``; no state is global.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation.metrics import central_coverage, pit_histogram, quantile_coverage
from henaw.evaluation.style import (
    BLUE,
    CHANCE,
    GRAY,
    LIGHT_BLUE,
    LIGHT_GRAY,
    MIDDLE_BLUE,
    ORANGE,
    describe,
    ends,
    held_out,
    legend,
    new_figure,
    supported,
    withhold,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

AGE_BAND_YEARS = 5
GAP_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)


def predicted_against_true(age: Array, predicted: Array, what: str = "Predicted") -> Figure:
    """Density of predicted (n,) against true age (n,), both in years, in hexagons of at least five people.

    ``what`` is predicted: "Predicted" age where it is chronological, "Biological" where nobody can observe it.
    """
    figure, (axes,) = new_figure(6.4, 5.6)
    # Ages in whole years fall into all hexagons alike, and leave no stripes, where a hexagon is an even number of years
    # wide and its edge between two ages.
    width = 2 if len(age) >= 20_000 else 4 if len(age) >= 1_000 else 10
    low, high = np.subtract(ends(np.concatenate([age, predicted]) + 0.5, step=20), 0.5)
    hexagons = axes.hexbin(
        age,
        predicted,
        gridsize=round((high - low) / width),
        extent=(low, high, low, high),
        mincnt=SMALLEST_CELL,
        cmap="viridis_r",
        linewidths=0.2,
    )
    axes.set(aspect="equal", xlabel="Chronological age (years)", ylabel=f"{what} age (years)")
    centers, counts = np.asarray(hexagons.get_offsets()), np.asarray(hexagons.get_array())
    blank = len(age) - int(counts.sum())
    note = f"Left blank: hexagons of fewer than {SMALLEST_CELL} people" if blank else ""
    if blank >= SMALLEST_CELL:
        note += f", {100 * blank / len(age):.1f} % of people in all"
    describe(axes, f"{what} against chronological age", held_out(age), note)
    if not len(counts):
        return withhold(figure, axes)
    low, high = ends(np.concatenate([centers - 0.6 * width, centers + 0.6 * width]), step=10)
    axes.plot(
        [low, high], [low, high], color=ORANGE, linewidth=1.3, linestyle="--", label=f"{what.lower()} = chronological"
    )
    axes.set(xlim=(low, high), ylim=(low, high))
    figure.colorbar(hexagons, ax=axes, label="People in a hexagon", shrink=0.8)
    legend(axes, "upper left")
    return figure


def calibration(pit: Array) -> Figure:
    """Reliability of intervals and quantiles, and the histogram of the probability integral transform (PIT).

    Args:
        pit: the predictive distribution's function at each person's true age, shape (n,); uniform if calibrated.
    """
    figure, (reliability, histogram) = new_figure(9.6, 4.9, columns=2)
    _draw_reliability(figure, reliability, pit)
    _draw_pit(figure, histogram, pit)
    return figure


def _draw_reliability(figure: Figure, axes: Axes, pit: Array) -> None:
    marks, levels = np.linspace(0.05, 0.95, 19), np.linspace(0, 1, 101)
    central, lower = (supported(fraction(pit, marks), len(pit)) for fraction in (central_coverage, quantile_coverage))
    hidden = np.isnan(central) | np.isnan(lower)
    note = f"Left out: fractions with fewer than {SMALLEST_CELL} people on a side" if hidden.any() else ""
    describe(axes, "Reliability", held_out(pit), note)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="Nominal probability", ylabel="Fraction of people")
    if hidden.all():
        withhold(figure, axes)
        return
    chance = CHANCE * np.sqrt(levels * (1 - levels) / len(pit))
    label = "95 % range if calibrated"
    axes.fill_between(levels, levels - chance, levels + chance, color=LIGHT_GRAY, linewidth=0, label=label)
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1.3, linestyle="--")
    axes.plot(marks, central, "o-", color=BLUE, markersize=4, label="inside the central interval")
    axes.plot(marks, lower, "s-", color=ORANGE, markersize=4, label="at or below the quantile")
    legend(axes, "upper left")


def _draw_pit(figure: Figure, axes: Axes, pit: Array) -> None:
    parts = int(np.clip(len(pit) // 20, 4, 20))
    counts = pit_histogram(pit, parts)
    shown = np.where(counts >= SMALLEST_CELL, counts * parts / len(pit), 0.0)
    note = f"Left blank: parts of fewer than {SMALLEST_CELL} people" if (shown == 0).any() else ""
    describe(axes, "Probability integral transform (PIT)", held_out(pit), note)
    axes.set(xlim=(0, 1), ylim=(0, max(1.6, 1.25 * float(shown.max()))))
    axes.set(xlabel="PIT: predicted probability of an age up to the true one", ylabel="Density (1 if calibrated)")
    if not shown.any():
        withhold(figure, axes)
        return
    chance = CHANCE * np.sqrt((parts - 1) / len(pit))
    axes.bar(np.arange(parts) / parts, shown, 1 / parts, align="edge", color=MIDDLE_BLUE, edgecolor="white")
    axes.axhspan(1 - chance, 1 + chance, color=GRAY, alpha=0.3, linewidth=0, label="95 % range if calibrated")
    axes.axhline(1, color=GRAY, linewidth=1.3, linestyle="--")
    legend(axes, "upper left")


def age_gap_by_age(age: Array, predicted: Array, adjusted: Array) -> Figure:
    """Quantiles of the age gap in bands of true ``age`` (n,), before and after its regression on age is removed.

    A quantile is drawn where at least five people of the band lie on either side of it.

    Args:
        age: chronological, years, shape (n,).
        predicted: biological age, years, shape (n,).
        adjusted: the adjusted gap, years, shape (n,).
    """
    figure, panels = new_figure(11.4, 5.0, columns=2)
    gaps = {"Age gap by age": predicted - age, "The same, adjusted for age": adjusted}
    for axes, (title, gap) in zip(panels, gaps.items(), strict=True):
        _draw_gap(figure, axes, title, age, gap)
    panels[1].set_ylabel("Adjusted age gap (years)")
    return figure


def _draw_gap(figure: Figure, axes: Axes, title: str, age: Array, gap: Array) -> None:
    starts = np.arange(*ends(age, step=AGE_BAND_YEARS), AGE_BAND_YEARS)
    bands = [gap[(age >= start) & (age < start + AGE_BAND_YEARS)] for start in starts]
    quantiles = np.array([_supported_quantiles(gaps) for gaps in bands])
    drawn = np.isfinite(quantiles).any(axis=1)
    note = f"Left out: quantiles beyond which a band has fewer than {SMALLEST_CELL} people"
    describe(axes, title, held_out(age), note if np.isnan(quantiles).any() else "")
    axes.set(xlabel="Chronological age (years)", ylabel="Age gap: biological − chronological (years)")
    if not drawn.any():
        withhold(figure, axes)
        return
    lowest, lower, median, upper, highest = quantiles[drawn].T
    middles, width = starts[drawn] + AGE_BAND_YEARS / 2, 0.86 * AGE_BAND_YEARS
    axes.use_sticky_edges = False
    axes.bar(middles, highest - lowest, width, lowest, color=LIGHT_BLUE, label="10 % to 90 % of people")
    axes.bar(middles, upper - lower, width, lower, color=MIDDLE_BLUE, label="25 % to 75 % of people")
    axes.hlines(median, middles - width / 2, middles + width / 2, color=ORANGE, linewidth=2.4, label="median")
    axes.axhline(0, color=GRAY, linewidth=1.3, linestyle="--")
    axes.set_xlim(middles[0] - AGE_BAND_YEARS / 2, middles[-1] + AGE_BAND_YEARS / 2)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top + 0.22 * (top - bottom))  # room for the legend
    legend(axes, "upper right")


def _supported_quantiles(values: Array) -> Array:
    """Quantiles of ``values`` at ``GAP_LEVELS``; NaN where fewer than five values lie on one side."""
    quantiles = np.full(len(GAP_LEVELS), np.nan)
    shown = np.isfinite(supported(np.array(GAP_LEVELS), len(values)))
    if shown.any():
        quantiles[shown] = np.quantile(values, np.array(GAP_LEVELS)[shown])
    return quantiles
