"""What a study was worth: the settings as they were and those it found, trained alike and compared on the test people.

The study has not looked at these people, so the difference is an honest one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.config import Config
from henaw.data.panel import Panel
from henaw.data.stored_splits import kept_split
from henaw.evaluation.bootstrap import Estimate, Statistic, bootstrap, mean_of
from henaw.evaluation.concordance import concordance_of
from henaw.evaluation.figures import figure, verdict
from henaw.evaluation.metrics import crps_from_quantiles, midpoint_levels
from henaw.model.clock import Clock
from henaw.training.fit import fit_clock, follow_up, people_arrays
from henaw.training.telemetry import Events

Array = NDArray[np.float64]

_CRPS_LEVELS = 100


@dataclass(frozen=True)
class Gain:
    """Figures of the two clocks on the same people.

    Attributes:
        name: of the figure.
        people: how many were judged.
        before, after: of the settings as they were, and of those found.
        difference: after less before, paired.
    """

    name: str
    people: int
    before: Estimate
    after: Estimate
    difference: Estimate

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names for a tracker."""
        return {
            f"default/{self.name}": self.before.value,
            f"found/{self.name}": self.after.value,
            f"found_minus_default/{self.name}": self.difference.value,
            f"found_minus_default/{self.name}_lower": self.difference.lower,
            f"found_minus_default/{self.name}_upper": self.difference.upper,
        }

    @property
    def verdict(self) -> str:
        """``better``, ``worse`` or ``tie``."""
        return verdict(self.name, self.difference)

    def words(self) -> str:
        """One line."""
        known = figure(self.name)
        less, lower, upper = (known.difference(value) for value in self.difference.numbers)
        before, after = known.shown(self.before.value), known.shown(self.after.value)
        return (
            f"On {self.people:,} held-out people: {known.title} {before} with the settings as they were, {after} with "
            f"those found: {less} ({lower} to {upper}; {self.verdict})."
        )


def measure_gain(before: Config, after: Config, panel: Panel, table: pd.DataFrame, events: Events) -> Gain:
    """Train a clock with each settings on the training people of ``table``, and compare them on its test people."""
    parts = kept_split(table, before)
    train, calibration, test = (table.iloc[rows] for rows in (parts.train, parts.calibration, parts.test))
    clocks = [fit_clock(train, calibration, panel, config, events)[0] for config in (before, after)]
    name = "crps_years" if before.target == "age" else "concordance"
    statistics = {str(number): _statistic(clock, test) for number, clock in enumerate(clocks)}
    found = bootstrap(statistics, test["participant"], draws=before.evaluation.draws, seed=before.seed)
    difference = (found["1"] - found["0"]).estimate()
    people = test["participant"].nunique()
    return Gain(name, people, found["0"].estimate(), found["1"].estimate(), difference)


def _statistic(clock: Clock, people: pd.DataFrame) -> Statistic:
    biomarkers, sex, age = people_arrays(people, clock.panel)
    distribution = clock.predict(biomarkers, sex, age)
    if clock.hazard is None:
        levels = midpoint_levels(_CRPS_LEVELS)
        return mean_of(crps_from_quantiles(distribution.quantiles(levels), levels, age))
    years, died = follow_up(people, np.inf)
    return concordance_of(distribution.median, years, died)
