"""What a study found, as a person and a tracker read it: figures, a profile, and the trials in a table."""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy
from dataclasses import dataclass
from statistics import median
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from henaw.config import Config
from henaw.tuning.naming import WHERE
from henaw.tuning.queue import MOST_TRIES, REASON, originals, tries
from henaw.tuning.space import SEARCHED, Space, values_of


@dataclass(frozen=True)
class Summary:
    """Numbers of a study.

    Attributes:
        complete, pruned, failed: trials by how they ended; those whose worker died and that were tried again are
            neither.
        died: trials whose worker died or was interrupted.
        hours: time spent in trials, summed over workers.
        trials_an_hour: of a worker.
        without_pruning: what that would have been, had every pruned trial run as long as the complete ones.
    """

    complete: int
    pruned: int
    failed: int
    died: int
    hours: float
    trials_an_hour: float
    without_pruning: float

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names for a tracker."""
        return {
            "trials_complete": self.complete,
            "trials_pruned": self.pruned,
            "trials_failed": self.failed,
            "trials_died": self.died,
            "trial_hours": self.hours,
            "trials_per_hour": self.trials_an_hour,
            "trials_per_hour_without_pruning": self.without_pruning,
        }

    def words(self) -> str:
        """One line."""
        lost = f", {self.died} tried again after their worker died or was interrupted" if self.died else ""
        return (
            f"{self.complete} trials complete, {self.pruned} pruned, {self.failed} failed{lost}; "
            f"{self.trials_an_hour:.0f} trials/hour a worker, {self.without_pruning:.0f} without pruning."
        )


def summarize(trials: Iterable[FrozenTrial]) -> Summary:
    """The numbers of ``trials``; time without pruning is reckoned from the seconds that an epoch took in each."""
    every = list(trials)
    by_state = {
        state: [trial for trial in every if trial.state == state and _has_ended(every, trial)]
        for state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
    }
    complete, pruned = by_state[TrialState.COMPLETE], by_state[TrialState.PRUNED]
    seconds = [trial.user_attrs.get("seconds", 0.0) for trial in complete + pruned]
    usual = median([trial.user_attrs["epochs"] for trial in complete if trial.user_attrs.get("epochs")] or [0])
    whole = sum(trial.user_attrs.get("seconds", 0.0) for trial in complete)
    for trial in pruned:
        took, epochs = trial.user_attrs.get("seconds", 0.0), trial.user_attrs.get("epochs", 0)
        whole += took * max(1.0, usual / epochs) if epochs else took
    total = sum(seconds)
    return Summary(
        complete=len(complete),
        pruned=len(pruned),
        failed=len(by_state[TrialState.FAIL]),
        died=len(every) - originals(every),
        hours=total / 3600,
        trials_an_hour=3600 * len(seconds) / total if total else 0.0,
        without_pruning=3600 * len(seconds) / whole if whole else 0.0,
    )


def _has_ended(every: list[FrozenTrial], trial: FrozenTrial) -> bool:
    """Whether it is the last word on its settings: not one that another stands in for."""
    return trial.state != TrialState.FAIL or REASON in trial.user_attrs or tries(every, trial) >= MOST_TRIES


_OF_A_TRAINING = ("panel", "target", "seed", "source", "cohort", "validation", "split", *SEARCHED)


def told(config: Config, base: Config) -> dict[str, Any]:
    """What ``config`` tells a training otherwise than ``base`` does: where the data lie and where it runs left out."""
    ours, theirs = config.model_dump(mode="json"), base.model_dump(mode="json")
    found: dict[str, Any] = {}
    for name in _OF_A_TRAINING:
        if not isinstance(ours[name], dict):
            found |= {name: ours[name]} if ours[name] != theirs[name] else {}
            continue
        changed = {key: value for key, value in ours[name].items() if value != theirs[name][key]}
        for elsewhere in ("data", *WHERE):
            changed.pop(elsewhere, None)
        found |= {name: changed} if changed else {}
    return found


def profile(
    space: Space, best: FrozenTrial, name: str, objective: str, extends: str, given: dict[str, Any] | None = None
) -> str:
    """The settings found, as the text of a profile on top of profile ``extends`` and of what was ``given`` besides."""
    sections: dict[str, Any] = deepcopy(given or {})
    for key, value in values_of(space, best.params).items():
        section, _, setting = key.partition(".")
        sections.setdefault(section, {})[setting] = value
    sections["study"] = {"found_by": name}
    head = [
        f"# Found by study {name}: trial {best.number}, {objective} {best.value:.4f} on people of the training side.",
        "# Put it into mlproject/profiles/ under a name of its own, and train with profile=THAT_NAME.",
    ]
    above = {} if extends == "default" else {"extends": extends}
    body = yaml.safe_dump(above | sections, sort_keys=False, default_flow_style=None, allow_unicode=True)
    return "\n".join([*head, body])


def trials_table(trials: Iterable[FrozenTrial]) -> str:
    """All trials in Markdown: number, state, objective, seconds, epochs, and why one did not complete."""
    lines = ["| trial | state | objective | seconds | epochs | |", "|---:|---|---:|---:|---:|---|"]
    for trial in trials:
        facts = trial.user_attrs
        value = "" if trial.value is None or trial.state != TrialState.COMPLETE else f"{trial.value:.4f}"
        broken = [name for name, excess in trial.constraints.items() if excess > 0]
        note = facts.get(REASON) or (f"breaks {', '.join(broken)}" if broken else "")
        if "retry_of" in facts:
            note = f"{note}; " * bool(note) + f"again, for trial {facts['retry_of']}"
        cells = [trial.number, trial.state.name.lower(), value, facts.get("seconds", ""), facts.get("epochs", ""), note]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"
