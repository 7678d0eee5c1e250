"""What `henaw serve` bears and costs by itself: overload, memory over many requests, its checks, its environment."""

from __future__ import annotations

import asyncio
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import serving_load
from bars import Bar, Section
from serving_load import body_of, percentile
from serving_rivals import Rival, memory, started

from henaw.serving.endpoints import _HERE_BYTES


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """This process on one core until the block ends."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def overload(section: Section, ours: Rival, folder: Path, seconds: float, requests: int) -> None:
    """Capacity, twice of it, and what memory does over many requests."""
    one = body_of(1)
    cores = sorted(os.sched_getaffinity(0))
    pinned = replace(ours, command=["taskset", "-c", str(cores[-1]), *ours.command])
    with started(pinned, folder) as (process, _), on_core(cores[0]):
        serving_load.one_by_one(ours.port, one, 200)
        at = serving_load.apply(ours.port, one, None, 8, seconds / 4)
        capacity = at.statuses["200"] / (seconds / 4)
        over = serving_load.apply(ours.port, one, 2 * capacity, 256, seconds)
        before, after = percentile(at.admitted, 0.99), percentile(over.admitted, 0.99)
        refused = {status: count for status, count in over.statuses.items() if status not in ("200", "429")}
        section.add(
            "The server on one core, the load on another. "
            f"Capacity {capacity:.0f}/s (8 connections). At twice that for {seconds:g} s: {dict(over.statuses)}, "
            f"{over.lost} reset, {over.without_retry_after} without Retry-After; admitted p99 {after:.1f} ms (at "
            f"capacity {before:.1f})."
        )
        alive = percentile(over.alive, 0.99)
        clean = not refused and not over.lost and not over.without_retry_after
        section.bars += [
            Bar("2× capacity, admitted p99 / p99 at capacity", f"{after / before:.2f}", "≤ 2", after <= 2 * before),
            Bar(
                "2× capacity, all others",
                f"{refused or 'none but 429'}, {over.lost} reset",
                "429, 0 resets, 0 5xx",
                clean,
            ),
            Bar("2× capacity, liveness p99", f"{alive:.1f} ms", "≤ 50 ms", alive <= 50),
        ]
        counts, resident = [], []
        for done in range(0, requests, max(1, requests // 10)):
            serving_load.one_by_one(ours.port, one, max(1, requests // 10))
            counts.append(done)
            resident.append(memory(process, is_ours=True)[0])
        slope = float(np.polyfit(np.array(counts) / 10_000, resident, 1)[0])
        section.bars.append(Bar(f"{requests} requests, memory", f"{slope:.2f} MiB per 10,000", "≤ 1 MiB", slope <= 1))


def guard_costs(times: int) -> float:
    """Milliseconds that the guard adds to one row, by itself in this process: all but the answer and its text."""
    from henaw.serving.fast import answer_rows, to_json
    from henaw.serving.schema import read_rows
    from tests.scenarios import BLOOD9
    from tests.serving.guarded import CLOCK, ask, guard, ready, run, split

    body = split(1)
    content = json.dumps(body).encode()
    assert len(content) < _HERE_BYTES
    rows = read_rows(BLOOD9, body, 10)

    async def whole() -> list[float]:
        with tempfile.TemporaryDirectory() as folder:
            application = await ready(guard(Path(folder), f"serving.audit={folder}/audit")[0])
            seconds = []
            for _ in range(times):
                began = time.perf_counter()
                await ask(application, body=content)
                seconds.append(time.perf_counter() - began)
                await asyncio.sleep(0)
            return seconds

    def model() -> float:
        began = time.perf_counter()
        to_json(answer_rows(CLOCK, rows))
        return time.perf_counter() - began

    alone = [model() for _ in range(times)]
    return float(np.median(run(whole())) - np.median(alone)) * 1000


def size_of(packages: tuple[str, ...]) -> float:
    """MiB of these packages and all that they need, as installed here."""
    seen, waiting, total = set[str](), list(packages), 0
    while waiting:
        name = re.split(r"[^A-Za-z0-9._-]", waiting.pop())[0].lower().replace("_", "-")
        if name in seen:
            continue
        seen.add(name)
        with suppress(PackageNotFoundError):
            found = distribution(name)
            total += sum(
                path.stat().st_size for file in found.files or () if (path := Path(str(file.locate()))).is_file()
            )
            waiting += [need for need in found.requires or () if "extra ==" not in need]
    return total / 2**20
