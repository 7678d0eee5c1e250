"""Which markers make a person's biological age what it is.

A marker's share is the biological age as measured, less the biological age with that marker, and the features that it
enters, at the median of the person's sex and age band: positive where the marker makes the person older. An organ
system's share is the same with all its markers at their medians together. Markers act together in the network, so
shares need not add up to what all of them do together; what is left is reported, not spread.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from henaw.model.clock import Clock
from henaw.model.features import raw_features

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Attribution:
    """Shares of n people's biological age, in years; NaN throughout for who has no sex or age.

    Attributes:
        by_marker: (n, m) in the panel's order; 0 for a marker that the person lacks.
        by_organ: (n, o) in the order of ``organs``.
        organs: the panel's organ systems.
        total: of all markers at their medians together, (n,).
        interaction: ``total`` less the sum of ``by_marker``, (n,): what the markers do only in company.
    """

    by_marker: Array
    by_organ: Array
    organs: tuple[str, ...]
    total: Array
    interaction: Array


def attribute(clock: Clock, biomarkers: Array, sex: Array, age: Array) -> Attribution:
    """Divide the biological age that ``clock`` reports among markers and organ systems.

    Args:
        clock: the fitted clock, with the medians of its training people.
        biomarkers: canonical units, (n, m) in the panel's order, NaN = missing.
        sex: (n,), 0 = female, 1 = male, NaN = unknown.
        age: chronological, years, (n,), NaN = unknown.
    """
    markers = clock.panel.biomarkers
    organs = tuple(dict.fromkeys(marker.organ for marker in markers))
    known = np.isfinite(sex) & np.isfinite(age)
    medians = clock.reference.of(sex, age)
    # a marker that the network cannot see, or nobody's median can stand in for, stays as it is
    replaceable = np.isfinite(raw_features(clock.panel, biomarkers)[:, : len(markers)]) & np.isfinite(medians)

    def median_age(replaced: NDArray[np.bool_]) -> Array:
        changed = np.where(replaceable & replaced, medians, biomarkers)
        return clock.predict(changed, sex, np.where(known, age, 0.0)).median

    as_measured = median_age(np.zeros(len(markers), dtype=bool))

    def share(replaced: NDArray[np.bool_]) -> Array:
        return np.where(known, as_measured - median_age(replaced), np.nan)

    def shares(groups: list[NDArray[np.bool_]]) -> Array:
        return np.stack([share(group) for group in groups], axis=1)

    by_marker = shares(list(np.eye(len(markers), dtype=bool)))
    by_organ = shares([np.array([marker.organ == organ for marker in markers]) for organ in organs])
    total = share(np.ones(len(markers), dtype=bool))
    return Attribution(by_marker, by_organ, organs, total, total - by_marker.sum(axis=1))
