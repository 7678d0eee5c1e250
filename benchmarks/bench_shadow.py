"""What a shadow costs those who are answered: the same server without one, with a tenth sampled, and with all sampled.

    python benchmarks/bench_shadow.py [--rounds 60] [--write]

One machine, one run: blocks of requests go to the three servers in turns. A round's ratio is that of the server with a
shadow to the one without; the median over rounds is shown with its 95 % interval (bootstrap over rounds).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path

import mlflow
import numpy as np
import serving_load
from bars import BAR_COLUMNS, Bar, Section, machine, rewrite_section, table
from bench_serving import DOCUMENT
from serving_load import body_of, percentile
from serving_rivals import MODEL, Rival, free_ports, started

from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry.versions import register
from tests.scenarios import blood_clock

WITHOUT, TENTH, ALL = "no shadow", "a tenth", "every request"
BLOCK = 200
_PAUSE_SECONDS = 0.1  # for a shadow to come to an end before the next server's turn


def prepare(folder: Path) -> None:
    """Register two clocks of the default size: champion and challenger."""
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("bench", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("bench")
    for seed in (0, 1):
        save_clock(blood_clock(seed, members=16, hidden=(128, 128)), folder / str(seed) / CLOCK_FOLDER)
        with mlflow.start_run():
            register(folder / str(seed) / CLOCK_FOLDER, "henaw", {})


def server(name: str, folder: Path, port: int) -> Rival:
    """The server with that shadow."""
    settings = f"serving.rate=1000000/second state.folder={folder / name.replace(' ', '-')}"
    command = [sys.executable, "-m", "henaw.cli", "serve", "--model", MODEL, "--port", str(port)]
    if name != WITHOUT:
        command += ["--shadow", "challenger"]
        settings += f" serving.shadow_share={0.1 if name == TENTH else 1}"
    return Rival(name, [*command, "--overrides", settings])


def samples(port: int) -> dict[str, int]:
    """What became of the samples, as ``/metrics`` has it."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as reply:
        lines = reply.read().decode().splitlines()
    found = [line.split('"') for line in lines if line.startswith("henaw_shadow_samples_total{")]
    return {parts[1]: int(float(parts[2].split()[-1])) for parts in found}


def ratio(rounds: list[float]) -> tuple[float, float, float]:
    """Median over rounds, and its interval."""
    values = np.array(rounds)
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.quantile(np.median(drawn, axis=1), [0.025, 0.975])
    return float(np.median(values)), float(low), float(high)


def compare(section: Section, ports: dict[str, int], rounds: int) -> None:
    """Blocks in turns."""
    one = body_of(1)
    seconds: dict[str, list[list[float]]] = {name: [] for name in ports}
    for number in range(rounds):
        order = list(ports)
        for name in order[number % 3 :] + order[: number % 3]:
            seconds[name].append(serving_load.one_by_one(ports[name], one, BLOCK))
            time.sleep(_PAUSE_SECONDS)
    pooled = {name: [value for block in blocks for value in block] for name, blocks in seconds.items()}
    rows = [[name, f"{percentile(all_, 0.5):.3f}", f"{percentile(all_, 0.99):.3f}"] for name, all_ in pooled.items()]
    section.add(table(("shadow", "one row, p50 ms", "p99 ms"), rows))
    for name in (TENTH, ALL):
        for share, word in ((0.5, "p50"), (0.99, "p99")):
            each = [
                percentile(with_it, share) / percentile(without, share)
                for with_it, without in zip(seconds[name], seconds[WITHOUT], strict=True)
            ]
            value, low, high = ratio(each)
            met = low <= 1.0
            section.bars.append(
                Bar(
                    f"{name} sampled, {word}",
                    f"{value:.3f}× [{low:.3f}, {high:.3f}]",
                    "no change (interval holds 1)",
                    met,
                )
            )
    time.sleep(11)  # until the shadows have said what they did
    told = {name: samples(ports[name]) for name in (TENTH, ALL)}
    section.add("Samples: " + "; ".join(f"{name} {counts}" for name, counts in told.items()) + ".")


def main() -> None:
    """Measure, print, and with ``--write`` rewrite the section of docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="rewrite the section of docs/benchmarks.md")
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    section = Section()
    section.add(f"## A shadow beside the answers\n\n{arguments.rounds} rounds of {BLOCK} requests. {machine()}")
    with tempfile.TemporaryDirectory(prefix="henaw-bench-") as temporary, ExitStack() as stack:
        folder = Path(temporary)
        prepare(folder)
        ports = dict(zip((WITHOUT, TENTH, ALL), free_ports(3), strict=True))
        for name, port in ports.items():
            stack.enter_context(started(server(name, folder, port), folder))
        for port in ports.values():
            serving_load.one_by_one(port, body_of(1), 200)
        time.sleep(10)  # shadows load their version with what time is left
        compare(section, ports, arguments.rounds)
    section.add(table(BAR_COLUMNS, [bar.row for bar in section.bars]))
    if arguments.write:
        rewrite_section(DOCUMENT, "bench-shadow", "\n\n".join(section.parts))


if __name__ == "__main__":
    main()
