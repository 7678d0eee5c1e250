"""Panels: the ones that come with HENAW, and what is said of one that cannot be used."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from henaw.config import asset_folder
from henaw.data.panel import DERIVED_NEEDS, Panel, available_panels, load_biomarkers, load_panel
from henaw.errors import BadInput

PANELS = asset_folder("mlproject") / "panels"
ENTRY: dict[str, Any] = {
    "title": "C-reactive protein",
    "unit": "mg/L",
    "organ": "inflammation",
    "transform": "log",
    "plausible": [0.01, 500],
}


def put(folder: Path, panel: object = None, **entries: object) -> Path:
    """A folder of panels with the markers ``entries``, and a panel ``mine``."""
    (folder / "biomarkers.yaml").write_text(yaml.safe_dump(entries or {"crp": ENTRY}), encoding="utf-8")
    content = {"title": "Mine", "biomarkers": ["crp"]} if panel is None else panel
    (folder / "mine.yaml").write_text(
        content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8"
    )
    return folder


def refusal(folder: Path, name: str = "mine") -> str:
    with pytest.raises(BadInput) as raised:
        load_panel(name, folder)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- those that come with HENAW --------------------------------------------------------------------------------------


def test_the_default_panel_is_the_nine_markers_in_their_order() -> None:
    assert load_panel("blood9", PANELS).names == (
        "crp_mg_l",
        "hba1c_mmol_mol",
        "creatinine_umol_l",
        "albumin_g_l",
        "lymphocyte_pct",
        "rdw_pct",
        "ggt_u_l",
        "ast_u_l",
        "alt_u_l",
    )


def test_the_other_panels_are_phenoages_and_the_default_with_sixteen_more() -> None:
    assert available_panels(PANELS) == ["blood9", "extended", "phenoage9"]
    extended, nine = load_panel("extended", PANELS), load_panel("blood9", PANELS)
    assert extended.names[: len(nine.names)] == nine.names
    assert len(extended.names) == 25
    assert set(load_panel("phenoage9", PANELS).names) == {
        "albumin_g_l",
        "creatinine_umol_l",
        "glucose_mmol_l",
        "crp_mg_l",
        "lymphocyte_pct",
        "mcv_fl",
        "rdw_pct",
        "alkaline_phosphatase_u_l",
        "wbc_10e9_l",
    }


@pytest.mark.parametrize("name", available_panels(PANELS))
def test_every_panel_survives_being_stored_with_a_clock(name: str) -> None:
    panel = load_panel(name, PANELS)
    assert panel.name == name
    assert Panel.model_validate(panel.model_dump(mode="json")) == panel


def test_every_biomarker_has_its_unit_in_its_name_and_a_field_of_its_own() -> None:
    catalog = load_biomarkers(PANELS)
    suffixes = {"%": "pct", "10^9/L": "10e9_l", "10^12/L": "10e12_l", "µmol/L": "umol_l"}
    for name, marker in catalog.items():
        suffix = suffixes.get(marker.unit, marker.unit.lower().replace("/", "_"))
        assert name == marker.name
        assert name.endswith(f"_{suffix}")
    fields = [marker.ukb_field for marker in catalog.values()]
    assert len(set(fields)) == len(fields)


def test_plausible_ranges_are_at_least_as_wide_as_the_reference_splits() -> None:
    """The filter of the reference splits; the albumin of a person in hospital is not a mistake."""
    catalog = load_biomarkers(PANELS)
    for name, expected in {
        "hba1c_mmol_mol": (15, 200),
        "wbc_10e9_l": (0.5, 150),
        "albumin_g_l": (8, 70),
        "creatinine_umol_l": (8, 2500),
        "glucose_mmol_l": (1, 60),
        "crp_mg_l": (0.01, 500),
        "rdw_pct": (8, 45),
        "lymphocyte_pct": (0.1, 100),
        "mcv_fl": (40, 140),
    }.items():
        assert catalog[name].plausible == expected


def test_panels_cannot_be_changed() -> None:
    panel = load_panel("blood9", PANELS)
    with pytest.raises(ValueError, match="frozen"):
        panel.title = "another"
    with pytest.raises(ValueError, match="frozen"):
        panel.biomarkers[0].plausible = (0, 1)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_a_panel_that_is_not_there_is_named_with_those_that_are() -> None:
    assert refusal(PANELS, "blood10") == ("panel 'blood10': no such panel; expected one of blood9, extended, phenoage9")
    assert refusal(PANELS, "biomarkers").startswith("panel 'biomarkers': no such panel")
    assert refusal(PANELS, "../panels/blood9").startswith("panel '../panels/blood9': no such panel")


def test_a_new_marker_is_a_matter_of_two_files(tmp_path: Path) -> None:
    panel = load_panel("mine", put(tmp_path))
    assert (panel.names, panel.derived, panel.biomarkers[0].plausible) == (("crp",), (), (0.01, 500.0))


@pytest.mark.parametrize(
    ("panel", "message"),
    [
        (
            {"title": "Mine", "biomarkers": ["crp", "iron"]},
            "mine.yaml: biomarkers: iron not described in biomarkers.yaml",
        ),
        ({"title": "Mine", "biomarkers": ["crp", "crp"]}, "mine.yaml: biomarkers: expected each only once"),
        ({"title": "Mine", "biomarkers": []}, "mine.yaml: biomarkers: expected a list of at least one name"),
        ({"title": "Mine", "biomarkers": "crp"}, "mine.yaml: biomarkers: expected a list of at least one name"),
        ({"title": "Mine", "biomarkers": [{"crp": 1}]}, "mine.yaml: biomarkers: expected a list of at least one name"),
        ({"title": "Mine"}, "mine.yaml: biomarkers: expected a list of at least one name"),
        ({"biomarkers": ["crp"]}, "mine.yaml: title: Field required"),
        ({"title": "Mine", "biomarkers": ["crp"], "derivd": []}, "mine.yaml: derivd: Extra inputs are not permitted"),
        (
            {"title": "Mine", "biomarkers": ["crp"], "derived": ["log_ast_alt"]},
            "mine.yaml: derived feature log_ast_alt needs ast_u_l, alt_u_l",
        ),
        (
            {"title": "Mine", "biomarkers": ["crp"], "derived": ["ratio"]},
            "mine.yaml: derived: 0: Input should be 'log_ast_alt'",
        ),
    ],
)
def test_a_panel_that_cannot_be_used_is_refused_by_file_and_key(tmp_path: Path, panel: object, message: str) -> None:
    assert refusal(put(tmp_path, panel)) == message


@pytest.mark.parametrize("content", ["", "- crp\n", "a: [", "text"])
def test_a_file_that_is_no_panel_is_refused_by_path(tmp_path: Path, content: str) -> None:
    assert refusal(put(tmp_path, content)).startswith(f"{tmp_path / 'mine.yaml'}: ")


def test_one_of_two_markers_of_a_derived_feature_is_not_enough(tmp_path: Path) -> None:
    first, second = DERIVED_NEEDS["log_ast_alt"]
    put(tmp_path, {"title": "Mine", "biomarkers": [first], "derived": ["log_ast_alt"]}, **{first: ENTRY, second: ENTRY})
    assert refusal(tmp_path) == f"mine.yaml: derived feature log_ast_alt needs {second}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plausible": [500, 0.01]}, "plausible: the lower end must lie below the upper end"),
        ({"plausible": [1, 1]}, "plausible: the lower end must lie below the upper end"),
        ({"plausible": [1]}, "plausible: 1: Field required"),
        ({"plausible": [0.01, float("inf")]}, "plausible: 1: Input should be a finite number"),
        ({"plausible": [0, 500]}, "plausible: transform log needs a lower end above 0"),
        ({"plausible": [-1, 5], "transform": "log1p"}, "plausible: transform log1p needs a lower end above -1"),
        ({"transform": "sqrt"}, "transform: Input should be 'identity', 'log' or 'log1p'"),
        ({"organ": "heart"}, "organ: Input should be 'liver', 'kidney', 'inflammation', 'metabolism' or 'blood'"),
        ({"units": "g/L"}, "units: Extra inputs are not permitted"),
    ],
)
def test_a_biomarker_that_cannot_be_is_refused_by_name_and_key(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    assert refusal(put(tmp_path, crp=ENTRY | change)) == f"biomarkers.yaml: crp: {message}"


def test_a_biomarker_without_entry_is_refused_by_name(tmp_path: Path) -> None:
    assert refusal(put(tmp_path, crp=None)) == (
        "biomarkers.yaml: crp: expected title, unit, organ, transform, plausible"
    )


def test_broken_yaml_of_the_biomarkers_is_refused_by_path(tmp_path: Path) -> None:
    put(tmp_path)
    (tmp_path / "biomarkers.yaml").write_text("crp: {", encoding="utf-8")
    assert re.match(rf"{re.escape(str(tmp_path))}/biomarkers.yaml: cannot be read as YAML: ", refusal(tmp_path))
