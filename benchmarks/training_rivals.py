"""What people would train instead of HENAW's ensemble with PyTorch: a loop over networks, and TabM.

They are written as their users would write them, without what HENAW does besides (transactions, figures of each step,
events), and given what makes them fast: inputs ready in one tensor, fused AdamW, gradients set to None.
"""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor, nn

from henaw.model.heads import Head
from henaw.model.losses import AGE, CRPS_LEVELS, Loss, quantile_function
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import TrainingData
from henaw.training.schedule import one_cycle

LIBRARIES = ("tabm",)
MANNERS = BY_ITSELF, ONE_OPTIMIZER, ONE_LOSS = "by itself", "one optimizer", "one loss"


def missing_libraries() -> list[str]:
    """Those of ``LIBRARIES`` that are not installed."""
    return [name for name in LIBRARIES if importlib.util.find_spec(name) is None]


@dataclass(frozen=True)
class Chosen:
    """What a rival trains with.

    Attributes:
        batch_size: people in a batch.
        steps: of the whole training, over which the learning rate has its one cycle.
        learning_rate: its peak.
        weight_decay: of AdamW.
        disturbed: the settings whose masks, noise and clipping it applies; None = nothing of the kind.
    """

    batch_size: int
    steps: int
    learning_rate: float
    weight_decay: float
    disturbed: Training | None = None


