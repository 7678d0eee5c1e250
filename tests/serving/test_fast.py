"""The guard's way without pandas, and MLflow's own: the same answers, and never a laxer verdict."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.exceptions import MlflowException
from mlflow.models import Model
from mlflow.pyfunc import PyFuncModel, scoring_server

from henaw.model.clock import Clock
from henaw.registry.scoring_model import ScoringModel
from henaw.registry.versions import signature
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.refusals import Refusal
from henaw.serving.schema import read_rows
from henaw.serving.strict_json import decode_object
from tests.scenarios import BLOOD9, blood_clock
from tests.serving.guarded import COLUMNS, FAILING_AGE, SECRET, TRYING, split

AGE, MORTALITY = blood_clock(), blood_clock(target="mortality")
FORMS = ("dataframe_split", "dataframe_records", "instances", "inputs", "columns")


class _Wrapped:
    """As MLflow wraps a loaded model, without the files."""

    def __init__(self, clock: Clock) -> None:
        self._model = ScoringModel()
        self._model.clock = clock

    def predict(self, data: Any, params: dict[str, Any] | None = None) -> Any:
        return self._model.predict(None, data, params)  # type: ignore[arg-type]


def mlflows(clock: Clock) -> PyFuncModel:
    described = Model(signature=signature(BLOOD9, clock.target))
    described.add_flavor("python_function", loader_module="henaw")
    return PyFuncModel(described, _Wrapped(clock))


MODELS = {id(clock): mlflows(clock) for clock in (AGE, MORTALITY, TRYING)}


def stock(clock: Clock, body: bytes) -> tuple[int, bytes]:
    """Status and body of MLflow's own scoring server."""
    model = MODELS[id(clock)]
    try:
        reply = scoring_server.invocations(body, "application/json", model, model.metadata.get_input_schema())
    except MlflowException as error:
        return error.get_http_status_code(), error.serialize_as_json().encode()
    return reply.status, reply.response.encode()


def fast(clock: Clock, body: bytes) -> bytes:
    return to_json(answer_rows(clock, read_rows(BLOOD9, decode_object(body), 10_000)))


def same(found: Any, expected: Any) -> bool:
    """Equal to 1e-9, in years and in probabilities."""
    if isinstance(expected, float):
        return isinstance(found, float) and math.isclose(found, expected, rel_tol=1e-9, abs_tol=1e-9)
    if isinstance(expected, list):
        return isinstance(found, list) and len(found) == len(expected) and all(map(same, found, expected))
    if isinstance(expected, dict):
        return list(found) == list(expected) and all(same(found[name], expected[name]) for name in expected)
    return bool(found == expected)


@st.composite
def cells(draw: st.DrawFn, name: str) -> Any:
    """Plausible, missing, implausible, whole, huge: all that a valid body may hold."""
    if name == "sex":
        return draw(st.sampled_from(["female", "male", None, "", "other", "Female"]))
    low, high = (20, 79)
    if name != "age_years":
        low, high = next(marker.plausible for marker in BLOOD9.biomarkers if marker.name == name)
    usual = st.floats(low, high)
    odd = st.none() | st.integers(-10, 10**12) | st.floats(allow_nan=False, allow_infinity=False)
    return draw(st.one_of(usual, usual, usual, usual, usual, usual, odd))


@st.composite
def valid_bodies(draw: st.DrawFn) -> bytes:
    rows = [{name: draw(cells(name)) for name in COLUMNS} for _ in range(draw(st.integers(1, 4)))]
    order = draw(st.permutations(COLUMNS))
    form = draw(st.sampled_from(FORMS))
    body: dict[str, Any] = {form: [{name: row[name] for name in order} for row in rows]}
    if form == "dataframe_split":
        rows = rows[draw(st.sampled_from([0, 0, 0, 0, 1])) * len(rows) :]  # now and then nobody
        body = {form: {"columns": order, "data": [[row[name] for name in order] for row in rows]}}
        labels = st.lists(st.integers() | st.text(max_size=3) | st.none(), min_size=len(rows), max_size=len(rows))
        if (index := draw(st.none() | labels)) is not None:
            body[form]["index"] = index
    elif form == "columns":
        body = {draw(st.sampled_from(["inputs", "instances"])): {name: [row[name] for row in rows] for name in order}}
    if draw(st.booleans()):
        body["params"] = draw(
            st.sampled_from([None, {}, {"coverage": 0.5}, {"coverage": draw(st.floats(0.001, 0.999))}])
        )
    return json.dumps(body, ensure_ascii=draw(st.booleans()), indent=draw(st.sampled_from([None, 1]))).encode()


