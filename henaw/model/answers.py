"""From rows as a caller gives them to the answers HENAW stands behind: numbers, or an abstention with its reasons."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.model.clock import RISK_YEARS, SEXES, Clock, Target
from henaw.model.distribution import central_levels
from henaw.model.ensemble import AGE_CENTER

Array = NDArray[np.float64]
Reasons = Mapping[str, NDArray[np.bool_]]

NUMBERS = (
    "biological_age_years",
    "lower_years",
    "upper_years",
    "aleatoric_sd_years",
    "epistemic_sd_years",
    "age_gap_years",
    "age_gap_adjusted_years",
)
RISKS = tuple(f"risk_{years}y{end}" for years in RISK_YEARS for end in ("", "_lower", "_upper"))
DEFAULT_COVERAGE = 0.9
QUANTILE_LEVELS = np.arange(1, 100) / 100
QUANTILE_COLUMNS = tuple(f"q{percent:02d}" for percent in range(1, 100))


def input_columns(panel: Panel) -> tuple[str, ...]:
    """Columns a scored row must have, in the order of the model's signature."""
    return (*panel.names, "sex", "age_years")


def number_columns(target: Target) -> tuple[str, ...]:
    """The answer's columns of numbers; the mortality clock adds risks, and how far its members disagree on them."""
    return (*NUMBERS, *RISKS) if target == "mortality" else NUMBERS


def output_columns(target: Target) -> tuple[str, ...]:
    """Columns of an answer, in the order of the model's signature."""
    return (*number_columns(target), "status", "flags")


def answer(clock: Clock, rows: pd.DataFrame, coverage: float, *, quantiles: bool = False) -> pd.DataFrame:
    """Score rows.

    Args:
        clock: the fitted clock.
        rows: the columns of ``input_columns``; biomarkers and age as numbers or missing, sex ``female``, ``male`` or
            missing; other columns are ignored.
        coverage: of the interval, strictly between 0 and 1.
        quantiles: add ``q01`` … ``q99`` of the distribution that the interval comes from.

    Returns:
        One row for each of ``rows``, same index: ``output_columns`` (ages in years, risks as probabilities).
        ``status`` is ``ok``, ``warn`` (an extrapolation beyond the training range) or ``abstain`` (no numbers:
        ``None``); ``flags`` names the reasons, separated by ``;``. A column of numbers is of dtype object only where a
        row abstains.

    Raises:
        BadInput: a column is missing, repeated or not numeric, or ``coverage`` is impossible.
    """
    central_levels(coverage)  # an impossible coverage is refused whatever the rows
    biomarkers, sex, age = _arrays(clock.panel, rows)
    abstain, warn, note = _reasons(clock, biomarkers, sex, age)
    # what is not going to be answered must not reach the network with values of unknown size
    usable = np.where(np.isfinite(biomarkers), biomarkers, np.nan)
    believable = np.where(abstain["age_missing"] | abstain["age_implausible"], AGE_CENTER, age)
    distribution = clock.predict(usable, sex, believable)
    lower, upper = distribution.interval(coverage)
    gap = distribution.median - believable
    numbers = [
        distribution.median,
        lower,
        upper,
        distribution.aleatoric_sd,
        distribution.epistemic_sd,
        gap,
        clock.gap.adjust(gap, believable),
    ]
    if clock.hazard is not None:
        horizons = np.array(RISK_YEARS, dtype=np.float64)
        risks = 1.0 - clock.hazard.survival(distribution, horizons)
        ends = clock.hazard.risk_interval(distribution, horizons, coverage)
        numbers += list(np.stack([risks, *ends], axis=2).reshape(len(rows), len(RISKS)).T)
    columns: dict[str, Any] = dict(zip(number_columns(clock.target), numbers, strict=True))
    refused = _any(abstain, len(rows))
    status = np.where(refused, "abstain", np.where(_any(warn, len(rows)), "warn", "ok"))
    columns["status"] = status.astype(object)
    columns["flags"] = _flags({**abstain, **warn, **note}, len(rows))
    if quantiles:
        columns.update(zip(QUANTILE_COLUMNS, distribution.quantiles(QUANTILE_LEVELS).T, strict=True))
    for name, values in columns.items():
        if refused.any() and name not in ("status", "flags"):
            columns[name] = np.where(refused, None, values.astype(object))
    return pd.DataFrame(columns, index=rows.index)


