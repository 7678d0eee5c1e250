"""A request's rows answered without pandas, in the very text that MLflow's scoring server would send."""

from __future__ import annotations

import json

from henaw.model.answers import Answers, answer_arrays
from henaw.model.clock import Clock
from henaw.serving.schema import Rows


def answer_rows(clock: Clock, rows: Rows) -> Answers:
    """The clock's answers."""
    return answer_arrays(clock, rows.biomarkers, rows.sex, rows.age, rows.coverage)


def to_json(answers: Answers) -> bytes:
    """``{"predictions": [{column: value}, …]}``; a row that abstains has null for every number.

    Raises:
        ValueError: a number that is shown is not finite; strict JSON has no word for it.
    """
    columns = [values.tolist() for values in answers.numbers.values()]
    if answers.abstains.any():
        refused = answers.abstains.tolist()
        columns = [[None if no else value for value, no in zip(values, refused, strict=True)] for values in columns]
    names = (*answers.numbers, "status", "flags")
    rows = zip(*columns, answers.status, answers.flags, strict=True)
    return json.dumps({"predictions": [dict(zip(names, row, strict=True)) for row in rows]}, allow_nan=False).encode()
