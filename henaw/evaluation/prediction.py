"""What any clock, ours or a reference, says of the people it is judged on, and the figures that follow."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.errors import BadInput
from henaw.evaluation.bootstrap import Statistic, among, correlation_of, mean_of
from henaw.evaluation.concordance import concordance_of
from henaw.evaluation.cox import hazard_ratio_of, standardized_gap
from henaw.evaluation.survival import calibration_of, integrated_brier_of
from henaw.model.hazard import MONTHS

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

LEAST_DEATHS = 20  # with fewer no figure of survival is worth its interval
LEAST_FOLLOWED = 20  # people followed beyond a horizon for risk up to it to be judged
BRIER_STEP_YEARS = 0.5
BRIER_YEARS = 10.0


@dataclass(frozen=True)
class People:
    """The truth about n people; all arrays (n,).

    Attributes:
        age: chronological, years.
        male: 1 or 0, NaN where sex is not stated.
        years, died: follow-up, NaN where it is not known.
        followed: of whom survival is judged: follow-up and sex are known; nobody where too few died.
    """

    age: Array
    male: Array
    years: Array
    died: Array
    followed: Rows

    @classmethod
    def of(cls, table: pd.DataFrame) -> People:
        """The people of a participant table; ``died`` and ``followup_months`` may be absent."""
        unknown = pd.Series(np.nan, index=table.index)
        died = np.asarray(table.get("died", unknown), dtype=np.float64)
        years = np.asarray(table.get("followup_months", unknown), dtype=np.float64) / MONTHS
        male = np.asarray(table["sex"].map({"female": 0.0, "male": 1.0}), dtype=np.float64)
        followed = np.isfinite(died) & np.isfinite(years) & np.isfinite(male)
        if died[followed].sum() < LEAST_DEATHS or len(np.unique(male[followed])) < 2:
            followed[:] = False
        return cls(np.asarray(table["age_years"], dtype=np.float64), male, years, died, followed)

    def reaches(self, horizon: float) -> bool:
        """Whether people enough were followed for longer than ``horizon`` years, and enough died before."""
        seen = self.followed
        within = (self.died > 0) & (self.years <= horizon)
        return bool((self.years[seen] > horizon).sum() >= LEAST_FOLLOWED and within[seen].sum() >= LEAST_DEATHS)

    def brier_grid(self) -> Array:
        """Half-years (q,) up to ten, or to where follow-up thins out; empty where nobody is followed."""
        if not self.followed.any():
            return np.empty(0)
        grid = BRIER_STEP_YEARS * np.arange(1.0, BRIER_YEARS / BRIER_STEP_YEARS + 1)
        return np.asarray(grid[grid < np.sort(self.years[self.followed])[-LEAST_FOLLOWED:][0]])


@dataclass(frozen=True)
class Prediction:
    """One clock's word on n people; NaN where it has none.

    Attributes:
        title: what a person reads.
        scores: what is known of each person (n,), by the name of the mean.
        age: predicted age in years (n,), to be correlated with chronological age; None where that means nothing.
        rank: any score that rises with risk, (n,), whose excess over what age explains is the gap.
        survival: probability to live ``grid`` (q,) years more, (n, q).
        risks: probability of dying within the years, (n,), by the years.
        mean: of the predictive distribution of age in years (n,); None where nothing is said of it.
        reads_age: whether it is told chronological age, so that its error in predicting it says nothing.
    """

    title: str
    scores: dict[str, Array] = field(default_factory=dict)
    age: Array | None = None
    rank: Array | None = None
    survival: Array | None = None
    risks: dict[int, Array] = field(default_factory=dict)
    mean: Array | None = None
    reads_age: bool = True

    def answered(self) -> Rows:
        """Of whom it says something at all, (n,)."""
        said = [*self.scores.values(), *(values for values in (self.age, self.rank) if values is not None)]
        return np.asarray(np.isfinite(said).all(axis=0))

    def statistics(self, people: People, rows: Rows) -> dict[str, Statistic]:
        """Its figures on the people in ``rows`` (n,), as functions of the weights of all n."""
        found = {name: among(rows, mean_of(values[rows])) for name, values in self.scores.items()}
        if self.age is not None:
            found["r"] = among(rows, correlation_of(self.age[rows], people.age[rows]))
        seen = rows & people.followed
        if self.rank is not None and people.died[seen].sum() >= LEAST_DEATHS:
            found |= {name: among(seen, statistic) for name, statistic in self._survival(people, seen).items()}
        return found

    def _survival(self, people: People, seen: Rows) -> dict[str, Statistic]:
        assert self.rank is not None
        rank, age, years, died = self.rank[seen], people.age[seen], people.years[seen], people.died[seen]
        found = {"concordance": concordance_of(rank, years, died)}
        if np.ptp(age) > 0 and np.corrcoef(rank, age)[0, 1] < 1 - 1e-9:  # age alone has no gap
            gap = standardized_gap(rank, age)
            found["concordance_gap"] = concordance_of(gap, years, died)
            with suppress(BadInput):  # too few people for the model to have a maximum: the figure is left out
                found["hazard_ratio"] = hazard_ratio_of(gap, age, people.male[seen], years, died)
        grid = people.brier_grid()
        if self.survival is not None and len(grid):
            found["brier"] = integrated_brier_of(self.survival[seen], grid, years, died)
        for horizon, risk in self.risks.items():
            if people.reaches(horizon):
                found[f"observed_expected_{horizon}y"] = calibration_of(risk[seen], years, died, horizon)
        return found
