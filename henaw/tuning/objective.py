"""What a trial is judged by: one clock, trained with its settings, on people of the training side kept for that."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from henaw.config import Config
from henaw.data.panel import Panel
from henaw.data.splits import split
from henaw.data.stored_splits import kept_split
from henaw.errors import BadInput
from henaw.evaluation.age_scores import coverage_scores
from henaw.evaluation.concordance import harrell_c
from henaw.evaluation.cox import partial_likelihood_loss
from henaw.evaluation.latency import latency_ms
from henaw.evaluation.metrics import crps_from_quantiles, midpoint_levels
from henaw.model.clock import Clock
from henaw.settings import Study
from henaw.training.failures import Diverged, MemoryExhausted, is_out_of_memory
from henaw.training.fit import fit_clock, follow_up, people_arrays
from henaw.training.telemetry import Events, Listeners, OutOfMemory
from henaw.tuning.space import Space, apply
from henaw.tuning.study import Outcome, TrialEvents, Work

Array = NDArray[np.float64]

OBJECTIVES = {"age": ("crps",), "mortality": ("partial_likelihood", "concordance")}
COVERAGE = 0.9
_CRPS_LEVELS = 100
_MIB = 2**20


@dataclass(frozen=True, eq=False)
class StudyPeople:
    """Clean participant tables of the training side: to train on, to calibrate, and to judge trials; nobody in two."""

    train: pd.DataFrame
    calibration: pd.DataFrame
    judged: pd.DataFrame


def study_people(table: pd.DataFrame, config: Config) -> StudyPeople:
    """Divide the training side of ``table`` once more; the people held out for testing are not looked at."""
    parts = kept_split(table, config)
    side = table.iloc[np.union1d(parts.train, parts.calibration)].reset_index(drop=True)
    inner = config.split.model_copy(update={"by": "person", "test_fraction": config.study.validation_fraction})
    found = split(side, inner, config.seed)
    return StudyPeople(side.iloc[found.train], side.iloc[found.calibration], side.iloc[found.test])


def objective_name(config: Config) -> str:
    """What ``study.objective`` means for this target.

    Raises:
        BadInput: it is the other target's.
    """
    fitting = OBJECTIVES[config.target]
    chosen = config.study.objective or fitting[0]
    if chosen not in fitting:
        raise BadInput(
            f"study.objective: {chosen} does not fit target {config.target}; expected {' or '.join(fitting)}"
        )
    return chosen


def objective_value(name: str, clock: Clock, people: pd.DataFrame) -> tuple[float, float]:
    """The objective of ``clock`` on ``people``, and the coverage of its 90 % interval there (NaN: mortality).

    ``crps`` in years; ``partial_likelihood`` = negative log partial likelihood a death, in nats; ``concordance`` =
    1 − Harrell's C. All are better when smaller.
    """
    biomarkers, sex, age = people_arrays(people, clock.panel)
    distribution = clock.predict(biomarkers, sex, age)
    if name == "crps":
        levels = midpoint_levels(_CRPS_LEVELS)
        value = float(crps_from_quantiles(distribution.quantiles(levels), levels, age).mean())
        [hits] = coverage_scores(distribution, age, [COVERAGE]).values()
        return value, float(hits.mean())
    assert clock.hazard is not None
    years, died = follow_up(people, np.inf)
    if name == "concordance":
        return 1 - harrell_c(distribution.median, years, died), np.nan
    return partial_likelihood_loss(clock.hazard.beta * distribution.median, years, died), np.nan


def trial_work(
    space: Space, config: Config, panel: Panel, people: StudyPeople, events: TrialEvents, shown: Events
) -> Work:
    """How a trial of this study is carried out: suggest, train with pruning by epoch, judge."""
    name = objective_name(config)

    def work(trial: Trial) -> Outcome:
        values = space.suggest(trial, config)
        tried = apply(config, values)
        watch = _Watch(trial, events)
        before = _MemoryPeak()
        try:
            clock, _ = fit_clock(people.train, people.calibration, panel, tried, Listeners([watch, shown]))
            value, coverage = objective_value(name, clock, people.judged)
        except TrialPruned:
            return Outcome(None, f"fell behind in epoch {watch.epochs}", pruned=True, facts=watch.facts())
        except (MemoryExhausted, Diverged) as error:  # nothing is wrong but these settings, on this machine
            return Outcome(None, str(error), pruned=True, facts=watch.facts())
        except (RuntimeError, MemoryError) as error:  # while it was judged
            if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
                raise
            return Outcome(None, "out of memory", pruned=True, facts=watch.facts())
        facts = watch.facts() | {
            "memory_mib": round(before.grown() / _MIB, 1),
            "latency_ms": round(latency_ms(clock), 3),
        }
        if np.isfinite(coverage):
            facts["coverage_90"] = coverage
        return Outcome(value, constraints=_constraints(config.study, facts), facts=facts)

    return work


def _constraints(study: Study, facts: dict[str, Any]) -> dict[str, float]:
    found = {}
    if study.coverage_off is not None and "coverage_90" in facts:
        found["coverage_off"] = abs(facts["coverage_90"] - COVERAGE) - study.coverage_off
    if study.memory_mib is not None:
        found["memory_mib"] = facts["memory_mib"] - study.memory_mib
    if study.latency_ms is not None:
        found["latency_ms"] = facts["latency_ms"] - study.latency_ms
    return found


class _Watch(Events):
    """Reports every epoch of a trial, and stops one that falls behind."""

    def __init__(self, trial: Trial, events: TrialEvents) -> None:
        self._trial, self._events = trial, events
        self.epochs, self._most = 0, 0
        self._out_of_memory = 0

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self._most = epochs

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        self._out_of_memory += 1

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.epochs = epoch + 1
        self._events.on_trial_epoch(self._trial, epoch, metrics)
        self._trial.report(metrics["validation_loss"], epoch)
        if self._trial.should_prune():
            raise TrialPruned

    def facts(self) -> dict[str, Any]:
        found = {"epochs": self.epochs, "epochs_at_most": self._most}
        return found | ({"out_of_memory_events": self._out_of_memory} if self._out_of_memory else {})


class _MemoryPeak:
    """How much the memory of this process, or of its GPU, grows at most from here on."""

    def __init__(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        with suppress(OSError):  # Linux: the high-water mark starts anew
            Path("/proc/self/clear_refs").write_text("5")
        self._peak = self._choose_peak()
        self._before = self._peak()

    def _choose_peak(self) -> Callable[[], int]:
        return torch.cuda.max_memory_allocated if torch.cuda.is_available() else _most_resident

    def grown(self) -> int:
        """Bytes."""
        return max(0, self._peak() - self._before)


def _most_resident() -> int:
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/self/status").read_text().splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM:")).split()[1])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
