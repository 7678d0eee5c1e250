"""Judge a participant table by the suites in ``expectations/``, with Great Expectations, inside this process.

All suites are judged together, a few columns at a time and texts as numbers where they are only counted: handing tables
to Great Expectations, and its copies of them, cost far more than what it then looks at.

Great Expectations is asked for complete results, because only they name the rows. They quote participants' values too,
so none of its objects, messages or exceptions leaves this module: only counts and row positions do.
"""

from __future__ import annotations

import dataclasses
import difflib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from henaw.data.panel import Panel
from henaw.errors import BadInput
from henaw.validation.definitions import SUITES, Expectation, Suite, load_suite
from henaw.validation.derived import derive
from henaw.validation.unit_results import judge_units
from henaw.validation.verdict import SuiteResult, Verdict

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation as GxExpectation

logger = logging.getLogger(__name__)

# Values are judged only in columns that exist and have the right type.
_STRUCTURE = ("expect_column_to_exist", "expect_column_values_to_be_of_type")
# What only asks whether values are there and equal.
_IDENTITY = (
    "expect_column_values_to_not_be_null",
    "expect_column_values_to_be_unique",
    "expect_compound_columns_to_be_unique",
)
_COLUMNS_AT_ONCE = 6
_COMPLETE = {"result_format": "COMPLETE", "partial_unexpected_count": 0, "return_unexpected_index_query": False}


def validate(table: pd.DataFrame, panel: Panel, max_set_aside: float) -> Verdict:
    """Judge a participant table by every suite, and look for mistaken units.

    Args:
        table: one row a person-visit; columns that no expectation names are ignored, the order of columns is free.
        panel: the biomarkers that the table is read for.
        max_set_aside: largest fraction of rows that may be set aside before ``require_passed`` refuses the table.

    Raises:
        BadInput: a suite cannot be used or lacks a biomarker of the panel, or a judged column stands twice.
    """
    _require_columns_once(table, panel)
    derived = derive(table, panel)
    applying: list[_Placed] = []
    for suite in map(load_suite, SUITES):
        _require_covered(suite, panel)
        lines = [e for e in suite.expectations if e.applies({*table.columns, *derived}, panel)]
        applying += [_Placed(len(applying) + offset, suite.name, e) for offset, e in enumerate(lines)]
    results: dict[int, SuiteResult] = {}
    unusable: set[str] = set()
    for line, result, _ in _judge(
        [one for one in applying if one.expectation.type in _STRUCTURE], _structure_of(table)
    ):
        if unusable.isdisjoint(line.expectation.columns):  # a column that is missing has no type to judge
            results[line.position] = dataclasses.replace(result, checked=len(table))
            if not result.success:
                unusable |= set(line.expectation.columns)
    about_values = [one for one in applying if one.expectation.type not in _STRUCTURE]
    judged = [one for one in about_values if len(table) and unusable.isdisjoint(one.expectation.columns)]
    first = np.full(len(table), -1, dtype=np.int32)
    whole = table.assign(**derived)
    outcomes = [outcome for group in _groups(judged) for outcome in _judge(group, whole)]
    for line, result, failing in sorted(outcomes, key=lambda outcome: outcome[0].position):
        if result.on_failure == "set_aside" and not result.success:
            first[failing[first[failing] < 0]] = line.position
        results[line.position] = result
    # positions among the lines that apply become positions among the results
    order = np.array([*sorted(results), -1], dtype=np.int32)
    where = np.full(len(applying) + 1, -1, dtype=np.int32)
    where[order] = np.array([*range(len(results)), -1], dtype=np.int32)
    found = (*(results[position] for position in order[:-1]), *judge_units(table, panel))
    verdict = Verdict(panel.name, max_set_aside, found, where[first])
    _log(verdict)
    return verdict


@dataclasses.dataclass(frozen=True)
class _Placed:
    """A line of a suite that applies, and where it stands among all that do."""

    position: int
    suite: str
    expectation: Expectation


def _require_columns_once(table: pd.DataFrame, panel: Panel) -> None:
    judged = {
        *panel.names,
        *(column for one in map(load_suite, SUITES) for e in one.expectations for column in e.columns),
    }
    twice = [name for name in table.columns[table.columns.duplicated()] if name in judged]
    if twice:
        raise BadInput(f"validation: column {twice[0]!r} stands twice in the table; expected each column once")


