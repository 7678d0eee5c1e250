"""The synthetic cohort agrees with its summary file, and the summary file with NHANES."""

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from henaw.config import asset_folder
from henaw.data.panel import load_biomarkers
from henaw.data.synthetic import synthetic_table
from henaw.errors import BadInput

SUMMARIES = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
CATALOG = load_biomarkers(asset_folder("mlproject") / "panels")
LARGEST_FILE_BYTES = 60_000
STANDARD_ERRORS = 5


@pytest.fixture(scope="module")
def known() -> dict[str, Any]:
    return json.loads(SUMMARIES.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cohort() -> pd.DataFrame:
    return synthetic_table(200_000, (20, 84), 1, summaries=SUMMARIES)


def plausible(table: pd.DataFrame) -> pd.DataFrame:
    """Where a biomarker's value is present and plausible."""
    return pd.DataFrame({name: table[name].between(*marker.plausible) for name, marker in CATALOG.items()})


def implausible(table: pd.DataFrame) -> pd.DataFrame:
    return table[list(CATALOG)].notna() & ~plausible(table)


def shares_of_one_whole(known: dict[str, Any]) -> set[str]:
    return {name for whole in known["wholes"] for name in whole["columns"]}


def assert_share(found: float, expected: float, people: int) -> None:
    assert abs(found - expected) <= STANDARD_ERRORS * np.sqrt(expected * (1 - expected) / people)


class TestTable:
    def test_has_the_participant_table_s_columns_and_types(self, cohort):
        assert list(cohort) == ["participant_id", "age_years", "sex", *CATALOG, "died", "followup_months"]
        assert cohort.index.equals(pd.RangeIndex(200_000))
        assert cohort["participant_id"].iloc[[0, -1]].tolist() == ["S0000001", "S0200000"]
        assert cohort["participant_id"].is_unique
        assert cohort["sex"].dropna().isin(["female", "male"]).all()
        assert (cohort.drop(columns=["participant_id", "sex"]).dtypes == np.float64).all()

    def test_same_seed_same_cohort_another_seed_another(self):
        first, again, other = (synthetic_table(500, (40, 69), seed, summaries=SUMMARIES) for seed in (3, 3, 4))
        pd.testing.assert_frame_equal(first, again)
        assert (first["albumin_g_l"] != other["albumin_g_l"]).mean() > 0.95

    def test_leaves_the_global_random_state_alone(self):
        before = np.random.get_state()[1].copy()  # noqa: NPY002
        synthetic_table(10, (40, 69), 0, summaries=SUMMARIES)
        assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002

    @pytest.mark.parametrize(("people", "ages"), [(1, (20, 20)), (1, (84, 84)), (40, (20, 84)), (7, (69, 70))])
    def test_any_size_and_range(self, people, ages):
        table = synthetic_table(people, ages, 0, summaries=SUMMARIES)
        assert len(table) == people
        assert table["age_years"].dropna().between(*ages).all()

    def test_ages_and_sexes_follow_uk_biobank(self):
        table = synthetic_table(100_000, (40, 69), 0, summaries=SUMMARIES).dropna(subset=["age_years", "sex"])
        assert (table["age_years"] % 1 == 0).all()
        for youngest, share in ((40, 0.24), (50, 0.34), (60, 0.42)):
            assert_share(table["age_years"].between(youngest, youngest + 9).mean(), share, len(table))
        assert_share((table["sex"] == "female").mean(), 0.54, len(table))


class TestMarkers:
    @pytest.mark.parametrize("age", [20, 50, 82])
    @pytest.mark.parametrize("sex", ["female", "male"])
    def test_quantiles_are_those_of_the_summary_file(self, known, age, sex):
        table = synthetic_table(40_000, (age, age), 2, summaries=SUMMARIES)
        table = table[table["sex"] == sex]
        for name in CATALOG:
            if name in shares_of_one_whole(known):
                continue
            values = table[name].dropna()
            expected = known["quantiles"][sex][name][known["ages"].index(age)]
            for level, quantile in zip(known["levels"], expected, strict=True):
                # Of values rounded to 0.001, those below and those not above bracket the level.
                below, upto = (values < quantile - 6e-4).mean(), (values <= quantile + 6e-4).mean()
                slack = STANDARD_ERRORS * np.sqrt(level * (1 - level) / len(values)) + 0.002  # planted mistakes
                assert below - slack <= level <= upto + slack, name

    def test_between_two_ages_of_the_file_values_lie_between(self, known):
        table = synthetic_table(40_000, (47, 47), 2, summaries=SUMMARIES)
        for sex in ("female", "male"):
            for name in set(CATALOG) - shares_of_one_whole(known):
                rows = known["quantiles"][sex][name]
                middle = known["levels"].index(0.5)
                ends = sorted(rows[known["ages"].index(age)][middle] for age in (45, 50))
                median = table.loc[table["sex"] == sex, name].median()
                assert ends[0] * 0.97 <= median <= ends[1] * 1.03, name

    def test_white_cell_fractions_make_a_whole(self, cohort, known):
        (whole,) = known["wholes"]
        rows = cohort.loc[plausible(cohort).all(axis=1), whole["columns"]]
        sums = rows.sum(axis=1)
        assert sums.quantile(0.001) >= whole["total"][0] - 0.01
        assert sums.quantile(0.999) <= whole["total"][1] + 0.01
        for sex in ("female", "male"):
            near = cohort[(cohort["sex"] == sex) & (cohort["age_years"] == 50)]
            for name in whole["columns"]:
                rows = known["quantiles"][sex][name][known["ages"].index(50)]
                assert near[name].median() == pytest.approx(rows[known["levels"].index(0.5)], rel=0.04)

    def test_rank_correlations_are_those_of_the_summary_file(self, known):
        table = synthetic_table(40_000, (60, 60), 5, summaries=SUMMARIES)
        wholes = [name in shares_of_one_whole(known) for name in CATALOG]
        tolerance = np.where(np.logical_or.outer(wholes, wholes), 0.06, 0.03)
        for sex in ("female", "male"):
            expected = np.eye(len(CATALOG))
            for row, entries in enumerate(known["correlations"][sex]):
                expected[row, :row] = expected[:row, row] = entries
            expected = 6 / np.pi * np.arcsin(expected / 2)  # Spearman's rho of a Gaussian copula
            found = table.loc[table["sex"] == sex, list(CATALOG)].corr(method="spearman").to_numpy()
            assert (np.abs(found - expected) <= tolerance).all()


class TestFaults:
    def test_missing_values_come_in_the_patterns_of_the_summary_file(self, cohort, known):
        absent = cohort.isna()
        patterns = known["missing"] + known["assumed"]["missing"]
        for pattern in patterns:
            exactly = (absent[pattern["columns"]].all(axis=1)) & (absent.sum(axis=1) == len(pattern["columns"]))
            assert_share(exactly.mean(), pattern["rate"], len(cohort))
        assert_share(absent.any(axis=1).mean(), sum(pattern["rate"] for pattern in patterns), len(cohort))

    def test_implausible_rows_are_as_rare_as_planted_and_have_one_wrong_value(self, cohort, known):
        wrong = implausible(cohort).sum(axis=1)
        rate = known["assumed"]["implausible_rows"]
        assert_share((wrong > 0).mean(), rate, len(cohort))
        assert wrong.max() == 1

    def test_implausible_values_are_of_several_kinds_and_markers(self, cohort):
        wrong = implausible(cohort)
        values = cohort[list(CATALOG)].where(wrong)
        assert wrong.any().sum() == len(CATALOG)
        high = pd.Series({name: marker.plausible[1] for name, marker in CATALOG.items()})
        assert (values < 0).any(axis=None)
        assert (values == 0).any(axis=None)
        assert (values > high).any(axis=None)


class TestSurvival:
    def test_deaths_agree_with_the_gompertz_integral(self, cohort, known):
        """E over frailty N(0, γ'Rγ) and the end of follow-up of 1 - exp(-exp(frailty)·(H(age + t) - H(age)))."""
        nodes, weights = np.polynomial.hermite_e.hermegauss(41)
        weights = weights / weights.sum()
        ends = np.linspace(*known["assumed"]["followup_years"], 101)
        seen = cohort.dropna(subset=["age_years", "sex", "died"])
        rates = []
        for sex in ("female", "male"):
            hazard = known["hazard"][sex]
            correlations = np.eye(len(CATALOG))
            for row, entries in enumerate(known["correlations"][sex]):
                correlations[row, :row] = correlations[:row, row] = entries
            effects = np.array([hazard["effects"][name] for name in CATALOG])
            frailty = np.exp(nodes * np.sqrt(effects @ correlations @ effects))
            slope = hazard["slope_per_year"]
            for youngest in range(20, 80, 10):
                group = seen[(seen["sex"] == sex) & seen["age_years"].between(youngest, youngest + 9)]
                ages, counts = np.unique(group["age_years"], return_counts=True)
                now = hazard["per_year_at_60"] * np.exp(slope * (ages - 60))
                cumulative = now[:, None, None] * frailty[:, None] * np.expm1(slope * ends) / slope
                risk = ((1 - np.exp(-cumulative)).mean(axis=2) @ weights) @ counts / counts.sum()
                assert_share(group["died"].mean(), risk, len(group))
                rates.append(group["died"].mean())
        assert (np.diff(np.reshape(rates, (2, -1))) > 0).all()

    def test_follow_up_of_survivors_ends_uniformly_within_the_window(self, cohort, known):
        first, last = known["assumed"]["followup_years"]
        months = cohort.loc[(cohort["died"] == 0) & (cohort["age_years"] < 40), "followup_months"]
        assert months.between(12 * first, 12 * last).all()
        assert kstest(months, "uniform", args=(12 * first, 12 * (last - first))).statistic < 0.02
        assert cohort["followup_months"].dropna().between(0, 12 * last).all()

    def test_markers_tell_who_dies_among_people_of_one_age(self):
        table = synthetic_table(30_000, (65, 65), 0, summaries=SUMMARIES).dropna(subset=["rdw_pct", "died"])
        tenth = pd.qcut(table["rdw_pct"], 10, labels=False)
        assert table.loc[tenth == 9, "died"].mean() > 1.5 * table.loc[tenth == 0, "died"].mean()


class TestRefusals:
    @pytest.mark.parametrize("ages", [(19, 60), (40, 85), (60, 40)])
    def test_ages_outside_the_summaries(self, ages):
        with pytest.raises(BadInput, match=r"source\.ages: .*20 to 84.*found"):
            synthetic_table(10, ages, 0, summaries=SUMMARIES)

    def test_no_people(self):
        with pytest.raises(BadInput, match=r"source\.people"):
            synthetic_table(0, (40, 69), 0, summaries=SUMMARIES)

    @pytest.mark.parametrize("text", [None, "{", "[]", '{"format": 2}', '{"format": 1}'])
    def test_file_that_is_no_summary_file(self, tmp_path, text):
        path = tmp_path / "summaries.json"
        if text is not None:
            path.write_text(text)
        with pytest.raises(BadInput, match=r"summaries\.json") as caught:
            synthetic_table(10, (40, 69), 0, summaries=path)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        ("key", "value"),
        [("markers", ["no_such_marker"]), ("ages", [20, 30]), ("correlations", {"female": [[], [2]], "male": [[]]})],
    )
    def test_summary_file_that_contradicts_itself(self, tmp_path, known, key, value):
        path = tmp_path / "summaries.json"
        path.write_text(json.dumps({**known, key: value}))
        with pytest.raises(BadInput, match=r"summaries\.json"):
            synthetic_table(10, (40, 69), 0, summaries=path)


