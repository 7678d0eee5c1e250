"""Judge a participant table by the suites in ``expectations/``, with Great Expectations, inside this process.

Great Expectations is asked for complete results, because only they name the rows. They quote participants' values too,
so none of its objects, messages or exceptions leaves this module: only counts and row positions do.
"""

from __future__ import annotations

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
from henaw.validation.verdict import SuiteResult, Verdict

if TYPE_CHECKING:
    from great_expectations.core.expectation_validation_result import ExpectationValidationResult
    from great_expectations.expectations.expectation import Expectation as GxExpectation

logger = logging.getLogger(__name__)

# Values are judged only in columns that exist and have the right type.
_STRUCTURE = ("expect_column_to_exist", "expect_column_values_to_be_of_type")
_COMPLETE = {"result_format": "COMPLETE", "partial_unexpected_count": 0, "return_unexpected_index_query": False}


def validate(table: pd.DataFrame, panel: Panel, max_set_aside: float) -> Verdict:
    """Judge a participant table by every suite.

    Args:
        table: one row a person-visit; columns that no expectation names are ignored, the order of columns is free.
        panel: the biomarkers that the table is read for.
        max_set_aside: largest fraction of rows that may be set aside before ``require_passed`` refuses the table.

    Raises:
        BadInput: a suite cannot be used or lacks a biomarker of the panel, or a judged column stands twice.
    """
    results: list[SuiteResult] = []
    first_rule = np.full(len(table), -1, dtype=np.int32)
    unusable: set[str] = set()
    for suite in map(load_suite, SUITES):
        _require_covered(suite, panel)
        applying = [e for e in suite.expectations if e.applies(table.columns, panel)]
        for expectation, result, _ in _judge(suite.name, [e for e in applying if e.type in _STRUCTURE], table):
            if unusable.isdisjoint(expectation.columns):  # a column that is missing has no type to judge
                results.append(result)
                if not result.success:
                    unusable |= set(expectation.columns)
        values = [e for e in applying if e.type not in _STRUCTURE and unusable.isdisjoint(e.columns)]
        for _, result, failing in _judge(suite.name, values, table):
            if result.on_failure == "set_aside" and not result.success:
                first_rule[failing[first_rule[failing] < 0]] = len(results)
            results.append(result)
    verdict = Verdict(panel.name, max_set_aside, tuple(results), first_rule)
    _log(verdict)
    return verdict


def _require_covered(suite: Suite, panel: Panel) -> None:
    covered = {column for e in suite.expectations if e.action.in_panel for column in e.columns}
    for name in panel.names:
        if name not in covered:
            raise BadInput(
                f"{suite.name}.json: expects nothing of {name!r}, which panel {panel.name} reads; "
                "write its lines with: python -m henaw.validation.biomarkers"
            )


def _judge(
    suite: str, expectations: list[Expectation], table: pd.DataFrame
) -> Iterator[tuple[Expectation, SuiteResult, NDArray[np.intp]]]:
    """Run ``expectations``; yield each with its result and the positions of the rows that fail, where it names rows."""
    if not expectations:
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
    gx_suite = gx.ExpectationSuite(suite, [_to_gx(suite, position, e) for position, e in enumerate(expectations)])
    context = gx.get_context(mode="ephemeral", project_config=settings)
    source = context.data_sources.add_pandas("memory")
    try:
        whole = source.add_dataframe_asset("participants").add_batch_definition_whole_dataframe("all")
        batch = whole.get_batch({"dataframe": _columns_of(table, expectations)})
        outcomes = batch.validate(gx_suite, result_format=_COMPLETE).results
    finally:
        # The context stays behind as Great Expectations' current one; it must not keep the participants alive.
        context.data_sources.delete(source.name)
    for outcome in sorted(outcomes, key=_position):
        expectation = expectations[_position(outcome)]
        yield expectation, _result(suite, expectation, outcome, table), _failing_rows(outcome)


def _columns_of(table: pd.DataFrame, expectations: list[Expectation]) -> pd.DataFrame:
    """The judged columns alone, rows numbered from 0: Great Expectations copies and names rows of all it is given."""
    wanted = {column for expectation in expectations for column in expectation.columns}
    judged = table.loc[:, [column in wanted for column in table.columns]]
    twice = judged.columns[judged.columns.duplicated()]
    if len(twice):
        raise BadInput(f"validation: column {twice[0]!r} stands twice in the table; expected each column once")
    return judged.reset_index(drop=True)


def _to_gx(suite: str, position: int, expectation: Expectation) -> GxExpectation:
    from great_expectations.exceptions.exceptions import GreatExpectationsError
    from great_expectations.expectations.expectation import ColumnMapExpectation, MulticolumnMapExpectation
    from great_expectations.expectations.expectation_configuration import ExpectationConfiguration

    where = f"{suite}.json: {expectation.type} of {', '.join(expectation.columns) or 'the table'}"
    try:
        configuration = ExpectationConfiguration(expectation.type, expectation.kwargs, meta={"position": position})
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


def _result(
    suite: str, expectation: Expectation, outcome: ExpectationValidationResult, table: pd.DataFrame
) -> SuiteResult:
    counts = outcome.result
    checked = counts.get("element_count", len(table)) - counts.get("missing_count", 0)
    success = bool(outcome.success)
    return SuiteResult(
        suite=suite,
        column=", ".join(expectation.columns) or "(table)",
        rule=expectation.action.rule,
        # What could not be judged is not known to be harmless.
        on_failure="block" if _raised(outcome) else expectation.action.on_failure,
        expected=expectation.describe(),
        success=success,
        checked=checked,
        unexpected=counts.get("unexpected_count", 0 if success else checked),
        found="" if success else _found(expectation, outcome, table),
    )


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
    return ""


def _log(verdict: Verdict) -> None:
    levels = {"block": logging.DEBUG, "warn": logging.WARNING, "set_aside": logging.DEBUG}
    for result in verdict.failed:
        logger.log(
            levels[result.on_failure], "validation: %s: %s", result.on_failure.replace("_", " "), result.describe()
        )
    logger.info("validation: %d of %d rows set aside", verdict.set_aside.sum(), verdict.rows)
