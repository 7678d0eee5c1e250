"""Harrell's C: how often, of two people, the one with the higher predicted risk died first.

A pair is comparable where it is known who died first: an earlier death against anyone followed for longer, or against
someone censored in the same month. Equal risks count half. (Harrell et al. 1982, JAMA 247; the treatment of ties is
that of R's survival and of lifelines.)

Counting pairs costs O(n²). Here the pairs are split by the highest binary digit in which the two ranks of time differ:
each pair is met once, between two halves of a block of ranks, and within a half only the order of risks matters. The
orders are worked out once, O(n·log n·log T) with T distinct times; what remains for each of b weighted cohorts is one
cumulative sum a digit. 1,000 bootstraps of 26,877 people with 5,710 deaths take 1.7 s of one core.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from henaw.errors import BadInput
from henaw.evaluation.bootstrap import Statistic

Array = NDArray[np.float64]
Positions = NDArray[np.intp]


def harrell_c(risk: Array, years: Array, died: Array) -> float:
    """How well ``risk`` (n,), any score that rises with risk, orders people by survival; NaN without a comparable pair.

    Everyone was followed for ``years`` (n,) until they ``died`` (n,; 1) or were censored (0).

    Raises:
        BadInput: lengths that differ, or a value that is missing or not finite.
    """
    return float(concordance_of(risk, years, died)(np.ones((len(years), 1)))[0])


def concordance_of(risk: Array, years: Array, died: Array) -> Statistic:
    """Harrell's C, with the arguments of ``harrell_c``, as a function of weights (n, b); shape (b,)."""
    for name, values in {"predicted risk": risk, "follow-up": years, "died": died}.items():
        if values.shape != (len(years),) or not np.isfinite(values).all():
            raise BadInput(f"Harrell's C: {name}: expected {len(years):,} finite numbers")
    death = died > 0
    # deaths before the people censored at the same time, who outlived them
    rank = 2 * np.unique(years, return_inverse=True)[1] + ~death
    halves = _halves(risk, rank, death)
    later = _Later(np.argsort(rank, kind="stable"), *_ends(rank, death))

    def statistic(weights: Array) -> Array:
        concordant, comparable = np.zeros(weights.shape[1]), later.pairs(weights)
        for half in halves:
            concordant += half.concordant(weights)
        with np.errstate(invalid="ignore"):
            return np.asarray(concordant / comparable)

    return statistic


@dataclass(frozen=True)
class _Later:
    """Where, in the ``order`` (n,) of time, those begin who outlived each of the ``deaths`` (d,)."""

    order: Positions
    deaths: Positions
    begin: Positions

    def pairs(self, weights: Array) -> Array:
        before = _cumulative(weights[self.order])
        outlived = before[-1] - before[self.begin]
        return np.asarray(np.einsum("db,db->b", weights[self.deaths], outlived))


@dataclass(frozen=True)
class _Half:
    """Pairs of the later half's people (l,), in order of block and risk, and the earlier half's deaths (d,).

    Attributes:
        later: rows of the people who lived longer.
        deaths: rows of those who died first.
        begin, lower, upper: where in ``later`` the block of each death begins, and where its risks reach that of the
            death and exceed it; shape (d,).
        tied: whether any risk of a death and of a person who lived longer are equal.
    """

    later: Positions
    deaths: Positions
    begin: Positions
    lower: Positions
    upper: Positions
    tied: bool

    def concordant(self, weights: Array) -> Array:
        """Weight of the pairs in which the death had the higher risk, and half of that of the ties, shape (b,)."""
        before = _cumulative(weights[self.later])
        below = before[self.lower]
        if self.tied:
            below = (below + before[self.upper]) / 2
        return np.asarray(np.einsum("db,db->b", weights[self.deaths], below - before[self.begin]))


def _halves(risk: Array, rank: Positions, death: NDArray[np.bool_]) -> list[_Half]:
    by_risk = np.argsort(risk, kind="stable")
    rank, death = rank[by_risk], death[by_risk]
    risk_rank = np.unique(risk[by_risk], return_inverse=True)[1]
    halves = []
    for digit in range(int(rank.max(initial=0)).bit_length()):
        block = rank >> (digit + 1)
        late = (rank >> digit) & 1 == 1
        order = np.argsort(block, kind="stable")  # by block, then by risk
        later, deaths = order[late[order]], order[(~late & death)[order]]
        place = block * (len(rank) + 1) + risk_rank
        lower, upper = (np.searchsorted(place[later], place[deaths], side) for side in ("left", "right"))
        begin = np.searchsorted(block[later], block[deaths])
        halves.append(_Half(by_risk[later], by_risk[deaths], begin, lower, upper, bool((lower != upper).any())))
    return halves


def _ends(rank: Positions, death: NDArray[np.bool_]) -> tuple[Positions, Positions]:
    deaths = np.flatnonzero(death)
    return deaths, np.searchsorted(np.sort(rank), rank[deaths], "right")


def _cumulative(weights: Array) -> Array:
    """Sums of the first 0, 1, … n rows, shape (n + 1, b); exact, because the weights are whole numbers."""
    sums = np.zeros((len(weights) + 1, weights.shape[1]))
    np.cumsum(weights, axis=0, out=sums[1:])
    return sums
