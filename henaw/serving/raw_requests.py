"""What stands in the bytes of a request before it becomes one of the application."""

from __future__ import annotations

import re

import httptools

Headers = list[tuple[bytes, bytes]]

_SHORT_BYTES = 1 << 13  # of a request that is answered at once
_ASKS = b"POST /invocations HTTP/1.1\r\n"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d{1,4}) *(?=\r\n)")
_OTHERWISE = re.compile(rb"\r\n(?:transfer-encoding|expect|upgrade|connection: *close)|length:.*length:", re.DOTALL)
_OFFERS = (b"connection", b"upgrade", b"http2-settings")


def asks_for_an_answer(data: bytes) -> bool:
    """Whether ``data`` is one short request for an answer, whole and in the usual form."""
    if not data.startswith(_ASKS) or len(data) > _SHORT_BYTES:
        return False
    head, _, body = data.partition(b"\r\n\r\n")
    head = head.lower() + b"\r\n"
    length = _LENGTH.search(head)
    return length is not None and int(length[1]) == len(body) and not _OTHERWISE.search(head)


def without_offer(method: bytes, target: bytes, version: str, headers: Headers) -> bytes:
    """The head of a request again, without its offer to go on in another protocol."""
    kept = [name + b": " + value for name, value in headers if name not in _OFFERS]
    return b"\r\n".join([b"%s %s HTTP/%s" % (method, target, version.encode()), *kept, b"", b""])


def named_by_target(target: bytes, headers: Headers) -> tuple[bytes, Headers]:
    """Path and headers of a request whose target is a whole address: its host replaces theirs (RFC 9112, 3.2.2).

    Raises:
        HttpParserInvalidURLError: it is none.
    """
    found = httptools.parse_url(target)
    if found.host is None:
        return target, headers
    host = b"[" + found.host + b"]" if b":" in found.host else found.host
    path = (found.path or b"/") + (b"" if found.query is None else b"?" + found.query)
    return path, [*((name, value) for name, value in headers if name != b"host"), (b"host", host)]
