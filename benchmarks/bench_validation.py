"""What validating a UK-Biobank-sized table costs, beside Great Expectations' own way and plain pandas.

    python benchmarks/bench_validation.py [rows]

502,000 rows × 14 columns, 1 % of the rows bad; medians of three runs in one process, the import of Great Expectations
left out. `Great Expectations` runs the same expectations, from the same files, by itself: in its default format
(SUMMARY), which names no rows, and in COMPLETE, which does. `pandas` computes the same row masks and column checks by
hand. CPU seconds stand beside the wall clock's, as others may share the machine; the peak is of resident memory.
"""

import json
import logging
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import great_expectations as gx
import numpy as np
import pandas as pd

from henaw.config import asset_folder
from henaw.data.panel import Panel, load_panel
from henaw.validation.definitions import SUITES, load_suite
from henaw.validation.derived import derive
from henaw.validation.reference import LEVELS, load_reference
from henaw.validation.suites import validate

BAD_FRACTION = 0.01


def cohort(rows: int, panel: Panel) -> pd.DataFrame:
    """A table with 3 + len(panel) + 2 columns; one value in 1 % of the rows is implausible."""
    random = np.random.default_rng(0)
    references = load_reference(asset_folder("mlproject") / "panels")
    table = pd.DataFrame({"participant": pd.array([f"{row:032x}" for row in range(rows)], dtype="str")})
    table["age_years"] = random.uniform(40, 70, rows)
    table["sex"] = pd.array(random.choice(["female", "male"], rows), dtype="str")
    for marker in panel.biomarkers:
        levels = np.clip(random.random(rows), LEVELS[0], LEVELS[-1])
        table[marker.name] = np.interp(levels, LEVELS, references[marker.name].quantiles)
        table.loc[random.random(rows) < 0.05, marker.name] = np.nan
    bad = random.choice(rows, int(rows * BAD_FRACTION), replace=False)
    for rows_of_marker, marker in zip(np.array_split(bad, len(panel.names)), panel.biomarkers, strict=True):
        table.loc[rows_of_marker, marker.name] = marker.plausible[1] * 10
    table["died"] = random.integers(0, 2, rows).astype(float)
    table["followup_months"] = random.uniform(0, 180, rows)
    return table


def gx_alone(table: pd.DataFrame, panel: Panel, result_format: str) -> set[int]:
    """The suites as Great Expectations runs them by itself; the rows that it names."""
    table = table.assign(**derive(table, panel))
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("participants")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    rows: set[int] = set()
    for name in SUITES:
        document: dict[str, Any] = json.loads((asset_folder("expectations") / f"{name}.json").read_text("utf-8"))
        applies = [e.applies(table.columns, panel) for e in load_suite(name).expectations]
        document["expectations"] = [e for e, keep in zip(document["expectations"], applies, strict=True) if keep]
        for result in batch.validate(gx.ExpectationSuite(**document), result_format=result_format).results:
            rows.update(result.result.get("unexpected_index_list") or [])
    return rows


def plain_pandas(table: pd.DataFrame, panel: Panel) -> set[int]:
    """The same rules written out by hand."""
    assert table["participant"].notna().all()
    assert table["participant"].is_unique
    bad = table["age_years"].isna() | table["sex"].isna() | ~table["sex"].isin(["female", "male"])
    ranges = {"age_years": (0.0, 120.0)} | {marker.name: marker.plausible for marker in panel.biomarkers}
    for column, (low, high) in ranges.items():
        assert table[column].dtype == np.float64
        bad |= table[column].notna() & ~table[column].between(low, high)
    bad |= ~table["died"].isin([0, 1]) | ~table["followup_months"].between(0, 720)
    bad |= table["age_years"] + table["followup_months"] / 12 > 123
    bad |= table.duplicated(["age_years", "sex", *panel.names], keep=False)
    for name in ("age_years", *panel.names):
        assert table[name].notna().mean() > 0.7
        assert table[name].nunique() > 1
        assert np.isfinite(table[name].median())
    return set(np.flatnonzero(bad))


def timed(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Median wall and CPU seconds of three runs, and what the last returned."""
    wall, cpu = [], []
    for _ in range(3):
        start, spent = time.perf_counter(), time.process_time()
        outcome = work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - spent)
    return statistics.median(wall), statistics.median(cpu), outcome


def main() -> None:
    """Print the times and their ratios."""
    logging.disable(logging.WARNING)
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 502_000
    panel = load_panel("blood9", asset_folder("mlproject") / "panels")
    table = cohort(rows, panel)
    validate(table.head(100), panel, 0.2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ours, our_cpu, verdict = timed(lambda: validate(table, panel, 0.2))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{rows} rows × {table.shape[1]} columns, {BAD_FRACTION:.0%} bad; {len(verdict.results)} expectations judged")
    print(f"memory: {before / 1024:.0f} MiB with the table, {peak / 1024:.0f} MiB at the peak of validation\n")
    others = {
        "Great Expectations, default": timed(lambda: gx_alone(table, panel, "SUMMARY")),
        "Great Expectations, COMPLETE": timed(lambda: gx_alone(table, panel, "COMPLETE")),
        "plain pandas": timed(lambda: plain_pandas(table, panel)),
    }
    aside = set(np.flatnonzero(verdict.set_aside))
    assert aside == others["Great Expectations, COMPLETE"][2] == others["plain pandas"][2]
    print("| | wall s | CPU s | validate ÷ it, wall | CPU |\n|---|---|---|---|---|")
    print(f"| validate | {ours:.2f} | {our_cpu:.2f} | | |")
    for name, (wall, cpu, _) in others.items():
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {ours / wall:.2f} | {our_cpu / cpu:.2f} |")


if __name__ == "__main__":
    main()
