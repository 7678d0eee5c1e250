"""From rows as a caller gives them to the answers HENAW stands behind: numbers, or an abstention with its reasons."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from henaw.data.panel import Panel
from henaw.model.clock import RISK_YEARS, Clock, Target
from henaw.model.distribution import central_levels
from henaw.model.ensemble import AGE_CENTER

if TYPE_CHECKING:
    import pandas as pd  # a server that answers arrays does without its memory

Array = NDArray[np.float64]

NUMBERS = (
    "biological_age_years",
    "lower_years",
    "upper_years",
    "aleatoric_sd_years",
    "epistemic_sd_years",
    "age_gap_years",
    "age_gap_adjusted_years",
    "age_gap_z",
)
RISKS = tuple(f"risk_{years}y{end}" for years in RISK_YEARS for end in ("", "_lower", "_upper"))
AGES = (0, 120)  # years; any other chronological age is taken for a mistake
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


def example_rows(clock: Clock) -> dict[str, list[Any]]:
    """Columns of two people who do not exist: everything at the middle of the training people, one marker missing."""
    middle = ((clock.trained_on.lowest + clock.trained_on.highest) / 2).round(1).tolist()
    markers = {name: [value, value] for name, value in zip(clock.panel.names, middle, strict=True)}
    markers[clock.panel.names[0]] = [middle[0], float("nan")]
    return {**markers, "sex": ["female", "male"], "age_years": [50.0, 50.0]}


@dataclass(frozen=True, eq=False)
class Answers:
    """The answers to n rows, without pandas.

    Attributes:
        numbers: the columns of ``number_columns`` and, where asked for, ``QUANTILE_COLUMNS``, in that order, each (n,);
            all finite, those of a row that abstains not to be shown.
        abstains: the rows without an answer, (n,).
        status: ``ok``, ``warn`` or ``abstain``, n of them.
        flags: the reasons, separated by ``;``, n of them.
    """

    numbers: dict[str, Array]
    abstains: NDArray[np.bool_]
    status: list[str]
    flags: list[str]


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
    from henaw.model.frames import arrays_of, frame_of

    central_levels(coverage)  # an impossible coverage is refused whatever the rows
    answers = answer_arrays(clock, *arrays_of(clock.panel, rows), coverage, quantiles=quantiles)
    return frame_of(answers, output_columns(clock.target), rows.index)


def answer_arrays(
    clock: Clock, biomarkers: Array, sex: Array, age: Array, coverage: float, *, quantiles: bool = False
) -> Answers:
    """As ``answer``, from arrays that are already what the clock reads: what serving does for every request.

    Args:
        clock: the fitted clock.
        biomarkers: (n, m) in the panel's order, NaN = missing, of any size.
        sex: codes as in ``SEXES``, NaN = missing or unknown, (n,).
        age: (n,), NaN = missing.
        coverage: of the interval, strictly between 0 and 1.
        quantiles: add ``q01`` … ``q99``.

    Raises:
        BadInput: ``coverage`` is impossible.
    """
    rows = len(age)
    if _ordinary(clock, biomarkers, sex, age):
        abstains, status, flags = np.zeros(rows, dtype=bool), ["ok"] * rows, [""] * rows
    else:
        applies, abstains, warns, believable = _reasons(clock, biomarkers, sex, age)
        status = ["abstain" if no else "warn" if careful else "ok" for no, careful in zip(
            abstains.tolist(), warns.tolist(), strict=True)]  # fmt: skip
        flags = _flags(clock.panel, applies)
        # what is not going to be answered must not reach the network with values of unknown size
        biomarkers = np.where(np.isfinite(biomarkers), biomarkers, np.nan)
        age = np.where(believable, age, AGE_CENTER)
    distribution = clock.predict(biomarkers, sex, age)
    found = distribution.summary(coverage)
    gap = found.median - age
    adjusted = clock.gap.adjust(gap, age)
    numbers = [
        found.median,
        found.lower,
        found.upper,
        found.aleatoric_sd,
        found.epistemic_sd,
        gap,
        adjusted,
        adjusted / clock.gap.sd,
    ]
    if clock.hazard is not None:
        horizons = np.array(RISK_YEARS, dtype=np.float64)
        risks = 1.0 - clock.hazard.survival(distribution, horizons)
        ends = clock.hazard.risk_interval(distribution, horizons, coverage)
        numbers += list(np.stack([risks, *ends], axis=2).reshape(rows, len(RISKS)).T)
    columns = dict(zip(number_columns(clock.target), numbers, strict=True))
    if quantiles:
        columns.update(zip(QUANTILE_COLUMNS, distribution.quantiles(QUANTILE_LEVELS).T, strict=True))
    return Answers(columns, abstains, status, flags)


_ABSTAIN = ("sex_missing_or_unknown", "age_missing", "age_implausible", "too_many_missing")


def reason_names(panel: Panel) -> tuple[str, ...]:
    """Every reason that ``flags`` may name, in its order: to abstain, to warn, and what is merely noted."""
    return (
        *_ABSTAIN,
        *(f"implausible:{name}" for name in panel.names),
        "age_outside_training",
        *(f"outside_training:{name}" for name in panel.names),
        *(f"missing:{name}" for name in panel.names),  # allowed, and paid for with a wider interval
    )


def _ordinary(clock: Clock, biomarkers: Array, sex: Array, age: Array) -> bool:
    """Whether no reason applies to any row: most requests, seen in a fifth of the time that naming reasons takes."""
    low, high = clock.usual
    youngest, oldest = clock.trained_on.ages
    return bool(
        np.count_nonzero(biomarkers >= low) == biomarkers.size == np.count_nonzero(biomarkers <= high)
        and np.count_nonzero(age >= max(youngest, AGES[0])) == len(age)
        and np.count_nonzero(age < min(oldest + 1, AGES[1])) == len(age)
        and not np.count_nonzero(np.isnan(sex))
    )


def _reasons(
    clock: Clock, biomarkers: Array, sex: Array, age: Array
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of ``reason_names`` apply (n, reasons), and the rows (n,) that abstain, warn, and have a believable age."""
    rows, markers = biomarkers.shape
    low, high = clock.plausible
    youngest, oldest = clock.trained_on.ages
    to_abstain = len(_ABSTAIN) + markers
    to_warn = to_abstain + 1 + markers
    applies = np.empty((rows, to_warn + markers), dtype=bool)
    missing, implausible = applies[:, to_warn:], applies[:, len(_ABSTAIN) : to_abstain]
    np.isnan(biomarkers, out=missing)
    believable, no_age = (age >= AGES[0]) & (age <= AGES[1]), np.isnan(age)
    applies[:, 0] = np.isnan(sex)
    applies[:, 1] = no_age
    applies[:, 2] = ~(no_age | believable)
    applies[:, 3] = missing.sum(axis=1) > clock.max_missing
    implausible[:] = (biomarkers < low) | (biomarkers > high)
    # whole-year ages: someone of the oldest age is not yet a year older
    applies[:, to_abstain] = (age < youngest) | (age >= oldest + 1)
    outside = (biomarkers < clock.trained_on.lowest) | (biomarkers > clock.trained_on.highest)
    np.greater(outside, implausible, out=applies[:, to_abstain + 1 : to_warn])
    abstains = np.logical_or.reduce(applies[:, :to_abstain], axis=1)
    warns = np.logical_or.reduce(applies[:, to_abstain:to_warn], axis=1)
    return applies, abstains, warns, believable


def _flags(panel: Panel, applies: NDArray[np.bool_]) -> list[str]:
    """The reasons of each row by name, separated by ``;``."""
    flags = [""] * len(applies)
    rows, reasons = np.nonzero(applies)
    if rows.size:
        names = reason_names(panel)
        for row, reason in zip(rows.tolist(), reasons.tolist(), strict=True):
            flags[row] = f"{flags[row]};{names[reason]}" if flags[row] else names[reason]
    return flags
