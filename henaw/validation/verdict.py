"""What the suites found in a participant table: counts for publishing, row positions for setting aside.

A verdict holds no participant's value and no id. What it publishes (``to_dict``, ``markdown``) has counts of people
as ``published`` has them, and fractions of those; the exact counts stay in ``results``, in this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.disclosure import SMALLEST_CELL, published
from henaw.errors import BadInput

OnFailure = Literal["block", "set_aside", "warn"]

UNITS = "units"  # beside the suites of expectations/: what looks like another unit (henaw.validation.unit_mistakes)


@dataclass(frozen=True)
class SuiteResult:
    """How one expectation of a suite came out."""

    suite: str
    column: str
    rule: str
    on_failure: OnFailure
    expected: str
    success: bool
    checked: int
    unexpected: int
    found: str = ""

    @property
    def name(self) -> str:
        """The rule as a person reads it, and as the quarantine file names it."""
        return f"{self.column}: {self.rule}"

    @property
    def fraction(self) -> float:
        """Part of the checked rows that failed; 0 where none was checked."""
        return self.unexpected / self.checked if self.checked else 0.0

    def describe(self) -> str:
        """Column, rule, count and what was expected, in one line."""
        found = self.found or f"{published(self.unexpected)} of {published(self.checked)} rows fail"
        return f"column {self.column!r} ({self.suite}, rule {self.rule}): {found}; expected {self.expected}"


@dataclass(frozen=True, eq=False)
class Verdict:
    """The outcome of all suites on one table of ``rows`` rows.

    ``first_rule`` (rows,) is the position in ``results`` of the first rule that sets the row aside, -1 where none does.
    """

    panel: str
    max_set_aside: float
    results: tuple[SuiteResult, ...]
    first_rule: NDArray[np.int32]

    @property
    def rows(self) -> int:
        """Rows judged."""
        return len(self.first_rule)

    @property
    def set_aside(self) -> NDArray[np.bool_]:
        """Mask (rows,) of the rows that must not be trained on."""
        return self.first_rule >= 0

    @property
    def rules(self) -> NDArray[np.object_]:
        """For each row that is set aside, in order, the name of the first rule that did it."""
        names = np.array([result.name for result in self.results], dtype=object)
        return names[self.first_rule[self.set_aside]]

    @property
    def failed(self) -> tuple[SuiteResult, ...]:
        """The expectations that do not hold."""
        return tuple(result for result in self.results if not result.success)

    @property
    def passed(self) -> bool:
        """True where the cleaned table may be used; ``require_passed`` says why not."""
        return self._refusal() is None

    def clean(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of the judged ``table`` that are kept, index reset."""
        return self._rows_of(table, ~self.set_aside).reset_index(drop=True)

    def quarantined(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of the judged ``table`` that are set aside, with the rule in a last column ``rule``; index reset."""
        rows = self._rows_of(table, self.set_aside).reset_index(drop=True)
        return rows.assign(rule=pd.Series(self.rules, dtype="str"))

    def to_dict(self) -> dict[str, Any]:
        """JSON-able counts, as ``published``."""
        return {
            "passed": self.passed,
            "panel": self.panel,
            "rows": published(self.rows),
            "set_aside": published(int(self.set_aside.sum())),
            "max_set_aside": self.max_set_aside,
            "results": [
                {
                    "suite": result.suite,
                    "column": result.column,
                    "rule": result.rule,
                    "expected": result.expected,
                    "on_failure": result.on_failure,
                    "found": result.found,
                    "success": result.success,
                    "checked": published(result.checked),
                    "unexpected": published(result.unexpected),
                    "fraction": _published_fraction(result),
                }
                for result in self.results
            ],
        }

    def markdown(self) -> str:
        """A short report: the summary, and a table of what failed."""
        held = len(self.results) - len(self.failed)
        lines = [
            f"# Validation: {'passed' if self.passed else 'refused'}",
            "",
            f"{published(self.rows)} rows, panel {self.panel}: {held} of {len(self.results)} expectations hold; "
            f"{published(int(self.set_aside.sum()))} rows set aside (at most {self.max_set_aside:.1%} may be).",
        ]
        if self.failed:
            lines += [
                "",
                "| suite | column | rule | expected | found | rows | fraction | what happens |",
                "|---|---|---|---|---|---|---|---|",
            ]
        for result in self.failed:
            fraction = _published_fraction(result)
            shown = f"{fraction:.2%}" if isinstance(fraction, float) else fraction
            words = (result.suite, result.column, result.rule, result.expected, result.found)
            cells = (*words, published(result.unexpected), shown, result.on_failure.replace("_", " "))
            lines.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(lines) + "\n"

    def _rows_of(self, table: pd.DataFrame, mask: NDArray[np.bool_]) -> pd.DataFrame:
        if len(table) != self.rows:
            raise ValueError(f"the verdict is on {self.rows} rows, the table has {len(table)}")
        return table.loc[mask]

    def _refusal(self) -> str | None:
        blocking = [result for result in self.failed if result.on_failure == "block"]
        if blocking:
            more = f" (and {len(blocking) - 1} more)" if len(blocking) > 1 else ""
            return f"{blocking[0].describe()}{more}"
        if not self.rows:
            return "the table has no rows; expected at least one"
        count = int(self.set_aside.sum())
        if count < self.rows and count / self.rows <= self.max_set_aside:
            return None
        worst = max((result for result in self.failed if result.on_failure == "set_aside"), key=lambda r: r.unexpected)
        limit = "no row is left" if count == self.rows else f"expected at most {self.max_set_aside:.1%}"
        most = f"most by {worst.describe()}{self._unit_hint(worst)}"
        shown = f"{count} of {self.rows} rows set aside ({count / self.rows:.1%})"
        return f"{shown if count >= SMALLEST_CELL else f'{published(count)} rows set aside'}, {limit}; {most}"

    def _unit_hint(self, worst: SuiteResult) -> str:
        """Why ``worst`` fails, where its column as a whole looks like another unit."""
        hints = [one for one in self.failed if one.suite == UNITS and one.column == worst.column]
        return f"; {hints[0].found}" if hints and hints[0].unexpected == hints[0].checked else ""


def require_passed(verdict: Verdict) -> None:
    """Let the run go on only if the verdict allows it; log the verdict before.

    Raises:
        BadInput: a blocking expectation failed, too many rows are set aside, or no row is left.
    """
    refusal = verdict._refusal()
    if refusal is not None:
        raise BadInput(f"validation for panel {verdict.panel}: {refusal}")


def verdict_metrics(document: dict[str, Any]) -> dict[str, float]:
    """Counts and rates of a verdict's published form, by metric name; those of one to four people are left out."""
    metrics: dict[str, Any] = {"validation/rows": document["rows"], "validation/rows_set_aside": document["set_aside"]}
    if isinstance(document["rows"], int) and isinstance(document["set_aside"], int) and document["rows"]:
        metrics["validation/fraction_set_aside"] = document["set_aside"] / document["rows"]
    failed = [result for result in document["results"] if not result["success"]]
    for result in failed:
        name = f"{result['suite']}/{result['column'].replace(', ', '.')}.{result['rule']}"
        rows, before = result["unexpected"], metrics.get(f"validation/{name}/rows", 0)
        if isinstance(rows, int) and rows >= before:
            metrics |= {f"validation/{name}/rows": rows, f"validation/{name}/fraction": result["fraction"]}
    for how in ("block", "set_aside", "warn"):
        metrics[f"validation/expectations_{how}"] = sum(result["on_failure"] == how for result in failed)
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def _published_fraction(result: SuiteResult) -> float | str:
    rows, checked = published(result.unexpected), published(result.checked)
    if isinstance(rows, str) or isinstance(checked, str):
        return f"<{SMALLEST_CELL} rows"
    return round(rows / checked, 6) if rows else 0.0
