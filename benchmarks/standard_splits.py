"""The splits of the NHANES participant table on which HENAW's figures are given.

Everyone who is not pregnant, has the whole panel and no value outside ``RANGES``. A person is ``cycle`` and ``seqn``
together, and has one row. Run as ``python benchmarks/standard_splits.py TABLE`` to count the people.

| split | ages | panel | train | test |
|---|---|---|---|---|
| A | 20-79 | blood9 | 1999-2008 | 2009-2010 |
| extended | 20-79 | extended | 1999-2008 | 2009-2010 |
| S1 | 20-84, follow-up known | phenoage9, CRP floored at NHANES III's limit of 2.1 mg/L | NHANES III | 1999-2010 |
| S3 | 20-84, follow-up known | blood9; complete in phenoage9 too | 1999-2006 | 2007-2010 |
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from henaw.config import asset_folder
from henaw.data.panel import Panel, load_panel
from henaw.data.table import read_table

RANGES = {
    "hba1c_mmol_mol": (15, 200),
    "wbc_10e9_l": (0.5, 150),
    "albumin_g_l": (8, 70),
    "creatinine_umol_l": (8, 2500),
    "glucose_mmol_l": (1, 60),
    "crp_mg_l": (0.01, 500),
    "rdw_pct": (8, 45),
    "lymphocyte_pct": (0.1, 100),
    "mcv_fl": (40, 140),
}
CYCLES = ("1999-2000", "2001-2002", "2003-2004", "2005-2006", "2007-2008", "2009-2010")
NHANES_III = "III"
CRP_FLOOR_MG_L = 2.1


@dataclass(frozen=True)
class Rules:
    """Who belongs to a split; all of ``complete`` are panels in which no value may be missing, the first is its own."""

    complete: tuple[str, ...]
    ages: tuple[int, int]
    followed: bool
    train: tuple[str, ...]
    test: tuple[str, ...]
    crp_floor: bool = False


SPLITS = {
    "A": Rules(("blood9",), (20, 79), False, CYCLES[:5], CYCLES[5:]),
    "extended": Rules(("extended",), (20, 79), False, CYCLES[:5], CYCLES[5:]),
    "S1": Rules(("phenoage9",), (20, 84), True, (NHANES_III,), CYCLES, crp_floor=True),
    "S3": Rules(("blood9", "phenoage9"), (20, 84), True, CYCLES[:4], CYCLES[4:]),
}


@dataclass(frozen=True)
class StandardSplit:
    """Two participant tables, with ``cycle`` and, where NHANES III is among them, ``crp_measured_mg_l`` besides."""

    panel: Panel
    train: pd.DataFrame
    test: pd.DataFrame


def standard_split(table: Path, name: str) -> StandardSplit:
    """Split ``name`` (A, extended, S1, S3) of the participant table at ``table``.

    Both frames hold every biomarker of every panel, NaN where it was not measured and no panel of the split needs it.
    """
    rules = SPLITS[name]
    panels = {panel: load_panel(panel, asset_folder("mlproject") / "panels") for panel in _panel_names()}
    markers = list(dict.fromkeys(marker for panel in panels.values() for marker in panel.names))
    numbers = ["age_years", "pregnant", "died", "followup_months", *markers]
    people = read_table(table, numbers=numbers, texts=["cycle", "seqn", "sex"])
    needed = sorted({marker for panel in rules.complete for marker in panels[panel].names})
    kept = (people["pregnant"] != 1) & people[needed].notna().all(axis=1) & people["age_years"].between(*rules.ages)
    for marker, (low, high) in RANGES.items():
        kept &= people[marker].isna() | people[marker].between(low, high)
    if rules.followed:
        kept &= people["died"].notna() & people["followup_months"].notna()
    people = people[kept]
    ids = people["cycle"] + "_" + people["seqn"]
    people.insert(0, "participant", [hashlib.blake2b(one.encode(), digest_size=16).hexdigest() for one in ids])
    people = people.drop(columns=["seqn", "pregnant"])
    if rules.crp_floor:
        people["crp_measured_mg_l"] = people["crp_mg_l"]
        people["crp_mg_l"] = people["crp_mg_l"].clip(lower=CRP_FLOOR_MG_L)
    train, test = (people[people["cycle"].isin(cycles)].reset_index(drop=True) for cycles in (rules.train, rules.test))
    return StandardSplit(panels[rules.complete[0]], train, test)


def _panel_names() -> tuple[str, ...]:
    return tuple(dict.fromkeys(panel for rules in SPLITS.values() for panel in rules.complete))


def main() -> None:
    """Print how many people each split has."""
    print("| split | train | deaths | test | deaths |\n|---|---:|---:|---:|---:|")
    for name in SPLITS:
        split = standard_split(Path(sys.argv[1]), name)
        deaths = [f"{frame['died'].sum():,.0f}" if SPLITS[name].followed else "" for frame in (split.train, split.test)]
        print(f"| {name} | {len(split.train):,} | {deaths[0]} | {len(split.test):,} | {deaths[1]} |")


if __name__ == "__main__":
    main()
