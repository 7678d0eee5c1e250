"""A wrong unit is found: in a whole column always, in single values wherever a value alone can tell.

``python benchmarks/bench_units.py TABLE`` prints the recalls, marker by marker.
"""

from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from henaw.config import asset_folder
from henaw.data.panel import load_biomarkers
from henaw.data.table import read_table
from henaw.errors import BadInput
from henaw.validation.reference import LEVELS, Reference, load_reference, reference_text
from henaw.validation.unit_mistakes import LEAST_VALUES, Mistake, UnitDetector

PANELS = asset_folder("mlproject") / "panels"
MARKERS = load_biomarkers(PANELS)
DETECTOR = UnitDetector.of(list(MARKERS.values()), PANELS)
CASES = [(name, mistake) for name, mistakes in DETECTOR.mistakes.items() for mistake in mistakes]
NAMED = [f"{name} {mistake.conversion.unit} {mistake.way}" for name, mistake in CASES]


@cache
def nhanes(path: Path) -> pd.DataFrame:
    return read_table(path, numbers=["age_years", *MARKERS], texts=["cycle", "sex"])


def typical(name: str, people: int = 500) -> np.ndarray:
    """Values as the reference has them."""
    levels = np.random.default_rng(3).uniform(LEVELS[0], LEVELS[-1], people)
    return np.interp(levels, LEVELS, DETECTOR.references[name].quantiles)


def test_every_marker_with_another_unit_has_both_directions() -> None:
    assert {mistake.way for _, mistake in CASES} == {"unconverted", "converted twice"}
    assert {name for name, _ in CASES} == set(MARKERS) - {"mcv_fl"}  # its other unit is the same by another name


@pytest.mark.parametrize(("name", "mistake"), CASES, ids=NAMED)
def test_a_whole_column_in_the_wrong_unit_is_always_found(name: str, mistake: Mistake, nhanes_table: Path) -> None:
    table = nhanes(nhanes_table)
    cohorts = [table, *(rows for _, rows in table.groupby(["cycle", "sex"]) if rows[name].notna().any())]
    for rows in cohorts:
        wrong = pd.DataFrame({name: mistake.made(rows[name].to_numpy())})
        [suspicion] = DETECTOR.in_table(wrong)
        assert suspicion.whole
        assert suspicion.mistake == mistake
        assert suspicion.rows == suspicion.checked == rows[name].notna().sum()


