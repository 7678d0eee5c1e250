"""How long a clock takes to answer."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd

from henaw.model.answers import DEFAULT_COVERAGE, answer, input_columns
from henaw.model.clock import Clock

_ROWS = 50


def latency_ms(clock: Clock, rows: int = _ROWS) -> float:
    """Median time that ``clock`` takes to answer one row in this process, in milliseconds."""
    middle = (clock.trained_on.lowest + clock.trained_on.highest) / 2
    row = pd.DataFrame([middle], columns=list(clock.panel.names)).assign(sex="female", age_years=50.0)
    row = row[list(input_columns(clock.panel))]
    taken = []
    for _ in range(rows + 1):
        began = time.perf_counter()
        answer(clock, row, DEFAULT_COVERAGE)
        taken.append(time.perf_counter() - began)
    return 1000 * float(np.median(taken[1:]))  # the first warms up
