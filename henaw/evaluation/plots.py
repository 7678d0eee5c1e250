"""Figures for a paper or a run's page; each function returns a ``matplotlib.figure.Figure`` and no state is global.

Nothing drawn rests on fewer than five people: no single points, no quantile with fewer than five beyond it, no axis
that ends at a person's value. Colors are those of Okabe and Ito, which the color-blind can tell apart. Matplotlib is
imported when the first figure is drawn, because that takes half a second.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from henaw.evaluation.metrics import central_coverage, pit_histogram, quantile_coverage
from henaw.evaluation.report import SMALLEST_CELL

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
History = Sequence[Mapping[str, float]]

BLUE, ORANGE, GRAY = "#0072B2", "#D55E00", "#6E6E6E"
LIGHT_BLUE, MIDDLE_BLUE, LIGHT_GRAY = "#C3DEEE", "#6FB0D6", "#D0D0D0"

AGE_BAND_YEARS = 5
GAP_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
CHANCE = 1.96  # standard errors on either side that hold 95 % of what chance does to a calibrated clock


def predicted_against_true(age: Array, predicted: Array) -> Figure:
    """Density of predicted (n,) against true age (n,), both in years, in hexagons of at least five people."""
    figure, (axes,) = _figure(6.4, 5.6)
    # Ages in whole years fall into all hexagons alike, and leave no stripes, where a hexagon is an even number of years
    # wide and its edge between two ages.
    width = 2 if len(age) >= 20_000 else 4 if len(age) >= 1_000 else 10
    low, high = np.subtract(_ends(np.concatenate([age, predicted]) + 0.5, step=20), 0.5)
    hexagons = axes.hexbin(
        age,
        predicted,
        gridsize=round((high - low) / width),
        extent=(low, high, low, high),
        mincnt=SMALLEST_CELL,
        cmap="viridis_r",
        linewidths=0.2,
    )
    axes.set(aspect="equal", xlabel="Chronological age (years)", ylabel="Predicted age (years)")
    centers, counts = np.asarray(hexagons.get_offsets()), np.asarray(hexagons.get_array())
    blank = len(age) - int(counts.sum())
    note = f"Left blank: hexagons of fewer than {SMALLEST_CELL} people" if blank else ""
    if blank >= SMALLEST_CELL:
        note += f", {100 * blank / len(age):.1f} % of people in all"
    _describe(axes, "Predicted against true age", _held_out(age), note)
    if not len(counts):
        return _withhold(figure, axes)
    low, high = _ends(np.concatenate([centers - 0.6 * width, centers + 0.6 * width]), step=10)
    axes.plot([low, high], [low, high], color=ORANGE, linewidth=1.3, linestyle="--", label="predicted = true")
    axes.set(xlim=(low, high), ylim=(low, high))
    figure.colorbar(hexagons, ax=axes, label="People in a hexagon", shrink=0.8)
    _legend(axes, "upper left")
    return figure


def calibration(pit: Array) -> Figure:
    """Reliability of intervals and quantiles, and the histogram of the probability integral transform (PIT).

    Args:
        pit: the predictive distribution's function at each person's true age, shape (n,); uniform if calibrated.
    """
    figure, (reliability, histogram) = _figure(9.6, 4.9, columns=2)
    _draw_reliability(figure, reliability, pit)
    _draw_pit(figure, histogram, pit)
    return figure


def _draw_reliability(figure: Figure, axes: Axes, pit: Array) -> None:
    marks, levels = np.linspace(0.05, 0.95, 19), np.linspace(0, 1, 101)
    central, lower = (_supported(fraction(pit, marks), len(pit)) for fraction in (central_coverage, quantile_coverage))
    hidden = np.isnan(central) | np.isnan(lower)
    note = f"Left out: fractions with fewer than {SMALLEST_CELL} people on a side" if hidden.any() else ""
    _describe(axes, "Reliability", _held_out(pit), note)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="Nominal probability", ylabel="Fraction of people")
    if hidden.all():
        _withhold(figure, axes)
        return
    chance = CHANCE * np.sqrt(levels * (1 - levels) / len(pit))
    label = "95 % range if calibrated"
    axes.fill_between(levels, levels - chance, levels + chance, color=LIGHT_GRAY, linewidth=0, label=label)
    axes.plot([0, 1], [0, 1], color=GRAY, linewidth=1.3, linestyle="--")
    axes.plot(marks, central, "o-", color=BLUE, markersize=4, label="inside the central interval")
    axes.plot(marks, lower, "s-", color=ORANGE, markersize=4, label="at or below the quantile")
    _legend(axes, "upper left")


def _draw_pit(figure: Figure, axes: Axes, pit: Array) -> None:
    parts = int(np.clip(len(pit) // 20, 4, 20))
    counts = pit_histogram(pit, parts)
    shown = np.where(counts >= SMALLEST_CELL, counts * parts / len(pit), 0.0)
    note = f"Left blank: parts of fewer than {SMALLEST_CELL} people" if (shown == 0).any() else ""
    _describe(axes, "Probability integral transform (PIT)", _held_out(pit), note)
    axes.set(xlim=(0, 1), ylim=(0, max(1.6, 1.25 * float(shown.max()))))
    axes.set(xlabel="PIT: predicted probability of an age up to the true one", ylabel="Density (1 if calibrated)")
    if not shown.any():
        _withhold(figure, axes)
        return
    chance = CHANCE * np.sqrt((parts - 1) / len(pit))
    axes.bar(np.arange(parts) / parts, shown, 1 / parts, align="edge", color=MIDDLE_BLUE, edgecolor="white")
    axes.axhspan(1 - chance, 1 + chance, color=GRAY, alpha=0.3, linewidth=0, label="95 % range if calibrated")
    axes.axhline(1, color=GRAY, linewidth=1.3, linestyle="--")
    _legend(axes, "upper left")


def loss_curves(history: History, quantity: str) -> Figure:
    """Training and validation loss by epoch.

    Args:
        history: a record an epoch with ``epoch`` (from 0), ``train_loss`` and ``validation_loss`` (means over members).
        quantity: what the loss is, with its unit: ``CRPS (years)``.
    """
    figure, (axes,) = _figure(6.4, 4.5)
    epochs = _epochs(history)
    train, validation = _series(history, "train_loss"), _series(history, "validation_loss")
    axes.plot(epochs, train, "o-", color=BLUE, markersize=4, label="training")
    axes.plot(epochs, validation, "s-", color=ORANGE, markersize=4, label="validation")
    if np.isfinite(validation).any():
        best = int(np.nanargmin(validation))
        label = f"lowest validation loss: {validation[best]:.4g} (epoch {epochs[best]:g})"
        axes.axvline(epochs[best], color=GRAY, linewidth=1.3, linestyle=":", label=label)
    axes.set(xlabel="Epoch", ylabel=f"Loss: {quantity}")
    _count_epochs(axes, epochs)
    _describe(axes, "Training and validation loss", f"{_counted(epochs, 'epoch')}, means over members")
    _legend(axes, "best")
    return figure


def gradient_norms(history: History, clip_norm: float) -> Figure:
    """Gradient norm before clipping, and how often it was clipped, by epoch.

    Args:
        history: a record an epoch with ``epoch`` (from 0), ``gradient_norm`` and ``clipped_fraction`` (means over steps
            and members).
        clip_norm: the largest norm of a member's gradient that training lets through.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure, (norms, clipped) = _figure(6.4, 5.6, rows=2)
    epochs = _epochs(history)
    norms.plot(
        epochs, _series(history, "gradient_norm"), "o-", color=BLUE, markersize=4, label="mean over steps and members"
    )
    norms.axhline(clip_norm, color=ORANGE, linewidth=1.4, linestyle="--", label=f"clipped above {clip_norm:g}")
    norms.set(yscale="log", ylabel="Gradient norm\nbefore clipping")
    norms.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    norms.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    norms.yaxis.set_minor_locator(NullLocator())
    norms.tick_params(labelbottom=False)
    _legend(norms, "best")
    clipped.bar(epochs, 100 * _series(history, "clipped_fraction"), 0.8, color=MIDDLE_BLUE)
    clipped.set(xlabel="Epoch", ylabel="Clipped gradients\n(% of all)", ylim=(0, 100))
    for axes in (norms, clipped):
        _count_epochs(axes, epochs)
    _describe(norms, "Gradients in training", _counted(epochs, "epoch"))
    return figure


