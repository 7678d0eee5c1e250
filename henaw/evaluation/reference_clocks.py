"""The clocks a person would fit instead: Klemera–Doubal, linear Gompertz, age alone, ridge regression.

All read participant tables: ``age_years``, ``sex``, biomarkers in canonical units. Klemera–Doubal answers NaN where a
value is missing; the regressions put the training people's middle in its place. PhenoAge, which is published and not
fitted, is in ``henaw.evaluation.phenoage``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.evaluation.gompertz import Gompertz, fit_gompertz
from henaw.evaluation.phenoage import phenoage
from henaw.model.features import FeatureScaling, fit_scaling, raw_features

Array = NDArray[np.float64]
Covariates = Callable[[pd.DataFrame], Array]
"""Participant table of n rows → covariates (n, p)."""

FOLLOW_UP_CAP_YEARS = 20.0  # later deaths say little of today's blood
_RIDGE_PENALTY = 1.0


@dataclass(frozen=True)
class KlemeraDoubal:
    """Biological age by Klemera & Doubal 2006 (Mechanisms of Ageing and Development 127), for each sex by itself.

    Attributes:
        panel: its markers, transformed as the panel says; derived features are left out.
        fits: by sex.
    """

    panel: Panel
    fits: dict[str, _KlemeraDoubalFit]

    def biological_age(self, table: pd.DataFrame) -> Array:
        """BA_C in years, shape (n,); NaN where a marker, age or sex is missing."""
        markers, age = _markers(table, self.panel), table["age_years"].to_numpy(dtype=np.float64)
        found = np.full(len(table), np.nan)
        for sex, fit in self.fits.items():
            rows = (table["sex"] == sex).to_numpy(dtype=bool)
            found[rows] = fit.biological_age(markers[rows], age[rows])
        return found


@dataclass(frozen=True)
class _KlemeraDoubalFit:
    """x_j = intercept_j + slope_j·age, with residual standard deviations; all (m,). ``age_variance`` is s_B²."""

    intercept: Array
    slope: Array
    residual_sd: Array
    age_variance: float

    def from_markers(self, markers: Array) -> Array:
        """BA_E, the markers' own estimate, shape (n,)."""
        return ((markers - self.intercept) @ self._pull) / (self._pull @ self.slope)

    def biological_age(self, markers: Array, age: Array) -> Array:
        """BA_C = (Σ(x_j − q_j)·k_j/s_j² + age/s_B²) ÷ (Σ(k_j/s_j)² + 1/s_B²), shape (n,)."""
        precision = self._pull @ self.slope
        weighted = self.from_markers(markers) * precision + age / self.age_variance
        return np.asarray(weighted / (precision + 1 / self.age_variance))

    @property
    def _pull(self) -> Array:
        return self.slope / self.residual_sd**2


def fit_klemera_doubal(table: pd.DataFrame, panel: Panel) -> KlemeraDoubal:
    """Fit to the people of ``table`` with all markers, for each sex that occurs.

    Raises:
        BadInput: nobody has all, or a sex of which the method makes no sense: no marker changes with age, or
            the markers' own estimate scatters less than their errors alone make it.
    """
    markers, age = _markers(table, panel), table["age_years"].to_numpy(dtype=np.float64)
    complete = np.isfinite(markers).all(axis=1) & np.isfinite(age)
    fits = {}
    for sex in ("female", "male"):
        rows = complete & (table["sex"] == sex).to_numpy(dtype=bool)
        if rows.any():
            fits[sex] = _fit_one_sex(markers[rows], age[rows], sex)
    if not fits:
        raise BadInput("Klemera-Doubal: expected people with age, sex and every marker of the panel, found none")
    return KlemeraDoubal(panel, fits)


def _fit_one_sex(markers: Array, age: Array, sex: str) -> _KlemeraDoubalFit:
    center, spread = age.mean(), age.std()
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = (age - center) @ markers / (len(age) * spread**2)
        intercept = markers.mean(axis=0) - slope * center
        residual_sd = np.std(markers - intercept - np.outer(age, slope), axis=0)
        r = np.abs(slope) * spread / markers.std(axis=0)
        r_characteristic = np.sum(r**2 / np.sqrt(1 - r**2)) / np.sum(r / np.sqrt(1 - r**2))
        own = _KlemeraDoubalFit(intercept, slope, residual_sd, np.inf).from_markers(markers)
        by_error = (1 - r_characteristic**2) / r_characteristic**2 * np.ptp(age) ** 2 / (12 * markers.shape[1])
        age_variance = float(np.var(own - age) - by_error)
    if not age_variance > 0:
        raise BadInput(f"Klemera-Doubal: {sex}: the variance s_B² is not positive; expected markers that follow age")
    return _KlemeraDoubalFit(intercept, slope, residual_sd, age_variance)


