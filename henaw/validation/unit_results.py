"""Suspected units as results of a verdict, beside those of the suites; they warn, and never convert."""

from __future__ import annotations

import numpy as np
import pandas as pd

from henaw.config import asset_folder
from henaw.data.disclosure import published
from henaw.data.panel import Panel
from henaw.validation.unit_mistakes import Suspicion, UnitDetector
from henaw.validation.verdict import UNITS, SuiteResult


def judge_units(table: pd.DataFrame, panel: Panel) -> tuple[SuiteResult, ...]:
    """A result for each biomarker of ``panel`` in ``table``; several where its values look like several units."""
    detector = UnitDetector.of(panel.biomarkers, asset_folder("mlproject") / "panels")
    suspected = detector.in_table(table)
    results: list[SuiteResult] = []
    for name, unit in detector.units.items():
        if name in table and table[name].dtype == np.float64:
            found = [_result(suspicion) for suspicion in suspected if suspicion.marker == name]
            clean = SuiteResult(UNITS, name, "unit", "warn", f"values in {unit}", True, int(table[name].count()), 0)
            results += found or [clean]
    return tuple(results)


def _result(suspicion: Suspicion) -> SuiteResult:
    looks = suspicion.mistake.description
    if suspicion.whole:
        found = f"the column as a whole: values {looks}; {suspicion.mending}"
    else:
        found = f"{published(suspicion.rows)} of {published(suspicion.checked)} values {looks}"
    expected = f"values in {suspicion.unit}"
    return SuiteResult(
        UNITS, suspicion.marker, "unit", "warn", expected, False, suspicion.checked, suspicion.rows, found
    )
