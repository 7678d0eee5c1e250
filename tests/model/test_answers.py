"""One answer a row, in order; numbers that HENAW stands behind or an abstention with its reasons, never a NaN."""

from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from henaw.errors import BadInput
from henaw.model.answers import (
    NUMBERS,
    QUANTILE_COLUMNS,
    RISKS,
    answer,
    input_columns,
    number_columns,
    output_columns,
)
from henaw.model.clock import Clock
from tests.scenarios import BLOOD9, KNOWN, blood_clock, blood_rows

CLOCK = blood_clock(max_missing=3)
MORTALITY = blood_clock(target="mortality", max_missing=3)
OUTPUTS = output_columns("age")
CLOCKS = pytest.mark.parametrize("clock", [CLOCK, MORTALITY], ids=["age", "mortality"])
SECRET = "61.98765"  # planted in bad rows: no message may show it


def changed(rows: pd.DataFrame, row: int, **cells: object) -> pd.DataFrame:
    copy = rows.astype({name: object for name in cells if name == "sex"}).copy()
    for name, value in cells.items():
        copy.loc[copy.index[row], name] = value
    return copy


def assert_strict(answers: pd.DataFrame) -> None:
    """Numbers are finite or, exactly where the row abstains, None; texts are texts."""
    refused = (answers["status"] == "abstain").to_numpy()
    for name in answers.columns.difference(["status", "flags"]):
        values = answers[name].tolist()
        assert all((value is None) == no for value, no in zip(values, refused, strict=True)), name
        assert np.isfinite([value for value in values if value is not None]).all(), name
    assert answers["status"].isin(["ok", "warn", "abstain"]).all()
    assert all(isinstance(flags, str) for flags in answers["flags"])


def test_columns_order_and_index_are_kept_and_other_columns_ignored() -> None:
    rows = blood_rows(6, 0)
    expected = answer(CLOCK, rows, 0.9)
    assert tuple(expected.columns) == OUTPUTS
    assert (expected["status"] == "ok").all()
    assert (expected["flags"] == "").all()
    assert all(expected[name].dtype == np.float64 for name in NUMBERS)
    shuffled = rows.set_axis([7, 7, "a", -1, None, 2.5])[sorted(rows.columns)].assign(note="x", mcv_fl="not a number")
    found = answer(CLOCK, shuffled, 0.9)
    pd.testing.assert_index_equal(found.index, shuffled.index)
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected, check_exact=True)
    reversed_rows = answer(CLOCK, rows[::-1], 0.9)
    pd.testing.assert_frame_equal(reversed_rows[::-1], expected, rtol=0, atol=1e-9)


def test_nothing_of_the_input_is_changed() -> None:
    rows = changed(blood_rows(4, 0), 1, sex="other")
    before = rows.copy(deep=True)
    answer(CLOCK, rows, 0.9, quantiles=True)
    pd.testing.assert_frame_equal(rows, before)


def test_the_numbers_are_those_of_the_clocks_distribution() -> None:
    rows = blood_rows(5, 1)
    answers = answer(CLOCK, rows, 0.8, quantiles=True)
    age = rows["age_years"].to_numpy()
    distribution = CLOCK.predict(rows[list(BLOOD9.names)].to_numpy(), (rows["sex"] == "male").to_numpy(float), age)
    lower, upper = distribution.interval(0.8)
    gap = distribution.median - rows["age_years"]
    for name, expected in {
        "biological_age_years": distribution.median,
        "lower_years": lower,
        "upper_years": upper,
        "aleatoric_sd_years": distribution.aleatoric_sd,
        "epistemic_sd_years": distribution.epistemic_sd,
        "age_gap_years": gap,
        "age_gap_adjusted_years": gap - (10 - 0.2 * rows["age_years"]),
        "age_gap_z": (gap - (10 - 0.2 * rows["age_years"])) / 8,
        "q10": lower,
        "q90": upper,
    }.items():
        np.testing.assert_allclose(answers[name].to_numpy(), expected, rtol=0, atol=1e-9, err_msg=name)


def test_quantiles_are_monotone_and_hold_the_interval_and_the_median() -> None:
    answers = answer(CLOCK, blood_rows(20, 2), 0.9, quantiles=True)
    assert tuple(answers.columns) == (*OUTPUTS, *QUANTILE_COLUMNS)
    assert QUANTILE_COLUMNS[0] == "q01"
    assert QUANTILE_COLUMNS[-1] == "q99"
    assert len(QUANTILE_COLUMNS) == 99
    assert (np.diff(answers[list(QUANTILE_COLUMNS)].to_numpy(), axis=1) > 0).all()
    for ends, quantile in {"lower_years": "q05", "upper_years": "q95", "biological_age_years": "q50"}.items():
        np.testing.assert_allclose(answers[ends], answers[quantile], rtol=0, atol=1e-9)


