"""Named events of a training run: the loop emits them and knows nothing of who listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class OutOfMemory:
    """One out-of-memory event: where it happened and what was being tried."""

    phase: str
    epoch: int
    step: int
    batch_size: int
    allocated_bytes: int


class Events:
    """Listener that ignores everything; a listener overrides what it cares about."""

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Training starts; at most ``epochs`` epochs will follow."""

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        """Step ``step`` (counted from 0 over all epochs) has changed the parameters."""

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        """Memory ran out; the run is about to end with an error."""

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Epoch ``epoch`` (from 0) is over, validation included."""

    def on_train_end(self) -> None:
        """Training is over, be it by success, early stopping or an error."""


class Listeners(Events):
    """Passes every event on to several listeners, in order."""

    def __init__(self, listeners: Sequence[Events]) -> None:
        """Listen with ``listeners``."""
        self.listeners = tuple(listeners)

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_train_begin(epochs, steps_per_epoch)

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_step_committed(step, metrics)

    def on_out_of_memory(self, event: OutOfMemory) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_out_of_memory(event)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_epoch_end(epoch, metrics)

    def on_train_end(self) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_train_end()
