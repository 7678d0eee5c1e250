"""What validating a UK-Biobank-sized table costs, beside Great Expectations' own way and plain pandas.

    python benchmarks/bench_validation.py [rows]

502,000 rows × 14 columns, 1 % of the rows bad; medians of three runs in one process, the import of Great Expectations
left out. `GX COMPLETE` runs the same expectations, from the same files, in Great Expectations' complete format with
its defaults; `pandas` computes the same row masks by hand.
"""

import json
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
from henaw.validation.suites import validate

BAD_FRACTION = 0.01


def cohort(rows: int, panel: Panel) -> pd.DataFrame:
    """A table with 3 + len(panel) + 2 columns; one value in 1 % of the rows is implausible."""
    random = np.random.default_rng(0)
    table = pd.DataFrame({"participant": pd.array([f"{row:032x}" for row in range(rows)], dtype="str")})
    table["age_years"] = random.uniform(40, 70, rows)
    table["sex"] = pd.array(random.choice(["female", "male"], rows), dtype="str")
    for marker in panel.biomarkers:
        low, high = marker.plausible
        table[marker.name] = random.uniform(low, high, rows)
        table.loc[random.random(rows) < 0.05, marker.name] = np.nan
    bad = random.choice(rows, int(rows * BAD_FRACTION), replace=False)
    for rows_of_marker, marker in zip(np.array_split(bad, len(panel.names)), panel.biomarkers, strict=True):
        table.loc[rows_of_marker, marker.name] = marker.plausible[1] * 10
    table["died"] = random.integers(0, 2, rows).astype(float)
    table["followup_months"] = random.uniform(0, 180, rows)
    return table


def gx_complete(table: pd.DataFrame, panel: Panel) -> set[int]:
    """The suites as Great Expectations runs them by itself."""
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False}
    asset = context.data_sources.add_pandas("memory").add_dataframe_asset("participants")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": table})
    rows: set[int] = set()
    for name in SUITES:
        document: dict[str, Any] = json.loads((asset_folder("expectations") / f"{name}.json").read_text("utf-8"))
        applies = [e.applies(table.columns, panel) for e in load_suite(name).expectations]
        document["expectations"] = [e for e, keep in zip(document["expectations"], applies, strict=True) if keep]
        for result in batch.validate(gx.ExpectationSuite(**document), result_format="COMPLETE").results:
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
    return set(np.flatnonzero(bad))


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Median seconds of three runs, and what the last returned."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        outcome = work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds), outcome


def main() -> None:
    """Print the three times and their ratios."""
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 502_000
    panel = load_panel("blood9", asset_folder("mlproject") / "panels")
    table = cohort(rows, panel)
    print(f"{rows} rows × {table.shape[1]} columns, {BAD_FRACTION:.0%} bad")
    ours, verdict = timed(lambda: validate(table, panel, 0.2))
    theirs, their_rows = timed(lambda: gx_complete(table, panel))
    bare, bare_rows = timed(lambda: plain_pandas(table, panel))
    assert set(np.flatnonzero(verdict.set_aside)) == their_rows == bare_rows
    print(f"validate     {ours:6.2f} s")
    print(f"GX COMPLETE  {theirs:6.2f} s   validate / GX     = {ours / theirs:.2f}")
    print(f"pandas       {bare:6.2f} s   validate / pandas = {ours / bare:.1f}")


if __name__ == "__main__":
    main()
