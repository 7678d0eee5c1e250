"""Gradients of a step: their norms, and the limit to which each member's is scaled down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_NORM_FLOOR = 1e-12  # keeps a member without gradient from dividing by zero


@dataclass(frozen=True)
class StepFigures:
    """What one step found out, on the host.

    Attributes:
        losses: of each member (K,).
        norms: of each member's gradient before clipping (K,).
        groups: norm of each layer's gradient over all members, before clipping.
    """

    losses: list[float]
    norms: list[float]
    groups: dict[str, float]

    @property
    def finite(self) -> bool:
        """Whether losses and gradients all are."""
        return math.isfinite(sum(self.losses) + sum(self.norms))

    @property
    def metrics(self) -> dict[str, float]:
        """Norm of the gradient over all members, and of the member with the largest one, before clipping."""
        total = math.sqrt(sum(norm * norm for norm in self.norms))
        return {"gradient_norm": total, "gradient_norm_largest_member": max(self.norms)}


def clip_members(parameters: Sequence[Tensor], limit: float) -> Tensor:
    """Scale each member's gradient to norm ``limit`` at most; returns the squared norms before, (parameters, K).

    By member and not over all of them, so that a member trains the same in whatever company.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients])
    factor = (limit / squares.sum(dim=0).sqrt().clamp(min=_NORM_FLOOR)).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
    return squares


def step_figures(names: Sequence[str], losses: Tensor, squares: Tensor) -> StepFigures:
    """Losses (K,) and squared gradient norms of the parameters ``names`` (parameters, K), in one read of the device."""
    member_losses, *by_parameter = torch.cat([losses.unsqueeze(0), squares]).tolist()
    groups: dict[str, float] = {}
    for name, row in zip(names, by_parameter, strict=True):
        layer = name.partition("_")[0]
        groups[layer] = groups.get(layer, 0.0) + sum(row)
    norms = [math.sqrt(sum(column)) for column in zip(*by_parameter, strict=True)]
    return StepFigures(member_losses, norms, {layer: math.sqrt(square) for layer, square in groups.items()})
