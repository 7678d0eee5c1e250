"""A circuit breaker: a service that has failed is left alone for a while, longer after each further failure."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FIRST_SECONDS, LONGEST_SECONDS = 1.0, 60.0


class Away(Exception):
    """The service failed just now, or so lately that it was not asked; its cause says how."""


class Breaker:
    """Lets calls through until one fails; then none for a second, twice as long after each further failure, and so on.

    The pause ends after a minute at most, and a success ends all of it. The pauses are spread by a fifth, so that
    processes that lost one server together do not come back to it together.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Let calls through."""
        self._clock = clock
        self.failures = 0  # in a row
        self._closed_until = -float("inf")

    @property
    def pause(self) -> float:
        """Seconds until a call may try again; 0 = now."""
        return max(0.0, self._closed_until - self._clock())

    def call(self, what: Callable[[], T], fails: Callable[[Exception], bool]) -> T:
        """What ``what`` returns.

        Args:
            what: the call.
            fails: whether an error means that the service is away; any other one is raised as it is.

        Raises:
            Away: it failed, or is being left alone.
        """
        if self.pause > 0:
            raise Away(f"left alone for {self.pause:.0f} s more")
        try:
            result = what()
        except Exception as error:
            if not fails(error):
                self.failures = 0
                raise
            self.failures += 1
            seconds = min(LONGEST_SECONDS, FIRST_SECONDS * 2 ** min(self.failures - 1, 30))
            self._closed_until = self._clock() + seconds * random.uniform(0.8, 1.0)  # noqa: S311 (no secret)
            raise Away(type(error).__name__) from error
        self.failures = 0
        return result

    def try_now(self) -> None:
        """End the pause: the next call goes through."""
        self._closed_until = -float("inf")