def member_network(network: EnsembleNetwork, member: int) -> nn.Sequential:
    """Member ``member`` of ``network`` as a network of its own, with the same weights."""
    layers: list[nn.Module] = []
    parameters = [each[member].detach() for each in network.parameters()]
    for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
        linear = nn.Linear(*weight.shape, device=weight.device)
        linear.load_state_dict({"weight": weight.T, "bias": bias})
        layers += [linear, nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def plain_crps(head: Head, device: torch.device) -> Loss:
    """``crps_loss`` as its formula stands, differentiated by autograd: HENAW's own has its derivative written out."""
    levels = (np.arange(CRPS_LEVELS) + 0.5) / CRPS_LEVELS
    quantiles = quantile_function(head, ndtri(levels), device)
    u = torch.tensor(levels, dtype=torch.float32, device=device)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        age = targets[..., AGE]
        error = age.unsqueeze(-1) - quantiles(outputs, age)
        return 2 * torch.maximum(u * error, (u - 1) * error).mean(dim=-1)

    return loss


class MemberLoop:
    """K independent ``nn.Sequential`` networks, one after the other, in one of the ``MANNERS`` in which it is written.

    ``by itself``: a member goes through its whole epoch, with an optimizer of its own, before the next one's turn.
    ``one optimizer``: each batch for member after member, each with its own loss, then one step of one optimizer.
    ``one loss``: as before, but the members' outputs are stacked for one loss, with one backward pass.
    """

    def __init__(self, network: EnsembleNetwork, loss: Loss, data: TrainingData, chosen: Chosen, manner: str) -> None:
        """Start from the weights of ``network``."""
        self.members = [member_network(network, number) for number in range(network.shape.members)]
        self.loss, self.data, self.chosen, self.manner = loss, data, chosen, manner
        own = [list(member.parameters()) for member in self.members]
        self.groups = own if manner == BY_ITSELF else [[each for parameters in own for each in parameters]]
        self.optimizers = [_adamw(group, chosen) for group in self.groups]
        self.inputs, self.step = data.inputs(slice(None)), 0

    def epoch(self, order: Tensor) -> None:
        """Train every member for an epoch, people in ``order`` (K, n)."""
        batches = order.split(self.chosen.batch_size, dim=1)
        if self.manner == BY_ITSELF:
            for number, (member, optimizer) in enumerate(zip(self.members, self.optimizers, strict=True)):
                for step, batch in enumerate(batches, self.step):
                    self._loss(member, batch[number]).backward()
                    self._update(optimizer, [member], step)
        else:
            for step, batch in enumerate(batches, self.step):
                if self.manner == ONE_OPTIMIZER:
                    for member, rows in zip(self.members, batch, strict=True):
                        self._loss(member, rows).backward()
                else:
                    pairs = zip(self.members, self._inputs(batch), strict=True)
                    outputs = torch.stack([member(inputs) for member, inputs in pairs])
                    self.loss(outputs, self.data.targets[batch]).mean(dim=1).sum().backward()
                self._update(self.optimizers[0], self.members, step)
        self.step += len(batches)

    def _loss(self, member: nn.Module, rows: Tensor) -> Tensor:
        return self.loss(member(self._inputs(rows)), self.data.targets[rows]).mean()

    def _inputs(self, rows: Tensor) -> Tensor:
        """Inputs of people ``rows`` of any shape, (…, d)."""
        settings, data = self.chosen.disturbed, self.data
        if settings is None:
            return self.inputs[rows]
        scaled, present = data.scaled[rows], data.present[rows]
        scaled = scaled + settings.input_noise * torch.randn_like(scaled)
        hidden = (torch.rand(*rows.shape, len(data.dependence)) < settings.mask_rate).float()
        present = present * (hidden @ data.dependence < 0.5)
        return torch.cat([scaled * present, present, data.always[rows]], dim=-1)

    def _update(self, optimizer: torch.optim.Optimizer, members: Sequence[nn.Module], step: int) -> None:
        if self.chosen.disturbed is not None:
            for member in members:
                nn.utils.clip_grad_norm_(member.parameters(), self.chosen.disturbed.clip_norm, foreach=True)
        _set_rate(optimizer, self.chosen, step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def outputs(self, inputs: Tensor) -> Tensor:
        """Members' outputs (K, n, outputs) from inputs (n, d)."""
        return torch.stack([member(inputs) for member in self.members])


class TabMEnsemble:
    """TabM (Gorishniy et al. 2025) of equal width and K: members share a batch, and hidden layers' large weights."""

    def __init__(self, network: EnsembleNetwork, loss: Loss, data: TrainingData, chosen: Chosen) -> None:
        """Start from TabM's own weights."""
        from tabm import TabM

        width, *others = network.shape.hidden
        assert all(other == width for other in others), "TabM has layers of one width"
        self.model = TabM.make(
            n_num_features=network.shape.inputs,
            d_out=network.shape.head.outputs,
            k=network.shape.members,
            n_blocks=len(network.shape.hidden),
            d_block=width,
            dropout=0.0,
            arch_type="tabm",
        )
        self.optimizer = _adamw(self.model.parameters(), chosen)
        self.loss, self.targets, self.chosen = loss, data.targets, chosen
        self.inputs, self.step = data.inputs(slice(None)), 0

    def epoch(self, order: Tensor) -> None:
        """Train for an epoch, people in ``order`` (n,)."""
        for batch in order.split(self.chosen.batch_size):
            _set_rate(self.optimizer, self.chosen, self.step)
            outputs = self.model(self.inputs[batch]).transpose(0, 1)  # members first, as the loss has it
            self.loss(outputs, self.targets[batch].expand(len(outputs), -1, -1)).mean().backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1


def _adamw(parameters: Iterable[nn.Parameter], chosen: Chosen) -> torch.optim.AdamW:
    return torch.optim.AdamW(parameters, lr=chosen.learning_rate, weight_decay=chosen.weight_decay, fused=True)


def _set_rate(optimizer: torch.optim.Optimizer, chosen: Chosen, step: int) -> None:
    for group in optimizer.param_groups:
        group["lr"] = one_cycle(step, chosen.steps, chosen.learning_rate)


def bare_products(widths: Sequence[int], members: int, batch_size: int) -> Callable[[], None]:
    """The batched matrix products that no step of K networks of ``widths`` can do without, into memory taken before.

    Forward x·W; backward xᵀ·g for the weights and g·Wᵀ for what comes before, which the first layer does not need.
    """
    work: list[tuple[Tensor, Tensor, Tensor]] = []
    for layer, (before, after) in enumerate(pairwise(widths)):
        x, w, g = (torch.randn(members, *each) for each in ((batch_size, before), (before, after), (batch_size, after)))
        work += [(x, w, torch.empty_like(g)), (x.mT, g, torch.empty_like(w))]
        if layer:
            work.append((g, w.mT, torch.empty_like(x)))

    def step() -> None:
        for left, right, out in work:
            torch.bmm(left, right, out=out)

    return step


def product_operations(widths: Sequence[int], members: int, batch_size: int) -> float:
    """Floating-point operations of ``bare_products``, a step."""
    return sum(
        2.0 * members * batch_size * before * after * (3 if layer else 2)
        for layer, (before, after) in enumerate(pairwise(widths))
    )


def seconds_of(step: Callable[[], None], clock: Callable[[], float], repeats: int = 50) -> float:
    """Median seconds of ``step``."""
    taken = []
    for _ in range(repeats):
        began = clock()
        step()
        taken.append(clock() - began)
    return statistics.median(taken)
