"""uvicorn's HTTP protocol, with what it leaves open: slow or endless headers, half-closed clients, and what it says.

These never reach an ASGI application: a request that is not whole is none.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from henaw.serving.refusals import Refusal

if TYPE_CHECKING:
    from henaw.serving.guard import Guard

MOST_HEADER_BYTES = 1 << 16
HEADER_SECONDS = 5.0
LEAVING_SECONDS = 0.5


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    _began = 0.0
    _header_bytes = 0
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
        """Feed the parser, but only so much before the headers are whole."""
        if self.transport.is_closing():
            return
        if self._header_timer is not None:
            self._header_bytes += len(data)
        super().data_received(data)
        if self._header_timer is not None and self._header_bytes > MOST_HEADER_BYTES:
            self._refuse(Refusal("TOO_LARGE", f"expected at most {MOST_HEADER_BYTES} bytes of headers"))

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
        if self._header_timer is None:
            self._await_headers()

    def on_headers_complete(self) -> None:
        """From here on the application has the time in hand."""
        self._headers_done()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What is not HTTP."""
        self._refuse(Refusal("MALFORMED_REQUEST", "this is not HTTP/1.1"))

    def _await_headers(self) -> None:
        self._began, self._header_bytes = time.perf_counter(), 0
        self._header_timer = self.loop.call_later(HEADER_SECONDS, self._too_slow)

    def _headers_done(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _too_slow(self) -> None:
        self._header_timer = None
        if self._header_bytes or self.cycle is not None:
            self._refuse(Refusal("REQUEST_TIMEOUT", f"the headers took longer than {HEADER_SECONDS:g} s"))
        elif not self.transport.is_closing():
            self.transport.close()  # it has asked nothing: there is nothing to answer

    def _close_if_idle(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()

    def _refuse(self, refusal: Refusal) -> None:
        self._headers_done()
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the request before this one is still to be answered, and is the last
            self.transport.pause_reading()
            return
        guard = cast("Guard", self.app)
        self.transport.write(guard.refuse_early(refusal, time.perf_counter() - self._began))
        self.transport.close()
