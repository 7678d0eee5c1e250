"""The shapes of ASGI that serving speaks, and the reply that every endpoint returns."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]
Headers = tuple[tuple[bytes, bytes], ...]

JSON, TEXT = b"application/json", b"text/plain; charset=utf-8"


@dataclass(frozen=True)
class Reply:
    """A whole response; ``closes`` ends the connection after it."""

    body: bytes
    content_type: bytes = JSON
    status: int = 200
    headers: Headers = ()
    closes: bool = False


@dataclass(slots=True)
class Request:
    """A request on its way through the guard, and what becomes known of it: all that is ever written down.

    Attributes:
        id: random, of 16 hexadecimal digits; the caller's own would be a place to put values.
        headers: by lower-case name; one that stands twice has both values, and so none that is valid.
        receive: where the body comes from.
        route: name of the endpoint, ``other`` where there is none.
        key: id of the key, None where everybody is let in.
        model: name and version that answered.
        rows: how many rows it asked about.
        whole: all of it was there when it began, and it is short.
    """

    id: str
    headers: dict[bytes, bytes]
    receive: Receive
    route: str = "other"
    key: str | None = None
    model: str | None = None
    rows: int | None = None
    whole: bool = False


_ALWAYS = (
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")


async def send_reply(send: Send, reply: Reply, request_id: str) -> None:
    """Send ``reply`` with the headers that every response has; a reply's own policy replaces the strict one."""
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", b"%d" % len(reply.body)),
        (b"x-request-id", request_id.encode()),
        *_ALWAYS,
        *_more(reply.headers, reply.closes),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def to_bytes(reply: Reply, request_id: str, before: Iterable[tuple[bytes, bytes]] = ()) -> bytes:
    """The same as one HTTP/1.1 response, for whoever writes to the connection; ``before`` are headers of the server."""
    return b"%b%bcontent-type: %b\r\ncontent-length: %d\r\nx-request-id: %b\r\n%b%b\r\n%b" % (
        _STATUS_LINES[reply.status],
        _lines(before),
        reply.content_type,
        len(reply.body),
        request_id.encode(),
        _ALWAYS_LINES,
        _more_lines(reply.headers, reply.closes),
        reply.body,
    )


def _more(own: Headers, closes: bool) -> Headers:
    policy = () if any(name == _POLICY[0] for name, _ in own) else (_POLICY,)
    return (*own, *policy, *(((b"connection", b"close"),) if closes else ()))


@lru_cache
def _more_lines(own: Headers, closes: bool) -> bytes:
    return _lines(_more(own, closes))


def _lines(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    return b"".join([b"%b: %b\r\n" % header for header in headers])


_ALWAYS_LINES = _lines(_ALWAYS)
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus}
