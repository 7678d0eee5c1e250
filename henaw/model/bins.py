"""Age bins: a member's outputs as logits of probabilities, uniform within each bin.

Its distribution function is piecewise linear between the edges of the bins, and so is its quantile function. Nothing
falls as the level rises; where a probability underflows to 0 the quantile function jumps over the bin.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

from henaw.model.ensemble import blocks

Array = NDArray[np.float64]

_LEAST = np.finfo(np.float64).tiny  # in place of the probability of a bin that has none


@dataclass(frozen=True)
class BinsHead:
    """Form of the histograms that members emit.

    Attributes:
        low, high: ends of the support, years.
        width: of a bin, years; the last one ends at ``high`` and may be narrower.
    """

    low: float
    high: float
    width: float

    @cached_property
    def edges(self) -> Array:
        """Edges of the bins in years, ascending, (outputs + 1,)."""
        count = max(1, math.ceil((self.high - self.low) / self.width - 1e-9))  # a whole number but for rounding
        return np.array([*(self.low + self.width * np.arange(count)), self.high])

    @property
    def outputs(self) -> int:
        """Outputs of a member: a logit for each bin."""
        return len(self.edges) - 1

    def quantiles(self, outputs: Array, z: Array, age: Array) -> Array:
        """As ``Head.quantiles``."""
        order = np.argsort(z)
        levels = ndtr(z)[order]
        cumulative = _cumulative(outputs)
        members, people, _ = cumulative.shape
        # a level's bin is the number of inner edges whose probability it has reached: counted for all levels at once
        reached = np.searchsorted(levels, cumulative[..., 1:-1])  # of each edge: the first level that reaches it
        cells = len(levels) + 1
        reached += cells * np.arange(members * people).reshape(members, people, 1)
        counts = np.bincount(reached.ravel(), minlength=members * people * cells)
        chosen = counts.reshape(members, people, cells)[..., :-1].cumsum(axis=-1)
        found = self._within(cumulative, chosen, levels)
        if (order[1:] > order[:-1]).all():
            return found
        return found[..., np.argsort(order)]

    def quantiles_at(self, outputs: Array, z: Array, age: Array) -> Array:
        """As ``Head.quantiles_at``."""
        levels = ndtr(z)
        found = np.empty(outputs.shape[:2])
        for rows in blocks(len(levels)):
            cumulative = _cumulative(outputs[:, rows])
            chosen = (cumulative[..., 1:-1] <= levels[rows, None]).sum(axis=-1)
            found[:, rows] = self._within(cumulative, chosen[..., None], levels[rows, None])[..., 0]
        return found

    def medians(self, outputs: Array, age: Array) -> Array:
        """As ``Head.medians``."""
        return self.quantiles_at(outputs, np.zeros(outputs.shape[1]), age)

    def _within(self, cumulative: Array, chosen: NDArray[np.intp], levels: Array) -> Array:
        """Years (K, n, q) at ``levels`` (q,) or (n, q), each of which lies in the bin ``chosen`` (K, n, q)."""
        members, people, edges = cumulative.shape
        flat = chosen + edges * np.arange(members * people).reshape(members, people, 1)
        below = cumulative.take(flat)
        flat += 1
        probability = cumulative.take(flat)
        probability -= below
        np.maximum(probability, _LEAST, out=probability)
        part: Array = np.subtract(levels, below, out=below)
        part /= probability
        part *= np.diff(self.edges).take(chosen)
        part += self.edges.take(chosen)
        return part

    def initial_bias(self) -> Array:
        """As ``Head.initial_bias``: every age of the support is as likely as any other."""
        return np.log(np.diff(self.edges) / self.width)


def _cumulative(outputs: Array) -> Array:
    """Probability up to each edge, (K, n, outputs + 1), from 0 to exactly 1."""
    cumulative = np.zeros((*outputs.shape[:-1], outputs.shape[-1] + 1))
    probability = outputs - outputs.max(axis=-1, keepdims=True)
    np.exp(probability, out=probability)
    np.cumsum(probability, axis=-1, out=cumulative[..., 1:])
    cumulative /= cumulative[..., -1:].copy()
    return cumulative
