"""Sums over rows that came in requests: they can be added up, written down, and hold no row.

Whoever is asked about together is not independent, and an arm is drawn for a request, not for a row: the interval of a
mean is that of a ratio of sums over requests (linearized; Cochran, Sampling Techniques, 3rd ed., section 6.3).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL

Array = NDArray[np.float64]

_POSITIVE = np.concatenate([np.arange(1, 101) / 10, np.arange(11.0, 51.0)])
YEARS = np.concatenate([-_POSITIVE[::-1], _POSITIVE])
"""Edges of the bins of differences and gaps; the middle one is centered on zero."""
SECONDS = 1e-4 * 1.1 ** np.arange(130)
"""Edges of the bins of times: from 0.1 ms to 22 s, each a tenth longer."""
_EDGES = {"years": YEARS, "seconds": SECONDS}


@dataclass
class Sums:
    """Of a figure: n rows in k requests.

    Attributes:
        requests: k, with at least one row.
        rows: n.
        total, squares: of the figure and its square, over rows.
        rows2, total2, cross: over requests, of rows², total² and rows·total of each.
    """

    requests: int = 0
    rows: int = 0
    total: float = 0.0
    squares: float = 0.0
    rows2: float = 0.0
    total2: float = 0.0
    cross: float = 0.0

    def add(self, rows: int, total: float, squares: float) -> None:
        """Count a request; one without rows does not count."""
        if rows:
            self.merge(Sums(1, rows, total, squares, rows * rows, total * total, rows * total))

    def merge(self, other: Sums) -> None:
        """Add all of ``other``."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)

    @property
    def mean(self) -> float:
        """Of a row; NaN where there is none."""
        return self.total / self.rows if self.rows else float("nan")

    @property
    def sd(self) -> float:
        """Between rows; NaN below two."""
        if self.rows < 2:
            return float("nan")
        return float(np.sqrt(max(0.0, self.squares - self.total * self.mean) / (self.rows - 1)))

    @property
    def variance(self) -> float:
        """Of the mean; NaN below two requests."""
        if self.requests < 2:
            return float("nan")
        residuals = self.total2 - 2 * self.mean * self.cross + self.mean**2 * self.rows2
        return max(0.0, residuals) / self.rows**2 * self.requests / (self.requests - 1)


@dataclass
class Bins:
    """Counts of values in fixed bins, so that any two may be added."""

    unit: str
    counts: NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        """All empty."""
        self.counts = np.zeros(len(_EDGES[self.unit]) + 1, dtype=np.int64)

    def add(self, values: Array) -> None:
        """Count ``values``."""
        np.add.at(self.counts, np.searchsorted(_EDGES[self.unit], values, side="right"), 1)

    def between(self, low: float, high: float) -> int:
        """How many values lie from ``low`` (included) to ``high``, both edges."""
        first, last = np.searchsorted(_EDGES[self.unit], [low, high], side="left") + 1
        return int(self.counts[first:last].sum() if np.isfinite(low) else self.counts[:last].sum())

    def quantile(self, share: float) -> float | None:
        """The middle of the bin that holds the quantile; None where it would rest on fewer than five values."""
        total = int(self.counts.sum())
        if total * min(share, 1 - share) < SMALLEST_CELL:
            return None
        edges = _EDGES[self.unit]
        found = int(np.searchsorted(np.cumsum(self.counts), share * total))
        low, high = edges[max(0, found - 1)], edges[min(len(edges) - 1, found)]
        return float((low + high) / 2)


@dataclass
class Tally:
    """What is counted of one arm, or of a pair: requests, events by name, figures and distributions."""

    requests: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    figures: dict[str, Sums] = field(default_factory=dict)
    years: dict[str, Bins] = field(default_factory=dict)
    seconds: dict[str, Bins] = field(default_factory=dict)

    @property
    def may_leave(self) -> bool:
        """Whether no figure rests on one to four rows."""
        return all(not 0 < sums.rows < SMALLEST_CELL for sums in self.figures.values())

    def figure(self, name: str) -> Sums:
        """The sums of a figure."""
        return self.figures.setdefault(name, Sums())

    def add_years(self, name: str, values: Array) -> None:
        """Count a request's values of a figure, in years."""
        self.figure(name).add(len(values), float(values.sum()), float(np.square(values).sum()))
        self.years.setdefault(name, Bins("years")).add(values)

    def add_seconds(self, name: str, value: float) -> None:
        """Count a time."""
        self.seconds.setdefault(name, Bins("seconds")).add(np.array([value]))

    def add_status(self, status: Iterable[str]) -> None:
        """Count a request's rows by status, and how many were warned about or abstained from."""
        found = Counter(status)
        rows = found.total()
        self.counts.update(found)
        for name in ("warn", "abstain"):
            self.figure(name).add(rows, found[name], found[name])

    def merge(self, other: Tally) -> None:
        """Add all of ``other``."""
        self.requests += other.requests
        self.counts.update(other.counts)
        for name, sums in other.figures.items():
            self.figure(name).merge(sums)
        for unit in ("years", "seconds"):
            mine, theirs = getattr(self, unit), getattr(other, unit)
            for name, bins in theirs.items():
                mine.setdefault(name, Bins(unit)).counts += bins.counts

    def to_json(self) -> dict[str, Any]:
        """As JSON; empty bins are left out."""
        return {
            "requests": self.requests,
            "counts": dict(self.counts),
            "figures": {name: vars(sums) for name, sums in self.figures.items()},
            "years": {name: _sparse(bins) for name, bins in self.years.items()},
            "seconds": {name: _sparse(bins) for name, bins in self.seconds.items()},
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tally:
        """What ``to_json`` wrote; ``KeyError``, ``TypeError``, ``ValueError`` or ``IndexError`` where it did not."""
        figures = {name: Sums(**sums) for name, sums in value["figures"].items()}
        bins = {
            unit: {name: _dense(unit, counts) for name, counts in value[unit].items()} for unit in ("years", "seconds")
        }
        return cls(int(value["requests"]), Counter(value["counts"]), figures, bins["years"], bins["seconds"])


def _sparse(bins: Bins) -> dict[str, int]:
    return {str(position): int(bins.counts[position]) for position in np.flatnonzero(bins.counts)}


def _dense(unit: str, counts: Mapping[str, int]) -> Bins:
    bins = Bins(unit)
    for position, count in counts.items():
        bins.counts[int(position)] = count
    return bins
