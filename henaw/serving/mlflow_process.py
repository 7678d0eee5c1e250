"""The program that has MLflow, for the workers beside it: finds, verifies and loads versions, and answers CSV.

``python -m henaw.serving.mlflow_process FOLDER DESCRIPTOR MODEL``: files go below FOLDER, which is removed at the end,
DESCRIPTOR is a socket that listens, and MODEL is what will be asked for first. It ends when its input does, which is
when the server is gone, however it went.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import sys
import threading
from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from henaw.console import set_up_logging
from henaw.errors import BadInput, HenawError, trace_without_text
from henaw.serving.asgi import Application, Message
from henaw.serving.beside import TAKEN, Found, head

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.pyfunc import PyFuncModel

logger = logging.getLogger(__name__)

_NEVER_SECONDS = "864000"
_MOST_KEPT = 4  # versions: the one that answers and the one before it, of two models


class Versions:
    """Versions as MLflow loads them, the last few of them kept."""

    def __init__(self, folder: Path) -> None:
        """Files are fetched below ``folder``."""
        self._folder = folder
        self._kept: OrderedDict[tuple[str, int], tuple[PyFuncModel, Application, Path]] = OrderedDict()
        self._access, self._loading = threading.Lock(), threading.Lock()

    def find(self, uri: str, current: int | None) -> Found | None:
        """As ``henaw.serving.beside.find``."""
        from henaw.model.storage import CLOCK_FOLDER
        from henaw.registry.versions import GOLDEN, exact_version, input_example

        name, number = exact_version(uri)
        if number == current:
            return None
        model, _, folder = self._loaded(name, number)
        example = input_example(model.unwrap_python_model().clock)
        split = json.loads(example.to_json(orient="split", index=False, double_precision=15))
        answers = cast("pd.DataFrame", model.predict(example)).to_dict(orient="records")
        golden = (model.metadata.metadata or {}).get(GOLDEN)
        return Found(
            name,
            number,
            str(folder / "artifacts" / CLOCK_FOLDER),
            {"dataframe_split": split},
            cast("list[dict[str, Any]]", answers),
            None if golden is None else json.loads(golden),
        )

    def application(self, name: str, number: int) -> Application:
        """MLflow's own scoring app around a version."""
        return self._loaded(name, number)[1]

    def _loaded(self, name: str, number: int) -> tuple[PyFuncModel, Application, Path]:
        with self._access:
            if (name, number) in self._kept:
                self._kept.move_to_end((name, number))
                return self._kept[name, number]
        with self._loading:  # the versions that are there answer meanwhile
            loaded = self._kept.get((name, number)) or self._load(name, number)
            with self._access:
                self._kept[name, number] = loaded
                while len(self._kept) > _MOST_KEPT:
                    shutil.rmtree(self._kept.popitem(last=False)[1][2], ignore_errors=True)
            return loaded

    def _load(self, name: str, number: int) -> tuple[PyFuncModel, Application, Path]:
        import mlflow
        from mlflow.exceptions import MlflowException
        from mlflow.pyfunc import scoring_server

        from henaw.registry.manifest import fetch_verified

        # the guard's own deadline keeps a slot taken until the work ends; MLflow's would set it free while it goes on
        os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = _NEVER_SECONDS
        folder = fetch_verified(name, number, self._folder / name / str(number))
        try:
            model = mlflow.pyfunc.load_model(str(folder))
            model.unwrap_python_model().clock  # noqa: B018 - only HENAW's models have one
        except (MlflowException, AttributeError) as error:
            raise BadInput(f"models:/{name}/{number}: not a model of HENAW's ({type(error).__name__})") from None
        return model, scoring_server.init(model), folder


def answer(versions: Versions, stream: BinaryIO) -> None:
    """Read one question from ``stream`` and write its answer."""
    asked = json.loads(stream.readline())
    if asked["ask"] == "find":
        stream.write(head(_found(versions, asked["uri"], asked["current"])))
    else:
        stream.write(TAKEN)
        stream.flush()
        status, reply = _scored(versions, asked["name"], asked["number"], stream.read(asked["bytes"]))
        stream.write(head({"status": status, "bytes": len(reply)}) + reply)
    stream.flush()


def _found(versions: Versions, uri: str, current: int | None) -> dict[str, Any]:
    try:
        found = versions.find(uri, current)
    except HenawError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker goes on with the version it has
        return {"error": "HenawError", "message": f"{uri} cannot be loaded: {trace_without_text(error)}"}
    return {"found": None if found is None else asdict(found)}


def _scored(versions: Versions, name: str, number: int, body: bytes) -> tuple[int, bytes]:
    """Status and body of MLflow's ``POST /invocations``."""
    try:
        return asyncio.run(_call(versions.application(name, number), body))
    except Exception as error:  # noqa: BLE001 - its text may hold a row
        logger.error("CSV: %s", trace_without_text(error))
        return 500, b""


async def _call(application: Application, body: bytes) -> tuple[int, bytes]:
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/invocations",
        "raw_path": b"/invocations",
        "query_string": b"",
        "root_path": "",
        "headers": [(b"content-type", b"text/csv"), (b"content-length", str(len(body)).encode())],
        "client": None,
        "server": None,
    }
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    answered, status, parts = asyncio.Event(), [500], []

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await answered.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            status[0] = message["status"]
        else:
            parts.append(message.get("body", b""))
            if not message.get("more_body", False):
                answered.set()

    await application(scope, receive, send)
    return status[0], b"".join(parts)


def _attend(versions: Versions, client: socket.socket) -> None:
    with client, client.makefile("rwb") as stream:
        try:
            answer(versions, cast("BinaryIO", stream))
        except (OSError, ValueError):
            logger.debug("a worker left before its answer")


def _accept(versions: Versions, listening: socket.socket) -> None:
    while True:
        client, _ = listening.accept()
        threading.Thread(target=_attend, args=(versions, client), daemon=True).start()


def main(folder: Path, descriptor: int, model: str) -> None:
    """Answer until the input ends."""
    set_up_logging()
    versions, listening = Versions(folder), socket.socket(fileno=descriptor)
    threading.Thread(target=_accept, args=(versions, listening), daemon=True).start()
    threading.Thread(target=_found, args=(versions, model, None), daemon=True).start()  # workers start meanwhile
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # threads that still work for nobody are not waited for


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