@pytest.mark.parametrize(
    ("cells", "status", "flags"),
    [
        ({"sex": None}, "abstain", "sex_missing_or_unknown"),
        ({"sex": np.nan}, "abstain", "sex_missing_or_unknown"),
        ({"sex": pd.NA}, "abstain", "sex_missing_or_unknown"),
        ({"sex": "Female"}, "abstain", "sex_missing_or_unknown"),
        ({"sex": 1}, "abstain", "sex_missing_or_unknown"),
        ({"age_years": np.nan}, "abstain", "age_missing"),
        ({"age_years": -0.5}, "abstain", "age_implausible;age_outside_training"),
        ({"age_years": np.inf}, "abstain", "age_implausible;age_outside_training"),
        ({"age_years": 120.5}, "abstain", "age_implausible;age_outside_training"),
        ({"crp_mg_l": 0.0}, "abstain", "implausible:crp_mg_l"),
        ({"crp_mg_l": np.inf}, "abstain", "implausible:crp_mg_l"),
        ({"albumin_g_l": -3.0}, "abstain", "implausible:albumin_g_l"),
        ({"alt_u_l": np.nan, "ast_u_l": 6000.0}, "abstain", "implausible:ast_u_l;missing:alt_u_l"),
        (
            dict.fromkeys(BLOOD9.names[:4], np.nan),
            "abstain",
            "too_many_missing;" + ";".join(f"missing:{name}" for name in BLOOD9.names[:4]),
        ),
        (dict.fromkeys(BLOOD9.names[:3], np.nan), "ok", ";".join(f"missing:{name}" for name in BLOOD9.names[:3])),
        ({"age_years": 80.0}, "warn", "age_outside_training"),
        ({"age_years": 79.99}, "ok", ""),
        ({"age_years": 19.99}, "warn", "age_outside_training"),
        ({"age_years": 20.0}, "ok", ""),
        ({"hba1c_mmol_mol": 150.0}, "warn", "outside_training:hba1c_mmol_mol"),
        ({"hba1c_mmol_mol": 16.0, "rdw_pct": np.nan}, "warn", "outside_training:hba1c_mmol_mol;missing:rdw_pct"),
    ],
    ids=str,
)
def test_status_and_flags(cells: dict[str, object], status: str, flags: str) -> None:
    """The second of three rows differs; the others' answers are what they are without it."""
    rows = blood_rows(3, 3)
    answers = answer(CLOCK, changed(rows, 1, **cells), 0.9, quantiles=True)
    assert answers["status"].tolist() == ["ok", status, "ok"]
    assert answers["flags"].tolist() == ["", flags, ""]
    assert_strict(answers)
    assert all(answers[name].dtype == (object if status == "abstain" else np.float64) for name in NUMBERS)
    alone = answer(CLOCK, rows.iloc[[0, 2]], 0.9, quantiles=True)
    for name in (*NUMBERS, *QUANTILE_COLUMNS):
        np.testing.assert_allclose(answers[name][[0, 2]].astype(float), alone[name], rtol=0, atol=1e-9)


def test_plausible_ends_are_plausible() -> None:
    for position in (0, 1):
        ends = {marker.name: marker.plausible[position] for marker in BLOOD9.biomarkers}
        answers = answer(CLOCK, blood_rows(1, 0).assign(**ends), 0.9)
        assert answers["status"].tolist() == ["warn"]
        assert_strict(answers)


def test_a_missing_marker_changes_the_answer_and_not_only_its_flag() -> None:
    rows = blood_rows(2, 4)
    answers = answer(CLOCK, changed(rows, 0, rdw_pct=np.nan), 0.9)
    whole = answer(CLOCK, rows, 0.9)
    assert answers["biological_age_years"][0] != whole["biological_age_years"][0]
    assert answers["biological_age_years"][1] == pytest.approx(whole["biological_age_years"][1], abs=1e-9)


CELLS = st.one_of(
    st.sampled_from([None, np.nan, 0.0, -1.0, np.inf, -np.inf, 5e-324, -5e-324, 1e308, -1e308, 1e-308]),
    st.floats(),
    st.floats(1, 200),
)
ROWS = st.lists(
    st.tuples(*[CELLS] * len(BLOOD9.names), st.sampled_from(["female", "male", "", None, "x"]), CELLS), max_size=6
)


