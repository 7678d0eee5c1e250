"""A step happens whole or not at all."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Transaction:
    """Undoes a step that failed.

    Only the optimizer changes anything that lasts: parameters, its own moments and its own step counters. They are
    copied on the device right before it does so, into memory that is taken once. Nothing else needs a copy: gradients
    are thrown away, the learning rate is a function of the steps committed, and batches and dropout are drawn anew
    from seed, epoch and batch.
    """

    def __init__(self, network: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Watch over ``network`` and ``optimizer``, whose state must be there already."""
        assert not list(network.buffers()), "buffers change in the forward pass, and with the micro-batch"
        self._optimizer = optimizer
        self._live: list[Tensor] = [parameter.detach() for parameter in network.parameters()]
        self._live += [values for state in optimizer.state.values() for values in state.values()]
        self._kept = [values.clone() for values in self._live]
        self._open = False

    def step(self) -> None:
        """The optimizer's step, after which the transaction is committed; where it raises, ``undo`` brings all back."""
        torch._foreach_copy_(self._kept, self._live)
        self._open = True
        self._optimizer.step()
        self._open = False

    def undo(self) -> None:
        """The state before the step, bitwise, and no gradients."""
        self._optimizer.zero_grad(set_to_none=True)
        if self._open:
            torch._foreach_copy_(self._live, self._kept)
            self._open = False
