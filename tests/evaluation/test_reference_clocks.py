"""Clocks fitted beside ours: by hand, on cohorts with a known answer, and their published figures on NHANES."""

import numpy as np
import pandas as pd
import pytest

from benchmarks.standard_splits import standard_split
from henaw.config import asset_folder
from henaw.data.panel import Biomarker, Panel, load_biomarkers, load_panel
from henaw.errors import BadInput
from henaw.evaluation.concordance import harrell_c
from henaw.evaluation.cox import hazard_ratio_of, standardized_gap
from henaw.evaluation.phenoage import phenoage
from henaw.evaluation.reference_clocks import (
    age_alone,
    fit_gompertz_clock,
    fit_klemera_doubal,
    fit_ridge,
    markers_sex_and_age,
    phenoage_and_sex,
)

PANELS = asset_folder("mlproject") / "panels"


def marker(name, transform="identity"):
    return Biomarker(name=name, title=name, unit="", organ="blood", transform=transform, plausible=(1e-9, 1e9))


PANEL = Panel(name="three", title="three", biomarkers=(marker("a"), marker("b", "log"), marker("c")))


def cohort(people=4000, seed=0):
    """Three markers follow a hidden biological age that scatters about age by 6 years; men run 3 years ahead."""
    random = np.random.default_rng(seed)
    age, male = random.uniform(25, 80, people), random.integers(0, 2, people)
    biological = age + random.normal(0, 6, people) + 3 * male
    return pd.DataFrame(
        {
            "age_years": age,
            "sex": np.where(male, "male", "female"),
            "a": 100 - 0.5 * biological + random.normal(0, 5, people),
            "b": np.exp(0.02 * biological + random.normal(0, 0.3, people)),
            "c": 5 + 0.1 * biological + random.normal(0, 2, people),
            "biological": biological,
        }
    )


def klemera_doubal_by_hand(x, age):
    """The formulas marker by marker, after numpy's own least squares."""
    k, q = np.array([np.polyfit(age, column, 1) for column in x.T]).T
    s = np.array([np.std(x[:, j] - q[j] - k[j] * age) for j in range(x.shape[1])])
    r = np.array([abs(np.corrcoef(age, column)[0, 1]) for column in x.T])
    estimate = sum((x[:, j] - q[j]) * k[j] / s[j] ** 2 for j in range(len(k))) / sum((k / s) ** 2)
    rc = sum(r**2 / np.sqrt(1 - r**2)) / sum(r / np.sqrt(1 - r**2))
    variance = np.var(estimate - age) - (1 - rc**2) / rc**2 * (age.max() - age.min()) ** 2 / (12 * len(k))
    top = sum((x[:, j] - q[j]) * k[j] / s[j] ** 2 for j in range(len(k))) + age / variance
    return top / (sum((k / s) ** 2) + 1 / variance)


def test_klemera_doubal_is_the_formula_of_each_sex():
    table = cohort()
    found = fit_klemera_doubal(table, PANEL).biological_age(table)
    for sex in ("female", "male"):
        rows = (table["sex"] == sex).to_numpy()
        x = np.column_stack([table["a"], np.log(table["b"]), table["c"]])[rows]
        expected = klemera_doubal_by_hand(x, table["age_years"].to_numpy()[rows])
        np.testing.assert_allclose(found[rows], expected, rtol=1e-9)


def test_klemera_doubal_finds_the_hidden_age_better_than_age_does():
    train, test = cohort(seed=1), cohort(seed=2)
    found = fit_klemera_doubal(train, PANEL).biological_age(test)
    ahead = (test["biological"] - test["age_years"]).to_numpy() - 3 * (test["sex"] == "male").to_numpy()
    assert np.corrcoef(found - test["age_years"], ahead)[0, 1] > 0.5
    assert np.mean(found - test["age_years"]) == pytest.approx(0, abs=0.5)


def test_klemera_doubal_needs_everything_of_a_person():
    table = cohort(300)
    clock = fit_klemera_doubal(table, PANEL)
    table.loc[0, "a"], table.loc[1, "age_years"], table.loc[2, "sex"], table.loc[3, "b"] = np.nan, np.nan, np.nan, 0.0
    missing = np.isnan(clock.biological_age(table))
    assert missing[:4].all()
    assert not missing[4:].any()


def test_klemera_doubal_without_markers_of_age_is_refused():
    table = cohort(300)
    with pytest.raises(BadInput, match="found none"):
        fit_klemera_doubal(table.assign(a=np.nan), PANEL)
    with pytest.raises(BadInput, match="female: the variance"):
        fit_klemera_doubal(table.assign(a=1.0, b=1.0, c=1.0), PANEL)


def test_klemera_doubal_agrees_with_published_scores(nhanes_table):
    """The published score has two markers that the table lacks or does not name so; its gap must still be ours."""
    catalog = load_biomarkers(PANELS)
    names = ["albumin_g_l", "alkaline_phosphatase_u_l", "crp_mg_l", "total_cholesterol_mmol_l", "creatinine_umol_l"]
    names += ["hba1c_mmol_mol", "urea_mmol_l"]
    markers = (*(catalog[name] for name in names), marker("systolic_bp_mmhg"))
    panel = Panel(name="published", title="published", biomarkers=markers)
    table = pd.read_csv(nhanes_table, usecols=["cycle", "age_years", "sex", "pregnant", *panel.names, "ref_kdm_years"])
    table = table[(table[list(panel.names)] > 0).all(axis=1) & (table["pregnant"] != 1)]
    clock = fit_klemera_doubal(table[(table["cycle"] == "III") & table["age_years"].between(30, 75)], panel)
    later = table[table["ref_kdm_years"].notna() & (table["cycle"] != "III")]
    assert len(later) > 8000
    gap = clock.biological_age(later) - later["age_years"]
    assert np.corrcoef(gap, later["ref_kdm_years"] - later["age_years"])[0, 1] > 0.7


