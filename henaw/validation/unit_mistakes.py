"""Values that look as if they stood in another unit: reported, never converted.

For each other unit of a marker (``mlproject/panels/units.yaml``) there are two ways to go wrong: a value in that unit
was taken for canonical, or a canonical one was taken for that unit and converted. Mending either gives back a value
as adults have them (``mlproject/panels/reference.yaml``), and that is what is looked for:

* in a column, by its quartiles, which lie far closer to the reference's when mended. Any unit shows that way.
* in a value alone, by its being outside of what adults have (0.1 % to 99.9 %) and inside when mended. That
  can only tell units whose factor exceeds that range; ``tellable`` knows. CRP's tenfold, for one, does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.panel import Biomarker
from henaw.data.units import Conversion, load_conversions
from henaw.validation.reference import Reference, load_reference

Floats = NDArray[np.float64]
Way = Literal["unconverted", "converted twice"]

LEAST_VALUES = 20  # quartiles of fewer say little
_MUCH_CLOSER = 0.5  # a column is suspected where mending leaves less than this of its distance from the reference …
_CLOSE = np.log(3.0)  # … and the reference is near then: quartiles within about a factor of three
_TINY = 1e-300


@dataclass(frozen=True)
class Mistake:
    """One way in which a marker's values may be in another unit than the canonical one."""

    conversion: Conversion
    way: Way

    @property
    def description(self) -> str:
        """What the values are then."""
        if self.way == "unconverted":
            return f"look like {self.conversion.unit}"
        return f"look converted from {self.conversion.unit} once too often"

    def mended(self, values: Floats) -> Floats:
        """``values`` as they would be in the canonical unit, had this mistake been made (maybe infinite)."""
        with np.errstate(over="ignore"):
            if self.way == "unconverted":
                return self.conversion.to_canonical(values)
            return self.conversion.from_canonical(values)

    def made(self, values: Floats) -> Floats:
        """Canonical ``values`` after this mistake."""
        if self.way == "unconverted":
            return self.conversion.from_canonical(values)
        return self.conversion.to_canonical(values)

    def tellable(self, reference: Reference) -> bool:
        """Whether no adult's value is left within what adults have once this mistake is made."""
        low, high = self.made(np.array(reference.extremes))
        return bool(high < reference.extremes[0] or low > reference.extremes[1])


@dataclass(frozen=True)
class Suspicion:
    """``rows`` of ``checked`` values of ``marker`` look as ``mistake`` makes them; ``whole``: the column as such."""

    marker: str
    unit: str
    mistake: Mistake
    checked: int
    rows: int
    whole: bool

    @property
    def mending(self) -> str:
        """What to do where the suspicion is true."""
        if self.mistake.way == "unconverted":
            return f"if so, set source.units: {{{self.marker}: {self.mistake.conversion.unit}}}" if self.whole else ""
        return f"if so, drop {self.marker} from source.units, or what converted it before" if self.whole else ""


@dataclass(frozen=True)
class UnitDetector:
    """What it takes to suspect: the mistakes to look for, and what adults have, by marker."""

    units: Mapping[str, str]
    mistakes: Mapping[str, tuple[Mistake, ...]]
    references: Mapping[str, Reference]

    @classmethod
    def of(cls, markers: Sequence[Biomarker], folder: Path) -> UnitDetector:
        """The detector for ``markers``, from the files in ``folder`` (``mlproject/panels``).

        A marker without known units or without a reference is never suspected.

        Raises:
            BadInput: a file that cannot be used.
        """
        known, references = load_conversions(folder), load_reference(folder)
        ways: tuple[Way, ...] = ("unconverted", "converted twice")
        return cls(
            {marker.name: marker.unit for marker in markers},
            {
                marker.name: tuple(
                    Mistake(one, way) for one in known.get(marker.name, ()) if not one.is_identity for way in ways
                )
                for marker in markers
                if marker.name in references
            },
            references,
        )

    def in_table(self, table: pd.DataFrame) -> tuple[Suspicion, ...]:
        """What is suspected in the columns of ``table``: for each marker its column, or else values in it."""
        found: list[Suspicion] = []
        for name, mistakes in self.mistakes.items():
            if name not in table or table[name].dtype != np.float64:
                continue
            column = table[name].to_numpy()
            values = column[np.isfinite(column)]
            whole = self._column(name, values)
            if whole is not None:
                found.append(Suspicion(name, self.units[name], whole, len(values), len(values), whole=True))
                continue
            chosen = self.in_values(name, values)
            for position, mistake in enumerate(mistakes):
                if rows := int(np.count_nonzero(chosen == position)):
                    found.append(Suspicion(name, self.units[name], mistake, len(values), rows, whole=False))
        return tuple(found)

    def in_row(self, values: Mapping[str, float]) -> dict[str, Mistake]:
        """The mistake that one person's ``values`` (in canonical units) look like, by marker; usually empty."""
        found = {}
        for name, mistakes in self.mistakes.items():
            value, (low, high) = values.get(name, np.nan), self.references[name].extremes
            if np.isfinite(value) and not low <= value <= high:  # in_values says the same, slower
                [position] = self.in_values(name, np.array([value], dtype=np.float64))
                if position >= 0:
                    found[name] = mistakes[position]
        return found

    def in_values(self, name: str, values: Floats) -> NDArray[np.int8]:
        """For each of ``values`` the position of its likeliest mistake, -1 where none is suspected."""
        reference = self.references[name]
        low, high = reference.extremes
        chosen = np.full(len(values), -1, dtype=np.int8)
        odd = np.flatnonzero((values < low) | (values > high))
        nearest = np.full(len(odd), np.inf)
        for position, mistake in enumerate(self.mistakes[name]):
            if not mistake.tellable(reference):
                continue
            mended = mistake.mended(values[odd])
            inside = (mended >= low) & (mended <= high)
            distance = np.where(inside, np.abs(np.log(np.maximum(mended, _TINY) / reference.quartiles[1])), np.inf)
            chosen[odd[distance < nearest]] = position
            nearest = np.minimum(nearest, distance)
        return chosen

    def _column(self, name: str, values: Floats) -> Mistake | None:
        if len(values) < LEAST_VALUES:
            return None
        usual = np.log(self.references[name].quartiles)

        def distance(quartiles: Floats) -> float:
            return float(np.abs(np.log(np.maximum(quartiles, _TINY)) - usual).mean())

        quartiles = np.quantile(values, (0.25, 0.5, 0.75))
        mended = {mistake: distance(mistake.mended(quartiles)) for mistake in self.mistakes[name]}
        if not mended:
            return None
        nearest = min(mended, key=lambda mistake: mended[mistake])
        suspect = mended[nearest] < min(_MUCH_CLOSER * distance(quartiles), _CLOSE)
        return nearest if suspect else None
