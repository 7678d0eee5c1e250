"""What adults' biomarkers are like: quantiles of NHANES, against which medians' drift and unit mistakes are judged.

Run ``python -m henaw.validation.reference TABLE`` with the NHANES participant table (``nhanes_adults.csv.gz``) after a
change of ``biomarkers.yaml``; ``git diff mlproject/panels/reference.yaml`` is what gets reviewed. Only summary numbers
are written: each quantile is a weighted mean of order statistics over dozens of people (Harrell & Davis 1982), rounded.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats.mstats import hdquantiles

from henaw.config import asset_folder
from henaw.data.files import write_atomically
from henaw.data.panel import Biomarker, load_biomarkers, read_yaml
from henaw.data.table import read_table
from henaw.errors import BadInput

REFERENCE_FILE = "reference.yaml"
LEVELS = (0.001, 0.1, 0.25, 0.5, 0.75, 0.9, 0.999)

_HEAD = """\
# Quantiles of each biomarker among adults, in its canonical unit: {levels}.
# NHANES III and 1999-2010 (National Center for Health Statistics, public domain): examined adults, unweighted, without
# implausible values. Each number is a weighted mean over dozens of people.
# Written by `python -m henaw.validation.reference TABLE`.
"""


@dataclass(frozen=True)
class Reference:
    """Quantiles of one biomarker among adults, at ``LEVELS``, in its canonical unit."""

    quantiles: tuple[float, ...]

    @property
    def extremes(self) -> tuple[float, float]:
        """The 0.1 % and 99.9 % quantiles: what an adult's value may well be."""
        return self.quantiles[0], self.quantiles[-1]

    @property
    def usual_median(self) -> tuple[float, float]:
        """The 10 % and 90 % quantiles: where the median of a whole cohort may well lie."""
        return self.quantiles[1], self.quantiles[-2]

    @property
    def quartiles(self) -> tuple[float, float, float]:
        """The quartiles."""
        return self.quantiles[2], self.quantiles[3], self.quantiles[4]


def load_reference(folder: Path) -> dict[str, Reference]:
    """Every biomarker that ``folder/reference.yaml`` (``mlproject/panels``) describes, by name.

    Raises:
        BadInput: an entry that is not as many ascending numbers as there are levels.
    """
    known = {}
    for name, numbers in read_yaml(folder / REFERENCE_FILE).items():
        fine = isinstance(numbers, list) and len(numbers) == len(LEVELS)
        if not (fine and all(isinstance(number, int | float) for number in numbers) and numbers == sorted(numbers)):
            raise BadInput(f"{REFERENCE_FILE}: {name}: expected {len(LEVELS)} numbers in ascending order")
        known[str(name)] = Reference(tuple(map(float, numbers)))
    return known


def reference_text(table: pd.DataFrame, markers: Mapping[str, Biomarker]) -> str:
    """The content of ``reference.yaml`` from a participant table, one marker a line."""
    lines = [_HEAD.format(levels=", ".join(f"{level:.1%}".replace(".0%", "%") for level in LEVELS))]
    for name, marker in markers.items():
        values = table[name][table[name].between(*marker.plausible)].to_numpy()
        numbers = ", ".join(f"{number:.3g}" for number in np.asarray(hdquantiles(values, LEVELS)))
        lines.append(f"{name}: [{numbers}]\n")
    return "".join(lines)


def main() -> None:
    """Write ``reference.yaml`` anew from the table that is named on the command line."""
    if len(sys.argv) != 2:
        raise SystemExit("expected: python -m henaw.validation.reference TABLE")
    folder = asset_folder("mlproject") / "panels"
    markers = load_biomarkers(folder)
    text = reference_text(read_table(Path(sys.argv[1]), numbers=list(markers)), markers)

    def write(temporary: Path) -> None:
        temporary.write_text(text, encoding="utf-8")

    write_atomically(folder / REFERENCE_FILE, write, mode=0o644)


if __name__ == "__main__":
    main()
