"""What the clocks beside ours reach on the standard mortality splits, and what 1,000 bootstraps cost.

    python benchmarks/bench_references.py TABLE [draws]

Harrell's C, the hazard ratio per standard deviation of the age-residualized gap, the Brier score integrated over ten
years, and observed over expected 10-year risk, each with a 95 % bootstrap interval by person.
"""

import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from standard_splits import StandardSplit, standard_split

from henaw.evaluation.bootstrap import Statistic, bootstrap
from henaw.evaluation.concordance import concordance_of
from henaw.evaluation.cox import hazard_ratio_of, standardized_gap
from henaw.evaluation.phenoage import phenoage, phenoage_survival
from henaw.evaluation.reference_clocks import (
    age_alone,
    fit_gompertz_clock,
    fit_klemera_doubal,
    markers_sex_and_age,
    phenoage_and_sex,
)
from henaw.evaluation.survival import calibration_of, integrated_brier_of

Array = NDArray[np.float64]

RISK_YEARS = 10.0
BRIER_YEARS = np.arange(0.5, RISK_YEARS + 0.1, 0.5)


def measured(table: pd.DataFrame) -> pd.DataFrame:
    """``table`` with CRP as it was measured: PhenoAge needs no floor."""
    return table.assign(crp_mg_l=table["crp_measured_mg_l"]) if "crp_measured_mg_l" in table else table


def clocks(split: StandardSplit) -> tuple[dict[str, Array], dict[str, Array]]:
    """Risk scores (n,) of the test people, and the survival (n, q) of those clocks that know it, by clock."""
    test, times = split.test, BRIER_YEARS
    scores, survival = {}, {}
    covariates = {
        "age alone": age_alone,
        "PhenoAge + sex, refitted": phenoage_and_sex,
        "linear Gompertz": markers_sex_and_age(split.panel),
    }
    for name, columns in covariates.items():
        clock = fit_gompertz_clock(split.train, columns)
        scores[name], survival[name] = clock.log_hazard(test), clock.survival(test, times)
    scores["PhenoAge"], survival["PhenoAge"] = phenoage(measured(test)), phenoage_survival(measured(test), times)
    scores["Klemera-Doubal"] = fit_klemera_doubal(split.train, split.panel).biological_age(test)
    return scores, survival


def main() -> None:
    """Print a table a split, and the seconds."""
    draws = int(sys.argv[2]) if len(sys.argv) > 2 else 1000
    for name in ("S1", "S3"):
        split = standard_split(Path(sys.argv[1]), name)
        test = split.test
        start = time.perf_counter()
        scores, survival = clocks(split)
        fitted = time.perf_counter()
        age, male = test["age_years"].to_numpy(), (test["sex"] == "male").to_numpy(dtype=float)
        years, died = test["followup_months"].to_numpy() / 12, test["died"].to_numpy()
        statistics: dict[str, Statistic] = {}
        for clock, score in scores.items():
            statistics[f"{clock}: C"] = concordance_of(score, years, died)
            if clock != "age alone":
                statistics[f"{clock}: HR"] = hazard_ratio_of(standardized_gap(score, age), age, male, years, died)
        for clock, alive in survival.items():
            statistics[f"{clock}: IBS"] = integrated_brier_of(alive, BRIER_YEARS, years, died)
            statistics[f"{clock}: O/E"] = calibration_of(1 - alive[:, -1], years, died, RISK_YEARS)
        found = bootstrap(statistics, test["participant"], draws=draws)
        print(f"\n{name}: {len(test):,} people, {died.sum():,.0f} deaths; fitted in {fitted - start:.1f} s, ", end="")
        print(f"{len(statistics)} figures × {draws:,} bootstraps in {time.perf_counter() - fitted:.1f} s\n")
        print("| clock | C | C − PhenoAge | HR per SD | IBS | O/E 10 y |\n|---|---|---|---|---|---|")
        for clock in scores:
            paired = found[f"{clock}: C"] - found["PhenoAge: C"]
            cells = [
                found[f"{clock}: C"],
                paired,
                *(found.get(f"{clock}: {figure}") for figure in ("HR", "IBS", "O/E")),
            ]
            shown = [
                "–" if cell is None else "{:.4f} [{:.4f}, {:.4f}]".format(*cell.estimate().numbers) for cell in cells
            ]
            print(f"| {clock} | {' | '.join(shown)} |")


if __name__ == "__main__":
    main()
