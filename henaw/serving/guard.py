"""The guard: a pure ASGI application that every request passes, in one order of checks.

Host → key → path → method → scope → readiness → rate → content type → size → body → free slot → JSON → schema → model →
deadline. What comes later costs more than what comes first. Whatever happens, the answer is one of ``refusals.STATUS``
or a 200, it is counted, and it is written to the audit file.
"""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence
from typing import Any

from henaw.errors import trace_without_text
from henaw.serving.asgi import Receive, Reply, Request, Send, send_reply, to_bytes
from henaw.serving.audit import Audit
from henaw.serving.bodies import Disconnected, checked
from henaw.serving.endpoints import Route
from henaw.serving.keys import Keyring
from henaw.serving.lifecycle import Lifecycle
from henaw.serving.metrics import Metrics
from henaw.serving.refusals import Detail, Refusal

logger = logging.getLogger(__name__)

ANY_HOST = "*"
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[^\[\]:, ]+)(?::[0-9]*)?")
_WRITE = "henaw.write"  # in a scope: it is among those that wait, and this writes its reply

Write = Callable[[Reply, str], bool]
"""Writes a reply with the id of its request to the connection at once; False where it cannot be."""


class Guard:
    """The application that uvicorn runs.

    Attributes:
        at_exit: called when it has stopped.
        opens_when_ready: no connection is accepted before it is known whether there is something to serve.
    """

    def __init__(
        self,
        routes: Mapping[str, Route],
        *,
        hosts: Collection[str],
        keyring: Keyring,
        lifecycle: Lifecycle,
        metrics: Metrics,
        audit: Audit,
        room: int,
    ) -> None:
        """Guard ``routes`` (by path) for ``hosts`` (as in the header ``Host``, without port).

        ``room``: how many requests for answers may wait at once before more are sent away unread.
        """
        self._routes, self._hosts = routes, frozenset(host.lower() for host in hosts)
        self._keyring, self.lifecycle, self._metrics, self._audit = keyring, lifecycle, metrics, audit
        self._room, self._waiting = room, 0
        self.opens_when_ready = False
        self.at_exit: Callable[[], None] = lambda: None

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or follow the server's life."""
        if scope["type"] == "http":
            await self._http(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.lifecycle.start()
        if self.opens_when_ready:
            await self.lifecycle.decided.wait()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.lifecycle.stop()
        await send({"type": "lifespan.shutdown.complete"})
        self.at_exit()

    async def _http(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        began, write = time.perf_counter(), scope.pop(_WRITE, None)
        body = checked(scope, receive) if write is None else receive
        request = Request(secrets.token_hex(8), _headers(scope["headers"]), body, whole=write is not None)
        code, details = "OK", ()  # type: str, tuple[Detail, ...]
        self._metrics.in_flight.inc()
        try:
            reply = await self._answered(request, scope["method"], scope["path"])
        except Refusal as refusal:
            code, details = refusal.code, refusal.details
            reply = _refused(refusal, request)
        except Disconnected:
            self._metrics.disconnected.inc()
            return
        except Exception as error:  # noqa: BLE001 - nothing that breaks here may break a connection or show itself
            logger.error("request %s: the model raised %s", request.id, trace_without_text(error))
            broken = Refusal("MODEL_ERROR", "the model could not answer; the server's log has the request's id")
            code, reply = broken.code, _refused(broken, request)
        finally:
            self._waiting -= request.whole
            self._metrics.in_flight.dec()
        self._account(request, reply.status, code, time.perf_counter() - began, details)
        if self.lifecycle.leaves and not reply.closes:
            reply = Reply(reply.body, reply.content_type, reply.status, reply.headers, closes=True)
        if write is None or not write(reply, request.id):
            await send_reply(send, reply, request.id)

    async def _answered(self, request: Request, method: str, path: str) -> Reply:
        self._require_host(request.headers.get(b"host", b""))
        route = self._routes.get(path)
        key = None
        if route is None or not route.public:
            key = self._keyring.admit(request.headers.get(b"authorization"))
            request.key = None if key is None else key.id
        if route is None:
            raise Refusal("NOT_FOUND", f"expected one of {', '.join(self._routes)}")
        request.route = route.name
        if method != route.method and (method, route.method) != ("HEAD", "GET"):
            allowed = "GET, HEAD" if route.method == "GET" else route.method
            message = f"expected the method {route.method}"
            raise Refusal("METHOD_NOT_ALLOWED", message, headers=((b"allow", allowed.encode()),))
        if key is not None and route.scope is not None and route.scope not in key.scopes:
            raise Refusal("FORBIDDEN", f"the key lacks the scope {route.scope}")
        return await route.answer(request)

    def _require_host(self, host: bytes) -> None:
        """Another name that leads here may be a page's attempt to speak for its visitor (DNS rebinding)."""
        found = _HOST.fullmatch(host)
        name = found[1].decode("latin-1").lower() if found else ""
        if name not in self._hosts and ANY_HOST not in self._hosts:
            raise Refusal("WRONG_HOST", "expected a host that this server answers for (serving.hosts)")

    @property
    def is_full(self) -> bool:
        """Whether one more request for an answer would only make those before it wait longer."""
        return self._waiting >= self._room and self.lifecycle.phase == "ready"

    def knows(self, authorizations: Sequence[bytes]) -> bool:
        """Whether whoever sent these headers is let in: nobody else may make others be sent away."""
        try:
            self._keyring.admit(authorizations[0] if len(authorizations) == 1 else None)
        except Refusal:
            return False
        return True

    def let_wait(self, scope: MutableMapping[str, Any], write: Write) -> None:
        """Count a request for an answer, which is whole, until it is answered."""
        scope[_WRITE] = write
        self._waiting += 1

    def refuse_early(self, refusal: Refusal, seconds: float, route: str = "other") -> bytes:
        """The raw response to what does not become a request of the application, counted like any other."""
        request = Request(secrets.token_hex(8), {}, _nothing, route)
        self._account(request, refusal.status, refusal.code, seconds, refusal.details)
        return to_bytes(_refused(refusal, request), request.id)

    def _account(self, request: Request, status: int, code: str, seconds: float, details: Sequence[Detail]) -> None:
        """Before the answer is sent, so that whoever has it finds it counted."""
        self._metrics.answered(request.route, status, code, seconds, details)
        if not self._audit.write(request, status, code, seconds):
            self._metrics.audit_lost.inc()


def _headers(pairs: Sequence[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for name, value in pairs:
        found[name] = found[name] + b", " + value if name in found else value
    return found


def _refused(refusal: Refusal, request: Request) -> Reply:
    return Reply(refusal.body(request.id), status=refusal.status, headers=refusal.headers, closes=refusal.closes)


async def _nothing() -> dict[str, Any]:
    return {"type": "http.disconnect"}
