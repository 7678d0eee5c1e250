"""Every planted fault is found, with the right consequence; a clean table passes; Great Expectations leaks nothing."""

import gc
import json
import logging
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from henaw.config import asset_folder
from henaw.data.panel import Biomarker, Panel, load_panel
from henaw.errors import BadInput
from henaw.validation import suites
from henaw.validation.definitions import SUITES, load_suite
from henaw.validation.reference import LEVELS, load_reference
from henaw.validation.suites import validate
from henaw.validation.verdict import UNITS, Verdict, require_passed

ROWS = 60
Fault = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def panel() -> Panel:
    return load_panel("blood9", asset_folder("mlproject") / "panels")


@pytest.fixture
def table(panel: Panel) -> pd.DataFrame:
    return clean_table(panel, ROWS)


def clean_table(panel: Panel, rows: int) -> pd.DataFrame:
    random = np.random.default_rng(7)
    references = load_reference(asset_folder("mlproject") / "panels")
    levels = {name: np.clip(random.random(rows), LEVELS[0], LEVELS[-1]) for name in panel.names}
    values = {name: np.interp(levels[name], LEVELS, references[name].quantiles) for name in panel.names}
    for name in values:
        values[name][random.random(rows) < 0.1] = np.nan
    identity = {
        "participant": pd.array([f"{row:032x}" for row in range(rows)], dtype="str"),
        "age_years": random.uniform(20, 79, rows),
        "sex": pd.array(np.tile(["female", "male"], rows)[:rows], dtype="str"),
    }
    return pd.DataFrame(identity | values)


def by_hand(table: pd.DataFrame, panel: Panel) -> np.ndarray:
    """The rows that the suites' parameters set aside, without Great Expectations."""
    bad = table["age_years"].isna() | (table["age_years"] < 0) | (table["age_years"] > 120)
    bad |= ~table["sex"].isin(["female", "male"])
    for marker in panel.biomarkers:
        low, high = marker.plausible
        bad |= (table[marker.name] < low) | (table[marker.name] > high)
    return bad.to_numpy(dtype=bool)


def refusal(verdict: Verdict) -> str:
    with pytest.raises(BadInput) as caught:
        require_passed(verdict)
    assert not verdict.passed
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_clean_table_passes_whatever_its_columns_order_and_extras(table: pd.DataFrame, panel: Panel) -> None:
    shuffled = table[list(reversed(table.columns))].assign(notes="x", died=1.0)
    shuffled.index = shuffled.index + 1000
    verdict = validate(shuffled, panel, 0.0)
    require_passed(verdict)
    assert verdict.passed
    assert not verdict.failed
    assert not verdict.set_aside.any()
    assert {result.suite for result in verdict.results} == {*SUITES, UNITS}
    pd.testing.assert_frame_equal(verdict.clean(shuffled), shuffled.reset_index(drop=True))


def test_every_biomarker_of_the_panel_and_no_other_is_judged(table: pd.DataFrame, panel: Panel) -> None:
    verdict = validate(table.assign(glucose_mmol_l=-1.0), panel, 0.0)
    judged = {(result.column, result.rule) for result in verdict.results}
    for name in panel.names:
        assert {(name, "present"), (name, "numeric"), (name, "plausible")} <= judged
    assert not any(column == "glucose_mmol_l" for column, _ in judged)


def drop(column: str) -> Fault:
    return lambda table: table.drop(columns=column)


def cast(column: str, dtype: object) -> Fault:
    return lambda table: table.assign(**{column: table[column].fillna(1).astype(dtype)})


def text_in_number(table: pd.DataFrame) -> pd.DataFrame:
    values = table["crp_mg_l"].astype(object)
    values.iloc[5] = "canary41.25"
    return table.assign(crp_mg_l=values)


