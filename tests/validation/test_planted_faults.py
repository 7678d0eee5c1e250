"""Faults as they occur in cohorts, planted one by one: each is found by the rule that is meant to find it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from henaw.config import asset_folder
from henaw.data.panel import Panel, load_panel
from henaw.validation.definitions import SUITES, load_suite
from henaw.validation.derived import DERIVED, derive
from henaw.validation.reference import LEVELS, load_reference
from henaw.validation.suites import validate
from henaw.validation.verdict import Verdict

PANELS = asset_folder("mlproject") / "panels"
# Five markers of nine: each planted fault costs one run of Great Expectations.
MARKERS = ("crp_mg_l", "hba1c_mmol_mol", "creatinine_umol_l", "albumin_g_l", "rdw_pct")
PEOPLE = 120
Fault = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture(scope="module")
def panel() -> Panel:
    whole = load_panel("blood9", PANELS)
    chosen = tuple(marker for marker in whole.biomarkers if marker.name in MARKERS)
    return whole.model_copy(update={"biomarkers": chosen, "derived": ()})


def cohort() -> pd.DataFrame:
    """People as they should be: two visits each, four years apart, with dates and follow-up."""
    random = np.random.default_rng(11)
    references = load_reference(PANELS)
    rows = 2 * PEOPLE
    person, visit = np.divmod(np.arange(rows), 2)
    table = pd.DataFrame({"participant": pd.array([f"{one:032x}" for one in person], dtype="str")})
    table["age_years"] = random.uniform(40, 69, PEOPLE)[person] + 4.0 * visit
    table["sex"] = pd.array(np.array(["female", "male"])[person % 2], dtype="str")
    for name in MARKERS:
        levels = random.uniform(LEVELS[0], LEVELS[-1], rows)
        table[name] = np.interp(levels, LEVELS, references[name].quantiles)
        table.loc[random.random(rows) < 0.05, name] = np.nan
    table["died"] = (person % 10 == 0).astype(float)
    table["followup_months"] = random.uniform(60, 180, rows)
    table["visit"] = pd.array(visit.astype(str), dtype="str")
    dates = pd.Timestamp("2008-03-17") + pd.to_timedelta(person * 3 + visit * 1461, unit="D")
    table["visit_date"] = pd.array(dates.strftime("%Y-%m-%d"), dtype="str")
    table["pregnant"] = pd.array(np.where(person % 20 == 2, "1", "0"), dtype="str")
    return table


def column(name: str, change: Callable[[pd.Series], object]) -> Fault:
    return lambda table: table.assign(**{name: change(table[name])})


def rows_in_another_unit(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[::40, "creatinine_umol_l"] = 0.9
    return table


def half_an_outcome(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[4, "followup_months"] = np.nan
    return table


def nobodys_blood(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[4, list(MARKERS)] = np.nan
    return table


def row_of_nobody(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[4, "participant"] = None
    return table


def person_in_other_letters(table: pd.DataFrame) -> pd.DataFrame:
    table.loc[:7, "participant"] = table.loc[0, "participant"]
    return table


BLOOD = {"age_years": 50.0, "sex": "female"} | dict(zip(MARKERS, (1.5, 36.0, 71.0, 45.0, 13.0), strict=True))

# Each in a row of its own, in one table: what is planted there, and the rule that sets the row aside.
ROW_FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "sex misspelled": ({"sex": "femal"}, "sex: known"),
    "sex missing": ({"sex": None}, "sex: not_missing"),
    "age missing": ({"age_years": np.nan}, "age_years: not_missing"),
    "year of birth for age": ({"age_years": 1951.0}, "age_years: plausible"),
    "a decimal point lost": ({"rdw_pct": 131.0}, "rdw_pct: plausible"),
    "zero for missing": ({"creatinine_umol_l": 0.0}, "creatinine_umol_l: plausible"),
    "a code for missing": ({"albumin_g_l": -9.0}, "albumin_g_l: plausible"),
    "a large code for missing": ({"hba1c_mmol_mol": 9999.0}, "hba1c_mmol_mol: plausible"),
    "infinite": ({"crp_mg_l": np.inf}, "crp_mg_l: plausible"),
    "a man pregnant": ({"sex": "male", "pregnant": "1.0"}, "pregnant_man: sex_agrees"),
    "a visit in the future": ({"visit_date": "2208-03-17"}, "visit_days_ago: plausible"),
    "the day for unknown": ({"visit_date": "1900-01-01"}, "visit_days_ago: plausible"),
    "a day that is none": ({"visit_date": "2008-02-30"}, "visit_days_ago: plausible"),
    "died neither yes nor no": ({"died": 2.0}, "died: known"),
    "follow-up ends before it begins": ({"followup_months": -1.0}, "followup_months: plausible"),
    "follow-up in days": ({"followup_months": 5478.0}, "followup_months: plausible"),
    "nobody lives as long": ({"age_years": 70.0, "followup_months": 700.0}, "age_at_end: plausible"),
    "one blood under two ids": (BLOOD, "same_blood: entered_once"),
    "and under the second id": (BLOOD, "same_blood: entered_once"),
}
# Contradictions between two visits, planted at the later one; they set both aside.
VISIT_FAULTS: dict[str, tuple[dict[str, object], str]] = {
    "sex changes between visits": ({"sex": "other"}, "sexes_of_person: visits_agree"),
    "younger at the later visit": ({"age_years": 35.0}, "years_between_age_and_dates: visits_agree"),
}

FAULTS: dict[str, tuple[Fault, str, str, str]] = {
    "a biomarker's column is missing": (lambda t: t.drop(columns="crp_mg_l"), "crp_mg_l", "present", "block"),
    "no participant": (lambda t: t.drop(columns="participant"), "participant", "present", "block"),
    "numbers as text": (column("rdw_pct", lambda s: s.astype("str")), "rdw_pct", "numeric", "block"),
    "age as text": (column("age_years", lambda s: s.astype("str")), "age_years", "numeric", "block"),
    "a row of nobody": (row_of_nobody, "participant", "not_missing", "block"),
    "an outcome without its time": (half_an_outcome, "outcome_halves", "complete", "warn"),
    "nobody's blood": (nobodys_blood, "biomarkers_measured", "measured", "warn"),
    "sex in codes": (column("sex", lambda s: (s == "male").astype(float)), "sex", "text", "block"),
    "died as text": (column("died", lambda s: s.map({0: "no", 1: "yes"})), "died", "numeric", "block"),
    "a visit twice": (lambda t: pd.concat([t, t.tail(1)]), "participant, visit", "unique", "block"),
    "people who share an id": (person_in_other_letters, "participant, visit", "unique", "block"),
    "age in decades": (column("age_years", lambda s: s / 10), "age_years", "adults_in_years", "block"),
    "a column in another unit": (
        column("creatinine_umol_l", lambda s: s / 88.4),
        "creatinine_umol_l",
        "unit",
        "warn",
    ),
    "HbA1c in %": (column("hba1c_mmol_mol", lambda s: s / 10.929 + 2.15), "hba1c_mmol_mol", "unit", "warn"),
    "CRP in mg/dL": (column("crp_mg_l", lambda s: s / 10), "crp_mg_l", "unit", "warn"),
    "some rows in another unit": (rows_in_another_unit, "creatinine_umol_l", "unit", "warn"),
    "another analyzer": (column("albumin_g_l", lambda s: s * 1.15), "albumin_g_l", "usual_median", "warn"),
    "half of a column missing": (
        column("crp_mg_l", lambda s: s.where(s.index % 2 == 0)),
        "crp_mg_l",
        "mostly_known",
        "warn",
    ),
    "an empty column": (column("crp_mg_l", lambda s: s * np.nan), "crp_mg_l", "varies", "warn"),
    "filled with one value": (column("rdw_pct", lambda s: s * 0 + 12.7), "rdw_pct", "varies", "warn"),
    "one age for all": (
        lambda t: t.drop(columns="visit_date").assign(age_years=55.0),  # dates would contradict it
        "age_years",
        "varies",
        "warn",
    ),
    "one sex alone": (column("sex", lambda s: pd.array(["male"] * len(s), dtype="str")), "sex", "both", "warn"),
}


def found(verdict: Verdict) -> set[tuple[str, str, str]]:
    return {(result.column, result.rule, result.on_failure) for result in verdict.failed}


def test_there_are_thirty_faults_and_more_and_the_cohort_itself_has_none(panel: Panel) -> None:
    assert len(FAULTS) + len(ROW_FAULTS) + len(VISIT_FAULTS) >= 30
    verdict = validate(cohort(), panel, 0.0)
    assert found(verdict) == set()
    assert {result.column for result in verdict.results} >= {*DERIVED, *MARKERS}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if number % 4 == 0 else pytest.mark.slow) for number, name in enumerate(FAULTS)],
)
def test_a_fault_of_the_table_is_found_by_its_rule(name: str, panel: Panel) -> None:
    fault, where, rule, consequence = FAULTS[name]
    verdict = validate(fault(cohort()).reset_index(drop=True), panel, 1.0)
    assert (where, rule, consequence) in found(verdict)
    assert verdict.passed == (consequence != "block")


@pytest.fixture(scope="module")
def rules(panel: Panel) -> dict[tuple[str, str], str]:
    """By person and visit, the rule that sets the row aside in a cohort with every fault of a row in it."""
    table = cohort()
    for person, (values, _) in enumerate(ROW_FAULTS.values()):
        table.loc[2 * person, list(values)] = pd.Series(values)
    for person, (values, _) in enumerate(VISIT_FAULTS.values(), len(ROW_FAULTS)):
        other = "male" if table.loc[2 * person, "sex"] == "female" else "female"
        planted = {name: other if value == "other" else value for name, value in values.items()}
        table.loc[2 * person + 1, list(values)] = pd.Series(planted)
    # Without a second visit to contradict them, the faults of a row stand alone.
    table = table.drop(index=[2 * person + 1 for person in range(len(ROW_FAULTS))]).reset_index(drop=True)
    verdict = validate(table, panel, 1.0)
    assert verdict.passed
    rows = table[verdict.set_aside]
    return dict(zip(zip(rows["participant"], rows["visit"], strict=True), verdict.rules, strict=True))


def test_a_fault_of_a_row_is_found_by_its_rule_and_no_other_row_is_set_aside(
    rules: dict[tuple[str, str], str],
) -> None:
    people = [f"{person:032x}" for person in range(len(ROW_FAULTS) + len(VISIT_FAULTS))]
    planted = [*ROW_FAULTS.values(), *VISIT_FAULTS.values()]
    expected = {(person, "0"): rule for person, (_, rule) in zip(people, planted, strict=True)}
    expected |= {(person, "1"): expected[person, "0"] for person in people[len(ROW_FAULTS) :]}
    assert rules == expected


def test_a_column_in_another_unit_names_it_where_the_run_is_refused(panel: Panel) -> None:
    table = cohort()
    verdict = validate(table.assign(creatinine_umol_l=table["creatinine_umol_l"] / 88.4), panel, 0.2)
    assert not verdict.passed
    assert "source.units: {creatinine_umol_l: mg/dL}" in str(verdict._refusal())


def test_derived_columns_are_made_only_of_what_is_there(panel: Panel) -> None:
    table = cohort()
    assert set(derive(table, panel)) == set(DERIVED)
    bare = derive(table[["participant", "age_years", "sex", *MARKERS]], panel)
    assert set(bare) == {"biomarkers_measured", "same_blood"}
    assert set(derive(table.assign(age_years="old", sex=1.0), panel)) == {
        "biomarkers_measured",
        "visit_days_ago",
        "outcome_halves",
    }


def test_every_derived_column_is_used_by_a_suite_and_described() -> None:
    used = {column for suite in SUITES for e in load_suite(suite).expectations for column in e.columns}
    assert set(DERIVED) <= used
    manual = (asset_folder("expectations") / "README.md").read_text(encoding="utf-8")
    assert [name for name in DERIVED if f"`{name}`" not in manual] == []


def test_the_same_blood_is_the_same_number_and_other_blood_another(panel: Panel) -> None:
    table = cohort()
    numbers = derive(pd.concat([table, table], ignore_index=True), panel)["same_blood"]
    half = len(table)
    np.testing.assert_array_equal(numbers[:half], numbers[half:])
    known = numbers[:half][~np.isnan(numbers[:half])]
    assert len(np.unique(known)) == len(known)
    assert np.isnan(numbers[:half]).tolist() == table[list(MARKERS)].isna().any(axis=1).tolist()
    moved = table.assign(rdw_pct=np.nextafter(table["rdw_pct"], 100))
    assert not np.isin(derive(moved, panel)["same_blood"], known).any()


def test_clean_nhanes_is_not_blocked(nhanes_table: Path) -> None:
    """The shared table as it is read: test_suites.py has the whole of it with the extended panel."""
    whole = load_panel("blood9", PANELS)
    table = pd.read_csv(nhanes_table)
    table["participant"] = (table["cycle"] + "_" + table["seqn"].astype(str)).astype("str")
    numbers = ["age_years", *whole.names, "died", "followup_months"]
    table[numbers] = table[numbers].astype(float)
    table["pregnant"] = table["pregnant"].astype("str")
    verdict = validate(table, whole, 0.001)
    assert verdict.passed
    assert {column for column, _, consequence in found(verdict) if consequence == "set_aside"} == {"hba1c_mmol_mol"}
