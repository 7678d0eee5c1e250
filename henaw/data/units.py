"""Units: what a source's values must be multiplied by to stand in the canonical units of the panel.

Every conversion stands in ``mlproject/panels/units.yaml``, marker by marker: molar masses and the two scales of HbA1c
are facts about a marker, which no library of units knows. What such a library knows beyond them is powers of ten.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.panel import Biomarker, load_biomarkers, read_yaml
from henaw.errors import BadInput

UNITS_FILE = "units.yaml"

Values = TypeVar("Values", float, NDArray[np.float64], "pd.Series[Any]")

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


@dataclass(frozen=True)
class Conversion:
    """From ``unit`` to a marker's canonical unit: ``factor × (value − zero)``."""

    unit: str
    factor: float
    zero: float = 0.0

    @property
    def is_identity(self) -> bool:
        """Whether ``unit`` is the canonical one under another name."""
        return self.factor == 1 and self.zero == 0

    def to_canonical(self, values: Values) -> Values:
        """``values`` in ``unit``, in the canonical unit; NaN stays NaN."""
        return self.factor * (values - self.zero)

    def from_canonical(self, values: Values) -> Values:
        """``values`` in the canonical unit, in ``unit``; NaN stays NaN."""
        return values / self.factor + self.zero


def load_conversions(folder: Path) -> dict[str, tuple[Conversion, ...]]:
    """The known other units of each biomarker, as ``folder/units.yaml`` (``mlproject/panels``) has them.

    Raises:
        BadInput: an entry that is no factor, nor factor and zero.
    """
    known = {}
    for name, units in read_yaml(folder / UNITS_FILE).items():
        if not isinstance(units, dict):
            raise BadInput(f"{UNITS_FILE}: {name}: expected unit: factor")
        known[str(name)] = tuple(_conversion(str(name), str(unit), numbers) for unit, numbers in units.items())
    return known


def chosen_conversions(
    units: Mapping[str, str], biomarkers: Iterable[Biomarker], folder: Path
) -> dict[str, Conversion]:
    """The conversion that each entry of ``source.units`` asks for.

    Args:
        units: unit of the source by the biomarker's name; spelling does not count (``µmol/L`` is ``umol/l``).
        biomarkers: those that are read of the source.
        folder: ``mlproject/panels``.

    Raises:
        BadInput: a marker that is not read, an unknown unit, or one that the marker cannot be converted from.
    """
    known = load_conversions(folder) if units else {}
    read = {marker.name: marker for marker in biomarkers}
    chosen = {}
    for name, unit in units.items():
        if name not in read:
            raise BadInput(f"source.units: {name} is not read; expected a biomarker that is{_nearest(name, read)}")
        canonical = Conversion(read[name].unit, 1.0)
        options = (canonical, *known.get(name, ()))
        found = [option for option in options if _spelling(option.unit) == _spelling(unit)]
        if not found:
            elsewhere = {_spelling(option.unit) for others in known.values() for option in others}
            elsewhere |= {_spelling(marker.unit) for marker in load_biomarkers(folder).values()}
            names = [option.unit for option in options]
            fault = f"cannot be converted to {canonical.unit}" if _spelling(unit) in elsewhere else "is no known unit"
            raise BadInput(
                f"source.units: {name}: {unit!r} {fault}; expected {' or '.join(names)}{_nearest(unit, names)}"
            )
        chosen[name] = found[0]
    return chosen


def convert(table: pd.DataFrame, conversions: Mapping[str, Conversion]) -> None:
    """Bring the columns of ``table`` that ``conversions`` name into their canonical units, in place."""
    for name, conversion in conversions.items():
        table[name] = conversion.to_canonical(table[name])


def _conversion(name: str, unit: str, numbers: Any) -> Conversion:
    parts = numbers if isinstance(numbers, list) else [numbers, 0]
    if len(parts) != 2 or not all(isinstance(part, int | float) for part in parts) or parts[0] <= 0:
        raise BadInput(f"{UNITS_FILE}: {name}: {unit}: expected a factor above zero, or [factor, zero]")
    return Conversion(unit, float(parts[0]), float(parts[1]))


def _spelling(unit: str) -> str:
    """``unit`` without what people write differently: case, blanks, the micro sign, powers, IU for U."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹]+", lambda found: "^" + found[0].translate(_SUPERSCRIPTS), unit)
    text = re.sub(r"\s+", "", text.lower()).replace("μ", "µ").replace("mcg", "ug").replace("mcmol", "umol")
    text = re.sub("µ(?=[a-z])", "u", text).removeprefix("×").removeprefix("x")
    text = re.sub(r"^10(?:e|\*\*?)(?=\d)", "10^", text).removeprefix("cells")
    return {"percent": "%", "pct": "%", "um3": "um^3"}.get(text, re.sub("^iu/", "u/", text))


def _nearest(name: str, options: Iterable[str]) -> str:
    # by spelling, so that a unit is not taken for another one because of its case
    spelled = {option.lower(): option for option in options}
    found = difflib.get_close_matches(name.lower(), list(spelled), n=1, cutoff=0.5)
    return f" (nearest: {spelled[found[0]]})" if found else ""
