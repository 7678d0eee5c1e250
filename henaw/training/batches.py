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
        always: inputs that are never hidden: sex and, if the clock reads it, age, (n, 1 or 2).
        targets: what the loss needs; chronological age comes first, (n, c).
        weights: how much each counts in the loss, mean 1, (n,).
        dependence: which features each marker enters, (m, p).
    """

    scaled: Tensor
    present: Tensor
    always: Tensor
    targets: Tensor
    weights: Tensor
    dependence: Tensor

    def __len__(self) -> int:
        """Number of people."""
        return len(self.targets)


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
    """Inputs (K, B, d), targets (K, B, c) and weights (K, B) of one step."""

    inputs: Tensor
    targets: Tensor
    weights: Tensor


def epoch_batches(
    data: TrainingData, members: int, batch_size: int, disturbance: Disturbance, generator: torch.Generator
) -> Iterator[Batch]:
    """The batches of one epoch.

    Each member has its own permutation of the people. Random numbers come from ``generator`` (host) alone, so an
    epoch is the same on every device.
    """
    device = data.targets.device
    order = torch.stack([torch.randperm(len(data), generator=generator) for _ in range(members)]).to(device)
    markers = data.dependence.shape[0]
    for rows in order.split(batch_size, dim=1):
        scaled, present = data.scaled[rows], data.present[rows]
        if disturbance.noise > 0:
            scaled = scaled + disturbance.noise * torch.randn(scaled.shape, generator=generator).to(device)
        if disturbance.mask_rate > 0:
            hidden = torch.rand(*rows.shape, markers, generator=generator) < disturbance.mask_rate
            present = present * (hidden.to(device, present.dtype) @ data.dependence < 0.5)
        inputs = torch.cat([scaled * present, present, data.always[rows]], dim=-1)
        yield Batch(inputs, data.targets[rows], data.weights[rows])


def all_inputs(data: TrainingData) -> Tensor:
    """Inputs of everybody with nothing hidden, (n, d)."""
    return torch.cat([data.scaled, data.present, data.always], dim=-1)
