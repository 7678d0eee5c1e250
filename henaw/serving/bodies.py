"""Reading a request's body: no more of it than allowed, and no longer than allowed."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from typing import Any

from henaw.serving.asgi import Message, Receive
from henaw.serving.refusals import Refusal

REFUSED = "henaw.refused"  # in a scope: why the rest of the body is not read


class Disconnected(Exception):
    """The client left before its request was whole: there is nobody to answer."""


def checked(scope: MutableMapping[str, Any], receive: Receive) -> Receive:
    """``receive``, which raises the refusal that the protocol left in ``scope``."""

    async def receive_checked() -> Message:
        message = await receive()
        if (refusal := scope.get(REFUSED)) is not None:
            raise refusal
        return message

    return receive_checked


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], most_bytes: int, seconds: float | None) -> bytes:
    """The body of a request; ``seconds`` None: it is there already.

    Raises:
        Refusal: ``TOO_LARGE``, decided by what the client announces or as soon as it comes, or ``REQUEST_TIMEOUT``.
        Disconnected: the client left.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced[:20]) > most_bytes:
        # who asks first and is told no may send the body or the next request: only a new connection is clear
        raise _too_large(most_bytes, closes=headers.get(b"expect", b"").lower() == b"100-continue")
    if seconds is None:
        return await _read(receive, most_bytes)
    try:
        async with asyncio.timeout(seconds):
            return await _read(receive, most_bytes)
    except TimeoutError:
        raise Refusal("REQUEST_TIMEOUT", f"the body took longer than {seconds:g} s", closes=True) from None


async def _read(receive: Receive, most_bytes: int) -> bytes:
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunks.append(message.get("body", b""))
        size += len(chunks[-1])
        if size > most_bytes:
            raise _too_large(most_bytes)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _too_large(most_bytes: int, *, closes: bool = False) -> Refusal:
    """What is left of the body is read past by the server, so that the client sees the answer."""
    return Refusal("TOO_LARGE", f"expected at most {most_bytes} bytes a request", closes=closes)