def age_gap_by_age(age: Array, predicted: Array) -> Figure:
    """Quantiles of predicted (n,) minus true age (n,), in years, in bands of true age.

    A quantile is drawn where at least five people of the band lie on either side of it.
    """
    figure, (axes,) = _figure(6.8, 4.7)
    starts = np.arange(*_ends(age, step=AGE_BAND_YEARS), AGE_BAND_YEARS)
    bands = [(predicted - age)[(age >= start) & (age < start + AGE_BAND_YEARS)] for start in starts]
    quantiles = np.array([_supported_quantiles(gaps) for gaps in bands])
    drawn = np.isfinite(quantiles).any(axis=1)
    note = f"Left out: quantiles beyond which a band has fewer than {SMALLEST_CELL} people"
    _describe(axes, "Age gap by age", _held_out(age), note if np.isnan(quantiles).any() else "")
    axes.set(xlabel="Chronological age (years)", ylabel="Age gap: predicted − true (years)")
    if not drawn.any():
        return _withhold(figure, axes)
    lowest, lower, median, upper, highest = quantiles[drawn].T
    middles, width = starts[drawn] + AGE_BAND_YEARS / 2, 0.86 * AGE_BAND_YEARS
    axes.use_sticky_edges = False
    axes.bar(middles, highest - lowest, width, lowest, color=LIGHT_BLUE, label="10 % to 90 % of people")
    axes.bar(middles, upper - lower, width, lower, color=MIDDLE_BLUE, label="25 % to 75 % of people")
    axes.hlines(median, middles - width / 2, middles + width / 2, color=ORANGE, linewidth=2.4, label="median")
    axes.axhline(0, color=GRAY, linewidth=1.3, linestyle="--")
    axes.set_xlim(middles[0] - AGE_BAND_YEARS / 2, middles[-1] + AGE_BAND_YEARS / 2)
    _legend(axes, "upper right")
    return figure


