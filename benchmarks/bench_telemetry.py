"""What telemetry costs a training run, and what clipping costs a batch.

    python benchmarks/bench_telemetry.py [--people 20000] [--epochs 40] [--pairs 5] [--threads 1] [--docs FILE]

The default network is trained twice a pair: with all that a run logs (curves, system metrics) into a store in SQLite,
the dearest, as its work is done in this process; and with nothing. The cost is the median of the pairs' ratios, of wall
time and of the process's CPU time, in which the thread that writes counts in full. Bars: 3 % of the wall time, 1 ms a
batch. Few epochs cost more than their share, as a curve has up to 320 points however short the run is.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import mlflow
import torch
from bars import BAR_COLUMNS, Bar, machine, rewrite_section, table
from made_up_people import network, people

from henaw.config import Config, load_config
from henaw.model.losses import crps_loss
from henaw.registry import tracking
from henaw.registry.run_events import TrackingEvents
from henaw.training.clipping import clip_members, step_figures
from henaw.training.telemetry import Events
from henaw.training.trainer import train

WALL, CPU = 0, 1
Seconds = tuple[float, float]  # WALL and CPU


def clipping_seconds(config: Config, device: torch.device, repeats: int = 200) -> float:
    """Median seconds of scaling the gradients down and of telling their norms."""
    made = network(config, device)
    names, parameters = zip(*made.named_parameters(), strict=True)
    losses, limit, taken = torch.ones(1, config.network.members, device=device), config.training.clip_norm, []
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    for _ in range(repeats):
        began = time.perf_counter()
        step_figures(names, torch.cat([losses, clip_members(parameters, limit)]), limit)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    """Print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--docs", type=Path, help="document whose section is rewritten, e.g. docs/benchmarks.md")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    with tempfile.TemporaryDirectory(prefix="henaw-bench-") as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.create_experiment("henaw", artifact_location=str(Path(folder) / "artifacts"))
        overrides = f"training.epochs={options.epochs} training.patience=1000 state.folder={folder}/state"
        config = load_config(overrides=overrides)
        trained_on, validated_on = people(options.people, 0, device), people(options.people // 10, 1, device)
        head = network(config, device).shape.head

        def fit(events: Events) -> Seconds:
            made, loss = network(config, device), crps_loss(head, device)
            began = time.perf_counter(), time.process_time()
            train(made, loss, trained_on, validated_on, config.training, 0, events)
            return time.perf_counter() - began[0], time.process_time() - began[1]

        def logged() -> Seconds:
            with tracking.parent_run(config, "bench"):
                return fit(TrackingEvents())

        def pair(first: bool) -> tuple[Seconds, Seconds]:
            if first:
                return logged(), fit(Events())
            bare = fit(Events())
            return logged(), bare

        pair(True)
        found = [pair(number % 2 == 0) for number in range(options.pairs)]
        clipping = clipping_seconds(config, device)
    ratios = [[100 * (on[clock] / off[clock] - 1) for on, off in found] for clock in (WALL, CPU)]
    costs = [statistics.median(each) for each in ratios]
    bars = [
        Bar("all telemetry, of wall time", f"{costs[WALL]:+.2f} %", "≤ 3 %", costs[WALL] <= 3),
        Bar("clipping and the gradients' norms", f"{1e3 * clipping:.3f} ms a batch", "≤ 1 ms", clipping <= 1e-3),
    ]
    rows = []
    for clock, name in ((WALL, "wall"), (CPU, "CPU")):
        on, off = (statistics.median(run[clock] for run in runs) for runs in zip(*found, strict=True))
        each = ", ".join(f"{ratio:+.1f}" for ratio in sorted(ratios[clock]))
        rows.append([name, f"{on:.2f}", f"{off:.2f}", f"{costs[clock]:+.2f} %", each])
    text = "\n\n".join(
        [
            "## What telemetry costs",
            "`python benchmarks/bench_telemetry.py` writes this section.",
            table(BAR_COLUMNS[:4], [bar.row[:4] for bar in bars]),
            table(["time", "s with", "s without", "cost", "pairs, %"], rows),
            f"{options.people:,} people, the default network, {options.epochs} epochs, a store in SQLite in the same "
            f"process; {options.pairs} pairs, {options.threads} threads, {device}. {machine()}",
        ]
    )
    print(text)
    if options.docs:
        rewrite_section(options.docs, "bench-telemetry", text)


if __name__ == "__main__":
    main()
