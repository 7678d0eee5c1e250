"""What a clock costs: training, scoring, evaluating, memory, and how near that is to the matrix products alone."""

from __future__ import annotations

import resource
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from bars import Bar, Section, Watch, stopwatch, table
from fitting import PROFILES, Fitted, Plan, fit
from numpy.typing import NDArray
from scipy.special import ndtri
from standard_splits import StandardSplit, standard_split

from henaw.evaluation.evaluate import evaluate
from henaw.model.answers import QUANTILE_LEVELS, answer, input_columns
from henaw.model.clock import Clock
from henaw.model.ensemble import blocks
from henaw.serving.score import _ANSWERED_AT_ONCE
from henaw.training.fit import people_arrays

Array = NDArray[np.float64]

REPEATS = 3
MEBI = 2**20


@dataclass(frozen=True)
class Size:
    """How many people are trained on (with those who calibrate) and scored."""

    train: int = 20_000
    score: int = 100_000


def cost_section(plan: Plan, size: Size) -> Section:
    """Train the default clock once, score with it, and take the times."""
    people = standard_split(plan.data, "A")
    train = people.train.sample(min(size.train, len(people.train)), random_state=0)
    fitted = fit(plan, PROFILES["A"], StandardSplit(people.panel, train, people.test), 0)
    clock = fitted.clock
    rows = people.test.sample(size.score, replace=True, random_state=0)[[*input_columns(clock.panel)]]
    rows = rows.reset_index(drop=True)
    section = Section()
    section.add(f"### Cost: {len(train):,} people to train and calibrate, {size.score:,} to score")
    steps = _steps(clock, rows)
    times = {name: _best(step) for name, step in steps.items()}
    products, head = times["bare products of the network"], times["bare products of the quantile head, 99 levels"]
    flops = _operations(clock, size.score)
    lines = [
        [name, f"{each.wall:.2f}", f"{each.cpu:.2f}", f"{each.wall / products.wall:.1f}"]
        for name, each in times.items()
    ]
    trained = f"training, {len(fitted.train):,} people and {len(fitted.calibration):,} to stop by"
    lines.insert(0, [trained, f"{fitted.cost.wall:.1f}", f"{fitted.cost.cpu:.1f}", ""])
    section.add(table(["step", "seconds", "CPU seconds", "× the network's products"], lines))
    dtype = next(iter(clock.weights.values())).dtype
    section.add(
        f"The matrix products alone are {flops / 1e9:.0f} billion operations in {dtype} for the network "
        f"({flops / products.wall / 1e9:.0f} GFLOP/s here); the quantile head adds {head.wall:.2f} s for 99 levels."
    )
    section.add(_memory(clock, rows))
    evaluations = {"blood9 (split A)": _evaluation(plan, fitted, people)}
    mortality = standard_split(plan.data, "S1")
    evaluations["mortality (split S1)"] = _evaluation(plan, fit(plan, PROFILES["S1"], mortality, 0), mortality)
    lines = [[name, *_columns(each)] for name, each in evaluations.items()]
    section.add(table([f"evaluation, {plan.draws:,} bootstraps", "seconds", "CPU seconds"], lines))
    longest = max(evaluations.values(), key=lambda each: each.wall)
    interval, full = times["answer: interval and both standard deviations"], times["answer: and 99 quantiles"]
    section.bars += [
        Bar("cost: training blood9, n = 20,000", _seconds(fitted.cost), "≤ 60 s on 2 cores", fitted.cost.wall <= 60),
        Bar("cost: scoring 100,000 with interval and both sd", _seconds(interval), "≤ 5 s", interval.wall <= 5),
        Bar("cost: scoring 100,000 with 99 quantiles", _seconds(full), "≤ 8 s", full.wall <= 8),
        Bar(f"cost: evaluation, {plan.draws:,} bootstraps", _seconds(longest), "≤ 60 s", longest.wall <= 60),
    ]
    return section


