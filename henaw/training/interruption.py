"""Ctrl-C and SIGTERM while training: the step in hand is finished and saved before they take effect."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption:
    """The signal that asks training to stop, once one has arrived."""

    signal_number: int | None = None

    def __bool__(self) -> bool:
        """Whether training is to stop at the next step."""
        return self.signal_number is not None


@contextmanager
def signals_deferred() -> Iterator[Interruption]:
    """Hold SIGINT and SIGTERM back for the block; the one that came first is delivered when the block ends.

    A second Ctrl-C is not held back. A SIGTERM after a Ctrl-C is the same wish: ``mlflow run`` passes a Ctrl-C on so.
    Signals that the process ignores stay ignored. Outside the main thread, where handlers cannot be set, none is held.
    """
    interruption = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield interruption
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    held = [number for number in _SIGNALS if before[number] not in (signal.SIG_IGN, None)]

    def hold(number: int, _: FrameType | None) -> None:
        if number == signal.SIGINT and interruption.signal_number == signal.SIGINT:
            raise KeyboardInterrupt
        if interruption.signal_number is None:
            interruption.signal_number = number

    for number in held:
        signal.signal(number, hold)
    try:
        yield interruption
    finally:
        for number in held:
            signal.signal(number, before[number])
    if interruption.signal_number is not None:
        signal.raise_signal(interruption.signal_number)
        raise KeyboardInterrupt  # its own handler let it pass, and training is not complete
