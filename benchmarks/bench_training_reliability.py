"""What it costs that training survives: snapshots of every step, checkpoints, batches in pieces.

    python benchmarks/bench_training_reliability.py [pairs] [--docs FILE]

The default model (16 members, 128-128, batches of 512) with the default panel's inputs, on one thread. On and off take
turns from step to step of one run; a cost is the median over pairs of neighboring steps (default 300), in CPU time on a
CPU, because others share it, and in wall time on a GPU, which is used where there is one.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from bars import machine, rewrite_section, table
from made_up_people import network, people
from torch import Tensor

from henaw.config import load_config
from henaw.model.losses import crps_loss
from henaw.training.batches import LogicalBatch
from henaw.training.checkpoints import Checkpoints
from henaw.training.device import choose_device
from henaw.training.microbatch import Halving
from henaw.training.state import TrainingState, fingerprint
from henaw.training.telemetry import Events
from henaw.training.trainer import train
from henaw.training.transaction import Transaction
from henaw.training.work import Recorded

BATCH = 512
BAR = 3.0  # most percent of a step that a snapshot may cost


class Turns(Events):
    """Switches something on and off from step to step (on, off, off, on) and keeps the seconds of each step."""

    def __init__(self, device: torch.device, switch: Callable[[bool], None]) -> None:
        """``switch`` is told before each step whether it is to be on."""
        self.device, self.switch, self.begun = device, switch, 0.0
        self.steps: list[float] = []

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        """The step begins when the one before is done."""
        self.switch(len(self.steps) % 4 in (0, 3))
        self.begun = self.now()

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        """The step is over."""
        self.steps.append(self.now() - self.begun)

    def now(self) -> float:
        """Seconds, once the device has finished."""
        if self.device.type == "cpu":
            return time.thread_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def pairs(self) -> list[tuple[float, float]]:
        """Seconds with and without, of neighbors; the first steps, which warm up, are left out."""
        couples = [self.steps[at : at + 2] for at in range(8, len(self.steps) - 1, 2)]
        return [(one, other) if number % 2 == 0 else (other, one) for number, (one, other) in enumerate(couples)]


@contextmanager
def snapshots_switched() -> Iterator[Callable[[bool], None]]:
    """A switch that has steps taken with the snapshot (on) and without; where steps are recorded, two recordings."""
    keep, record = Transaction.keep, Recorded.__call__
    recordings: dict[bool, Any] = {}

    def switch(on: bool) -> None:
        Transaction.keep = keep if on else lambda _: None  # type: ignore[method-assign]
        switched[0] = on

    def recorded(work: Recorded, batch: LogicalBatch, rows: int) -> Tensor:
        work._recording = recordings.get(switched[0])
        found = record(work, batch, rows)
        recordings[switched[0]] = work._recording
        return found

    switched = [True]
    try:
        Recorded.__call__ = recorded  # type: ignore[method-assign]
        yield switch
    finally:
        Transaction.keep, Recorded.__call__ = keep, record  # type: ignore[method-assign]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="What it costs that training survives.")
    parser.add_argument("pairs", type=int, nargs="?", default=300, help="pairs of steps")
    parser.add_argument("--docs", type=Path, help="document whose section is rewritten, e.g. docs/benchmarks.md")
    options = parser.parse_args()
    pairs = options.pairs
    config = load_config(overrides="training.epochs=1 training.threads=1")
    device = choose_device(config.training)
    settings = config.training.model_copy(update={"batch_size": BATCH})
    torch.set_num_threads(1)
    everybody, validation = people((2 * pairs + 8) * BATCH, 0, device), people(16, 1, device)
    loss = crps_loss(network(config, device).shape.head, device)

    def measured(switch: Callable[[bool], None]) -> list[tuple[float, float]]:
        turns = Turns(device, switch)
        train(network(config, device), loss, everybody, validation, settings, 0, turns)
        return turns.pairs()

    def row(name: str, found: list[tuple[float, float]], judged: bool) -> list[str]:
        cost = 100 * (statistics.median(with_it / without for with_it, without in found) - 1)
        one, other = (1e3 * statistics.median(part) for part in zip(*found, strict=True))
        verdict = ("met" if cost <= BAR else "**missed**") if judged else ""
        return [name, f"{one:.2f} ms with, {other:.2f} ms without", f"{cost:+.1f} % of a step", verdict]

    with snapshots_switched() as switched:
        rows = [row("snapshot", measured(switched), judged=True)]
    for pieces in (2, 8):
        made: list[Halving] = []

        class Kept(Halving):
            def __init__(self, rows: int, events: Events, made: list[Halving] = made) -> None:
                super().__init__(rows, events)
                made.append(self)

        def switch(on: bool, made: list[Halving] = made, pieces: int = pieces) -> None:
            made[0].rows = BATCH // (pieces if on else 1)

        with patch("henaw.training.trainer.Halving", Kept):
            rows.append(row(f"{pieces} pieces", measured(switch), judged=False))
    state = TrainingState(network(config, device), settings, 100)
    described = fingerprint(network(config, device), settings, 0, everybody, validation)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints, saving, loading = Checkpoints(Path(folder), settings), [], []
        for epoch in range(20):
            begun = time.perf_counter()
            checkpoints.save(epoch, 0, state.contents(), described)
            saving.append(time.perf_counter() - begun)
            begun = time.perf_counter()
            checkpoints.newest(state.contents(), described)
            loading.append(time.perf_counter() - begun)
        size = sum(path.stat().st_size for path in checkpoints.saved()[-1].iterdir())
    for name, seconds in (("saving a checkpoint", saving), ("loading one", loading)):
        median = statistics.median(seconds)
        rows.append([name, f"{1e3 * median:.0f} ms, {size / 1e6:.1f} MB", "once an epoch", ""])
    parts = (
        "## What it costs that training survives",
        "`python benchmarks/bench_training_reliability.py` writes this section.",
        table(("what", "found", "cost", f"bar {BAR:.0f} %"), rows),
        f"The default network on device {device.type}, one thread, batches of {BATCH}, {pairs} pairs of "
        f"neighboring steps. {machine()}",
    )
    print("\n\n".join(parts))
    if options.docs:
        rewrite_section(options.docs, "bench-reliability", "\n\n".join(parts))


if __name__ == "__main__":
    main()