@dataclass(frozen=True)
class GompertzClock:
    """Gompertz regression on covariates of a table; the training mean stands in for a missing covariate."""

    covariates: Covariates
    scaling: _Standardization
    hazard: Gompertz

    def log_hazard(self, table: pd.DataFrame) -> Array:
        """Log hazard a year at the examination, shape (n,): the clock's order of people."""
        return self.hazard.log_hazard(self.scaling.apply(self.covariates(table)))

    def survival(self, table: pd.DataFrame, years: Array) -> Array:
        """Probability to live ``years`` (q,) more, shape (n, q)."""
        return self.hazard.survival(self.scaling.apply(self.covariates(table)), years)


def fit_gompertz_clock(table: pd.DataFrame, covariates: Covariates) -> GompertzClock:
    """Fit to all people of ``table``, whose ``died`` and ``followup_months`` are known, followed for 20 years at most.

    Raises:
        BadInput: as ``fit_gompertz``.
    """
    years, died = table["followup_months"].to_numpy() / 12, table["died"].to_numpy()
    died = np.where(years > FOLLOW_UP_CAP_YEARS, 0.0, died)
    values = covariates(table)
    scaling = _standardize(values)
    hazard = fit_gompertz(scaling.apply(values), np.minimum(years, FOLLOW_UP_CAP_YEARS), died)
    return GompertzClock(covariates, scaling, hazard)


def age_alone(table: pd.DataFrame) -> Array:
    """Covariates (n, 1) of the clock that reads the birth certificate."""
    return table[["age_years"]].to_numpy(dtype=np.float64)


def phenoage_and_sex(table: pd.DataFrame) -> Array:
    """Covariates (n, 2): PhenoAge as published, and the sex that it leaves out."""
    return np.stack([phenoage(table), _male(table)], axis=1)


def markers_sex_and_age(panel: Panel) -> Covariates:
    """Covariates (n, m + 2): the markers of ``panel`` as it transforms them, sex, age: the linear Gompertz clock."""

    def covariates(table: pd.DataFrame) -> Array:
        return np.column_stack([_markers(table, panel), _male(table), age_alone(table)])

    return covariates


@dataclass(frozen=True)
class RidgeClock:
    """Chronological age by ridge regression on markers, as the panel transforms them, and sex.

    Attributes:
        residual_sd: years by which the training people miss, for a Gaussian around the answer.
    """

    panel: Panel
    scaling: FeatureScaling
    intercept: float
    coefficients: Array
    residual_sd: float

    def age(self, table: pd.DataFrame) -> Array:
        """Predicted age in years, shape (n,); the training median stands in for what is missing."""
        scaled, _ = self.scaling.apply(_markers_and_sex(table, self.panel))
        return np.asarray(self.intercept + scaled @ self.coefficients)


def fit_ridge(table: pd.DataFrame, panel: Panel) -> RidgeClock:
    """Fit to all people of ``table``, whose ``age_years`` is known; scaled and clipped as the network's inputs are.

    Raises:
        BadInput: an age is missing, or nobody is there.
    """
    values, age = _markers_and_sex(table, panel), table["age_years"].to_numpy(dtype=np.float64)
    if not len(age) or not np.isfinite(age).all():
        raise BadInput("ridge regression: expected people, and the age of everyone")
    scaling = fit_scaling(values)
    x = scaling.apply(values)[0]
    x, center = x - x.mean(axis=0), x.mean(axis=0)
    gram = x.T @ x + _RIDGE_PENALTY * np.eye(x.shape[1])
    coefficients = np.linalg.solve(gram, x.T @ (age - age.mean()))
    residual_sd = float(np.std(age - age.mean() - x @ coefficients))
    return RidgeClock(panel, scaling, float(age.mean() - center @ coefficients), coefficients, residual_sd)


@dataclass(frozen=True)
class _Standardization:
    """Mean and standard deviation of each covariate among the training people, shapes (p,).

    Not clipped: on NHANES the far ends of creatinine and CRP help to rank survival (C .859 against .858 with clipping).
    """

    mean: Array
    sd: Array

    def apply(self, values: Array) -> Array:
        return np.where(np.isfinite(values), (values - self.mean) / self.sd, 0.0)


def _standardize(values: Array) -> _Standardization:
    present = np.isfinite(values)
    known = np.maximum(present.sum(axis=0), 1)
    mean = np.where(present, values, 0.0).sum(axis=0) / known
    sd = np.sqrt(np.where(present, (values - mean) ** 2, 0.0).sum(axis=0) / known)
    return _Standardization(mean, np.where(sd > 0, sd, 1.0))


def _markers(table: pd.DataFrame, panel: Panel) -> Array:
    """Transformed markers without the derived features, which are linear in them, shape (n, m)."""
    plain = panel.model_copy(update={"derived": ()})
    return raw_features(plain, table[list(panel.names)].to_numpy(dtype=np.float64))


def _male(table: pd.DataFrame) -> Array:
    return np.asarray(table["sex"].map({"male": 1.0, "female": 0.0}), dtype=np.float64)


def _markers_and_sex(table: pd.DataFrame, panel: Panel) -> Array:
    return np.column_stack([_markers(table, panel), _male(table)])