def numbers(node: Any) -> Iterator[float]:
    if isinstance(node, dict):
        node = list(node.values())
    if isinstance(node, list):
        for entry in node:
            yield from numbers(entry)
    elif isinstance(node, int | float):
        yield float(node)


class TestSummaryFile:
    def test_describes_every_biomarker(self, known):
        assert known["markers"] == list(CATALOG)

    def test_holds_summaries_and_no_rows(self, known):
        assert SUMMARIES.stat().st_size <= LARGEST_FILE_BYTES
        markers, ages, levels = len(CATALOG), len(known["ages"]), len(known["levels"])
        for sex in ("female", "male"):
            assert np.shape([known["quantiles"][sex][name] for name in CATALOG]) == (markers, ages, levels)
            assert [len(row) for row in known["correlations"][sex]] == list(range(markers))
        others = {key: part for key, part in known.items() if key not in {"quantiles", "correlations"}}
        assert len(list(numbers(others))) < 150
        assert set(known) == {
            *("format", "about", "people", "covered_ages", "ages", "half_window_years", "levels", "markers"),
            *("quantiles", "correlations", "hazard", "missing", "wholes", "assumed"),
        }

    def test_shows_no_extreme_and_no_exact_value(self, known):
        assert 0.005 <= min(known["levels"]) < max(known["levels"]) <= 0.995
        assert all(value == float(f"{value:.3g}") for value in numbers(known["quantiles"]))

    def test_quantiles_rise_with_the_level_and_are_plausible(self, known):
        for sex in ("female", "male"):
            for name, marker in CATALOG.items():
                rows = np.array(known["quantiles"][sex][name])
                assert (np.diff(rows) >= 0).all()
                assert (rows >= marker.plausible[0]).all()
                assert (rows <= marker.plausible[1]).all()


