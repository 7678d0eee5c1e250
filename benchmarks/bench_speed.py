"""What an epoch takes by batch size, precision and compilation: where `mlproject/speed.yaml` comes from.

    python benchmarks/bench_speed.py [--people 25000] [--batches 128 512 2048] [--hidden 128 128] [--threads 0]

Trains the default model on people who do not exist, on the GPU where there is one. The first epoch, which warms up and
compiles, is shown by itself; the figure is the quickest of the others. Times alone choose no row: larger batches and
fewer bits also change what is learned, so a row goes into the table once `bench_clocks.py` has been run with it.
"""

import argparse
import itertools
import time

import torch
from bars import machine, table

from henaw.config import load_config
from henaw.model.ensemble import EnsembleShape
from henaw.model.heads import QuantileHead
from henaw.model.losses import crps_loss
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training.batches import TrainingData
from henaw.training.device import choose_device, use_threads
from henaw.training.speed import has_bf16
from henaw.training.telemetry import Events
from henaw.training.trainer import train

FEATURES, MARKERS = 10, 9
EPOCHS = 4


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


def people(count: int, device: torch.device) -> TrainingData:
    """People of random markers, of which some are missing; the last feature is of two markers."""
    generator = torch.Generator().manual_seed(0)
    present = (torch.rand(count, FEATURES, generator=generator) > 0.05).float()
    scaled = torch.randn(count, FEATURES, generator=generator) * present
    age = (50 + 8 * scaled[:, :1] + 6 * torch.randn(count, 1, generator=generator)).clamp(20, 79)
    dependence = torch.eye(MARKERS, FEATURES)
    dependence[-2:, -1] = 1
    parts = (scaled, present, torch.ones(count, 1), age, dependence)
    return TrainingData(*(part.to(device) for part in parts))


def seconds(settings: Training, hidden: tuple[int, ...], everybody: TrainingData) -> tuple[float, float]:
    """Seconds of the first epoch, and of the quickest of the others."""
    device = everybody.targets.device
    head = QuantileHead(tuple(load_config().network.knots), "logit", 50.0, 12.0, 19.5, 79.5)
    shape = EnsembleShape(load_config().network.members, 2 * FEATURES + 1, hidden, head)
    network = EnsembleNetwork(shape, 0.0, torch.Generator().manual_seed(0)).to(device)
    epochs = Epochs()
    train(network, crps_loss(head, device), everybody, people(1000, device), settings, 0, epochs)
    first, *others = (end - start for start, end in itertools.pairwise(epochs.times))
    return first, min(others)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--people", type=int, default=25_000)
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 512, 2048])
    parser.add_argument("--hidden", type=int, nargs="+", default=[128, 128])
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    asked = parser.parse_args()
    fixed = f"training.epochs={EPOCHS} training.threads={asked.threads} training.device={asked.device}"
    settings = load_config(overrides=fixed).training
    device = choose_device(settings)
    use_threads(settings)
    everybody, rows = people(asked.people, device), []
    precisions = ["fp32", "bf16"] if has_bf16(device) else ["fp32"]
    for size, precision, compiled in itertools.product(asked.batches, precisions, ["never", "always"]):
        chosen = {"batch_size": size, "precision": precision, "compiled": compiled}
        first, other = seconds(settings.model_copy(update=chosen), tuple(asked.hidden), everybody)
        step = 1e3 * other / -(-asked.people // size)
        rows.append([str(size), precision, compiled, f"{first:.2f} s", f"{other:.3f} s", f"{step:.2f} ms"])
        print(*rows[-1], flush=True)
    threads = torch.get_num_threads()
    print(f"\n{machine()}\n{device.type}, {threads} threads, {asked.people:,} people, {asked.hidden}.\n")
    print(table(("batch", "precision", "compiled", "first epoch", "an epoch", "a step"), rows))


if __name__ == "__main__":
    main()
