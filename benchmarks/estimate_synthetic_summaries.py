"""Estimate the summary numbers that the synthetic cohort is drawn from.

Run as ``python benchmarks/estimate_synthetic_summaries.py TABLE OUTPUT`` with the NHANES participant table. Only
summary statistics leave: quantiles, correlations, regression coefficients and rates, rounded and each estimated from at
least ``SMALLEST_CELL`` people. Survey weights are not used: the cohort follows the sample, not the US population.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import ndtri
from scipy.stats.mstats import hdquantiles

from henaw.config import asset_folder
from henaw.data.panel import Biomarker, load_biomarkers
from henaw.data.synthetic import FORMAT, HAZARD_AGE, SCALES, SEXES

COVERED_AGES = (20, 84)
AGES = (20, 25, 30, 35, 40, 45, 50, 55, 60, 65, 70, 75, 82)
HALF_WINDOW_YEARS = 3
LEVELS = (0.005, 0.03, 0.12, 0.3, 0.5, 0.7, 0.88, 0.97, 0.995)
SMALLEST_CELL = 100
RANK_BAND_YEARS = 5
SMALLEST_PATTERN = 20
FOLLOWUP_CAP_YEARS = 15.0
SMALLEST_EIGENVALUE = 0.01
SHARES_OF_ONE_WHOLE = ("lymphocyte_pct", "neutrophil_pct", "monocyte_pct", "eosinophil_pct")

ABOUT = {
    "what": "Summary numbers from which henaw.data.synthetic draws a cohort; no entry describes a single person.",
    "origin": (
        "NHANES 1999-2010 (National Center for Health Statistics, public domain) with the 2019 public-use linked"
        " mortality file: examined adults, not pregnant, age not top-coded; unweighted."
    ),
    "made_by": "benchmarks/estimate_synthetic_summaries.py",
    "quantiles": (
        "Harrell-Davis estimates (weighted means of order statistics) on the marker's transformed scale, by sex, among"
        " people within half_window_years of each of ages; in the marker's unit, three significant digits; one row of"
        " levels for each age."
    ),
    "correlations": (
        "By sex, Gaussian: 2 sin(pi rho / 6) of Spearman's rho of ranks within five-year bands of age, made positive"
        " definite; entries left of the diagonal, in the order of markers."
    ),
    "hazard": (
        "Gompertz regression by sex on attained age and the markers' normal scores within five-year bands of age,"
        " follow-up cut at 15 years; effects are log hazard ratios per normal score."
    ),
    "missing": "Share of people in whom exactly these columns are missing, for patterns seen in 20 people or more.",
    "wholes": "Markers that are shares of one whole, and 5 and 95 % quantiles of their sum (the rest are basophils).",
    "assumed": (
        "Not estimated here. female and people_per_year_of_age: UK Biobank's published shares (54 % women; 24 % aged"
        " 40-49, 34 % 50-59, 42 % 60-69), the outer ones held beyond 40-69. Follow-up ends between followup_years, rows"
        " with one implausible value, slips (factors) and missing age or sex are chosen."
    ),
}

ASSUMED = {
    "female": 0.54,
    "people_per_year_of_age": {"40": 0.024, "50": 0.034, "60": 0.042},
    "followup_years": [10, 15],
    "implausible_rows": 0.002,
    "slips": [1000, 0.001, 0, -1],
    "missing": [{"rate": 0.0002, "columns": ["age_years"]}, {"rate": 0.0002, "columns": ["sex"]}],
}

Floats = NDArray[np.float64]


def main(table: Path, output: Path) -> None:
    """Read ``table``, write the summary file ``output``."""
    catalog = load_biomarkers(asset_folder("mlproject") / "panels")
    people = read_population(table, catalog)
    scores = age_adjusted_scores(people, list(catalog))
    sexes = {sex: people["sex"] == sex for sex in SEXES}
    summaries = {
        "format": FORMAT,
        "about": ABOUT,
        "people": {sex: int(rows.sum()) for sex, rows in sexes.items()},
        "covered_ages": COVERED_AGES,
        "ages": AGES,
        "half_window_years": HALF_WINDOW_YEARS,
        "levels": LEVELS,
        "markers": list(catalog),
        "quantiles": {
            sex: {name: marker_quantiles(people[rows], marker) for name, marker in catalog.items()}
            for sex, rows in sexes.items()
        },
        "correlations": {sex: gaussian_correlations(scores[rows]) for sex, rows in sexes.items()},
        "hazard": {sex: gompertz_regression(people[rows], scores[rows]) for sex, rows in sexes.items()},
        "missing": missing_patterns(people[[*catalog, "died", "followup_months"]]),
        "wholes": [{"columns": SHARES_OF_ONE_WHOLE, "total": range_of_sums(people[list(SHARES_OF_ONE_WHOLE)])}],
        "assumed": ASSUMED,
    }
    innermost_lists = re.compile(r"\[[^][{}]*\]")
    text = innermost_lists.sub(lambda found: json.dumps(json.loads(found[0])), json.dumps(summaries, indent=1))
    output.write_text(text + "\n", encoding="utf-8")


def read_population(path: Path, catalog: dict[str, Biomarker]) -> pd.DataFrame:
    """Adults of NHANES 1999-2010, implausible values made missing."""
    table = pd.read_csv(path)
    table = table[(table["cycle"] != "III") & (table["pregnant"] != 1) & (table["age_topcoded"] == 0)]
    table = table[table["age_years"] <= COVERED_AGES[1]].reset_index(drop=True)
    for name, marker in catalog.items():
        table[name] = table[name].where(table[name].between(*marker.plausible))
    return table


def marker_quantiles(people: pd.DataFrame, marker: Biomarker) -> list[list[float]]:
    """Quantiles of one marker around each of ``AGES``, (ages, levels)."""
    forward, back = SCALES[marker.transform]
    rows = []
    for age in AGES:
        near = (people["age_years"] - age).abs() <= HALF_WINDOW_YEARS
        values = people.loc[near, marker.name].dropna().to_numpy()
        if len(values) < SMALLEST_CELL:
            raise SystemExit(f"{marker.name} around age {age}: {len(values)} people, expected {SMALLEST_CELL} or more")
        rows.append([float(f"{value:.3g}") for value in back(hdquantiles(forward(values), LEVELS))])
    return rows


def range_of_sums(shares: pd.DataFrame) -> list[float]:
    """The range that holds the middle 90 % of the rows' sums."""
    return [round(float(end), 1) for end in shares.sum(axis=1, skipna=False).quantile([0.05, 0.95])]


