"""Figure of what moves biological age: each marker and organ system, over many people."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL
from henaw.data.panel import Panel
from henaw.evaluation.style import BLUE, describe, new_figure, withhold
from henaw.model.attribution import Attribution, attribute
from henaw.model.clock import Clock

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

MOST_PEOPLE = 2_000  # whose shares are averaged: each marker costs a prediction of everyone
_COLORS = {
    "liver": "#0072B2",
    "kidney": "#E69F00",
    "inflammation": "#D55E00",
    "metabolism": "#009E73",
    "blood": "#CC79A7",
}


def attribution_of_cohort(clock: Clock, biomarkers: Array, sex: Array, age: Array, seed: int = 0) -> Figure:
    """Mean distance in years that a marker, or an organ system, lies from what is usual at a person's sex and age.

    Of at most 2,000 people, drawn with ``seed``, whose sex is known; arguments as of ``attribute``.
    """
    known = np.flatnonzero(np.isfinite(sex) & np.isfinite(age))
    rows = np.sort(np.random.default_rng(seed).permutation(known)[:MOST_PEOPLE])
    if len(rows) < SMALLEST_CELL:
        figure, (axes,) = new_figure(6.4, 4.0)
        describe(axes, "What moves biological age")
        return withhold(figure, axes)
    return attribution_plot(attribute(clock, biomarkers[rows], sex[rows], age[rows]), clock.panel)


def attribution_plot(found: Attribution, panel: Panel) -> Figure:
    """Mean absolute shares of the people in ``found``, five or more, by marker and by organ system."""
    height = 2.2 + 0.32 * max(len(panel.biomarkers), len(found.organs))
    figure, (markers, organs) = new_figure(12.0, height, columns=2)
    people = f"{len(found.total):,} held-out people; interaction of the markers: "
    interaction = f"{np.abs(found.interaction).mean():.1f} years on average"
    describe(markers, "What moves biological age: markers", people + interaction)
    describe(organs, "Organ systems", "All markers of a system at their medians together")
    color = {marker.title: _COLORS.get(marker.organ, BLUE) for marker in panel.biomarkers}
    by_marker = dict(zip(color, np.abs(found.by_marker).mean(axis=0), strict=True))
    by_organ = dict(zip(found.organs, np.abs(found.by_organ).mean(axis=0), strict=True))
    for axes, shares in ((markers, by_marker), (organs, by_organ)):
        names = sorted(shares, key=lambda name: shares[name])
        colors = [color[name] if axes is markers else _COLORS.get(name, BLUE) for name in names]
        axes.barh([name[0].upper() + name[1:] for name in names], [shares[name] for name in names], color=colors)
        axes.set_xlabel("Mean absolute share of biological age (years)")
        axes.grid(visible=False, axis="y")
    return figure
