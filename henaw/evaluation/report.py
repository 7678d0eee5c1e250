"""The figures of an evaluation: of everyone and of each sex, and never of fewer than five people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from henaw.errors import BadInput
from henaw.evaluation.metrics import (
    crps_from_quantiles,
    crps_gaussian,
    interval_coverage,
    interval_width,
    mean_absolute_error,
    mean_error,
    midpoint_levels,
    pearson_r,
    root_mean_squared_error,
)
from henaw.model.distribution import Distribution

Array = NDArray[np.float64]
Rows = NDArray[np.bool_]

SMALLEST_CELL = 5  # people behind a published figure

_CRPS_LEVELS = 400  # for a Gaussian the mean over 400 quantiles is within 0.01 % of the closed form
_LEVELS_AT_ONCE = 20  # bounds the memory that a large cohort needs

_TITLES = {
    "n": "people",
    "mae_years": "mean absolute error (years)",
    "rmse_years": "root mean squared error (years)",
    "mean_error_years": "mean error, predicted − true (years)",
    "r": "Pearson's r, predicted and true age",
    "crps_years": "CRPS (years)",
    "crps_gaussian_years": "CRPS of the Gaussian of the same mean and SD (years)",
    "aleatoric_sd_years": "mean aleatoric SD (years)",
    "epistemic_sd_years": "mean epistemic SD (years)",
}


@dataclass(frozen=True)
class Report:
    """What may be published of an evaluation; no participant's value is in it.

    Attributes:
        people: how many were evaluated.
        groups: figures by name, of ``all`` and of each subgroup that may be published; ``n`` is the people behind them.
        withheld: groups left out because they, or one that could be worked out from the others, are too small.
    """

    people: int
    groups: dict[str, dict[str, float]]
    withheld: tuple[str, ...]

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names for a tracker: ``mae_years`` is that of everyone, ``mae_years_female`` that of a subgroup."""
        return {
            name if group == "all" else f"{name}_{group}": value
            for group, figures in self.groups.items()
            for name, value in figures.items()
        }

    def to_dict(self) -> dict[str, Any]:
        """The report in the types of JSON."""
        return {"people": self.people, "groups": self.groups, "withheld": list(self.withheld)}

    def markdown(self) -> str:
        """A table with a row for each figure and a column for each group."""
        lines = [f"Evaluated on {self.people:,} held-out people."]
        if self.groups:
            names = dict.fromkeys(name for figures in self.groups.values() for name in figures)
            lines += ["", _row("", map(_spoken, self.groups)), _row("---", ["---:"] * len(self.groups))]
            lines += [_row(_title(name), (_shown(name, figures) for figures in self.groups.values())) for name in names]
        if self.withheld:
            groups = ", ".join(map(_spoken, self.withheld))
            lines += ["", f"Withheld, so that no figure rests on fewer than {SMALLEST_CELL} people: {groups}."]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class _Scores:
    """What is known of each person, all (n,): the figures of any group are means over its rows."""

    age: Array
    predicted: Array
    crps: Array
    crps_gaussian: Array
    aleatoric_sd: Array
    epistemic_sd: Array
    intervals: dict[float, tuple[Array, Array]]

    def figures(self, rows: Rows) -> dict[str, float]:
        """Figures of the people in ``rows``; a correlation that is undefined is left out."""
        age, predicted = self.age[rows], self.predicted[rows]
        figures = {
            "n": float(len(age)),
            "mae_years": mean_absolute_error(predicted, age),
            "rmse_years": root_mean_squared_error(predicted, age),
            "mean_error_years": mean_error(predicted, age),
            "crps_years": float(self.crps[rows].mean()),
            "crps_gaussian_years": float(self.crps_gaussian[rows].mean()),
            "aleatoric_sd_years": float(self.aleatoric_sd[rows].mean()),
            "epistemic_sd_years": float(self.epistemic_sd[rows].mean()),
        }
        correlation = pearson_r(predicted, age)
        if correlation is not None:
            figures["r"] = correlation
        for coverage, (lower, upper) in self.intervals.items():
            percent = f"{100 * coverage:g}"
            figures[f"coverage_{percent}"] = interval_coverage(lower[rows], upper[rows], age)
            figures[f"width_{percent}_years"] = interval_width(lower[rows], upper[rows])
        return figures


