"""`henaw serve` beside MLflow's own server, an endpoint written by hand and BentoML: one machine, one model, one run.

    python benchmarks/bench_serving.py [--bentoml PATH/TO/bentoml] [--rounds 5] [--seconds 60] [--requests 100000]

Rounds go through all servers in turn, so that whatever else the machine does falls on all alike. The first part starts
each server by itself, for its time to be ready and its memory.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import serving_load
from bars import BAR_COLUMNS, Bar, Section, machine, rewrite_section, table
from serving_limits import guard_costs, overload, size_of
from serving_load import body_of, percentile
from serving_rivals import MODEL, UVICORN, Rival, free_ports, memory, prepare, rivals, started

from henaw.registry.versions import SERVING_PACKAGES

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"
SERVER_PACKAGES = (
    "fastapi",
    "uvicorn",
    "uvloop",
    "httptools",
    "orjson",
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
_LOADING_SECONDS = 3.0  # ours is ready before MLflow beside it has loaded the version, which takes memory
TORCH, BY_HAND, BENTOML = "mlflow models serve, with torch", "FastAPI by hand", "BentoML"


def compare(section: Section, all_rivals: list[Rival], folder: Path, rounds: int) -> None:
    """Latency of one row and of a thousand, in turns."""
    one, thousand = body_of(1), body_of(1000)
    names = [rival.name for rival in all_rivals if rival.name != TORCH]
    ports = {rival.name: rival.port for rival in all_rivals}
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
                serving_load.one_by_one(rival.port, body_of(1), 20)
                seconds[rival.name].append(took)
                time.sleep(_LOADING_SECONDS)
                resident[rival.name] = memory(process, rival.name == OURS)
    rows = [[name, f"{np.median(seconds[name]):.1f}", *(f"{size:.0f}" for size in resident[name])] for name in seconds]
    section.add(table(("server", "start to ready, s", "resident in a worker, MiB", "in all its processes"), rows))
    start = float(np.median(seconds[OURS]) / np.median(seconds[STOCK]))
    share = resident[OURS][0] / resident[TORCH][0]
    section.bars += [
        Bar("start to ready, ours / stock", f"{start:.2f}", "≤ 0.5", start <= 0.5),
        Bar("resident memory of a worker, ours / stock with torch", f"{share:.2f}", "≤ 0.6", share <= 0.6),
    ]


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
        everybody = rivals(folder, clock_folder, free_ports(8), arguments.bentoml)
        compare(section, everybody, folder, arguments.rounds)
        few = [rival for rival in everybody if rival.name not in (*CONSTANTS, UVICORN)]
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