def _require_covered(suite: Suite, panel: Panel) -> None:
    covered = {column for e in suite.expectations if e.action.in_panel for column in e.columns}
    for name in panel.names:
        if name not in covered:
            raise BadInput(
                f"{suite.name}.json: expects nothing of {name!r}, which panel {panel.name} reads; "
                "write its lines with: python -m henaw.validation.biomarkers"
            )


def _structure_of(table: pd.DataFrame) -> pd.DataFrame:
    """What tells names and types: all of ``table`` only where a column may mix types."""
    return table if np.dtype(object) in table.dtypes.to_list() else table.iloc[:1]


def _groups(lines: list[_Placed]) -> list[list[_Placed]]:
    """``lines`` about few columns at a time: for each column Great Expectations copies all that it was given."""
    groups: list[tuple[set[str], list[_Placed]]] = []
    for one in lines:
        about = set(one.expectation.columns)
        fitting = [group for group in groups if group[0] & about] or [g for g in groups if len(g[0]) < _COLUMNS_AT_ONCE]
        if not fitting:
            groups.append((set(), []))
        columns, members = fitting[0] if fitting else groups[-1]
        columns |= about
        members.append(one)
    return [members for _, members in groups]


def _judge(lines: list[_Placed], table: pd.DataFrame) -> Iterator[tuple[_Placed, SuiteResult, NDArray[np.intp]]]:
    """Run ``lines``; yield each with its result and the positions of the rows that fail, where it names rows."""
    if not lines:
        return
    import great_expectations as gx  # here, because importing it takes seconds
    from great_expectations.data_context.types.base import (
        DataContextConfig,
        InMemoryStoreBackendDefaults,
        ProgressBarsConfig,
    )

    settings = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars=ProgressBarsConfig(globally=False),
        analytics_enabled=False,
    )
    by_position = {one.position: one for one in lines}
    gx_suite = gx.ExpectationSuite("participants", [_to_gx(one) for one in lines])
    context = gx.get_context(mode="ephemeral", project_config=settings)
    source = context.data_sources.add_pandas("memory")
    try:
        whole = source.add_dataframe_asset("participants").add_batch_definition_whole_dataframe("all")
        batch = whole.get_batch({"dataframe": _columns_of(table, lines)})
        outcomes = batch.validate(gx_suite, result_format=_COMPLETE).results
    finally:
        # The context stays behind as Great Expectations' current one; it must not keep the participants alive.
        context.data_sources.delete(source.name)
    for outcome in sorted(outcomes, key=_position):
        one = by_position[_position(outcome)]
        yield one, _result(one, outcome, table), _failing_rows(outcome)


def _columns_of(table: pd.DataFrame, lines: list[_Placed]) -> pd.DataFrame:
    """The judged columns alone, rows numbered from 0: Great Expectations copies and names rows of all it is given."""
    wanted = {column for one in lines for column in one.expectation.columns}
    judged = table.loc[:, [column in wanted for column in table.columns]].reset_index(drop=True)
    if any(one.expectation.type in _STRUCTURE for one in lines):
        return judged
    compared = {c for one in lines if one.expectation.type not in _IDENTITY for c in one.expectation.columns}
    for name in [name for name in judged if isinstance(judged[name].dtype, pd.StringDtype)]:
        judged[name] = judged[name].astype("category") if name in compared else _numbered(judged[name])
    return judged


def _numbered(column: pd.Series[Any]) -> pd.Series[Any]:
    """Equal texts as equal numbers, missing ones missing: Great Expectations hashes and copies texts slowly."""
    codes, _ = pd.factorize(column)
    return pd.Series(codes, index=column.index, dtype=np.float64).where(codes >= 0)


