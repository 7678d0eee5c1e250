"""The version that is compared with the one that answers: found, followed, and never in the way."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Literal

from henaw.errors import BadInput, HenawError, NoSuchVersion, trace_without_text
from henaw.model.answers import input_columns
from henaw.serving.lifecycle import Load, Served

logger = logging.getLogger(__name__)

MOVED_BY_PROMOTION = ("champion", "challenger", "previous")  # these come and go; any other alias that is not is a typo
_MOST_REASONS = 20
_WITHOUT = {"split": "the champion answers all", "shadow": "nothing is compared"}


def unlike(champion: Served, challenger: Served) -> str | None:
    """Why the two cannot be compared; None where they can."""
    if (champion.name, champion.number) == (challenger.name, challenger.number):
        return "it is the version that answers"
    if champion.clock.target != challenger.clock.target:
        return "it answers with other columns"
    if set(input_columns(champion.clock.panel)) != set(input_columns(challenger.clock.panel)):
        return "it asks for other columns"
    return None


class Follower:
    """Keeps up with what an address names.

    Where it names nothing there is no challenger; where a version cannot be loaded the one before stays.

    Attributes:
        served: the version, None where there is none.
    """

    def __init__(self, role: Literal["split", "shadow"], address: str, load: Load, failed: Callable[[], None]) -> None:
        """``failed`` is called for each attempt that failed; the log has each reason once."""
        self._role: Literal["split", "shadow"] = role
        self.address, self._load, self._failed = address, load, failed
        self.served: Served | None = None
        self._said: set[str] = set()
        self._was_faulty = False

    def require(self, champion: Served) -> None:
        """The first attempt: what cannot be meant is said instead of being waited for.

        Raises:
            BadInput: no such version and none to be expected, the champion itself, or one that cannot be compared.
        """
        fault = self._attempt()
        if isinstance(fault, NoSuchVersion) and self.address.partition("@")[2] not in MOVED_BY_PROMOTION:
            raise fault
        if self.served is not None and (reason := unlike(champion, self.served)):
            raise BadInput(f"{self.address} cannot be compared with {champion.name} {champion.number}: {reason}")
        self._tell(fault)

    def refresh(self) -> None:
        """Look where the address leads now; whatever is wrong is counted and logged, not raised."""
        self._tell(self._attempt())

    def _attempt(self) -> Exception | None:
        try:
            newer = self._load(None if self.served is None else self.served.number)
        except Exception as error:  # noqa: BLE001 - nothing about a challenger may stop the champion
            self._failed()
            self._was_faulty = True
            if isinstance(error, NoSuchVersion):
                self.served = None
            return error
        if newer is not None or self._was_faulty:
            self._said.clear()
        self._was_faulty = False
        if newer is not None:
            self.served = newer
            logger.info("%s: %s version %d is the challenger", self._role, newer.name, newer.number)
        return None

    def _tell(self, fault: Exception | None) -> None:
        if fault is not None:
            reason = str(fault) if isinstance(fault, HenawError) else trace_without_text(fault)
            self.say(f"{reason}; {'the one before stays' if self.served else _WITHOUT[self._role]}")

    def say(self, reason: str) -> None:
        """Log what is wrong with the challenger, once, and not without end."""
        if reason not in self._said and len(self._said) < _MOST_REASONS:
            self._said.add(reason)
            logger.warning("%s %s: %s", self._role, self.address, reason)