def repeated_person(table: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([table, table.iloc[[3]]], ignore_index=True)


def repeated_visit(table: pd.DataFrame) -> pd.DataFrame:
    return repeated_person(table.assign(visit=0.0))


def person_missing(table: pd.DataFrame) -> pd.DataFrame:
    return table.assign(participant=table["participant"].where(table.index != 3))


TABLE_FAULTS: dict[str, tuple[Fault, str, str]] = {
    "no participant": (drop("participant"), "participant", "present"),
    "no age": (drop("age_years"), "age_years", "present"),
    "no sex": (drop("sex"), "sex", "present"),
    "no biomarker": (drop("crp_mg_l"), "crp_mg_l", "present"),
    "biomarker text": (cast("crp_mg_l", "str"), "crp_mg_l", "numeric"),
    "biomarker boolean": (cast("crp_mg_l", bool), "crp_mg_l", "numeric"),
    "biomarker categorical": (cast("crp_mg_l", "category"), "crp_mg_l", "numeric"),
    "one text among numbers": (text_in_number, "crp_mg_l", "numeric"),
    "age integer": (cast("age_years", np.int64), "age_years", "numeric"),
    "sex coded": (lambda table: table.assign(sex=0), "sex", "text"),
    "participant numbered": (lambda table: table.assign(participant=table.index), "participant", "text"),
    "participant missing": (person_missing, "participant", "not_missing"),
    "participant repeated": (repeated_person, "participant", "unique"),
    "visit repeated": (repeated_visit, "participant, visit", "unique"),
}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if number % 2 else ()) for number, name in enumerate(TABLE_FAULTS)],
)
def test_faults_of_the_table_block(table: pd.DataFrame, panel: Panel, name: str) -> None:
    fault, column, rule = TABLE_FAULTS[name]
    verdict = validate(fault(table), panel, 1.0)
    blocking = [(result.column, result.rule) for result in verdict.failed if result.on_failure == "block"]
    assert blocking == [(column, rule)]
    message = refusal(verdict)
    assert repr(column) in message
    assert f"rule {rule}" in message
    assert "blood9" in message
    assert "canary" not in message


def test_two_visits_of_a_person_are_no_fault(table: pd.DataFrame, panel: Panel) -> None:
    later = table.assign(visit="second", age_years=table["age_years"] + 4.5)
    twice = pd.concat([table.assign(visit="first"), later])
    assert validate(twice, panel, 0.0).passed


BAD_ROWS: list[tuple[str, object, str]] = [
    ("age_years", np.nan, "not_missing"),
    ("age_years", 121.0, "plausible"),
    ("age_years", -1.0, "plausible"),
    ("sex", None, "not_missing"),
    ("sex", "Female", "known"),
    ("sex", "", "known"),
    ("hba1c_mmol_mol", -1.5, "plausible"),
    ("crp_mg_l", np.inf, "plausible"),
    ("crp_mg_l", -np.inf, "plausible"),
    ("crp_mg_l", 0.0, "plausible"),
]


def test_bad_rows_are_set_aside_alone_and_their_rules_are_named(table: pd.DataFrame, panel: Panel) -> None:
    rows = list(range(3, 3 + 2 * len(BAD_ROWS), 2))
    for row, (column, value, _) in zip(rows, BAD_ROWS, strict=True):
        table.loc[row, column] = value
    verdict = validate(table, panel, 0.4)
    require_passed(verdict)
    assert np.flatnonzero(verdict.set_aside).tolist() == rows
    assert verdict.rules.tolist() == [f"{column}: {rule}" for column, _, rule in BAD_ROWS]
    assert sum(result.unexpected for result in verdict.failed) == len(BAD_ROWS)
    pd.testing.assert_frame_equal(verdict.clean(table), table.drop(index=rows).reset_index(drop=True))


def test_a_row_with_two_faults_counts_once_under_its_first_rule(table: pd.DataFrame, panel: Panel) -> None:
    table.loc[4, ["age_years", "crp_mg_l"]] = [130.0, 1e6]
    table.loc[9, "crp_mg_l"] = 1e6
    verdict = validate(table, panel, 0.2)
    assert verdict.rules.tolist() == ["age_years: plausible", "crp_mg_l: plausible"]
    assert {result.name: result.unexpected for result in verdict.failed} == {
        "age_years: plausible": 1,
        "crp_mg_l: plausible": 2,
    }


def test_missing_values_are_not_counted_as_checked(table: pd.DataFrame, panel: Panel) -> None:
    table["crp_mg_l"] = np.nan
    table.loc[:9, "crp_mg_l"] = [1e6, *[1.0] * 9]
    result = validate(table, panel, 1.0).failed[0]
    assert (result.checked, result.unexpected, result.fraction) == (10, 1, 0.1)


