"""Figures of a study: how it went, what it tried, what mattered, and when which worker was at it.

Drawn from settings and scores alone; nothing of a person is in them.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from optuna.importance import get_param_importances
from optuna.trial import FrozenTrial, TrialState

from henaw.evaluation import style
from henaw.tuning.space import Choices, Dimension, Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

_LEAST_COMPLETE = 4  # for importances to mean anything
_TITLES = {
    "crps": "CRPS, years",
    "partial_likelihood": "negative log partial likelihood a death, nats",
    "concordance": "1 − Harrell's C",
}
_COLORS = {TrialState.COMPLETE: style.BLUE, TrialState.PRUNED: style.MIDDLE_BLUE, TrialState.FAIL: style.ORANGE}


def figures(study: optuna.Study, space: Space, objective: str) -> Iterator[tuple[str, Figure]]:
    """The figures that there are trials enough for, each with its name."""
    trials, objective = study.get_trials(deepcopy=False), _TITLES[objective]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if complete:
        yield "study_history", _history(complete, objective)
        yield "study_parallel_coordinates", _parallel_coordinates(complete, space, objective)
        yield "study_timeline", _timeline(trials)
    if len(complete) >= _LEAST_COMPLETE and (importances := _importances(study)):
        yield "study_importances", _bars(importances, objective)


def _history(complete: list[FrozenTrial], objective: str) -> Figure:
    figure, [axes] = style.new_figure(8, 4.5)
    numbers = np.array([trial.number for trial in complete])
    values = np.array([float(trial.value or 0.0) for trial in complete])
    met = np.array([all(excess <= 0 for excess in trial.constraints.values()) for trial in complete])
    axes.scatter(numbers[met], values[met], color=style.BLUE, s=28, label="trial")
    if not met.all():
        axes.scatter(numbers[~met], values[~met], color=style.ORANGE, marker="x", s=28, label="breaks a constraint")
    best = np.minimum.accumulate(np.where(met, values, np.inf))
    axes.step(numbers[np.isfinite(best)], best[np.isfinite(best)], where="post", color=style.GRAY, label="best so far")
    axes.set(xlabel="trial", ylabel=objective)
    axes.locator_params(axis="x", integer=True)
    style.describe(axes, "What the study found", f"{len(complete)} complete trials; smaller is better")
    style.legend(axes, "upper right")
    return figure


def _parallel_coordinates(complete: list[FrozenTrial], space: Space, objective: str) -> Figure:
    keys = list(space.dimensions)
    figure, [axes] = style.new_figure(max(8.0, 1.3 * len(keys)), 5)
    values = np.array([float(trial.value or 0.0) for trial in complete])
    order = np.argsort(-values)  # the best on top
    rank = np.argsort(order) / max(1, len(order) - 1)
    from matplotlib import colormaps

    for position in order:
        heights = [_height(space, key, complete[position].params.get(key)) for key in keys]
        color = colormaps["viridis"](1 - rank[position])
        axes.plot(range(len(keys)), heights, color=color, alpha=0.8, linewidth=1.4)
    for column, key in enumerate(keys):
        for height, text in _marks(space.dimensions[key]):
            axes.annotate(
                text,
                (column, height),
                (0, 4 if height > 0 else -4),
                textcoords="offset points",
                ha="center",
                va="bottom" if height > 0 else "top",
                fontsize=7,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
            )
    axes.set_xticks(range(len(keys)), [key.replace(".", ".\n") for key in keys], fontsize=8)
    axes.tick_params(axis="x", pad=16)
    axes.set_yticks([])
    axes.set_ylim(-0.06, 1.06)
    style.describe(
        axes, "Which settings went with which result", f"a line a complete trial; the darker, the lower: {objective}"
    )
    return figure


def _height(space: Space, key: str, value: Any) -> float:
    """Where on its axis a parameter lies, 0 to 1; NaN where the trial has not got it."""
    if value is None:
        return float("nan")
    dimension = space.dimensions[key]
    if isinstance(dimension, Choices):
        return _texts(dimension).index(value) / (len(dimension.choices) - 1)
    low, high = dimension.low, dimension.high
    if dimension.log:
        return float(np.log(value / low) / np.log(high / low))
    return float((value - low) / (high - low))


def _marks(dimension: Dimension) -> list[tuple[float, str]]:
    """What is written on the axis of a setting, and at which heights: every choice, or both ends of a range."""
    if isinstance(dimension, Choices):
        steps = len(dimension.choices) - 1
        return [(number / steps, _short(text.strip('"'))) for number, text in enumerate(_texts(dimension))]
    return [(0.0, f"{dimension.low:g}"), (1.0, f"{dimension.high:g}")]


def _texts(dimension: Choices) -> list[str]:
    return [json.dumps(choice) for choice in dimension.choices]


def _short(text: str) -> str:
    return text if len(text) <= 16 else text[:14] + " …"


def _timeline(trials: list[FrozenTrial]) -> Figure:
    timed = [trial for trial in trials if trial.datetime_start and trial.datetime_complete]
    start = min(trial.datetime_start for trial in timed if trial.datetime_start)
    free: list[float] = []  # from when on each row is
    shown = set()
    figure, [axes] = style.new_figure(8, 3.2)
    for trial in sorted(timed, key=lambda each: (each.datetime_start, each.number)):
        assert trial.datetime_start is not None
        assert trial.datetime_complete is not None
        left = (trial.datetime_start - start).total_seconds() / 60
        width = (trial.datetime_complete - trial.datetime_start).total_seconds() / 60
        row = next((row for row, since in enumerate(free) if since <= left), len(free))
        free[row : row + 1] = [left + width]
        label = None if trial.state in shown else trial.state.name.lower()
        shown.add(trial.state)
        axes.barh(
            row, width, left=left, height=0.8, color=_COLORS[trial.state], edgecolor="white", linewidth=0.4, label=label
        )
    axes.set_yticks([0, len(free) - 1] if len(free) > 1 else [0], [str(n) for n in sorted({1, len(free)})])
    axes.set(xlabel="minutes since the study began", ylabel="trials at once", ylim=(-0.6, len(free) * 1.35 - 0.2))
    style.describe(axes, "What was tried when", f"{len(timed)} trials")
    axes.legend(loc="upper right", ncols=3, fontsize=9.5, frameon=True, facecolor="white", edgecolor="none")
    return figure


def _importances(study: optuna.Study) -> dict[str, float]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return get_param_importances(study)
    except (ValueError, RuntimeError) as error:  # all trials alike
        logger.debug("no importances: %s", error)
        return {}


def _bars(importances: dict[str, float], objective: str) -> Figure:
    figure, [axes] = style.new_figure(8, 1.4 + 0.35 * len(importances))
    names = list(importances)[::-1]
    axes.barh(names, [importances[name] for name in names], color=style.BLUE)
    axes.set_xlabel("share of the variance of the objective (fANOVA)")
    style.describe(axes, "What mattered", f"for {objective}")
    return figure
