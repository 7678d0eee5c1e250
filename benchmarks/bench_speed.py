"""What an epoch takes by batch size, precision and compilation: where `mlproject/speed.yaml` comes from.

    python benchmarks/bench_speed.py [--people 25000] [--batches 128 512 2048] [--hidden 128 128] [--threads 0]

Trains the default model on people who do not exist, on the GPU where there is one. The first epoch, which warms up,
compiles and records, is shown by itself; the figure is the median of the others. Times alone choose no row: larger
batches and fewer bits also change what is learned, so a row goes into the table once `bench_clocks.py` has been run
with it.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from bars import machine, table
from made_up_people import network, people

from henaw.config import load_config
from henaw.model.losses import crps_loss
from henaw.training.batches import TrainingData
from henaw.training.device import choose_device, use_threads
from henaw.training.speed import has_bf16
from henaw.training.telemetry import Events
from henaw.training.trainer import train

EPOCHS = 4
COLUMNS = ("batch", "precision", "compiled", "first epoch", "an epoch", "a step")


class Epochs(Events):
    """When each epoch ended, the start first."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Training starts."""
        self.times.append(time.perf_counter())

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Its validation loss was read, so the device is done."""
        self.times.append(time.perf_counter())


@dataclass(frozen=True)
class Timed:
    """Settings of an epoch, the seconds of the first, and those of one of the others."""

    batch_size: int
    precision: str
    compiled: str
    first: float
    seconds: float

    def row(self, count: int) -> list[str]:
        """Cells of a table with ``COLUMNS``, for ``count`` people."""
        step = 1e3 * self.seconds / -(-count // self.batch_size)
        times = f"{self.first:.2f} s", f"{self.seconds:.3f} s", f"{step:.2f} ms"
        return [f"{self.batch_size:,}", self.precision, self.compiled, *times]


def timed(
    everybody: TrainingData, batch_size: int, precision: str, compiled: str, hidden: Sequence[int] | None = None
) -> Timed:
    """Train the default model for some epochs."""
    device = everybody.targets.device
    told = f"training.batch_size={batch_size} training.precision={precision} training.compiled={compiled}"
    config = load_config(overrides=f"training.epochs={EPOCHS} training.device={device.type} {told}")
    made, ends = network(config, device, hidden), Epochs()
    loss = crps_loss(made.shape.head, device)
    train(made, loss, everybody, people(1_000, 1, device), config.training, 0, ends)
    first, *others = (end - start for start, end in itertools.pairwise(ends.times))
    return Timed(batch_size, precision, compiled, first, statistics.median(others))


def ways(device: torch.device) -> Iterator[tuple[str, str]]:
    """Precisions and kinds of compilation that ``device`` has."""
    compiled = ("never", "graphs", "always") if device.type == "cuda" else ("never", "always")
    return itertools.product(("fp32", "bf16") if has_bf16(device) else ("fp32",), compiled)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=25_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    asked = parser.parse_args()
    settings = load_config(overrides=f"training.threads={asked.threads} training.device={asked.device}").training
    device = choose_device(settings)
    use_threads(settings)
    everybody, rows = people(asked.people, 0, device), []
    for size, (precision, compiled) in itertools.product(asked.batches, ways(device)):
        rows.append(timed(everybody, size, precision, compiled, asked.hidden).row(asked.people))
        print(*rows[-1], flush=True)
    threads = torch.get_num_threads()
    print(f"\n{machine()}\n{device.type}, {threads} threads, {asked.people:,} people, {asked.hidden}.\n")
    print(table(COLUMNS, rows))


if __name__ == "__main__":
    main()
