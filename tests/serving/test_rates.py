"""How often a key may ask, counted in Redis by several processes together, and by each alone where Redis is away."""

from __future__ import annotations

import asyncio
import gc
import logging
import shutil
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from henaw.errors import BadInput
from henaw.serving import rates
from henaw.serving.rates import Rates
from henaw.serving.refusals import Refusal

# Some tests leave connections to a Redis that was killed; here their loop is gone before them.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

REDIS = shutil.which("redis-server")


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A real Redis: its address and process."""
    if REDIS is None:
        pytest.skip("needs redis-server")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [REDIS, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}", process
        process.kill()
    gc.collect()  # here, where what it warns of is ignored


async def asked(counters: list[Rates], times: int, key: str = "k") -> list[int | None]:
    """Seconds to wait of each refusal, None where asking was allowed; the counters take turns."""
    found: list[int | None] = []
    for number in range(times):
        try:
            await counters[number % len(counters)].count(key)
            found.append(None)
        except Refusal as refusal:
            found.append(int(dict(refusal.headers)[b"retry-after"]) if refusal.code == "RATE_LIMITED" else -1)
    return found


def test_several_processes_count_together(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    async def main() -> list[int | None]:
        several = [Rates("5/hour", redis[0]) for _ in range(3)]
        assert await asked(several, 3, "another") == [None] * 3
        return await asked(several, 7)

    found = asyncio.run(main())
    assert found[:5] == [None] * 5
    assert all(seconds is not None and 3500 <= seconds <= 3601 for seconds in found[5:])


def test_where_redis_goes_each_counts_by_itself_and_says_so(
    redis: tuple[str, subprocess.Popen[bytes]], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "_QUIET_SECONDS", 0.2)
    address, process = redis

    async def main() -> list[int | None]:
        several = [Rates("2/hour", address) for _ in range(2)]
        assert await asked(several, 1) == [None]
        process.kill()
        process.wait()
        with caplog.at_level(logging.WARNING):
            return await asked(several, 6)

    found = asyncio.run(main())
    assert found[:4] == [None] * 4  # twice each
    assert None not in found[4:]
    assert "does not answer" in caplog.text
    assert address not in caplog.text


@pytest.mark.parametrize("address", ["", "nonsense", "other://localhost"])
def test_an_address_that_is_none_is_said(address: str) -> None:
    with pytest.raises(BadInput, match="HENAW_RATE_STORE"):
        Rates("5/hour", address)


def test_connections_to_redis_are_closed(redis: tuple[str, subprocess.Popen[bytes]]) -> None:
    async def main() -> None:
        counter = Rates("5/hour", redis[0])
        await counter.count("k")
        with warnings.catch_warnings():
            warnings.simplefilter("error", ResourceWarning)
            await counter.close()
        assert counter._shared is not None
        pool = cast(Any, counter._shared.storage).bridge.storage.connection_pool
        assert all(not connection.is_connected for connection in pool._available_connections)

    asyncio.run(main())
