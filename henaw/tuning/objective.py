"""What a trial is judged by: the clock that it trained, on people of the training side kept for that."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.config import Config
from henaw.data.splits import split
from henaw.data.stored_splits import kept_split
from henaw.errors import BadInput
from henaw.evaluation.age_scores import coverage_scores
from henaw.evaluation.concordance import harrell_c
from henaw.evaluation.cox import partial_likelihood_loss
from henaw.evaluation.metrics import crps_from_quantiles, midpoint_levels
from henaw.model.clock import Clock
from henaw.training.fit import follow_up, people_arrays

Array = NDArray[np.float64]

OBJECTIVES = {"age": ("crps",), "mortality": ("partial_likelihood", "concordance")}
COVERAGE = 0.9
_CRPS_LEVELS = 100


@dataclass(frozen=True, eq=False)
class StudyPeople:
    """Clean participant tables of the training side: to train on, to calibrate, and to judge trials; nobody in two."""

    train: pd.DataFrame
    calibration: pd.DataFrame
    judged: pd.DataFrame


def study_people(table: pd.DataFrame, config: Config) -> StudyPeople:
    """Divide the training side of ``table`` once more; the people held out for testing are not looked at."""
    parts = kept_split(table, config)
    side = table.iloc[np.union1d(parts.train, parts.calibration)].reset_index(drop=True)
    inner = config.split.model_copy(update={"by": "person", "test_fraction": config.study.validation_fraction})
    found = split(side, inner, config.seed)
    return StudyPeople(side.iloc[found.train], side.iloc[found.calibration], side.iloc[found.test])


def objective_name(config: Config) -> str:
    """What ``study.objective`` means for this target.

    Raises:
        BadInput: it is the other target's.
    """
    fitting = OBJECTIVES[config.target]
    chosen = config.study.objective or fitting[0]
    if chosen not in fitting:
        raise BadInput(
            f"study.objective: {chosen} does not fit target {config.target}; expected {' or '.join(fitting)}"
        )
    return chosen


def objective_value(name: str, clock: Clock, people: pd.DataFrame) -> tuple[float, float]:
    """The objective of ``clock`` on ``people``, and the coverage of its 90 % interval there (NaN: mortality).

    ``crps`` in years; ``partial_likelihood`` = negative log partial likelihood a death, in nats; ``concordance`` =
    1 − Harrell's C. All are better when smaller.
    """
    biomarkers, sex, age = people_arrays(people, clock.panel)
    distribution = clock.predict(biomarkers, sex, age)
    if name == "crps":
        levels = midpoint_levels(_CRPS_LEVELS)
        value = float(crps_from_quantiles(distribution.quantiles(levels), levels, age).mean())
        [hits] = coverage_scores(distribution, age, [COVERAGE]).values()
        return value, float(hits.mean())
    assert clock.hazard is not None
    years, died = follow_up(people, np.inf)
    if name == "concordance":
        return 1 - harrell_c(distribution.median, years, died), np.nan
    return partial_likelihood_loss(clock.hazard.beta * distribution.median, years, died), np.nan
