"""What is written to a connection: the same as by way of uvicorn, and to the request that it answers."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any, cast

import pytest
import uvicorn
from uvicorn.server import ServerState

from henaw.serving.asgi import Message, Reply, send_reply, to_bytes
from henaw.serving.protocol import GuardedProtocol
from tests.serving.guarded import guard, ready, run, split
from tests.serving.sockets import request

REPLIES = [
    Reply(b"{}"),
    Reply(b"", b"text/plain", 503, ((b"retry-after", b"5"),), closes=True),
    Reply(b"x", b"text/html", 200, ((b"content-security-policy", b"default-src 'self'"),)),
]


@pytest.mark.parametrize("reply", REPLIES)
def test_a_whole_response_says_what_the_messages_say(reply: Reply) -> None:
    messages: list[Message] = []

    async def send(message: Message) -> None:
        messages.append(message)

    asyncio.run(send_reply(send, reply, "0123"))
    start, end = messages
    head, _, body = to_bytes(reply, "0123", [(b"date", b"today")]).partition(b"\r\n\r\n")
    line, *lines = head.split(b"\r\n")
    assert line.startswith(b"HTTP/1.1 %d " % start["status"])
    assert sorted(lines) == sorted([b"date: today", *(name + b": " + value for name, value in start["headers"])])
    assert body == end["body"]


class Wire:
    """Stands for a transport; keeps what is written."""

    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return False

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def answers(folder: Path, pieces: list[bytes]) -> list[bytes]:
    """The bodies of the responses to ``pieces`` that come one after the other before any is worked on."""

    async def main() -> bytes:
        application = await ready(guard(folder)[0])
        config = uvicorn.Config(
            cast("Any", application), log_config=None, ws="none", interface="asgi3", proxy_headers=False
        )
        config.load()
        protocol, wire = GuardedProtocol(config=config, server_state=ServerState(), app_state={}), Wire()
        protocol.connection_made(cast("asyncio.Transport", wire))
        for piece in pieces:
            protocol.data_received(piece)
        for _ in range(50):
            await asyncio.sleep(0.001)
        protocol.connection_lost(None)
        return wire.written

    return re.findall(rb"HTTP/1.1 200 OK\r\n.*?\r\n\r\n(.*?)(?=HTTP|$)", run(main()), re.DOTALL)


def test_requests_that_follow_before_the_first_is_answered_get_their_own_answers_in_order(tmp_path: Path) -> None:
    """Whether they come apart, in one piece, or cut anywhere."""
    three = [request(split(rows)) for rows in (1, 2, 3)]
    whole = b"".join(three)
    for pieces in (
        three,
        [whole],
        [whole[:50], whole[50:900], whole[900:]],
        [*three[:2], three[2][:60], three[2][60:]],
    ):
        found = answers(tmp_path, pieces)
        assert [len(json.loads(body)["predictions"]) for body in found] == [1, 2, 3]
