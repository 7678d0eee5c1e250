"""The work of a step on the device up to the optimizer's, and, on a GPU, that work as a single launch.

A step of small networks is some hundred short programs, and a GPU does them faster than they can be sent to it one by
one. A CUDA graph records them once and sends them as a whole: the same programs on the same memory, hence the same
numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from henaw.settings import Training
from henaw.training.batches import LogicalBatch
from henaw.training.clipping import clip_members
from henaw.training.gradients import Gradients
from henaw.training.microbatch import release_memory
from henaw.training.share import Share
from henaw.training.transaction import Transaction

logger = logging.getLogger(__name__)


class Work:
    """Leaves each parameter the clipped gradient of a batch; before it they have none."""

    def __init__(
        self,
        gradients: Gradients,
        parameters: Sequence[Tensor],
        limit: float,
        share: Share,
        transaction: Transaction,
    ) -> None:
        """Clip the ``gradients`` of ``parameters`` to ``limit`` for each member, as part of ``transaction``."""
        self.parameters = parameters
        self._gradients, self._limit, self._share, self._transaction = gradients, limit, share, transaction

    def __call__(self, batch: LogicalBatch, rows: int) -> Tensor:
        """Do it in pieces of ``rows`` people of each member.

        Returns:
            Losses by part, then squared gradient norms before clipping by parameter, of this process's members K:
            (parts + parameters, K).
        """
        losses = self._share.summed(self._gradients.of(batch, rows), self.parameters)
        self._transaction.keep()
        return torch.cat([losses, clip_members(self.parameters, self._limit)])

    def release(self) -> None:
        """Give back what memory it keeps from one batch to the next."""

    def undo(self) -> None:
        """Undo the step, be it with the optimizer's part, and give back that memory: it may be what was missing."""
        self._transaction.undo()
        self.release()


def step_work(
    gradients: Gradients,
    parameters: Sequence[Tensor],
    settings: Training,
    share: Share,
    transaction: Transaction,
) -> Work:
    """The work of a step of ``settings`` (without ``auto``), recorded where that is wanted and possible."""
    on_gpu = parameters[0].device.type == "cuda"
    recorded = settings.compiled != "never" and on_gpu and not share.sums_gradients
    kind = Recorded if recorded else Work
    return kind(gradients, parameters, settings.clip_norm, share, transaction)


class Recorded(Work):
    """Does the work of the first batch as it comes, records that of the second, and from then on replays it.

    So for batches as large as the largest so far. Smaller ones, such as an epoch's last, are always done as they come.
    Pieces of another size than before are a new beginning. Where recording fails, also for lack of memory, nothing is
    recorded any more.
    """

    _people = _rows = 0
    _recording: _Recording | None = None
    _possible = True

    def __call__(self, batch: LogicalBatch, rows: int) -> Tensor:
        """Do it in pieces of ``rows`` people of each member."""
        if len(batch) > self._people:  # also where a run goes on with an epoch's last batch
            self.release()
            self._people = len(batch)
        if not self._possible or len(batch) < self._people:
            return super().__call__(batch, rows)
        if rows != self._rows:  # what runs for the first time may still ask for memory that a recording cannot
            self.release()
            self._rows = rows
            return super().__call__(batch, rows)
        if self._recording is None:
            self._record(batch, rows)
        return self._recording.replay(batch) if self._recording else super().__call__(batch, rows)

    def release(self) -> None:
        """Forget what is recorded; it will be again."""
        self._recording, self._rows = None, 0

    def _record(self, batch: LogicalBatch, rows: int) -> None:
        try:
            self._recording = _Recording(super().__call__, self.parameters, batch, rows)
            return
        except RuntimeError as error:
            logger.warning("training.compiled: no CUDA graph here (%s), goes on without", type(error).__name__)
        self._possible = False  # outside the except block: the traceback, and with it what was recorded, is gone
        for parameter in self.parameters:
            parameter.grad = None
        release_memory()


class _Recording:
    """A CUDA graph, and the places that it reads from and writes to."""

    def __init__(
        self, work: Callable[[LogicalBatch, int], Tensor], parameters: Sequence[Tensor], batch: LogicalBatch, rows: int
    ) -> None:
        device = batch.rows.device
        self._people, self._stream = batch.rows.clone(), torch.tensor(batch.stream, device=device)
        self._graph, self._parameters = torch.cuda.CUDAGraph(), parameters
        placed = batch.placed(self._people, self._stream)
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._found = work(placed, rows)
        self._gradients = [parameter.grad for parameter in parameters]

    def replay(self, batch: LogicalBatch) -> Tensor:
        self._people.copy_(batch.rows)
        self._stream.fill_(batch.stream)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._found
