"""The OpenAPI document: valid, about every path, and true of the replies, their headers included."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from henaw.serving.openapi import describe
from tests.scenarios import blood_clock
from tests.serving.guarded import CLOCK, SLOW_ROWS, Response, ask, guard, ready, run, split
from tests.serving.test_guard import bearer, make_key

DOCUMENT = json.loads(describe("henaw", 1, CLOCK))


@pytest.mark.parametrize("target", ["age", "mortality"])
def test_the_document_is_valid_openapi(target: Any) -> None:
    schemathesis = pytest.importorskip("schemathesis")
    document = json.loads(describe("henaw", 1, blood_clock(target=target)))
    schemathesis.openapi.from_dict(document).validate()
    names = [operation["operationId"] for methods in document["paths"].values() for operation in methods.values()]
    assert len(names) == len(set(names))


def test_it_describes_every_path_and_no_other(tmp_path: Path) -> None:
    application, _ = guard(tmp_path)
    routes = {(path, route.method.lower()) for path, route in application._routes.items()}
    assert routes == {(path, method) for path, methods in DOCUMENT["paths"].items() for method in methods}


def assert_as_described(response: Response, path: str) -> None:
    (operation,) = DOCUMENT["paths"][path].values()
    described = operation["responses"][str(response.status)]
    assert set(described["headers"]) == set(response.headers) & set(DOCUMENT["components"]["headers"])
    if response.status >= 400:
        assert response.code in described["description"].split(" or ")


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_replies_have_the_headers_that_are_described(tmp_path: Path, path: str) -> None:
    application, _ = guard(tmp_path, "serving.slots=1 serving.deadline_seconds=0.01 serving.rate=3/hour")
    body = split() if path == "/invocations" else b""

    async def main() -> list[Response]:
        found = [await ask(application, path, body)]  # 503, but for those that answer before
        await ready(application)
        found += [await ask(application, path, body), await ask(application, path, body, headers={"host": "evil"})]
        if body:
            found += [
                await ask(application, path, split(SLOW_ROWS + 1)),  # 504
                await ask(application, path, split(SLOW_ROWS + 1)),  # 429
            ]
        return found

    for response in run(main()):
        assert_as_described(response, path)


@pytest.mark.parametrize("path", DOCUMENT["paths"])
def test_with_keys_too(tmp_path: Path, path: str) -> None:
    score, metrics = bearer(make_key(tmp_path, "score")), bearer(make_key(tmp_path, "metrics"))
    body = split() if path == "/invocations" else b""

    async def main() -> list[Response]:
        application = await ready(guard(tmp_path, "serving.rate=2/hour")[0])
        return [await ask(application, path, body, headers=headers) for headers in ({}, *[score] * 3, metrics)]

    found = run(main())
    for response in found:
        assert_as_described(response, path)
    open_to_all = "security" in next(iter(DOCUMENT["paths"][path].values()))
    assert (found[0].status == 401) != open_to_all


def schemas(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from schemas(part)


def test_nothing_stands_in_it_that_generators_of_clients_do_not_take() -> None:
    """openapi-python-client refuses a document with either, and names classes after components."""
    for schema in schemas(DOCUMENT):
        assert not isinstance(schema.get("items"), bool)
        assert not isinstance(schema.get("const"), list | dict)
    (forms,) = DOCUMENT["paths"]["/invocations"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ].values()
    assert all(list(form) == ["$ref"] for form in forms)
