"""Per-person losses of a member's quantile function, computed from its outputs (PyTorch, training side)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtri
from torch import Tensor
from torch.nn import functional

from henaw.model.hazard import Gompertz
from henaw.model.heads import QuantileHead

Loss = Callable[[Tensor, Tensor], Tensor]
"""From outputs (…, B, outputs) and targets (…, B, targets) to a loss for each person (…, B)."""

CRPS_LEVELS = 49
MORTALITY_NODES = 11
AGE, YEARS, DIED = 0, 1, 2  # columns of the targets: chronological age, follow-up in years, 1 where it ended in death


def quantile_function(
    head: QuantileHead, z: NDArray[np.float64], device: torch.device
) -> Callable[[Tensor, Tensor], Tensor]:
    """``QuantileHead.quantiles`` in PyTorch at fixed scores ``z`` (q,): (…, B, outputs), age (…, B) → (…, B, q)."""
    basis = torch.tensor(head.basis(z), dtype=torch.float32, device=device)

    def quantiles(outputs: Tensor, age: Tensor) -> Tensor:
        latent = outputs[..., :1] + functional.softplus(outputs[..., 1:]) @ basis
        if head.link == "logit":
            return head.low + (head.high - head.low) * torch.sigmoid(latent)
        return (age.unsqueeze(-1) if head.center is None else head.center) + head.scale * latent

    return quantiles


def crps_loss(head: QuantileHead, device: torch.device) -> Loss:
    """Continuous ranked probability score in years: twice the pinball loss, averaged over evenly spaced levels.

    CRPS(F, y) = 2 ∫ (1{y ≤ F⁻¹(u)} − u)(F⁻¹(u) − y) du (Laio & Tamea 2007, eq. 3).
    """
    levels = (np.arange(CRPS_LEVELS) + 0.5) / CRPS_LEVELS
    quantiles = quantile_function(head, ndtri(levels), device)
    u = torch.tensor(levels, dtype=torch.float32, device=device)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        age = targets[..., AGE]
        error = age.unsqueeze(-1) - quantiles(outputs, age)
        return 2 * torch.maximum(u * error, (u - 1) * error).mean(dim=-1)

    return loss


def mortality_loss(head: QuantileHead, hazard: Gompertz, device: torch.device) -> Loss:
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
        accumulated = torch.exp(alpha + beta * ages) * torch.expm1(beta * years) / beta
        return -torch.logsumexp(log_weights + died * log_hazard - accumulated, dim=-1)

    return loss