@pytest.fixture(scope="module")
def estimation() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "benchmarks" / "estimate_synthetic_summaries.py"
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestAgainstNhanes:
    def test_the_script_makes_the_summary_file_from_the_table(self, nhanes_table, estimation, known, tmp_path):
        estimation.main(nhanes_table, tmp_path / "again.json")
        again = json.loads((tmp_path / "again.json").read_text(encoding="utf-8"))
        assert again["about"] == known["about"]
        np.testing.assert_allclose(list(numbers(again)), list(numbers(known)), rtol=0.01, atol=0.002)

    def test_people_of_the_same_age_and_sex_have_the_same_marginals(self, nhanes_table, estimation, cohort):
        real = estimation.read_population(nhanes_table, CATALOG)
        made = cohort.dropna(subset=["age_years", "sex"])
        distances = {}
        for (sex, decade), group in real.groupby(["sex", real["age_years"] // 10]):
            if not 2 <= decade <= 7:
                continue
            made_group = made[(made["sex"] == sex) & (made["age_years"] // 10 == decade)]
            weights = (group["age_years"].value_counts() / made_group["age_years"].value_counts()).rename("weight")
            weight = made_group["age_years"].map(weights)
            for name in CATALOG:
                for share in (0.25, 0.5, 0.75):
                    value = group[name].quantile(share)
                    rows = made_group[name].notna()
                    below = (weight * (made_group[name] < value))[rows].sum() / weight[rows].sum()
                    ties = (group[name] == value).mean()  # NHANES rounds, some markers coarsely
                    distances[name, sex, decade, share] = max(abs(below - share) - ties, 0)
        assert max(distances.values()) < 0.05, max(distances, key=distances.__getitem__)

    def test_rank_correlations_with_age_are_nhanes_ones(self, nhanes_table, estimation, cohort):
        real = estimation.read_population(nhanes_table, CATALOG)
        real = real[real["age_years"].between(20, 79)]
        made = cohort[cohort["age_years"].between(20, 79)]
        share = real["age_years"].value_counts(normalize=True)
        made = made.sample(
            40_000, weights=made["age_years"].map(share / made["age_years"].value_counts()), random_state=0
        )
        for sex in ("female", "male"):
            found, expected = (
                table.loc[table["sex"] == sex, [*CATALOG, "age_years"]].corr(method="spearman")["age_years"]
                for table in (made, real)
            )
            assert (found - expected).abs().max() < 0.05
