"""Who of a cohort is studied."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.config import Config
from henaw.data.cohort import PARTICIPANT, required
from henaw.data.disclosure import publishable
from henaw.data.panel import Panel
from henaw.errors import BadInput

logger = logging.getLogger(__name__)


def select(table: pd.DataFrame, config: Config, panel: Panel) -> tuple[pd.DataFrame, dict[str, int]]:
    """Keep the participants that ``config.cohort`` asks for.

    Returns:
        The kept rows with a RangeIndex, and numbers of people: ``participants`` in the table, then for each rule those
        of whom it left out a row that no earlier rule had, then ``selected``. Publish them through ``publishable``.

    Raises:
        BadInput: nobody is left.
    """
    youngest, oldest = config.cohort.ages
    age = table["age_years"]
    rules: dict[str, NDArray[np.bool_]] = {
        "age_unknown": age.isna().to_numpy(),
        "age_outside": ~((age >= youngest) & (age < oldest + 1)).to_numpy(),
    }
    for column, values in config.cohort.exclude.items():
        rules[column] = rows_with(table[column], values)
        if not rules[column].any():
            logger.warning("cohort.exclude: nobody has one of %s in column %s", values, column)
    if config.cohort.complete_panel:
        rules["panel_incomplete"] = table[list(panel.names)].isna().any(axis=1).to_numpy()
    for column in required(config):
        rules[f"{column}_missing"] = table[column].isna().to_numpy()

    people = table[PARTICIPANT]
    counts = {"participants": people.nunique()}
    kept = np.ones(len(table), dtype=np.bool_)
    for rule, out in rules.items():
        counts[f"left_out.{rule}"] = people[kept & out].nunique()
        kept &= ~out
    counts["selected"] = people[kept].nunique()
    if not kept.any():
        shown = ", ".join(f"{name} {count}" for name, count in publishable(counts).items())
        raise BadInput(f"cohort: nobody is left for panel {panel.name} ({shown}); see the settings under cohort")
    logger.info("selected %d of %d participants", counts["selected"], counts["participants"])
    return table.loc[kept].reset_index(drop=True), counts


def rows_with(column: pd.Series, values: Sequence[str | int | float]) -> NDArray[np.bool_]:
    """Which rows hold one of ``values``: strings are compared as text, numbers as numbers (1 is "1" and "1.0")."""
    texts = [value for value in values if isinstance(value, str)]
    numbers = [value for value in values if not isinstance(value, str)]
    found = column.isin(texts).to_numpy() if texts else np.zeros(len(column), dtype=np.bool_)
    return found | pd.to_numeric(column, errors="coerce").isin(numbers).to_numpy() if numbers else found
