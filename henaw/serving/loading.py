"""From the registry to a version that is fit to answer: found and verified by MLflow beside, loaded here, and tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from henaw.errors import IntegrityError
from henaw.model.answers import example_rows, number_columns
from henaw.model.clock import Clock
from henaw.model.storage import load_clock
from henaw.serving import beside
from henaw.serving.beside import Found, csv_application
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.lifecycle import Served
from henaw.serving.openapi import describe
from henaw.serving.schema import read_rows

SAME_YEARS = 1e-9  # the two ways to answer, on one machine
GOLDEN_YEARS = 1e-6  # the same way, on another machine


class Mlflow(Protocol):
    """Who finds versions and has MLflow answer, as ``henaw.serving.beside`` does."""

    def find(self, uri: str, current: int | None) -> Found | None:
        """The version that ``uri`` names, None where it is ``current``."""

    def golden(self, name: str, number: int) -> list[dict[str, Any]]:
        """What MLflow's way answers to its golden rows."""


def newest(uri: str, current: int | None, mlflow: Mlflow = beside, *, at_once: bool = True) -> Served | None:
    """The version that ``uri`` names now; None where it is ``current``.

    Unless ``at_once``, one that answers as it did when it was registered is there before MLflow has loaded it too, and
    ``Served.confirm`` is what is left to do.

    Raises:
        BadInput: no such model, or not one of HENAW's.
        IntegrityError: its files are not those that were registered, or it does not answer as it did then.
        EnvironmentProblem: the registry does not answer.
    """
    found = mlflow.find(uri, current)
    if found is None:
        return None
    name, number, clock = found.name, found.number, load_clock(Path(found.folder))
    ours = _answered(clock)

    def require_same(expected: list[dict[str, Any]], tolerance: float) -> None:
        if not _same(ours, expected, number_columns(clock.target), tolerance):
            said = "does not answer its golden rows as it should; not taken"
            raise IntegrityError(f"models:/{name}/{number}: {said}")

    def confirm() -> None:
        require_same(mlflow.golden(name, number), SAME_YEARS)

    if found.registered is not None:
        require_same(found.registered, GOLDEN_YEARS)
    waits = at_once or found.registered is None
    if waits:
        confirm()
    document = describe(name, number, clock)
    return Served(name, number, clock, csv_application(name, number), document, None if waits else confirm)


def _answered(clock: Clock) -> list[dict[str, Any]]:
    """The guard's own answers to the golden rows."""
    columns = {
        name: [None if value != value else value for value in cells] for name, cells in example_rows(clock).items()
    }
    answers = answer_rows(clock, read_rows(clock.panel, {"inputs": columns}, len(columns["sex"])))
    found: list[dict[str, Any]] = json.loads(to_json(answers))["predictions"]
    return found


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
