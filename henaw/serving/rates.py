"""How often a key may ask: a moving window, counted in this process or, for several, in Redis."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, cast

from limits import RateLimitItem, aio, parse, storage, strategies

from henaw.errors import BadInput
from henaw.serving.refusals import Refusal, retry_after

if TYPE_CHECKING:
    from limits.aio.storage.redis.redispy import RedispyBridge
    from redis.asyncio import Redis

logger = logging.getLogger(__name__)

STORE_VARIABLE = "HENAW_RATE_STORE"  # an address may hold a password: it is no setting
_STORE_SECONDS = 0.5
_QUIET_SECONDS = 30.0


class Rates:
    """Counts the requests of each key.

    Where Redis does not answer, this process counts by itself until it does: asking goes on, and nobody gets more than
    the rate times the number of processes.
    """

    def __init__(self, rate: str, address: str | None) -> None:
        """Set up counting.

        Raises:
            BadInput: ``rate`` is no rate, or ``address`` no address of Redis.
        """
        self._item: RateLimitItem = parse(rate)
        self._here = strategies.MovingWindowRateLimiter(storage.MemoryStorage())
        self._shared: aio.strategies.MovingWindowRateLimiter | None = None
        self._close: Callable[[], Awaitable[None]] | None = None
        self._retry_at = 0.0
        if address is not None:
            try:
                shared = storage.storage_from_string(f"async+{address}", implementation="redispy")
            except Exception as error:  # noqa: BLE001 - of whatever library the address is for
                raise BadInput(
                    f"{STORE_VARIABLE}: expected an address such as redis://host:6379 ({type(error).__name__})"
                ) from None
            self._shared = aio.strategies.MovingWindowRateLimiter(shared)
            if isinstance(shared, aio.storage.RedisStorage):
                self._close = cast("Redis", cast("RedispyBridge", shared.bridge).get_connection()).aclose

    async def close(self) -> None:
        """Close the connections to Redis."""
        if self._close is not None:
            with suppress(Exception):  # of whatever library; the server leaves all the same
                async with asyncio.timeout(_STORE_SECONDS):
                    await self._close()

    async def count(self, key: str) -> None:
        """Count a request of ``key``.

        Raises:
            Refusal: ``RATE_LIMITED``, with the seconds until one may ask again.
        """
        if self._shared is not None and time.monotonic() >= self._retry_at:
            try:
                async with asyncio.timeout(_STORE_SECONDS):
                    if not await self._shared.hit(self._item, key):
                        reset = (await self._shared.get_window_stats(self._item, key)).reset_time
                        raise _limited(reset)
                return
            except Refusal:
                raise
            except Exception as error:  # noqa: BLE001 - whatever a client library raises, the rate goes on here
                self._retry_at = time.monotonic() + _QUIET_SECONDS
                logger.warning(
                    "the store of rates does not answer (%s); this process counts by itself for %.0f s",
                    type(error).__name__,
                    _QUIET_SECONDS,
                )
        if not self._here.hit(self._item, key):
            raise _limited(self._here.get_window_stats(self._item, key).reset_time)


def rates_from_environment(rate: str) -> Rates:
    """Rates counted where the environment says.

    Raises:
        BadInput: the rate or the address is none.
    """
    return Rates(rate, os.environ.get(STORE_VARIABLE) or None)


def _limited(reset_time: float) -> Refusal:
    seconds = math.ceil(reset_time - time.time())
    return Refusal("RATE_LIMITED", "too many requests with this key", headers=retry_after(seconds))
