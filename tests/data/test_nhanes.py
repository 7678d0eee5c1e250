"""NHANES as published becomes the participant table, value by value; what is wrong with a folder is one line."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from henaw.config import Config, asset_folder, load_config
from henaw.data.cohort import read_cohort, source_digest, source_kind
from henaw.data.nhanes import find_surveys, is_nhanes, read_nhanes
from henaw.data.nhanes_mortality import read_mortality
from henaw.data.nhanes_variables import NhanesMap, load_nhanes_map
from henaw.data.panel import Panel, load_biomarkers, load_panel
from henaw.data.participants import KEY_VARIABLE
from henaw.errors import BadInput
from tests.data.nhanes_files import mortality_line, nhanes_map, transport, write_cycle

PANELS = asset_folder("mlproject") / "panels"
SEQNS = ("101", "102", "103", "104")


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)


@pytest.fixture
def known() -> NhanesMap:
    return nhanes_map()


@pytest.fixture
def panel() -> Panel:
    return load_panel("blood9", PANELS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A made-up 2009-2010."""
    write_cycle(tmp_path / "raw" / "2009-2010", "2009-2010")
    return tmp_path / "raw"


def settings(data: Path, state: Path, overrides: str = "") -> Config:
    return load_config(data=str(data), overrides=f"state.folder={state} cohort.ages=[18,90] {overrides}")


def read(folder: Path, *names: str, optional: tuple[str, ...] = ()) -> pd.DataFrame:
    known = nhanes_map()
    texts = [name for name in names if known.columns[name].is_text]
    return read_nhanes(
        folder, known, numbers=[name for name in names if name not in texts], texts=texts, optional=optional
    )


# -- against the participant table ------------------------------------------------------------------------------------

NOT_IN_THE_FILES = {
    "ref_phenoage_years": "a published score, not of NCHS",
    "ref_kdm_years": "a published score, not of NCHS",
    "cystatin_c_mg_l": "measured in 1999-2002 only; empty in the table, too",
}


def test_every_cell_of_2009_2010_is_that_of_the_participant_table(
    shared_data: Path, nhanes_table: Path, known: NhanesMap
) -> None:
    table = pd.read_csv(nhanes_table, dtype={"seqn": "str"}, low_memory=False)
    table = table[table["cycle"] == "2009-2010"].reset_index(drop=True)
    found = read(shared_data / "nhanes" / "raw", *known.columns, optional=("cystatin_c_mg_l",))
    assert set(table) - set(found) == set(NOT_IN_THE_FILES)
    assert set(found) - set(table) == set()
    assert len(found) == len(table) == 6050
    cells = 0
    for name in found:
        expected = table[name].astype(found[name].dtype)
        np.testing.assert_array_equal(found[name], expected, err_msg=name)
        cells += int(expected.notna().sum())
    assert cells > 240_000
    assert table["cystatin_c_mg_l"].isna().all()


def test_the_cohort_is_the_same_whichever_it_is_read_from(
    shared_data: Path, nhanes_table: Path, tmp_path: Path, panel: Panel
) -> None:
    overrides = "cohort.exclude={pregnant: [1]}".replace(" ", "")
    asked = f"'{overrides}' split.by=column split.column=cycle split.test=[2009-2010] source.id_columns=[cycle,seqn]"
    cohorts = [
        read_cohort(settings(data, tmp_path / "state", asked), panel)
        for data in (shared_data / "nhanes" / "raw", nhanes_table)
    ]
    assert [cohort.kind for cohort in cohorts] == ["nhanes", "table"]
    table = cohorts[1].table[cohorts[1].table["cycle"] == "2009-2010"].reset_index(drop=True)
    pd.testing.assert_frame_equal(
        cohorts[0].table.drop(columns="pregnant"), table.drop(columns="pregnant"), check_exact=True
    )
    for side in (cohorts[0].table, table):
        assert pd.to_numeric(side["pregnant"]).eq(1).sum() == pd.to_numeric(table["pregnant"]).eq(1).sum()


# -- the map ----------------------------------------------------------------------------------------------------------


