"""The work of a step on the device up to the clipped gradient, and, on a GPU, that work as a single launch.

A step of small networks is some hundred short programs, and a GPU does them faster than they can be sent to it one by
one. A CUDA graph records them once and sends them as a whole: the same programs on the same memory, hence the same
numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from henaw.settings import Training
from henaw.training.batches import LogicalBatch
from henaw.training.clipping import clip_members
from henaw.training.gradients import Gradients
from henaw.training.share import Share

logger = logging.getLogger(__name__)

Found = tuple[Tensor, Tensor]
"""Losses (parts, K) and squared gradient norms before clipping (parameters, K) of this process's members."""


class Work(Protocol):
    """Leaves each parameter the clipped gradient of a batch in pieces of some rows; before it they have none."""

    def __call__(self, batch: LogicalBatch, rows: int) -> Found:
        """Do it."""


def step_work(gradients: Gradients, parameters: Sequence[Tensor], settings: Training, share: Share) -> Work:
    """The work of a step of ``settings`` (without ``auto``), recorded where that is wanted and possible."""
    plain = _Plain(gradients, parameters, settings.clip_norm, share)
    on_gpu = parameters[0].device.type == "cuda"
    if settings.compiled == "never" or not on_gpu or share.sums_gradients:
        return plain
    return Recorded(plain, parameters, settings.people_in_batch)


class _Plain:
    def __init__(self, gradients: Gradients, parameters: Sequence[Tensor], limit: float, share: Share) -> None:
        self._gradients, self._parameters, self._limit, self._share = gradients, parameters, limit, share

    def __call__(self, batch: LogicalBatch, rows: int) -> Found:
        losses = self._share.summed(self._gradients.of(batch, rows), self._parameters)
        return losses, clip_members(self._parameters, self._limit)


class Recorded:
    """Does the work of the first full batch as it comes, records that of the second, and from then on replays it.

    Batches of another size, such as an epoch's last one, are always done as they come. Pieces of another size than
    before are a new beginning. Where recording fails, also for lack of memory, nothing is recorded any more.
    """

    def __init__(self, work: Work, parameters: Sequence[Tensor], people: int) -> None:
        """Record ``work`` on batches of ``people``, which leaves gradients to ``parameters``."""
        self._work, self._parameters, self._people = work, parameters, people
        self._rows = 0
        self._recording: _Recording | None = None
        self._possible = True

    def __call__(self, batch: LogicalBatch, rows: int) -> Found:
        """Do it, as ``Work``."""
        if not self._possible or len(batch) != self._people:
            return self._work(batch, rows)
        if rows != self._rows:  # what runs for the first time may still ask for memory that a recording cannot
            self._rows, self._recording = rows, None
            return self._work(batch, rows)
        if self._recording is None:
            try:
                self._recording = _Recording(self._work, self._parameters, batch, rows)
            except RuntimeError as error:
                logger.warning("training.compiled: no CUDA graph here (%s), goes on without", type(error).__name__)
                self._possible = False
                _forget(self._parameters)
                return self._work(batch, rows)
        return self._recording.replay(batch)


class _Recording:
    """A CUDA graph, and the places that it reads from and writes to."""

    def __init__(self, work: Work, parameters: Sequence[Tensor], batch: LogicalBatch, rows: int) -> None:
        device = batch.rows.device
        self._people, self._stream = batch.rows.clone(), torch.tensor(batch.stream, device=device)
        self._graph, self._parameters = torch.cuda.CUDAGraph(), parameters
        placed = batch.placed(self._people, self._stream)
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._found = work(placed, rows)
        self._gradients = [parameter.grad for parameter in parameters]

    def replay(self, batch: LogicalBatch) -> Found:
        self._people.copy_(batch.rows)
        self._stream.fill_(batch.stream)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._found


def _forget(parameters: Sequence[Tensor]) -> None:
    for parameter in parameters:
        parameter.grad = None
