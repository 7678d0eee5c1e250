"""The report of an evaluation, as a person and a tracker read it: tables with intervals, and no participant's value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from henaw.data.disclosure import SMALLEST_CELL
from henaw.evaluation.bootstrap import Estimate
from henaw.evaluation.figures import figure, verdict
from henaw.evaluation.subgroups import SubgroupFigures
from henaw.evaluation.suppression import how_many
from henaw.model.clock import Target

MAIN = {
    "age": ("mae_years", "r", "crps_years", "coverage_90", "width_90_years", "hazard_ratio"),
    "mortality": ("concordance", "hazard_ratio", "brier", "observed_expected_10y", "width_90_years"),
}
"""The figures that stand at the end of a training, by target."""
COMPARED = {"age": ("mae_years", "crps_years"), "mortality": ("concordance",)}
"""Of these the differences to the references stand there as well."""
MIXTURE = "mixture"
"""Short name of the linear pool of the clock's own members, which stands among the references."""


@dataclass(frozen=True)
class Reference:
    """A clock beside ours, on the people whom it answers.

    Attributes:
        title: what a person reads.
        people: how many.
        figures: its own, by name.
        differences: ours less its own, paired, by name.
    """

    title: str
    people: int
    figures: dict[str, Estimate]
    differences: dict[str, Estimate]


@dataclass(frozen=True)
class Report:
    """What may be published of an evaluation.

    Attributes:
        target: what the clock predicts.
        people: how many were evaluated.
        draws: resampled cohorts behind the intervals.
        figures: of everyone, by name; empty where there are too few people.
        subgroups: means by predicted age, true age, sex and number of missing markers.
        references: by short name.
        risk_calibration: observed and expected risk by tenth of the predicted one, by horizon in years.
    """

    target: Target
    people: int
    draws: int
    figures: dict[str, Estimate]
    subgroups: SubgroupFigures
    references: dict[str, Reference] = field(default_factory=dict)
    risk_calibration: dict[int, pd.DataFrame] = field(default_factory=dict)

    @property
    def main(self) -> dict[str, float]:
        """The figures of everyone, for the row that people compare."""
        return {name: estimate.value for name, estimate in self.figures.items()}

    @property
    def metrics(self) -> dict[str, float]:
        """Flat names for a tracker.

        ``mae_years`` and ends ``lower/…``, ``upper/…``; of a subgroup ``by_sex/female/mae_years``; of a reference
        ``ridge/mae_years`` and the paired difference ``minus_ridge/mae_years``.
        """
        found = dict(self.main)
        for name, estimate in self.figures.items():
            if name not in ("n", "deaths"):
                found |= {f"lower/{name}": estimate.lower, f"upper/{name}": estimate.upper}
        for row in _rows(self.subgroups.table):
            found[f"by_{_slug(row['partition'])}/{_slug(row['group'])}/{row['figure']}"] = row["value"]
        for short, reference in self.references.items():
            found |= {f"{short}/{name}": estimate.value for name, estimate in reference.figures.items()}
            found |= {f"minus_{short}/{name}": estimate.value for name, estimate in reference.differences.items()}
        return found

    def to_dict(self) -> dict[str, Any]:
        """The report in the types of JSON; what is undefined is null."""
        return {
            "target": self.target,
            "people": self.people if self.people >= SMALLEST_CELL else f"<{SMALLEST_CELL}",
            "draws": self.draws,
            "figures": _estimates(self.figures),
            "subgroups": _rows(self.subgroups.table),
            "withheld": list(self.subgroups.withheld),
            "references": {
                short: {
                    "title": reference.title,
                    "people": reference.people,
                    "figures": _estimates(reference.figures),
                    "differences": {
                        name: {**found, "verdict": verdict(name, reference.differences[name])}
                        for name, found in _estimates(reference.differences).items()
                    },
                }
                for short, reference in self.references.items()
            },
            "risk_calibration": {str(years): _rows(table) for years, table in self.risk_calibration.items()},
        }

    def summary(self) -> str:
        """A short table: the main figures, and how the clock does against those that people use instead."""
        names = [name for name in MAIN[self.target] if name in self.figures]
        lines = [f"Evaluated on {how_many(self.people)} held-out people.", ""]
        if not names:
            return "\n".join([*lines[:1], *self.withheld_words(), ""])
        lines += [table_row("", ["", "95 % interval"]), table_row("---", ["---:", "---:"])]
        lines += [table_row(figure(name).title, estimate_cells(name, self.figures[name])) for name in names]
        for name in COMPARED[self.target]:
            for short, reference in self.references.items():
                if short != MIXTURE and name in reference.differences:
                    found = reference.differences[name]
                    title = f"{figure(name).title}, less that of {reference.title}"
                    shown = difference_cells(name, found)
                    lines.append(table_row(title, [f"{shown[0]} ({verdict(name, found)})", shown[1]]))
        return "\n".join([*lines, *self.withheld_words(), ""])

    def withheld_words(self) -> list[str]:
        """Lines that say which groups are left out; none where none is."""
        if not self.subgroups.withheld:
            return []
        groups = ", ".join(self.subgroups.withheld)
        return ["", f"Withheld, so that no figure rests on fewer than {SMALLEST_CELL} people: {groups}."]


def estimate_cells(name: str, estimate: Estimate) -> list[str]:
    """The figure, and its interval where it has one."""
    known = figure(name)
    return [known.shown(estimate.value), _interval(known.shown(estimate.lower), known.shown(estimate.upper))]


def difference_cells(name: str, estimate: Estimate) -> list[str]:
    """A difference with its sign, and its interval."""
    known = figure(name)
    shown = [known.difference(value) for value in estimate.numbers]
    return [shown[0], _interval(*shown[1:])]


def table_row(first: str, cells: Iterable[str]) -> str:
    """A row of a table in Markdown."""
    return "| " + " | ".join([first, *cells]) + " |"


def _interval(lower: str, upper: str) -> str:
    return "" if "–" in (lower, upper) else f"{lower} to {upper}"


def _estimates(found: Mapping[str, Estimate]) -> dict[str, dict[str, float | None]]:
    keys = ("value", "lower", "upper")
    return {name: dict(zip(keys, map(_finite, estimate.numbers), strict=True)) for name, estimate in found.items()}


def _rows(table: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(name): _finite(value) for name, value in row.items()} for row in table.to_dict("records")]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "_", text).strip("_")
