"""``henaw serve``: checks what it was given, takes its port, and has MLflow and the workers started."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

from henaw.config import Config
from henaw.console import settle_environment
from henaw.errors import BadInput, Refused
from henaw.serving.beside import mlflow_beside
from henaw.serving.keys import read_keys
from henaw.serving.listening import bind, is_loopback, shown
from henaw.serving.plan import plan
from henaw.settings import Serving

logger = logging.getLogger(__name__)


def serve(config: Config, model: str, host: str, port: int) -> None:
    """Serve ``model`` on ``host`` and ``port`` until a signal ends it.

    Raises:
        Refused: others could reach it and there is no key.
        BadInput: no such model or challenger, or a file of TLS that cannot be read.
        EnvironmentProblem: the port is taken, or the registry does not answer.
    """
    settle_environment()
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # of a matrix product: what is to be shared is shared by rows
    _quiet_uvicorn()
    _require_keys(config, host)
    _require_tls_files(config.serving)
    plan(model, config.serving.shadow, config.serving.shadow_share, config.serving.split)
    if is_loopback(host) and not read_keys(Path(config.state.folder)):
        logger.info("no keys: whoever is on this machine is let in; `henaw keys create` makes one")
    # bound here, so that a port that is taken is said before anything is loaded
    bound = bind(host, port)
    where = f"{'http' if config.serving.tls_certificate is None else 'https'}://{shown(host)}:{bound.getsockname()[1]}"
    logger.info("serving %s on %s, %d worker(s)", model, where, config.serving.workers)
    with bound, mlflow_beside():
        from henaw.serving.processes import run  # it takes as long as MLflow's process takes to start

        left_behind = run(config, model, host, port, bound)
    if left_behind:
        logger.warning("%d request(s) past their deadline were still worked on; left behind", left_behind)
        os._exit(0)  # no thread can be stopped


def _require_tls_files(serving: Serving) -> None:
    if serving.tls_certificate is not None:
        try:
            ssl.create_default_context().load_cert_chain(serving.tls_certificate, serving.tls_key, password="")
        except (OSError, ValueError) as error:
            reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
            said = "cannot be used as PEM files of a certificate and its key, without a password"
            raise BadInput(f"serving.tls_certificate, serving.tls_key: {said} ({reason})") from None


def _quiet_uvicorn() -> None:
    for name in ("uvicorn", "uvicorn.error"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _require_keys(config: Config, host: str) -> None:
    if not is_loopback(host) and not read_keys(Path(config.state.folder)):
        raise Refused(
            f"host {host}: others could reach the server and there is no key; make one with `henaw keys create`"
        )
