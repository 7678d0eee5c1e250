"""What is usual at a person's sex and age: the median of every marker among the training people.

Attribution measures a person's markers against it. A median is stored with the clock only where at least five people
stand behind it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL

Array = NDArray[np.float64]

BAND_YEARS = 10


@dataclass(frozen=True)
class ReferenceMedians:
    """Medians of the markers by sex and band of age.

    Attributes:
        edges: ages at which a band ends and the next begins, years, ascending, (B − 1,).
        medians: in canonical units, (2, B, m), first women; NaN where fewer than five people have the marker at all.
    """

    edges: Array
    medians: Array

    def of(self, sex: Array, age: Array) -> Array:
        """Medians (n, m) for people of ``sex`` (n,) 0 or 1 and ``age`` (n,) years; NaN where either is unknown."""
        known = np.isfinite(sex) & np.isfinite(age)
        found = np.full((len(sex), self.medians.shape[2]), np.nan)
        band = np.searchsorted(self.edges, age[known], side="right")
        found[known] = self.medians[sex[known].astype(np.intp), band]
        return found


def fit_reference(biomarkers: Array, sex: Array, age: Array) -> ReferenceMedians:
    """Medians of ``biomarkers`` (n, m), NaN = missing, by ``sex`` (n,) and band of ``age`` (n,).

    A cell in which fewer than five people have a marker gets the median of the sex, and that, where the sex too has
    fewer, the median of everyone.
    """
    edges = np.arange(np.floor(age.min() / BAND_YEARS) + 1, np.floor(age.max() / BAND_YEARS) + 1) * BAND_YEARS
    band = np.searchsorted(edges, age, side="right")
    everyone = _medians(biomarkers, np.full(biomarkers.shape[1], np.nan))
    medians = np.empty((2, len(edges) + 1, biomarkers.shape[1]))
    for code in range(2):
        of_sex = _medians(biomarkers[sex == code], everyone)
        for number in range(len(edges) + 1):
            medians[code, number] = _medians(biomarkers[(sex == code) & (band == number)], of_sex)
    return ReferenceMedians(edges, medians)


def _medians(biomarkers: Array, otherwise: Array) -> Array:
    """Median of each marker that at least ``SMALLEST_CELL`` of the rows have, ``otherwise`` (m,) of the rest."""
    result = otherwise.copy()
    enough = np.isfinite(biomarkers).sum(axis=0) >= SMALLEST_CELL
    result[enough] = np.nanmedian(biomarkers[:, enough], axis=0)
    return result
