"""The OpenAPI document of the version that answers: its columns, units, plausible ranges, and how it refuses."""

from __future__ import annotations

import json
from typing import Any

from henaw import __version__
from henaw.data.panel import Panel
from henaw.model.answers import DEFAULT_COVERAGE, input_columns, number_columns, reason_names
from henaw.model.clock import SEXES, Clock
from henaw.serving.refusals import MOST_DETAILS, STATUS

_LARGEST = 1e60  # what 64 characters can hold without an exponent
_REFUSED_BY_ALL = ("MALFORMED_REQUEST", "WRONG_HOST", "REQUEST_TIMEOUT", "TOO_LARGE")
_REFUSED_WITH_KEY = (*_REFUSED_BY_ALL, "UNAUTHENTICATED")
_REFUSED_INVOCATIONS = tuple(code for code in STATUS if code not in ("NOT_FOUND", "METHOD_NOT_ALLOWED"))
_SEX = {"type": ["string", "null"], "enum": [*SEXES, None]}
_FORMS = {
    "dataframe_records": "ScoreRecords",
    "dataframe_split": "ScoreSplit",
    "instances": "ScoreInstances",
    "inputs": "ScoreInputs",
}
_HEADERS = {
    "x-request-id": ("Of this request, as the audit file has it", {"type": "string", "pattern": "^[0-9a-f]{16}$"}),
    "retry-after": ("Seconds until one may ask again", {"type": "integer", "minimum": 1}),
    "www-authenticate": ("How to say the key", {"type": "string"}),
    "henaw-model": ("Name and version of what answered, as henaw/3", {"type": "string"}),
}
_HEADERS_OF_STATUS = {401: ("www-authenticate",), 429: ("retry-after",), 503: ("retry-after",), 504: ("retry-after",)}


def describe(name: str, number: int, clock: Clock) -> bytes:
    """OpenAPI 3.1 as JSON."""
    panel = clock.panel
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": f"HENAW: {name} version {number}",
            "version": f"{number}",
            "description": f"{panel.title}. HENAW {__version__}; not a medical device.",
        },
        "security": [{"key": []}, {}],
        "paths": {
            "/invocations": {"post": _invocations(panel)},
            "/ping": _get("ready", "Whether requests should be sent here", _TEXT, *_REFUSED_WITH_KEY, "NOT_READY"),
            "/health": _get("healthy", "As /ping", _TEXT, *_REFUSED_WITH_KEY, "NOT_READY"),
            "/version": _get("version", "The version of MLflow", _TEXT, *_REFUSED_WITH_KEY),
            "/livez": _get("alive", "Whether the server runs; needs no key", _TEXT, *_REFUSED_BY_ALL, public=True),
            "/metrics": _get(
                "metrics", "Figures for Prometheus; needs the scope metrics", _TEXT, *_REFUSED_WITH_KEY, "FORBIDDEN"
            ),
            "/openapi.json": _get(
                "describe",
                "This document",
                {"application/json": {"schema": {"type": "object"}}},
                *_REFUSED_WITH_KEY,
                "FORBIDDEN",
                "NOT_READY",
            ),
        },
        "components": {
            "headers": {name: {"description": text, "schema": schema} for name, (text, schema) in _HEADERS.items()},
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _forms(panel) | {"Row": _row(panel), "Sex": _SEX, "Answer": _answer(clock), "Error": _error()},
        },
    }
    return json.dumps(document, ensure_ascii=False).encode()


def _invocations(panel: Panel) -> dict[str, Any]:
    replies = {
        "200": {
            "description": "One answer a row, in order",
            "headers": _headers("x-request-id", "henaw-model"),
            "content": {"application/json": {"schema": _object({"predictions": _list(_ref("Answer"))})}},
        }
    }
    return {
        "operationId": "score",
        "summary": "Biological ages of rows",
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"anyOf": [_ref(name) for name in _FORMS.values()]}},
                "text/csv": {"schema": {"type": "string"}, "example": _csv_example(panel)},
            },
        },
        "responses": replies | _refusals(*_REFUSED_INVOCATIONS),
    }