def test_every_biomarker_of_the_catalog_is_mapped_in_every_cycle_but_crp_in_two(known: NhanesMap) -> None:
    missing = {
        (name, cycle) for name in load_biomarkers(PANELS) for cycle in known.cycles if not known.column_in(name, cycle)
    }
    assert missing == {("crp_mg_l", "2011-2012"), ("crp_mg_l", "2013-2014")}


def test_files_are_of_one_cycle_and_survey_numbers_differ(known: NhanesMap) -> None:
    names = [cycle.file_name(role) for cycle in known.cycles.values() for role in cycle.files]
    shared = {name for name in names if names.count(name) > 1}
    assert shared == {"LAB13.xpt", "L13_B.xpt", "L13_C.xpt"}, "cholesterol and HDL lay in one file"
    assert len({cycle.survey for cycle in known.cycles.values()}) == len(known.cycles)


# What NCHS's documentation says of the cycles, written down apart from the map.
DOCUMENTED = [
    ("2001-2002", "alkaline_phosphatase_u_l", "LBDSAPSI"), ("2003-2004", "alkaline_phosphatase_u_l", "LBXSAPSI"),
    ("2001-2002", "creatinine_umol_l", "LBDSCR"), ("1999-2000", "creatinine_umol_l", "LBXSCR"),
    ("2001-2002", "total_bilirubin_umol_l", "LBDSTB"), ("2005-2006", "total_bilirubin_umol_l", "LBXSTB"),
    ("1999-2000", "hdl_mmol_l", "LBDHDL"), ("2001-2002", "hdl_mmol_l", "LBDHDL"), ("2003-2004", "hdl_mmol_l", "LBXHDD"),
    ("2005-2006", "hdl_mmol_l", "LBDHDD"), ("2009-2010", "crp_mg_l", "LBXCRP"), ("2015-2016", "crp_mg_l", "LBXHSCRP"),
    ("1999-2000", "cystatin_c_mg_l", "SSCYPC"), ("2017-2018", "systolic_bp_mmhg", "BPXSY1 BPXSY2 BPXSY3 BPXSY4"),
    ("2017-2020", "systolic_bp_mmhg", "BPXOSY1 BPXOSY2 BPXOSY3"),
]  # fmt: skip


@pytest.mark.parametrize(("cycle", "name", "variables"), DOCUMENTED)
def test_variables_of_a_cycle_are_those_of_its_documentation(
    known: NhanesMap, cycle: str, name: str, variables: str
) -> None:
    column = known.column_in(name, cycle)
    assert column is not None
    assert column.variables == variables.split()


CREATININE = {
    "1999-2000": (1.013 * 1.1 + 0.147) * 88.4,
    "2001-2002": 1.1 * 88.4,
    "2005-2006": (0.978 * 1.1 - 0.016) * 88.4,
}


@pytest.mark.parametrize("cycle", nhanes_map().cycles)
def test_each_cycle_has_its_own_variables_and_factors(tmp_path: Path, known: NhanesMap, cycle: str) -> None:
    old = {"2001-2002": "LBDSCR"}
    high_sensitivity = int(cycle[:4]) >= 2015
    values = {
        old.get(cycle, "LBXSCR"): [1.1] * 4,
        "LBXGH": [5.2, 6.5, None, "A"],
        "LBXHSCRP" if high_sensitivity else "LBXCRP": [0.01, 0.02, 1.5, None],
        "LBDHRPLC": [1, 0, 0, None],
        "RIDAGEYR": [20, 79, known.cycles[cycle].top_age, 40],
        "RIDRETH1": [1, 2, 5, 9],
        "RIDEXPRG": [1, 2, 3, None],
    }
    write_cycle(tmp_path, cycle, values=values)
    given = [name for name in known.columns if known.column_in(name, cycle)]
    found = read(tmp_path, *given)
    assert found["cycle"].eq(cycle).all()
    assert found["seqn"].tolist() == list(SEQNS)
    assert found["creatinine_umol_l"].tolist() == [round(CREATININE.get(cycle, 1.1 * 88.4), 4)] * 4
    assert found["creatinine_as_measured_umol_l"].tolist() == [97.24] * 4
    assert found["hba1c_mmol_mol"].round(2).tolist()[:2] == [33.33, 47.54]
    assert found["hba1c_mmol_mol"][2:].isna().all()
    assert found["age_topcoded"].tolist() == [0, 0, 1, 0]
    assert found["sex"].tolist() == ["male", "female", "male", "female"]
    assert found["race_ethnicity"].tolist()[:3] == ["mexican_american", "other_hispanic", "other"]
    assert found["race_ethnicity"].isna()[3], "a code that is not known"
    np.testing.assert_array_equal(found["pregnant"], [1, 0, np.nan, np.nan])
    if "crp_mg_l" in given:
        unit = 1 if high_sensitivity else 10
        np.testing.assert_array_equal(found["crp_mg_l"], np.array([0.01, 0.02, 1.5, np.nan]) * unit)
        np.testing.assert_array_equal(found["crp_below_lod"], [1, 0, 0, np.nan])
    if "died" in given:
        assert found["followup_months"].tolist() == [101, 102, 103, 104]
        assert found["died"].tolist() == [0] * 4


