"""uvicorn's HTTP protocol, with what it leaves open: slow or endless headers, half-closed clients, and what it says.

These never reach an ASGI application: a request that is not whole is none. What a request may ask of a protocol is
settled here too: an offer to speak another one is passed over, and a target that names its host is taken at its word.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from henaw.serving.asgi import Reply, to_bytes
from henaw.serving.bodies import REFUSED
from henaw.serving.refusals import Refusal
from henaw.serving.slots import overloaded

if TYPE_CHECKING:
    from henaw.serving.guard import Guard

MOST_HEADER_BYTES = 1 << 16
HEADER_SECONDS = 5.0
LEAVING_SECONDS = 0.5
_LINGERING_SECONDS = 1.0  # for the client to read why, before what it still sends is answered with a reset
_FRAMING = 8  # bytes that may come beside each byte of a body: one of a chunk of its own has five
_SHORT_BYTES = 1 << 13  # of a request that is answered at once
_ASKS = b"POST /invocations HTTP/1.1\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,4}) *(?=\r\n)")
_AUTHORIZATION = re.compile(rb"(?i)\r\nauthorization: *([^\r\n]*)")
_OFFERS = (b"connection", b"upgrade", b"http2-settings")
_OTHERWISE = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade|connection: *close)|length:.*length:", re.DOTALL)


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    _began = 0.0
    _header_bytes = 0
    _beside_body = 0  # bytes of a request after its headers that are none of its body's
    _within = False  # a request
    _deaf = False  # whatever still comes is thrown away
    _within_headers = False  # of one
    _header_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects and says nothing is a slow one."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._headers_done()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser, but only so much before the headers are whole, and nothing where the server is full.

        A request that is sent away before anything was made of it costs a twentieth of an answer: only so do those
        that are answered not wait for those that are not.
        """
        if self._deaf or self.transport.is_closing():
            return
        asks = self._is_idle and asks_for_an_answer(data) and self._guard.knows(_AUTHORIZATION.findall(data))
        if asks and self._guard.is_full:
            self._send_away()
            return
        if self._header_timer is not None or self._is_idle:
            if self._header_bytes + data.find(b"\r\n\r\n") > MOST_HEADER_BYTES:  # they came in one piece
                self._refuse(_endless_headers())
                return
            self._header_bytes += len(data)
        self._unset_keepalive_if_required()
        self._feed(data)
        if asks and not self._is_idle:
            self._guard.let_wait(cast("MutableMapping[str, Any]", self.scope), partial(self._written, self.cycle))
        if self._within_headers and self._header_timer is None and not self._deaf:
            self._await_headers()
        if self._header_timer is not None and self._header_bytes > MOST_HEADER_BYTES:
            self._refuse(_endless_headers())
        elif self._within and self._header_timer is None:
            self._beside_body += len(data)
            if self._beside_body > MOST_HEADER_BYTES:
                self._refuse(
                    Refusal("TOO_LARGE", f"expected at most {MOST_HEADER_BYTES} bytes of trailers", closes=True)
                )

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has said all it has to say still wants its answer; after that the connection is of no use."""
        waiting = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if waiting:
            self.cycle.keep_alive = False
        return waiting and self.transport.get_extra_info("sslcontext") is None

    def shutdown(self) -> None:
        """The server leaves: a connection that is idle may have a request under way, which is answered or told so."""
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LEAVING_SECONDS, self._close_if_idle)
        else:
            self.cycle.keep_alive = False

    def on_message_begin(self) -> None:
        """The first byte of a request on a connection that is kept open."""
        super().on_message_begin()
        self._within = self._within_headers = True

    def on_headers_complete(self) -> None:
        """From here on the application has the time in hand."""
        if self.parser.should_upgrade():
            return  # the parser stops here, and the request begins again
        self._within_headers = False
        self._headers_done()
        if not self.url.startswith(b"/"):
            self._take_host_of_target()
        super().on_headers_complete()
        self.headers = []  # trailers are no headers
        self._beside_body = 0

    def on_body(self, body: bytes) -> None:
        """Part of the body."""
        self._beside_body -= len(body) * (1 if self.cycle.response_complete else 1 + _FRAMING)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of it."""
        if self.parser.should_upgrade():
            return
        self._within = False
        super().on_message_complete()

    def _feed(self, data: bytes) -> None:
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as offer:
            self._pass_over_offer(data[offer.args[0] :])
        except httptools.HttpParserError:
            self._refuse(Refusal("MALFORMED_REQUEST", "this is not HTTP/1.1", closes=True))

    def _pass_over_offer(self, rest: bytes) -> None:
        """Take the request without its offer (RFC 9110, 7.8): the parser would take its body for another protocol's."""
        method = self.parser.get_method()
        if method == b"CONNECT":
            self._refuse(Refusal("MALFORMED_REQUEST", "this is no proxy", closes=True))
            return
        lines = [b"%s %s HTTP/%s" % (method, self.url, self.parser.get_http_version().encode())]
        lines += [name + b": " + value for name, value in self.headers if name not in _OFFERS]
        self.parser = httptools.HttpRequestParser(self)
        self._feed(b"\r\n".join([*lines, b"", rest]))

    def _take_host_of_target(self) -> None:
        """A target that is a whole address replaces the header ``Host`` (RFC 9112, 3.2.2)."""
        target = httptools.parse_url(self.url)
        if target.host is None:
            return
        host = b"[" + target.host + b"]" if b":" in target.host else target.host
        self.headers[:] = [*((name, value) for name, value in self.headers if name != b"host"), (b"host", host)]
        self.url = (target.path or b"/") + (b"" if target.query is None else b"?" + target.query)

    @property
    def _guard(self) -> Guard:
        return cast("Guard", self.app)

    @property
    def _is_idle(self) -> bool:
        """Whether every request that has begun is whole and answered."""
        return not self._within and (self.cycle is None or self.cycle.response_complete)

    def _written(self, cycle: RequestResponseCycle, reply: Reply, request_id: str) -> bool:
        """Write a reply where nothing stands in the way: uvicorn looks at every header once more."""
        if self.flow.write_paused or reply.closes or not cycle.keep_alive or cycle.disconnected:
            return False
        cycle.response_started = cycle.response_complete = True
        cycle.message_event.set()
        self.transport.write(to_bytes(reply, request_id, self.server_state.default_headers))
        cycle.on_response()
        return True

    def _send_away(self) -> None:
        self._headers_done()
        self._unset_keepalive_if_required()
        self.transport.write(self._guard.refuse_early(overloaded(), 0.0, "invocations"))
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _await_headers(self) -> None:
        self._began = time.perf_counter()
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _headers_done(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None
        self._header_bytes = 0

    def _too_slow(self) -> None:
        self._header_timer = None
        if self._within:
            said = f"the headers took longer than {HEADER_SECONDS:g} s"
            self._refuse(Refusal("REQUEST_TIMEOUT", said, closes=True))
        elif not self.transport.is_closing():
            self.transport.close()  # it has asked nothing: there is nothing to answer

    def _close_if_idle(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        self._headers_done()
        if self.transport.is_closing():
            return
        self._deaf = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the request before this one is still to be answered, and is the last
            if self.cycle.more_body:  # it is this one
                cast("MutableMapping[str, Any]", self.cycle.scope)[REFUSED] = refusal
                self.cycle.more_body = False
                self.cycle.message_event.set()
            return
        self.transport.write(self._guard.refuse_early(refusal, time.perf_counter() - self._began))
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(_LINGERING_SECONDS, self.transport.close)
        else:
            self.transport.close()


def _endless_headers() -> Refusal:
    return Refusal("TOO_LARGE", f"expected at most {MOST_HEADER_BYTES} bytes of headers", closes=True)


def asks_for_an_answer(data: bytes) -> bool:
    """Whether ``data`` is one short request for an answer, whole and in the usual form."""
    if not data.startswith(_ASKS) or len(data) > _SHORT_BYTES:
        return False
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.lower() + b"\r\n"
    length = _LENGTH.search(head)
    return length is not None and int(length[1]) == len(body) and not _OTHERWISE.search(head)
