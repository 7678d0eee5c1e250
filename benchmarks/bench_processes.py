"""Two processes with half the cores each, against one process with all of them: seconds of an epoch.

    python benchmarks/bench_processes.py [--people 25000] [--pairs 3] [--epochs 4]

16 members on the CPU. Both sides take turns; an epoch's seconds are from the end of one to the end of the next,
validation included, so what it takes to start processes does not count. The ratio is the median over pairs.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from bars import machine, table
from made_up_people import network, people

from henaw.config import load_config
from henaw.model.losses import training_loss
from henaw.training.device import available_cores
from henaw.training.telemetry import Events
from henaw.training.together import train_together
from henaw.training.trainer import train

CPU = torch.device("cpu")
WORKS = (((64, 64), 128), ((128, 128), 512))


class Ends(Events):
    """When each epoch ended."""

    def __init__(self) -> None:
        """None has."""
        self.seconds: list[float] = []

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """One has."""
        self.seconds.append(time.perf_counter())


def epoch_seconds(hidden: tuple[int, ...], batch: int, processes: int, options: argparse.Namespace) -> float:
    """Median seconds of an epoch but the first."""
    threads = max(1, available_cores() // processes)
    widths = ",".join(map(str, hidden))
    config = load_config(
        overrides=f"training.processes={processes} training.batch_size={batch} training.epochs={options.epochs} "
        f"training.device=cpu training.threads={threads} network.members=16 network.hidden=[{widths}]"
    )
    made, ends, settings = network(config, CPU), Ends(), config.training
    data = people(options.people, 0, CPU), people(options.people // 10, 1, CPU)
    if processes > 1:
        train_together(made, None, *data, settings, 0, ends)
    else:
        torch.set_num_threads(threads)
        train(made, training_loss(made.shape.head, None, settings, CPU), *data, settings, 0, ends)
    return statistics.median(after - before for before, after in zip(ends.seconds, ends.seconds[1:], strict=False))


def main() -> None:
    """Print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=25_000)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=4)
    options = parser.parse_args()
    rows = []
    for hidden, batch in WORKS:
        pairs = [[epoch_seconds(hidden, batch, count, options) for count in (1, 2)] for _ in range(options.pairs)]
        one, two = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(alone / shared for alone, shared in pairs)
        rows.append([f"{len(hidden)} × {hidden[0]}, batch {batch}", f"{one:.2f}", f"{two:.2f}", f"{ratio:.2f}"])
        print(rows[-1], flush=True)
    print(machine())
    print(table(["work", "one process (s)", "two (s)", "times as fast"], rows))


if __name__ == "__main__":
    main()