def _to_gx(line: _Placed) -> GxExpectation:
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation import ColumnMapExpectation, MulticolumnMapExpectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    expectation = line.expectation
    where = f"{line.suite}.json: {expectation.type} of {', '.join(expectation.columns) or 'the table'}"
    try:
        configuration = ExpectationConfiguration(expectation.type, expectation.kwargs, meta={"position": line.position})
        built = configuration.to_domain_obj()
    except (GreatExpectationsError, TypeError, ValueError) as error:
        raise BadInput(f"{where}: not an expectation of Great Expectations: {' '.join(str(error).split())}") from None
    if expectation.action.on_failure == "set_aside" and not isinstance(
        built, ColumnMapExpectation | MulticolumnMapExpectation
    ):
        raise BadInput(f"{where}: judges no single rows, so it cannot set rows aside; expected block or warn")
    return built


def _position(outcome: ExpectationValidationResult) -> int:
    assert outcome.expectation_config is not None
    return int(outcome.expectation_config.meta["position"])


def _failing_rows(outcome: ExpectationValidationResult) -> NDArray[np.intp]:
    return np.asarray(outcome.result.get("unexpected_index_list") or [], dtype=np.intp)


def _result(line: _Placed, outcome: ExpectationValidationResult, table: pd.DataFrame) -> SuiteResult:
    expectation, success = line.expectation, bool(outcome.success)
    checked, unexpected = _counts(expectation, outcome, len(table))
    return SuiteResult(
        suite=line.suite,
        column=", ".join(expectation.columns) or "(table)",
        rule=expectation.action.rule,
        # What could not be judged is not known to be harmless.
        on_failure="block" if _raised(outcome) else expectation.action.on_failure,
        expected=expectation.describe(),
        success=success,
        checked=checked,
        unexpected=unexpected,
        found="" if success else _found(expectation, outcome, table),
    )


def _counts(expectation: Expectation, outcome: ExpectationValidationResult, rows: int) -> tuple[int, int]:
    """Rows that were judged, and those of them that fail; what is about a column as such fails with all of its rows."""
    counts, success = outcome.result, bool(outcome.success)
    if "unexpected_count" in counts:
        return counts.get("element_count", rows) - counts.get("missing_count", 0), counts["unexpected_count"]
    known = counts.get("observed_value")
    if expectation.type == "expect_column_proportion_of_non_null_values_to_be_between" and known is not None:
        return rows, 0 if success else round((1 - float(known)) * rows)
    return rows, 0 if success else rows


def _raised(outcome: ExpectationValidationResult) -> bool:
    """Whether Great Expectations failed to compute it; ``exception_info`` is one record, or one for each metric."""
    info: dict[str, Any] = dict(outcome.exception_info or {})
    records = [info, *(record for record in info.values() if isinstance(record, dict))]
    return any(record.get("raised_exception") for record in records)


def _found(expectation: Expectation, outcome: ExpectationValidationResult, table: pd.DataFrame) -> str:
    """What stands in the table instead, where a count of rows does not say it."""
    if _raised(outcome):
        return "cannot be judged"
    if expectation.type == "expect_column_to_exist":
        names = [name for name in table.columns if isinstance(name, str)]
        nearest = difflib.get_close_matches(expectation.columns[0], names, n=1, cutoff=0.6)
        return f"missing (nearest: {nearest[0]!r})" if nearest else "missing"
    if expectation.type == "expect_column_values_to_be_of_type":
        return f"type {table[expectation.columns[0]].dtype}"
    if expectation.type == "expect_column_median_to_be_between":
        median = outcome.result.get("observed_value")  # one person's value, perhaps: only its side is told
        if median is None or np.isnan(median):
            return "no value"
        return "the median lies below" if median < expectation.kwargs["min_value"] else "the median lies above"
    if expectation.type == "expect_column_unique_value_count_to_be_between":
        return "the same value in every row" if outcome.result.get("observed_value") else "no value"
    if expectation.type == "expect_column_distinct_values_to_contain_set":
        return "not all of them"
    return ""


def _log(verdict: Verdict) -> None:
    levels = {"block": logging.DEBUG, "warn": logging.WARNING, "set_aside": logging.DEBUG}
    for result in verdict.failed:
        logger.log(
            levels[result.on_failure], "validation: %s: %s", result.on_failure.replace("_", " "), result.describe()
        )
    logger.info("validation: %d of %d rows set aside", verdict.set_aside.sum(), verdict.rows)
