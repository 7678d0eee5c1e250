"""The processes that answer: this one, or a supervisor with workers, on one socket that is bound already."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
import tempfile
import threading
from functools import partial
from pathlib import Path
from typing import cast

import uvicorn
from uvicorn.supervisors import Multiprocess

from henaw import errors
from henaw.config import Config
from henaw.errors import EnvironmentProblem, HenawError
from henaw.serving.application import REASON, Options, build, registry_loader, to_environment
from henaw.serving.listening import let_nobody_in
from henaw.serving.metrics import FOLDER_VARIABLE
from henaw.serving.protocol import GuardedProtocol
from henaw.serving.rates import STORE_VARIABLE

logger = logging.getLogger(__name__)

_FINISH_SECONDS = 14  # with the longest drain, all is over within 30 s
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 30


def run(config: Config, model: str, host: str, port: int, bound: socket.socket) -> int:
    """Serve until a signal ends it; returns how many requests past their deadline are still worked on.

    Raises:
        HenawError: there is nothing to serve.
    """
    options = Options(model, host, port, config.model_dump(mode="json"))
    return _serve_here(options, bound) if config.serving.workers == 1 else _supervise(options, bound)


def _serve_here(options: Options, bound: socket.socket) -> int:
    guard, slots = build(options, registry_loader(options.model, at_once=False))
    guard.lifecycle.at_closing = partial(let_nobody_in, bound)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when all is done: exit 0
    try:
        uvicorn.Server(_uvicorn(options, guard)).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
    if guard.lifecycle.failure is not None:
        raise guard.lifecycle.failure
    return slots.taken


def _supervise(options: Options, bound: socket.socket) -> int:
    """Workers that die are replaced; where none can start, this ends."""
    if not os.environ.get(STORE_VARIABLE):
        logger.warning(
            "each worker counts rates by itself: a key may ask up to %d times as often; set %s",
            options.config.serving.workers,
            STORE_VARIABLE,
        )
    with tempfile.TemporaryDirectory(prefix="henaw-metrics-") as folder:
        os.environ[FOLDER_VARIABLE] = folder
        to_environment(options)
        supervisor = _Supervisor(_uvicorn(options, "henaw.serving.application:create"), bound, options)
        supervisor.run()
        if any(process.exitcode == uvicorn.config.STARTUP_FAILURE for process in supervisor.processes):
            raise _reason(Path(folder), options.model)
    return 0


def _reason(folder: Path, model: str) -> HenawError:
    """Why a worker could not start."""
    try:
        name, message = json.loads((folder / REASON).read_text(encoding="utf-8"))
        return cast("HenawError", getattr(errors, name)(message))
    except (OSError, ValueError, AttributeError):
        return EnvironmentProblem(f"{model}: a worker could not start; the lines above may say why")


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which leaves as a single process does."""

    def __init__(self, config: uvicorn.Config, bound: socket.socket, options: Options) -> None:
        super().__init__(config, [bound])
        self._bound, self._drain_seconds = bound, options.config.serving.drain_seconds

    def keep_subprocess_alive(self) -> None:
        """Replace workers that ended, and say so."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        for old, new in zip(before, self.processes, strict=True):
            if old is not new:
                logger.error("worker %s ended (%s) and is replaced", old.pid, old.exitcode)

    def terminate_all(self) -> None:
        """Have the workers drain; when they begin to close, nobody new is let in."""
        super().terminate_all()
        closing = threading.Timer(self._drain_seconds, let_nobody_in, [self._bound])
        closing.daemon = True
        closing.start()


def _uvicorn(options: Options, application: object) -> uvicorn.Config:
    serving = options.config.serving
    return uvicorn.Config(
        application,  # type: ignore[arg-type]  # an application, or where to get it
        factory=isinstance(application, str),
        host=options.host,
        port=options.port,
        workers=serving.workers,
        http=GuardedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        interface="asgi3",
        log_config=None,
        access_log=False,  # paths and queries may hold values
        proxy_headers=False,
        server_header=False,
        backlog=_BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_FINISH_SECONDS,
        ssl_certfile=serving.tls_certificate,
        ssl_keyfile=serving.tls_key,
    )
