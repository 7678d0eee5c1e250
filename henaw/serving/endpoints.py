"""What the server answers at each of its paths, once the guard has let a request through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from henaw.serving import metrics
from henaw.serving.asgi import TEXT, Reply, Request
from henaw.serving.bodies import read_body
from henaw.serving.csv_rows import Scored, ask_mlflow, check_csv
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.lifecycle import Lifecycle, Served
from henaw.serving.metrics import Metrics
from henaw.serving.rates import Rates
from henaw.serving.refusals import Refusal, retry_after
from henaw.serving.schema import read_rows
from henaw.serving.slots import Slots
from henaw.serving.strict_json import MOST_NESTING, decode_object, is_too_deep, malformed
from henaw.settings import Serving

logger = logging.getLogger(__name__)

_HERE_BYTES = 4096  # a body up to this is answered on the event loop: it takes less than a millisecond
_BODIES_PER_SLOT = 8  # how many bodies may be on their way in for each slot
_BRACKETS_BESIDE_ROWS = 8
_CONTENT_TYPES = ("application/json", "text/csv")


@dataclass(frozen=True)
class Route:
    """An endpoint.

    Attributes:
        name: for figures and audit.
        method: the one that it knows.
        scope: what a key must be for; None: any key.
        answer: the rest.
        public: needs no key even where there are keys.
    """

    name: str
    method: str
    scope: str | None
    answer: Callable[[Request], Awaitable[Reply]]
    public: bool = False


class Endpoints:
    """MLflow's scoring protocol, and what HENAW adds to it."""

    def __init__(
        self, settings: Serving, lifecycle: Lifecycle, slots: Slots, rates: Rates, figures: Metrics, mlflow_version: str
    ) -> None:
        """``mlflow_version`` is what ``/version`` says, as MLflow does."""
        self.lifecycle, self.slots, self.figures = lifecycle, slots, figures
        self._settings, self._rates, self._mlflow_version = settings, rates, mlflow_version
        self._bodies = 0

    def routes(self) -> Mapping[str, Route]:
        """Endpoints by path."""
        return {
            "/livez": Route("livez", "GET", None, self._alive, public=True),
            "/ping": Route("ping", "GET", None, self._ready),
            "/health": Route("health", "GET", None, self._ready),
            "/version": Route("version", "GET", None, self._version),
            "/metrics": Route("metrics", "GET", "metrics", self._metrics),
            "/openapi.json": Route("openapi", "GET", "score", self._openapi),
            "/invocations": Route("invocations", "POST", "score", self._invocations),
        }

    async def _alive(self, _: Request) -> Reply:
        return Reply(b"\n", TEXT)

    async def _ready(self, _: Request) -> Reply:
        self.lifecycle.require_ready()
        return Reply(b"\n", TEXT)

    async def _version(self, _: Request) -> Reply:
        return Reply(self._mlflow_version.encode(), TEXT)

    async def _metrics(self, _: Request) -> Reply:
        return Reply(self.figures.text(), metrics.CONTENT_TYPE)

    async def _openapi(self, _: Request) -> Reply:
        return Reply(self.lifecycle.require_served().openapi)

    async def admitted(self, request: Request) -> tuple[Served, str, bytes]:
        """The version that is to answer ``request``, and its content type and body, once nothing speaks against it.

        Raises:
            Refusal: from readiness to the size of the body, in the order of the guard's checks.
        """
        served = self.lifecycle.require_served()
        request.model = f"{served.name}/{served.number}"
        if request.key is not None:
            await self._rates.count(request.key)
        return served, _content_type(request.headers), await self._body(request)

    async def _invocations(self, request: Request) -> Reply:
        served, content_type, body = await self.admitted(request)
        if content_type == "text/csv":
            answer, status, flags = await self._answer_csv(served, request, body)
        elif len(body) <= _HERE_BYTES:
            answer, status, flags = await self.slots.here(lambda: self._answer_json(served, request, body))
        else:
            answer, status, flags = await self.slots.in_thread(lambda: self._answer_json(served, request, body))
        self.figures.scored(status, flags)
        return Reply(answer, headers=((b"henaw-model", f"{served.name}/{served.number}".encode()),))

    async def _body(self, request: Request) -> bytes:
        """The body; only so many are read at once, as each is held in memory until it is answered."""
        if self._bodies >= _BODIES_PER_SLOT * self.slots.number:
            raise Refusal("OVERLOADED", "too many bodies are being read", headers=retry_after(1))
        self._bodies += 1
        try:
            return await read_body(
                request.receive, request.headers, self._settings.max_bytes, self._settings.body_seconds
            )
        finally:
            self._bodies -= 1

    def _answer_json(self, served: Served, request: Request, body: bytes) -> tuple[bytes, list[str], list[str]]:
        """The reply, and the status and flags of each row."""
        most = self._settings.max_rows
        if body.count(b"{") + body.count(b"[") > most + _BRACKETS_BESIDE_ROWS:  # each row is in a bracket
            if is_too_deep(body):
                raise malformed(f"the body is nested deeper than {MOST_NESTING}")
            raise Refusal("TOO_LARGE", f"expected at most {most} rows a request")
        rows = read_rows(served.clock.panel, decode_object(body), most)
        request.rows = len(rows)
        answers = answer_rows(served.clock, rows)
        return to_json(answers), answers.status, answers.flags

    async def _answer_csv(self, served: Served, request: Request, body: bytes) -> tuple[bytes, list[str], list[str]]:
        async def work() -> Scored:
            request.rows = await asyncio.to_thread(check_csv, served.clock.panel, body, self._settings.max_rows)
            return await ask_mlflow(served.mlflow_app, body)

        scored = await self.slots.awaited(work())
        return scored.body, scored.status, scored.flags


def _content_type(headers: Mapping[bytes, bytes]) -> str:
    """``application/json`` or ``text/csv``.

    Raises:
        Refusal: ``UNSUPPORTED_MEDIA_TYPE``: none, another one, another charset, or a compressed body.
    """
    kind, *parameters = (
        part.strip().lower() for part in headers.get(b"content-type", b"").decode("latin-1").split(";")
    )
    if kind not in _CONTENT_TYPES or headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise Refusal(
            "UNSUPPORTED_MEDIA_TYPE", f"expected the content type {' or '.join(_CONTENT_TYPES)}, uncompressed"
        )
    if any(parameter not in ("charset=utf-8", 'charset="utf-8"') for parameter in parameters):
        raise Refusal("UNSUPPORTED_MEDIA_TYPE", "expected no parameter of the content type but charset=utf-8")
    return kind