def test_too_many_rows_set_aside_are_refused(table: pd.DataFrame, panel: Panel) -> None:
    table.loc[:14, "crp_mg_l"] = 1e6
    require_passed(validate(table, panel, 0.25))
    message = refusal(validate(table, panel, 0.24))
    for part in ("15 of 60", "25.0%", "24.0%", "crp_mg_l", "plausible", "0.01 to 500 mg/L"):
        assert part in message


def test_no_row_left_is_refused_at_any_tolerance(table: pd.DataFrame, panel: Panel) -> None:
    table["crp_mg_l"] = 1e6
    assert "no row is left" in refusal(validate(table, panel, 1.0))
    assert "no rows" in refusal(validate(table.iloc[:0], panel, 1.0))
    assert "participant" in refusal(validate(pd.DataFrame(), panel, 1.0))


def test_the_nearest_existing_column_is_named(table: pd.DataFrame, panel: Panel) -> None:
    assert "'crp_mg_dl'" in refusal(validate(table.rename(columns={"crp_mg_l": "crp_mg_dl"}), panel, 0.2))
    several = refusal(validate(table.drop(columns=["crp_mg_l", "rdw_pct", "sex"]), panel, 0.2))
    assert "'sex'" in several
    assert "2 more" in several


def test_a_repeated_column_is_refused(table: pd.DataFrame, panel: Panel) -> None:
    with pytest.raises(BadInput, match=r"crp_mg_l.*twice"):
        validate(pd.concat([table, table[["crp_mg_l"]]], axis=1), panel, 0.2)


def test_a_biomarker_that_the_suites_do_not_know_is_refused(table: pd.DataFrame, panel: Panel) -> None:
    new = Biomarker(
        name="new_u_l", title="New", unit="U/L", organ="liver", transform="log", plausible=(0.5, 1.0), ukb_field=1
    )
    wider = Panel(name="wider", title="Wider", biomarkers=(*panel.biomarkers, new))
    with pytest.raises(BadInput, match=r"new_u_l.*henaw.validation.biomarkers"):
        validate(table.assign(new_u_l=0.5), wider, 0.2)


