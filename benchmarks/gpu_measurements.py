"""What `bench_gpu.py` measures: epochs and their limit, what is learned, a whole run, snapshots, memory, packs."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import mlflow
import torch
from bars import Bar
from bench_packing import packed_against_alone
from bench_speed import Timed, timed, ways
from bench_training_reliability import Turns, snapshots_switched
from made_up_people import network, people

from henaw.config import Config, load_config
from henaw.model.losses import crps_loss
from henaw.registry import tracking
from henaw.registry.run_events import TrackingEvents
from henaw.settings import Training
from henaw.training.batches import TrainingData
from henaw.training.checkpoints import Checkpoints
from henaw.training.speed import resolved
from henaw.training.telemetry import Events, OutOfMemory
from henaw.training.trainer import train

FOR_EVERY_PARAMETER = (
    8 * 4
)  # bytes: AdamW reads parameter, gradient and two moments and writes three; backward writes one


@dataclass(frozen=True)
class Scale:
    """How much is measured: as the bars have it on a GPU, little on a CPU."""

    people: int
    batches: tuple[int, ...]
    run_epochs: int
    learned_epochs: int
    pairs: int
    pack: int
    packed: tuple[str, ...]
    pack_pairs: int
    pack_epochs: int


FULL = Scale(
    people=502_000,
    batches=(512, 2048, 4096, 8192, 32_768),
    run_epochs=100,
    learned_epochs=40,
    pairs=300,
    pack=16,
    packed=("[64,64]", "[128,128]"),
    pack_pairs=2,
    pack_epochs=20,
)
REDUCED = Scale(
    people=8_192,
    batches=(512, 2048),
    run_epochs=3,
    learned_epochs=2,
    pairs=10,
    pack=2,
    packed=("[32,32]",),
    pack_pairs=1,
    pack_epochs=3,
)


def _settings(batch_size: int | str, device: torch.device, *more: str) -> Config:
    told = f"training.batch_size={batch_size} training.device={device.type}"
    return load_config(overrides=" ".join([told, *more]))


def chosen(scale: Scale, device: torch.device) -> Training:
    """What ``auto`` comes to."""
    return resolved(_settings("auto", device).training, scale.people, device)


def epochs(scale: Scale, device: torch.device, data: TrainingData) -> list[Timed]:
    """An epoch by batch size, precision and compilation; compiled, which takes long to begin, by the batch of auto."""
    auto = chosen(scale, device).people_in_batch
    found = []
    for precision, compiled in ways(device):
        sizes = (auto,) if compiled == "always" else dict.fromkeys((*scale.batches, auto))
        found += [timed(data, size, precision, compiled) for size in sizes]
    return found


def learned(scale: Scale, device: torch.device, data: TrainingData) -> list[list[str]]:
    """Rows of batch size, precision, validation CRPS and seconds of default training: what a larger batch costs."""
    rows = []
    sizes = dict.fromkeys((512, *scale.batches, chosen(scale, device).people_in_batch))
    for size, precision in itertools.product(sizes, ("fp32", "bf16")):
        config = _settings(size, device, f"training.precision={precision} training.epochs={scale.learned_epochs}")
        made = network(config, device)
        began = time.perf_counter()
        validation = people(len(data) // 10, 1, device)
        history = train(made, crps_loss(made.shape.head, device), data, validation, config.training, 0, Events())
        best = min(row["validation_loss"] for row in history)
        rows.append([f"{size:,}", precision, f"{best:.4f}", f"{time.perf_counter() - began:.1f}"])
    return rows


@dataclass(frozen=True)
class Limits:
    """What the device was measured to reach, and the least time of an epoch that follows.

    Attributes:
        bytes_a_second: of a copy within its memory, read and written.
        products: seconds of the bare products of an epoch, in its precision.
        memory: seconds of the least traffic of an epoch at that speed.
    """

    bytes_a_second: float
    products: float
    memory: float


def limits(device: torch.device, ours: Timed, count: int) -> Limits:
    """The products of a step alone, and its least traffic: operands and results of products, AdamW's passes, once."""
    batch_size, dtype = ours.batch_size, torch.bfloat16 if ours.precision == "bf16" else torch.float32
    shape = network(_settings(batch_size, device), device).shape
    widths = (shape.inputs, *shape.hidden, shape.head.outputs)
    work, traffic = [], 0
    for layer, (before, after) in enumerate(pairwise(widths)):
        sizes = ((batch_size, before), (before, after), (batch_size, after))
        x, w, g = (torch.randn(shape.members, *size, device=device, dtype=dtype) for size in sizes)
        work += [(x, w), (x.mT, g), *([(g, w.mT)] if layer else [])]
        traffic += dtype.itemsize * (x.numel() + w.numel() + g.numel()) * (3 if layer else 2)
        traffic += FOR_EVERY_PARAMETER * w.numel()
    block = torch.empty(1 << (28 if device.type == "cuda" else 24), device=device)
    other = torch.empty_like(block)
    steps = -(-count // batch_size)
    rate = 2 * 4 * block.numel() / _seconds(device, lambda: other.copy_(block))
    return Limits(rate, steps * _seconds(device, lambda: [a @ b for a, b in work]), steps * traffic / rate)


def _seconds(device: torch.device, step: object, repeats: int = 20) -> float:
    taken = []
    for _ in range(repeats + 3):
        began = _now(device)
        step()  # type: ignore[operator]
        taken.append(_now(device) - began)
    return statistics.median(taken[3:])


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def whole_run(scale: Scale, device: torch.device, data: TrainingData) -> Bar:
    """Epochs with all telemetry, into SQLite in this process, and a checkpoint after each; all else as auto has it."""
    with tempfile.TemporaryDirectory(prefix="henaw-bench-") as folder:
        mlflow.set_tracking_uri(f"sqlite:///{folder}/mlflow.db")
        mlflow.create_experiment("henaw", artifact_location=str(Path(folder) / "artifacts"))
        told = f"training.epochs={scale.run_epochs} training.patience=1000 state.folder={folder}/state"
        config = _settings("auto", device, told)
        made = network(config, device)
        loss, checkpoints = crps_loss(made.shape.head, device), Checkpoints(Path(folder) / "kept", config.training)
        validation = people(len(data) // 10, 1, device)
        with tracking.parent_run(config, "bench"):
            began = time.perf_counter()
            train(made, loss, data, validation, config.training, 0, TrackingEvents(), checkpoints)
            seconds = time.perf_counter() - began
    what = f"{scale.run_epochs} epochs, telemetry and checkpoints, {len(data):,} people"
    return Bar(what, f"{seconds:.1f} s", "≤ 25 s for 100 epochs of 502,000", seconds <= 25)


def snapshot(scale: Scale, device: torch.device, batch_size: int) -> Bar:
    """Steps with and without the snapshot, in turns."""
    config = _settings(batch_size, device, "training.epochs=1")
    made = network(config, device)
    data = people((2 * scale.pairs + 8) * batch_size, 0, device)
    with snapshots_switched() as switch:
        turns = Turns(device, switch)
        loss = crps_loss(made.shape.head, device)
        train(made, loss, data, people(16, 1, device), config.training, 0, turns)
    cost = 100 * (statistics.median(one / other for one, other in turns.pairs()) - 1)
    return Bar(f"snapshot, batch {batch_size:,}", f"{cost:+.1f} % of a step", "≤ 3 %", cost <= 3)


class _Halvings(Events):
    def __init__(self) -> None:
        self.events: list[OutOfMemory] = []

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        self.events.append(event)


def out_of_memory(device: torch.device) -> Bar:
    """A real one: all but 256 MiB of the GPU is fenced off, and a batch of 100,000 people does not fit."""
    what, required = "out of memory, real", "recovers, memory back to ≤ 1.05 ×"
    if device.type != "cuda":
        return Bar(what, "needs a GPU", required, met=False)
    config = _settings(100_000, device, "training.epochs=2")
    data, made, heard = people(200_000, 0, device), network(config, device), _Halvings()
    loss = crps_loss(made.shape.head, device)
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((before + (256 << 20)) / total)
    try:
        history = train(made, loss, data, people(1_000, 1, device), config.training, 0, heard)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    made.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    after = torch.cuda.memory_allocated() / before
    sizes = " → ".join(f"{size:,}" for size in [heard.events[0].from_rows, *(each.to_rows for each in heard.events)])
    figure = f"{len(history)} epochs done, pieces {sizes}; memory {after:.3f} × that before"
    return Bar(what, figure, required, bool(heard.events) and after <= 1.05)


def packs(scale: Scale, device: torch.device) -> list[list[str]]:
    """Rows of hidden layers, trials an hour one after the other and as a pack, and how many times as fast that is."""
    rows = []
    for hidden in scale.packed:
        alone, packed, ratio = packed_against_alone(
            scale.pack, hidden=hidden, device=device.type, pairs=scale.pack_pairs, epochs=scale.pack_epochs
        )
        hourly = [f"{3600 * scale.pack / seconds:,.0f}" for seconds in (alone, packed)]
        rows.append([hidden, str(scale.pack), *hourly, f"{ratio:.2f} ×"])
    return rows
