"""A mortality clock refitted to a target cohort's mortality, and what that changes for people it was not fitted to.

How people rank stays: only the level and the slope of the log hazard move. Absolute risk drifts between eras and
countries, and this is the step that follows it. It is judged on other people of the same cohort, before and after.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.errors import BadInput
from henaw.evaluation.bootstrap import Estimate, Statistic, bootstrap, people_in
from henaw.evaluation.suppression import how_many
from henaw.evaluation.survival import calibration_of
from henaw.model.clock import RISK_YEARS, Clock
from henaw.model.hazard import Gompertz, recalibrated
from henaw.training.fit import follow_up, people_arrays

Array = NDArray[np.float64]

LEAST_DEATHS = 5  # of people, behind a refitted hazard, and behind a published ratio


@dataclass(frozen=True)
class Recalibration:
    """A refitted clock; no participant's value is in the rest.

    Attributes:
        clock: as it was, with another hazard.
        shift, slope: of the log hazard, log h' = shift + slope·log h.
        fitted, judged: people that it was fitted to and judged on.
        ratios: observed over expected risk of death among the judged by horizon in years, before and after; a horizon
            that too few were followed to, or died within, is left out.
    """

    clock: Clock
    shift: float
    slope: float
    fitted: int
    judged: int
    ratios: dict[int, tuple[Estimate, Estimate]]

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names for a tracker."""
        found = {"shift": self.shift, "slope": self.slope}
        for years, pair in self.ratios.items():
            for name, ratio in zip(("before", "after"), pair, strict=True):
                ends = zip(("", "_lower", "_upper"), ratio.numbers, strict=True)
                found |= {f"observed_over_expected_{years}y_{name}{end}": value for end, value in ends}
        return found

    def markdown(self) -> str:
        """A short report: the refitted hazard, and a row a horizon."""
        lines = [
            f"Refitted to {self.fitted:,} people: log hazard = {self.shift:.3f} + {self.slope:.3f} × the old one.",
            f"Observed over expected risk of death of {how_many(self.judged)} other people (95 % interval):",
        ]
        if self.ratios:
            lines += ["", "| within | before | after |", "|---|---:|---:|"]
        for years, pair in self.ratios.items():
            before, after = (f"{ratio.value:.3f} ({ratio.lower:.3f}–{ratio.upper:.3f})" for ratio in pair)
            lines.append(f"| {years} years | {before} | {after} |")
        return "\n".join(lines) + "\n"


def recalibrate(clock: Clock, fit: pd.DataFrame, judge: pd.DataFrame, cap_years: float, seed: int) -> Recalibration:
    """Refit the hazard of ``clock`` to the people of ``fit``, and compare with what the people of ``judge`` saw.

    Args:
        clock: a mortality clock.
        fit: clean participant table with follow-up.
        judge: the same of other people.
        cap_years: follow-up used in fitting; later deaths count as censored.
        seed: of the bootstrap behind the intervals.

    Raises:
        BadInput: an age clock, no follow-up, too few deaths, or mortality that does not rise with biological age.
    """
    if clock.hazard is None:
        raise BadInput("recalibrate: the model is an age clock; expected a mortality clock, whose hazard is refitted")
    fit, judge = _answerable(clock, fit), _answerable(clock, judge)
    years, died = follow_up(fit, cap_years)
    if people_in(fit["participant"], died > 0) < LEAST_DEATHS:
        raise BadInput(
            f"recalibrate: fewer than {LEAST_DEATHS} deaths within {cap_years:g} years among the people to fit to; "
            "expected more people or a longer follow-up"
        )
    hazard = recalibrated(clock.hazard, clock.predict(*people_arrays(fit, clock.panel)), years, died)
    slope = hazard.beta / clock.hazard.beta
    if not (np.isfinite(hazard.alpha) and slope > 0):
        raise BadInput("recalibrate: mortality does not rise with biological age in this cohort; nothing was refitted")
    refitted = replace(clock, hazard=hazard)
    return Recalibration(
        clock=refitted,
        shift=hazard.alpha - slope * clock.hazard.alpha,
        slope=slope,
        fitted=fit["participant"].nunique(),
        judged=judge["participant"].nunique(),
        ratios=_ratios(clock, (clock.hazard, hazard), judge, seed),
    )


def _answerable(clock: Clock, table: pd.DataFrame) -> pd.DataFrame:
    """Those whom the clock would not refuse to answer for too many missing markers."""
    return table[table[list(clock.panel.names)].isna().sum(axis=1) <= clock.max_missing]


def _ratios(
    clock: Clock, hazards: tuple[Gompertz, Gompertz], table: pd.DataFrame, seed: int
) -> dict[int, tuple[Estimate, Estimate]]:
    years, died = follow_up(table, np.inf)
    distribution = clock.predict(*people_arrays(table, clock.panel))
    statistics: dict[str, Statistic] = {}
    shown = [
        horizon
        for horizon in RISK_YEARS
        if min((died[years <= horizon]).sum(), (years >= horizon).sum()) >= LEAST_DEATHS
    ]
    for horizon in shown:
        for position, hazard in enumerate(hazards):
            risk = hazard.risk(distribution, horizon)
            statistics[f"{horizon} {position}"] = calibration_of(risk, years, died, horizon)
    found = bootstrap(statistics, table["participant"], seed=seed) if shown else {}
    return {horizon: (found[f"{horizon} 0"].estimate(), found[f"{horizon} 1"].estimate()) for horizon in shown}
