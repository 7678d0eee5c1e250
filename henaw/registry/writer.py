"""The thread that writes a run to the tracking store, so that whoever logs never waits for it.

All that is logged goes into a spool on this machine first. The thread writes from there every few seconds, in order;
while the store is away it comes back to it after pauses (``breaker``), and what is left at the end of a run stays in
the spool: the next run writes it, or ``henaw runs replay``.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from mlflow import MlflowClient

from henaw.errors import EnvironmentProblem
from henaw.registry.breaker import Away, Breaker
from henaw.registry.delivery import Delivery, is_away, is_refusal
from henaw.registry.spool import Entry, Spool

logger = logging.getLogger(__name__)

T = TypeVar("T")

EVERY_SECONDS = 3.0  # between two visits to the store
PATIENCE_SECONDS = 5.0  # how long a failing store is waited for where something has to be written now


def send(delivery: Delivery, spool: Spool, entries: Sequence[Entry]) -> set[int]:
    """Write ``entries`` and strike them off; returns the numbers of those that the store will never take."""
    try:
        delivery.write(entries)
    except Exception as error:
        if not is_refusal(error):
            raise
        if len(entries) > 1:  # find out which
            return set().union(*(send(delivery, spool, [entry]) for entry in entries))
        reason = str(getattr(error, "error_code", type(error).__name__))
        logger.error("the tracking store refuses an entry (%s); it is kept in %s", reason, spool.folder)
        spool.keep_refused(entries[0], reason)
        spool.done(entries)
        return {entries[0]["n"]}
    spool.done(entries)
    return set()


def sending(spool: Spool, client: MlflowClient) -> Iterator[Callable[[], set[int]]]:
    """Calls that write all that is in ``spool``, one after the other; one that failed comes again."""
    delivery = Delivery(spool, client)
    while entries := delivery.next_entries():
        yield partial(send, delivery, spool, entries)


class Writer:
    """Writes what is put into its spool and, when there is nothing to do, what other runs left behind."""

    def __init__(self, spool: Spool, client: MlflowClient, left_behind: Callable[[], list[Path]]) -> None:
        """Begin to write ``spool``; ``left_behind`` names the folders of other spools for the same store."""
        self.spool, self.breaker = spool, Breaker()
        self.refused: set[int] = set()
        self._client, self._left_behind = client, left_behind
        self._wake, self._stop = threading.Event(), threading.Event()
        self._failures = 0
        self._away_since: float | None = None
        self._thread = threading.Thread(target=self._work, name="henaw-tracking", daemon=True)
        self._thread.start()

    def put(self, entry: Entry) -> int:
        """Have ``entry`` written soon; returns its number."""
        return self.spool.append(entry)

    def call(self, what: Callable[[], T]) -> T:
        """What ``what`` returns, which asks the store.

        Raises:
            Away: the store does not answer, or did not a moment ago.
        """
        return self.breaker.call(what, is_away)

    def drain(self) -> bool:
        """Wait until all is written; False where the store is away, and stays so for some seconds."""
        failures, began = self._failures, time.monotonic()
        self.breaker.try_now()
        while self.spool.pending and self._thread.is_alive():
            failing = self.breaker.failures > 0 and self._failures > failures
            if failing and time.monotonic() - began > PATIENCE_SECONDS:
                return False
            self._wake.set()
            time.sleep(0.005)
        return not self.spool.pending

    def close(self) -> bool:
        """Write what can be written, and stop; whether nothing is left."""
        try:
            return self.drain()
        finally:
            self._stop.set()
            self._wake.set()
            self._thread.join()
            self.spool.sync()
            self.spool.close()

    def _work(self) -> None:
        own, others = Delivery(self.spool, self._client), self._sending_others()
        while not self._stop.is_set():
            self._wake.wait(max(EVERY_SECONDS, self.breaker.pause))
            self._wake.clear()
            if self.breaker.pause == 0:
                self._visit(own, others)
        others.close()

    def _visit(self, own: Delivery, others: Iterator[Callable[[], set[int]]]) -> None:
        """Write all there is, this run's first."""
        try:
            while True:
                if entries := own.next_entries():
                    self.refused |= self._ask(partial(send, own, self.spool, entries))
                elif self._stop.is_set() or (call := next(others, None)) is None:
                    return
                else:
                    self._ask(call)
        except Away as away:
            self._failures += 1
            self.spool.sync()
            if self._away_since is None:
                self._away_since = time.monotonic()
                logger.warning("the tracking store is away (%s); what is logged is kept in %s", away, self.spool.folder)
                logger.debug("because of", exc_info=True)

    def _ask(self, call: Callable[[], set[int]]) -> set[int]:
        refused = self.breaker.call(call, lambda _: True)  # whatever it is: nothing here may stop what is being logged
        if self._away_since is not None:
            logger.warning("the tracking store is back after %.0f s", time.monotonic() - self._away_since)
            self._away_since = None
        return refused

    def _sending_others(self) -> Generator[Callable[[], set[int]]]:
        for folder in self._left_behind():
            try:
                spool = Spool(folder)
            except EnvironmentProblem:  # its process is alive
                continue
            try:
                yield from sending(spool, self._client)
            finally:
                spool.close()
