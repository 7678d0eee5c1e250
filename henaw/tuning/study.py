"""A study: trials taken one by one, by any number of workers, until there are as many as asked for.

Each trial ends exactly once. One whose worker died is tried again, with the same settings, as another trial that names
it. What a trial samples follows from the seed, its place in the study and the trials before it, so that with one
worker a study that was interrupted goes on as it would have.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import numpy as np
import optuna
import sqlalchemy
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from henaw.errors import EnvironmentProblem, HenawError
from henaw.tuning.queue import INTERRUPTED, REASON, revive, take
from henaw.tuning.storage import WORKER, StudyStorage

logger = logging.getLogger(__name__)

_POLL_SECONDS = 0.5
_LEAST_TRIALS, _LEAST_EPOCHS = 5, 3  # before the median may stop anybody

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


class TrialEvents:
    """Listener to the trials of a study that ignores everything; it may raise nothing."""

    def on_trial_begin(self, trial: Trial) -> None:
        """``trial`` is this worker's now."""

    def on_trial_epoch(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """An epoch (from 0) of the trial is over."""

    def on_trial_closing(self, trial: Trial) -> None:
        """All that the trial has to say is in its attributes; it can still be given others."""

    def on_trial_end(self, trial: FrozenTrial) -> None:
        """The trial has ended, whichever way."""


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        value: the objective, None unless it is complete.
        reason: why it was pruned or failed; empty where it is complete.
        pruned: whether it was pruned; without a value and not pruned it has failed.
        constraints: by name; up to 0 where it is met.
        facts: further numbers and words, for the trial's attributes.
    """

    value: float | None
    reason: str = ""
    pruned: bool = False
    constraints: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)


Work = Callable[[Trial], Outcome]


class Pack(Protocol):
    """Carries several trials out together."""

    @property
    def size(self) -> int:
        """How many at once, at most; it may change from one pack to the next."""

    def shape(self, trial: Trial) -> dict[str, Any]:
        """Sample what ``trial`` is to try; returns the parameters that whatever is packed with it must share."""

    def outcomes(self, trials: Sequence[Trial]) -> Iterator[tuple[int, Callable[[], Outcome]]]:
        """The position of each trial as soon as it is over, and how it ended; what that raises is how it ends."""


def open_study(storage: StudyStorage, name: str, pruner: BasePruner) -> optuna.Study:
    """The study ``name``, begun where it does not exist; its objective is made small."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # its lines hold errors' texts, which may hold values of people
    with storage.alone():
        return optuna.create_study(storage=storage.kept, study_name=name, pruner=pruner, load_if_exists=True)


def choose_pruner(name: Literal["median", "hyperband", "none"], epochs: int) -> BasePruner:
    """The pruner that ``study.pruner`` means for trials of at most ``epochs``."""
    if name == "median":
        return MedianPruner(n_startup_trials=_LEAST_TRIALS, n_warmup_steps=_LEAST_EPOCHS)
    if name == "hyperband":
        return HyperbandPruner(min_resource=min(_LEAST_EPOCHS, epochs), max_resource=epochs, reduction_factor=3)
    return NopPruner()


def run_study(
    study: optuna.Study,
    storage: StudyStorage,
    work: Work,
    *,
    trials: int,
    seed: int,
    first: dict[str, Any] | None,
    events: TrialEvents,
    pack: Pack | None = None,
) -> int:
    """Work on ``study`` until it has ``trials`` trials, and those of the other workers have ended too.

    Args:
        study: from ``open_study``.
        storage: it was opened on.
        work: carries a trial out; its exceptions end the trial, not the study.
        trials: of the study, over all workers, without those that stand in for the dead.
        seed: of the sampler.
        first: parameters of the first trial; None leaves it to the sampler.
        events: listener.
        pack: carries several out at once; None = one after the other.

    Returns:
        How many trials this worker carried out.
    """
    done = 0
    try:
        with storage.alive() as worker:
            while True:
                with ExitStack() as beating:
                    with storage.alone():
                        revive(study, storage)
                        taken = _taken(study, storage, worker, beating, (trials, seed, first), pack)
                        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
                    if taken:
                        _carry_out(study, taken, work, pack, events)
                done += len(taken)
                if not taken and not running:  # nor can one come back from the dead
                    return done
                if not taken:
                    time.sleep(_POLL_SECONDS)
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise EnvironmentProblem(
            f"study.storage: the database went away ({type(error).__name__}); the same command goes on where it was"
        ) from None


def _taken(
    study: optuna.Study,
    storage: StudyStorage,
    worker: str,
    beating: ExitStack,
    asked: tuple[int, int, dict[str, Any] | None],
    pack: Pack | None,
) -> list[Trial]:
    """As many trials as go together, up to the size of a pack, now of this worker."""
    taken: list[Trial] = []
    shape: dict[str, Any] | None = None
    size = pack.size if pack else 1
    while len(taken) < size and (trial := take(study, *asked, shape)) is not None:
        beating.enter_context(storage.beating(trial._trial_id))
        trial.set_user_attr(WORKER, worker)  # last: who dies before is known by the lack of it
        taken.append(trial)
        if pack and size > 1:
            shared = pack.shape(trial)  # of each, before the sampler is that of the next
            shape = shape or shared
    return taken


def _carry_out(
    study: optuna.Study, trials: Sequence[Trial], work: Work, pack: Pack | None, events: TrialEvents
) -> None:
    """Run ``trials`` to their one end each. An interruption ends them as failed without a reason, and goes on up."""
    running = dict(enumerate(trials))
    seconds, since = 0.0, time.perf_counter()
    for trial in trials:
        events.on_trial_begin(trial)
    try:
        for position, outcome in _outcomes(trials, work, pack):
            now = time.perf_counter()
            seconds, since = seconds + (now - since) / len(running), now  # of several at once, each its share
            _end(study, running.pop(position), outcome, seconds, events)
    except BaseException:  # Ctrl-C and the like: to be tried again
        for trial in running.values():
            trial.set_user_attr(INTERRUPTED, True)
            events.on_trial_end(study.tell(trial, state=TrialState.FAIL))
        raise


def _outcomes(trials: Sequence[Trial], work: Work, pack: Pack | None) -> Iterator[tuple[int, Outcome]]:
    """Position and outcome of each trial, as it ends."""
    if pack is None or len(trials) == 1:
        for position, trial in enumerate(trials):
            yield position, _guarded(partial(work, trial), trial)
        return
    left = dict(enumerate(trials))
    try:
        for position, outcome in pack.outcomes(trials):
            yield position, _guarded(outcome, left.pop(position))
    except Exception as error:  # noqa: BLE001 - of what they have in common: it ends them all, and not the study
        for position, trial in left.items():
            yield position, _failed(trial, error)


def _end(study: optuna.Study, trial: Trial, outcome: Outcome, seconds: float, events: TrialEvents) -> None:
    """Tell how ``trial`` ended, to the study and to ``events``."""
    for name, value in outcome.facts.items():
        trial.set_user_attr(name, value)
    trial.set_user_attr("seconds", round(seconds, 3))
    for name, value in outcome.constraints.items():
        trial.set_constraint(name, value)
    if outcome.reason:
        trial.set_user_attr(REASON, outcome.reason)
    events.on_trial_closing(trial)
    if outcome.value is not None:
        ended = study.tell(trial, outcome.value)
    else:
        if not outcome.reason:
            trial.set_user_attr(REASON, "pruned" if outcome.pruned else "failed")
        ended = study.tell(trial, state=TrialState.PRUNED if outcome.pruned else TrialState.FAIL)
    logger.info("trial %d: %s", trial.number, _words(ended))
    events.on_trial_end(ended)


def _guarded(work: Callable[[], Outcome], trial: Trial) -> Outcome:
    """What ``work`` on ``trial`` says; what it raises is how the trial ends, and no more."""
    try:
        outcome = work()
    except Exception as error:  # noqa: BLE001 - whatever it is, the study goes on
        return _failed(trial, error)
    if outcome.value is not None and not np.isfinite(outcome.value):
        return Outcome(None, "the objective is not finite", facts=outcome.facts)
    return outcome


def _failed(trial: Trial, error: Exception) -> Outcome:
    """How ``trial`` ends that raised ``error``, whose text may hold values of people unless it is HENAW's own."""
    if isinstance(error, HenawError):
        logger.warning("trial %d: %s", trial.number, error)
        return Outcome(None, str(error))
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f"{place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno}" if place else "?"
    logger.warning("trial %d: unexpected %s in %s", trial.number, type(error).__name__, where)
    logger.debug("trial %d", trial.number, exc_info=error)
    return Outcome(None, f"unexpected {type(error).__name__} in {where}")


def _words(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return f"objective {trial.value:.4f}"
    return f"{trial.state.name.lower()}: {trial.user_attrs.get(REASON, '')}"


def best_trial(study: optuna.Study) -> FrozenTrial:
    """The complete trial with the lowest objective of those that meet every constraint.

    Raises:
        EnvironmentProblem: there is none.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    feasible = [trial for trial in complete if all(value <= 0 for value in trial.constraints.values())]
    if not feasible:
        raise EnvironmentProblem(
            f"study {study.study_name}: none of {len(complete)} complete trials meets the constraints; "
            "loosen study.coverage_off, memory_mib or latency_ms, or raise study.trials"
        )
    return min(feasible, key=lambda trial: (trial.value, trial.number))
