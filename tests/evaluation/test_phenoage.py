"""PhenoAge against a person worked out by hand and the published scores of 36,794 people."""

import math

import numpy as np
import pandas as pd
import pytest

from henaw.evaluation.phenoage import PHENOAGE_COLUMNS, phenoage, phenoage_survival

PERSON = {
    "albumin_g_l": 43.0,
    "creatinine_umol_l": 80.0,
    "glucose_mmol_l": 5.2,
    "crp_mg_l": 2.0,
    "lymphocyte_pct": 30.0,
    "mcv_fl": 90.0,
    "rdw_pct": 13.0,
    "alkaline_phosphatase_u_l": 70.0,
    "wbc_10e9_l": 6.5,
    "age_years": 50.0,
}


def by_hand(log_crp):
    xb = -19.9067 - 0.0336 * 43 + 0.0095 * 80 + 0.1953 * 5.2 + 0.0954 * log_crp - 0.0120 * 30 + 0.0268 * 90
    xb += 0.3306 * 13 + 0.00188 * 70 + 0.0554 * 6.5 + 0.0804 * 50
    mortality = 1 - math.exp(-math.exp(xb) * (math.exp(120 * 0.0076927) - 1) / 0.0076927)
    return 141.50225 + math.log(-0.00553 * math.log(1 - mortality)) / 0.090165, mortality


def test_a_person_worked_out_by_hand():
    table = pd.DataFrame([PERSON])
    assert phenoage(table)[0] == pytest.approx(by_hand(math.log(0.2))[0], abs=1e-9)
    assert phenoage(table, log_crp="ln1p")[0] == pytest.approx(by_hand(math.log(1.2))[0], abs=1e-9)
    survival = phenoage_survival(table, np.array([0.0, 10.0]))
    np.testing.assert_allclose(survival, [[1, 1 - by_hand(math.log(0.2))[1]]], rtol=1e-12)


def test_the_sickest_keep_a_finite_age():
    sickest = PERSON | {"creatinine_umol_l": 2500.0, "glucose_mmol_l": 60.0, "crp_mg_l": 500.0, "rdw_pct": 45.0}
    assert 200 < phenoage(pd.DataFrame([sickest]))[0] < 1000


@pytest.mark.parametrize("column", PHENOAGE_COLUMNS)
def test_a_missing_value_has_no_answer(column):
    assert np.isnan(phenoage(pd.DataFrame([PERSON | {column: np.nan}]))).all()


@pytest.mark.parametrize("crp", [0.0, -1.0])
def test_crp_without_a_logarithm_has_no_answer(crp):
    assert np.isnan(phenoage(pd.DataFrame([PERSON | {"crp_mg_l": crp}]))).all()


def test_published_scores_of_nhanes(nhanes_table):
    table = pd.read_csv(nhanes_table, usecols=[*PHENOAGE_COLUMNS, "ref_phenoage_years"])
    table = table[table["ref_phenoage_years"].notna()]
    assert len(table) == 36_794
    published = table["ref_phenoage_years"].to_numpy()
    assert np.abs(phenoage(table, log_crp="ln1p") - published).max() < 0.1
    assert np.median(phenoage(table) - published) == pytest.approx(-1.8, abs=0.1)  # the formula as printed has ln(CRP)
