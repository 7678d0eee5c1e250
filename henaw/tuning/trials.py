"""How trials are carried out: suggest settings, train with pruning by epoch, judge; one at a time or in a pack."""

from __future__ import annotations

import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from optuna.exceptions import TrialPruned
from optuna.trial import Trial

from henaw.config import Config
from henaw.data.panel import Panel
from henaw.evaluation.latency import latency_ms
from henaw.model.clock import Clock
from henaw.settings import Study
from henaw.training.failures import Diverged, MemoryExhausted, is_out_of_memory
from henaw.training.fit import fit_clock, fit_pack
from henaw.training.packing import OWN_SETTINGS, PACK_PHASE
from henaw.training.telemetry import Events, Listeners, OutOfMemory
from henaw.tuning.objective import COVERAGE, StudyPeople, objective_name, objective_value
from henaw.tuning.space import Space, apply
from henaw.tuning.study import Outcome, TrialEvents

_MIB = 2**20


@dataclass
class ClockTrials:
    """The trials of a study of clocks, carried out by this worker.

    Attributes:
        space: what is searched.
        config: the settings as they are.
        panel: the biomarkers.
        people: to train on, to calibrate, and to judge trials.
        events: listener to the trials.
        shown: listener to their trainings.
        size: trials in a pack; halved when one does not fit into memory.
    """

    space: Space
    config: Config
    panel: Panel
    people: StudyPeople
    events: TrialEvents
    shown: Events
    size: int = 1

    def work(self, trial: Trial) -> Outcome:
        """Carry out ``trial`` alone."""
        tried = apply(self.config, self.space.suggest(trial, self.config))
        watch, memory = _Watch(trial, self.events), _MemoryPeak()
        people, calibration = self.people.train, self.people.calibration
        listeners = Listeners([watch, self.shown])

        def fitted() -> Clock:
            return fit_clock(people, calibration, self.panel, tried, listeners)[0]

        return self._judged(fitted, watch, memory)

    def shape(self, trial: Trial) -> dict[str, Any]:
        """Sample what ``trial`` is to try; returns the parameters in which trials of a pack must not differ."""
        self.space.suggest(trial, self.config)
        return {name: value for name, value in trial.params.items() if name not in _OWN}

    def outcomes(self, trials: Sequence[Trial]) -> Iterator[tuple[int, Callable[[], Outcome]]]:
        """Train ``trials`` together; yields the position of each when its training is over, and its judgment to be."""
        tried = [apply(self.config, self.space.suggest(trial, self.config)) for trial in trials]
        watches = [_Watch(trial, self.events) for trial in trials]
        listeners = [Listeners([watch, self.shown]) for watch in watches]
        people, calibration = self.people.train, self.people.calibration
        for pack in _alike(tried):
            some = [tried[position] for position in pack], [listeners[position] for position in pack]
            for number, fitted in fit_pack(people, calibration, self.panel, *some):
                position = pack[number]
                yield position, partial(self._judged, partial(_or_raise, fitted), watches[position], None)
        if any(watch.did_not_fit for watch in watches):
            self.size = max(1, len(trials) // 2)

    def _judged(self, fitted: Callable[[], Clock], watch: _Watch, memory: _MemoryPeak | None) -> Outcome:
        try:
            clock = fitted()
            value, coverage = objective_value(objective_name(self.config), clock, self.people.judged)
        except TrialPruned:
            return Outcome(None, f"fell behind in epoch {watch.epochs}", pruned=True, facts=watch.facts())
        except (MemoryExhausted, Diverged) as error:  # nothing is wrong but these settings, on this machine
            return Outcome(None, str(error), pruned=True, facts=watch.facts())
        except (RuntimeError, MemoryError) as error:  # while it was judged
            if not (isinstance(error, MemoryError) or is_out_of_memory(error)):
                raise
            return Outcome(None, "out of memory", pruned=True, facts=watch.facts())
        facts = watch.facts() | {"latency_ms": round(latency_ms(clock), 3)}
        if memory is not None:  # of several at once it cannot be told apart
            facts["memory_mib"] = round(memory.grown() / _MIB, 1)
        if np.isfinite(coverage):
            facts["coverage_90"] = coverage
        return Outcome(value, constraints=_constraints(self.config.study, facts), facts=facts)


_OWN = {f"training.{name}" for name in OWN_SETTINGS}


def _alike(configs: Sequence[Config]) -> list[list[int]]:
    """Positions of those that can be trained together: a condition of the space may have set some apart."""
    packs: dict[str, list[int]] = {}
    for position, config in enumerate(configs):
        packs.setdefault(config.model_dump_json(exclude={"training": set(OWN_SETTINGS)}), []).append(position)
    return list(packs.values())


def _or_raise(fitted: Clock | Exception) -> Clock:
    if isinstance(fitted, Exception):
        raise fitted
    return fitted


def _constraints(study: Study, facts: dict[str, Any]) -> dict[str, float]:
    found = {}
    if study.coverage_off is not None and "coverage_90" in facts:
        found["coverage_off"] = abs(facts["coverage_90"] - COVERAGE) - study.coverage_off
    if study.memory_mib is not None and "memory_mib" in facts:
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
        self.did_not_fit = False  # into memory, together with others

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        self._most = epochs

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        self._out_of_memory += 1
        self.did_not_fit |= event.phase == PACK_PHASE

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        if epoch < self.epochs:  # done again, and told before
            return
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
