"""Per-person losses, computed from a member's outputs (PyTorch, training side)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from henaw.model.bins import BinsHead
from henaw.model.hazard import Gompertz
from henaw.model.heads import Head, QuantileHead
from henaw.settings import Training

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs (…, B, outputs) and targets (…, B, targets) to a loss for each person (…, B)."""


CRPS_LEVELS = 49
MORTALITY_NODES = 11
LEAST_SPREAD = 1e-3  # in units of a head's scale: a likelihood has no bound where a spread may vanish
MOST_LOG_HAZARD = 20.0  # a year; 5·10⁸ deaths a person-year, about 340 years old: from there on hazard grows in a line
AGE, YEARS, DIED = 0, 1, 2  # columns of the targets: chronological age, follow-up in years, 1 where it ended in death


@dataclass(frozen=True)
class SumOfLosses:
    """A loss whose ``parts``, by name, add up to it; they are told of one by one (``in_parts``)."""

    parts: Mapping[str, Loss]

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss itself, (…, B)."""
        return in_parts(self)(outputs, targets).sum(dim=0)


def part_names(loss: Loss) -> tuple[str, ...]:
    """Names of the parts of ``loss``; none where it is a single one."""
    return tuple(loss.parts) if isinstance(loss, SumOfLosses) else ()


def in_parts(loss: Loss) -> Loss:
    """``loss`` as its parts, (parts, …, B): one where it is a single one."""
    if isinstance(loss, SumOfLosses):
        losses = tuple(loss.parts.values())
        return lambda outputs, targets: torch.stack([part(outputs, targets) for part in losses])
    return lambda outputs, targets: loss(outputs, targets).unsqueeze(0)


def weighted_loss(loss: Loss) -> Loss:
    """``loss``, and each of its parts, times the last target."""
    if isinstance(loss, SumOfLosses):
        return SumOfLosses({name: weighted_loss(part) for name, part in loss.parts.items()})
    return lambda outputs, targets: loss(outputs, targets[..., :-1]) * targets[..., -1]


def training_loss(head: Head, hazard: Gompertz | None, settings: Training, device: torch.device) -> Loss:
    """The loss that the settings mean: of the mortality clock where there is a ``hazard``, else of the age clock."""
    if hazard is not None:
        return mortality_loss(head, hazard, device)
    if settings.loss == "beta_nll":
        return beta_nll_loss(head, settings.beta)
    if settings.nll_weight > 0:
        return crps_and_nll_loss(head, settings.nll_weight, device)
    return crps_loss(head, device)


def quantile_function(head: Head, z: NDArray[np.float64], device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """``QuantileHead.quantiles`` in PyTorch at fixed scores ``z`` (q,): (…, B, outputs), age (…, B) → (…, B, q)."""
    if not isinstance(head, QuantileHead):
        raise TypeError(f"a {type(head).__name__} has no quantile function in PyTorch")
    basis = torch.tensor(head.basis(z), dtype=torch.float32, device=device)

    def quantiles(outputs: Tensor, age: Tensor) -> Tensor:
        latent = outputs[..., :1] + functional.softplus(outputs[..., 1:]) @ basis
        if head.link == "logit":
            return head.low + (head.high - head.low) * torch.sigmoid(latent)
        return (age.unsqueeze(-1) if head.center is None else head.center) + head.scale * latent

    return quantiles


def crps_loss(head: Head, device: torch.device) -> Loss:
    """Continuous ranked probability score in years: exact for bins, and otherwise from evenly spaced levels.

    From levels it is twice the pinball loss, CRPS(F, y) = 2 ∫ (1{y ≤ F⁻¹(u)} − u)(F⁻¹(u) − y) du (Laio & Tamea 2007,
    eq. 3).
    """
    if isinstance(head, BinsHead):
        return _binned_crps(head, device)
    if not isinstance(head, QuantileHead):
        raise TypeError(f"a {type(head).__name__} has no quantile function in PyTorch")
    levels = (np.arange(CRPS_LEVELS) + 0.5) / CRPS_LEVELS
    latent = np.concatenate([np.ones((1, CRPS_LEVELS)), head.basis(ndtri(levels))])
    exact = [torch.tensor(values, device=device) for values in (latent, levels[:, None])]
    by_dtype = {torch.float64: exact, torch.float32: [values.float() for values in exact]}

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        constants = by_dtype[outputs.dtype]
        found: Tensor = _QuantileCrps.apply(outputs, targets[..., AGE], head, *constants)  # type: ignore[no-untyped-call]
        return found

    return loss


class _QuantileCrps(torch.autograd.Function):
    """CRPS of quantile functions together with its derivative, in a third of the passes that autograd makes.

    With s_j the quantile of level u_j and c the age, both in latent units (identity) or as a fraction of the support
    (logit), the loss is 2 · unit · mean_j (s_j − c)(1{s_j ≥ c} − u_j), and its derivative by s_j is the second factor's
    part of that. Levels come before people, so that every pass is over contiguous people.
    """

    @staticmethod
    def forward(ctx: Any, outputs: Tensor, age: Tensor, head: QuantileHead, latent: Tensor, levels: Tensor) -> Tensor:
        *members, people, width = outputs.shape
        outputs = outputs.mT.reshape(-1, width, people)
        slopes = torch.cat([outputs[:, :1], functional.softplus(outputs[:, 1:])], dim=1)
        quantile = torch.bmm(latent.T.expand(len(outputs), -1, -1), slopes)
        if head.link == "logit":
            unit = head.high - head.low
            truth = (age - head.low) / unit
            quantile.sigmoid_()
        else:
            unit = head.scale
            truth = (age - (age if head.center is None else head.center)) / unit
        truth = truth.expand(*members, people).reshape(-1, 1, people)
        apart = quantile - truth
        beyond = torch.ge(apart, 0.0, out=torch.empty_like(apart)).sub_(levels)
        loss = (apart.mul_(beyond)).sum(dim=1).mul_(2 * unit / len(levels)).view(*members, people)
        if ctx.needs_input_grad[0]:
            if head.link == "logit":
                torch.ops.aten.sigmoid_backward.grad_input(beyond, quantile, grad_input=beyond)
            slope = torch.bmm(latent.expand(len(outputs), -1, -1), beyond).mul_(2 * unit / len(levels))
            slope[:, 1:] *= outputs[:, 1:].sigmoid()
            ctx.save_for_backward(slope)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, by_loss: Tensor) -> tuple[Tensor | None, ...]:
        [slope] = ctx.saved_tensors
        *members, people = by_loss.shape
        found = (slope * by_loss.reshape(-1, 1, people)).view(*members, -1, people)
        return found.mT, None, None, None, None


def _binned_crps(head: BinsHead, device: torch.device) -> Loss:
    """∫ (F(x) − 1{x ≥ y})² dx of a histogram, as E|X − y| − ½·E|X − X′| (Gneiting & Raftery 2007, section 4.2).

    With X uniform within its bin both are sums over bins: the mean of |X − X′| is the distance of the bins' middles, or
    w/3 within one bin of width w; that of |X − y| is the distance of y from the middle m, or w/4 + (y − m)²/w within.
    """
    widths, middles = np.diff(head.edges), (head.edges[1:] + head.edges[:-1]) / 2
    between = np.abs(middles[:, None] - middles) + np.diag(widths / 3)
    half, width, middle = (
        torch.tensor(values, dtype=torch.float32, device=device) for values in (between / 2, widths, middles)
    )

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        probability = functional.softmax(outputs, dim=-1)
        apart = (targets[..., AGE].unsqueeze(-1) - middle).abs()
        distance = torch.where(apart < width / 2, width / 4 + apart.square() / width, apart)
        return (probability * (distance - probability @ half)).sum(dim=-1)

    return loss


def crps_and_nll_loss(head: Head, weight: float, device: torch.device) -> Loss:
    """CRPS of bins in years, plus ``weight`` times the negative log density of the age in nats: two parts.

    An age beyond the support counts as one of the bin next to it.
    """
    if not isinstance(head, BinsHead):
        raise TypeError(f"a {type(head).__name__} has no bins")
    crps = _binned_crps(head, device)
    inner = torch.tensor(head.edges[1:-1], dtype=torch.float32, device=device)
    log_width = torch.tensor(np.log(np.diff(head.edges)), dtype=torch.float32, device=device)

    def weighted_nll(outputs: Tensor, targets: Tensor) -> Tensor:
        bins = torch.bucketize(targets[..., AGE].contiguous(), inner, right=True).expand(outputs.shape[:-1])
        log_density = functional.log_softmax(outputs, dim=-1) - log_width
        return -weight * log_density.gather(-1, bins.unsqueeze(-1)).squeeze(-1)

    return SumOfLosses({"crps": crps, "weighted_nll": weighted_nll})


def beta_nll_loss(head: Head, beta: float) -> Loss:
    """Negative log likelihood of a Gaussian in nats, its gradient weighted by σ^(2β) (Seitzer et al. 2022).

    β = 0 is maximum likelihood; with β = 1 the mean is learned as by squared error, whatever σ. The weight has σ in
    units of the head's scale, so that β hardly changes the size of the steps. The value is the likelihood whatever β: a
    likelihood weighted by σ is no proper score, and must not choose the best epoch.
    """
    if not (isinstance(head, QuantileHead) and head.link == "identity" and not head.knots):
        raise TypeError("only a Gaussian has a β-NLL")
    constant = math.log(head.scale) + math.log(2 * math.pi) / 2
    center, scale = head.center, head.scale

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        age = targets[..., AGE]
        sd = functional.softplus(outputs[..., 1]).clamp(min=LEAST_SPREAD)
        z = ((0.0 if center is None else age - center) / scale - outputs[..., 0]) / sd
        nll = sd.log() + z.square() / 2 + constant
        return nll.detach() + sd.detach() ** (2 * beta) * (nll - nll.detach())

    return loss


def mortality_loss(head: Head, hazard: Gompertz, device: torch.device) -> Loss:
    """Negative log likelihood of right-censored follow-up, integrated over the latent biological age, in nats.

    log L = log Σ_j w_j · h(BA_j + t)^d · exp(−H(BA_j, t)), BA_j the member's quantiles at Gauss–Hermite nodes. Being
    alive at the examination is what biological age is conditioned on, so nothing else is divided by.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(MORTALITY_NODES)
    biological_age = quantile_function(head, nodes, device)
    log_weights = torch.tensor(np.log(weights / weights.sum()), dtype=torch.float32, device=device)
    alpha, beta = hazard.alpha, hazard.beta

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        ages = biological_age(outputs, targets[..., AGE])
        years, died = targets[..., YEARS].unsqueeze(-1), targets[..., DIED].unsqueeze(-1)
        log_hazard = alpha + beta * (ages + years)
        accumulated = _bounded_exp(alpha + beta * ages) * torch.expm1(beta * years) / beta
        return -torch.logsumexp(log_weights + died * log_hazard - accumulated, dim=-1)

    return loss


def _bounded_exp(logarithm: Tensor) -> Tensor:
    """exp, continued by its tangent from ``MOST_LOG_HAZARD`` on: float32 has no exp(89), but a step back from there."""
    beyond = functional.relu(logarithm - MOST_LOG_HAZARD)
    return torch.exp(logarithm.clamp(max=MOST_LOG_HAZARD)) * (1 + beyond)
