"""What the server answers at each of its paths, once the guard has let a request through."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from time import perf_counter

from henaw.serving import metrics
from henaw.serving.asgi import TEXT, Reply, Request
from henaw.serving.bodies import read_body
from henaw.serving.comparison import Arm, Comparison
from henaw.serving.csv_rows import Scored, ask_mlflow, check_csv
from henaw.serving.lifecycle import Lifecycle, Served
from henaw.serving.metrics import Metrics
from henaw.serving.parts import helpers_for, score
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
        self,
        settings: Serving,
        lifecycle: Lifecycle,
        slots: Slots,
        rates: Rates,
        figures: Metrics,
        comparison: Comparison,
        mlflow_version: str,
    ) -> None:
        """``mlflow_version`` is what ``/version`` says, as MLflow does."""
        self.lifecycle, self.slots, self.figures = lifecycle, slots, figures
        self._settings, self._rates, self._mlflow_version = settings, rates, mlflow_version
        self._comparison, self._helpers = comparison, helpers_for(settings.workers)
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
        request.model = served.label
        if request.key is not None:
            await self._rates.count(request.key)
        return served, _content_type(request.headers), await self._body(request)

    async def _invocations(self, request: Request) -> Reply:
        served, content_type, body = await self.admitted(request)
        is_csv = content_type == "text/csv"
        arm, began = self._comparison.arm(request, served), perf_counter()
        request.model = arm.served.label
        with self._comparison.watching(arm):
            if is_csv:
                scored = await self._answer_csv(arm, request, body)
            elif len(body) <= _HERE_BYTES:
                scored = await self.slots.here(lambda: self._answer_json(arm, request, body), counted=request.whole)
            else:
                scored = await self.slots.in_thread(lambda: self._answer_json(arm, request, body))
        self.figures.scored(scored.status, scored.flags)
        self._comparison.answered(arm, request, is_csv, body, scored, began)
        return Reply(scored.body, headers=((b"henaw-model", request.model.encode()),))

    async def _body(self, request: Request) -> bytes:
        """The body; only so many are read at once, as each is held in memory until it is answered."""
        if self._bodies >= _BODIES_PER_SLOT * self.slots.number:
            raise Refusal("OVERLOADED", "too many bodies are being read", headers=retry_after(1))
        self._bodies += 1
        try:
            seconds = None if request.whole else self._settings.body_seconds
            return await read_body(request.receive, request.headers, self._settings.max_bytes, seconds)
        finally:
            self._bodies -= 1

    def _answer_json(self, arm: Arm, request: Request, body: bytes) -> Scored:
        try:
            return self._scored_json(arm.served, request, body)
        except Exception as error:  # noqa: BLE001 - a challenger may break in any way, the caller gets an answer
            self._comparison.fall_back(arm, request, error)
            return self._scored_json(arm.served, request, body)

    def _scored_json(self, served: Served, request: Request, body: bytes) -> Scored:
        most = self._settings.max_rows
        if body.count(b"{") + body.count(b"[") > most + _BRACKETS_BESIDE_ROWS:  # each row is in a bracket
            if is_too_deep(body):
                raise malformed(f"the body is nested deeper than {MOST_NESTING}")
            raise Refusal("TOO_LARGE", f"expected at most {most} rows a request")
        rows = read_rows(served.clock.panel, decode_object(body), most)
        request.rows = len(rows)
        return score(served.clock, rows, self._helpers)

    async def _answer_csv(self, arm: Arm, request: Request, body: bytes) -> Scored:
        async def work() -> Scored:
            panel, most = arm.served.clock.panel, self._settings.max_rows
            request.rows = await asyncio.to_thread(check_csv, panel, body, most)
            await self.lifecycle.require_confirmed()
            try:
                return await ask_mlflow(arm.served.mlflow_app, body)
            except Exception as error:  # noqa: BLE001 - as above
                self._comparison.fall_back(arm, request, error)
                return await ask_mlflow(arm.served.mlflow_app, body)

        return await self.slots.awaited(work())


def _content_type(headers: Mapping[bytes, bytes]) -> str:
    """``application/json`` or ``text/csv``.

    Raises:
        Refusal: ``UNSUPPORTED_MEDIA_TYPE``: none, another one, another charset, or a compressed body.
    """
    sent = headers.get(b"content-type", b"").decode("latin-1")
    if sent in _CONTENT_TYPES and b"content-encoding" not in headers and b"transfer-encoding" not in headers:
        return sent
    kind, *parameters = (part.strip().lower() for part in sent.split(";"))
    coding = headers.get(b"content-encoding", b"identity"), headers.get(b"transfer-encoding", b"chunked")
    if kind not in _CONTENT_TYPES or (coding[0].lower(), coding[1].lower()) != (b"identity", b"chunked"):
        raise Refusal(
            "UNSUPPORTED_MEDIA_TYPE", f"expected the content type {' or '.join(_CONTENT_TYPES)}, uncompressed"
        )
    charsets = [parameter for parameter in parameters if parameter.startswith("charset")]
    if any(charset not in ("charset=utf-8", 'charset="utf-8"') for charset in charsets):
        raise Refusal("UNSUPPORTED_MEDIA_TYPE", "expected no other charset than utf-8")
    return kind
