"""What all figures share: the style, the words around the data, and what may be drawn.

Nothing drawn rests on fewer than five people: no single points, no quantile with fewer than five beyond it, no axis
that ends at a person's value. Colors are those of Okabe and Ito, which the color-blind can tell apart. Matplotlib is
imported when the first figure is drawn, because that takes half a second.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation.suppression import how_many

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#6E6E6E"
LIGHT_BLUE, MIDDLE_BLUE, LIGHT_GRAY = "#C3DEEE", "#6FB0D6", "#D0D0D0"

CHANCE = 1.96  # standard errors on either side that hold 95 % of what chance does to a calibrated clock


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``figure`` to ``folder`` as ``name.png`` and ``name.svg``; returns both paths."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    figure.savefig(paths[0], dpi=200)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of ``width`` × ``height`` inches and its axes, in the style of all of them."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, compress=True))
    grid = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for axes in grid:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E8E8E8", linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, grid


def describe(axes: Axes, title: str, *notes: str) -> None:
    """Set a title and, smaller, a line below it for each of the ``notes`` that says something."""
    lines = [note for note in notes if note]
    axes.set_title(title, loc="left", fontsize=13, fontweight="bold", pad=10 + 13 * len(lines))
    axes.annotate(
        "\n".join(lines),
        (0, 1),
        xycoords="axes fraction",
        xytext=(0, 6),
        textcoords="offset points",
        verticalalignment="bottom",
        fontsize=9.5,
        color=GRAY,
    )


def held_out(values: Array) -> str:
    """How many people a figure is of: ``values`` (n,) has one for each."""
    return f"{how_many(len(values))} held-out people"


def legend(axes: Axes, place: Literal["best", "upper left", "upper right", "lower left", "lower right"]) -> None:
    """Draw the legend in a corner, on white."""
    axes.legend(loc=place, fontsize=9.5, frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)


def withhold(figure: Figure, axes: Axes) -> Figure:
    """Say in place of the data that too few people are behind it."""
    text = f"withheld: too few people\n(no part of it would show {SMALLEST_CELL})"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GRAY)
    axes.set(xticks=[], yticks=[])
    return figure


def counted(values: Array, one: str) -> str:
    """How many ``values`` there are, in words: ``40 epochs``."""
    return f"{len(values):,} {one}{'' if len(values) == 1 else 's'}"


def ends(values: Array, step: int) -> tuple[float, float]:
    """The multiples of ``step`` around ``values``, so that no axis ends at a person's value."""
    return float(np.floor(values.min() / step) * step), float(np.floor(values.max() / step + 1) * step)


def supported(fractions: Array, people: int) -> Array:
    """``fractions`` of ``people``, NaN where fewer than five people lie on one side."""
    return np.where(np.round(people * np.minimum(fractions, 1 - fractions), 6) >= SMALLEST_CELL, fractions, np.nan)