def _evaluation(plan: Plan, fitted: Fitted, people: StandardSplit) -> Watch:
    """The report of a registered clock, references fitted anew, all intervals."""
    coverages = fitted.config.evaluation.coverages
    with stopwatch() as watch:
        evaluate(fitted.clock, people.train, people.test, coverages, plan.draws, 0)
    return watch


def _columns(watch: Watch) -> list[str]:
    return [f"{watch.wall:.2f}", f"{watch.cpu:.2f}"]


def _seconds(watch: Watch) -> str:
    return f"{watch.wall:.1f} s ({watch.cpu:.1f} CPU s)"


def _steps(clock: Clock, rows: pd.DataFrame) -> dict[str, Callable[[], object]]:
    biomarkers, sex, age = people_arrays(rows, clock.panel)
    inputs = np.random.default_rng(0).standard_normal((len(rows), clock.shape.inputs))
    inputs = inputs.astype(next(iter(clock.weights.values())).dtype)

    def sds() -> None:
        distribution = clock.predict(biomarkers, sex, age)
        _ = distribution.interval(0.9), distribution.aleatoric_sd, distribution.epistemic_sd

    return {
        "bare products of the network": lambda: _products(clock, inputs),
        "bare products of the quantile head, 99 levels": lambda: _head_products(clock, len(rows)),
        "predict: the network": lambda: clock.predict(biomarkers, sex, age),
        "predict: interval and both standard deviations": sds,
        "predict: 99 quantiles": lambda: clock.predict(biomarkers, sex, age).quantiles(QUANTILE_LEVELS),
        "answer: interval and both standard deviations": lambda: answer(clock, rows, 0.9),
        "answer: and 99 quantiles": lambda: answer(clock, rows, 0.9, quantiles=True),
    }


def _products(clock: Clock, inputs: Array) -> None:
    """What no forward pass of these shapes can do without, in blocks as it works."""
    weights = [clock.weights[f"layer{layer}.weight"] for layer in range(len(clock.shape.hidden) + 1)]
    for block in blocks(len(inputs)):
        activation = inputs[block]
        for weight in weights:
            activation = activation @ weight


def _head_products(clock: Clock, rows: int) -> None:
    """Slopes of every member times the basis of 99 levels."""
    basis = clock.shape.head.basis(ndtri(QUANTILE_LEVELS))
    for block in blocks(rows):
        _ = np.ones((clock.shape.members, block.stop - block.start, len(basis))) @ basis


def _operations(clock: Clock, rows: int) -> float:
    weights = [shape for name, shape in clock.shape.parameter_shapes().items() if name.endswith("weight")]
    return 2.0 * rows * sum(float(np.prod(shape)) for shape in weights)


def _best(step: Callable[[], object]) -> Watch:
    """The quickest of some runs: what other programs did on the machine is not the code's cost."""
    found = []
    for _ in range(REPEATS):
        with stopwatch() as watch:
            step()
        found.append(watch)
    return min(found, key=lambda each: each.wall)


def _memory(clock: Clock, rows: pd.DataFrame) -> str:
    """Peak of what numpy and Python hold while scoring, beyond the rows themselves."""
    cases = {
        "all at once": [rows],
        "a quarter of them": [rows.iloc[: len(rows) // 4]],
        f"{_ANSWERED_AT_ONCE:,} at a time, as `henaw score` does": [
            rows.iloc[start : start + _ANSWERED_AT_ONCE] for start in range(0, len(rows), _ANSWERED_AT_ONCE)
        ],
    }
    lines = []
    for name, parts in cases.items():
        peaks = [_peak(clock, parts, quantiles) for quantiles in (False, True)]
        lines.append([name, *(f"{peak:,.0f} MiB" for peak in peaks)])
    whole = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (MEBI if sys.platform == "darwin" else 1024)
    found = table(["peak memory of answering", "interval", "with 99 quantiles"], lines)
    return f"{found}\n\nThe whole process, training and the table included, peaked at {whole:,.0f} MiB."


def _peak(clock: Clock, parts: list[pd.DataFrame], quantiles: bool) -> float:
    tracemalloc.start()
    for part in parts:
        answer(clock, part, 0.9, quantiles=quantiles)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / MEBI
