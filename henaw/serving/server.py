"""``henaw serve``: one process, or a supervisor with workers, behind one socket."""

from __future__ import annotations

import logging
import os
import signal
import socket
import ssl
import tempfile
import threading
from functools import partial
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess

from henaw.config import Config
from henaw.errors import BadInput, Refused
from henaw.serving.application import Options, build, is_loopback, registry_loader, to_environment
from henaw.serving.keys import read_keys
from henaw.serving.listening import bind, let_nobody_in, shown
from henaw.serving.metrics import FOLDER_VARIABLE
from henaw.serving.protocol import GuardedProtocol
from henaw.serving.rates import STORE_VARIABLE
from henaw.settings import Serving

logger = logging.getLogger(__name__)

_FINISH_SECONDS = 14  # with the longest drain, all is over within 30 s
_BACKLOG = 2048
_KEEP_ALIVE_SECONDS = 30


def serve(config: Config, model: str, host: str, port: int) -> None:
    """Serve ``model`` on ``host`` and ``port`` until a signal ends it.

    Raises:
        Refused: others could reach it and there is no key.
        BadInput: no such model, or a file of TLS that cannot be read.
        EnvironmentProblem: the port is taken, or the registry does not answer.
    """
    _settle_environment()
    _require_keys(config, host)
    options = Options(model, host, port, config.model_dump(mode="json"))
    # bound here, so that a port that is taken is said before anything is loaded
    bound = bind(host, port)
    where = f"{'http' if config.serving.tls_certificate is None else 'https'}://{shown(host)}:{bound.getsockname()[1]}"
    logger.info("serving %s on %s, %d worker(s)", model, where, config.serving.workers)
    with bound:
        if config.serving.workers == 1:
            _serve_here(options, bound)
        else:
            _supervise(options, bound)


def _serve_here(options: Options, bound: socket.socket) -> None:
    guard, slots = build(options, registry_loader(options.model))
    guard.lifecycle.at_closing = partial(let_nobody_in, bound)
    before = signal.signal(signal.SIGTERM, lambda *_: None)  # uvicorn raises it again when all is done: exit 0
    try:
        uvicorn.Server(_uvicorn(options, guard)).run(sockets=[bound])
    finally:
        signal.signal(signal.SIGTERM, before)
    if guard.lifecycle.failure is not None:
        raise guard.lifecycle.failure
    if slots.taken:
        logger.warning("%d request(s) past their deadline were still worked on; left behind", slots.taken)
        os._exit(0)


def _supervise(options: Options, bound: socket.socket) -> None:
    """Workers that die are replaced; where none can start, this ends."""
    if STORE_VARIABLE not in os.environ:
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
            raise BadInput(f"{options.model}: no worker could start; the lines above say why")


class _Supervisor(Multiprocess):
    """uvicorn's supervisor, which leaves as a single process does."""

    def __init__(self, config: uvicorn.Config, bound: socket.socket, options: Options) -> None:
        super().__init__(config, [bound])
        self._bound, self._drain_seconds = bound, options.config.serving.drain_seconds

    def terminate_all(self) -> None:
        """Have the workers drain; when they begin to close, nobody new is let in."""
        super().terminate_all()
        closing = threading.Timer(self._drain_seconds, let_nobody_in, [self._bound])
        closing.daemon = True
        closing.start()


def _uvicorn(options: Options, application: object) -> uvicorn.Config:
    serving = options.config.serving
    _require_tls_files(serving)
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


def _require_tls_files(serving: Serving) -> None:
    if serving.tls_certificate is not None:
        try:
            ssl.create_default_context().load_cert_chain(serving.tls_certificate, serving.tls_key, password="")
        except (OSError, ValueError) as error:
            said = "cannot be used as PEM files of a certificate and its key, without a password"
            raise BadInput(f"serving.tls_certificate, serving.tls_key: {said} ({type(error).__name__})") from None


def _settle_environment() -> None:
    """Nothing calls home, no pickle is read, no progress bars of others."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    }.items():
        os.environ.setdefault(name, value)
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _require_keys(config: Config, host: str) -> None:
    if not is_loopback(host) and not read_keys(Path(config.state.folder)):
        raise Refused(
            f"host {host}: others could reach the server and there is no key; make one with `henaw keys create`"
        )
