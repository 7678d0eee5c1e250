"""What the age-stratified sampler costs, beside a training step.

    python benchmarks/bench_sampler.py [--people 20000] [--members 16] [--batch 512] [--repeats 5] [--device cpu]

A step is the default network's (2 × 128): gather, forward pass, CRPS, backward pass, AdamW. The sampler's cost is that
of an epoch's indices divided by its steps. Rounds of both alternate, so that a busy machine is unfair to neither; the
bar is 2 %.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch

from henaw.config import load_config
from henaw.data.sampling import AgeSampler, Place, age_groups
from henaw.model.ensemble import EnsembleShape
from henaw.model.heads import QuantileHead
from henaw.model.losses import crps_loss
from henaw.model.network import EnsembleNetwork

FEATURES = 10
STEPS = 20


def main() -> None:
    """Print seconds and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=20_000)
    parser.add_argument("--members", type=int, default=16)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device, config = torch.device(options.device), load_config()
    age = np.random.default_rng(0).uniform(40, 70, options.people)
    head = QuantileHead(tuple(config.network.knots), "logit", float(age.mean()), float(age.std()), 39.5, 70.5)
    shape = EnsembleShape(options.members, 2 * FEATURES + 1, tuple(config.network.hidden), head)
    network = EnsembleNetwork(shape, 0.0, torch.Generator().manual_seed(0)).to(device)
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    loss = crps_loss(head, device)
    inputs = torch.randn(options.people, shape.inputs, device=device)
    targets = torch.tensor(age[:, None], dtype=torch.float32, device=device)
    sampler = AgeSampler(age_groups(age).to(device), options.members, options.batch, Place(0))

    def finish() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def steps(rows: torch.Tensor) -> float:
        began = finish()
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            loss(network(inputs[rows]), targets[rows]).mean(dim=1).sum().backward()
            optimizer.step()
        return (finish() - began) / STEPS

    def epochs() -> float:
        began = finish()
        for epoch in range(STEPS):
            sampler.epoch(epoch)
        return (finish() - began) / STEPS / sampler.batches

    rows = next(iter(sampler))
    steps(rows), epochs()
    found = [(steps(rows), epochs()) for _ in range(options.repeats)]
    step, share = (statistics.median(values) for values in zip(*found, strict=True))
    ratio = statistics.median(sampled / trained for trained, sampled in found)
    threads = f"{torch.get_num_threads()} threads" if device.type == "cpu" else torch.cuda.get_device_name()
    print(f"{options.people} people, {options.members} members, batches of {options.batch} ({threads})")
    print(f"  a training step {1e3 * step:8.3f} ms")
    print(f"  the sampler     {1e3 * share:8.3f} ms a step: {100 * ratio:.2f} % (bar 2 %)")


if __name__ == "__main__":
    main()
