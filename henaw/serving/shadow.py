"""A sampled share of requests goes to the challenger as well, in a process that takes what processor time is left.

Nothing waits for it. What is offered goes into a queue that is bounded in number and bytes, and a thread passes it on;
where the process is behind, gone, or starting, samples are dropped and counted. A thread that scored here would hold
the interpreter's lock while requests wait.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from henaw.serving.lifecycle import Served
from henaw.serving.metrics import Metrics

logger = logging.getLogger(__name__)

_PROGRAM = "henaw.serving.shadow_process"
_MOST_WAITING, _MOST_BYTES = 64, 16 << 20
_PAUSE_SECONDS = 30.0  # before a process that ended is started again
_LEAVING_SECONDS = 5.0
_LOOK_SECONDS = 1.0  # at what the process says, where nothing is offered
HEADER = struct.Struct(">I")


class Shadow:
    """What is offered to the process, and what it says of it."""

    def __init__(self, address: str, share: float, state: Path, reload_seconds: float, figures: Metrics) -> None:
        """Nothing runs before ``start``."""
        self._arguments = [sys.executable, "-P", "-m", _PROGRAM, address, str(state), str(reload_seconds)]
        self._limit, self._figures = share * 2**64, figures
        self._waiting: queue.Queue[tuple[bytes, bytes, bytes] | None] = queue.Queue(_MOST_WAITING)
        self._bytes, self._access, self._ending = 0, threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._pass_on, name="henaw-shadow", daemon=True)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._start_at, self._heard = 0.0, b""

    def start(self) -> None:
        """Start the process and the thread that feeds it."""
        self._thread.start()

    def stop(self) -> None:
        """Have the process write what it knows and end; what still waits is dropped."""
        self._ending.set()
        with suppress(queue.Full):
            self._waiting.put_nowait(None)  # to wake it
        if self._thread.ident is not None:
            self._thread.join(_LOOK_SECONDS)
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_WR)  # it ends when it has read to here
        if self._process is not None:
            try:
                self._process.wait(_LEAVING_SECONDS)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()

    def offer(self, request_id: str, champion: Served, csv: bool, body: bytes, answer: bytes, seconds: float) -> None:
        """Queue a request and its answer, if it is in the sample and there is room; never waits."""
        if int(request_id, 16) >= self._limit:
            return
        size = len(body) + len(answer)
        told = {
            "champion": f"{champion.name}/{champion.number}",
            "csv": csv,
            "body": len(body),
            "answer": len(answer),
            "seconds": seconds,
        }
        outcome = "dropped"
        if self._bytes + size <= _MOST_BYTES:
            with suppress(queue.Full):
                self._waiting.put_nowait((json.dumps(told).encode(), body, answer))
                self._hold(size)
                outcome = "queued"
        self._figures.shadow_samples.labels(outcome).inc()

    def _hold(self, size: int) -> None:
        with self._access:
            self._bytes += size

    def _pass_on(self) -> None:
        while not self._ending.is_set():
            if self._socket is None and time.monotonic() >= self._start_at:
                self._start_process()
            try:
                sample = self._waiting.get(timeout=_LOOK_SECONDS)
            except queue.Empty:
                self._listen()
                continue
            if sample is None:
                return
            head, body, answer = sample
            self._hold(-len(body) - len(answer))
            if self._socket is None:
                self._figures.shadow_samples.labels("dropped").inc()
                continue
            try:
                self._socket.sendall(HEADER.pack(len(head)) + head + body + answer)
            except OSError:
                self._figures.shadow_samples.labels("dropped").inc()
                self._lose_process()
            else:
                self._listen()

    def _start_process(self) -> None:
        ours, theirs = socket.socketpair()
        arguments = [*self._arguments, str(theirs.fileno())]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        environment.pop("PROMETHEUS_MULTIPROC_DIR", None)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    arguments,
                    env=environment,
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,  # Ctrl-C is for the server, which ends the socket
                )
            except OSError as error:
                ours.close()
                logger.error("the shadow's process does not start: %s", error.strerror)
                self._start_at = time.monotonic() + _PAUSE_SECONDS
                return
        _give_way(self._process.pid)
        self._socket, self._heard = ours, b""

    def _lose_process(self) -> None:
        if self._ending.is_set() or self._socket is None or self._process is None:
            return
        self._socket.close()
        self._process.kill()
        code = self._process.wait()
        logger.error("the shadow's process ended (%d); answers go on, it is started again", code)
        self._socket, self._process = None, None
        self._start_at = time.monotonic() + _PAUSE_SECONDS

    def _listen(self) -> None:
        """Take in what the process said: a line of JSON for each time it wrote its sums."""
        while self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            try:
                heard = self._socket.recv(1 << 16)
            except OSError:
                heard = b""
            if not heard:
                self._lose_process()
                return
            *lines, self._heard = (self._heard + heard).split(b"\n")
            for line in lines:
                self._count(json.loads(line))

    def _count(self, said: dict[str, Any]) -> None:
        for outcome, times in said["samples"].items():
            self._figures.shadow_samples.labels(outcome).inc(times)
        self._figures.shadow_rows.inc(said["rows"])
        self._figures.shadow_difference.inc(said["absolute_years"])
        self._figures.comparison_lost.inc(said["lost"])


def _give_way(process: int) -> None:
    """Let ``process`` run only on processor time that nobody else wants, its own start included."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, process, 19)
    with suppress(OSError, AttributeError):  # Linux alone has it
        os.sched_setscheduler(process, os.SCHED_IDLE, os.sched_param(0))
