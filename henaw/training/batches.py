"""Batches of an epoch: every member sees every person exactly once, in an order and behind masks of its own.

What a batch holds is a pure function of seed, epoch and the batch's place in the epoch, so training may stop and go on
anywhere. It is drawn on the host as a whole, and computed on the device in pieces of any size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from henaw.data.sampling import AgeSampler, Place
from henaw.data.sampling import age_groups as decades
from henaw.settings import AgeGroups

Order = Callable[[int], Tensor]
"""From an epoch to the people each member meets in turn, (K, n) row numbers; the same whenever asked."""


@dataclass(frozen=True)
class TrainingData:
    """People as tensors on the training device.

    Attributes:
        scaled: scaled features, 0 where missing, (n, p).
        present: presence bits, (n, p).
        always: inputs that are never hidden: sex and, if the clock reads it, age, (n, 1 or 2).
        targets: what the loss needs; chronological age comes first, (n, c).
        dependence: which features each marker enters, (m, p).
    """

    scaled: Tensor
    present: Tensor
    always: Tensor
    targets: Tensor
    dependence: Tensor

    def __len__(self) -> int:
        """Number of people."""
        return len(self.targets)

    def inputs(self, rows: slice) -> Tensor:
        """Inputs of ``rows`` with nothing hidden, (B, d)."""
        return torch.cat([self.scaled[rows], self.present[rows], self.always[rows]], dim=-1)


@dataclass(frozen=True)
class Disturbance:
    """What training adds to the inputs of a batch, anew in each step and for each member.

    Attributes:
        mask_rate: probability that a marker is hidden, and the features it enters with it.
        noise: standard deviation of Gaussian noise on the scaled features that are present.
    """

    mask_rate: float
    noise: float


@dataclass(frozen=True)
class Batch:
    """Inputs (K, B, d) and targets (K, B, c) on the device: a batch or a piece of one."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True)
class LogicalBatch:
    """All that was drawn for one step: people where their data is, noise and masks on the host.

    Attributes:
        data: the people.
        rows: who, for each member, (K, B).
        noise: added to the scaled features, (K, B, p); None = nothing.
        hidden: which markers are hidden, (K, B, m); None = none.
    """

    data: TrainingData
    rows: Tensor
    noise: Tensor | None
    hidden: Tensor | None

    def __len__(self) -> int:
        """People a member meets in it."""
        return self.rows.shape[1]

    def split(self, size: int) -> Iterator[Batch]:
        """The batch on the device in pieces of ``size`` people of each member; the last may be smaller."""
        data, device = self.data, self.data.targets.device
        for start in range(0, len(self), size):
            piece = slice(start, start + size)
            rows = self.rows[:, piece].to(device)
            scaled, present = data.scaled[rows], data.present[rows]
            if self.noise is not None:
                scaled = scaled + self.noise[:, piece].to(device)
            if self.hidden is not None:
                present = present * (self.hidden[:, piece].to(device, present.dtype) @ data.dependence < 0.5)
            inputs = torch.cat([scaled * present, present, data.always[rows]], dim=-1)
            yield Batch(inputs, data.targets[rows])


def stream(seed: int, purpose: str, *place: int) -> int:
    """Seed of a stream of random numbers of its own for ``purpose`` at ``place``, e.g. an epoch and a batch."""
    text = ":".join([str(seed), purpose, *map(str, place)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest())


def ordered(ages: Tensor, members: int, batch_size: int, age_groups: AgeGroups, seed: int) -> Order:
    """For each member an order of its own of the people of ``ages`` (n,) in years, on their device.

    ``proportional``: everybody once an epoch, and in every batch each age group's share of the people, rounded up or
    down. ``even``: as many of each group in every batch, drawn with replacement.
    """
    groups = decades(ages.cpu()).to(ages.device)
    return AgeSampler(groups, members, batch_size, Place(seed), even=age_groups == "even").epoch


def epoch_batches(
    data: TrainingData, order: Tensor, batch_size: int, disturbance: Disturbance, seed: int, epoch: int, first: int = 0
) -> Iterator[LogicalBatch]:
    """The batches of ``epoch`` from number ``first`` on, people in ``order`` (K, n).

    Random numbers are drawn on the host, so an epoch is the same on every device.
    """
    features, markers = data.scaled.shape[1], data.dependence.shape[0]
    generator = torch.Generator()
    for number, rows in enumerate(order.split(batch_size, dim=1)):
        if number < first:
            continue
        generator.manual_seed(stream(seed, "disturbance", epoch, number))
        noise = hidden = None
        if disturbance.noise > 0:
            noise = torch.randn(*rows.shape, features, generator=generator).mul_(disturbance.noise)
        if disturbance.mask_rate > 0:
            hidden = torch.rand(*rows.shape, markers, generator=generator) < disturbance.mask_rate
        yield LogicalBatch(data, rows, noise, hidden)
