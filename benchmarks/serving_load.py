"""Load for the serving benchmark: one request after the other, and a given rate whatever the answers (open loop)."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import uvloop

from tests.scenarios import blood_rows


def body_of(rows: int) -> bytes:
    """A request of so many rows."""
    return json.dumps(
        {"dataframe_split": json.loads(blood_rows(rows, 0).to_json(orient="split", index=False))}
    ).encode()


def percentile(seconds: list[float], share: float) -> float:
    """Milliseconds."""
    return float(np.quantile(seconds, share)) * 1000


def request(port: int, body: bytes, path: str = "/invocations") -> bytes:
    """The bytes of a request."""
    head = (
        f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: localhost:{port}\r\nContent-Type: application/json\r\n"
    )
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def one_by_one(port: int, body: bytes, times: int) -> list[float]:
    """Seconds of each of ``times`` requests on one connection."""
    sent, seconds = request(port, body), []
    with socket.create_connection(("127.0.0.1", port), timeout=120) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(times):
            began = time.perf_counter()
            client.sendall(sent)
            received = b""
            while not _whole(received):
                received += client.recv(1 << 20)
            seconds.append(time.perf_counter() - began)
            if not received.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(received[:300].decode())
    return seconds


@dataclass
class Load:
    """What came of a load: statuses, seconds of the admitted ones (200) and of liveness probes, and what was lost."""

    statuses: Counter[str] = field(default_factory=Counter)
    admitted: list[float] = field(default_factory=list)
    alive: list[float] = field(default_factory=list)
    lost: int = 0
    without_retry_after: int = 0


def apply(port: int, body: bytes, rate: float | None, connections: int, seconds: float) -> Load:
    """Load for ``seconds``: ``rate`` requests a second, or as fast as ``connections`` are answered."""
    return uvloop.run(_apply(port, body, rate, connections, seconds))


async def _apply(port: int, body: bytes, rate: float | None, connections: int, seconds: float) -> Load:
    load, sent = Load(), request(port, body)
    until = time.perf_counter() + seconds
    due: asyncio.Queue[float | None] = asyncio.Queue()

    async def worker() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            began = time.perf_counter() if rate is None else await due.get()
            if began is None:
                break
            try:
                writer.write(sent)
                received = await _read(reader)
            except (ConnectionError, asyncio.IncompleteReadError):
                load.lost += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                continue
            status = received[9:12].decode()
            load.statuses[status] += 1
            if status == "200":
                load.admitted.append(time.perf_counter() - began)
            elif b"\r\nretry-after:" not in received:
                load.without_retry_after += 1
        writer.close()

    async def clock() -> None:
        if rate is not None:
            start, count = time.perf_counter(), 0
            while (now := time.perf_counter()) < until:
                while count < (now - start) * rate:
                    due.put_nowait(start + count / rate)
                    count += 1
                await asyncio.sleep(0.001)
            for _ in range(connections):
                due.put_nowait(None)

    async def probe() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while time.perf_counter() < until:
            began = time.perf_counter()
            writer.write(request(port, b"", "/livez"))
            await _read(reader)
            load.alive.append(time.perf_counter() - began)
            await asyncio.sleep(0.02)
        writer.close()

    await asyncio.gather(clock(), probe(), *(worker() for _ in range(connections)))
    return load


async def _read(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    return head + await reader.readexactly(_length(head))


def _whole(received: bytes) -> bool:
    head, end, body = received.partition(b"\r\n\r\n")
    return bool(end) and len(body) >= _length(head)


def _length(head: bytes) -> int:
    return int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
