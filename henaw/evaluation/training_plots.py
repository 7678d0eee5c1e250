"""Figures of training: losses and gradients by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from henaw.evaluation.style import BLUE, GRAY, MIDDLE_BLUE, ORANGE, counted, describe, legend, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
History = Sequence[Mapping[str, float]]


def loss_curves(history: History, quantity: str) -> Figure:
    """Training and validation loss by epoch.

    Args:
        history: a record an epoch with ``epoch`` (from 0), ``train_loss`` and ``validation_loss`` (means over members).
        quantity: what the loss is, with its unit: ``CRPS (years)``.
    """
    figure, (axes,) = new_figure(6.4, 4.5)
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
    describe(axes, "Training and validation loss", f"{counted(epochs, 'epoch')}, means over members")
    legend(axes, "best")
    return figure


def gradient_norms(history: History, clip_norm: float) -> Figure:
    """Gradient norm before clipping, and how often it was clipped, by epoch.

    Args:
        history: a record an epoch with ``epoch`` (from 0), ``gradient_norm`` and ``clipped_fraction`` (means over steps
            and members).
        clip_norm: the largest norm of a member's gradient that training lets through.
    """
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    figure, (norms, clipped) = new_figure(6.4, 5.6, rows=2)
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
    legend(norms, "best")
    clipped.bar(epochs, 100 * _series(history, "clipped_fraction"), 0.8, color=MIDDLE_BLUE)
    clipped.set(xlabel="Epoch", ylabel="Clipped gradients\n(% of all)", ylim=(0, 100))
    for axes in (norms, clipped):
        _count_epochs(axes, epochs)
    describe(norms, "Gradients in training", counted(epochs, "epoch"))
    return figure


def _count_epochs(axes: Axes, epochs: Array) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(epochs.min() - 0.6, epochs.max() + 0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _epochs(history: History) -> Array:
    """Epochs counted from 1, as people do."""
    return _series(history, "epoch") + 1


def _series(history: History, name: str) -> Array:
    return np.array([epoch[name] for epoch in history], dtype=np.float64)
