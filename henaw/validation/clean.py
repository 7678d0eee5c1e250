"""From a source to the clean cohort: read, judge, set aside, choose who is studied."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from henaw.config import Config
from henaw.data.cohort import Cohort, measured, read_cohort
from henaw.data.files import private_folder
from henaw.data.panel import Panel
from henaw.data.selection import select
from henaw.validation.quarantine import write_quarantine
from henaw.validation.suites import validate
from henaw.validation.verdict import Verdict, require_passed

logger = logging.getLogger(__name__)

QUARANTINE_FILE = "quarantine.csv"


@dataclass(frozen=True, eq=False)
class Judged:
    """A cohort as read, and what the suites say of it; the verdict may still be a refusal."""

    cohort: Cohort
    verdict: Verdict


def judge(config: Config, panel: Panel) -> Judged:
    """Read the source and run the suites.

    Raises:
        BadInput: the source cannot be read; a refusal by the suites is not raised here, so that it can be logged.
    """
    cohort = read_cohort(config, panel)
    return Judged(cohort, validate(cohort.table, measured(config, panel), config.validation.max_set_aside))


def clean(judged: Judged, config: Config, panel: Panel) -> tuple[pd.DataFrame, dict[str, int]]:
    """Set bad rows aside, in a local file, and keep the participants that the settings ask for.

    Returns:
        The clean participant table, and numbers of people by why they are in or out (see ``selection.select``).

    Raises:
        BadInput: the suites refuse the cohort, or nobody is left.
    """
    path = private_folder(Path(config.state.folder)) / QUARANTINE_FILE
    write_quarantine(path, judged.cohort.table, judged.verdict)
    require_passed(judged.verdict)
    if judged.verdict.set_aside.any():
        logger.info("rows set aside are in %s", path)
    table, counts = select(judged.verdict.clean(judged.cohort.table), config, panel)
    _warn_of_nothing_to_learn(table, panel)
    return table, counts


def _warn_of_nothing_to_learn(table: pd.DataFrame, panel: Panel) -> None:
    for name in panel.names:
        if not table[name].notna().any():
            logger.warning("nobody who is studied has a value of %s: the clock will not know it", name)
    if table["age_years"].nunique() == 1:
        logger.warning("everybody who is studied is of the same age: there is nothing to learn about age")
