"""From starting to stopping: which version answers, whether to send requests here, and how to leave losing none."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import signal
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, ParamSpec, TypeVar

from henaw.errors import EnvironmentProblem, HenawError, trace_without_text
from henaw.model.clock import Clock
from henaw.serving.asgi import Application
from henaw.serving.metrics import Metrics
from henaw.serving.refusals import Refusal, retry_after, without_mlflow

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

_CLOSING_SECONDS = 0.3  # requests on connections of before are told that this server leaves
_START_AGAIN_SECONDS = 5
_CONFIRMATIONS, _AGAIN_SECONDS = 3, 1.0  # how often MLflow is asked, as its process may end and be started again
_CONFIRMED_SECONDS = 5.0  # a request that waits longer would hold its slot for too long


@dataclass(frozen=True, eq=False)
class Served:
    """A version that has been verified and answers.

    Attributes:
        name, number: of the registered version.
        clock: answers JSON.
        mlflow_app: MLflow's own scoring app around the same version, answers CSV.
        openapi: the document that describes it.
        confirm: raises where MLflow's way does not answer the golden rows as the guard's does; None: it was asked.
    """

    name: str
    number: int
    clock: Clock
    mlflow_app: Application
    openapi: bytes
    confirm: Callable[[], None] | None = None

    @cached_property
    def label(self) -> str:
        """Name and number, as figures, audit and replies say it."""
        return f"{self.name}/{self.number}"


Load = Callable[[int | None], Served | None]
"""The version that should answer now, loaded and verified; None where it is the one of that number."""


class Lifecycle:
    """``starting`` → ``ready`` → ``draining`` (answers, but asks to be left) → ``closing`` (answers no more).

    Attributes:
        failure: why there is nothing to serve, once that is known.
        decided: set when it is known whether there is, or is to leave before.
        before_ready: awaited with the version that will answer; what it raises is a failure.
        at_stop: awaited when all is answered.
        at_closing: called when ``closing`` begins.
    """

    def __init__(self, load: Load, metrics: Metrics, *, reload_seconds: float, drain_seconds: float) -> None:
        """Nothing is loaded before ``start``; ``reload_seconds`` = 0: one version for good."""
        self._load, self._metrics = load, metrics
        self._reload_seconds, self._drain_seconds = reload_seconds, drain_seconds
        self.phase: Literal["starting", "ready", "draining", "closing"] = "starting"
        self.failure: Exception | None = None
        self.decided, self._confirmed = asyncio.Event(), asyncio.Event()
        self.before_ready: Callable[[Served], Awaitable[None]] = _nothing
        self.at_stop: Callable[[], Awaitable[None]] = _nothing
        self.at_closing: Callable[[], None] = lambda: None
        self._served: Served | None = None
        self._said = ""  # why the last version was not taken: once, however often it is tried
        self._task: asyncio.Task[None] | None = None
        self._stop_server: Callable[[int], None] = lambda _: None
        self._handlers_before: dict[int, Any] = {}

    @property
    def leaves(self) -> bool:
        """Whether connections should be closed after their answer."""
        return self.phase in ("draining", "closing")

    def require_served(self) -> Served:
        """The version that answers.

        Raises:
            Refusal: ``NOT_READY``: none yet, or none any more.
        """
        if self._served is None or self.phase == "closing":
            raise self._not_ready()
        return self._served

    def require_ready(self) -> None:
        """Readiness.

        Raises:
            Refusal: ``NOT_READY``: requests should go elsewhere.
        """
        if self.phase != "ready":
            raise self._not_ready()

    def _not_ready(self) -> Refusal:
        reason = "starting" if self.phase == "starting" else "stopping"
        return Refusal("NOT_READY", f"the server is {reason}", headers=retry_after(_START_AGAIN_SECONDS))

    async def start(self) -> None:
        """Load in the background, keep up with the alias, and take the server's signals."""
        self._take_signals(asyncio.get_running_loop())
        self._task = asyncio.create_task(self._follow())

    async def stop(self) -> None:
        """End what ``start`` began."""
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        await self.at_stop()

    async def _follow(self) -> None:
        try:
            served = await unhindered(self._load, None)
            assert served is not None
            await self.before_ready(served)
        except Exception as error:  # noqa: BLE001 - whatever it is, there is nothing to serve
            self.failure = error
            self.decided.set()
            self._stop_server(signal.SIGTERM)
            return
        self._take(served)
        if self.phase == "starting":
            self.phase = "ready"
        self.decided.set()
        if not await self._confirmed_by_mlflow(served):
            return
        while self._reload_seconds:
            await asyncio.sleep(self._reload_seconds)
            await self._reload(served.number)
            served = self._served or served

    async def _confirmed_by_mlflow(self, served: Served) -> bool:
        """Whether the first version holds in MLflow's hands too: one that does not is not served a moment longer."""
        if served.confirm is not None:
            try:
                await _patiently(served.confirm)
            except Exception as error:  # noqa: BLE001 - whatever it is, there is nothing to serve
                self.failure, self.phase, self._served = error, "closing", None
                self.at_closing()
                self._stop_server(signal.SIGTERM)
                return False
        self._confirmed.set()
        return True

    async def require_confirmed(self) -> None:
        """Wait a little for MLflow's way of answering.

        Raises:
            Refusal: ``NOT_READY``: it is not there yet.
        """
        try:
            async with asyncio.timeout(_CONFIRMED_SECONDS):
                await self._confirmed.wait()
        except TimeoutError:
            raise without_mlflow() from None

    async def _reload(self, number: int) -> None:
        try:
            newer = await unhindered(self._load, number)
        except Exception as error:  # noqa: BLE001 - the version that answers goes on
            self._metrics.reload_failures.inc()
            reason = str(error) if isinstance(error, HenawError) else trace_without_text(error)
            if reason != self._said:
                self._said = reason
                logger.error(
                    "the version that the alias names was not taken, version %d answers on: %s", number, reason
                )
            return
        self._said = ""
        if newer is not None:
            self._take(newer)

    def _take(self, served: Served) -> None:
        self._served = served  # requests under way keep the one that they began with
        self._metrics.serves(served.name, served.number)
        logger.info("%s version %d answers", served.name, served.number)

    def _take_signals(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stand in front of uvicorn's handlers, which stop at once: drain first; a second signal stops at once."""
        if threading.current_thread() is not threading.main_thread():
            return
        before: dict[int, Any] = {int(number): signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self._handlers_before = dict(before)

        def stop_server(number: int) -> None:
            handler = before[number]
            if callable(handler):
                handler(number, None)

        def signaled(number: int, _: object) -> None:
            if self.leaves:
                loop.call_soon_threadsafe(stop_server, number)
            else:
                loop.call_soon_threadsafe(self._drain, number)

        self._stop_server = stop_server
        for number in before:
            signal.signal(number, signaled)

    def _drain(self, number: int) -> None:
        """Who waits at a terminal waits less: Ctrl-C only lets what is under way finish."""
        if self.leaves:
            return
        self.phase = "draining"
        self.decided.set()
        seconds = self._drain_seconds if number == signal.SIGTERM else 0.0
        logger.info("stopping: not ready any more, answering for another %g s", seconds)
        asyncio.get_running_loop().call_later(seconds, self._close, number)

    def _close(self, number: int) -> None:
        self.phase = "closing"
        self.at_closing()
        asyncio.get_running_loop().call_later(_CLOSING_SECONDS, self._stop_server, number)


async def unhindered(work: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
    """As ``asyncio.to_thread``, for what may hang: the end of the loop and of the process do not wait for it."""
    future: concurrent.futures.Future[T] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(work(*arguments, **named))
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            with suppress(concurrent.futures.InvalidStateError):  # nobody waits any more
                future.set_exception(error)

    threading.Thread(target=run, name="henaw-load", daemon=True).start()
    return await asyncio.wrap_future(future)


async def _patiently(confirm: Callable[[], None]) -> None:
    for left in reversed(range(_CONFIRMATIONS)):
        try:
            await unhindered(confirm)
            break
        except EnvironmentProblem as error:
            if not left:
                raise
            logger.warning("%s; it is asked again", error)
            await asyncio.sleep(_AGAIN_SECONDS)


async def _nothing(*_: Served) -> None:
    return None
