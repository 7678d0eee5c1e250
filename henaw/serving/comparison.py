"""Champion and challenger in production: who answers a request, and what may be counted of it."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from henaw.errors import trace_without_text
from henaw.serving.asgi import Request
from henaw.serving.challenger import Follower, unlike
from henaw.serving.csv_rows import Scored
from henaw.serving.ledger import FLUSH_SECONDS, Ledger, Subject
from henaw.serving.lifecycle import Load, Served, unhindered
from henaw.serving.metrics import Metrics
from henaw.serving.plan import Plan
from henaw.serving.refusals import Refusal
from henaw.serving.shadow import Shadow
from henaw.serving.tallies import Tally

logger = logging.getLogger(__name__)

CHAMPION, CHALLENGER = "champion", "challenger"
_NOBODY = nullcontext()  # nobody compares
_ID = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,127}")


def in_challenger(request_id: bytes, share: float) -> bool:
    """Whether an id is among the ``share`` that the challenger answers.

    The same for every process and day; who is in a share stays in every larger one.
    """
    digest = hashlib.blake2b(request_id, digest_size=8, person=b"henaw-split").digest()
    return int.from_bytes(digest) < share * 2**64


def arm_id(request: Request) -> bytes:
    """What decides on the arm: the caller's ``X-Request-Id`` where it is one, else ours. It is written nowhere."""
    sent = request.headers.get(b"x-request-id", b"")
    return sent if _ID.fullmatch(sent) else request.id.encode()


@dataclass
class Arm:
    """Who answers a request.

    Attributes:
        served: the version.
        champion: the one to fall back on, and to be compared with.
        subject: what it counts for, None where nobody compares.
    """

    served: Served
    champion: Served
    subject: Subject | None = None


class Comparison:
    """What ``--split`` and ``--shadow`` do; nothing where neither is asked for."""

    def __init__(
        self, plan: Plan, state: Path, figures: Metrics, find: Callable[[str], Load], reload_seconds: float
    ) -> None:
        """``find`` makes what loads the version of an address; files of sums go below ``state``."""
        self._plan, self._figures, self._reload_seconds = plan, figures, reload_seconds
        self._failed = figures.challenger_failures.labels("load").inc
        self._find, self._ledger = find, Ledger(state)
        self._follower = None if plan.split is None else Follower("split", plan.split, find(plan.split), self._failed)
        self._shadow = None
        if plan.shadow is not None:
            self._shadow = Shadow(plan.shadow, plan.shadow_share, state, reload_seconds, figures)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, champion: Served) -> None:
        """Find the challengers.

        Raises:
            BadInput: one that cannot be meant.
        """
        if self._follower is not None:
            await unhindered(self._follower.require, champion)
            self._tasks = [asyncio.create_task(self._follow()), asyncio.create_task(self._flush())]
        if self._shadow is not None and self._plan.shadow is not None:
            if self._plan.shadow != self._plan.split:  # loaded once to see that it can be; the shadow has its own
                once = Follower("shadow", self._plan.shadow, self._find(self._plan.shadow), self._failed)
                await unhindered(once.require, champion)
            self._shadow.start()

    async def stop(self) -> None:
        """Write what is left, and end the shadow."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._follower is not None:
            await asyncio.to_thread(self._write)
        if self._shadow is not None:
            await asyncio.to_thread(self._shadow.stop)

    async def _follow(self) -> None:
        assert self._follower is not None
        while self._reload_seconds:
            await asyncio.sleep(self._reload_seconds)
            await unhindered(self._follower.refresh)

    async def _flush(self) -> None:
        while True:
            await asyncio.sleep(FLUSH_SECONDS)
            await asyncio.to_thread(self._write)

    def _write(self) -> None:
        if not self._ledger.flush()[1]:
            self._figures.comparison_lost.inc()

    def arm(self, request: Request, champion: Served) -> Arm:
        """Who answers ``request``."""
        if self._follower is None:
            return Arm(champion, champion)
        challenger = self._follower.served
        if challenger is None:
            return Arm(champion, champion)
        if reason := unlike(champion, challenger):
            self._follower.say(f"{reason}; the champion answers all")
            return Arm(champion, champion)
        drawn = in_challenger(arm_id(request), self._plan.split_share)
        subject = Subject("split", champion.label, challenger.label, CHALLENGER if drawn else CHAMPION)
        return Arm(challenger if drawn else champion, champion, subject)

    def fall_back(self, arm: Arm, request: Request, error: Exception) -> None:
        """The challenger raised: the champion answers instead, and it is counted.

        Raises:
            Exception: ``error``, where it is the champion that raised, or what was asked cannot be answered by anyone.
        """
        if isinstance(error, Refusal) or arm.served is arm.champion:
            raise error
        self._figures.challenger_failures.labels("answer").inc()
        assert self._follower is not None
        self._follower.say(f"raised {trace_without_text(error)}; the champion answered instead")
        self._count(arm, lambda tally: tally.counts.update(["failed"]))
        arm.served, arm.subject = arm.champion, None
        request.model = arm.served.label

    def watching(self, arm: Arm) -> AbstractContextManager[None]:
        """Count what is not answered though it should be."""
        return _NOBODY if arm.subject is None else self._watching(arm)

    @contextmanager
    def _watching(self, arm: Arm) -> Iterator[None]:
        try:
            yield
        except Refusal as refusal:
            if refusal.status >= 500:
                self._unanswered(arm)
            raise
        except Exception:
            self._unanswered(arm)
            raise

    def answered(self, arm: Arm, request: Request, csv: bool, body: bytes, scored: Scored, began: float) -> None:
        """Count an answer, and have the shadow answer as well."""
        seconds = perf_counter() - began
        role = CHALLENGER if arm.served is not arm.champion else CHAMPION
        self._figures.answered_by(role, arm.served.label)

        def change(tally: Tally) -> None:
            tally.requests += 1
            tally.add_status(scored.status)
            tally.add_years("gap", scored.gaps())
            tally.add_seconds("answer", seconds)

        self._count(arm, change)
        if self._shadow is not None and role == CHAMPION:
            self._shadow.offer(request.id, arm.served, csv, body, scored.body, seconds)

    def _unanswered(self, arm: Arm) -> None:
        self._count(arm, lambda tally: tally.counts.update(["unanswered"]))

    def _count(self, arm: Arm, change: Callable[[Tally], None]) -> None:
        if arm.subject is not None:
            self._ledger.add(arm.subject, change)
