"""Bodies against the signature: every form of MLflow's protocol, every way to miss it, no value in what is said."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest

from henaw.serving.refusals import MOST_BYTES, Refusal
from henaw.serving.schema import Rows, read_rows
from tests.scenarios import BLOOD9, blood_rows
from tests.serving.guarded import COLUMNS, SECRET, split

MOST = 50


def read(body: Any, most: int = MOST) -> Rows:
    return read_rows(BLOOD9, json.loads(json.dumps(body)), most)


def records(people: int = 2) -> list[dict[str, Any]]:
    return json.loads(blood_rows(people, 0).to_json(orient="records", double_precision=15))


def columns(people: int = 2) -> dict[str, list[Any]]:
    return {name: [row[name] for row in records(people)] for name in COLUMNS}


@pytest.mark.parametrize(
    "form",
    [
        {"dataframe_split": split(2)["dataframe_split"]},
        {"dataframe_split": {key: value for key, value in split(2)["dataframe_split"].items() if key != "index"}},
        {"dataframe_split": split(2)["dataframe_split"] | {"index": ["a", None]}},
        {"dataframe_records": records()},
        {"dataframe_records": [dict(reversed(row.items())) for row in records()]},
        {"instances": records()},
        {"instances": columns()},
        {"inputs": records()},
        {"inputs": columns()},
        {"inputs": columns(), "params": None},
        {"inputs": columns(), "params": {}},
        {"inputs": columns(), "params": {"coverage": 0.9}},
    ],
)
def test_every_form_says_the_same(form: dict[str, Any]) -> None:
    found, frame = read(form), blood_rows(2, 0)
    np.testing.assert_array_equal(found.biomarkers, frame[list(BLOOD9.names)])
    np.testing.assert_array_equal(found.sex, frame["sex"] == "male")
    np.testing.assert_array_equal(found.age, frame["age_years"])
    assert found.coverage == 0.9
    assert found.biomarkers.flags.c_contiguous


def test_single_values_stand_for_all_rows_and_null_for_missing() -> None:
    one = {name: cells[0] for name, cells in columns().items()}
    assert len(read({"inputs": one})) == 1
    found = read({"inputs": columns() | {"sex": None, "age_years": 50, BLOOD9.names[0]: [None, 3]}})
    assert found.age.tolist() == [50, 50]
    assert np.isnan(found.sex).all()
    np.testing.assert_array_equal(found.biomarkers[:, 0], [np.nan, 3])


def changed(**cells: Any) -> dict[str, Any]:
    rows = records()
    for name, value in cells.items():
        rows[1][name] = value
    return {"dataframe_records": rows}


FIRST = BLOOD9.names[0]
MISMATCHES: dict[str, tuple[Any, list[tuple[int | None, str | None, str]]]] = {
    "no form": ({}, [(None, None, "one_form")]),
    "two forms": ({"inputs": columns(), "instances": records()}, [(None, None, "one_form")]),
    "another field": ({"inputs": columns(), SECRET: 1}, [(None, None, "unknown_field")]),
    "a chat": ({"messages": []}, [(None, None, "one_form")]),
    "records that are none": ({"dataframe_records": {"a": 1}}, [(None, None, "form")]),
    "no record": ({"dataframe_records": []}, [(None, None, "form")]),
    "lists for records": ({"dataframe_records": [[1, 2]]}, [(None, None, "form")]),
    "a split that is none": ({"dataframe_split": [1]}, [(None, None, "form")]),
    "a split without data": ({"dataframe_split": {"columns": list(COLUMNS)}}, [(None, None, "form")]),
    "a split with more": ({"dataframe_split": split()["dataframe_split"] | {"x": 1}}, [(None, None, "form")]),
    "numbers for columns": ({"dataframe_split": {"columns": [1], "data": [[1]]}}, [(None, None, "form")]),
    "an index too short": ({"dataframe_split": split(2)["dataframe_split"] | {"index": [0]}}, [(None, None, "index")]),
    "an index of lists": ({"dataframe_split": split(1)["dataframe_split"] | {"index": [[0]]}}, [(None, None, "index")]),
    "rows too short": (
        {"dataframe_split": split(2)["dataframe_split"] | {"data": [split()["dataframe_split"]["data"][0], [1, 2]]}},
        [(1, None, "row_length")],
    ),
    "a row that is none": ({"dataframe_split": {"columns": list(COLUMNS), "data": [5]}}, [(0, None, "row_length")]),
    "columns of two lengths": ({"inputs": columns() | {"sex": ["female"]}}, [(None, None, "column_length")]),
    "a column missing": (
        {"inputs": {k: v for k, v in columns().items() if k != FIRST}},
        [(None, FIRST, "missing_column")],
    ),
    "a column more": ({"inputs": columns() | {SECRET: [1, 2]}}, [(None, None, "unknown_column")]),
    "a column twice": (
        {"dataframe_split": {"columns": [*COLUMNS, FIRST], "data": []}},
        [(None, FIRST, "repeated_column")],
    ),
    "a record with a column less": (
        {"dataframe_records": [records()[0], {k: v for k, v in records()[1].items() if k != "sex"}]},
        [(1, "sex", "missing_column")],
    ),
    "text for a number": (changed(crp_mg_l=SECRET), [(1, "crp_mg_l", "not_a_number")]),
    "true for a number": (changed(crp_mg_l=True), [(1, "crp_mg_l", "not_a_number")]),
    "a list for a number": (changed(crp_mg_l=[1]), [(1, "crp_mg_l", "not_a_number")]),
    "an object for a number": (changed(age_years={"a": 1}), [(1, "age_years", "not_a_number")]),
    "a number for a text": (changed(sex=1), [(1, "sex", "not_text")]),
    "two faults": (changed(sex=1, crp_mg_l="1"), [(1, "crp_mg_l", "not_a_number"), (1, "sex", "not_text")]),
    "params that are none": ({"inputs": columns(), "params": [1]}, [(None, None, "unknown_parameter")]),
    "an unknown parameter": ({"inputs": columns(), "params": {SECRET: 1}}, [(None, None, "unknown_parameter")]),
    "a coverage that is none": ({"inputs": columns(), "params": {"coverage": None}}, [(None, None, "parameter_type")]),
    "a coverage in words": ({"inputs": columns(), "params": {"coverage": SECRET}}, [(None, None, "parameter_type")]),
    "a coverage that is true": ({"inputs": columns(), "params": {"coverage": True}}, [(None, None, "parameter_type")]),
    "a coverage of 0": ({"inputs": columns(), "params": {"coverage": 0}}, [(None, None, "parameter_range")]),
    "a coverage of 1": ({"inputs": columns(), "params": {"coverage": 1}}, [(None, None, "parameter_range")]),
    "a coverage in percent": ({"inputs": columns(), "params": {"coverage": 90}}, [(None, None, "parameter_range")]),
}


@pytest.mark.parametrize("what", MISMATCHES)
def test_mismatches_name_row_column_and_rule_and_no_value(what: str) -> None:
    body, details = MISMATCHES[what]
    with pytest.raises(Refusal) as raised:
        read(body)
    refusal = raised.value
    assert refusal.code == "SCHEMA_MISMATCH"
    assert [(detail.row, detail.column, detail.rule) for detail in refusal.details] == details
    assert SECRET not in refusal.body("0" * 16).decode()


@pytest.mark.parametrize("number", ["1e999", "-1e999", "1e309"])
@pytest.mark.parametrize("where", ["age_years", "coverage"])
def test_numbers_beyond_a_double_are_malformed(number: str, where: str) -> None:
    body = copy.deepcopy(changed(age_years="X") if where == "age_years" else changed() | {"params": {"coverage": "X"}})
    with pytest.raises(Refusal) as raised:
        read_rows(BLOOD9, json.loads(json.dumps(body).replace('"X"', number)), MOST)
    assert raised.value.code == "MALFORMED_REQUEST"


@pytest.mark.parametrize("form", ["dataframe_split", "dataframe_records", "instances", "inputs"])
def test_rows_are_counted_whatever_the_form(form: str) -> None:
    def body(people: int) -> dict[str, Any]:
        return {
            form: split(people)["dataframe_split"]
            if form == "dataframe_split"
            else columns(people)
            if form == "inputs"
            else records(people)
        }

    assert len(read(body(3), most=3)) == 3
    with pytest.raises(Refusal) as raised:
        read(body(4), most=3)
    assert raised.value.code == "TOO_LARGE"


def test_a_body_that_is_wrong_and_deep_is_deep() -> None:
    deep: Any = 1
    for _ in range(40):
        deep = [deep]
    with pytest.raises(Refusal) as raised:
        read(changed(crp_mg_l=deep))
    assert raised.value.code == "MALFORMED_REQUEST"


def test_as_many_details_as_fit() -> None:
    rows = [dict.fromkeys(COLUMNS, "x" * 100) for _ in range(MOST)]
    with pytest.raises(Refusal) as raised:
        read({"dataframe_records": rows})
    body = raised.value.body("0" * 16)
    assert len(body) <= MOST_BYTES
    details = json.loads(body)["details"]
    assert len(details) == 20
    assert details[0]["row"] == 0
