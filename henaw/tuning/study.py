"""A study: trials taken one by one, by any number of workers, until there are as many as asked for.

Each trial ends exactly once. One whose worker died is tried again, with the same settings, as another trial that names
it. What a trial samples follows from the seed, its place in the study and the trials before it, so that with one
worker a study that was interrupted goes on as it would have.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import optuna
import sqlalchemy
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from henaw.errors import EnvironmentProblem, HenawError
from henaw.tuning.storage import WORKER, StudyStorage

logger = logging.getLogger(__name__)

# attributes of a trial
PLACE, RETRY_OF, REASON, INTERRUPTED = "place", "retry_of", "reason", "interrupted"
MOST_TRIES = 3  # of the same settings by workers that died
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

    Returns:
        How many trials this worker carried out.
    """
    done = 0
    try:
        with storage.alive() as worker:
            while _one_trial(study, storage, worker, work, trials, seed, first, events):
                done += 1
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise EnvironmentProblem(
            f"study.storage: the database went away ({type(error).__name__}); the same command goes on where it was"
        ) from None
    return done


def _one_trial(
    study: optuna.Study,
    storage: StudyStorage,
    worker: str,
    work: Work,
    trials: int,
    seed: int,
    first: dict[str, Any] | None,
    events: TrialEvents,
) -> bool:
    """Take a trial and carry it out; False where there is none left, and none that may yet come back from the dead."""
    while True:
        with ExitStack() as beating:
            with storage.alone():
                revive(study, storage)
                trial = _take(study, trials, seed, first)
                if trial is not None:
                    beating.enter_context(storage.beating(trial._trial_id))
                    trial.set_user_attr(WORKER, worker)  # last: who dies before is known by the lack of it
                elif not study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
                    return False
            if trial is not None:
                _carry_out(study, trial, work, events)
                return True
        time.sleep(_POLL_SECONDS)


def revive(study: optuna.Study, storage: StudyStorage) -> None:
    """End the trials of dead workers as failed, and put another in the place of each; to be called while alone.

    A worker may die between the two: any failed trial without a reason that has no successor gets one.
    """
    storage.fail_dead(study, study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)))
    every = study.get_trials(deepcopy=False)
    succeeded = {trial.user_attrs.get(RETRY_OF) for trial in every}
    for trial in every:
        if trial.state != TrialState.FAIL or REASON in trial.user_attrs or trial.number in succeeded:
            continue
        if tries(every, trial) >= MOST_TRIES:
            continue
        logger.warning("trial %d: its worker died or was interrupted; its settings are tried again", trial.number)
        kept = {PLACE: trial.user_attrs.get(PLACE, trial.number), RETRY_OF: trial.number}
        with _quiet():
            study.enqueue_trial(trial.params, user_attrs=kept)


def tries(trials: Iterable[FrozenTrial], trial: FrozenTrial) -> int:
    """How often the settings of ``trial`` were tried up to it, itself included; interruptions do not count."""
    by_number = {other.number: other for other in trials}
    count = int(INTERRUPTED not in trial.user_attrs)
    while (before := trial.user_attrs.get(RETRY_OF)) is not None:
        trial = by_number[before]
        count += INTERRUPTED not in trial.user_attrs
    return count


def originals(trials: Iterable[FrozenTrial]) -> int:
    """How many of ``trials`` stand in for no other."""
    return sum(RETRY_OF not in trial.user_attrs for trial in trials)


def _take(study: optuna.Study, trials: int, seed: int, first: dict[str, Any] | None) -> Trial | None:
    """The next trial, one that waits before a new one; None where there is none."""
    every = study.get_trials(deepcopy=False)
    waiting = [trial for trial in every if trial.state == TrialState.WAITING]
    begun = originals(every)
    if not every and first is not None:
        with _quiet():
            study.enqueue_trial(first, user_attrs={PLACE: 0})
        place = 0
    elif waiting:
        place = int(waiting[0].user_attrs.get(PLACE, waiting[0].number))
    elif begun < trials:
        place = begun
    else:
        return None
    with _quiet():
        study.sampler = TPESampler(seed=int(np.random.SeedSequence([seed, place]).generate_state(1)[0]))
        trial = study.ask()
    if PLACE not in trial.user_attrs:
        trial.set_user_attr(PLACE, place)
    return trial


def _carry_out(study: optuna.Study, trial: Trial, work: Work, events: TrialEvents) -> None:
    """Run ``trial`` to its one end. An interruption ends it as failed without a reason, and goes on up."""
    began = time.perf_counter()
    events.on_trial_begin(trial)
    try:
        outcome = _guarded(work, trial)
    except BaseException:  # Ctrl-C and the like: to be tried again
        trial.set_user_attr(INTERRUPTED, True)
        events.on_trial_end(study.tell(trial, state=TrialState.FAIL))
        raise
    for name, value in outcome.facts.items():
        trial.set_user_attr(name, value)
    trial.set_user_attr("seconds", round(time.perf_counter() - began, 3))
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


def _guarded(work: Work, trial: Trial) -> Outcome:
    """``work`` on ``trial``; what it raises is how the trial ends, and no more."""
    try:
        outcome = work(trial)
    except HenawError as error:
        logger.warning("trial %d: %s", trial.number, error)
        return Outcome(None, str(error))
    except Exception as error:  # its text may hold values of people
        place = error.__traceback__
        while place is not None and place.tb_next is not None:
            place = place.tb_next
        where = f"{place.tb_frame.f_code.co_filename.rpartition('/')[2]}:{place.tb_lineno}" if place else "?"
        logger.warning("trial %d: unexpected %s in %s", trial.number, type(error).__name__, where)
        logger.debug("trial %d", trial.number, exc_info=True)
        return Outcome(None, f"unexpected {type(error).__name__} in {where}")
    if outcome.value is not None and not np.isfinite(outcome.value):
        return Outcome(None, "the objective is not finite", facts=outcome.facts)
    return outcome


def _words(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return f"objective {trial.value:.4f}"
    return f"{trial.state.name.lower()}: {trial.user_attrs.get(REASON, '')}"


class _quiet(warnings.catch_warnings):  # noqa: N801 - reads as a verb
    """What Optuna calls experimental, or samples in another way than it would like, is pinned and tested here."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)


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
