"""Clocks as `mlflow run` would fit them, and the same people for the references."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from bars import Watch, stopwatch
from boosted import Sample
from numpy.typing import NDArray
from standard_splits import StandardSplit

from henaw.config import Config, load_config
from henaw.data.panel import Panel
from henaw.data.splits import split
from henaw.evaluation.bootstrap import Statistic
from henaw.model.clock import Clock
from henaw.model.distribution import EnsembleDistribution
from henaw.model.features import raw_features
from henaw.training.fit import fit_clock, people_arrays
from henaw.training.telemetry import Events

Array = NDArray[np.float64]

PROFILES = {"A": "nhanes", "extended": "nhanes-extended", "S1": "nhanes-mortality-s1", "S3": "nhanes-mortality"}

logger = logging.getLogger("bench")


@dataclass(frozen=True)
class Plan:
    """How thoroughly to measure.

    Attributes:
        data: the NHANES participant table.
        seeds: of the split into training and calibration people, of the clocks, and of what is drawn for them.
        draws: resampled cohorts.
        boosted: whether the boosted references are fitted.
        overrides: settings on top of the profiles.
    """

    data: Path
    seeds: tuple[int, ...] = (0, 1, 2)
    draws: int = 1000
    boosted: bool = True
    overrides: str = ""


@dataclass(frozen=True)
class Fitted:
    """A clock, the people it was trained on and stopped by, and what that cost."""

    clock: Clock
    config: Config
    train: pd.DataFrame
    calibration: pd.DataFrame
    cost: Watch


def fit(plan: Plan, profile: str, people: StandardSplit, seed: int, overrides: str = "") -> Fitted:
    """Fit the clock of ``profile`` to the training people of a standard split."""
    config = load_config(profile, str(plan.data), f"seed={seed} {plan.overrides} {overrides}")
    train, calibration = training_people(people, config, seed)
    with stopwatch() as cost:
        clock, history = fit_clock(train, calibration, people.panel, config, Events())
    logger.info("%s, seed %d: %d epochs, %s", profile, seed, len(history), cost)
    return Fitted(clock, config, train, calibration, cost)


def training_people(people: StandardSplit, config: Config, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Those to train on and those to stop and calibrate by, as `mlflow run` would tell them apart."""
    everyone = pd.concat([people.train, people.test], ignore_index=True)
    parts = split(everyone, config.split, seed)
    return everyone.iloc[parts.train], everyone.iloc[parts.calibration]


def predict(clock: Clock, table: pd.DataFrame, biomarkers: Array | None = None) -> EnsembleDistribution:
    """What ``clock`` says of a participant table, with other ``biomarkers`` (n, m) in place of its own where given."""
    own, sex, age = people_arrays(table, clock.panel)
    return clock.predict(own if biomarkers is None else biomarkers, sex, age)


def features(table: pd.DataFrame, panel: Panel, biomarkers: Array | None = None) -> Array:
    """What the network reads of a person, unscaled, for the references: markers, derived features, sex; (n, p)."""
    own, sex, _ = people_arrays(table, panel)
    return np.column_stack([raw_features(panel, own if biomarkers is None else biomarkers), sex])


def ages(table: pd.DataFrame) -> Array:
    """Chronological ages (n,) in years."""
    return table["age_years"].to_numpy(np.float64)


def age_sample(table: pd.DataFrame, panel: Panel) -> Sample:
    """Features and age."""
    return Sample(features(table, panel), ages(table))


def over_seeds(statistics: list[Statistic]) -> Statistic:
    """The mean of one figure over clocks of several seeds, so that its interval is that of the people."""
    return lambda weights: np.mean([statistic(weights) for statistic in statistics], axis=0)
