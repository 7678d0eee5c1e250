"""The synthetic cohort: people who never lived, for trying HENAW without anybody's data.

Ages and sexes are drawn as in UK Biobank, biomarkers from a Gaussian copula, survival from a Gompertz hazard that the
biomarkers shift. Every number it needs stands in a summary file estimated from NHANES 1999-2010 by
``benchmarks/estimate_synthetic_summaries.py``; ``docs/synthetic.md`` says what the cohort is and what it is not.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from henaw.config import asset_folder
from henaw.data.panel import Biomarker, Transform, load_biomarkers
from henaw.errors import BadInput

FORMAT: Final = 1
SEXES: Final = ("female", "male")
HAZARD_AGE: Final = 60.0  # age in years at which the summary file states the hazard

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]
_Map = Callable[[Floats], Floats]

# What each transform does and how it is undone; quantiles are interpolated on the transformed scale.
SCALES: Final[dict[Transform, tuple[_Map, _Map]]] = {
    "identity": (np.asarray, np.asarray),
    "log": (np.log, np.exp),
    "log1p": (np.log1p, np.expm1),
}


@dataclass(frozen=True)
class _Summaries:
    """The summary file as arrays: S sexes, M markers, A ages, Q levels."""

    markers: tuple[Biomarker, ...]
    covered: tuple[int, int]
    ages: Floats  # (A,)
    scores: Floats  # (Q,) normal scores of the levels
    quantiles: Floats  # (S, M, A, Q) on each marker's transformed scale
    factors: Floats  # (S, M, M) lower Cholesky factors of the copula's correlations
    log_hazard: Floats  # (S,) log of deaths per person-year at HAZARD_AGE
    hazard_slope: Floats  # (S,) per year of age
    hazard_effects: Floats  # (S, M) on the log hazard, per normal score
    wholes: tuple[tuple[list[int], tuple[float, float]], ...]  # (indices, range of the sum) of shares of one whole
    missing: tuple[tuple[float, tuple[str, ...]], ...]  # (rate, columns); at most one of them strikes a person
    female: float
    age_weights: tuple[Floats, Floats]  # (first age, people per year of age) of each step
    followup_years: tuple[float, float]
    implausible: float
    slips: Floats  # factors by which an implausible value is off


def synthetic_table(people: int, ages: tuple[int, int], seed: int, *, summaries: Path) -> pd.DataFrame:
    """Draw a UK-Biobank-like cohort; the same arguments give the same cohort.

    Args:
        people: number of participants, at least 1.
        ages: youngest and oldest age in whole years, both included.
        seed: of the random generator.
        summaries: the summary file (``mlproject/synthetic/nhanes_1999_2010.json``).

    Returns:
        One row a person: ``participant_id`` ("S0000001", …), ``age_years``, ``sex``, every biomarker in its canonical
        unit, ``died`` (0/1) and ``followup_months``. As in real data, values are missing and a few are implausible.

    Raises:
        BadInput: no people, ages the summaries do not cover, or a summary file that cannot be used.
    """
    known = _read(summaries)
    if people < 1:
        raise BadInput(f"source.people: expected at least 1, found {people}")
    if not known.covered[0] <= ages[0] <= ages[1] <= known.covered[1]:
        raise BadInput(
            f"source.ages: expected youngest and oldest within {known.covered[0]} to {known.covered[1]}, "
            f"which {summaries.name} covers; found {ages[0]} to {ages[1]}"
        )
    rng = np.random.default_rng(seed)
    age = _draw_ages(people, ages, known, rng)
    sex = (rng.random(people) >= known.female).astype(np.intp)
    scores = _draw_scores(sex, known, rng)
    died, months = _draw_followup(age, sex, scores, known, rng)
    values = scores  # overwritten row by row: at 500,000 people a second copy would be another 100 MB
    for index, cells in enumerate(_curves(ages, known)):
        values[index] = _marker_values(scores[index], sex, age - ages[0], cells, known, index)
    for shares, total in known.wholes:
        values[shares] *= rng.uniform(*total, size=people) / values[shares].sum(axis=0)
    low, high = np.array([marker.plausible for marker in known.markers]).T[:, :, None]
    # Rounding also hides the last bits in which linear-algebra libraries differ.
    values = np.round(np.clip(values, low, high, out=values), 3, out=values)
    _plant_implausible(values, known, rng)

    columns: dict[str, Any] = {"age_years": age.astype(np.float64), "sex": np.array(SEXES, dtype=object)[sex]}
    columns |= {marker.name: values[index] for index, marker in enumerate(known.markers)}
    columns |= {"died": died, "followup_months": months}
    _hide(columns, known, rng)
    ids = [f"S{number:07d}" for number in range(1, people + 1)]
    return pd.DataFrame({"participant_id": ids, **columns}).astype({"participant_id": "str", "sex": "str"})


def _draw_ages(people: int, ages: tuple[int, int], known: _Summaries, rng: np.random.Generator) -> Integers:
    years = np.arange(ages[0], ages[1] + 1)
    first, weight = known.age_weights
    shares = weight[np.maximum(np.searchsorted(first, years, side="right") - 1, 0)]
    return rng.choice(years, size=people, p=shares / shares.sum()).astype(np.intp)


def _draw_scores(sex: Integers, known: _Summaries, rng: np.random.Generator) -> Floats:
    """Correlated standard normals, (M, people)."""
    scores = rng.standard_normal((len(known.markers), len(sex)))
    for code in range(len(SEXES)):
        rows = np.flatnonzero(sex == code)
        scores[:, rows] = known.factors[code] @ scores[:, rows]
    return scores


def _draw_followup(
    age: Integers, sex: Integers, scores: Floats, known: _Summaries, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """Death (0/1) and months of follow-up.

    A person's hazard at age a + t is exp(log_hazard + slope·(a + t - HAZARD_AGE) + effects·scores); the time of death
    solves H(t) = E with E standard exponential, in closed form for Gompertz (Bender, Augustin & Blettner 2005).
    """
    slope = known.hazard_slope[sex]
    frailty = np.zeros(len(age))
    for code in range(len(SEXES)):
        rows = np.flatnonzero(sex == code)
        frailty[rows] = known.hazard_effects[code] @ scores[:, rows]
    now = np.exp(known.log_hazard[sex] + slope * (age - HAZARD_AGE) + frailty)
    death = np.log1p(slope * rng.standard_exponential(len(age)) / now) / slope
    end = rng.uniform(*known.followup_years, size=len(age))
    return (death <= end).astype(np.float64), np.round(12 * np.minimum(death, end), 1)


def _curves(ages: tuple[int, int], known: _Summaries) -> Floats:
    """Quantiles at every whole year of ``ages``, (M, S, years, Q): linear in age, held beyond the outermost ages."""
    years = np.clip(np.arange(ages[0], ages[1] + 1), known.ages[0], known.ages[-1])
    left = np.clip(np.searchsorted(known.ages, years, side="right") - 1, 0, len(known.ages) - 2)
    share = ((years - known.ages[left]) / (known.ages[left + 1] - known.ages[left]))[:, None]
    curves = (1 - share) * known.quantiles[:, :, left] + share * known.quantiles[:, :, left + 1]
    return np.swapaxes(curves, 0, 1)


def _marker_values(
    scores: Floats, sex: Integers, year: Integers, curves: Floats, known: _Summaries, index: int
) -> Floats:
    """Values of one marker, whose ``curves`` are (S, years, Q): linear in the normal score, tails continued."""
    marker = known.markers[index]
    left = np.clip(np.searchsorted(known.scores, scores) - 1, 0, len(known.scores) - 2)
    lower, upper = curves[sex, year, left], curves[sex, year, left + 1]
    share = (scores - known.scores[left]) / np.diff(known.scores)[left]
    return SCALES[marker.transform][1](lower + share * (upper - lower))


def _plant_implausible(values: Floats, known: _Summaries, rng: np.random.Generator) -> None:
    """Spoil one value in a few rows, by a slip of unit, sign or entry."""
    rows = np.flatnonzero(rng.random(values.shape[1]) < known.implausible)
    which = rng.integers(len(known.markers), size=len(rows))
    low, high = np.array([marker.plausible for marker in known.markers]).T
    wrong = values[which, rows] * rng.choice(known.slips, size=len(rows))
    inside = (low[which] <= wrong) & (wrong <= high[which])
    values[which, rows] = np.where(inside, -1.0, wrong)  # -1 is UK Biobank's code for an unknown answer


def _hide(columns: dict[str, Any], known: _Summaries, rng: np.random.Generator) -> None:
    """Make values missing in the patterns of the summaries: what one tube gives goes missing together."""
    draw = rng.random(len(columns["sex"]))
    start = 0.0
    for rate, names in known.missing:
        struck = (start <= draw) & (draw < start + rate)
        start += rate
        for name in names:
            columns[name][struck] = None if name == "sex" else np.nan


def _read(path: Path) -> _Summaries:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BadInput(f"{path}: expected a readable JSON file of summary numbers") from None
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        raise BadInput(f"{path}: expected format {FORMAT} of the synthetic summaries")
    try:
        return _parse(raw)
    except KeyError as error:
        raise BadInput(f"{path}: lacks {error.args[0]!r} or names a biomarker that is not in biomarkers.yaml") from None
    except (TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise BadInput(f"{path}: {' '.join(str(error).split())}") from None


def _parse(raw: dict[str, Any]) -> _Summaries:
    catalog = load_biomarkers(asset_folder("mlproject") / "panels")
    markers = tuple(catalog[name] for name in raw["markers"])
    quantiles = np.array(
        [
            [SCALES[marker.transform][0](np.array(raw["quantiles"][sex][marker.name])) for marker in markers]
            for sex in SEXES
        ]
    )
    assumed = raw["assumed"]
    steps = assumed["people_per_year_of_age"]
    return _Summaries(
        markers=markers,
        covered=(raw["covered_ages"][0], raw["covered_ages"][1]),
        ages=np.array(raw["ages"], dtype=np.float64),
        scores=ndtri(np.array(raw["levels"], dtype=np.float64)),
        quantiles=quantiles.reshape(len(SEXES), len(markers), len(raw["ages"]), len(raw["levels"])),
        factors=np.array([np.linalg.cholesky(_symmetric(raw["correlations"][sex])) for sex in SEXES]),
        log_hazard=np.log([raw["hazard"][sex]["per_year_at_60"] for sex in SEXES]),
        hazard_slope=np.array([raw["hazard"][sex]["slope_per_year"] for sex in SEXES]),
        hazard_effects=np.array([[raw["hazard"][sex]["effects"][marker.name] for marker in markers] for sex in SEXES]),
        wholes=tuple(
            ([raw["markers"].index(name) for name in entry["columns"]], (entry["total"][0], entry["total"][1]))
            for entry in raw["wholes"]
        ),
        missing=tuple((entry["rate"], tuple(entry["columns"])) for entry in raw["missing"] + assumed["missing"]),
        female=assumed["female"],
        age_weights=(np.array([float(age) for age in steps]), np.array(list(steps.values()))),
        followup_years=(assumed["followup_years"][0], assumed["followup_years"][1]),
        implausible=assumed["implausible_rows"],
        slips=np.array(assumed["slips"], dtype=np.float64),
    )


def _symmetric(lower: list[list[float]]) -> Floats:
    """The correlation matrix whose entries left of the diagonal are ``lower``, row by row."""
    matrix = np.eye(len(lower))
    for row, entries in enumerate(lower):
        matrix[row, :row] = matrix[:row, row] = entries
    return matrix
