"""What the detector of unit mistakes finds, marker by marker, and what it suspects of clean people.

    python benchmarks/bench_units.py nhanes_adults.csv.gz

For each unit and direction: how many whole cohorts (every cycle, and all) in the wrong unit are found, and found as
what they are; whether the factor exceeds the marker's range (99.9 % over 0.1 % quantile), so that a value alone can
tell; and the recall of values when 1 % of the rows are swapped.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

from henaw.config import asset_folder
from henaw.data.panel import load_biomarkers
from henaw.data.table import read_table
from henaw.validation.unit_mistakes import UnitDetector


def main(path: Path) -> None:
    """Print the table."""
    panels = asset_folder("mlproject") / "panels"
    markers = load_biomarkers(panels)
    table = read_table(path, numbers=list(markers), texts=["cycle"])
    detector = UnitDetector.of(list(markers.values()), panels)
    print("| marker | unit | mistake | whole columns found | found as it is | tellable | recall at 1 % of rows |")
    print("|---|---|---|---|---|---|---|")
    for name, mistakes in detector.mistakes.items():
        cohorts = [table[name], *(rows for _, rows in table.groupby("cycle")[name] if rows.notna().any())]
        column = table[name].dropna().to_numpy()
        swapped = np.random.default_rng(0).choice(len(column), len(column) // 100, replace=False)
        for mistake in mistakes:
            found = [detector.in_table(pd.DataFrame({name: mistake.made(rows.to_numpy())})) for rows in cohorts]
            whole = [suspicions[0].mistake for suspicions in found if suspicions and suspicions[0].whole]
            recall = np.mean(detector.in_values(name, mistake.made(column[swapped])) >= 0)
            tellable = "yes" if mistake.tellable(detector.references[name]) else "no"
            print(
                f"| {name} | {mistake.conversion.unit} | {mistake.way} | {len(whole)} of {len(cohorts)} "
                f"| {whole.count(mistake)} of {len(cohorts)} | {tellable} | {recall:.1%} |"
            )
    suspected = np.zeros(len(table), dtype=np.bool_)
    for name in detector.mistakes:
        suspected |= detector.in_values(name, table[name].to_numpy()) >= 0
    print(f"\n{suspected.sum()} of {len(table)} clean rows suspected ({suspected.mean():.3%}), all markers together")
    start = time.perf_counter()
    detector.in_table(table)
    print(f"the whole table takes {time.perf_counter() - start:.3f} s")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
