"""A request's rows answered without pandas, in the numbers that MLflow's scoring server would send."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import orjson
from numpy.typing import NDArray

from henaw.model.answers import Answers, answer_arrays
from henaw.model.clock import Clock
from henaw.serving.schema import Rows


def answer_rows(clock: Clock, rows: Rows) -> Answers:
    """The clock's answers."""
    return answer_arrays(clock, rows.biomarkers, rows.sex, rows.age, rows.coverage)


def to_json(answers: Answers) -> bytes:
    """A reply: ``{"predictions": [{column: value}, …]}``; a row that abstains has null for every number.

    Raises:
        ValueError: a number is not finite; strict JSON has no word for it.
    """
    return in_reply([rows_as_json(answers)])


def in_reply(rows: Sequence[str]) -> bytes:
    """A reply of what ``rows_as_json`` says."""
    return f'{{"predictions": [{", ".join(rows)}]}}'.encode()


def rows_as_json(answers: Answers) -> str:
    """The rows of a reply, as in ``to_json``, which raises the same."""
    numbers = np.array(list(answers.numbers.values()))
    if np.count_nonzero(np.isfinite(numbers)) < numbers.size:
        raise ValueError("an answer is not finite")
    columns = [_digits(values) for values in numbers]
    if np.count_nonzero(answers.abstains):
        refused = answers.abstains.tolist()
        columns = [["null" if no else value for value, no in zip(values, refused, strict=True)] for values in columns]
    texts = [map(_quoted, values) for values in (answers.status, answers.flags)]
    row = _row(tuple(answers.numbers))
    return ", ".join([row % cells for cells in zip(*columns, *texts, strict=True)])


def _digits(values: NDArray[np.float64]) -> list[str]:
    """Each of ``values`` in the fewest digits that are it again; Python's ``repr`` takes ten times as long."""
    text = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode()
    return text[1:-1].split(",") if len(values) else []


@lru_cache
def _row(names: tuple[str, ...]) -> str:
    """A row's text as ``json.dumps`` writes it, with a place for each value: filled in half the time."""
    keys = (json.dumps(name).replace("%", "%%") for name in (*names, "status", "flags"))
    return f"{{{', '.join(f'{key}: %s' for key in keys)}}}"


@lru_cache
def _quoted(text: str) -> str:
    return json.dumps(text)
