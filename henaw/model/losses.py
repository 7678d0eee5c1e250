"""Per-person losses of a Gaussian prediction; both are proper scores, so the predicted spread has to be honest."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def gaussian_crps(mean: Tensor, sd: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score in years, elementwise.

    CRPS(N(m, s²), y) = s·(z·(2Φ(z) − 1) + 2φ(z) − 1/√π), z = (y − m)/s (Gneiting & Raftery 2007, eq. 21).
    """
    z = (truth - mean) / sd
    density = torch.exp(-0.5 * z * z) / math.sqrt(2 * math.pi)
    return sd * (z * torch.erf(z / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def gaussian_nll(mean: Tensor, sd: Tensor, truth: Tensor) -> Tensor:
    """Negative log likelihood in nats, elementwise."""
    z = (truth - mean) / sd
    return torch.log(sd) + 0.5 * z * z + 0.5 * math.log(2 * math.pi)


LOSSES: dict[str, Loss] = {"crps": gaussian_crps, "nll": gaussian_nll}