@pytest.mark.parametrize(("name", "mistake"), CASES, ids=NAMED)
def test_one_percent_of_rows_swapped_is_recalled_where_a_value_can_tell(
    name: str, mistake: Mistake, nhanes_table: Path
) -> None:
    column = nhanes(nhanes_table)[name].dropna().to_numpy(copy=True)
    swapped = np.random.default_rng(5).choice(len(column), len(column) // 100, replace=False)
    column[swapped] = mistake.made(column[swapped])
    if mistake.tellable(DETECTOR.references[name]):
        recall = np.mean([bool(DETECTOR.in_row({name: value})) for value in column[swapped]])
        assert recall >= 0.95
        assert sum(found.rows for found in DETECTOR.in_table(pd.DataFrame({name: column}))) >= 0.95 * len(swapped)


def test_a_value_can_tell_where_the_factor_exceeds_the_reference_range() -> None:
    for name, mistake in CASES:
        if mistake.conversion.zero == 0:
            low, high = DETECTOR.references[name].extremes
            factor = max(mistake.conversion.factor, 1 / mistake.conversion.factor)
            assert mistake.tellable(DETECTOR.references[name]) == (factor > high / low)
    telling = {name for name, mistake in CASES if mistake.tellable(DETECTOR.references[name])}
    assert "crp_mg_l" not in telling  # its range is a thousandfold, mg/dL but tenfold
    assert {
        "creatinine_umol_l",
        "glucose_mmol_l",
        "total_cholesterol_mmol_l",
        "albumin_g_l",
        "hba1c_mmol_mol",
    } <= telling


def test_clean_people_are_hardly_suspected_and_clean_columns_never(nhanes_table: Path) -> None:
    table = nhanes(nhanes_table)
    suspected = [DETECTOR.in_values(name, table[name].to_numpy()) >= 0 for name in MARKERS]
    assert 0 < np.logical_or.reduce(suspected).sum() <= 0.001 * len(table)
    for _, rows in table.groupby(["cycle", "sex", table["age_years"] // 20]):
        assert not [found for found in DETECTOR.in_table(rows) if found.whole]


@pytest.mark.parametrize(("name", "mistake"), CASES, ids=NAMED)
def test_what_the_mistake_is_called_mends_it(name: str, mistake: Mistake) -> None:
    values = typical(name)
    np.testing.assert_allclose(mistake.mended(mistake.made(values)), values, rtol=1e-9)
    [suspicion] = DETECTOR.in_table(pd.DataFrame({name: mistake.made(values)}))
    assert (suspicion.mistake, suspicion.marker, suspicion.unit) == (mistake, name, MARKERS[name].unit)
    assert mistake.conversion.unit in suspicion.mistake.description
    assert name in suspicion.mending


def test_a_row_is_told_alone_and_missing_values_are_not() -> None:
    row = {"creatinine_umol_l": 0.9, "hba1c_mmol_mol": 5.6, "crp_mg_l": 0.2, "albumin_g_l": np.nan, "other": 1e9}
    found = DETECTOR.in_row(row)
    assert {name: mistake.conversion.unit for name, mistake in found.items()} == {
        "creatinine_umol_l": "mg/dL",
        "hba1c_mmol_mol": "%",
    }
    assert DETECTOR.in_row({"creatinine_umol_l": np.inf, "albumin_g_l": -1.0}) == {}
    assert DETECTOR.in_row({}) == {}


def test_the_row_and_the_table_agree() -> None:
    column = np.concatenate([typical("glucose_mmol_l"), [95.0, 101.0, np.nan]])
    [suspicion] = DETECTOR.in_table(pd.DataFrame({"glucose_mmol_l": column}))
    assert (suspicion.rows, suspicion.checked, suspicion.whole) == (2, 502, False)
    assert suspicion.mending == ""


@pytest.mark.parametrize("column", [[], [np.nan] * 50, [0.0] * 50, [1e9] * 50, [-5.0] * 50, [np.inf] * 50])
def test_a_column_that_no_unit_explains_is_not_suspected(column: list[float]) -> None:
    table = pd.DataFrame({name: np.array(column) for name in MARKERS})
    assert [found.marker for found in DETECTOR.in_table(table) if found.whole] == []


def test_few_values_are_judged_one_by_one() -> None:
    values = typical("creatinine_umol_l", LEAST_VALUES - 1) / 88.4
    [suspicion] = DETECTOR.in_table(pd.DataFrame({"creatinine_umol_l": values}))
    assert not suspicion.whole
    assert suspicion.rows == LEAST_VALUES - 1


def test_columns_that_are_no_numbers_are_passed_over() -> None:
    assert DETECTOR.in_table(pd.DataFrame({"creatinine_umol_l": ["0.9"] * 30})) == ()
    assert DETECTOR.in_table(pd.DataFrame({"age_years": [50.0] * 30})) == ()


@pytest.mark.slow
def test_the_reference_is_what_the_command_writes(nhanes_table: Path) -> None:
    text = (PANELS / "reference.yaml").read_text(encoding="utf-8")
    assert reference_text(nhanes(nhanes_table), MARKERS) == text, "run: python -m henaw.validation.reference TABLE"


def test_every_biomarker_has_a_reference_within_its_plausible_range() -> None:
    references = load_reference(PANELS)
    assert references.keys() == MARKERS.keys()
    for name, reference in references.items():
        low, high = MARKERS[name].plausible
        assert low <= reference.extremes[0] < reference.usual_median[0] < reference.quartiles[1]
        assert reference.quartiles[1] < reference.usual_median[1] < reference.extremes[1] <= high


@pytest.mark.parametrize(
    "entry", ["crp_mg_l: [1, 2]", "crp_mg_l: 3", "crp_mg_l: [1, 2, 3, 5, 4, 6, 7]", "crp_mg_l: [x]"]
)
def test_a_reference_that_is_none_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "reference.yaml").write_text(entry)
    with pytest.raises(BadInput, match="crp_mg_l: expected 7 numbers in ascending order"):
        load_reference(tmp_path)


def test_a_marker_without_reference_or_units_is_never_suspected() -> None:
    bare = UnitDetector({"x": "1"}, {}, {"x": Reference((1.0,) * 7)})
    assert bare.in_table(pd.DataFrame({"x": [1e6] * 30})) == ()
    assert bare.in_row({"x": 1e6}) == {}