def age_adjusted_scores(people: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """Normal scores of each marker's rank among people of the same sex and band of age; missing stays missing."""
    bands = people.groupby([people["sex"], people["age_years"] // RANK_BAND_YEARS])[names]
    shares: pd.DataFrame = (bands.rank() - 0.5) / bands.transform("count")
    return pd.DataFrame({name: ndtri(shares[name]) for name in names}, index=people.index)


def gaussian_correlations(scores: pd.DataFrame) -> list[list[float]]:
    """Correlations of the Gaussian copula, left of the diagonal."""
    matrix = 2 * np.sin(np.pi / 6 * scores.corr(method="spearman").to_numpy())
    eigenvalues, vectors = np.linalg.eigh(matrix)
    matrix = (vectors * np.maximum(eigenvalues, SMALLEST_EIGENVALUE)) @ vectors.T
    scale = np.sqrt(np.diag(matrix))
    matrix = matrix / scale / scale[:, None]
    return [[round(float(entry), 3) for entry in row[:index]] for index, row in enumerate(matrix)]


def gompertz_regression(people: pd.DataFrame, scores: pd.DataFrame) -> dict[str, Any]:
    """Maximum-likelihood Gompertz hazard exp(level + slope·(age - HAZARD_AGE) + effects·scores) by attained age."""
    known = people["followup_months"].notna() & people["died"].notna()
    x = scores[known].fillna(0).to_numpy()
    age = people.loc[known, "age_years"].to_numpy() - HAZARD_AGE
    years = people.loc[known, "followup_months"].to_numpy() / 12
    died = people.loc[known, "died"].to_numpy() * (years <= FOLLOWUP_CAP_YEARS)
    years = np.minimum(years, FOLLOWUP_CAP_YEARS)

    def loss(parameters: Floats) -> tuple[float, Floats]:
        level, slope, effects = parameters[0], parameters[1], parameters[2:]
        shift = x @ effects + level
        now = np.exp(shift + slope * age)
        grown = np.expm1(slope * years) / slope
        expected = now * grown
        surplus = died - expected
        by_slope = died * (age + years) - expected * age - now * (years * np.exp(slope * years) - grown) / slope
        gradient = np.concatenate([[surplus.sum(), by_slope.sum()], x.T @ surplus])
        return -float((died * (shift + slope * (age + years)) - expected).sum()), -gradient

    start = np.concatenate([[-4.5, 0.09], np.zeros(x.shape[1])])
    fitted = minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-2}).x
    return {
        "per_year_at_60": round(float(np.exp(fitted[0])), 5),
        "slope_per_year": round(float(fitted[1]), 4),
        "effects": {name: round(float(effect), 3) for name, effect in zip(scores, fitted[2:], strict=True)},
    }


def missing_patterns(columns: pd.DataFrame) -> list[dict[str, Any]]:
    """Share of people with each frequent pattern of missing values."""
    patterns = columns.isna().apply(lambda row: " ".join(columns.columns[row]), axis=1).value_counts()
    return [
        {"rate": round(int(count) / len(columns), 5), "columns": str(names).split()}
        for names, count in patterns.items()
        if names and count >= SMALLEST_PATTERN
    ]


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit("expected: python benchmarks/estimate_synthetic_summaries.py TABLE OUTPUT")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
