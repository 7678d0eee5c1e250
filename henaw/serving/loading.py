"""From the registry to a version that is fit to answer: fetched, every file verified, loaded, and tried."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, cast

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server

from henaw.errors import BadInput, IntegrityError
from henaw.model.answers import number_columns
from henaw.model.clock import Clock
from henaw.registry.manifest import fetch_verified
from henaw.registry.versions import GOLDEN, exact_version, input_example
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.lifecycle import Served
from henaw.serving.openapi import describe
from henaw.serving.schema import read_rows

logger = logging.getLogger(__name__)

SAME_YEARS = 1e-9  # the two ways to answer, on one machine
GOLDEN_YEARS = 1e-6  # the same way, on another machine
_NEVER_SECONDS = "864000"


def newest(uri: str, current: int | None) -> Served | None:
    """The version that ``uri`` names now; None where it is ``current``.

    Raises:
        BadInput: no such model, or not one of HENAW's.
        IntegrityError: its files are not those that were registered, or it does not answer as it did then.
        EnvironmentProblem: the registry does not answer.
    """
    name, number = exact_version(uri)
    return None if number == current else load(name, number)


def load(name: str, number: int) -> Served:
    """Fetch and verify version ``number`` of ``name``; as ``newest``."""
    with tempfile.TemporaryDirectory(prefix="henaw-") as temporary:
        folder = fetch_verified(name, number, Path(temporary))
        try:
            model = mlflow.pyfunc.load_model(str(folder))
            clock = model.unwrap_python_model().clock
        except (MlflowException, AttributeError) as error:
            raise BadInput(f"models:/{name}/{number}: not a model of HENAW's ({type(error).__name__})") from None
    _require_golden(name, number, clock, model)
    # the guard's own deadline keeps a slot taken until the thread ends; MLflow's would set it free while it runs
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = _NEVER_SECONDS
    return Served(name, number, clock, scoring_server.init(model), describe(name, number, clock))


def _require_golden(name: str, number: int, clock: Clock, model: PyFuncModel) -> None:
    """The guard's way and MLflow's way give the same answers, and those of the day of registration."""
    example = input_example(clock)
    split = json.loads(example.to_json(orient="split", index=False, double_precision=15))
    rows = read_rows(clock.panel, {"dataframe_split": split}, len(example))
    fast: list[dict[str, Any]] = json.loads(to_json(answer_rows(clock, rows)))["predictions"]
    slow = cast("pd.DataFrame", model.predict(example)).to_dict(orient="records")
    answers = [(cast("list[dict[str, Any]]", slow), SAME_YEARS)]
    if golden := (model.metadata.metadata or {}).get(GOLDEN):
        answers.append((json.loads(golden), GOLDEN_YEARS))
    for expected, tolerance in answers:
        if not _same(fast, expected, number_columns(clock.target), tolerance):
            raise IntegrityError(f"models:/{name}/{number}: does not answer its golden rows as it should; not taken")


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
