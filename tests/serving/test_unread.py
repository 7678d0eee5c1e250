"""Who asks and does not read: hung up on, with all that waited; who reads slowly gets it all."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import uvicorn
from uvicorn.server import ServerState

from henaw.serving.protocol import GuardedProtocol
from tests.serving.guarded import SLOW_ROWS, split
from tests.serving.run_guard import READING_SECONDS
from tests.serving.sockets import Running, assert_well, await_that, connected, impatient, request

pytestmark = pytest.mark.xdist_group("serving")

ONE = split(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with impatient(tmp_path_factory.mktemp("unread")) as found:
        yield found


def test_who_takes_no_answers_is_let_go_with_all_that_waited(server: Running) -> None:
    process, many = psutil.Process(server.process.pid), request(split(SLOW_ROWS)) * 400
    before = process.num_fds()
    for _ in range(2):
        with connected(server.port) as client:
            with suppress(ConnectionError):  # it waits longer to send the rest than the server does
                client.sendall(many)
            await_that(lambda: process.num_fds() == before)
    assert_well(server)


class Unread(asyncio.Transport):
    """Stands for a connection from which nobody reads."""

    def __init__(self) -> None:
        super().__init__()
        self.written, self.aborted = b"", False

    def write(self, data: Any) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.aborted

    def get_write_buffer_size(self) -> int:
        return 1 << 17

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.aborted = True


def test_who_reads_nothing_of_being_sent_away_is_hung_up_on() -> None:
    full = SimpleNamespace(is_full=True, knows=lambda _: True, refuse_early=lambda *_: b"429")

    async def main() -> None:
        config = uvicorn.Config(full, interface="asgi3", lifespan="off", proxy_headers=False, log_config=None)  # type: ignore[arg-type]
        transport, protocol = Unread(), GuardedProtocol(config, ServerState(), {})
        protocol.connection_made(transport)
        protocol.data_received(request(ONE))
        assert (transport.written, transport.aborted) == (b"429", False)
        protocol.pause_writing()
        protocol.data_received(request(ONE))
        assert (transport.written, transport.aborted) == (b"429", True)
        protocol.connection_lost(None)

    asyncio.run(main())


@pytest.mark.parametrize("slowly", [False, True])
def test_all_that_is_asked_at_once_is_answered_also_who_takes_it_slowly(server: Running, slowly: bool) -> None:
    many = request(split(SLOW_ROWS)) * 200  # more than is handed over in one piece, however large
    with connected(server.port) as client:
        asking = threading.Thread(target=client.sendall, args=(many,))
        asking.start()
        received, began, answers = b"", time.monotonic(), 0
        while answers < 200 and (more := client.recv(1 << 18)):
            received = received[-20:] + more
            answers += received.count(b"HTTP/1.1 200 OK")
            received = received.rpartition(b"HTTP/1.1 200 OK")[2]
            time.sleep(0.05 * slowly)
        asking.join()
    assert answers == 200
    assert not slowly or time.monotonic() - began > READING_SECONDS, "longer than one may take nothing"