def test_a_later_reading_counts_more_than_the_first_and_zero_is_none(tmp_path: Path) -> None:
    readings = {
        "BPXSY1": [120, 150, None, 0], "BPXSY2": [110, None, None, None],
        "BPXSY3": [112, None, 130, None], "BPXSY4": [None, None, 0, None],
    }  # fmt: skip
    write_cycle(tmp_path, "2009-2010", values=readings)
    np.testing.assert_array_equal(read(tmp_path, "systolic_bp_mmhg")["systolic_bp_mmhg"], [111, 150, 130, np.nan])


def test_examined_adults_with_blood_are_in(tmp_path: Path, known: NhanesMap) -> None:
    nobody: dict[str, list[float | None]] = {
        variable: [1.0, 1.0, 1.0, None, 1.0, 1.0]
        for name in known.people.measured
        if (column := known.column_in(name, "2009-2010"))
        for variable in column.variables
    }
    people = {"RIDAGEYR": [17, 18, 60, 60, 60, 60], "RIDSTATR": [2, 2, 1, 2, 2, None]}
    write_cycle(tmp_path, "2009-2010", people=6, values={**nobody, **people})
    assert read(tmp_path, "age_years")["seqn"].tolist() == ["102", "105"]
    for name in ("BIOPRO_F", "GHB_F", "CRP_F", "CBC_F"):
        (tmp_path / f"{name}.xpt").unlink()
    assert read(tmp_path, "age_years")["seqn"].tolist() == ["102", "105"], "by the files that there are"


def test_cycles_are_joined_and_what_one_did_not_measure_is_missing_in_it(tmp_path: Path) -> None:
    for cycle in ("2009-2010", "2011-2012", "2021-2023"):
        write_cycle(tmp_path / "deep" / cycle, cycle)
    for path in (tmp_path / "deep" / "2011-2012").iterdir():
        path.rename(path.with_name(path.name.lower()))
    found = read(tmp_path, "crp_mg_l", "wbc_10e9_l", "died", "race_ethnicity", optional=("died",))
    assert found["cycle"].tolist() == ["2009-2010"] * 4 + ["2011-2012"] * 4 + ["2021-2023"] * 4
    assert found.groupby("cycle")["crp_mg_l"].count().tolist() == [4, 0, 4]
    assert found.groupby("cycle")["died"].count().tolist() == [4, 4, 0]
    assert found["wbc_10e9_l"].notna().all()
    without = read(tmp_path / "deep" / "2021-2023", "wbc_10e9_l", "died", optional=("died",))
    assert "died" not in without


def test_texts_of_numbers_are_their_digits(folder: Path) -> None:
    known = nhanes_map()
    found = read_nhanes(
        folder, known, numbers=[], texts=["cycle", "age_topcoded", "bmi_kg_m2", "visit"], optional=["visit"]
    )
    assert list(found) == ["cycle", "seqn", "age_topcoded", "bmi_kg_m2"]
    assert set(found["age_topcoded"]) == {"0"}
    assert found["bmi_kg_m2"].str.fullmatch(r"[1-9](\.[0-9]{1,2})?").all()


