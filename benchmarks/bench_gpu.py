"""Training on a GPU, for anybody who has one: `python benchmarks/bench_gpu.py [--docs docs/benchmarks.md]`.

Measures, with 502,000 made-up people and the default network (16 members, 128-128): an epoch by batch size, precision
and compilation, and how near the one that `auto` chooses is to what the device can do; 100 epochs with telemetry and
checkpoints; the snapshot of a step; a real out-of-memory; trials of a study as a pack and one after the other; what is
learned with larger batches and fewer bits. Prints Markdown, and with --docs puts it into that document. Takes some 10
minutes on an H200. Without a GPU everything runs at a reduced size on the CPU, says so, and judges nothing.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from bars import BAR_COLUMNS, Bar, Section, machine, rewrite_section, stopwatch, table
from bench_speed import COLUMNS, Timed
from gpu_measurements import (
    FULL,
    REDUCED,
    Limits,
    Scale,
    chosen,
    epochs,
    learned,
    limits,
    out_of_memory,
    packs,
    snapshot,
    whole_run,
)
from made_up_people import people

from henaw.training.batches import TrainingData

BAR_SECONDS = 0.15


def main() -> int:
    """Measure, print what is found as it is found, write."""
    parser = argparse.ArgumentParser(description="Training on a GPU; on the CPU at a reduced size.")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--docs", type=Path, help="document whose section is rewritten, e.g. docs/benchmarks.md")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("PyTorch finds no GPU here; expected one for --device cuda (auto runs a reduced size on the CPU)")
        return 3
    on_gpu = torch.cuda.is_available() and options.device != "cpu"
    text = "\n\n".join(_measured(torch.device("cuda" if on_gpu else "cpu")).parts)
    if options.docs:
        rewrite_section(options.docs, "bench-gpu", text)
    return 0


def _measured(device: torch.device) -> Section:
    on_gpu = device.type == "cuda"
    scale, section = FULL if on_gpu else REDUCED, Section()
    section.add("## Training on a GPU" if on_gpu else "## Training on a GPU: a trial run without one")
    section.add("`python benchmarks/bench_gpu.py` writes this section.")
    with stopwatch() as watch:
        data, auto = people(scale.people, 0, device), chosen(scale, device)
        found = epochs(scale, device, data)
        section.add(table(COLUMNS, [each.row(scale.people) for each in found]))
        settled = auto.batch_size, auto.precision, auto.compiled
        [ours] = [each for each in found if (each.batch_size, each.precision, each.compiled) == settled]
        section.add(_limit_text(ours, limits(device, ours, scale.people)))
        bars = []
        for bar in _bars(scale, device, data, ours):
            print(*bar.row[:4], sep=" | ", file=sys.stderr, flush=True)
            bars.append(bar.row[:4] if on_gpu else [*bar.row[:3], "not judged"])
        section.add(table(BAR_COLUMNS[:4], bars))
        columns = ["hidden layers", "trials", "an hour, one by one", "an hour, as a pack", "faster"]
        section.add(table(columns, packs(scale, device)))
        section.add(f"Validation CRPS of {scale.learned_epochs} epochs, the best of them, members by themselves:")
        section.add(table(["batch", "precision", "CRPS, years", "s"], learned(scale, device, data)))
    section.add(f"On {_name(device)}, {scale.people:,} people, in {watch.wall:.0f} s. {machine()}")
    return section


def _bars(scale: Scale, device: torch.device, data: TrainingData, ours: Timed) -> Iterator[Bar]:
    yield _epoch_bar(ours, scale.people)
    yield whole_run(scale, device, data)
    for size in dict.fromkeys((512, ours.batch_size)):
        yield snapshot(scale, device, size)
    yield out_of_memory(device)


def _epoch_bar(ours: Timed, count: int) -> Bar:
    how = f"as auto has it: batch {ours.batch_size:,}, {ours.precision}, compiled: {ours.compiled}"
    figure = f"{ours.seconds:.3f} s ({how})"
    return Bar(f"one epoch, {count:,} people, K = 16", figure, "≤ 0.15 s for 502,000", ours.seconds <= BAR_SECONDS)


def _limit_text(ours: Timed, limit: Limits) -> str:
    bound, name = max((limit.products, "products"), (limit.memory, "memory"))
    return (
        f"The bare products of this epoch take {limit.products:.3f} s in {ours.precision} by themselves; its least "
        f"traffic would take {limit.memory:.3f} s at the {limit.bytes_a_second / 1e9:,.0f} GB/s that a copy reaches "
        f"here. The epoch is at {bound / ours.seconds:.0%} of the limit of the {name}."
    )


def _name(device: torch.device) -> str:
    return f"one {torch.cuda.get_device_name()}" if device.type == "cuda" else "the CPU, at a reduced size"


if __name__ == "__main__":
    sys.exit(main())
