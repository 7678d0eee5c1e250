"""The page without a browser: what is public, what it is told of the model, and that its answer is the model's."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from henaw.config import asset_folder, load_config
from henaw.data.units import load_conversions
from henaw.model.answers import QUANTILE_COLUMNS, answer_arrays, input_columns, output_columns
from henaw.model.attribution import attribute
from henaw.model.clock import Clock
from henaw.model.reference import ReferenceMedians
from henaw.serving.page.description import describe_for_page, known_units
from henaw.settings import Serving
from tests.scenarios import BLOOD9, blood_clock
from tests.serving.guarded import CLOCK, COLUMNS, FAILING_AGE, SECRET, Response, ask, guard, ready, run, served, split
from tests.serving.test_guard import bearer, make_key

STATIC = files("henaw.serving.page") / "static"
FILES = {"/" if file.name == "index.html" else f"/page/{file.name}": file.read_bytes() for file in STATIC.iterdir()}
PAGE = "serving.page=true"
PANELS = asset_folder("mlproject") / "panels"


def once(folder: Path, settings: str = PAGE, clock: Clock | None = None, **request: Any) -> Response:
    async def main() -> Response:
        load = None if clock is None else (lambda _: served(clock=clock))
        application, _ = guard(folder, settings, load=load)
        return await ask(await ready(application), **request)

    return run(main())


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    settings = guard_settings()
    document: dict[str, Any] = json.loads(describe_for_page(served(), known_units(PANELS), settings))
    return document


def guard_settings() -> Serving:
    return load_config().serving


# --- what is there, and for whom -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*FILES, "/page/model.json", "/page/answer", "/page/", "/page/index.html"])
def test_the_page_is_off_unless_asked_for(tmp_path: Path, path: str) -> None:
    assert once(tmp_path, "", path=path).code == "NOT_FOUND"


def test_its_files_are_served_under_a_policy_that_lets_nothing_in_from_elsewhere(tmp_path: Path) -> None:
    types = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}
    for path, content in FILES.items():
        response = once(tmp_path, path=path)
        assert (response.status, response.body) == (200, content)
        assert response.headers["content-type"] == types.get(path.rpartition(".")[2], "text/html; charset=utf-8")
        policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert {name: policy[name] for name in ("base-uri", "form-action", "frame-ancestors")} == dict.fromkeys(
            ("base-uri", "form-action", "frame-ancestors"), "'none'"
        )
        assert {policy[f"{kind}-src"] for kind in ("script", "style", "img", "connect")} == {"'self'"}
        assert policy["require-trusted-types-for"] == "'script'"
        assert response.headers["cache-control"] == "no-store"
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["x-frame-options"] == "DENY"


def test_nothing_in_its_files_is_inline_or_from_elsewhere() -> None:
    page = FILES["/"].decode()
    assert not re.findall(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", page)
    referred = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {name for name in referred if not name.startswith("#")} <= {path.removeprefix("/") for path in FILES}
    for content in FILES.values():
        assert not re.findall(rb"https?://(?!www\.w3\.org/2000/svg\b)|innerHTML|insertAdjacentHTML|Storage", content)


def test_its_files_need_no_key_and_what_it_asks_does(tmp_path: Path) -> None:
    metrics = make_key(tmp_path, "metrics")
    assert {once(tmp_path, path=path).status for path in FILES} == {200}
    asked: list[dict[str, Any]] = [{"path": "/page/model.json"}, {"path": "/page/answer", "body": split()}]
    for request in asked:
        assert once(tmp_path, **request).code == "UNAUTHENTICATED"
        assert once(tmp_path, **request, headers=bearer(metrics)).code == "FORBIDDEN"
        assert once(tmp_path, **request, headers={"host": "evil.example"}).code == "WRONG_HOST"
    assert once(tmp_path, path="/", headers={"host": "evil.example"}).code == "WRONG_HOST"
    assert once(tmp_path, path="/page/answer", body=split(), headers=bearer(make_key(tmp_path))).status == 200


def test_answers_count_against_the_rate_of_a_key(tmp_path: Path) -> None:
    key = make_key(tmp_path)

    async def main() -> list[int]:
        application, _ = guard(tmp_path, f"{PAGE} serving.rate=2/minute")
        await ready(application)
        return [(await ask(application, "/page/answer", split(), headers=bearer(key))).status for _ in range(3)]

    assert run(main()) == [200, 200, 429]


# --- what it is told of the model ------------------------------------------------------------------------------------


def test_the_form_is_that_of_the_served_signature(tmp_path: Path, described: dict[str, Any]) -> None:
    assert once(tmp_path, path="/page/model.json").json == described
    assert described["inputs"] == list(input_columns(BLOOD9))
    assert described["outputs"] == list(output_columns("age"))
    assert [marker["name"] for marker in described["markers"]] == list(BLOOD9.names)
    conversions = load_conversions(PANELS)
    for marker, known in zip(described["markers"], BLOOD9.biomarkers, strict=True):
        assert (marker["title"], marker["plausible"]) == (known.title, list(known.plausible))
        first, *others = marker["units"]
        assert first == {"unit": known.unit, "factor": 1.0, "zero": 0.0}
        assert others == [vars(each) for each in conversions[known.name]]
    assert described["max_missing"] == CLOCK.max_missing
    assert described["members"] == 3


def test_a_mortality_clock_is_described_as_one() -> None:
    clock = blood_clock(target="mortality")
    document = json.loads(describe_for_page(served(clock=clock), {}, guard_settings()))
    assert document["model"]["target"] == "mortality"
    assert document["outputs"] == list(output_columns("mortality"))


def test_medians_are_those_of_the_clock_and_unknown_ones_are_null() -> None:
    medians = CLOCK.reference.medians.copy()
    medians[0, 1, 2] = np.nan
    clock = replace(CLOCK, reference=ReferenceMedians(CLOCK.reference.edges, medians))
    reference = json.loads(describe_for_page(served(clock=clock), {}, guard_settings()))["reference"]
    assert reference["female"][1][2] is None
    assert reference["male"] == CLOCK.reference.medians[1].tolist()
    # the band that the page looks up is the clock's own
    for age in (5.0, 20.0, 29.99, 30.0, 64.5, 119.0):
        band = sum(edge <= age for edge in reference["edges"])
        assert reference["male"][band] == CLOCK.reference.of(np.array([1.0]), np.array([age]))[0].tolist()


def test_a_model_with_units_of_its_own_gets_no_conversion_of_another() -> None:
    marker = BLOOD9.biomarkers[0].model_copy(update={"unit": "mg/hL"})
    clock = replace(CLOCK, panel=BLOOD9.model_copy(update={"biomarkers": (marker, *BLOOD9.biomarkers[1:])}))
    first, second, *_ = json.loads(describe_for_page(served(clock=clock), known_units(PANELS), guard_settings()))[
        "markers"
    ]
    assert [each["unit"] for each in first["units"]] == ["mg/hL"]
    assert len(second["units"]) == 2


# --- the answer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_its_answer_is_that_of_invocations_with_what_it_is_made_of(tmp_path: Path, target: Any) -> None:
    clock = blood_clock(target=target)
    body = split(1, seed=3) | {"params": {"coverage": 0.8}}
    found = once(tmp_path, clock=clock, path="/page/answer", body=body)
    plain = once(tmp_path, clock=clock, body=body)
    assert found.headers["henaw-model"] == plain.headers["henaw-model"]
    assert found.json["answer"] == plain.json["predictions"][0]
    arrays = arrays_of(dict(zip(body["dataframe_split"]["columns"], body["dataframe_split"]["data"][0], strict=True)))
    numbers = answer_arrays(clock, *arrays, 0.8, quantiles=True).numbers
    assert found.json["quantiles"] == [numbers[name][0] for name in QUANTILE_COLUMNS]
    assert np.mean(found.json["members"]) == pytest.approx(found.json["answer"]["biological_age_years"], abs=1e-9)
    assert len(found.json["members"]) == 3
    shares = attribute(clock, *arrays)
    attribution = found.json["attribution"]
    assert list(attribution["by_marker"].values()) == shares.by_marker[0].tolist()
    assert attribution["by_organ"] == dict(zip(shares.organs, shares.by_organ[0].tolist(), strict=True))
    assert (attribution["total"], attribution["interaction"]) == (shares.total[0], shares.interaction[0])


def test_a_share_is_the_answer_less_that_with_the_reference_median(tmp_path: Path) -> None:
    body = split(1, seed=4)
    found = once(tmp_path, path="/page/answer", body=body).json
    (row,) = body["dataframe_split"]["data"]
    medians = found["attribution"]["medians"]
    replaced = [
        [medians[name] if name == other else cell for other, cell in zip(COLUMNS, row, strict=True)]
        for name in BLOOD9.names
    ]
    others = once(tmp_path, body={"dataframe_split": {"columns": list(COLUMNS), "data": replaced}}).json["predictions"]
    for name, other in zip(BLOOD9.names, others, strict=True):
        share = found["answer"]["biological_age_years"] - other["biological_age_years"]
        assert found["attribution"]["by_marker"][name] == pytest.approx(share, abs=1e-9)


def test_a_row_that_abstains_has_nothing_but_its_reasons(tmp_path: Path) -> None:
    body = split()
    body["dataframe_split"]["data"][0][COLUMNS.index("age_years")] = None
    found = once(tmp_path, path="/page/answer", body=body).json
    assert (found["answer"]["status"], found["answer"]["flags"]) == ("abstain", "age_missing")
    assert {found[name] for name in ("quantiles", "members", "attribution")} == {None}


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        ({"body": split(2)}, "TOO_LARGE"),
        ({"body": {"dataframe_split": {"columns": list(COLUMNS), "data": []}}}, "SCHEMA_MISMATCH"),
        ({"body": {"dataframe_records": [{SECRET: SECRET}]}}, "SCHEMA_MISMATCH"),
        ({"body": SECRET.encode()}, "MALFORMED_REQUEST"),
        ({"body": b"a\n", "headers": {"content-type": "text/csv"}}, "UNSUPPORTED_MEDIA_TYPE"),
        ({"method": "GET"}, "METHOD_NOT_ALLOWED"),
        ({"body": {"inputs": dict.fromkeys(COLUMNS) | {"age_years": FAILING_AGE}}}, "MODEL_ERROR"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_it_refuses_as_the_guard_does(tmp_path: Path, request_: dict[str, Any], code: str) -> None:
    response = once(tmp_path, path="/page/answer", **request_)
    assert response.code == code
    assert SECRET.encode() not in response.body


def test_it_is_counted_and_written_down_without_a_value(tmp_path: Path) -> None:
    audit = tmp_path / "audit.jsonl"

    async def main() -> Response:
        application, _ = guard(tmp_path, f"{PAGE} serving.audit={audit}")
        await ready(application)
        body = split()
        body["dataframe_split"]["data"][0][0] = float(SECRET)
        await ask(application, "/page/answer", body)
        return await ask(application, "/metrics")

    figures = run(main()).body.decode()
    assert 'henaw_requests_total{code="OK",route="page_answer",status="200"} 1.0' in figures
    assert sum(float(found) for found in re.findall(r"^henaw_rows_total\{.*\} (.+)$", figures, re.MULTILINE)) == 1
    line = json.loads(audit.read_text().splitlines()[0])
    assert (line["route"], line["rows"], line["model"]) == ("page_answer", 1, "henaw/1")
    assert SECRET not in audit.read_text()


def arrays_of(cells: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """A row as ``answer_arrays`` takes it."""
    markers = np.array([[np.nan if cells[name] is None else cells[name] for name in BLOOD9.names]], dtype=float)
    return markers, np.array([float(cells["sex"] == "male")]), np.array([cells["age_years"]], dtype=float)