def save(figure: Figure, folder: Path, name: str) -> list[Path]:
    """Write ``figure`` to ``folder`` as ``name.png`` and ``name.svg``; returns both paths."""
    paths = [folder / f"{name}.png", folder / f"{name}.svg"]
    figure.savefig(paths[0], dpi=200)
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def _figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, list[Axes]]:
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


def _describe(axes: Axes, title: str, *notes: str) -> None:
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


def _held_out(values: Array) -> str:
    return f"{len(values):,} held-out {'person' if len(values) == 1 else 'people'}"


def _legend(axes: Axes, place: Literal["best", "upper left", "upper right"]) -> None:
    axes.legend(loc=place, fontsize=9.5, frameon=True, facecolor="white", edgecolor="none", framealpha=0.85)


def _withhold(figure: Figure, axes: Axes) -> Figure:
    """Say in place of the data that too few people are behind it."""
    text = f"withheld: too few people\n(no part of it would show {SMALLEST_CELL})"
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GRAY)
    axes.set(xticks=[], yticks=[])
    return figure


def _count_epochs(axes: Axes, epochs: Array) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(epochs.min() - 0.6, epochs.max() + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _counted(values: Array, one: str) -> str:
    return f"{len(values):,} {one}{'' if len(values) == 1 else 's'}"


def _epochs(history: History) -> Array:
    """Epochs counted from 1, as people do."""
    return _series(history, "epoch") + 1


def _series(history: History, name: str) -> Array:
    return np.array([epoch[name] for epoch in history], dtype=np.float64)


def _ends(values: Array, step: int) -> tuple[float, float]:
    """The multiples of ``step`` around ``values``, so that no axis ends at a person's value."""
    return float(np.floor(values.min() / step) * step), float(np.floor(values.max() / step + 1) * step)


def _supported(fractions: Array, people: int) -> Array:
    """``fractions`` of ``people``, NaN where fewer than five people lie on one side."""
    return np.where(np.round(people * np.minimum(fractions, 1 - fractions), 6) >= SMALLEST_CELL, fractions, np.nan)


def _supported_quantiles(values: Array) -> Array:
    """Quantiles of ``values`` at ``GAP_LEVELS``; NaN where fewer than five values lie on one side."""
    quantiles = np.full(len(GAP_LEVELS), np.nan)
    supported = np.isfinite(_supported(np.array(GAP_LEVELS), len(values)))
    if supported.any():
        quantiles[supported] = np.quantile(values, np.array(GAP_LEVELS)[supported])
    return quantiles
