"""A guard around a clock that nobody trained, in this process: no socket, no registry, no MLflow."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from henaw.config import load_config
from henaw.model.answers import answer, input_columns
from henaw.model.clock import Clock
from henaw.model.distribution import EnsembleDistribution
from henaw.serving.application import Options, build
from henaw.serving.asgi import Message
from henaw.serving.guard import Guard
from henaw.serving.lifecycle import Served
from henaw.serving.openapi import describe
from henaw.serving.slots import Slots
from tests.scenarios import BLOOD9, blood_clock, blood_rows

Array = NDArray[np.float64]
T = TypeVar("T")

CLOCK = blood_clock()
COLUMNS = input_columns(BLOOD9)
SECRET = "61.98765"  # planted in requests: nothing that is said may hold it
FAILING_AGE = 77.25
SLOW_ROWS, SLOW_SECONDS = 100, 1.5


class Trying(Clock):
    """A clock that fails for one age and is slow for many rows."""

    def predict(self, biomarkers: Array, sex: Array, age: Array) -> EnsembleDistribution:
        if (age == FAILING_AGE).any():
            raise ZeroDivisionError(f"of somebody with {SECRET}")
        if len(age) > SLOW_ROWS:
            time.sleep(SLOW_SECONDS)
        return super().predict(biomarkers, sex, age)


TRYING = Trying(**vars(CLOCK))


async def no_mlflow(scope: Any, receive: Any, send: Any) -> None:
    """Stands for MLflow's app: answers what a test says."""
    await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b'{"predictions": [{"status": "ok", "flags": ""}]}'})


def served(number: int = 1, clock: Clock = CLOCK) -> Served:
    return Served("henaw", number, clock, no_mlflow, describe("henaw", number, clock))


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_constant=_no_constant)

    @property
    def code(self) -> str:
        return str(self.json["error_code"])


def _no_constant(name: str) -> Any:
    raise AssertionError(f"{name} is not JSON")


def guard(
    folder: Path, settings: str = "", *, load: Callable[[int | None], Served | None] | None = None
) -> tuple[Guard, Slots]:
    """The application as ``henaw serve`` builds it, with its state in ``folder``."""
    overrides = f"state.folder={folder} serving.reload_seconds=0 {settings}"
    options = Options(
        "models:/henaw@champion", "127.0.0.1", 0, load_config("default", "", overrides).model_dump(mode="json")
    )
    return build(options, load or (lambda _: served(clock=TRYING)))


async def ready(application: Guard) -> Guard:
    """``application``, once it has loaded its model."""
    _started.append(application)
    await application.lifecycle.start()
    while application.lifecycle.phase == "starting" and application.lifecycle.failure is None:
        await asyncio.sleep(0.001)
    return application


async def ask(
    application: Guard,
    path: str = "/invocations",
    body: bytes | Mapping[str, Any] = b"",
    *,
    method: str | None = None,
    headers: Mapping[str, str] | None = None,
    pause: float = 0.0,
) -> Response:
    """Send one request the way uvicorn would; ``pause`` seconds pass before the second half of the body."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"host": "localhost:5001", "content-type": "application/json", "content-length": str(len(content))}
    sent |= headers or {}
    middle = len(content) // 2
    parts = [(content[:middle], True), (content[middle:], False)] if pause else [(content, False)]

    async def receive() -> Message:
        if not parts:
            return {"type": "http.disconnect"}
        part, more = parts.pop(0)
        if pause and not more:
            await asyncio.sleep(pause)
        return {"type": "http.request", "body": part, "more_body": more}

    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    scope = {
        "type": "http",
        "method": method or ("POST" if content or path == "/invocations" else "GET"),
        "path": path,
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in sent.items()],
    }
    await application(scope, receive, send)
    start, end = messages
    fields = {name.decode(): value.decode() for name, value in start["headers"]}
    return Response(start["status"], fields, end["body"])


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main``, and stop what it started."""

    async def whole() -> T:
        try:
            return await main
        finally:
            while _started:
                await _started.pop().lifecycle.stop()

    return asyncio.run(whole())


_started: list[Guard] = []


def split(people: int = 1, seed: int = 0) -> dict[str, Any]:
    """A valid body."""
    return {"dataframe_split": json.loads(blood_rows(people, seed).to_json(orient="split", double_precision=15))}


def expected(body: Mapping[str, Any], coverage: float = 0.9) -> list[dict[str, Any]]:
    """What the table's own way answers to a body made by ``split``."""
    import pandas as pd

    frame = pd.DataFrame(body["dataframe_split"]["data"], columns=body["dataframe_split"]["columns"])
    numbers = [name for name in COLUMNS if name != "sex"]
    rows: list[dict[str, Any]] = answer(CLOCK, frame.astype(dict.fromkeys(numbers, float)), coverage).to_dict("records")
    return rows
