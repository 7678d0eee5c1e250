"""PhenoAge as published (Levine et al. 2018, Aging 10(4): 573-591): no fitting, no sex, nine markers and age."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Log hazard ratios a unit; CRP stands apart, because its logarithm in mg/dL enters.
_COEFFICIENTS = {
    "albumin_g_l": -0.0336,
    "creatinine_umol_l": 0.0095,
    "glucose_mmol_l": 0.1953,
    "lymphocyte_pct": -0.0120,
    "mcv_fl": 0.0268,
    "rdw_pct": 0.3306,
    "alkaline_phosphatase_u_l": 0.00188,
    "wbc_10e9_l": 0.0554,
    "age_years": 0.0804,
}
_INTERCEPT, _OF_LOG_CRP = -19.9067, 0.0954
_GROWTH_PER_MONTH = 0.0076927
_MG_L_PER_MG_DL = 10.0

PHENOAGE_COLUMNS = (*_COEFFICIENTS, "crp_mg_l")


def phenoage(table: pd.DataFrame, *, log_crp: Literal["ln", "ln1p"] = "ln") -> Array:
    """PhenoAge in years: the age at which 10-year mortality in NHANES III is what the formula says of the person.

    PhenoAge = 141.50225 + ln(−0.00553·ln(1 − M))/0.090165, with M the 10-year risk of ``phenoage_survival``.

    Args:
        table: with ``PHENOAGE_COLUMNS``.
        log_crp: ``ln`` of CRP in mg/dL as published; ``ln1p``, ln(1 + CRP), as some implementations have it.
    """
    cumulative_hazard = _cumulative_hazard(table, np.array([10.0]), log_crp)[:, 0]
    return np.asarray(141.50225 + np.log(0.00553 * cumulative_hazard) / 0.090165)


def phenoage_survival(table: pd.DataFrame, years: Array) -> Array:
    """Probability to live ``years`` (q,) more, shape (n, q), by the Gompertz model that PhenoAge was made from."""
    return np.exp(-_cumulative_hazard(table, years, "ln"))


def _cumulative_hazard(table: pd.DataFrame, years: Array, log_crp: Literal["ln", "ln1p"]) -> Array:
    crp = table["crp_mg_l"].to_numpy() / _MG_L_PER_MG_DL
    with np.errstate(divide="ignore", invalid="ignore"):
        log = np.log(crp) if log_crp == "ln" else np.log1p(crp)
    log = np.where(np.isfinite(log), log, np.nan)
    xb = _INTERCEPT + _OF_LOG_CRP * log
    xb = xb + table[list(_COEFFICIENTS)].to_numpy() @ np.array(list(_COEFFICIENTS.values()))
    growth = np.expm1(12 * years * _GROWTH_PER_MONTH) / _GROWTH_PER_MONTH
    return np.asarray(np.exp(xb)[:, None] * growth)
