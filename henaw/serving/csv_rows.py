"""CSV goes to MLflow's own scoring app, after the checks that MLflow lacks and before its errors reach a client."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from henaw.data.panel import Panel
from henaw.model.answers import input_columns
from henaw.serving.asgi import Application, Message
from henaw.serving.refusals import Detail, Refusal
from henaw.serving.schema import require_columns, require_rows
from henaw.serving.strict_json import malformed


@dataclass(frozen=True)
class Scored:
    """A reply, the status and flags of each of its rows, and how to get the age gaps (years) of those answered."""

    body: bytes
    status: list[str]
    flags: list[str]
    gaps: Callable[[], NDArray[np.float64]]


def check_csv(panel: Panel, body: bytes, most_rows: int) -> int:
    """Number of rows of a CSV body that has every column once, and as many cells in each row.

    pandas would take a longer row's first cell for a label, and fill a shorter one: either way values could stand under
    the wrong name.

    Raises:
        Refusal: ``MALFORMED_REQUEST``, ``SCHEMA_MISMATCH`` or ``TOO_LARGE``.
    """
    require_rows(max(body.count(b"\n"), body.count(b"\r")) - 1, most_rows)
    try:
        text = body.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError:
        raise malformed("the body is not UTF-8") from None
    try:
        records = [record for record in csv.reader(io.StringIO(text, newline=""), strict=True) if record]
    except csv.Error:
        raise malformed("the body is not CSV") from None
    if not records:
        raise malformed("the body is not CSV: it has no header")
    header, *rows = records
    require_columns(header, input_columns(panel))
    require_rows(len(rows), most_rows)
    if wrong := [Detail(row, None, "row_length") for row, record in enumerate(rows) if len(record) != len(header)]:
        raise Refusal("SCHEMA_MISMATCH", "expected as many cells in each row as in the header", wrong)
    return len(rows)


async def ask_mlflow(application: Application, body: bytes) -> Scored:
    """MLflow's reply to a CSV body.

    Raises:
        Refusal: ``SCHEMA_MISMATCH`` where MLflow refuses the body; its message holds cells, and is not passed on.
        RuntimeError: the model raised, or its reply is not strict JSON.
    """
    status, reply = await _call(application, body)
    if status == 400:
        message = "expected numbers, or nothing where a value is missing, in every column but sex"
        raise Refusal("SCHEMA_MISMATCH", message, [Detail(None, None, "not_a_number")])
    if status != 200:
        raise RuntimeError(f"MLflow's scoring app answered {status}")
    rows = json.loads(reply, parse_constant=_refuse)["predictions"]

    def gaps() -> NDArray[np.float64]:
        return np.array([row["age_gap_years"] for row in rows if row["status"] != "abstain"], dtype=np.float64)

    return Scored(reply, [row["status"] for row in rows], [row["flags"] for row in rows], gaps)


def _refuse(constant: str) -> Any:
    raise RuntimeError(f"the model answered {constant}")


async def _call(application: Application, body: bytes) -> tuple[int, bytes]:
    """Status and body of ``POST /invocations``."""
    status, parts = [500], []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            status[0] = message["status"]
        else:
            parts.append(message.get("body", b""))

    await application({"type": "http", "method": "POST", "path": "/invocations"}, receive, send)
    return status[0], b"".join(parts)
