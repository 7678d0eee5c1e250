"""Every conversion has a known answer, spelling does not count, and what cannot be converted is one clear line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from henaw.config import asset_folder, load_config
from henaw.data.cohort import read_cohort, source_digest
from henaw.data.panel import Biomarker, load_biomarkers, load_panel
from henaw.data.units import Conversion, chosen_conversions, load_conversions
from henaw.errors import BadInput

PANELS = asset_folder("mlproject") / "panels"
BLOOD9 = load_panel("blood9", PANELS)

# g/mol, from the substances' formulas; the factors in units.yaml are the usual rounded ones.
MOLAR_MASS = {
    "creatinine_umol_l": 113.12,
    "urate_umol_l": 168.11,
    "total_bilirubin_umol_l": 584.66,
    "glucose_mmol_l": 180.156,
    "total_cholesterol_mmol_l": 386.65,
    "hdl_mmol_l": 386.65,
    "triglycerides_mmol_l": 885.43,
}

KNOWN_ANSWERS = [
    ("albumin_g_l", "g/dL", 4.5, 45.0),
    ("albumin_g_l", "µmol/L", 676.7, 45.0),
    ("alt_u_l", "µkat/L", 0.5, 30.0),
    ("total_bilirubin_umol_l", "mg/dL", 1.0, 17.1),
    ("creatinine_umol_l", "mg/dL", 1.0, 88.4),
    ("creatinine_umol_l", "mg/L", 10.0, 88.4),
    ("creatinine_umol_l", "mmol/L", 0.0884, 88.4),
    ("urea_mmol_l", "mg/dL urea", 30.0, 5.0),
    ("urea_mmol_l", "mg/dL urea nitrogen", 14.0, 5.0),
    ("urate_umol_l", "mg/dL", 5.0, 297.4),
    ("crp_mg_l", "mg/dL", 0.21, 2.1),
    ("hba1c_mmol_mol", "%", 6.5, 47.5),  # the two scales of the diagnosis of diabetes: 6.5 % is 48 mmol/mol
    ("hba1c_mmol_mol", "%", 5.7, 38.8),
    ("glucose_mmol_l", "mg/dL", 126.0, 7.0),
    ("total_cholesterol_mmol_l", "mg/dL", 200.0, 5.17),
    ("hdl_mmol_l", "mg/dL", 40.0, 1.03),
    ("triglycerides_mmol_l", "mg/dL", 150.0, 1.69),
    ("wbc_10e9_l", "10^3/µL", 7.0, 7.0),
    ("wbc_10e9_l", "/µL", 7000.0, 7.0),
    ("lymphocyte_pct", "fraction", 0.3, 30.0),
    ("rbc_10e12_l", "/µL", 4.7e6, 4.7),
    ("haemoglobin_g_dl", "g/L", 143.0, 14.3),
    ("haemoglobin_g_dl", "mmol/L", 8.87, 14.3),
    ("mcv_fl", "µm^3", 90.0, 90.0),
    ("rdw_pct", "fraction", 0.127, 12.7),
    ("platelets_10e9_l", "/µL", 255_000.0, 255.0),
]


@pytest.fixture(scope="module")
def markers() -> dict[str, Biomarker]:
    return load_biomarkers(PANELS)


def chosen(markers: dict[str, Biomarker], name: str, unit: str) -> Conversion:
    return chosen_conversions({name: unit}, markers.values(), PANELS)[name]


@pytest.mark.parametrize(("name", "unit", "value", "canonical"), KNOWN_ANSWERS)
def test_conversions_have_their_known_answers(
    markers: dict[str, Biomarker], name: str, unit: str, value: float, canonical: float
) -> None:
    assert chosen(markers, name, unit).to_canonical(value) == pytest.approx(canonical, rel=5e-3)


def test_factors_follow_from_molar_masses() -> None:
    known = load_conversions(PANELS)
    for name, mass in MOLAR_MASS.items():
        [factor] = [one.factor for one in known[name] if one.unit == "mg/dL"]
        assert factor == pytest.approx((10_000 if name.endswith("_umol_l") else 10) / mass, rel=1e-3)


def test_every_biomarker_has_its_units_and_no_unit_is_the_canonical_one(markers: dict[str, Biomarker]) -> None:
    known = load_conversions(PANELS)
    assert known.keys() == markers.keys()
    for name, conversions in known.items():
        assert markers[name].unit not in [one.unit for one in conversions]


@given(st.floats(1e-6, 1e6))
def test_there_and_back_again(value: float) -> None:
    for conversions in load_conversions(PANELS).values():
        for one in conversions:
            assert one.to_canonical(one.from_canonical(value)) == pytest.approx(value, rel=1e-9, abs=1e-6)


@pytest.mark.parametrize(
    ("name", "unit", "meant"),
    [
        ("creatinine_umol_l", "umol/L", "µmol/L"),
        ("creatinine_umol_l", "μmol/l", "µmol/L"),  # Greek mu, not the micro sign
        ("creatinine_umol_l", " mcmol/L ", "µmol/L"),
        ("creatinine_umol_l", "MG/DL", "mg/dL"),
        ("alt_u_l", "IU/L", "U/L"),
        ("hba1c_mmol_mol", "percent", "%"),
        ("wbc_10e9_l", "×10⁹/L", "10^9/L"),
        ("wbc_10e9_l", "10e9/l", "10^9/L"),
        ("wbc_10e9_l", "10*3/uL", "10^3/µL"),
        ("wbc_10e9_l", "cells/µL", "/µL"),
        ("mcv_fl", "µm³", "µm^3"),
        ("urea_mmol_l", "mg/dl  Urea Nitrogen", "mg/dL urea nitrogen"),
    ],
)
def test_spelling_does_not_count(markers: dict[str, Biomarker], name: str, unit: str, meant: str) -> None:
    assert chosen(markers, name, unit).unit == meant


@pytest.mark.parametrize(
    ("name", "unit", "message"),
    [
        ("creatinine_umol_l", "mg/dl2", r"'mg/dl2' is no known unit.*expected µmol/L or mg/dL.*nearest: mg/dL"),
        ("lymphocyte_pct", "10^9/L", r"lymphocyte_pct: '10\^9/L' cannot be converted to %; expected % or fraction"),
        ("urea_mmol_l", "mg/dL", r"cannot be converted.*mg/dL urea or mg/dL urea nitrogen"),
        ("creatinine_mg_dl", "mg/dL", r"creatinine_mg_dl is not read.*nearest: creatinine_umol_l"),
        ("glucose_mmol_l", "mg/dL", r"glucose_mmol_l is not read"),  # known, but not of the panel
    ],
)
def test_what_cannot_be_converted_is_one_clear_line(name: str, unit: str, message: str) -> None:
    extra = [load_biomarkers(PANELS)["urea_mmol_l"]]
    with pytest.raises(BadInput, match=message) as caught:
        chosen_conversions({name: unit}, [*BLOOD9.biomarkers, *extra], PANELS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entry", ["mg/dL: 0", "mg/dL: x", "mg/dL: [1, 2, 3]", "mg/dL: -1"])
def test_an_entry_that_is_no_conversion_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "units.yaml").write_text(f"crp_mg_l: {{{entry}}}")
    with pytest.raises(BadInput, match=r"units.yaml: crp_mg_l: mg/dL: expected a factor"):
        load_conversions(tmp_path)
    (tmp_path / "units.yaml").write_text("crp_mg_l: mg/dL")
    with pytest.raises(BadInput, match=r"units.yaml: crp_mg_l: expected unit: factor"):
        load_conversions(tmp_path)


def people(folder: Path, **changed: list[float]) -> Path:
    table = pd.DataFrame({marker.name: [np.mean(marker.plausible) / 5] * 3 for marker in BLOOD9.biomarkers})
    table = table.assign(participant_id=["a", "b", "c"], age_years=50, sex="female", **changed)
    table.to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


def test_a_source_is_converted_as_it_is_read(tmp_path: Path) -> None:
    path = people(tmp_path, creatinine_umol_l=[0.9, np.nan, 1.2], hba1c_mmol_mol=[5.4, 6.5, np.nan])
    units = f"source.units={{creatinine_umol_l:\\ mg/dL,hba1c_mmol_mol:\\ '%'}} state.folder={tmp_path / 'state'}"
    plain = load_config(data=str(path), overrides=f"state.folder={tmp_path / 'state'}")
    config = load_config(data=str(path), overrides=units.replace("'%'", "\"'%'\""))
    table = read_cohort(config, BLOOD9).table
    np.testing.assert_allclose(table["creatinine_umol_l"], [79.56, np.nan, 106.08])
    np.testing.assert_allclose(table["hba1c_mmol_mol"], [35.51925, 47.54115, np.nan])
    untouched = read_cohort(plain, BLOOD9).table
    pd.testing.assert_series_equal(table["albumin_g_l"], untouched["albumin_g_l"])
    assert source_digest(config, BLOOD9) != source_digest(plain, BLOOD9)


def test_a_floor_is_in_the_canonical_unit(tmp_path: Path) -> None:
    path = people(tmp_path, crp_mg_l=[0.01, 0.5, 3.0])
    overrides = f"source.units={{crp_mg_l:\\ mg/dL}} cohort.floors={{crp_mg_l:\\ 2.1}} state.folder={tmp_path / 's'}"
    table = read_cohort(load_config(data=str(path), overrides=overrides), BLOOD9).table
    assert table["crp_mg_l"].tolist() == [2.1, 5.0, 30.0]


def test_the_synthetic_cohort_has_no_other_units() -> None:
    with pytest.raises(BadInput, match="no data is named"):
        load_config(overrides="source.units={crp_mg_l:\\ mg/dL}")
