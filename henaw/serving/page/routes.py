"""The paths of the page: its files, which hold no data and need no key, and what it asks for, which needs one."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from pathlib import PurePath

from henaw.config import asset_folder
from henaw.serving.asgi import Reply, Request
from henaw.serving.endpoints import Endpoints, Route
from henaw.serving.lifecycle import Served
from henaw.serving.page.description import describe_for_page, known_units
from henaw.serving.page.explanation import Explanation, explain, require_one
from henaw.serving.refusals import Refusal
from henaw.serving.schema import read_rows
from henaw.serving.strict_json import decode_object
from henaw.settings import Serving

FOLDER = "/page/"
_TYPES = {
    ".html": b"text/html; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
# Nothing from elsewhere, nothing inline, no text turned into markup, no form sent by the browser itself.
_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    b"require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = ((b"content-security-policy", _POLICY), (b"cross-origin-opener-policy", b"same-origin"))


class Page:
    """The routes of the page, beside those of ``endpoints``."""

    def __init__(self, settings: Serving, endpoints: Endpoints) -> None:
        """Read the page's files, and the units that it converts.

        Raises:
            BadInput: the panels' folder has a fault.
        """
        self._settings, self._endpoints = settings, endpoints
        self._units = known_units(asset_folder("mlproject") / "panels")

    def routes(self) -> Mapping[str, Route]:
        """Endpoints by path; the page itself is ``/``."""
        found = {
            FOLDER + "model.json": Route("page_model", "GET", "score", self._model),
            FOLDER + "answer": Route("page_answer", "POST", "score", self._answer),
        }
        for file in (files("henaw.serving.page") / "static").iterdir():
            path = "/" if file.name == "index.html" else FOLDER + file.name
            found[path] = _file(file.name, file.read_bytes())
        return found

    async def _model(self, _: Request) -> Reply:
        served = self._endpoints.lifecycle.require_served()
        return Reply(describe_for_page(served, self._units, self._settings))

    async def _answer(self, request: Request) -> Reply:
        served, content_type, body = await self._endpoints.admitted(request)
        if content_type != "application/json":
            raise Refusal("UNSUPPORTED_MEDIA_TYPE", "expected the content type application/json")
        found = await self._endpoints.slots.in_thread(lambda: _explained(served, request, body))
        self._endpoints.figures.scored([found.status], [found.flags])
        return Reply(found.body, headers=((b"henaw-model", f"{served.name}/{served.number}".encode()),))


def _explained(served: Served, request: Request, body: bytes) -> Explanation:
    rows = read_rows(served.clock.panel, decode_object(body), 1)
    require_one(rows)
    request.rows = 1
    return explain(served.clock, rows)


def _file(name: str, content: bytes) -> Route:
    reply = Reply(content, _TYPES[PurePath(name).suffix], headers=_HEADERS)

    async def answer(_: Request) -> Reply:
        return reply

    return Route("page", "GET", None, answer, public=True)
