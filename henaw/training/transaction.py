"""A step happens whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ALIGNED = 64  # bytes: each tensor of the block begins where vector instructions and GPUs like to


class Transaction:
    """Undoes a step that failed.

    Only the optimizer changes anything that lasts: parameters, its own moments and its own step counters. They are
    copied on the device before it does so (``keep``), into memory that is taken once; as they lie in one block, a copy
    is a single one. Nothing else needs a copy: gradients are thrown away, the learning rate is a function of the steps
    committed, and batches and dropout are drawn anew from seed, epoch and batch.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Watch over ``network`` and ``optimizer``, whose state must be there already and moves into the block."""
        assert not list(network.buffers()), "buffers change in the forward pass, and with the micro-batch"
        self._optimizer = optimizer
        live: list[Tensor] = [parameter.detach() for parameter in network.parameters()]
        live += [values for state in optimizer.state.values() for values in state.values()]
        self._live = _in_one_block(live)
        for parameter, values in zip(network.parameters(), live, strict=False):
            parameter.data = values
        self._kept = self._live.clone()
        self._open = False

    def keep(self) -> None:
        """Copy what ``step`` may change; nothing else than ``step`` comes in between."""
        self._kept.copy_(self._live)

    def step(self) -> None:
        """The optimizer's step, after which the transaction is committed; where it raises, ``undo`` brings all back."""
        self._open = True
        self._optimizer.step()
        self._open = False

    def undo(self) -> None:
        """The state before the step, bitwise, and no gradients."""
        self._optimizer.zero_grad(set_to_none=True)
        if self._open:
            self._live.copy_(self._kept)
            self._open = False


def _in_one_block(tensors: Sequence[Tensor]) -> Tensor:
    """Move what ``tensors`` (of one type and device) hold into a block of memory, and return that."""
    step = _ALIGNED // tensors[0].element_size()
    sizes = [-(-values.numel() // step) * step for values in tensors]
    block = tensors[0].new_zeros(sum(sizes))
    for values, room in zip(tensors, block.split(sizes), strict=True):
        place = room[: values.numel()].view(values.shape)
        place.copy_(values)
        values.data = place
    return block
