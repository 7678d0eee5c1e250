"""How much is worked on at once. Past that a request is sent away at once, so that the others are answered soon."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from henaw.serving.refusals import Refusal, retry_after

T = TypeVar("T")


def overloaded() -> Refusal:
    """The refusal of what finds no slot."""
    return Refusal("OVERLOADED", "as much as can be worked on is being worked on", headers=retry_after(1))


class Slots:
    """A fixed number of slots, each with a thread.

    A slot is free again when the work in it has ended, not when its caller was told that it took too long: threads
    cannot be stopped, and work that piles up behind answers is what takes a server down.
    """

    def __init__(self, number: int, deadline_seconds: float) -> None:
        """Make ``number`` slots."""
        self.number, self.taken = number, 0
        self.threads = ThreadPoolExecutor(number, thread_name_prefix="henaw-slot")
        self._deadline = deadline_seconds

    async def here(self, work: Callable[[], T], *, counted: bool) -> T:
        """Do short ``work`` on the event loop itself, which costs no change of threads.

        ``counted``: what waits is counted already, where it came from.

        Raises:
            Refusal: ``OVERLOADED``.
        """
        self._take()
        try:
            if not counted:  # all that arrived together is, before the first of it is worked on
                await asyncio.sleep(0)
            return work()
        finally:
            self.taken -= 1

    async def in_thread(self, work: Callable[[], T]) -> T:
        """Do ``work`` in a thread.

        Raises:
            Refusal: ``OVERLOADED`` or ``DEADLINE_EXCEEDED``.
        """
        self._take()
        return await self._in_time(asyncio.get_running_loop().run_in_executor(self.threads, work))

    async def awaited(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` that waits for threads of its own.

        Raises:
            Refusal: ``OVERLOADED`` or ``DEADLINE_EXCEEDED``.
        """
        try:
            self._take()
        except Refusal:
            work.close()
            raise
        return await self._in_time(asyncio.ensure_future(work))

    async def _in_time(self, future: asyncio.Future[T]) -> T:
        future.add_done_callback(self._give_back)
        done, _ = await asyncio.wait({future}, timeout=self._deadline)
        if not done:
            message = f"no answer within {self._deadline:g} s"
            raise Refusal("DEADLINE_EXCEEDED", message, headers=retry_after(1))
        return future.result()

    def _take(self) -> None:
        if self.taken >= self.number:
            raise overloaded()
        self.taken += 1

    def _give_back(self, future: asyncio.Future[Any]) -> None:
        self.taken -= 1
        with suppress(asyncio.CancelledError):
            future.exception()  # seen, also where nobody waits for it any more
