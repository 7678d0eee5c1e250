"""`henaw serve` beside MLflow's own server, an endpoint written by hand and BentoML: one machine, one model, one run.

    python benchmarks/bench_serving.py [--bentoml PATH/TO/bentoml] [--rounds 5] [--seconds 60] [--hundred-thousand]

Rounds go through all servers in turn, so that whatever else the machine does falls on all alike. The first part starts
each server by itself, for its time to be ready and its memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import numpy as np
import psutil
import serving_load
from bars import BAR_COLUMNS, Bar, Section, machine, rewrite_section, table
from serving_rivals import MODEL, Rival, environment, prepare, rivals

from henaw.registry.versions import SERVING_PACKAGES
from henaw.serving.endpoints import _HERE_BYTES
from tests.scenarios import blood_rows

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
SERVER_PACKAGES = (
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
    "limits",
    "redis",
    "prometheus-client",
    "typer",
    "rich",
    "filelock",
)
OURS, STOCK = "henaw serve", "mlflow models serve"
CUDA = (
    "PyPI's own torch 2.13.0 for Linux (CUDA 13) would add 1,456 MiB of wheels to the training environment, packed, as "
    "its index lists them: torch 502, cuDNN 349, NCCL 196, Triton 189, cuSPARSELt 162, NVSHMEM 58; the libraries of "
    "cuda-toolkit (cuBLAS and others) come on top."
)
CONSTANTS = ("mlflow models serve, a constant", "mlflow models serve, a constant of all columns")
TORCH, BY_HAND, BENTOML = "mlflow models serve, with torch", "FastAPI by hand", "BentoML"


def body_of(rows: int) -> bytes:
    """A request of so many rows."""
    return json.dumps(
        {"dataframe_split": json.loads(blood_rows(rows, 0).to_json(orient="split", index=False))}
    ).encode()


@contextmanager
def started(rival: Rival, folder: Path) -> Iterator[tuple[int, float]]:
    """The server until the block ends: its process and the seconds until it was ready."""
    port = next(int(word) for word in reversed(rival.command) if word.isdigit() and int(word) > 1024)
    began = time.perf_counter()
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(rival.command, cwd=folder, env=environment(folder, rival), stdout=log, stderr=log)
    try:
        while not _is_ready(port, rival.ready):
            if process.poll() is not None or time.perf_counter() - began > 120:
                raise RuntimeError(f"{rival.name} did not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.02)
        yield process.pid, time.perf_counter() - began
    finally:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            _, left = psutil.wait_procs([psutil.Process(process.pid), *family], timeout=20)
            for one in left:
                one.kill()
        process.wait()


def _is_ready(port: int, path: str) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as reply:
        return bool(reply.status == 200)
    return False


def memory(process: int, is_ours: bool) -> tuple[float, float]:
    """MiB resident in the process that answers, and in all processes of a server together.

    Ours answers in the process that was started; MLflow beside it is shared by all workers. Of the others the largest
    answers.
    """
    family = [psutil.Process(process), *psutil.Process(process).children(recursive=True)]
    resident = [one.memory_info().rss / 2**20 for one in family]
    return resident[0] if is_ours else max(resident), sum(resident)


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


def percentile(seconds: list[float], share: float) -> float:
    """Milliseconds."""
    return float(np.quantile(seconds, share)) * 1000


def compare(section: Section, all_rivals: list[Rival], folder: Path, rounds: int) -> None:
    """Latency of one row and of a thousand, in turns."""
    one, thousand = body_of(1), body_of(1000)
    names = [rival.name for rival in all_rivals if rival.name != TORCH]
    ports = {rival.name: int(next(word for word in reversed(rival.command) if word.isdigit())) for rival in all_rivals}
    single: dict[str, list[float]] = {name: [] for name in names}
    many: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        for rival in all_rivals:
            if rival.name in names:
                stack.enter_context(started(rival, folder))
                serving_load.one_by_one(ports[rival.name], one, 50)
        for _ in range(rounds):
            for name in names:
                single[name] += serving_load.one_by_one(ports[name], one, 300)
                many[name] += serving_load.one_by_one(ports[name], thousand, 5)
    rows = [
        [name, f"{percentile(single[name], 0.5):.2f}", f"{percentile(single[name], 0.99):.2f}",
         f"{1 / float(np.mean(single[name])):.0f}", f"{percentile(many[name], 0.5):.0f}"]
        for name in names
    ]  # fmt: skip
    section.add(table(("server", "one row, p50 ms", "p99 ms", "requests/s", "1,000 rows, p50 ms"), rows))

    def ratio(found: dict[str, list[float]], rival: str) -> float:
        return percentile(found[rival], 0.5) / percentile(found[OURS], 0.5)

    stock, hand = ratio(single, STOCK), 1 / ratio(single, BY_HAND)
    added, added_to_all = (percentile(single[STOCK], 0.5) - percentile(single[name], 0.5) for name in CONSTANTS)
    rate = float(np.mean(single[STOCK]) / np.mean(single[OURS]))
    section.bars += [
        Bar("one row, p50, stock / ours", f"{stock:.1f}×", "≥ 10×", stock >= 10),
        Bar("one row, requests/s, ours / stock", f"{rate:.1f}×", "≥ 10×", rate >= 10),
        Bar("one row, ours / FastAPI by hand", f"{hand:.2f}×", "≤ 1.5×", hand <= 1.5),
        Bar("1,000 rows, stock / ours", f"{ratio(many, STOCK):.1f}×", "≥ 2×", ratio(many, STOCK) >= 2),
        Bar("bare command, one row, more than a constant of one column", f"{added:.2f} ms", "≤ 0.3 ms", added <= 0.3),
        Bar(
            "the same, than a constant of all columns of the signature",
            f"{added_to_all:.2f} ms",
            "≤ 0.3 ms",
            added_to_all <= 0.3,
        ),
    ]
    if BENTOML in names:
        bento = ratio(single, BENTOML)
        section.bars.append(Bar("one row, BentoML / ours", f"{bento:.1f}×", "≥ 3×", bento >= 3))


def start_and_memory(section: Section, all_rivals: list[Rival], folder: Path, rounds: int) -> None:
    """Each by itself, in turns."""
    seconds: dict[str, list[float]] = {rival.name: [] for rival in all_rivals}
    resident: dict[str, tuple[float, float]] = {}
    for _ in range(rounds):
        for rival in all_rivals:
            with started(rival, folder) as (process, took):
                port = int(next(word for word in reversed(rival.command) if word.isdigit()))
                serving_load.one_by_one(port, body_of(1), 20)
                seconds[rival.name].append(took)
                resident[rival.name] = memory(process, rival.name == OURS)
    rows = [[name, f"{np.median(seconds[name]):.1f}", *(f"{size:.0f}" for size in resident[name])] for name in seconds]
    section.add(table(("server", "start to ready, s", "resident in a worker, MiB", "in all its processes"), rows))
    start = float(np.median(seconds[OURS]) / np.median(seconds[STOCK]))
    share = resident[OURS][0] / resident[TORCH][0]
    section.bars += [
        Bar("start to ready, ours / stock", f"{start:.2f}", "≤ 0.5", start <= 0.5),
        Bar("resident memory of a worker, ours / stock with torch", f"{share:.2f}", "≤ 0.6", share <= 0.6),
    ]


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
    port = int(next(word for word in reversed(ours.command) if word.isdigit()))
    cores = sorted(os.sched_getaffinity(0))
    pinned = replace(ours, command=["taskset", "-c", str(cores[-1]), *ours.command])
    with started(pinned, folder) as (process, _), on_core(cores[0]):
        serving_load.one_by_one(port, one, 200)
        at = serving_load.apply(port, one, None, 8, seconds / 4)
        capacity = at.statuses["200"] / (seconds / 4)
        over = serving_load.apply(port, one, 2 * capacity, 256, seconds)
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
            serving_load.one_by_one(port, one, max(1, requests // 10))
            counts.append(done)
            resident.append(memory(process, is_ours=True)[0])
        slope = float(np.polyfit(np.array(counts) / 10_000, resident, 1)[0])
        section.bars.append(Bar(f"{requests} requests, memory", f"{slope:.2f} MiB per 10,000", "≤ 1 MiB", slope <= 1))


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]


def main() -> None:
    """Measure, print, and with ``--write`` rewrite the section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bentoml", help="the program bentoml of an environment that also has numpy, scipy, pydantic, ..."
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=100_000, help="for the slope of memory")
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/benchmarks.md")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    section = Section()
    section.add(f"## Serving\n\n`{MODEL}` with 16 members of 128 × 128. {machine()}")
    with tempfile.TemporaryDirectory(prefix="henaw-bench-") as temporary:
        folder = Path(temporary)
        clock_folder = prepare(folder)
        everybody = rivals(folder, clock_folder, free_ports(7), arguments.bentoml)
        compare(section, everybody, folder, arguments.rounds)
        few = [rival for rival in everybody if rival.name not in CONSTANTS]
        start_and_memory(section, few, folder, max(1, arguments.rounds // 2))
        overload(section, everybody[0], folder, arguments.seconds, arguments.requests)
    added = guard_costs(2000)
    section.bars.append(Bar("all checks of the guard, one row", f"{added:.3f} ms", "≤ 0.2 ms", added <= 0.2))
    small, large = size_of((*SERVING_PACKAGES, *SERVER_PACKAGES)), size_of(("henaw",))
    text = f"{small:.0f} of {large:.0f} MiB"
    section.bars.append(Bar("environment, serving of training with CPU torch", text, "≤ half", small <= large / 2))
    section.add(CUDA)
    section.add(table(BAR_COLUMNS, [bar.row for bar in section.bars]))
    if arguments.write:
        rewrite_section(DOCUMENT, "bench-serving", "\n\n".join(section.parts))


if __name__ == "__main__":
    main()
