"""Gradients of a step: their norms, and the limit to which each member's is scaled down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import mul

import torch
from torch import Tensor

_NORM_FLOOR = 1e-12  # keeps a member without gradient from dividing by zero


@dataclass(frozen=True)
class StepFigures:
    """What one step found out, on the host.

    Attributes:
        losses: of each member (K,).
        parts: of the loss, means over members; none where it is a single one.
        norms: of each member's gradient before clipping (K,).
        groups: norm of each layer's gradient over all members, before clipping.
        clipped_groups: the same after it.
        limit: norm that a member's gradient was scaled down to, where it was larger.
    """

    losses: list[float]
    parts: dict[str, float]
    norms: list[float]
    groups: dict[str, float]
    clipped_groups: dict[str, float]
    limit: float

    @property
    def finite(self) -> bool:
        """Whether losses and gradients all are."""
        return math.isfinite(sum(self.losses) + sum(self.norms))

    @property
    def clipped_fraction(self) -> float:
        """Fraction of the members whose gradient was scaled down."""
        return sum(norm > self.limit for norm in self.norms) / len(self.norms)

    @property
    def metrics(self) -> dict[str, float]:
        """Means of loss and parts over members; norms of the gradient over all of them, before clipping and after."""
        return {
            "loss": sum(self.losses) / len(self.losses),
            **{f"loss_{part}": loss for part, loss in self.parts.items()},
            "gradient_norm": math.sqrt(sum(norm * norm for norm in self.norms)),
            "gradient_norm_largest_member": max(self.norms),
            "gradient_norm_clipped": math.sqrt(sum(min(norm, self.limit) ** 2 for norm in self.norms)),
            "clipped_fraction": self.clipped_fraction,
        }

    @property
    def by_layer(self) -> dict[str, float]:
        """Norm of each layer's gradient over all members, before clipping and after it."""
        before = {f"gradient_norm_{layer}": norm for layer, norm in self.groups.items()}
        return before | {f"gradient_norm_{layer}_clipped": norm for layer, norm in self.clipped_groups.items()}


def clip_members(parameters: Sequence[Tensor], limit: float | Tensor) -> Tensor:
    """Scale each member's gradient to norm ``limit``, of all or of each (K,), at most.

    Returns the squared norms before, (parameters, K).

    By member and not over all of them, so that a member trains the same in whatever company.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    squares = torch.stack([gradient.flatten(1).square().sum(dim=1) for gradient in gradients])
    factor = (squares.sum(dim=0).sqrt().clamp(min=_NORM_FLOOR).reciprocal() * limit).clamp(max=1.0)
    for gradient in gradients:
        gradient.mul_(factor.view(-1, *[1] * (gradient.dim() - 1)))
    return squares


def step_figures(names: Sequence[str], found: Tensor, limit: float, parts: Sequence[str] = ()) -> StepFigures:
    """What ``found`` says in one read: losses by part, then squared gradient norms of the parameters ``names``, by K.

    ``limit`` is the one that ``clip_members`` was given; what it left of a norm follows from it. ``parts`` are the
    names of the loss's, where it has several.
    """
    rows = found.tolist()
    by_part, by_parameter = rows[: -len(names)], rows[-len(names) :]
    member_losses = [sum(column) for column in zip(*by_part, strict=True)]
    means = {part: sum(row) / len(row) for part, row in zip(parts, by_part, strict=False)}
    norms = [math.sqrt(sum(column)) for column in zip(*by_parameter, strict=True)]
    left = [min(1.0, limit / max(norm, _NORM_FLOOR)) ** 2 for norm in norms]
    groups: dict[str, float] = {}
    clipped: dict[str, float] = {}
    for name, row in zip(names, by_parameter, strict=True):
        layer = name.partition("_")[0]
        groups[layer] = groups.get(layer, 0.0) + sum(row)
        clipped[layer] = clipped.get(layer, 0.0) + sum(map(mul, row, left))
    return StepFigures(member_losses, means, norms, _roots(groups), _roots(clipped), limit)


def _roots(squares: dict[str, float]) -> dict[str, float]:
    return {layer: math.sqrt(square) for layer, square in squares.items()}
