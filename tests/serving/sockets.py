"""Real servers in processes of their own, and a client that sees every byte."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.conftest import REPOSITORY
from tests.scenarios import blood_rows
from tests.serving.guarded import SECRET, split

PATIENCE = 60.0  # seconds, for machines that are busy


@dataclass(frozen=True)
class Running:
    """A server that is ready, and the file of what it says."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    def ask(self, body: Any, path: str = "/invocations", headers: str = "") -> tuple[int, dict[str, str], bytes]:
        with connected(self.port) as client:
            client.sendall(request(body, path, headers))
            return response(client)

    def ask_csv(self, rows: int, headers: str = "") -> tuple[int, dict[str, str], bytes]:
        with connected(self.port) as client:
            body = request(blood_rows(rows, 0).to_csv(index=False).encode(), headers=headers)
            client.sendall(body.replace(b"application/json", b"text/csv", 1))
            return response(client)


def command(host: str, port: int, settings: str) -> list[str]:
    return [sys.executable, "-m", "tests.serving.run_guard", host, str(port), settings]


def of_registry(folder: Path, *options: str, settings: str = "") -> list[str]:
    """The command ``henaw serve`` for the champion of the tracking store, with its state in ``folder``."""
    own = [sys.executable, "-m", "henaw.cli", "serve", "--model", "models:/henaw@champion", "--port", "0"]
    return [*own, "--overrides", f"state.folder={folder / 'state'} {settings}", *options]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}


@contextmanager
def running(
    folder: Path, settings: str = "", arguments: Sequence[str] | None = None, key: str | None = None
) -> Iterator[Running]:
    """The guard (or the program ``arguments``) until the block ends; ``key`` opens it where there are keys."""
    folder.mkdir(exist_ok=True)
    log = folder / "log"
    own = arguments or command("127.0.0.1", 0, f"state.folder={folder} {settings}")
    with (
        log.open("wb") as file,
        subprocess.Popen(own, stderr=file, stdout=file, cwd=REPOSITORY, env=environment()) as process,
    ):
        try:
            port = listening_port(process, log)
            _await_ready(process, port, "" if key is None else f"Authorization: Bearer {key}\r\n")
            yield Running(process, port, log)
        finally:
            process.kill()


@contextmanager
def impatient(folder: Path) -> Iterator[Running]:
    """The guard with little patience and few slots, which says nothing of what it refuses but in the audit file."""
    settings = "serving.body_seconds=0.5 serving.deadline_seconds=0.5 serving.slots=4 serving.audit=/dev/null"
    with running(folder, settings) as found:
        yield found
        assert found.process.poll() is None, found.log.read_text()
        said = found.log.read_text()
        for word in (SECRET, "Traceback", "uvicorn"):
            assert word not in said


def code(body: bytes) -> str:
    return str(json.loads(body)["error_code"])


def assert_well(server: Running) -> None:
    assert server.ask(split(1))[0] == 200


def listening_port(process: subprocess.Popen[bytes], log: Path) -> int:
    """The port of a server, as its log says."""
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        if found := re.search(r"on https?://[^ ]+:(\d+),", log.read_text()):
            return int(found[1])
        time.sleep(0.02)
    raise AssertionError(log.read_text())


def _await_ready(process: subprocess.Popen[bytes], port: int, headers: str) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until and process.poll() is None:
        with suppress(OSError), connected(port) as client:
            client.sendall(request(b"", "/ping", headers))
            if response(client)[0] == 200:
                return
        time.sleep(0.02)
    raise AssertionError("the server never was ready")


def await_that(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.1)


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client


def request(body: Any, path: str = "/invocations", headers: str = "") -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    method = "POST" if content else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{headers}"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def response(client: socket.socket, received: bytes = b"") -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; ``ConnectionError`` where there is no whole response."""
    while b"\r\n\r\n" not in received:
        received += _more(client)
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers["content-length"]):
        body += _more(client)
    return int(status.split()[1]), headers, body[: int(headers["content-length"])]


def rest(client: socket.socket) -> bytes:
    """All that still comes until the server closes."""
    found = b""
    with suppress(ConnectionError):
        while more := client.recv(1 << 16):
            found += more
    return found


def _more(client: socket.socket) -> bytes:
    if not (more := client.recv(1 << 16)):
        raise ConnectionError("closed before the response was whole")
    return more
