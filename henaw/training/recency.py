"""Newer training people may count for more: assays and populations drift, and a clock is asked about tomorrow's."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.errors import BadInput
from henaw.settings import Training


def recency_weights(table: pd.DataFrame, settings: Training) -> NDArray[np.float64]:
    """How much each row of ``table`` counts in the loss, shape (n,), with mean 1.

    The values of ``training.recency_column``, sorted as numbers where all are and as text otherwise (``1999-2000``
    before ``2001-2002``), are steps in time; ``training.recency_half_life`` steps back halve the weight. Without a
    column all weights are 1.

    Raises:
        BadInput: the table has no such column, or somebody has no value in it.
    """
    name = settings.recency_column
    if name is None:
        return np.ones(len(table))
    if name not in table or table[name].isna().any():
        raise BadInput(f"training.recency_column: column {name} is missing for somebody; expected it for everyone")
    values = pd.to_numeric(table[name], errors="coerce")
    step = (table[name] if values.isna().any() else values).rank(method="dense").to_numpy(np.float64)
    weights = np.exp2((step - step.max()) / settings.recency_half_life)
    return np.asarray(weights / weights.mean(), dtype=np.float64)
