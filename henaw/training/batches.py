"""Batches of an epoch: every member sees every person exactly once, in an order and behind masks of its own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TrainingData:
    """People as tensors on the training device.

    Attributes:
        scaled: scaled features, 0 where missing, (n, p).
        present: presence bits, (n, p).
        sex: 0 female, 1 male, (n, 1).
        age: chronological age in years, (n,).
        dependence: which features each marker enters, (m, p).
    """

    scaled: Tensor
    present: Tensor
    sex: Tensor
    age: Tensor
    dependence: Tensor

    def __len__(self) -> int:
        """Number of people."""
        return len(self.age)


@dataclass(frozen=True)
class Batch:
    """Inputs (K, B, 2p + 1) and ages (K, B) of one step."""

    inputs: Tensor
    age: Tensor


def epoch_batches(
    data: TrainingData, members: int, batch_size: int, mask_rate: float, generator: torch.Generator
) -> Iterator[Batch]:
    """The batches of one epoch.

    Each member has its own permutation of the people. A marker is hidden with probability ``mask_rate`` and takes the
    features it enters with it. Random numbers come from ``generator`` (host) alone, so an epoch is the same on every
    device.
    """
    device = data.age.device
    order = torch.stack([torch.randperm(len(data), generator=generator) for _ in range(members)]).to(device)
    markers = data.dependence.shape[0]
    for rows in order.split(batch_size, dim=1):
        present = data.present[rows]
        if mask_rate > 0:
            hidden = (torch.rand(*rows.shape, markers, generator=generator) < mask_rate).to(device)
            present = present * (hidden.to(present.dtype) @ data.dependence < 0.5)
        inputs = torch.cat([data.scaled[rows] * present, present, data.sex[rows]], dim=-1)
        yield Batch(inputs, data.age[rows])


def all_inputs(data: TrainingData) -> Tensor:
    """Inputs of everybody with nothing hidden, (n, 2p + 1)."""
    return torch.cat([data.scaled, data.present, data.sex], dim=-1)
