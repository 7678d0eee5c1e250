"""Tracking servers that are started, killed, hang or are unwell, for tests of what a run does then."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class MlflowServer:
    """A real `mlflow server` with its store in ``folder``, always at the same address."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when it answers, at once where it has been started before."""
        if self._process is not None:
            return
        command = [sys.executable, "-m", "mlflow", "server", "--port", str(self.port), "--workers", "1"]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        command += ["--artifacts-destination", str(self.folder / "artifacts")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=environment | {"MLFLOW_DISABLE_TELEMETRY": "true"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=1).close()
            except (urllib.error.URLError, OSError):
                assert self._process.poll() is None, (self.folder / "server.log").read_text()
                time.sleep(0.1)
            else:
                return
        raise TimeoutError((self.folder / "server.log").read_text())

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, 9)
            self._process.wait()
            self._process = None


def _bound(port: int) -> socket.socket:
    """What had the port before may need a moment to die."""
    for _ in range(200):
        try:
            return socket.create_server(("127.0.0.1", port))
        except OSError:
            time.sleep(0.05)
    raise TimeoutError(port)


@contextmanager
def answering(port: int, answer: bytes | None) -> Iterator[list[int]]:
    """A server at ``port`` that gives ``answer`` to every request, None: to none; yields how many there were."""
    asked = [0]
    stop = threading.Event()
    kept: list[socket.socket] = []
    with _bound(port) as server:
        server.settimeout(0.05)

        def serve() -> None:
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                asked[0] += 1
                kept.append(connection)
                if answer is not None:
                    connection.settimeout(2)
                    connection.recv(65536)
                    connection.sendall(answer)
                    connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield asked
        finally:
            stop.set()
            thread.join()
            for connection in kept:
                connection.close()


UNWELL = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 4\r\nConnection: close\r\n\r\noops"
