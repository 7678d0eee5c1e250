"""Which trial of a study comes next: those of the dead and those that wait before new ones."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable
from typing import Any

import numpy as np
import optuna
from optuna.samplers import TPESampler
from optuna.trial import FrozenTrial, Trial, TrialState

from henaw.tuning.storage import StudyStorage

logger = logging.getLogger(__name__)

# attributes of a trial
PLACE, RETRY_OF, REASON, INTERRUPTED = "place", "retry_of", "reason", "interrupted"
MOST_TRIES = 3  # of the same settings by workers that died
_FIXED = "fixed_params"  # Optuna's attribute of a trial that waits: the parameters it was given


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


def take(
    study: optuna.Study,
    trials: int,
    seed: int,
    first: dict[str, Any] | None,
    shape: dict[str, Any] | None = None,
) -> Trial | None:
    """The next trial, one that waits before a new one; None where there is none. To be called while alone.

    Args:
        study: it is taken from.
        trials: of the whole study, without those that stand in for the dead.
        seed: of the study.
        first: parameters of the first trial; None leaves it to the sampler.
        shape: parameters that it must have, to be carried out together with another; None = whichever.
    """
    every = study.get_trials(deepcopy=False)
    waiting = [trial for trial in every if trial.state == TrialState.WAITING]
    begun = originals(every)
    if not every and first is not None:
        place = 0
        _enqueue(study, first, place)
    elif waiting:
        if shape is not None and not _has(waiting[0], shape):
            return None
        place = int(waiting[0].user_attrs.get(PLACE, waiting[0].number))
    elif begun < trials:
        place = begun
        if shape is not None:
            _enqueue(study, shape, place)
    else:
        return None
    own_seed = int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
    with _quiet():
        # beside others of the same pack it must not sample what they try: they count as bad until they have ended
        study.sampler = TPESampler(seed=own_seed, constant_liar=shape is not None)
        trial = study.ask()
    if PLACE not in trial.user_attrs:
        trial.set_user_attr(PLACE, place)
    return trial


def _enqueue(study: optuna.Study, parameters: dict[str, Any], place: int) -> None:
    with _quiet():
        study.enqueue_trial(parameters, user_attrs={PLACE: place})


def _has(waiting: FrozenTrial, shape: dict[str, Any]) -> bool:
    given = waiting.system_attrs.get(_FIXED, {})
    return all(name in given and given[name] == value for name, value in shape.items())


class _quiet(warnings.catch_warnings):  # noqa: N801 - reads as a verb
    """What Optuna calls experimental, or samples in another way than it would like, is pinned and tested here."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", UserWarning)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