def check_same(body: bytes, clock: Clock) -> None:
    status, expected = stock(clock, body)
    assert status == 200, expected
    found = fast(clock, body)
    assert same(json.loads(found), json.loads(expected, parse_constant=pytest.fail))


@pytest.mark.parametrize("clock", [AGE, MORTALITY], ids=["age", "mortality"])
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=valid_bodies())
def test_both_ways_answer_the_same(clock: Clock, body: bytes) -> None:
    check_same(body, clock)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("clock", [AGE, MORTALITY], ids=["age", "mortality"])
def test_both_ways_answer_the_same_to_ten_thousand(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    checked = 0

    @settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(body=valid_bodies())
    def check(body: bytes) -> None:
        nonlocal checked
        check_same(body, clock)
        checked += 1

    check()
    with capsys.disabled():
        print(f"\n{clock.target}: {checked} bodies, equal to 1e-9")
    assert checked >= 10_000


def test_the_text_is_mlflows_own() -> None:
    """One row, so that not even the last bit differs."""
    body = json.dumps(split(1)).encode()
    assert fast(AGE, body) == stock(AGE, body)[1]
    assert fast(MORTALITY, body) == stock(MORTALITY, body)[1]


@st.composite
def spoiled_bodies(draw: st.DrawFn) -> bytes:
    """A valid body with one part of it replaced, removed or repeated."""
    body = bytearray(draw(valid_bodies()))
    how = draw(st.sampled_from(["cut", "byte", "word", "drop"]))
    place = draw(st.integers(0, len(body) - 1))
    if how == "cut":
        return bytes(body[:place])
    if how == "drop":
        return bytes(body[:place] + body[place + draw(st.integers(1, 8)) :])
    inserted = draw(st.sampled_from([b"[", b"]", b"{", b"}", b",", b":", b'"', b"0", b"-", b"\x00", b"\xff"]))
    if how == "word":
        inserted = draw(st.sampled_from([b"NaN", b"true", b"null", b'"x"', b"1e999", b"[1]", b'{"a":1}', b"01"]))
    return bytes(body[:place] + inserted + body[place + draw(st.integers(0, 3)) :])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(body=spoiled_bodies())
def test_what_mlflow_refuses_is_refused_and_what_is_answered_is_answered_alike(body: bytes) -> None:
    status, expected = stock(AGE, body)
    try:
        found = fast(AGE, body)
    except Refusal as refusal:
        verdict = refusal.code
    else:
        verdict = "OK"
    if verdict != "OK":
        assert verdict in ("MALFORMED_REQUEST", "SCHEMA_MISMATCH")
        return
    assert status == 200, body
    assert same(json.loads(found), json.loads(expected, parse_constant=pytest.fail))


# --- the bare command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("coverage", [0, 1, -1, 2, 90, None])
def test_the_bare_command_shows_no_row_and_no_trace_for_a_coverage_that_is_none(coverage: Any) -> None:
    body = split(1) | {"params": {"coverage": coverage}}
    body["dataframe_split"]["data"][0][0] = float(SECRET)
    status, reply = stock(AGE, json.dumps(body).encode())
    assert status == 400
    assert json.loads(reply)["error_code"] == "INVALID_PARAMETER_VALUE"
    assert "coverage" in json.loads(reply)["message"]
    for word in (SECRET, "Traceback", "stack_trace", ".py", "female"):
        assert word not in reply.decode()


def test_the_bare_command_shows_no_text_of_an_error_of_ours(caplog: pytest.LogCaptureFixture) -> None:
    body = split(1)
    body["dataframe_split"]["data"][0][COLUMNS.index("age_years")] = FAILING_AGE
    status, reply = stock(TRYING, json.dumps(body).encode())
    assert status == 500
    told = json.loads(reply)
    assert told["error_code"] == "INTERNAL_ERROR"
    for word in (SECRET, str(FAILING_AGE), "Traceback", "stack_trace", ".py", "ZeroDivision"):
        assert word not in reply.decode()
    assert "ZeroDivisionError at" in caplog.text
    assert told["message"].rpartition(" ")[2] in caplog.text  # the reference leads to the log
    assert SECRET not in caplog.text
