"""Both clocks against their bars, in one command: `make bench-clocks DATA=TABLE`.

    python benchmarks/bench_clocks.py TABLE [--quick | --cost-only] [--docs FILE]

Fits the age clock on splits A and extended and the mortality clock on S1 and S3, each with three seeds, and what
people would fit instead to the same people; judges all of them on the same test people, with 95 % intervals from a
bootstrap by person, paired where two are compared; takes the times. Prints everything, and rewrites its sections of
docs/benchmarks.md. The boosted references need `make bench-setup` first.
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from pathlib import Path

from age_clocks import age_section
from bars import BAR_COLUMNS, REPOSITORY, Section, machine, rewrite_section, stopwatch, table
from boosted import missing_libraries
from clock_cost import Size, cost_section
from fitting import Plan
from mortality_clocks import mortality_section

CLOCKS, COST = "bench-clocks", "bench-clocks-cost"  # sections of the document
QUICK = "training.epochs=5 network.members=4"
NOTES = """Means over the seeds; in brackets the 95 % interval over test people (percentile bootstrap, {draws:,}
draws). "Ours − it" is paired: the same resampled people; "tie" where the interval holds 0. A seed is that of the split
into training and calibration people, of the clock and, for the boosted references, of theirs. CRPS is twice the mean
pinball loss at the levels 0.01 … 0.99. LightGBM as a point prediction carries its residuals' quantiles on the
calibration people; ridge, CatBoost and NGBoost are Gaussian. Proportional hazards by LightGBM: Breslow's partial
likelihood as a custom objective (gradient and diagonal Hessian), inputs as ours. HR: Cox with age and sex, gap without
its regression on age, winsorized at 0.5 and 99.5 %. PhenoAge reads CRP as measured; every other clock on S1 has it
floored at 2.1 mg/L. On split A HENAW is told the cycle of its training people (`training.era_column`), the references
are not. Survey weights are not used: these are figures of the people examined, not of the US population."""


def main() -> int:
    """Measure, print, write."""
    options = _options()
    if not options.data.is_file():
        print(f"{options.data}: no such file; expected the NHANES participant table (make bench-clocks DATA=TABLE)")
        return 2
    if not (options.quick or options.cost_only) and (missing := missing_libraries()):
        print(f"{', '.join(missing)} not installed: run `make bench-setup` (versions in mlproject/env/bench.lock)")
        return 2
    logging.basicConfig(format="%(message)s", stream=sys.stderr)
    logging.getLogger("bench").setLevel(logging.INFO)
    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn|lightgbm|ngboost")
    plan = Plan(options.data)
    size = Size()
    if options.quick:
        plan, size = Plan(options.data, seeds=(0,), draws=20, boosted=False, overrides=QUICK), Size(2_000, 2_000)
    document = options.docs or (None if options.quick else REPOSITORY / "docs" / "benchmarks.md")
    sections = {} if options.cost_only else {CLOCKS: _clocks(plan)}
    sections[COST] = _cost(plan, size)
    for name, text in sections.items():
        if document:
            rewrite_section(document, name, text)
    return 0


def _clocks(plan: Plan) -> str:
    with stopwatch() as watch:
        parts = [age_section(plan, name) for name in ("A", "extended")]
        parts += [mortality_section(plan, name) for name in ("S1", "S3")]
    notes = f"{NOTES.format(draws=plan.draws)}\n\nAll in {watch.cpu:,.0f} CPU seconds. {machine()}"
    return _document("## The clocks on NHANES", parts, notes)


def _cost(plan: Plan, size: Size) -> str:
    return _document("## What a clock costs", [cost_section(plan, size)], f"The quickest of three runs. {machine()}")


def _document(title: str, parts: list[Section], notes: str) -> str:
    """A title, all bars, and what they rest on; the bars are printed."""
    bars = table(BAR_COLUMNS, [bar.row for part in parts for bar in part.bars])
    print(f"{title}\n\n{bars}\n\n{notes}\n", flush=True)
    return "\n\n".join(
        [
            title,
            "`make bench-clocks` writes this section.",
            bars,
            *(text for part in parts for text in part.parts),
            notes,
        ]
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Both clocks against their bars.")
    parser.add_argument("data", type=Path, help="NHANES participant table")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="one seed, five epochs, few draws, no boosted references")
    how.add_argument("--cost-only", action="store_true", help="times and memory alone")
    parser.add_argument("--docs", type=Path, help="document to rewrite (with --quick: none)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
