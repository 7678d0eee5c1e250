"""The guarded application of one process, put together from the settings."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from henaw.config import Config
from henaw.console import set_up_logging
from henaw.data.files import write_atomically
from henaw.errors import HenawError, trace_without_text
from henaw.serving.audit import Audit
from henaw.serving.comparison import Comparison
from henaw.serving.endpoints import Endpoints, Route
from henaw.serving.guard import Guard
from henaw.serving.keys import Keyring
from henaw.serving.lifecycle import Lifecycle, Load, Served
from henaw.serving.listening import is_loopback
from henaw.serving.metrics import FOLDER_VARIABLE, Metrics
from henaw.serving.plan import plan
from henaw.serving.rates import rates_from_environment
from henaw.serving.slots import Slots
from henaw.settings import Serving

logger = logging.getLogger(__name__)

OPTIONS_VARIABLE = "HENAW_SERVE_OPTIONS"  # from the process that was started to its workers
_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 - names to compare with
REASON = "reason.json"  # of a worker that cannot start: class and message, in the folder of figures
STARTUP_FAILURE = 3  # with it uvicorn's supervisor gives up instead of starting the worker again


@dataclass(frozen=True)
class Options:
    """What was asked for on the command line, and the settings, so that a worker has them too."""

    model: str
    host: str
    port: int
    settings: dict[str, object]

    @property
    def config(self) -> Config:
        """The settings."""
        return Config.model_validate(self.settings)


def build(options: Options, load: Load, find: Callable[[str], Load] | None = None) -> tuple[Guard, Slots]:
    """The application, and the slots it works in; ``find`` makes what loads a challenger by its address.

    Raises:
        BadInput: a challenger or a share that cannot be meant.
        HenawError: a file of keys or audit, or an address, that cannot be used.
    """
    config = options.config
    serving = config.serving
    figures = Metrics()
    slots = Slots(serving.slots, serving.deadline_seconds)
    lifecycle = Lifecycle(load, figures, reload_seconds=serving.reload_seconds, drain_seconds=serving.drain_seconds)
    compared = plan(options.model, serving.shadow, serving.shadow_share, serving.split)
    comparison = Comparison(
        compared, Path(config.state.folder), figures, find or registry_loader, serving.reload_seconds
    )
    rates = rates_from_environment(serving.rate)

    async def stop() -> None:
        await comparison.stop()
        await rates.close()

    lifecycle.before_ready, lifecycle.at_stop = comparison.start, stop
    endpoints = Endpoints(serving, lifecycle, slots, rates, figures, comparison, _mlflow_version())
    guard = Guard(
        {**endpoints.routes(), **_page_routes(serving, endpoints)},
        hosts=hosts(options.host, serving.hosts),
        keyring=Keyring(Path(config.state.folder)),
        lifecycle=lifecycle,
        metrics=figures,
        audit=Audit(None if serving.audit is None else Path(serving.audit)),
        room=serving.slots,
    )
    return guard, slots


def _page_routes(serving: Serving, endpoints: Endpoints) -> Mapping[str, Route]:
    if not serving.page:
        return {}
    from henaw.serving.page.routes import Page  # its units come with pandas, which other servers start without

    return Page(serving, endpoints).routes()


def hosts(host: str, more: list[str]) -> list[str]:
    """Names that the server answers for: those of the address it listens on, and ``more``."""
    here = ["localhost", "127.0.0.1", "[::1]"] if is_loopback(host) or host in _EVERY_ADDRESS else []
    own = here if is_loopback(host) else [*here, host, socket.gethostname()]
    return [*own, f"[{host}]" if ":" in host else host, *more]


def create() -> Guard:
    """The application of a worker process; uvicorn's supervisor has it made by this name."""
    set_up_logging()
    options = Options(**json.loads(os.environ[OPTIONS_VARIABLE]))
    try:
        guard, slots = build(options, registry_loader(options.model, at_once=False))
    except Exception as error:  # noqa: BLE001 - whatever it is, it would be the same the next time
        _give_up(error)
    guard.opens_when_ready = True  # until then the other workers are asked
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        threading.Thread(target=_leave_after, args=(supervisor,), daemon=True).start()

    def leave() -> None:
        """Report a failure to the supervisor, and do not wait for threads that no deadline could stop."""
        if (failure := guard.lifecycle.failure) is not None:
            _give_up(failure)
        _clean_up_for_the_dead()
        if slots.taken:
            os._exit(0)

    guard.at_exit = leave
    return guard


def _give_up(failure: Exception) -> NoReturn:
    """Leave the reason to the supervisor, who ends with it."""
    _clean_up_for_the_dead()
    known = isinstance(failure, HenawError)
    said = [type(failure).__name__ if known else "HenawError", str(failure) if known else trace_without_text(failure)]
    path = Path(os.environ[FOLDER_VARIABLE]) / REASON
    try:
        write_atomically(path, lambda temporary: temporary.write_text(json.dumps(said), encoding="utf-8"))
    except HenawError:
        logger.error("%s", said[1])
    os._exit(STARTUP_FAILURE)


def _clean_up_for_the_dead() -> None:
    """Remove what the supervisor would have, were it still there; a worker may only begin when it is gone."""
    supervisor = multiprocessing.parent_process()
    if supervisor is not None and not supervisor.is_alive():
        shutil.rmtree(os.environ.get(FOLDER_VARIABLE, ""), ignore_errors=True)


def _leave_after(supervisor: BaseProcess) -> None:
    """Have this worker drain once whoever started it is gone: killed, it told nobody."""
    supervisor.join()
    logger.error("the server's first process is gone; this worker leaves too")
    os.kill(os.getpid(), signal.SIGTERM)


def registry_loader(model: str, *, at_once: bool = True) -> Load:
    """Loads what ``model`` names from the registry; where nothing is served yet, ``at_once`` as ``newest`` has it."""

    def load(current: int | None) -> Served | None:
        from henaw.serving.loading import newest

        return newest(model, current, at_once=at_once or current is not None)

    return load


def to_environment(options: Options) -> None:
    """Leave ``options`` to the workers."""
    os.environ[OPTIONS_VARIABLE] = json.dumps(asdict(options))


def _mlflow_version() -> str:
    from importlib.metadata import version

    return version("mlflow")