def evaluate(distribution: Distribution, age: Array, sex: ArrayLike, coverages: Iterable[float]) -> Report:
    """Score predictions against chronological age, for everyone and by sex.

    Point errors are those of the median. ``crps_years`` is that of ``distribution`` whatever its shape;
    ``crps_gaussian_years`` is that of the Gaussian with its mean and aleatoric standard deviation: the difference is
    what the shape is worth.

    Args:
        distribution: predictions of n people.
        age: chronological ages in years, shape (n,).
        sex: ``female``, ``male`` or missing, shape (n,).
        coverages: nominal coverages of the central intervals to report, each between 0 and 1.

    Raises:
        BadInput: nobody to evaluate, lengths that differ, an age or a prediction that is not finite, or an impossible
            coverage.
    """
    age = np.asarray(age, dtype=np.float64)
    sexes = np.array([value if isinstance(value, str) else "" for value in np.asarray(sex, dtype=object)])
    _check(age, sexes, distribution.median)
    scores = _Scores(
        age=age,
        predicted=distribution.median,
        crps=_crps(distribution, age),
        crps_gaussian=crps_gaussian(distribution.mean, distribution.aleatoric_sd, age),
        aleatoric_sd=distribution.aleatoric_sd,
        epistemic_sd=distribution.epistemic_sd,
        intervals={coverage: distribution.interval(coverage) for coverage in coverages},
    )
    by_sex = {"female": sexes == "female", "male": sexes == "male"}
    by_sex["sex_not_stated"] = ~(by_sex["female"] | by_sex["male"])
    groups = {"all": np.ones(len(age), dtype=np.bool_)} | by_sex
    published = publishable({"all": len(age)}) | publishable({name: int(rows.sum()) for name, rows in by_sex.items()})
    return Report(
        people=len(age),
        groups={name: scores.figures(rows) for name, rows in groups.items() if name in published},
        withheld=tuple(name for name, rows in groups.items() if rows.any() and name not in published),
    )


def publishable(sizes: Mapping[str, int]) -> set[str]:
    """Groups of a partition whose figures may stand beside those of all its people.

    A group below ``SMALLEST_CELL`` people is withheld. Where those withheld are too few together, all less the
    published would give them away, so the next smallest group is withheld as well.
    """
    published, hidden = set(), 0
    for size, name in sorted((size, name) for name, size in sizes.items() if size):
        if size < SMALLEST_CELL or 0 < hidden < SMALLEST_CELL:
            hidden += size
        else:
            published.add(name)
    return published


def _crps(distribution: Distribution, age: Array) -> Array:
    blocks = midpoint_levels(_CRPS_LEVELS).reshape(-1, _LEVELS_AT_ONCE)
    parts = [crps_from_quantiles(distribution.quantiles(levels), levels, age) for levels in blocks]
    return np.asarray(np.mean(parts, axis=0))


def _check(age: Array, sexes: NDArray[np.str_], predicted: Array) -> None:
    if not len(age):
        raise BadInput("evaluation: no people to evaluate; expected at least one held-out row")
    if not age.shape == sexes.shape == predicted.shape:
        found = f"{predicted.shape} predictions, {age.shape} ages and {sexes.shape} sexes"
        raise BadInput(f"evaluation: expected a prediction, an age and a sex for each person, found {found}")
    for name, values in {"age_years": age, "predicted age": predicted}.items():
        faults = int(np.sum(~np.isfinite(values)))
        if faults:
            raise BadInput(f"evaluation: {name}: {faults:,} of {len(age):,} values missing or not finite")


def _title(name: str) -> str:
    kind, _, percent = name.removesuffix("_years").rpartition("_")
    described = {"coverage": "coverage", "width": "mean width (years)"}.get(kind)
    return f"{percent} % interval: {described}" if described else _TITLES[name]


def _shown(name: str, figures: Mapping[str, float]) -> str:
    if name not in figures:
        return "–"
    if name == "n":
        return f"{figures[name]:,.0f}"
    if name.startswith("coverage_"):
        return f"{100 * figures[name]:.1f} %"
    return f"{figures[name]:.3f}" if name == "r" else f"{figures[name]:.2f}"


def _spoken(group: str) -> str:
    return group.replace("_", " ")


def _row(first: str, cells: Iterable[str]) -> str:
    return "| " + " | ".join([first, *cells]) + " |"
