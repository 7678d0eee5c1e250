"""uvicorn's HTTP protocol, with what it leaves open: slow or endless headers, half-closed clients, and what it says.

These never reach an ASGI application: a request that is not whole is none. What a request may ask of a protocol is
settled here too: an offer to speak another one is passed over, and a target that names its host is taken at its word.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import time
from collections.abc import MutableMapping
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from henaw.serving.asgi import Reply, to_bytes
from henaw.serving.bodies import REFUSED
from henaw.serving.raw_requests import asks_for_an_answer, named_by_target, without_offer
from henaw.serving.refusals import Refusal
from henaw.serving.slots import overloaded

if TYPE_CHECKING:
    from henaw.serving.guard import Guard

MOST_HEADER_BYTES = 1 << 16
HEADER_SECONDS = 5.0
READING_SECONDS = 30.0  # in which a client has to take some of what waits for it
LEAVING_SECONDS = 0.5
_LINGERING_SECONDS = 1.0  # for the client to read why, before what it still sends is answered with a reset
_NO_LINGERING = struct.pack("ii", 1, 0)
_FRAMING = 8  # bytes that may come beside each byte of a body: one of a chunk of its own has five
_AUTHORIZATION = re.compile(rb"(?i)\r\nauthorization: *([^\r\n]*)")


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    _began = 0.0
    _header_bytes = 0
    _beside_body = 0  # bytes of a request after its headers that are none of its body's
    _within = False  # a request
    _deaf = False  # whatever still comes is thrown away
    _within_headers = False  # of one
    _header_timer: asyncio.TimerHandle | None = None
    _reading_timer: asyncio.TimerHandle | None = None
    _answering: RequestResponseCycle | None = None  # ``cycle`` is the last that began: others may still wait before it
    _unread = 0  # bytes that waited for the client when it was last looked at

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client that connects and says nothing is a slow one."""
        super().connection_made(transport)
        self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._headers_done()
        self._read_enough()
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.disconnected = True
            self._answering.message_event.set()
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
        going_on = self.cycle if self._within and self._header_timer is None else None
        self._feed(data)
        if asks and not self._is_idle:
            self._guard.let_wait(cast("MutableMapping[str, Any]", self.scope), partial(self._written, self.cycle))
        if self._within_headers and self._header_timer is None and not self._deaf:
            self._await_headers()
        if self._header_timer is not None and self._header_bytes > MOST_HEADER_BYTES:
            self._refuse(_endless_headers())
        elif self._within and going_on is not None and going_on is self.cycle:  # all of it is of this request
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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def pause_writing(self) -> None:
        """More waits for the client than it takes."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """It has taken it."""
        self._read_enough()
        super().resume_writing()

    def on_response_complete(self) -> None:
        """A connection that is closed is only gone once the client has taken all."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._watch_reading()

    def timeout_keep_alive_handler(self) -> None:
        """As long as nothing was asked, and the client may not even have taken the last answer."""
        super().timeout_keep_alive_handler()
        self._watch_reading()

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
            self.url, self.headers[:] = named_by_target(self.url, self.headers)
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
        method, version = self.parser.get_method(), self.parser.get_http_version()
        if method == b"CONNECT":
            self._refuse(Refusal("MALFORMED_REQUEST", "this is no proxy", closes=True))
            return
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's first one
        self._feed(without_offer(method, self.url, version, self.headers) + rest)

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
        if self.flow.write_paused:  # it does not read what it is told either
            self._hang_up()
            return
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

    def _watch_reading(self) -> None:
        if self._reading_timer is None and self.parser is not None:
            self._unread = self.transport.get_write_buffer_size()
            self._reading_timer = self.loop.call_later(READING_SECONDS, self._look_at_reading)

    def _look_at_reading(self) -> None:
        """Who takes nothing would hold an answer in memory, and a connection, for ever."""
        self._reading_timer = None
        if 0 < self.transport.get_write_buffer_size() < self._unread:
            self._watch_reading()
        else:
            self._hang_up()

    def _hang_up(self) -> None:
        """Give back all that this connection holds, the kernel's copy too, and answer nothing more on it."""
        self._deaf = True
        self.pipeline.clear()
        if self._answering is not None:
            self._answering.disconnected = True
        if (kernels := self.transport.get_extra_info("socket")) is not None:
            kernels.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGERING)
        self.transport.abort()

    def _read_enough(self) -> None:
        if self._reading_timer is not None:
            self._reading_timer.cancel()
            self._reading_timer = None

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
