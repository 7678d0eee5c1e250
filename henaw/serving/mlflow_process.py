"""The program that has MLflow, for the workers beside it: finds, verifies and loads versions, and answers CSV.

``python -m henaw.serving.mlflow_process FOLDER DESCRIPTOR``: files go below FOLDER, which is removed at the end, and
DESCRIPTOR is a socket that listens. It ends when its input does, which is when the server is gone, however it went.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import shutil
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
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


@dataclass
class _Kept:
    """A version's verified files, and what MLflow has made of them once that was asked for."""

    folder: Path
    loaded: tuple[PyFuncModel, Application] | None = None


class Versions:
    """Versions as MLflow fetches and loads them, the last few of them kept."""

    def __init__(self, folder: Path) -> None:
        """Files are fetched below ``folder``."""
        self._folder = folder
        self._kept: OrderedDict[tuple[str, int], _Kept] = OrderedDict()
        self._access, self._working = threading.Lock(), threading.Lock()

    def find(self, uri: str, current: int | None) -> Found | None:
        """As ``henaw.serving.beside.find``."""
        from mlflow.models import Model

        from henaw.model.storage import CLOCK_FOLDER
        from henaw.registry.versions import GOLDEN, exact_version

        name, number = exact_version(uri)
        if number == current:
            return None
        folder = self._fetched(name, number).folder
        clock = folder / "artifacts" / CLOCK_FOLDER
        if not clock.is_dir():
            raise BadInput(f"models:/{name}/{number}: not a model of HENAW's")
        registered = (Model.load(str(folder)).metadata or {}).get(GOLDEN)
        return Found(name, number, str(clock), None if registered is None else json.loads(registered))

    def golden(self, name: str, number: int) -> list[dict[str, Any]]:
        """As ``henaw.serving.beside.golden``."""
        from henaw.registry.versions import input_example

        model, _ = self._loaded(name, number)
        answers = cast("pd.DataFrame", model.predict(input_example(model.unwrap_python_model().clock)))
        return cast("list[dict[str, Any]]", answers.to_dict(orient="records"))

    def application(self, name: str, number: int) -> Application:
        """MLflow's own scoring app around a version."""
        return self._loaded(name, number)[1]

    def _fetched(self, name: str, number: int) -> _Kept:
        with self._access:
            if (name, number) in self._kept:
                self._kept.move_to_end((name, number))
                return self._kept[name, number]
        with self._working:  # the versions that are there answer meanwhile
            return self._kept.get((name, number)) or self._fetch(name, number)

    def _fetch(self, name: str, number: int) -> _Kept:
        from henaw.registry.manifest import fetch_verified

        fetched = _Kept(fetch_verified(name, number, self._folder / name / str(number)))
        with self._access:
            self._kept[name, number] = fetched
            while len(self._kept) > _MOST_KEPT:
                shutil.rmtree(self._kept.popitem(last=False)[1].folder, ignore_errors=True)
        return fetched

    def _loaded(self, name: str, number: int) -> tuple[PyFuncModel, Application]:
        kept = self._fetched(name, number)
        if kept.loaded is None:
            with self._working:
                if kept.loaded is None:
                    kept.loaded = _load(name, number, kept.folder)
        return kept.loaded


def _load(name: str, number: int, folder: Path) -> tuple[PyFuncModel, Application]:
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    # the guard's own deadline keeps a slot taken until the work ends; MLflow's would set it free while it goes on
    os.environ["MLFLOW_SCORING_SERVER_REQUEST_TIMEOUT"] = _NEVER_SECONDS
    try:
        model = mlflow.pyfunc.load_model(str(folder))
        model.unwrap_python_model().clock  # noqa: B018 - only HENAW's models have one
    except (MlflowException, AttributeError) as error:
        raise BadInput(f"models:/{name}/{number}: not a model of HENAW's ({type(error).__name__})") from None
    application = scoring_server.init(model)
    if not gc.isenabled():
        gc.freeze()  # what was imported stays
        gc.enable()
    return model, application


def answer(versions: Versions, stream: BinaryIO) -> None:
    """Read one question from ``stream`` and write its answer."""
    asked = json.loads(stream.readline())
    if asked["ask"] == "find":
        stream.write(head(_found(asked["uri"], lambda: _fields(versions.find(asked["uri"], asked["current"])))))
    elif asked["ask"] == "golden":
        name, number = asked["name"], asked["number"]
        stream.write(head(_found(f"models:/{name}/{number}", lambda: versions.golden(name, number))))
    else:
        stream.write(TAKEN)
        stream.flush()
        status, reply = _scored(versions, asked["name"], asked["number"], stream.read(asked["bytes"]))
        stream.write(head({"status": status, "bytes": len(reply)}) + reply)
    stream.flush()


def _fields(found: Found | None) -> dict[str, Any] | None:
    return None if found is None else asdict(found)


def _found(uri: str, find: Callable[[], object]) -> dict[str, Any]:
    try:
        return {"found": find()}
    except HenawError as error:
        return {"error": type(error).__name__, "message": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever it is, the worker goes on with the version it has
        return {"error": "HenawError", "message": f"{uri} cannot be loaded: {trace_without_text(error)}"}


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


def _import_and_accept(versions: Versions, listening: socket.socket) -> None:
    """One thread imports, as MLflow does not bear two; who asks early waits in the queue of the socket."""
    with suppress(Exception):  # raised again, and answered, where it is asked for
        import henaw.registry.manifest
        import henaw.registry.versions  # noqa: F401
    _accept(versions, listening)


def main(folder: Path, descriptor: int) -> None:
    """Answer until the input ends."""
    gc.disable()  # a third of the time that imports take is spent looking for garbage among what stays
    set_up_logging()
    versions, listening = Versions(folder), socket.socket(fileno=descriptor)
    threading.Thread(target=_import_and_accept, args=(versions, listening), daemon=True).start()
    sys.stdin.buffer.read()
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # threads that still work for nobody are not waited for


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
