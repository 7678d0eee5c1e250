"""The work of a step on the device: losses of people, and the gradient of their mean."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from henaw.model.losses import Loss, in_parts, part_names
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import Batch, LogicalBatch

logger = logging.getLogger(__name__)

LANES = 32  # numbers that a CPU's vector instructions take at once, or a multiple of that


def losses_of(network: EnsembleNetwork, loss: Loss, inputs: Tensor, targets: Tensor) -> Tensor:
    """Losses (…, K, B) of people with ``inputs`` (K, B, d) and ``targets`` ((K,) B, c).

    Nobodies fill them up to a multiple of ``LANES`` on the way: what is left over at the end of a vector is computed by
    other instructions, and a member's last digits would depend on who comes after it.
    """
    people = inputs.shape[1]
    missing = -people % LANES
    filled = (functional.pad(values, (0, 0, 0, missing)) if missing else values for values in (inputs, targets))
    return loss(network(next(filled)), next(filled))[..., :people]


class Gradients:
    """Adds up gradients of a network's loss; ``settings`` say in which precision, and whether by compiled code."""

    def __init__(self, network: EnsembleNetwork, loss: Loss, settings: Training) -> None:
        """Train ``network`` by ``loss``; ``settings`` without ``auto``."""
        network.precision = torch.bfloat16 if settings.precision == "bf16" else None
        if network.precision:  # sums of products stay in float32 on a GPU too, also where it splits them
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        self.parts = part_names(loss)
        self._network, self._loss = network, in_parts(loss)
        self._compiled: Callable[[Tensor, Tensor], Tensor] | None = None
        self._compiled_for = settings.people_in_batch
        if settings.compiled == "always":
            self._compiled = torch.compile(self._losses, dynamic=False)

    def of(self, batch: LogicalBatch, rows: int) -> Tensor:
        """Mean loss of each member over ``batch``, its gradient added up from pieces of ``rows`` people.

        Returns:
            The loss by parts, (parts, K): one where it has none.
        """
        losses = batch.data.targets.new_zeros(max(1, len(self.parts)), len(batch.rows))
        for piece in batch.split(rows):
            losses += self.add(piece, len(batch))
        return losses

    def add(self, piece: Batch, people: int) -> Tensor:
        """Add the gradient of ``piece``'s part of the mean loss of a batch of ``people`` to each parameter's.

        Members share nothing, so the gradient of their sum is each member's own. Pieces of another size than a full
        batch are not worth compiling for; where nothing can be compiled, all goes as if it had not been asked for.

        Returns:
            That part of the mean, (parts, K).
        """
        if self._compiled is not None and piece.targets.shape[1] == self._compiled_for:
            from torch._dynamo.exc import TorchDynamoException  # takes seconds, and only who compiles needs it

            try:
                return self._added(self._compiled, piece, people)
            except TorchDynamoException as error:
                logger.warning("training.compiled: not possible here (%s), goes on without", type(error).__name__)
                self._compiled = None
        return self._added(self._losses, piece, people)

    def _losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return losses_of(self._network, self._loss, inputs, targets)

    @staticmethod
    def _added(losses: Callable[[Tensor, Tensor], Tensor], piece: Batch, people: int) -> Tensor:
        each = losses(piece.inputs, piece.targets)
        each.backward(each.new_full((), 1 / people).expand_as(each))
        return each.detach().sum(dim=-1).div_(people)
