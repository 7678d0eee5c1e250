"""Memory that runs out: what was attempted is undone and done again, whole, with half the rows at a time."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import torch

from henaw.training.failures import MemoryExhausted, is_out_of_memory
from henaw.training.telemetry import Events, OutOfMemory

T = TypeVar("T")


class Place(NamedTuple):
    """Where training stands, for events and messages; steps are those committed."""

    phase: str
    epoch: int
    step: int


class Halving:
    """Does work in pieces of ``rows`` rows at most, and halves ``rows`` for good whenever memory runs out."""

    def __init__(self, rows: int, events: Events) -> None:
        """Begin with ``rows`` at a time."""
        self.rows, self.events = rows, events

    def do(self, batch: int, work: Callable[[int], T], undo: Callable[[], object], place: Place) -> T:
        """What ``work`` returns for a size of pieces that fits into memory.

        Args:
            batch: rows in all.
            work: does all of it in pieces of as many rows as it is handed.
            undo: brings back the state before ``work``, without needing memory for it.
            place: where this is, for the events.

        Raises:
            MemoryExhausted: a single row at a time is too much.
        """
        tried: list[int] = []
        while True:
            rows, started = min(self.rows, batch), time.perf_counter()
            try:
                return work(rows)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
            # outside the except block: the traceback, and with it the failed attempt's tensors, are gone
            tried.append(rows)
            event = _event(place, rows, time.perf_counter() - started)
            undo()
            release_memory()
            self.events.on_out_of_memory(event)
            if rows == 1:
                raise MemoryExhausted(event, batch, tried)
            self.rows = event.to_rows


def set_up(make: Callable[[], T], events: Events) -> T:
    """What ``make`` returns, of which there is no half.

    Raises:
        MemoryExhausted: it does not fit into memory.
    """
    return Halving(1, events).do(1, lambda _: make(), lambda: None, Place("set-up", 0, 0))


def _event(place: Place, rows: int, seconds: float) -> OutOfMemory:
    allocated, reserved, peak = device_memory()
    return OutOfMemory(*place, rows, rows // 2, allocated, reserved, peak, seconds)


def device_memory() -> tuple[int, int, int]:
    """Bytes of the GPU that are allocated, reserved, and were allocated at the peak; 0 without one."""
    if not torch.cuda.is_available():
        return 0, 0, 0
    return torch.cuda.memory_allocated(), torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()


def release_memory() -> None:
    """Give back what nothing refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
