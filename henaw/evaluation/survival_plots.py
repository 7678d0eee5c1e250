"""Figures of survival: by fifth of the adjusted age gap, and the calibration of predicted risk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation.style import BLUE, GRAY, ORANGE, describe, held_out, legend, new_figure, withhold
from henaw.evaluation.survival import kaplan_meier

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

FIFTHS = 5
_COLORS = ("#0072B2", "#56B4E9", "#6E6E6E", "#E69F00", "#D55E00")  # from biologically young to old
_NAMES = ("lowest fifth", "second", "third", "fourth", "highest fifth")


def survival_by_gap(gap: Array, years: Array, died: Array) -> Figure:
    """Kaplan–Meier survival by fifth of the adjusted age ``gap`` (n,), at whole years of follow-up.

    A curve goes on to the next year at which at least five more people of the fifth have died and at least five are
    still followed.
    """
    figure, (axes,) = new_figure(7.2, 5.0)
    describe(
        axes,
        "Survival by fifth of the adjusted age gap",
        f"{held_out(gap)}; bands: 95 % intervals (Kaplan–Meier)",
        f"Drawn at whole years in which the deaths since the last point number at least {SMALLEST_CELL}",
    )
    axes.set(xlabel="Years after the examination", ylabel="Alive (%)")
    fifth = np.argsort(np.argsort(gap, kind="stable"), kind="stable") * FIFTHS // max(len(gap), 1)
    drawn = False
    for number, (color, name) in enumerate(zip(_COLORS, _NAMES, strict=True)):
        rows = fifth == number
        points = yearly_points(years[rows], died[rows])
        if len(points) > 1:
            time, survival, lower, upper = points.T
            axes.fill_between(time, 100 * lower, 100 * upper, color=color, alpha=0.15, linewidth=0)
            axes.plot(time, 100 * survival, "o-", color=color, markersize=3.5, label=name)
            drawn = True
    if not drawn:
        return withhold(figure, axes)
    axes.set_xlim(left=0)
    legend(axes, "lower left")
    return figure


def yearly_points(years: Array, died: Array) -> Array:
    """What may be drawn of a survival curve: year, survival, lower and upper end of its interval, shape (p, 4)."""
    points = [(0.0, 1.0, 1.0, 1.0)]
    if len(years) < SMALLEST_CELL:
        return np.empty((0, 4))
    curve = kaplan_meier(years, died)
    lower, upper = curve.interval()
    shown = 0.0
    for year in range(1, int(np.floor(years.max())) + 1):
        last = int(np.searchsorted(curve.years, year, side="right")) - 1
        deaths = float(curve.deaths[: last + 1].sum())
        if (years > year).sum() < SMALLEST_CELL:
            break
        if deaths - shown >= SMALLEST_CELL:
            points.append((float(year), float(curve.survival[last]), float(lower[last]), float(upper[last])))
            shown = deaths
    return np.array(points)


def risk_calibration_plot(tables: Mapping[int, pd.DataFrame]) -> Figure:
    """Observed against expected risk by tenth of the expected one; ``tables`` of ``risk_calibration`` by years."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure, grid = new_figure(4.9 * len(tables), 5.2, columns=len(tables))
    for axes, (years, table) in zip(grid, tables.items(), strict=True):
        seen = table[np.isfinite(table["observed"])]
        note = (
            f"Left out: tenths with fewer than {SMALLEST_CELL} deaths" if len(seen) < len(table) else "all tenths shown"
        )
        people = f"{int(table['n'].sum()):,} held-out people in {len(table)} tenths of risk"
        describe(axes, f"Risk of death within {years} years", people, note)
        axes.set(xlabel="Predicted risk (%)", ylabel="Observed risk (%)", aspect="equal")
        if seen.empty:
            withhold(figure, axes)
            continue
        bottom = 0.8 * 100 * float(min(seen["observed"].min() / 2, seen["expected"].min()))
        top = 1.25 * 100 * float(max(seen["observed_upper"].max(), seen["expected"].max()))
        axes.plot([bottom, top], [bottom, top], color=GRAY, linewidth=1.3, linestyle="--", label="as predicted")
        observed = 100 * seen["observed"].to_numpy()
        error = [observed - np.maximum(100 * seen["observed_lower"], bottom), 100 * seen["observed_upper"] - observed]
        expected = 100 * seen["expected"].to_numpy()
        axes.errorbar(
            expected,
            observed,
            yerr=np.maximum(np.array(error), 0),
            fmt="o",
            color=BLUE,
            ecolor=ORANGE,
            markersize=5,
            capsize=3,
            label="observed, 95 % interval",
        )
        axes.set(xscale="log", yscale="log", xlim=(bottom, top), ylim=(bottom, top))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_locator(NullLocator())
        legend(axes, "upper left")
    return figure