# -- folders that cannot be used --------------------------------------------------------------------------------------


MORTALITY = "NHANES_2009_2010_MORT_2019_PUBLIC.dat"
HERE = "2009-2010"


def gone(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / HERE / name).unlink()


def moved(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: (folder / HERE / name).rename(folder / to)


def copied(name: str, to: str) -> Callable[[Path], object]:
    return lambda folder: shutil.copy(folder / HERE / name, folder / to)


def edited(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    return lambda folder: (folder / HERE / name).write_bytes(change((folder / HERE / name).read_bytes()))


def with_values(**values: float) -> Callable[[Path], object]:
    columns = {name: [value] * 4 for name, value in values.items()}
    return lambda folder: write_cycle(folder / HERE, HERE, values=columns)


def with_rows(people: int, kept: Callable[[list[float]], list[float]]) -> Callable[[Path], object]:
    """A cycle of many people, and fewer of them in the file of CRP."""

    def change(folder: Path) -> None:
        write_cycle(folder / HERE, HERE, people)
        seqn = kept([float(person) for person in range(101, 101 + people)])
        (folder / HERE / "CRP_F.xpt").write_bytes(transport({"SEQN": seqn, "LBXCRP": [0.5] * len(seqn)}))

    return change


def other_kind(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else in the place of a file."""

    def change(folder: Path) -> None:
        (folder / HERE / "CRP_F.xpt").unlink()
        make(folder / HERE / "CRP_F.xpt")

    return change


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def with_the_same_people(folder: Path) -> None:
    write_cycle(folder, "2017-2018")
    write_cycle(folder, "2017-2020")


def without_line(content: bytes) -> bytes:
    return content.replace(f"{mortality_line(102, 1, 0, None, 102)}\n".encode(), b"")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (shutil.rmtree, "no such file; expected a folder with SAS transport files"),
    "empty": (empty, "no demographics of NHANES; expected DEMO.xpt"),
    "no demographics": (gone("DEMO_F.xpt"), "2009-2010 is there without DEMO_F.xpt"),
    "other name": (moved("DEMO_F.xpt", "DEMO_E.xpt"), "2009-2010 is there without DEMO_F.xpt"),
    "no crp": (gone("CRP_F.xpt"), "no CRP_F.xpt, which holds crp_mg_l of 2009-2010; `henaw fetch nhanes"),
    "twice": (copied("CRP_F.xpt", "crp_f.XPT"), "there is a file of the same name"),
    "unknown cycle": (
        copied("DEMO_F.xpt", "DEMO_Z.XPT"),
        "DEMO_Z.XPT: of no cycle that is known; expected one of 1999",
    ),
    "people twice": (with_the_same_people, "2017-2020 has the people of 2017-2018 again"),
    "a table": (edited("GHB_F.xpt", lambda _: b"SEQN,LBXGH\n101,5.5\n"), "GHB_F.xpt: not a SAS transport file"),
    "cut": (edited("CBC_F.xpt", lambda whole: whole[:-80]), "CBC_F.xpt: cut short"),
    "ragged": (edited(MORTALITY, lambda whole: whole.replace(b"..", b".", 1)), "expected lines of a linked mortality"),
    "line gone": (edited(MORTALITY, without_line), "no line for 1 of the 4 people of DEMO_F.xpt"),
    "survey": (with_values(SDDSRVYR=5), "DEMO_F.xpt: not of cycle 2009-2010; expected SDDSRVYR 6"),
    "cut between rows": (
        with_rows(100, lambda rows: rows[:94]),
        "CRP_F.xpt: ends before 6% of the people of the other files; is it cut short?",
    ),
    "pipe": (other_kind(os.mkfifo), "CRP_F.xpt: is a pipe or device; expected a file of NHANES"),
    "device": (other_kind(lambda path: path.symlink_to("/dev/zero")), "CRP_F.xpt: is a pipe or device"),
    "dangling": (other_kind(lambda path: path.symlink_to("nowhere")), "CRP_F.xpt: no such file"),
    "loop": (other_kind(lambda path: path.symlink_to(path)), "CRP_F.xpt: cannot be read: Too many levels"),
    "children": (with_values(RIDAGEYR=5), "nobody aged 18 or more"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_folder_that_cannot_be_used_is_one_line_without_ids(
    folder: Path, tmp_path: Path, panel: Panel, fault: str
) -> None:
    change, words = FAULTS[fault]
    change(folder)
    with pytest.raises(BadInput) as caught:
        read_cohort(settings(folder, tmp_path / "state", "source.kind=nhanes"), panel)
    text = str(caught.value)
    assert text.startswith(str(folder))
    assert words in text
    assert "\n" not in text
    assert not re.search(r"\b10[1-4]\b", text.replace(str(folder), ""))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ("cohort.require=[bmi]", "NHANES gives no column bmi; expected one that mlproject/nhanes.yaml has"),
        ("cohort.require=[seqn]", "NHANES gives no column seqn"),
        ("cohort.exclude={visit:[1]}", "NHANES gives no column visit"),
        ("cohort.require=[cystatin_c_mg_l]", "cystatin_c_mg_l is not in the files of 2009-2010"),
        ("'source.units={crp_mg_l: mg/dL}'", "source.units: the units of NHANES are known, and converted already"),
    ],
)
def test_what_nhanes_does_not_give_is_refused(
    folder: Path, tmp_path: Path, panel: Panel, overrides: str, words: str
) -> None:
    config = settings(folder, tmp_path / "state", overrides)
    if "exclude" in overrides:
        config = config.model_copy(update={"cohort": config.cohort.model_copy(update={"exclude": {"visit": [1]}})})
    with pytest.raises(BadInput) as caught:
        read_cohort(config, panel)
    assert words in str(caught.value)


def test_follow_up_is_asked_for_by_the_mortality_clock_alone(folder: Path, tmp_path: Path, panel: Panel) -> None:
    (folder / "2009-2010" / MORTALITY).unlink()
    assert "died" not in read_cohort(settings(folder, tmp_path / "state"), panel).table
    with pytest.raises(BadInput, match=f"no {MORTALITY}, which holds died of 2009-2010"):
        read_cohort(settings(folder, tmp_path / "state", "target=mortality"), panel)


LINES: dict[str, str] = {
    "short": mortality_line(101, 1, 0, None, 99)[:-5],
    "long": mortality_line(101, 1, 0, None, 99) + " " * 3 + "7",
    "letters": mortality_line(101, 1, 0, None, 99).replace("99", "9x"),
    "status": mortality_line(101, 4, 0, None, 99),
    "shifted": " " + mortality_line(101, 1, 0, None, 99),
    "page": "<html>",
    "blank": "",
}


@pytest.mark.parametrize("line", LINES)
def test_a_ragged_line_is_refused_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.dat"
    path.write_text(f"{mortality_line(7, 1, 1, 10, 5)}\n{LINES[line]}\n{mortality_line(8, 2, None, None, None)}\n")
    with pytest.raises(BadInput, match=r"line 2 of 3 is none$"):
        read_mortality(path)


def test_lines_of_every_kind_are_read(tmp_path: Path) -> None:
    lines = [
        mortality_line(7, 1, 1, 10, 5),
        mortality_line(123456, 2, None, None, None),
        mortality_line(9, 1, 0, None, 120),
    ]
    (tmp_path / "a.dat").write_bytes("\r\n".join([*lines, ""]).encode())
    found = read_mortality(tmp_path / "a.dat")
    assert found.index.tolist() == [7, 123456, 9]
    np.testing.assert_array_equal(found["ELIGSTAT"], [1, 2, 1])
    np.testing.assert_array_equal(found["MORTSTAT"], [1, np.nan, 0])
    np.testing.assert_array_equal(found["UCOD_LEADING"], [10, np.nan, np.nan])
    np.testing.assert_array_equal(found["PERMTH_EXM"], [5, np.nan, 120])
    for content, words in (
        ("", "it is empty"),
        ("<!DOCTYPE html>\n", "a web page"),
        (f"{lines[0]}\n{lines[0]}", "1 of 2 lines repeat"),
    ):
        (tmp_path / "a.dat").write_text(content)
        with pytest.raises(BadInput, match=words):
            read_mortality(tmp_path / "a.dat")


# -- as a source ------------------------------------------------------------------------------------------------------


def test_auto_knows_a_folder_of_transport_files(folder: Path, tmp_path: Path, panel: Panel) -> None:
    assert source_kind(settings(folder, tmp_path)) == "nhanes"
    assert not is_nhanes(tmp_path / "none")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.csv").write_text("x\n1\n")
    assert source_kind(settings(tmp_path / "other", tmp_path)) == "ukbiobank", "a table is a file"
    with pytest.raises(BadInput, match=r"DEMO_F.xpt: is a file; expected a folder with SAS transport files"):
        read_cohort(settings(folder / "2009-2010" / "DEMO_F.xpt", tmp_path), panel)


def test_the_digest_follows_what_is_read_and_nothing_else(folder: Path, tmp_path: Path, panel: Panel) -> None:
    def digest(**_: Any) -> str:
        return source_digest(settings(folder, tmp_path / "state"), panel)

    cycle, first = folder / "2009-2010", digest()
    shutil.copy(cycle / "BMX_F.xpt", cycle / "SMQ_F.xpt")
    (cycle / "BMX_F.xpt").unlink()
    (cycle / "README.txt").write_text("notes")
    assert digest() == first, "neither is read for this panel"
    cycle.rename(folder / "elsewhere")
    assert digest() == first
    cycle = folder / "elsewhere"
    content = (cycle / "CBC_F.xpt").read_bytes()
    (cycle / "CBC_F.xpt").write_bytes(content.replace(b"W32_7PRO", b"W64_7PRO"))
    changed = digest()
    assert changed != first
    (cycle / "CBC_F.xpt").write_bytes(content)
    assert digest() == first
    (cycle / "CBC_F.xpt").rename(cycle / "kept")
    (cycle / "GHB_F.xpt").rename(cycle / "CBC_F.xpt")
    (cycle / "kept").rename(cycle / "GHB_F.xpt")
    assert digest() != first, "which file is which counts"


def test_hidden_files_are_not_read(folder: Path) -> None:
    shutil.copy(folder / "2009-2010" / "CRP_F.xpt", folder / "2009-2010" / ".CRP_F.xpt.part.xpt")
    (folder / ".old").mkdir()
    shutil.copy(folder / "2009-2010" / "CRP_F.xpt", folder / ".old" / "._CRP_F.xpt")
    assert not is_nhanes(folder / ".old")
    shutil.copy(folder / "2009-2010" / "CRP_F.xpt", folder / ".old" / "CRP_F.xpt")
    assert [survey.cycle for survey in find_surveys(folder, nhanes_map())] == ["2009-2010"]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("variable: LBXSAL, unit", "variables: LBXSAL, unit", "columns: albumin_g_l: "),
        ("{file: body,", "{file: bodies,", "columns: bmi_kg_m2: no cycle has a file bodies"),
        ("by_cycle: {2017-2020: null}", "by_cycle: {2017-2021: null}", "columns: exam_weight_2yr: no cycle 2017-2021"),
        ("codes: {1: male, 2: female}", "codes: {1: male, 2: female}, unit: g/dL", "expected one of codes, equals"),
        ("LBXSAL, unit: g/dL", "LBXSAL, unit: mg/dL", "columns: albumin_g_l: units.yaml has no mg/dL for it"),
        ("decimals: 4", "decimals: four", "decimals: "),
        ("measured: [albumin_g_l,", "measured: [albumin,", "people: measured: no column albumin"),
        ("columns:", "columns: [", "cannot be read as YAML"),
        ("demographics: DEMO_C,", "", "cycles: 2003-2004: expected a file demographics"),
    ],
)
def test_a_fault_in_the_map_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    text = (asset_folder("mlproject") / "nhanes.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "nhanes.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    (tmp_path / "panels").symlink_to(asset_folder("mlproject") / "panels")
    with pytest.raises(BadInput) as caught:
        load_nhanes_map(tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
