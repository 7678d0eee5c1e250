"""The work of a step on the device: losses of people, and the gradient of their mean."""

from __future__ import annotations

from torch import Tensor

from henaw.model.losses import Loss
from henaw.model.network import EnsembleNetwork
from henaw.training.batches import Batch


def add_gradient(network: EnsembleNetwork, loss: Loss, piece: Batch, people: int) -> Tensor:
    """Add the gradient of ``piece``'s part of the mean loss of a batch of ``people`` to each parameter's.

    Members share nothing, so the gradient of their sum is each member's own.

    Returns:
        That part of the mean, of each member (K,).
    """
    each = loss(network(piece.inputs), piece.targets)
    each.backward(each.new_full((), 1 / people).expand_as(each))
    return each.detach().sum(dim=1).div_(people)