@CLOCKS
@given(cells=ROWS, coverage=st.floats(0.001, 0.999))
@settings(max_examples=80)
def test_no_nan_ever_comes_out(clock: Clock, cells: list[tuple[object, ...]], coverage: float) -> None:
    rows = pd.DataFrame(cells, columns=list(input_columns(BLOOD9)))
    answers = answer(clock, rows, coverage, quantiles=True)
    assert len(answers) == len(rows)
    assert_strict(answers)
    answered = answers[answers["status"] != "abstain"]
    assert (answered["lower_years"] <= answered["biological_age_years"]).all()
    assert (answered["biological_age_years"] <= answered["upper_years"]).all()


@CLOCKS
@given(broken=st.lists(st.booleans(), min_size=1, max_size=8))
@settings(max_examples=25)
def test_rows_that_abstain_do_not_touch_the_others(clock: Clock, broken: list[bool]) -> None:
    rows = blood_rows(len(broken), 6)
    spoilt = rows.assign(
        crp_mg_l=np.where(broken, np.inf, rows["crp_mg_l"]), sex=np.where(broken, "", rows["sex"].to_numpy(object))
    )
    answers, expected = answer(clock, spoilt, 0.9), answer(clock, rows, 0.9)
    fine = ~np.array(broken)
    for name in number_columns(clock.target):
        np.testing.assert_allclose(answers[name][fine].astype(float), expected[name][fine], rtol=0, atol=1e-9)
    assert_strict(answers)


@CLOCKS
def test_no_rows_no_answers(clock: Clock) -> None:
    answers = answer(clock, blood_rows(1, 0)[:0], 0.9, quantiles=True)
    assert tuple(answers.columns) == (*output_columns(clock.target), *QUANTILE_COLUMNS)
    assert len(answers) == 0


# --- the mortality clock ---------------------------------------------------------------------------------------------


def test_the_mortality_clock_adds_the_risks_of_its_distribution() -> None:
    rows = blood_rows(30, 1)
    answers = answer(MORTALITY, rows, 0.9)
    assert RISKS == ("risk_5y", "risk_5y_lower", "risk_5y_upper", "risk_10y", "risk_10y_lower", "risk_10y_upper")
    assert tuple(answers.columns) == (*NUMBERS, *RISKS, "status", "flags")
    assert tuple(answers.columns) == output_columns("mortality")
    assert not set(RISKS) & set(output_columns("age"))
    age = rows["age_years"].to_numpy()
    distribution = MORTALITY.predict(rows[list(BLOOD9.names)].to_numpy(), (rows["sex"] == "male").to_numpy(float), age)
    assert MORTALITY.hazard is not None
    for years in (5, 10):
        np.testing.assert_allclose(answers[f"risk_{years}y"], MORTALITY.hazard.risk(distribution, years), atol=1e-12)
        ends = MORTALITY.hazard.risk_interval(distribution, np.array([float(years)]), 0.9)
        np.testing.assert_allclose(answers[f"risk_{years}y_lower"], ends[0][:, 0], atol=1e-12)
        np.testing.assert_allclose(answers[f"risk_{years}y_upper"], ends[1][:, 0], atol=1e-12)
    assert ((answers["risk_5y"] > 0) & (answers["risk_5y"] < answers["risk_10y"]) & (answers["risk_10y"] < 1)).all()
    np.testing.assert_allclose(answers["biological_age_years"], distribution.median, atol=1e-9)


def test_the_mortality_clock_reads_age_and_the_age_clock_does_not() -> None:
    rows = blood_rows(5, 1)
    older = rows.assign(age_years=rows["age_years"] + 8)
    for clock, reads in ((CLOCK, False), (MORTALITY, True)):
        before, after = (answer(clock, people, 0.9)["biological_age_years"] for people in (rows, older))
        assert (np.abs(before - after) > 1e-6).all() == reads


@pytest.mark.parametrize(
    "cells",
    [{"age_years": np.nan}, {"age_years": np.inf}, {"age_years": -1e300}, {"sex": None}, {"crp_mg_l": np.inf}],
    ids=str,
)
def test_a_row_that_abstains_has_no_risk_and_leaves_the_others_theirs(cells: dict[str, object]) -> None:
    rows = blood_rows(3, 3)
    answers, expected = answer(MORTALITY, changed(rows, 1, **cells), 0.9), answer(MORTALITY, rows, 0.9)
    assert_strict(answers)
    for name in RISKS:
        assert answers[name][1] is None
        np.testing.assert_allclose(answers[name][[0, 2]].astype(float), expected[name][[0, 2]], rtol=0, atol=1e-9)


