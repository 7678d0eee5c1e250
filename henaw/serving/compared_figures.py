"""What may be published of champion and challenger: estimates with 95 % intervals, and no cell under five rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import stdtrit

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation.suppression import publishable
from henaw.serving.tallies import Bins, Sums, Tally

STATUSES = ("ok", "warn", "abstain")
GAP_EDGES = (-10.0, -5.0, -2.0, 2.0, 5.0, 10.0)
DIFFERENCE_EDGES = (-5.0, -2.0, -1.0, -0.5, -0.1, 0.1, 0.5, 1.0, 2.0, 5.0)
_QUANTILES = {"years": (0.05, 0.5, 0.95), "seconds": (0.5, 0.95, 0.99)}
_LEAST_REQUESTS = 5  # behind an interval
_LEVEL = 0.975

Range = tuple[float, float, float]
"""Value and the ends of its 95 % interval."""


@dataclass(frozen=True)
class Spread:
    """How a figure is distributed over rows; None = rests on too little.

    Attributes:
        mean: with its interval, which is None by itself where there are too few requests.
        sd: between rows.
        quantiles: 5, 50 and 95 %, to a tenth of a year within 10 years of zero, to a year beyond.
        shares: of rows, by bin as ``-5 to -2``.
    """

    mean: float | None
    interval: tuple[float, float] | None
    sd: float | None
    quantiles: dict[str, float | None]
    shares: dict[str, float | None]


@dataclass(frozen=True)
class ArmFigures:
    """An arm of a split.

    Attributes:
        requests, rows: answered by it.
        status: rows by status.
        gap: the age gap, years, of rows that were answered.
        milliseconds: from the whole body to the answer, 50, 95 and 99 % of requests.
        unanswered: requests that ended in a 5xx.
        failed: requests at which the challenger raised and the champion answered instead.
    """

    requests: int
    rows: int
    status: dict[str, int | None]
    gap: Spread
    milliseconds: dict[str, float | None]
    unanswered: int
    failed: int


@dataclass(frozen=True)
class SplitFigures:
    """Both arms, and challenger less champion: value and ends of the interval; None where it rests on too little."""

    champion: ArmFigures
    challenger: ArmFigures
    differences: dict[str, Range | None]


@dataclass(frozen=True)
class ShadowFigures:
    """The same rows answered by both: challenger less champion.

    Attributes:
        requests, rows: compared.
        failed: requests at which the challenger raised.
        agreement: rows by status of the champion and of the challenger, as ``ok/warn``.
        difference: of biological age, years, where both answered.
        distance: mean absolute difference.
        milliseconds: of champion and challenger.
    """

    requests: int
    rows: int
    failed: int
    agreement: dict[str, int | None]
    difference: Spread
    distance: float | None
    milliseconds: dict[str, dict[str, float | None]]


def split_figures(champion: Tally, challenger: Tally) -> SplitFigures:
    """What may be said of an A/B."""
    arms = (_arm(champion), _arm(challenger))
    differences: dict[str, Range | None] = {"gap_years": _difference(champion.figure("gap"), challenger.figure("gap"))}
    for status in ("warn", "abstain"):
        counts = [arm.status[status] for arm in arms]
        enough = all(count is not None and count >= SMALLEST_CELL for count in counts)
        found = _difference(champion.figure(status), challenger.figure(status)) if enough else None
        differences[f"{status}_share"] = found
    return SplitFigures(*arms, differences)


def shadow_figures(tally: Tally) -> ShadowFigures:
    """What may be said of a shadow."""
    cells = {f"{one}/{other}": tally.counts[f"{one}/{other}"] for one in STATUSES for other in STATUSES}
    distance = tally.figure("distance")
    return ShadowFigures(
        tally.requests,
        tally.figure("rows").rows,
        tally.counts["failed"],
        _published(cells),
        _spread(tally, "difference", DIFFERENCE_EDGES),
        distance.mean if distance.rows >= SMALLEST_CELL else None,
        {name: _milliseconds(tally, name) for name in ("champion", "challenger")},
    )


def _arm(tally: Tally) -> ArmFigures:
    status = {name: tally.counts[name] for name in STATUSES}
    return ArmFigures(
        tally.requests,
        sum(status.values()),
        _published(status),
        _spread(tally, "gap", GAP_EDGES),
        _milliseconds(tally, "answer"),
        tally.counts["unanswered"],
        tally.counts["failed"],
    )


def _published(cells: Mapping[str, int]) -> dict[str, int | None]:
    """The cells of a partition; None for those withheld."""
    shown = publishable(cells)
    return {name: count if name in shown or count == 0 else None for name, count in cells.items()}


def _spread(tally: Tally, name: str, edges: Sequence[float]) -> Spread:
    sums, bins = tally.figure(name), tally.years.get(name, Bins("years"))
    enough = sums.rows >= SMALLEST_CELL
    found = _estimate(sums)
    ends = (float("-inf"), *edges, float("inf"))
    counts = {_range_name(low, high): bins.between(low, high) for low, high in pairwise(ends)}
    shares = {key: None if count is None else count / max(1, sums.rows) for key, count in _published(counts).items()}
    return Spread(
        sums.mean if enough else None,
        None if found is None else found[1:],
        sums.sd if enough else None,
        {f"{share:.0%}": bins.quantile(share) for share in _QUANTILES["years"]},
        shares if enough else dict.fromkeys(counts),
    )


def _range_name(low: float, high: float) -> str:
    if low == float("-inf"):
        return f"below {high:g}"
    return f"{low:g} and more" if high == float("inf") else f"{low:g} to {high:g}"


def _milliseconds(tally: Tally, name: str) -> dict[str, float | None]:
    bins = tally.seconds.get(name, Bins("seconds"))
    found = {f"{share:.0%}": bins.quantile(share) for share in _QUANTILES["seconds"]}
    return {key: None if value is None else value * 1000 for key, value in found.items()}


def _estimate(sums: Sums) -> Range | None:
    """Mean of a row with its interval, by requests."""
    if sums.rows < SMALLEST_CELL or sums.requests < _LEAST_REQUESTS:
        return None
    half = float(stdtrit(sums.requests - 1, _LEVEL)) * float(np.sqrt(sums.variance))
    return sums.mean, sums.mean - half, sums.mean + half


def _difference(first: Sums, second: Sums) -> Range | None:
    """Second less first of two independent means (Welch)."""
    if any(sums.rows < SMALLEST_CELL or sums.requests < _LEAST_REQUESTS for sums in (first, second)):
        return None
    parts = np.array([first.variance, second.variance])
    total = float(parts.sum())
    apart = second.mean - first.mean
    if total == 0.0:
        return apart, apart, apart
    freedom = total**2 / float((parts**2 / np.array([first.requests - 1, second.requests - 1])).sum())
    half = float(stdtrit(freedom, _LEVEL)) * total**0.5
    return apart, apart - half, apart + half
