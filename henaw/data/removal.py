"""``henaw withdraw``: a person's rows are removed from what is kept here, and never used again."""

from __future__ import annotations

import logging
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from henaw.data import cache, stored_splits
from henaw.data.cohort import PARTICIPANT
from henaw.data.files import disk_errors, write_atomically
from henaw.data.participants import are_among, load_or_create_key, pseudonyms
from henaw.data.trainings import trainings_with
from henaw.data.withdrawals import read_ids_to_withdraw, remember_withdrawn, withdrawn_pseudonyms
from henaw.errors import BadInput, EnvironmentProblem

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removal:
    """What was removed (numbers of files), and the runs that were trained with somebody who has withdrawn by now."""

    ids: int
    cached: int
    splits: int
    quarantines: int
    runs: tuple[str, ...]

    def summary(self) -> str:
        """What a person reads at the end."""
        lines = [
            f"Never used again: the people of {self.ids} ids. Removed: {self.cached} files of the cache. Changed: "
            f"{self.splits} splits, {self.quarantines} files of rows set aside."
        ]
        if self.runs:
            lines.append("Trained with people who have withdrawn by now; train anew in place of these runs:")
            lines.extend(f"  {run}" for run in self.runs)
        return "\n".join(lines)


def withdraw(state: Path, lists: Path) -> Removal:
    """Remove the people whose ids are in ``lists`` (a file, or a folder of them) from everything in folder ``state``.

    What is told here holds for every later run that uses this folder, whatever its ``source.withdrawals``. Running it
    again, also after it was interrupted, is safe.

    Raises:
        BadInput: no such folder or list, or not a list.
        IntegrityError: a file in the folder is damaged.
        EnvironmentProblem: the disk does not allow it.
    """
    with disk_errors(state, "read"):
        known = state.is_dir()
    if not known:
        raise BadInput(f"state.folder: {state}: no such folder; expected the one that earlier runs have used")
    ids = read_ids_to_withdraw(lists)
    names = pd.Series(sorted(ids), dtype="str")
    # first the ledger: whatever is interrupted, no later run uses them
    people = remember_withdrawn(state, pseudonyms(names, load_or_create_key(state)))
    removal = Removal(
        ids=len(ids),
        cached=cache.remove_people(state / cache.FOLDER, people),
        splits=stored_splits.remove_people(state, people),
        quarantines=_remove_from_quarantine(state, people),
        runs=tuple(trainings_with(state, people)),
    )
    logger.info("withdrawn: %d ids; %d runs were trained with people who have withdrawn", len(ids), len(removal.runs))
    return removal


def withdrawn_runs(state: Path) -> list[str]:
    """The runs, by id, that were trained with somebody of whom ``henaw withdraw`` was told since.

    A registered version whose tag ``henaw.training_run`` is among them is to be marked.

    Raises:
        IntegrityError: a record is damaged.
        EnvironmentProblem: it cannot be read.
    """
    people = withdrawn_pseudonyms(state)
    return trainings_with(state, people) if people else []


def _remove_from_quarantine(state: Path, people: Set[str]) -> int:
    changed = 0
    for path in sorted(state.glob("quarantine*.csv")):
        try:
            rows = pd.read_csv(path, dtype="str", keep_default_na=False)
        except (OSError, ValueError):
            raise EnvironmentProblem(f"{path}: cannot be read; look into it, and remove it") from None
        kept = rows[~are_among(rows[PARTICIPANT], people)]
        if len(kept) < len(rows):
            write_atomically(path, lambda temporary, kept=kept: kept.to_csv(temporary, index=False))  # type: ignore[misc]
            changed += 1
    return changed
