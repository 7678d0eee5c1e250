"""The clocks that ours is compared with, fitted to the training people and asked about the same held-out people."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.evaluation.age_scores import PERCENTILES
from henaw.evaluation.metrics import crps_from_quantiles, crps_gaussian, midpoint_levels
from henaw.evaluation.phenoage import PHENOAGE_COLUMNS, phenoage, phenoage_survival
from henaw.evaluation.prediction import Prediction
from henaw.evaluation.reference_clocks import (
    Covariates,
    age_alone,
    fit_gompertz_clock,
    fit_klemera_doubal,
    fit_ridge,
    markers_sex_and_age,
    phenoage_and_sex,
)
from henaw.model.clock import RISK_YEARS, Target

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

NO_MARKERS, RIDGE, KDM, PHENOAGE = "no_markers", "ridge", "kdm", "phenoage"
AGE_ALONE, LINEAR, PHENOAGE_SEX = "age_alone", "linear_gompertz", "phenoage_sex"
FOLLOW_UP = ("died", "followup_months")


def reference_predictions(
    train: pd.DataFrame, test: pd.DataFrame, panel: Panel, target: Target, grid: Array
) -> dict[str, Prediction]:
    """What each reference that can be fitted says of the people of ``test``, by its short name.

    Args:
        train: participant table to fit them to.
        test: the people that are judged.
        panel: the clock's.
        target: of the clock; the age clock is compared in predicting age as well.
        grid: years (q,) of predicted survival; empty where nobody is followed.
    """
    makers: dict[str, Callable[[], Prediction]] = {}
    if target == "age":
        makers[NO_MARKERS] = partial(_no_markers, train, test)
        makers[RIDGE] = partial(_ridge, train, test, panel)
    makers[KDM] = partial(_klemera_doubal, train, test, panel)
    has_phenoage = set(PHENOAGE_COLUMNS) <= set(test.columns)
    if has_phenoage:
        makers[PHENOAGE] = partial(_phenoage, test, grid)
    if len(grid):
        survivors = {AGE_ALONE: ("age alone", age_alone), LINEAR: ("linear Gompertz", markers_sex_and_age(panel))}
        if has_phenoage and set(PHENOAGE_COLUMNS) <= set(train.columns):
            survivors[PHENOAGE_SEX] = ("PhenoAge and sex, refitted", phenoage_and_sex)
        for name, (title, covariates) in survivors.items():
            makers[name] = partial(_gompertz, title, covariates, train, test, grid)
    found = {}
    for name, make in makers.items():
        try:
            found[name] = make()
        except BadInput as error:
            logger.info("reference %s left out: %s", name, error)
    return found


def _no_markers(train: pd.DataFrame, test: pd.DataFrame) -> Prediction:
    """Everybody's age is distributed as that of the training people."""
    ages, age = train["age_years"].to_numpy(np.float64), test["age_years"].to_numpy(np.float64)
    exact, percentiles = (_crps_of_everybody(ages, levels, age) for levels in (midpoint_levels(400), PERCENTILES))
    error = np.abs(np.median(ages) - age)
    return Prediction(
        "the training people's ages, no marker read",
        {"mae_years": error, "crps_years": exact, "crps_99_years": percentiles},
        reads_age=False,
    )


def _crps_of_everybody(ages: Array, levels: Array, age: Array) -> Array:
    distinct, where = np.unique(age, return_inverse=True)
    quantiles = np.broadcast_to(np.quantile(ages, levels), (len(distinct), len(levels)))
    return crps_from_quantiles(quantiles, levels, distinct)[where]


def _ridge(train: pd.DataFrame, test: pd.DataFrame, panel: Panel) -> Prediction:
    clock, age = fit_ridge(train, panel), test["age_years"].to_numpy(np.float64)
    predicted = clock.age(test)
    sd = np.full(len(age), clock.residual_sd)
    percentiles = predicted[:, None] + clock.residual_sd * ndtri(PERCENTILES)
    scores = {
        "mae_years": np.abs(predicted - age),
        "crps_years": crps_gaussian(predicted, sd, age),
        "crps_99_years": crps_from_quantiles(percentiles, PERCENTILES, age),
    }
    return Prediction("ridge regression", scores, age=predicted, rank=predicted, reads_age=False)


def _klemera_doubal(train: pd.DataFrame, test: pd.DataFrame, panel: Panel) -> Prediction:
    biological = fit_klemera_doubal(train, panel).biological_age(test)
    return Prediction("Klemera–Doubal", {"mae_years": _error(biological, test)}, age=biological, rank=biological)


def _phenoage(test: pd.DataFrame, grid: Array) -> Prediction:
    biological = phenoage(test)
    survival = phenoage_survival(test, grid) if len(grid) else None
    risks = {years: 1 - phenoage_survival(test, np.array([float(years)]))[:, 0] for years in RISK_YEARS}
    scores = {"mae_years": _error(biological, test)}
    return Prediction("PhenoAge", scores, age=biological, rank=biological, survival=survival, risks=risks)


def _error(biological: Array, test: pd.DataFrame) -> Array:
    return np.asarray(np.abs(biological - test["age_years"].to_numpy(np.float64)))


def _gompertz(title: str, covariates: Covariates, train: pd.DataFrame, test: pd.DataFrame, grid: Array) -> Prediction:
    missing = [name for name in FOLLOW_UP if name not in train]
    followed = train if missing else train.dropna(subset=list(FOLLOW_UP))
    if missing or followed.empty:
        raise BadInput("the training people were not followed")
    clock = fit_gompertz_clock(followed, covariates)
    risks = {years: 1 - clock.survival(test, np.array([float(years)]))[:, 0] for years in RISK_YEARS}
    return Prediction(title, rank=clock.log_hazard(test), survival=clock.survival(test, grid), risks=risks)
