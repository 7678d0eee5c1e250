"""What a member's outputs mean: a quantile function of biological age.

Every head says it in the same words (``Head``), so that nothing that answers knows which one it has. The default is
``QuantileHead``, a latent quantile function that is piecewise linear in z = Φ⁻¹(u), with positive slopes between knots,

    L(u) = o_0 + Σ_j softplus(o_j) · B_j(u),   B_j(u) = clamp(z, z_j, z_{j+1}) − clamp(0, z_j, z_{j+1}),

is carried to years by a link: ``identity`` (center + scale·L) or ``logit`` (low + (high − low)·sigmoid(L)). It is
monotone by construction. Without knots and with the identity it is a Gaussian. Because members speak in quantile
functions, their Wasserstein-2 barycenter is the plain average of what they say.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

Array = NDArray[np.float64]
Link = Literal["identity", "logit"]

_MOST_KEPT = 256  # bases, a few kilobytes each


def softplus(values: Array) -> Array:
    """log(1 + exp(values)), whatever their size."""
    result: Array = np.abs(values)
    np.exp(np.negative(result, out=result), out=result)
    np.log1p(result, out=result)
    result += np.maximum(values, 0.0)
    return result


class Head(Protocol):
    """Meaning of a member's outputs; a frozen dataclass of plain values, which are stored with the clock."""

    @property
    def outputs(self) -> int:
        """Outputs of a member."""

    def quantiles(self, outputs: Array, z: Array, age: Array) -> Array:
        """Members' quantiles in years at the same levels for everybody; they never fall as the level rises.

        Args:
            outputs: (K, n, outputs).
            z: normal scores of the levels, Φ⁻¹(u), (q,).
            age: chronological ages (n,), for a head that starts from them.

        Returns:
            Shape (K, n, q).
        """

    def quantiles_at(self, outputs: Array, z: Array, age: Array) -> Array:
        """As ``quantiles``, but with one level for each person: ``z`` (n,), returns (K, n)."""

    def medians(self, outputs: Array, age: Array) -> Array:
        """Members' medians in years, (K, n)."""

    def initial_bias(self) -> Array:
        """Output biases (outputs,) of an untrained member: centered, about as wide as the ages it is trained on."""


@dataclass(frozen=True)
class QuantileHead:
    """Form of the quantile functions that members emit.

    Attributes:
        knots: levels, ascending within (0, 1), where the latent slope may change; none = Gaussian on the link's scale.
        link: ``identity`` or ``logit``.
        center: years at latent 0 of the identity; None = the person's own chronological age.
        scale: years for a latent unit of the identity.
        low, high: ends of the support of the logit, years.
    """

    knots: tuple[float, ...]
    link: Link
    center: float | None
    scale: float
    low: float
    high: float

    @property
    def outputs(self) -> int:
        """Outputs of a member: a location and a slope for each segment."""
        return 2 + len(self.knots)

    @cached_property
    def _segments(self) -> Array:
        """Lower and upper ends of the segments in z, and where each of them is nearest to 0, (3, segments, 1)."""
        ends = np.array([-np.inf, *ndtri(np.array(self.knots, dtype=np.float64)), np.inf])
        return np.stack([ends[:-1], ends[1:], np.minimum(np.maximum(0.0, ends[:-1]), ends[1:])])[:, :, None]

    def basis(self, z: Array) -> Array:
        """B_j at normal scores ``z`` (q,), shape (segments, q)."""
        low, high, nearest = self._segments
        basis: Array = np.maximum(z, low)
        np.minimum(basis, high, out=basis)
        basis -= nearest
        return basis

    def _kept_basis(self, z: Array) -> Array:
        key = z.tobytes()  # one answer asks for the same scores as the next
        if (known := self._bases.get(key)) is None:
            if len(self._bases) >= _MOST_KEPT:
                self._bases.clear()
            known = self._bases[key] = self.basis(z)
        return known

    @cached_property
    def _bases(self) -> dict[bytes, Array]:
        """Bases by their scores."""
        return {}

    def quantiles(self, outputs: Array, z: Array, age: Array) -> Array:
        """As ``Head.quantiles``; ``age`` is used where ``center`` is None."""
        slopes = softplus(outputs[..., 1:])
        latent: Array = (slopes.reshape(-1, slopes.shape[-1]) @ self._kept_basis(z)).reshape(*slopes.shape[:-1], len(z))
        latent += outputs[..., :1]
        return self._years(latent, age[:, None])

    def quantiles_at(self, outputs: Array, z: Array, age: Array) -> Array:
        """As ``Head.quantiles_at``."""
        latent: Array = np.einsum("knj,jn->kn", softplus(outputs[..., 1:]), self.basis(z))
        latent += outputs[..., 0]
        return self._years(latent, age)

    def medians(self, outputs: Array, age: Array) -> Array:
        """As ``Head.medians``: every B_j is 0 at the median."""
        return self._years(outputs[..., 0].copy(), age)

    def _years(self, latent: Array, age: Array) -> Array:
        if self.link == "logit":
            latent *= 0.5  # sigmoid(x) = (1 + tanh(x/2)) / 2, and numpy's tanh takes a fifth of the time of a sigmoid
            np.tanh(latent, out=latent)
            latent *= (self.high - self.low) / 2
            latent += (self.high + self.low) / 2
        else:
            latent *= self.scale
            latent += age if self.center is None else self.center
        return latent

    def initial_bias(self) -> Array:
        """As ``Head.initial_bias``."""
        slope = 1.2 if self.link == "logit" else 0.75
        return np.array([0.0, *[np.log(np.expm1(slope))] * (self.outputs - 1)])
