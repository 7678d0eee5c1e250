"""MLflow in a process of its own beside the workers: it reads the registry, verifies, and answers CSV.

MLflow and pandas take twice the memory of everything else that a worker needs, and most requests want neither. So one
process has them, however many workers there are; a worker asks it over a socket in a private folder. It is started
again where it ends, and ends itself where whoever started it is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from henaw import errors
from henaw.errors import EnvironmentProblem
from henaw.serving.asgi import Application, Message, Receive, Send
from henaw.serving.refusals import without_mlflow

logger = logging.getLogger(__name__)

ADDRESS_VARIABLE = "HENAW_MLFLOW_SOCKET"
_PROGRAM = "henaw.serving.mlflow_process"
_WAITING = 128  # asked and not yet taken
_PAUSE_SECONDS, _LEAVING_SECONDS = 1.0, 5.0
_TAKEN_SECONDS = 5.0  # a question that the process has not taken up by then holds no slot any longer
TAKEN = b"\n"


@dataclass(frozen=True)
class Found:
    """A version that was fetched and verified.

    Attributes:
        name, number: of the registered version.
        folder: of its clock.
        registered: its answers to its golden rows of the day of registration, None where the version has none.
    """

    name: str
    number: int
    folder: str
    registered: list[dict[str, Any]] | None


@contextmanager
def mlflow_beside() -> Iterator[None]:
    """The process until the block ends; ``find``, ``golden`` and ``csv_application`` ask it, also in child processes.

    It begins by importing MLflow, before anybody asks.
    """
    with socket.socket(socket.AF_UNIX) as listening:
        folder = _bound_in_private_folder(listening)
        listening.listen(_WAITING)  # here, so that who asks early waits, and one process after another can answer
        os.environ[ADDRESS_VARIABLE] = str(folder / "socket")
        keeper = _Keeper(folder, listening)
        try:
            yield
        finally:
            keeper.end()
            del os.environ[ADDRESS_VARIABLE]
            shutil.rmtree(folder, ignore_errors=True)


def _bound_in_private_folder(listening: socket.socket) -> Path:
    parent = tempfile.gettempdir()
    folder: Path | None = None
    try:
        folder = Path(tempfile.mkdtemp(prefix="henaw-mlflow-"))
        listening.bind(str(folder / "socket"))
    except OSError as error:
        if folder is not None:
            folder.rmdir()
        said = "no socket can be made there; expected TMPDIR to be a folder that may be written, with a short path"
        raise EnvironmentProblem(f"{parent}: {said} ({error.strerror or error})") from None
    return folder


class _Keeper:
    """Keeps one process running."""

    def __init__(self, folder: Path, listening: socket.socket) -> None:
        self._arguments = [sys.executable, "-P", "-m", _PROGRAM, str(folder), str(listening.fileno())]
        self._inherited = (listening.fileno(),)
        self._ending = threading.Event()
        self._process = self._started()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _started(self) -> subprocess.Popen[bytes]:
        # a session of its own: Ctrl-C is for the server, which still needs it to leave; its input ends with the server
        return subprocess.Popen(
            self._arguments, stdin=subprocess.PIPE, pass_fds=self._inherited, start_new_session=True
        )

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            if self._ending.is_set():
                return
            logger.error("the process that has MLflow ended (%d) and is started again", self._process.returncode)
            if self._ending.wait(_PAUSE_SECONDS):
                return
            self._process = self._started()

    def end(self) -> None:
        """End it for good."""
        self._ending.set()
        process = self._process
        assert process.stdin is not None
        process.stdin.close()
        try:
            process.wait(_LEAVING_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        self._thread.join(_LEAVING_SECONDS)


def find(uri: str, current: int | None) -> Found | None:
    """The version that ``uri`` names now; None where it is ``current``.

    Raises:
        BadInput: no such model, or not one of HENAW's.
        IntegrityError: its files are not those that were registered.
        EnvironmentProblem: the registry does not answer, or the process ended.
    """
    found = _asked({"ask": "find", "uri": uri, "current": current})
    return None if found is None else Found(**found)


def golden(name: str, number: int) -> list[dict[str, Any]]:
    """What a version answers to its golden rows when MLflow loads and asks it.

    Raises:
        BadInput: it is not one of HENAW's.
        EnvironmentProblem: the registry does not answer, or the process ended.
    """
    answers: list[dict[str, Any]] = _asked({"ask": "golden", "name": name, "number": number})
    return answers


def _asked(question: dict[str, Any]) -> Any:
    with socket.socket(socket.AF_UNIX) as client, client.makefile("rwb") as stream:
        try:
            client.connect(os.environ[ADDRESS_VARIABLE])
            stream.write(head(question))
            stream.flush()
            reply = json.loads(stream.readline())
        except (OSError, ValueError) as error:
            said = f"the process that has MLflow does not answer ({type(error).__name__})"
            raise EnvironmentProblem(said) from None
    if error_name := reply.get("error"):
        raise getattr(errors, error_name, RuntimeError)(reply["message"])
    return reply["found"]


def csv_application(name: str, number: int) -> Application:
    """MLflow's own scoring app around a version, as far as it answers CSV."""

    async def application(_: Any, receive: Receive, send: Send) -> None:
        body: bytes = (await receive())["body"]
        status, reply = await _answered(name, number, body)
        start: Message = {"type": "http.response.start", "status": status, "headers": []}
        await send(start)
        await send({"type": "http.response.body", "body": reply})

    return application


async def _answered(name: str, number: int, body: bytes) -> tuple[int, bytes]:
    try:
        reader, writer = await asyncio.open_unix_connection(os.environ[ADDRESS_VARIABLE])
        try:
            writer.write(head({"ask": "csv", "name": name, "number": number, "bytes": len(body)}) + body)
            async with asyncio.timeout(_TAKEN_SECONDS):
                await reader.readexactly(len(TAKEN))
            reply = json.loads(await reader.readline())
            return reply["status"], await reader.readexactly(reply["bytes"])
        finally:
            writer.close()
    except (OSError, ValueError, EOFError) as error:
        logger.error("CSV: the process that has MLflow does not answer (%s)", type(error).__name__)
        raise without_mlflow() from None


def head(words: dict[str, Any]) -> bytes:
    """A line of JSON, with which a question and its answer begin."""
    return json.dumps(words).encode() + b"\n"