def _arrays(panel: Panel, rows: pd.DataFrame) -> tuple[Array, Array, Array]:
    """Biomarkers (n, m), sex code (n,) and age (n,) as float64, NaN = missing or unusable."""
    missing = [name for name in input_columns(panel) if name not in rows.columns]
    if missing:
        raise BadInput(f"columns missing: {', '.join(missing)}; expected {', '.join(input_columns(panel))}")
    if repeated := [name for name in input_columns(panel) if (rows.columns == name).sum() > 1]:
        raise BadInput(f"columns more than once: {', '.join(repeated)}; expected each once")
    biomarkers = np.empty((len(rows), len(panel.names)))
    for position, name in enumerate(panel.names):
        biomarkers[:, position] = _numbers(rows[name], name)
    codes = {sex: float(code) for code, sex in enumerate(SEXES)}
    sex = np.array([codes.get(value, np.nan) if isinstance(value, str) else np.nan for value in rows["sex"].tolist()])
    return biomarkers, sex.astype(np.float64), _numbers(rows["age_years"], "age_years")


def _numbers(column: pd.Series[Any], name: str) -> Array:
    """``column`` as float64; what pandas would turn into a number (text, true/false, dates) is refused."""
    kinds, seen = pd.api.types, column.dropna()
    if kinds.is_bool_dtype(column) or any(isinstance(value, bool | np.bool_) for value in _objects(seen)):
        raise BadInput(f"column {name}: expected numbers, found true/false")
    if len(seen) and not kinds.is_any_real_numeric_dtype(column) and not kinds.is_object_dtype(column):
        raise BadInput(f"column {name}: expected numbers, found {column.dtype}")
    if not all(isinstance(value, Number) for value in _objects(seen)):
        raise BadInput(f"column {name}: expected numbers, found text")
    try:
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, OverflowError):
        raise BadInput(f"column {name}: expected numbers that fit a double") from None


def _objects(column: pd.Series[Any]) -> list[Any]:
    return column.tolist() if pd.api.types.is_object_dtype(column) else []


def _reasons(clock: Clock, biomarkers: Array, sex: Array, age: Array) -> tuple[Reasons, Reasons, Reasons]:
    """The rows (n,) with each reason to abstain, each reason to warn, and each thing merely noted."""
    missing = np.isnan(biomarkers)
    abstain = {
        "sex_missing_or_unknown": np.isnan(sex),
        "age_missing": np.isnan(age),
        "age_implausible": ~np.isnan(age) & ~((age >= 0) & (age <= 120)),
        "too_many_missing": missing.sum(axis=1) > clock.max_missing,
    }
    youngest, oldest = clock.trained_on.ages
    # whole-year ages: someone of the oldest age is not yet a year older
    warn = {"age_outside_training": (age < youngest) | (age >= oldest + 1)}
    note = {}
    for position, marker in enumerate(clock.panel.biomarkers):
        values = biomarkers[:, position]
        low, high = marker.plausible
        implausible = ~missing[:, position] & ~((values >= low) & (values <= high))
        outside = (values < clock.trained_on.lowest[position]) | (values > clock.trained_on.highest[position])
        abstain[f"implausible:{marker.name}"] = implausible
        warn[f"outside_training:{marker.name}"] = outside & ~implausible
        note[f"missing:{marker.name}"] = missing[:, position]  # allowed, and paid for with a wider interval
    return abstain, warn, note


def _any(reasons: Reasons, rows: int) -> NDArray[np.bool_]:
    found = np.zeros(rows, dtype=bool)
    for applies in reasons.values():
        found |= applies
    return found


def _flags(reasons: Reasons, rows: int) -> NDArray[np.object_]:
    flags = np.full(rows, "", dtype=object)
    for name, applies in reasons.items():
        for row in np.flatnonzero(applies):
            flags[row] = f"{flags[row]};{name}" if flags[row] else name
    return flags
