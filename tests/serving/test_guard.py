"""The guard in one process: every code of the table, in order, counted, written down, and without a value."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from henaw.errors import BadInput, EnvironmentProblem
from henaw.serving import keys
from henaw.serving.refusals import STATUS
from tests.serving.guarded import (
    CLOCK,
    COLUMNS,
    FAILING_AGE,
    SECRET,
    SLOW_ROWS,
    Response,
    ask,
    expected,
    guard,
    ready,
    run,
    served,
    split,
)

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def make_key(folder: Path, *scopes: str, days: int | None = None, now: dt.datetime | None = None) -> str:
    return keys.create_key(folder, "test", scopes or ("score",), days, now or dt.datetime.now(dt.UTC))[1]


def once(folder: Path, settings: str = "", **request: Any) -> Response:
    async def main() -> Response:
        application, _ = guard(folder, settings)
        return await ask(await ready(application), **request)

    return run(main())


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def test_valid_rows_are_answered_as_the_table_answers_them(tmp_path: Path) -> None:
    body = split(3) | {"params": {"coverage": 0.5}}
    response = once(tmp_path, body=body)
    assert (response.status, response.headers["content-type"]) == (200, "application/json")
    assert response.headers["henaw-model"] == "henaw/1"
    found, wanted = response.json["predictions"], expected(body, 0.5)
    assert [list(row) for row in found] == [list(row) for row in wanted]
    for row, other in zip(found, wanted, strict=True):
        assert row == pytest.approx(other, abs=1e-9)


def test_a_row_alone_and_in_a_batch_gets_the_same_answer(tmp_path: Path) -> None:
    body = split(40)
    together = once(tmp_path, body=body).json["predictions"]
    for row in (0, 17, 39):
        alone = {
            "dataframe_split": {
                "columns": body["dataframe_split"]["columns"],
                "data": [body["dataframe_split"]["data"][row]],
            }
        }
        assert once(tmp_path, body=alone).json["predictions"][0] == pytest.approx(together[row], abs=1e-9)


@pytest.mark.parametrize("parameters", [";", "; charset=UTF-8", '; charset="utf-8"', "; header=present"])
def test_parameters_of_the_content_type_change_nothing_but_for_another_charset(tmp_path: Path, parameters: str) -> None:
    headers = {"content-type": f"application/json{parameters}"}
    assert once(tmp_path, body=split(), headers=headers).status == 200


def test_a_null_or_implausible_value_abstains(tmp_path: Path) -> None:
    body = split(2)
    body["dataframe_split"]["data"][0][COLUMNS.index("sex")] = None
    body["dataframe_split"]["data"][1][0] = 1e9
    for row in once(tmp_path, body=body).json["predictions"]:
        assert row["status"] == "abstain"
        assert row["lower_years"] is None


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("path", ["/livez", "/ping", "/health"])
def test_a_server_that_is_ready_says_so(tmp_path: Path, path: str, method: str) -> None:
    response = once(tmp_path, path=path, method=method)
    assert (response.status, response.body) == (200, b"\n")


def test_version_is_mlflows_and_openapi_is_of_this_model(tmp_path: Path) -> None:
    assert re.fullmatch(rb"\d+\.\d+\.\d+", once(tmp_path, path="/version").body)
    document = once(tmp_path, path="/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert list(document["components"]["schemas"]["Row"]["properties"]) == list(COLUMNS)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "not JSON": ({"body": b"{"}, "MALFORMED_REQUEST"),
    "too deep, many brackets": ({"body": b'{"a": ' + b"[" * 10_000}, "MALFORMED_REQUEST"),
    "not finite": ({"body": b'{"inputs": NaN}'}, "MALFORMED_REQUEST"),
    "a column missing": ({"body": {"inputs": {SECRET: 1}}}, "SCHEMA_MISMATCH"),
    "another host": ({"body": split(), "headers": {"host": "evil.example"}}, "WRONG_HOST"),
    "no host": ({"body": split(), "headers": {"host": ""}}, "WRONG_HOST"),
    "a host with another's name in front": (
        {"path": "/livez", "headers": {"host": "localhost.evil.example"}},
        "WRONG_HOST",
    ),
    "another path": ({"path": f"/{SECRET}"}, "NOT_FOUND"),
    "MLflow's documentation": ({"path": "/docs"}, "NOT_FOUND"),
    "another method": ({"path": "/ping", "method": "POST"}, "METHOD_NOT_ALLOWED"),
    "reading invocations": ({"method": "GET", "body": b"{}"}, "METHOD_NOT_ALLOWED"),
    "a slow body": ({"body": split(), "pause": 5.0}, "REQUEST_TIMEOUT"),
    "a large body": ({"body": b" " * 20_001}, "TOO_LARGE"),
    "a large body that says otherwise": ({"body": b" " * 20_001, "headers": {"content-length": "5"}}, "TOO_LARGE"),
    "many rows": ({"body": {"dataframe_records": [{}] * 320}}, "TOO_LARGE"),
    "many rows of columns": ({"body": {"inputs": dict.fromkeys(COLUMNS, [None] * 301)}}, "TOO_LARGE"),
    "many rows of CSV": ({"body": b"a\n" * 400, "headers": {"content-type": "text/csv"}}, "TOO_LARGE"),
    "no content type": ({"body": split(), "headers": {"content-type": ""}}, "UNSUPPORTED_MEDIA_TYPE"),
    "another content type": ({"body": split(), "headers": {"content-type": "text/plain"}}, "UNSUPPORTED_MEDIA_TYPE"),
    "Parquet": (
        {"body": b"PAR1", "headers": {"content-type": "application/vnd.apache.parquet"}},
        "UNSUPPORTED_MEDIA_TYPE",
    ),
    "another charset": (
        {"body": split(), "headers": {"content-type": "application/json; charset=latin-1"}},
        "UNSUPPORTED_MEDIA_TYPE",
    ),
    "gzip in transit": (
        {"body": split(), "headers": {"transfer-encoding": "gzip, chunked"}},
        "UNSUPPORTED_MEDIA_TYPE",
    ),
    "gzip": ({"body": split(), "headers": {"content-encoding": "gzip"}}, "UNSUPPORTED_MEDIA_TYPE"),
    "CSV with a column more": (
        {"body": f"{','.join(COLUMNS)},{SECRET}\n".encode(), "headers": {"content-type": "text/csv"}},
        "SCHEMA_MISMATCH",
    ),
    "CSV with a row too short": (
        {"body": f"{','.join(COLUMNS)}\n1,2,{SECRET}\n".encode(), "headers": {"content-type": "text/csv"}},
        "SCHEMA_MISMATCH",
    ),
    "CSV that is none": ({"body": b'"', "headers": {"content-type": "text/csv"}}, "MALFORMED_REQUEST"),
    "CSV of nothing": ({"body": b"\n", "headers": {"content-type": "text/csv"}}, "MALFORMED_REQUEST"),
}
SMALL = "serving.max_bytes=20000 serving.max_rows=300 serving.body_seconds=0.2 serving.deadline_seconds=0.3"


@pytest.mark.parametrize("what", REFUSED)
def test_refusals_have_the_tables_code_and_say_no_value(
    tmp_path: Path, what: str, caplog: pytest.LogCaptureFixture
) -> None:
    request, code = REFUSED[what]
    response = once(tmp_path, f"{SMALL} serving.audit={tmp_path / 'audit'}", **request)
    assert (response.status, response.code) == (STATUS[code], code)
    assert set(response.json) == {"error_code", "message", "request_id", "details"}
    assert response.json["request_id"] == response.headers["x-request-id"]
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    allowed = {"another method": "GET, HEAD", "reading invocations": "POST"}
    assert response.headers.get("allow") == allowed.get(what)
    line = (tmp_path / "audit").read_text()
    assert json.loads(line)["code"] == code
    for said in (response.body.decode(), line, caplog.text):
        assert SECRET not in said


def test_a_model_that_raises_is_an_error_whose_trace_has_no_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = split()
    body["dataframe_split"]["data"][0][COLUMNS.index("age_years")] = FAILING_AGE
    response = once(tmp_path, body=body)
    assert (response.status, response.code) == (500, "MODEL_ERROR")
    assert response.json["request_id"] in caplog.text
    assert "ZeroDivisionError at" in caplog.text
    for said in (response.body.decode(), caplog.text):
        assert SECRET not in said


def test_every_code_of_the_table_has_its_status() -> None:
    assert set(STATUS.values()) == {400, 401, 403, 404, 405, 408, 413, 415, 429, 500, 503, 504}


# --- keys ------------------------------------------------------------------------------------------------------------


def test_without_keys_everybody_is_let_in_and_with_one_nobody_else(tmp_path: Path) -> None:
    assert once(tmp_path, path="/ping").status == 200
    key = make_key(tmp_path)
    assert once(tmp_path, path="/livez").status == 200
    for path in ("/ping", "/health", "/version", "/metrics", "/openapi.json", "/invocations", "/nowhere"):
        response = once(tmp_path, path=path)
        assert (response.status, response.code) == (401, "UNAUTHENTICATED")
        assert "www-authenticate" in response.headers
    assert once(tmp_path, path="/ping", headers=bearer(key)).status == 200
    assert once(tmp_path, body=split(), headers=bearer(key)).status == 200
    assert once(tmp_path, path="/nowhere", headers=bearer(key)).status == 404


@pytest.mark.parametrize(
    "spoil",
    [
        lambda key: key[:-1],
        lambda key: key + "x",
        lambda key: key[:-1] + ("A" if key[-1] != "A" else "B"),
        lambda key: key.replace("henaw_", "henaw_0")[:-1],
        lambda _: "",
        lambda key: key.upper(),
        lambda key: f"{key}, Bearer {key}",
    ],
    ids=["short", "long", "changed", "another id", "nothing", "upper case", "two"],
)
def test_a_wrong_key_is_no_key(tmp_path: Path, spoil: Any) -> None:
    wrong = spoil(make_key(tmp_path))
    response = once(tmp_path, body=split(), headers=bearer(wrong))
    assert (response.status, response.code) == (401, "UNAUTHENTICATED")
    assert not wrong or wrong not in response.body.decode()


def test_an_expired_key_is_no_key(tmp_path: Path) -> None:
    key = make_key(tmp_path, days=1, now=NOW)
    assert once(tmp_path, body=split(), headers=bearer(key)).code == "UNAUTHENTICATED"


def test_a_key_opens_what_its_scopes_name(tmp_path: Path) -> None:
    score, metrics = make_key(tmp_path, "score"), make_key(tmp_path, "metrics")
    assert once(tmp_path, path="/metrics", headers=bearer(metrics)).status == 200
    for path, key in (("/metrics", score), ("/invocations", metrics), ("/openapi.json", metrics)):
        response = once(tmp_path, path=path, headers=bearer(key))
        assert (response.status, response.code) == (403, "FORBIDDEN")


# --- capacity --------------------------------------------------------------------------------------------------------


def test_a_key_that_asks_too_often_waits(tmp_path: Path) -> None:
    often, other = make_key(tmp_path), make_key(tmp_path)

    async def main() -> list[Response]:
        application = await ready(guard(tmp_path, "serving.rate=3/hour")[0])
        return [await ask(application, body=split(), headers=bearer(key)) for key in [often] * 4 + [other]]

    *answered, limited, others = run(main())
    assert [response.status for response in answered] == [200] * 3
    assert (limited.status, limited.code) == (429, "RATE_LIMITED")
    assert 3500 <= int(limited.headers["retry-after"]) <= 3600
    assert others.status == 200


def test_what_finds_no_slot_is_sent_away_and_the_rest_is_answered(tmp_path: Path) -> None:
    async def main() -> list[Response]:
        application = await ready(guard(tmp_path, "serving.slots=3")[0])
        return await asyncio.gather(*(ask(application, body=split()) for _ in range(10)))

    responses = run(main())
    assert sorted(response.status for response in responses) == [200] * 3 + [429] * 7
    for response in responses:
        if response.status == 429:
            assert (response.code, response.headers["retry-after"]) == ("OVERLOADED", "1")


def test_after_a_deadline_the_slot_stays_taken_until_the_thread_ends(tmp_path: Path) -> None:
    slow = split(SLOW_ROWS + 1)

    async def main() -> tuple[list[Response], Response, Response]:
        application, slots = guard(tmp_path, "serving.slots=2 serving.deadline_seconds=0.2")
        await ready(application)
        timed_out = await asyncio.gather(*(ask(application, body=slow) for _ in range(2)))
        assert slots.taken == 2
        meanwhile = await ask(application, body=split())
        while slots.taken:
            await asyncio.sleep(0.01)
        return timed_out, meanwhile, await ask(application, body=split())

    timed_out, meanwhile, after = run(main())
    assert [response.code for response in timed_out] == ["DEADLINE_EXCEEDED"] * 2
    assert meanwhile.code == "OVERLOADED"
    assert after.status == 200


def test_thirty_two_at_once_get_the_answers_of_one_at_a_time(tmp_path: Path) -> None:
    bodies = [split(1 + 30 * (seed % 2), seed) for seed in range(32)]

    async def main() -> list[Response]:
        application = await ready(guard(tmp_path, "serving.slots=32")[0])
        return await asyncio.gather(*(ask(application, body=body) for body in bodies))

    for body, response in zip(bodies, run(main()), strict=True):
        for row, other in zip(response.json["predictions"], expected(body), strict=True):
            assert row == pytest.approx(other, abs=1e-9)


# --- what is written down --------------------------------------------------------------------------------------------


def figures(text: bytes, name: str) -> dict[str, float]:
    found = {}
    for line in text.decode().splitlines():
        labels, _, value = line.rpartition(" ")
        if labels.startswith(name):
            found[labels.removeprefix(name)] = float(value)
    return found


def test_figures_agree_with_what_the_client_counted(tmp_path: Path) -> None:
    implausible = split(2)
    implausible["dataframe_split"]["data"][0][0] = 1e9

    async def main() -> Response:
        application = await ready(guard(tmp_path)[0])
        for _ in range(3):
            assert (await ask(application, body=implausible)).status == 200
        await ask(application, body={"inputs": {}})
        await ask(application, path="/nowhere")
        return await ask(application, path="/metrics")

    text = run(main()).body
    assert figures(text, "henaw_requests_total") == {
        '{code="OK",route="invocations",status="200"}': 3,
        '{code="SCHEMA_MISMATCH",route="invocations",status="400"}': 1,
        '{code="NOT_FOUND",route="other",status="404"}': 1,
    }
    assert figures(text, "henaw_rows_total") == {'{status="abstain"}': 3, '{status="ok"}': 3}
    assert figures(text, "henaw_row_flags_total") == {f'{{flag="implausible:{COLUMNS[0]}"}}': 3}
    assert figures(text, "henaw_refused_rules_total") == {'{rule="missing_column"}': len(COLUMNS)}
    assert figures(text, "henaw_in_flight_requests") == {"": 1}  # this one
    assert figures(text, "henaw_model_info") == {'{name="henaw",version="1"}': 1}
    assert figures(text, "henaw_request_seconds_count") == {'{route="invocations"}': 4, '{route="other"}': 1}


def test_the_audit_file_says_who_asked_how_much_and_never_what(tmp_path: Path) -> None:
    key = make_key(tmp_path)
    audit = tmp_path / "audit.jsonl"
    response = once(tmp_path, f"serving.audit={audit}", body=split(5), headers=bearer(key))
    (line,) = audit.read_text().splitlines()
    found = json.loads(line)
    assert found["request_id"] == response.headers["x-request-id"]
    assert (found["key"], found["model"], found["rows"]) == (key.split("_")[1], "henaw/1", 5)
    assert (found["status"], found["code"], found["route"]) == (200, "OK", "invocations")
    assert found["milliseconds"] > 0
    assert dt.datetime.fromisoformat(found["time"]).tzinfo is not None
    assert audit.stat().st_mode & 0o777 == 0o600
    assert set(found) == {"time", "request_id", "route", "key", "model", "rows", "status", "code", "milliseconds"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's device that is always full")
def test_a_full_disk_loses_audit_lines_and_no_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> bytes:
        application = await ready(guard(tmp_path, "serving.audit=/dev/full")[0])
        for _ in range(20):
            assert (await ask(application, body=split())).status == 200
        return (await ask(application, path="/metrics")).body

    assert figures(run(main()), "henaw_audit_lost_total") == {"": 20}
    assert caplog.text.count("No space left on device") == 1  # once a minute


def test_an_audit_file_that_cannot_be_opened_is_said_at_once(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        guard(tmp_path, f"serving.audit={tmp_path / 'nowhere' / 'audit'}")


# --- starting, reloading, leaving ------------------------------------------------------------------------------------


def test_until_the_model_is_loaded_only_liveness_answers(tmp_path: Path) -> None:
    application, _ = guard(tmp_path)

    async def main() -> None:
        assert (await ask(application, path="/livez")).status == 200
        for path in ("/ping", "/health", "/openapi.json", "/invocations"):
            response = await ask(application, path=path)
            assert (response.status, response.code) == (503, "NOT_READY")
            assert int(response.headers["retry-after"]) > 0
        await ready(application)
        assert (await ask(application, path="/ping")).status == 200

    run(main())


def test_a_model_that_cannot_be_loaded_is_never_ready(tmp_path: Path) -> None:
    def load(_: int | None) -> None:
        raise BadInput("no such model")

    application, _ = guard(tmp_path, load=load)

    async def main() -> None:
        await ready(application)
        assert (await ask(application, path="/ping")).code == "NOT_READY"

    run(main())
    assert isinstance(application.lifecycle.failure, BadInput)


def test_the_alias_is_followed_and_a_version_that_fails_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    versions: list[Any] = [
        served(1),
        None,
        RuntimeError(SECRET),
        *[BadInput("its files are not whole")] * 3,
        served(2, CLOCK),
    ]
    asked: list[int | None] = []

    def load(current: int | None) -> Any:
        asked.append(current)
        found = versions.pop(0) if versions else None
        if isinstance(found, Exception):
            raise found
        return found

    async def main() -> bytes:
        application, _ = guard(tmp_path, "serving.reload_seconds=0.001", load=load)
        await ready(application)
        assert (await ask(application, body=split())).headers["henaw-model"] == "henaw/1"
        while len(asked) < 8:
            await asyncio.sleep(0.001)
        assert (await ask(application, body=split())).headers["henaw-model"] == "henaw/2"
        text = (await ask(application, path="/metrics")).body
        await application.lifecycle.stop()
        return text

    text = run(main())
    assert asked[:8] == [None, *[1] * 6, 2]
    assert figures(text, "henaw_reload_failures_total") == {"": 4}
    assert figures(text, "henaw_model_info") == {'{name="henaw",version="2"}': 1}
    assert caplog.text.count("its files are not whole") == 1, "said once, however often it is tried"
    assert SECRET not in caplog.text


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost:80", "127.0.0.1:5001", "[::1]:5001", "[::1]"])
def test_the_hosts_own_names_are_answered_for(tmp_path: Path, host: str) -> None:
    assert once(tmp_path, path="/livez", headers={"host": host}).status == 200


def test_more_hosts_can_be_named(tmp_path: Path) -> None:
    request: dict[str, Any] = {"path": "/livez", "headers": {"host": "henaw.example:443"}}
    assert once(tmp_path, **request).code == "WRONG_HOST"
    assert once(tmp_path, "serving.hosts=[henaw.example]", **request).status == 200
    assert once(tmp_path, "serving.hosts='[\"*\"]'", **request).status == 200
