"""The suites of ``expectations/`` as HENAW reads them: Great Expectations' own JSON, with ``meta.henaw`` on each line.

``meta.henaw`` says what a failure does and which tables the line is about; ``expectations/README.md`` is its manual.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from henaw.config import asset_folder
from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.validation.derived import DERIVED
from henaw.validation.verdict import OnFailure

SUITES = ("schema", "biomarker_ranges", "cohort")


class Action(BaseModel):
    """``meta.henaw``: what a failure does, and which tables the expectation is about."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    on_failure: OnFailure
    rule: str
    in_panel: bool = False
    with_column: str | None = None
    without_column: str | None = None
    unit: str = ""
    expected: str = ""


class _Meta(BaseModel):
    model_config = ConfigDict(frozen=True)

    henaw: Action


class Expectation(BaseModel):
    """One expectation as the suite's file has it."""

    model_config = ConfigDict(frozen=True)

    type: str
    kwargs: dict[str, Any]
    meta: _Meta

    @property
    def action(self) -> Action:
        """Its ``meta.henaw``."""
        return self.meta.henaw

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it is about."""
        if "column" in self.kwargs:
            return (self.kwargs["column"],)
        return tuple(self.kwargs.get("column_list", ()))

    def applies(self, columns: Iterable[str], panel: Panel) -> bool:
        """Whether it is about a table with these ``columns``, derived ones among them, that is read for ``panel``."""
        action = self.action
        return (
            set(self.columns).intersection(DERIVED) <= set(columns)
            and (not action.in_panel or set(self.columns) <= set(panel.names))
            and (action.with_column is None or action.with_column in columns)
            and (action.without_column is None or action.without_column not in columns)
        )

    def describe(self) -> str:
        """What is expected, in words: those of the line, where it has some."""
        if self.action.expected:
            return self.action.expected
        match self.type, self.kwargs:
            case "expect_column_values_to_be_between", {"min_value": low, "max_value": high}:
                return f"{low} to {high} {self.action.unit}".rstrip()
            case "expect_column_values_to_be_between", {"min_value": low}:
                return f"{low} or more {self.action.unit}".rstrip()
            case "expect_column_median_to_be_between", {"min_value": low, "max_value": high}:
                return f"a median of {low} to {high} {self.action.unit}".rstrip()
            case "expect_column_proportion_of_non_null_values_to_be_between", {"min_value": low}:
                return f"a value in at least {low:.0%} of the rows"
            case "expect_column_unique_value_count_to_be_between", {"min_value": low}:
                return f"at least {low} different values"
            case "expect_column_distinct_values_to_contain_set", {"value_set": values}:
                return f"both {' and '.join(map(str, values))}"
            case "expect_column_values_to_be_in_set", {"value_set": values}:
                return " or ".join(map(str, values))
            case "expect_column_values_to_be_of_type", {"type_": kind}:
                return f"type {kind}"
            case "expect_column_to_exist", _:
                return "the column in the table"
            case "expect_column_values_to_not_be_null", _:
                return "a value in every row"
            case "expect_column_values_to_be_unique", _:
                return "each value once"
            case "expect_compound_columns_to_be_unique", _:
                return f"each combination of {', '.join(self.columns)} once"
        return self.type.removeprefix("expect_").replace("_", " ")


class Suite(BaseModel):
    """A suite of ``expectations/``."""

    model_config = ConfigDict(frozen=True)

    name: str
    expectations: tuple[Expectation, ...]


def load_suite(name: str, folder: Path | None = None) -> Suite:
    """Read ``folder/<name>.json`` (default ``expectations/``).

    Raises:
        BadInput: no such suite, not JSON, or an expectation without a usable ``meta.henaw``.
    """
    path = (folder or asset_folder("expectations")) / f"{name}.json"
    try:
        return Suite.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{path}: no such suite") from None
    except ValidationError as error:
        first = error.errors()[0]
        raise BadInput(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
