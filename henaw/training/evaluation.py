"""The loss that chooses each member's epoch."""

from __future__ import annotations

import torch
from torch import Tensor

from henaw.model.losses import Loss
from henaw.model.network import EnsembleNetwork
from henaw.training.batches import TrainingData
from henaw.training.gradients import losses_of


@torch.no_grad()
def evaluate_members(network: EnsembleNetwork, loss: Loss, data: TrainingData, rows: int) -> Tensor:
    """Mean loss of each member on ``data`` with nothing hidden, ``rows`` people at a time, shape (K,)."""
    network.eval()
    members = network.shape.members
    total = data.targets.new_zeros(members)
    for start in range(0, len(data), rows):
        part = slice(start, start + rows)
        inputs = data.inputs(part).expand(members, -1, -1)
        total += losses_of(network, loss, inputs, data.targets[part]).sum(dim=1)
    return total / len(data)