def test_what_cannot_be_judged_blocks(
    table: pd.DataFrame, panel: Panel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A range for text makes Great Expectations fail inside; the shipped suites keep such lines apart by type."""
    suite = json.loads((asset_folder("expectations") / "schema.json").read_text("utf-8"))
    suite["expectations"].append(
        {
            "type": "expect_column_values_to_be_between",
            "kwargs": {"column": "sex", "min_value": 0, "max_value": 1},
            "meta": {"henaw": {"on_failure": "warn", "rule": "odd"}},
        }
    )
    (tmp_path / "schema.json").write_text(json.dumps(suite), "utf-8")
    monkeypatch.setattr(suites, "load_suite", lambda name: load_suite(name, tmp_path if name == "schema" else None))
    verdict = validate(table, panel, 0.2)
    assert [(result.rule, result.on_failure, result.found) for result in verdict.failed] == [
        ("odd", "block", "cannot be judged")
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"type": "expect_nothing", "kwargs": {"column": "sex"}}, "schema.json: expect_nothing of sex: not an"),
        ({"type": "expect_column_to_exist", "kwargs": {"column": "sex"}}, "sets? rows aside; expected block or warn"),
    ],
)
def test_an_impossible_line_of_a_suite_is_refused(
    table: pd.DataFrame,
    panel: Panel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: dict[str, object],
    message: str,
) -> None:
    suite = json.loads((asset_folder("expectations") / "schema.json").read_text("utf-8"))
    suite["expectations"].append(line | {"meta": {"henaw": {"on_failure": "set_aside", "rule": "odd"}}})
    (tmp_path / "schema.json").write_text(json.dumps(suite), "utf-8")
    monkeypatch.setattr(suites, "load_suite", lambda name: load_suite(name, tmp_path if name == "schema" else None))
    with pytest.raises(BadInput, match=message):
        validate(table, panel, 0.2)


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_great_expectations_sets_aside_the_rows_that_the_parameters_name(data: st.DataObject, panel: Panel) -> None:
    table = clean_table(panel, 12)
    columns = ["age_years", *panel.names]
    edges = [end for marker in panel.biomarkers for end in marker.plausible]
    value = st.one_of(st.floats(), st.sampled_from([*edges, 0.0, 120.0, np.nextafter(120.0, 121.0)]))
    for row, column, planted in data.draw(
        st.lists(st.tuples(st.integers(0, 11), st.sampled_from(columns), value), max_size=20)
    ):
        table.loc[row, column] = planted
    for row, planted in data.draw(st.lists(st.tuples(st.integers(0, 11), st.sampled_from(["male", "x", None])))):
        table.loc[row, "sex"] = planted
    np.testing.assert_array_equal(validate(table, panel, 1.0).set_aside, by_hand(table, panel))


def test_rows_beyond_great_expectations_own_record_limit_are_found(panel: Panel) -> None:
    table = clean_table(panel, 3000)
    table.loc[::2, "crp_mg_l"] = 1e6
    verdict = validate(table, panel, 1.0)
    np.testing.assert_array_equal(verdict.set_aside, by_hand(table, panel))
    assert verdict.set_aside.sum() == 1500


def test_planted_values_and_ids_are_nowhere(
    table: pd.DataFrame, panel: Panel, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    table.loc[3, "participant"] = "canary-person"
    table.loc[4, ["crp_mg_l", "age_years"]] = [98765.4321, 765.4321]
    table.loc[5, "sex"] = "canary-sex"
    duplicated = pd.concat([table, table.iloc[[3]]], ignore_index=True)
    text = table.assign(crp_mg_l=table["crp_mg_l"].astype(object))
    text.loc[6, "crp_mg_l"] = "canary-text"
    nested = table.assign(rdw_pct=pd.Series([["canary-list"]] * ROWS, dtype=object))
    said = []
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for bad in (table, duplicated, text, nested):
            verdict = validate(bad, panel, 0.0)
            said += [refusal(verdict), json.dumps(verdict.to_dict()), verdict.markdown(), repr(verdict)]
            said += [repr(result) for result in verdict.results]
    said += [record.getMessage() + str(record.exc_info) for record in caplog.records]
    said += [str(warning.message) for warning in caught]
    said += list(capfd.readouterr())
    for canary in ("canary", "98765", "765.43"):
        assert not [line for line in said if canary in line]


def test_it_writes_nothing_prints_nothing_and_leaves_the_environment_alone(
    table: pd.DataFrame,
    panel: Panel,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = dict(os.environ)
    validate(table, panel, 0.2)
    assert list(tmp_path.iterdir()) == []
    assert dict(os.environ) == before
    assert capfd.readouterr() == ("", "")


def test_no_copy_of_the_participants_stays_in_memory(panel: Panel) -> None:
    table = clean_table(panel, 1234)
    validate(table, panel, 0.2)
    gc.collect()
    alive = [found for found in gc.get_objects() if isinstance(found, pd.DataFrame) and len(found) == 1234]
    assert len(alive) == 1


def test_importing_the_room_does_not_import_great_expectations() -> None:
    code = "import sys, henaw.validation.suites; sys.exit('great_expectations' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])


@pytest.mark.slow
def test_nhanes_is_not_blocked_and_only_its_known_mistakes_are_set_aside(nhanes_table: Path) -> None:
    table = pd.read_csv(nhanes_table)
    table["participant"] = (table["cycle"] + "_" + table["seqn"].astype(str)).astype("str")
    extended = load_panel("extended", asset_folder("mlproject") / "panels")
    numeric = ["age_years", *extended.names]
    table[numeric] = table[numeric].astype(float)
    verdict = validate(table, extended, 0.001)
    require_passed(verdict)
    np.testing.assert_array_equal(verdict.set_aside, by_hand(table, extended))
    assert verdict.rows == 48_142
    aside = {result.name: result.unexpected for result in verdict.failed if result.on_failure == "set_aside"}
    assert aside == {"hba1c_mmol_mol: plausible": 24}
    # What NHANES III did not measure, who has half an outcome, and values that look like another unit.
    warned = {result.rule for result in verdict.failed if result.on_failure == "warn"}
    assert warned == {"mostly_known", "unit", "complete"}