def _forms(panel: Panel) -> dict[str, Any]:
    """The JSON forms of MLflow's protocol, by name: who generates a client has classes of these names."""
    names = input_columns(panel)
    parameters = _object(
        {
            "coverage": {
                "type": "number",
                "exclusiveMinimum": 1e-9,
                "exclusiveMaximum": 1 - 1e-9,
                "default": DEFAULT_COVERAGE,
                "description": "Of the interval from lower_years to upper_years",
            }
        },
        required=(),
    )
    split = _object(
        {
            "columns": _tuple([{"type": "string", "enum": [name]} for name in names]) | {"description": "In any order"},
            "data": _list(_tuple([_cell(panel, name) for name in names])),
        }
    )
    rows = {**_list(_ref("Row")), "minItems": 1}
    forms = {
        name: _object(
            {form: _ref("Split") if form == "dataframe_split" else rows, "params": _ref("Parameters")}, required=(form,)
        )
        for form, name in _FORMS.items()
    }
    return {**forms, "Split": split, "Parameters": parameters}


def _row(panel: Panel) -> dict[str, Any]:
    return _object({name: _cell(panel, name) for name in input_columns(panel)})


def _cell(panel: Panel, name: str) -> dict[str, Any]:
    if name == "sex":
        return _ref("Sex")
    number: dict[str, Any] = {"type": ["number", "null"], "minimum": -_LARGEST, "maximum": _LARGEST}
    if name == "age_years":
        return {**number, "description": "Chronological age, years; outside 0 to 120 the row abstains"}
    marker = next(marker for marker in panel.biomarkers if marker.name == name)
    low, high = marker.plausible
    text = f"{marker.title}, {marker.unit}; outside {low:g} to {high:g} the row abstains; null = not measured"
    return {**number, "description": text}


def _answer(clock: Clock) -> dict[str, Any]:
    names = number_columns(clock.target)
    columns: dict[str, Any] = {name: {"type": ["number", "null"]} for name in names}
    columns["status"] = {"type": "string", "enum": ["ok", "warn", "abstain"]}
    text = f"Reasons, separated by semicolons: {', '.join(reason_names(clock.panel))}"
    columns["flags"] = {"type": "string", "description": text}
    return _object(columns)


def _error() -> dict[str, Any]:
    detail = _object(
        {"row": {"type": ["integer", "null"]}, "column": {"type": ["string", "null"]}, "rule": {"type": "string"}}
    )
    return _object(
        {
            "error_code": {"type": "string", "enum": list(STATUS)},
            "message": {"type": "string"},
            "request_id": {"type": "string"},
            "details": {**_list(detail), "maxItems": MOST_DETAILS},
        }
    )


_TEXT = {"text/plain": {"schema": {"type": "string"}}}


def _get(name: str, summary: str, content: dict[str, Any], *codes: str, public: bool = False) -> dict[str, Any]:
    found = {"200": {"description": summary, "headers": _headers("x-request-id"), "content": content}}
    operation = {"operationId": name, "summary": summary, "responses": found | _refusals(*codes)}
    return {"get": operation | ({"security": []} if public else {})}


def _refusals(*codes: str) -> dict[str, Any]:
    """Replies by status; several codes may share one."""
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(STATUS[code], []).append(code)
    content = {"application/json": {"schema": _ref("Error")}}
    return {
        str(status): {
            "description": " or ".join(found),
            "headers": _headers("x-request-id", *_HEADERS_OF_STATUS.get(status, ())),
            "content": content,
        }
        for status, found in sorted(by_status.items())
    }


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _object(properties: dict[str, Any], required: tuple[str, ...] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _tuple(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Closed by its length, not by ``items: false``, which generators of clients do not take."""
    return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}


def _csv_example(panel: Panel) -> str:
    middle = [f"{(marker.plausible[0] + marker.plausible[1]) / 2:g}" for marker in panel.biomarkers]
    return f"{','.join(input_columns(panel))}\n{','.join([*middle, SEXES[0], '50'])}\n"
