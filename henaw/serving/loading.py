"""From the registry to a version that is fit to answer: found and verified by MLflow beside, loaded here, and tried."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from henaw.errors import IntegrityError
from henaw.model.answers import number_columns
from henaw.model.clock import Clock
from henaw.model.storage import load_clock
from henaw.serving.beside import Found, csv_application, find
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.lifecycle import Served
from henaw.serving.openapi import describe
from henaw.serving.schema import read_rows

SAME_YEARS = 1e-9  # the two ways to answer, on one machine
GOLDEN_YEARS = 1e-6  # the same way, on another machine

Find = Callable[[str, int | None], Found | None]


def newest(uri: str, current: int | None, ask: Find = find) -> Served | None:
    """The version that ``uri`` names now; None where it is ``current``.

    Raises:
        BadInput: no such model, or not one of HENAW's.
        IntegrityError: its files are not those that were registered, or it does not answer as it did then.
        EnvironmentProblem: the registry does not answer.
    """
    found = ask(uri, current)
    if found is None:
        return None
    clock = load_clock(Path(found.folder))
    _require_golden(clock, found)
    document = describe(found.name, found.number, clock)
    return Served(found.name, found.number, clock, csv_application(found.name, found.number), document)


def _require_golden(clock: Clock, found: Found) -> None:
    """The guard's way and MLflow's way give the same answers, and those of the day of registration."""
    rows = read_rows(clock.panel, found.example, len(found.answers))
    fast: list[dict[str, Any]] = json.loads(to_json(answer_rows(clock, rows)))["predictions"]
    answers = [(found.answers, SAME_YEARS)]
    if found.registered is not None:
        answers.append((found.registered, GOLDEN_YEARS))
    for expected, tolerance in answers:
        if not _same(fast, expected, number_columns(clock.target), tolerance):
            said = "does not answer its golden rows as it should; not taken"
            raise IntegrityError(f"models:/{found.name}/{found.number}: {said}")


def _same(
    found: list[dict[str, Any]], expected: list[dict[str, Any]], numbers: tuple[str, ...], tolerance: float
) -> bool:
    if len(found) != len(expected) or any(
        row.keys() != other.keys() for row, other in zip(found, expected, strict=True)
    ):
        return False
    texts = [[row["status"], row["flags"]] for row in found] == [[row["status"], row["flags"]] for row in expected]
    values = [
        np.array([[row[name] for name in numbers] for row in rows], dtype=np.float64) for rows in (found, expected)
    ]
    return texts and bool(np.allclose(values[0], values[1], rtol=0, atol=tolerance, equal_nan=True))
