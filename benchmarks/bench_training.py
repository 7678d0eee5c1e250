"""How fast training is, beside what people would write or install instead: `make bench`.

    python benchmarks/bench_training.py [TABLE] [--only PART …] [--people N] [--shared] [--quick] [--docs FILE]

Parts: ``epochs`` (one epoch against the loop over `nn.Sequential` members and TabM, batches of 128 and 512), ``growth``
(502,000 people against 25,000) and ``crps`` (time to the same validation CRPS on NHANES; left out without the table
TABLE). Both sides run in one process, in turns; a ratio is the median over rounds of their quotients. With --shared,
for a machine that others use meanwhile, seconds are CPU seconds, on one thread. Prints everything and rewrites its
sections of docs/benchmarks.md. The rivals need `make bench-setup` first.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import boosted
import training_rivals
from bars import BAR_COLUMNS, REPOSITORY, Section, machine, rewrite_section, stopwatch, table
from epoch_speed import LOOP_BARS, Size, epoch_section, growth_section
from time_to_crps import crps_sections

from henaw.training.device import available_cores

PARTS = ("epochs", "growth", "crps")
NOTES = {
    "epochs": """K = 16, 2 × 64, 21 inputs, CRPS of 9 outputs at 49 levels, fused AdamW, float32, on made-up people.
HENAW is `train()` as it is: batches balanced by age, masks and noise, clipping by member, each step a transaction,
figures and events of each step, and a validation pass (128 people) are in its time. The loops are given their order of
people, do no validation, keep no figures, and are in the same process, so that the C library keeps freed memory for
them too. "By itself": a member goes through its epoch with an optimizer of its own, as the bar
reads; "one optimizer": a batch for each member, each with its own loss, then one step for all; "one loss": networks
one after the other, outputs stacked for one loss and one backward pass, which batches all but the networks themselves.
TabM (`arch_type="tabm"`) shares a batch, and most weights, among members; `torch.compile` made it slower here. Each
rival has as many threads as are best for it, and the CRPS as PyTorch differentiates it; "with HENAW's loss function" it
has the derivative that is written out for HENAW. The matrix rate is that of the bare batched products of these shapes,
forward and backward, into memory taken before.""",
    "growth": "The same network; each large epoch against the median of three small ones beside it.",
    "crps": """People: split A's training people, a tenth of them to validate with; nobody looks at the test people.
CRPS is that of the ensemble's barycenter (levels 0.01 … 0.99), without calibration. The clock stands still while it is
worked out; our own validation is in our time, the loop has none. Every side goes through every recipe and has its
fastest. The 16 `MLPRegressor`s: 64-64, rate .003, batches of 200, early stopping, a process on each core; their spread
is the better of a Gaussian and residual quantiles, both fitted on the very people that they are judged on. NGBoost:
settings as in `make bench-clocks`, early stopping.""",
}


def main() -> int:
    """Measure, print, write."""
    options = _options()
    parts = [part for part in PARTS if part in options.only]
    if "crps" in parts and options.data is None:
        parts.remove("crps")
        print("crps: left out; expected the NHANES participant table (make bench DATA=TABLE)\n")
    if "crps" in parts and not options.data.is_file():
        print(f"{options.data}: no such file; expected the NHANES participant table (make bench DATA=TABLE)")
        return 2
    needed = {"epochs": training_rivals.missing_libraries(), "growth": [], "crps": boosted.missing_libraries()}
    if missing := sorted({library for part in parts for library in needed[part]}):
        print(f"{', '.join(missing)} not installed: run `make bench-setup` (versions in mlproject/env/bench.lock)")
        return 2
    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn|ngboost")
    document = options.docs or (None if options.quick else REPOSITORY / "docs" / "benchmarks.md")
    for part in parts:
        text = _measured(part, options)
        if document:
            rewrite_section(document, f"bench-training-{part}", text)
    return 0


TITLES = {
    "epochs": "## Training: one epoch",
    "growth": "## Training: many people",
    "crps": "## Training: time to the same CRPS",
}


def _measured(part: str, options: argparse.Namespace) -> str:
    threads = 1 if options.shared else min(2, available_cores())
    size = Size(people=options.people, threads=threads, shared=options.shared)
    if options.quick:
        size = Size(people=2_000, many=8_000, rounds=1, threads=size.threads, shared=options.shared)
    how = "CPU seconds on one thread, other programs running; " if size.shared else ""
    with stopwatch() as watch:
        if part == "epochs":
            sections = [epoch_section(size, batch_size) for batch_size in LOOP_BARS]
        elif part == "growth":
            sections = [growth_section(size, rounds=1 if options.quick or options.shared else 3)]
        else:
            sections = crps_sections(options.data, 1 if options.quick or options.shared else 2, size)
    return _document(part, sections, f"{how}{size.threads} threads; in {watch.wall:.0f} s. {machine()}")


def _document(part: str, sections: list[Section], measured: str) -> str:
    bars = table(BAR_COLUMNS[:4], [bar.row[:4] for section in sections for bar in section.bars])
    print(f"{TITLES[part]}\n\n{bars}\n\n{measured}\n", flush=True)
    texts = [text for section in sections for text in section.parts]
    return "\n\n".join([TITLES[part], "`make bench` writes this section.", bars, *texts, NOTES[part], measured])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="How fast training is, beside what people would use instead.")
    parser.add_argument("data", type=Path, nargs="?", help="NHANES participant table")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="few people, one round: that it works, no figures")
    parser.add_argument("--people", type=int, default=25_000, help="of an epoch")
    parser.add_argument("--shared", action="store_true", help="CPU seconds, on one thread")
    parser.add_argument("--docs", type=Path, help="document to rewrite (with --quick: none)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
