"""Requests made up from the OpenAPI document of the version that answers: right ones and wrong ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings

from henaw.serving.openapi import describe
from tests.serving.guarded import CLOCK
from tests.serving.sockets import Running, running

pytestmark = pytest.mark.xdist_group("serving")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tmp_path_factory.mktemp("generated"), "serving.max_rows=300") as found:
        yield found


def generate(server: Running, requests: int) -> Counter[str]:
    """Ask ``requests`` made-up questions; every reply has to be as the document says."""
    import schemathesis
    from schemathesis import GenerationMode
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks as conformance

    document = json.loads(describe("henaw", 1, CLOCK))
    del document["paths"]["/invocations"]["post"]["requestBody"]["content"][
        "text/csv"
    ]  # here MLflow's app is no real one
    seen: Counter[str] = Counter()
    checks = [
        not_a_server_error,
        conformance.status_code_conformance,
        conformance.content_type_conformance,
        conformance.response_headers_conformance,
        conformance.response_schema_conformance,
    ]
    loaded = schemathesis.openapi.from_dict(document)

    def ask_all(path: str, method: str, mode: GenerationMode, times: int) -> None:
        operation = loaded[path][method]

        @settings(max_examples=times, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: schemathesis.Case) -> None:
            response = case.call(base_url=f"http://127.0.0.1:{server.port}")
            case.validate_response(response, checks=checks)
            if response.headers["content-type"] == "application/json":
                json.loads(response.content, parse_constant=pytest.fail)
            if mode is GenerationMode.POSITIVE:
                assert response.status_code == 200, response.text
            seen[f"{mode.value} {response.status_code}"] += 1

        ask()

    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
        ask_all("/invocations", "POST", mode, requests // 2)
    for path, operations in document["paths"].items():
        if "get" in operations:
            ask_all(path, "GET", GenerationMode.POSITIVE, 10)
    return seen


@pytest.mark.slow
def test_generated_requests_get_what_the_document_says(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    seen = generate(server, 200)
    with capsys.disabled():
        print(f"\n{dict(seen)}")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_generated_requests(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    seen = generate(server, 10_000)
    with capsys.disabled():
        print(f"\n{sum(seen.values())} generated requests: {dict(seen)}")
    assert sum(seen.values()) >= 10_000
