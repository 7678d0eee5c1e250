"""Two clocks of one kind on the same people: the figures of each and their paired differences, overall and by group.

Everything is resampled together, person by person, so that what both clocks find hard cancels in the difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.evaluation.bootstrap import Bootstrapped, Estimate, Statistic, among, bootstrap, mean_of, people_in
from henaw.evaluation.concordance import concordance_of
from henaw.evaluation.evaluate import own_prediction
from henaw.evaluation.prediction import LEAST_DEATHS, People, Prediction
from henaw.evaluation.subgroups import age_bands
from henaw.evaluation.suppression import publishable
from henaw.evaluation.survival import calibration_of, integrated_brier_of
from henaw.model.clock import Clock, Target
from henaw.training.fit import people_arrays

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

CHAMPION, CHALLENGER = "champion", "challenger"
EVERYONE = "everyone"
COVERAGE = 0.9
_SCORES = ("crps_years", "mae_years", "coverage_90", "mean_gap_years")


@dataclass(frozen=True, eq=False)
class Pair:
    """What two clocks say of the same n people; without a champion, one clock alone.

    Attributes:
        target: of both.
        people: the truth.
        participants: whose row it is, shape (n,).
        sex: ``female``, ``male`` or missing, shape (n,).
        champion, challenger: their words.
    """

    target: Target
    people: People
    participants: NDArray[np.object_]
    sex: NDArray[np.object_]
    champion: Prediction | None
    challenger: Prediction


@dataclass(frozen=True)
class Group:
    """Figures of the people of a group.

    Attributes:
        partition, name: ``sex`` and ``female``; ``everyone`` twice for all of them.
        people, deaths: how many, the deaths among those followed.
        champion, challenger: figures by name.
        difference: challenger less champion, paired.
    """

    partition: str
    name: str
    people: int
    deaths: int
    champion: Mapping[str, Estimate]
    challenger: Mapping[str, Estimate]
    difference: Mapping[str, Estimate]


@dataclass(frozen=True)
class Comparison:
    """The figures of a pair, everyone first; groups too small to be published are not among them."""

    target: Target
    groups: tuple[Group, ...]

    @property
    def everyone(self) -> Group:
        """The figures of all people together."""
        return self.groups[0]


def pair_of(champion: Clock | None, challenger: Clock, table: pd.DataFrame) -> Pair:
    """Both clocks on the people of a clean participant table that has the columns of both."""
    people = People.of(table)
    said = [None if clock is None else _prediction(clock, table, people) for clock in (champion, challenger)]
    assert said[1] is not None
    participants, sex = (table[name].to_numpy(dtype=object) for name in ("participant", "sex"))
    return Pair(challenger.target, people, participants, sex, said[0], said[1])


def compare(pair: Pair, draws: int, seed: int) -> Comparison:
    """All figures of ``pair`` with 95 % intervals from one bootstrap of ``draws`` cohorts; the same every time."""
    everyone = np.ones(len(pair.participants), dtype=np.bool_)
    partitions: dict[str, Mapping[str, Rows]] = {EVERYONE: {EVERYONE: everyone}}
    partitions["sex"] = {name: pair.sex == name for name in ("female", "male")}
    partitions["age"] = age_bands(pair.people.age)
    if pair.challenger.age is not None:  # coverage by true age falls short at both ends, however good the clock
        partitions["predicted age"] = age_bands(pair.challenger.age)
    clocks = {CHAMPION: pair.champion, CHALLENGER: pair.challenger}
    statistics: dict[tuple[str, str, str, str], Statistic] = {}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    for partition, groups in partitions.items():
        counted = {name: people_in(pair.participants, rows) for name, rows in groups.items()}
        for name in (name for name in groups if name in publishable(counted)):
            rows = groups[name]
            deaths = int(pair.people.died[rows & pair.people.followed].sum())
            sizes[partition, name] = (counted[name], deaths)
            for whose, said in clocks.items():
                if said is not None:
                    found = _statistics(said, pair, rows)
                    statistics |= {(partition, name, whose, figure): found[figure] for figure in found}
    keys = {"/".join(key): key for key in statistics}
    drawn = bootstrap({text: statistics[key] for text, key in keys.items()}, pair.participants, draws=draws, seed=seed)
    by_key = {key: drawn[text] for text, key in keys.items()}
    return Comparison(pair.target, tuple(_group(key, size, by_key) for key, size in sizes.items()))


def _prediction(clock: Clock, table: pd.DataFrame, people: People) -> Prediction:
    return own_prediction(clock, clock.predict(*people_arrays(table, clock.panel)), people, [COVERAGE])


def _statistics(said: Prediction, pair: Pair, rows: Rows) -> dict[str, Statistic]:
    people = pair.people
    found = {name: among(rows, mean_of(said.scores[name][rows])) for name in _SCORES if name in said.scores}
    if said.mean is not None and np.ptp(said.mean[rows]) > 0:  # medians are spread out more where ages have bounds
        found["calibration_slope"] = among(rows, slope_of(said.mean[rows], people.age[rows]))
    seen = rows & people.followed
    if said.rank is None or people.died[seen].sum() < LEAST_DEATHS:
        return found
    years, died = people.years[seen], people.died[seen]
    found["concordance"] = among(seen, concordance_of(said.rank[seen], years, died))
    grid = people.brier_grid()
    if said.survival is not None and len(grid) and years.max() > grid.max():
        found["brier"] = among(seen, integrated_brier_of(said.survival[seen], grid, years, died))
    for horizon, risk in said.risks.items():
        if people.reaches(horizon):
            found[f"observed_expected_{horizon}y"] = among(seen, calibration_of(risk[seen], years, died, horizon))
    return found


def slope_of(x: Array, y: Array) -> Statistic:
    """Slope of the regression of ``y`` (n,) on ``x`` (n,): 1 where a prediction x of y is calibrated."""
    x, y = x - x.mean(), y - y.mean()
    moments = mean_of(np.stack([x, y, x * x, x * y], axis=1))

    def statistic(weights: Array) -> Array:
        mean_x, mean_y, xx, xy = moments(weights).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((xy - mean_x * mean_y) / (xx - mean_x**2))

    return statistic


def _group(
    key: tuple[str, str], size: tuple[int, int], drawn: Mapping[tuple[str, str, str, str], Bootstrapped]
) -> Group:
    figures = {
        whose: {name: found for (*place, owner, name), found in drawn.items() if (*place,) == key and owner == whose}
        for whose in (CHAMPION, CHALLENGER)
    }
    theirs, ours = figures[CHAMPION], figures[CHALLENGER]
    return Group(
        *key,
        *size,
        champion={name: found.estimate() for name, found in theirs.items()},
        challenger={name: found.estimate() for name, found in ours.items()},
        difference={name: (ours[name] - theirs[name]).estimate() for name in ours if name in theirs},
    )
