"""Named events of a training run: the loop emits them and knows nothing of who listens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class OutOfMemory:
    """Memory ran out once: where, from how many rows at a time to how many, and what was in use on the device.

    Attributes:
        phase: set-up, order (of an epoch), training or validation.
        epoch, step: where; steps are those committed before.
        from_rows: rows of each member that went through the device at once; of an order, members whose order did.
        to_rows: what is tried next, 0 where that was a single one: the run is about to end with an error.
        allocated_bytes, reserved_bytes, peak_bytes: device memory at that moment; 0 on the CPU.
        seconds: time that the undone attempt took.
    """

    phase: str
    epoch: int
    step: int
    from_rows: int
    to_rows: int
    allocated_bytes: int
    reserved_bytes: int
    peak_bytes: int
    seconds: float


class Events:
    """Listener that ignores everything; a listener overrides what it cares about."""

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Training starts, or goes on; it ends after epoch ``epochs`` at the latest."""

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        """Batch ``batch`` (from 0) of an epoch comes next."""

    def on_grad_computed(self, step: int, metrics: dict[str, float]) -> None:
        """The gradient for step ``step`` is there, clipped; comes again for a step that has to be done again."""

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        """Step ``step`` (counted from 0 over all epochs) has changed the parameters."""

    def on_step_skipped(self, epoch: int, batch: int, in_a_row: int) -> None:
        """Loss or gradient of a batch was not finite: nothing has changed."""

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        """Memory ran out; what was attempted is undone and comes again with fewer rows at a time, if there are any."""

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Epoch ``epoch`` (from 0) is over, validation included; may come again for an epoch that is done again."""

    def on_stopped(self, epoch: int, batch: int) -> None:
        """Ctrl-C or SIGTERM: training stops before batch ``batch`` of ``epoch``; what was done is saved."""

    def on_train_end(self) -> None:
        """Training is over, be it by success, early stopping, a signal or an error."""


class Listeners(Events):
    """Passes every event on to several listeners, in order."""

    def __init__(self, listeners: Sequence[Events]) -> None:
        """Listen with ``listeners``."""
        self.listeners = tuple(listeners)

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_train_begin(epochs, steps_per_epoch)

    def on_batch_begin(self, epoch: int, batch: int) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_batch_begin(epoch, batch)

    def on_grad_computed(self, step: int, metrics: dict[str, float]) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_grad_computed(step, metrics)

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_step_committed(step, metrics)

    def on_step_skipped(self, epoch: int, batch: int, in_a_row: int) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_step_skipped(epoch, batch, in_a_row)

    def on_out_of_memory(self, event: OutOfMemory) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_out_of_memory(event)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_epoch_end(epoch, metrics)

    def on_stopped(self, epoch: int, batch: int) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_stopped(epoch, batch)

    def on_train_end(self) -> None:  # noqa: D102
        for listener in self.listeners:
            listener.on_train_end()