@CLOCKS
def test_a_constant_marker_and_identical_people_are_no_matter(clock: Clock) -> None:
    rows = pd.concat([blood_rows(1, 0)] * 20, ignore_index=True)
    answers = answer(clock, rows, 0.9, quantiles=True)
    assert_strict(answers)
    assert (answers["status"] == "ok").all()
    for name in number_columns(clock.target):
        assert np.ptp(answers[name]) < 1e-9


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([SECRET, "1"]),
        pd.Series([SECRET, 1.0], dtype=object),
        pd.Series([SECRET, None], dtype="string"),
        pd.Series([SECRET, SECRET], dtype="category"),
        pd.Series([float(SECRET), True], dtype=object),
        pd.Series([True, False]),
        pd.Series([True, None], dtype="boolean"),
        pd.Series([[float(SECRET)], 1.0], dtype=object),
        pd.Series([datetime(1961, 9, 8, tzinfo=UTC)] * 2),
        pd.Series(pd.to_timedelta([61, 98])),
        pd.Series([complex(SECRET), 1.0]),
        pd.Series([10**400, 1], dtype=object),
        pd.Series([SECRET.encode(), b"1"], dtype=object),
    ],
    ids=lambda column: f"{column.dtype} {type(column[0]).__name__}",
)
@pytest.mark.parametrize("name", ["crp_mg_l", "age_years"])
def test_what_is_no_number_is_refused_by_column_without_its_value(name: str, column: pd.Series) -> None:
    with pytest.raises(BadInput, match=rf"^column {name}: expected numbers") as raised:
        answer(CLOCK, blood_rows(2, 0).assign(**{name: column}), 0.9)
    assert SECRET not in str(raised.value)
    assert "61" not in str(raised.value)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([30, 31]),
        pd.Series([30, None], dtype="Int64"),
        pd.Series([30, None], dtype="Float64"),
        pd.Series([30, 31], dtype="float32"),
        pd.Series([30, None], dtype=object),
        pd.Series([Decimal(30), pd.NA], dtype=object),
        pd.Series([None, None], dtype=object),
        pd.Series([None, None], dtype="str"),
    ],
    ids=lambda column: f"{column.dtype} {type(column[0]).__name__}",
)
def test_every_kind_of_number_and_missing_is_read_the_same(column: pd.Series) -> None:
    rows = blood_rows(2, 0)
    as_double = column.astype(object).where(column.notna(), None).astype(float)
    expected = answer(CLOCK, rows.assign(lymphocyte_pct=as_double), 0.9)
    pd.testing.assert_frame_equal(answer(CLOCK, rows.assign(lymphocyte_pct=column), 0.9), expected, check_exact=True)


@pytest.mark.parametrize("sex", [["female"], {"a": 1}, b"male", 0.0, True])
def test_a_sex_that_is_no_text_is_unknown(sex: object) -> None:
    rows = blood_rows(2, 0)
    answers = answer(CLOCK, rows.assign(sex=pd.Series([sex, "male"], dtype=object)), 0.9)
    assert answers["status"].tolist() == ["abstain", "ok"]


def test_missing_columns_are_named_with_what_was_expected() -> None:
    rows = blood_rows(2, 0).drop(columns=["crp_mg_l", "sex"])
    with pytest.raises(BadInput, match=r"^columns missing: crp_mg_l, sex; expected .*crp_mg_l, .*sex, age_years$"):
        answer(CLOCK, rows, 0.9)


def test_a_column_that_comes_twice_is_refused() -> None:
    rows = blood_rows(2, 0)
    with pytest.raises(BadInput, match=r"^columns more than once: crp_mg_l"):
        answer(CLOCK, pd.concat([rows, rows[["crp_mg_l"]]], axis=1), 0.9)


@pytest.mark.parametrize("coverage", [0, 1, -1, 2, np.nan])
@pytest.mark.parametrize("people", [0, 2])
def test_an_impossible_coverage_is_refused_whatever_the_rows(coverage: float, people: int) -> None:
    with pytest.raises(BadInput, match=r"^coverage:"):
        answer(CLOCK, blood_rows(people, 0), coverage)


def test_input_columns_are_the_panel_and_sex_and_age() -> None:
    assert input_columns(KNOWN) == ("signal", "looseness", "sex", "age_years")