def test_ridge_learns_a_line_and_bears_missing_markers():
    table = cohort(3000)
    table["age_years"] = 20 + 2 * table["c"] + 8 * np.log(table["b"]) + 4.0 * (table["sex"] == "male")
    clock = fit_ridge(table, PANEL)
    inner = (np.abs(table["c"] - table["c"].median()) < 8).to_numpy()  # not clipped
    np.testing.assert_allclose(clock.age(table)[inner], table["age_years"][inner], atol=0.15)
    assert clock.residual_sd < 0.15
    middle = table.assign(c=table["c"].median())
    np.testing.assert_allclose(clock.age(table.assign(c=np.nan)), clock.age(middle), rtol=1e-12)


def followed(people=6000, seed=0):
    """Mortality by the hidden biological age: hazard exp(−10.5 + 0.09·biological) a year at the examination."""
    table = cohort(people, seed)
    random = np.random.default_rng(seed + 100)
    start = np.exp(-10.5 + 0.09 * table["biological"].to_numpy())
    death = np.log1p(0.09 * random.exponential(1, people) / start) / 0.09
    end = random.uniform(5, 30, people)
    table["died"] = (death <= end).astype(float)
    table["followup_months"] = 12 * np.minimum(death, end)
    return table


def test_gompertz_clocks_order_people_by_what_they_may_know():
    train, test = followed(seed=1), followed(seed=2)
    test["known"] = test["biological"]
    years, died = test["followup_months"].to_numpy() / 12, test["died"].to_numpy()
    ranks = {
        name: harrell_c(fit_gompertz_clock(train, covariates).log_hazard(test), years, died)
        for name, covariates in {
            "age": age_alone,
            "markers": markers_sex_and_age(PANEL),
            "truth": lambda table: table[["biological"]].to_numpy(),
        }.items()
    }
    assert ranks["age"] + 0.005 < ranks["markers"] < ranks["truth"]
    assert ranks["age"] == harrell_c(test["age_years"].to_numpy(), years, died)


def test_gompertz_clock_knows_the_hazard():
    train = followed(12_000)
    clock = fit_gompertz_clock(train, lambda table: table[["biological"]].to_numpy())
    people = pd.DataFrame({"biological": [40.0, 60.0, 75.0]})
    np.testing.assert_allclose(clock.log_hazard(people), -10.5 + 0.09 * people["biological"], atol=0.15)
    start = np.exp(-10.5 + 0.09 * people["biological"].to_numpy())
    expected = np.exp(-start * np.expm1(0.09 * 10) / 0.09)
    np.testing.assert_allclose(clock.survival(people, np.array([10.0]))[:, 0], expected, atol=0.02)


def test_a_missing_covariate_is_the_training_mean():
    train = followed(1000)
    clock = fit_gompertz_clock(train, markers_sex_and_age(PANEL))
    mean = clock.log_hazard(train.assign(c=train["c"].mean()))
    np.testing.assert_allclose(clock.log_hazard(train.assign(c=np.nan)), mean, rtol=1e-9)


@pytest.mark.parametrize(
    ("name", "people", "deaths", "figures"),
    [
        ("S1", 26_877, 5_710, {"age": 0.8336, "PhenoAge": 0.8550, "with sex": 0.8565, "linear": 0.8590}),
        ("S3", 10_779, 1_663, {"age": 0.8366, "PhenoAge": 0.8585, "with sex": 0.8597, "linear": 0.8641}),
    ],
)
def test_concordance_on_nhanes(nhanes_table, name, people, deaths, figures):
    split = standard_split(nhanes_table, name)
    train, test = split.train, split.test
    years, died = test["followup_months"].to_numpy() / 12, test["died"].to_numpy()
    assert (len(test), died.sum()) == (people, deaths)
    clocks = {"age": age_alone, "with sex": phenoage_and_sex, "linear": markers_sex_and_age(split.panel)}
    risks = {key: fit_gompertz_clock(train, covariates).log_hazard(test) for key, covariates in clocks.items()}
    measured = test.assign(crp_mg_l=test.get("crp_measured_mg_l", test["crp_mg_l"]))
    risks["PhenoAge"] = phenoage(measured)
    found = {key: harrell_c(risk, years, died) for key, risk in risks.items()}
    assert found == pytest.approx(figures, abs=6e-5)
    if name == "S1":
        age, male = test["age_years"].to_numpy(), (test["sex"] == "male").to_numpy(dtype=float)
        for key, ratio in {"PhenoAge": 1.48, "linear": 1.66}.items():
            gap = standardized_gap(risks[key], age)
            assert hazard_ratio_of(gap, age, male, years, died)(np.ones((people, 1)))[0] == pytest.approx(
                ratio, abs=0.006
            )


@pytest.mark.parametrize(
    ("name", "train", "test", "mae"), [("A", 20_048, 5_208, 11.72), ("extended", 20_022, 5_206, 10.17)]
)
def test_ridge_on_nhanes(nhanes_table, name, train, test, mae):
    split = standard_split(nhanes_table, name)
    assert (len(split.train), len(split.test)) == (train, test)
    assert not set(split.train["participant"]) & set(split.test["participant"])
    predicted = fit_ridge(split.train, split.panel).age(split.test)
    assert np.abs(predicted - split.test["age_years"]).mean() == pytest.approx(mae, abs=0.006)


def test_levine_panel_is_phenoages_own():
    panel = load_panel("phenoage9", PANELS)
    table = pd.DataFrame([dict.fromkeys((*panel.names, "age_years"), 1.0)])
    assert np.isfinite(phenoage(table)).all()
