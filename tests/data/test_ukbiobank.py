"""UK Biobank exports: every convention gives the same people, and what is wrong with one is said in one line."""

import csv
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.make_ukb_export import CONVENTIONS, write_export, write_mixed
from henaw.config import Config, asset_folder, load_config
from henaw.data import files, ukbiobank
from henaw.data.cohort import read_cohort, source_digest, source_kind
from henaw.data.panel import Biomarker, Panel, load_biomarkers, load_panel
from henaw.data.participants import KEY_VARIABLE
from henaw.data.ukb_exports import estimated_rows, find_exports
from henaw.data.ukb_names import is_id, variable
from henaw.errors import EnvironmentProblem, HenawError

PANELS = asset_folder("mlproject") / "panels"
EIDS = ("1000018", "2000029", "3000031", "4000047")
CRP, SYSTOLIC = 30710, 4080

PEOPLE = {
    "eid": EIDS,
    "31-0.0": ("0", "1", "0", "1"),
    "34-0.0": ("1950", "1960", "1945", "1966"),
    "52-0.0": ("6", "1", "12", "3"),
    "53-0.0": ("2008-06-15", "2009-01-15", "2010-01-01", "2007-03-15"),
    "53-1.0": ("2012-06-15", "", "2013-01-01", ""),
    "21003-0.0": ("58", "49", "64", "41"),
    "30710-0.0": ("1.5", "0.25", "", ""),
    "30710-1.0": ("2.5", "", "3.5", ""),
    "4080-0.0": ("120", "130", "", "-1"),
    "4080-0.1": ("130", "", "110", "-3"),
    "4080-1.0": ("150", "", "", ""),
}


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "ab" * 32)


@pytest.fixture
def panel() -> Panel:
    pressure = Biomarker(
        name="systolic_mmhg", title="Systolic pressure", unit="mmHg", organ="blood", transform="identity",
        plausible=(50, 300), ukb_field=SYSTOLIC, ukb_average=True,
    )  # fmt: skip
    return Panel(name="two", title="Two", biomarkers=(load_biomarkers(PANELS)["crp_mg_l"], pressure))


def put(path: Path, columns: dict[str, Any], delimiter: str = ",") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def only(*names: str, rows: slice = slice(None)) -> dict[str, Any]:
    return {name: PEOPLE[name][rows] for name in ("eid", *names)}


def settings(data: Path, overrides: str = "") -> Config:
    return load_config(data=str(data), overrides=f"state.folder={data.parent / '.henaw'} {overrides}")


def read(data: Path, panel: Panel, overrides: str = "") -> pd.DataFrame:
    return read_cohort(settings(data, overrides), panel).table


def refusal(data: Path, panel: Panel, overrides: str = "") -> str:
    """What is said of ``data``: one line, exit code 2, no id and no value."""
    with pytest.raises(HenawError) as caught:
        read(data, panel, overrides)
    text = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in text
    for secret in (*EIDS, "2008-06-15", "130"):
        assert secret not in text
    return text.replace(str(data.parent), "")


class Name(NamedTuple):
    column: str
    means: tuple[int, int, int]


NAMES = [
    Name("30710-0.0", (30710, 0, 0)), Name("4080-2.1", (4080, 2, 1)), Name(" 31-0.0 ", (31, 0, 0)),
    Name("f.30710.0.0", (30710, 0, 0)), Name("f.4080.3.1", (4080, 3, 1)), Name("f_4080_3_1", (4080, 3, 1)),
    Name("n_30710_0_0", (30710, 0, 0)), Name("ts_53_1_0", (53, 1, 0)), Name("s_40001_0_0", (40001, 0, 0)),
    Name("x30710_0_0", (30710, 0, 0)), Name("X30710.1.0", (30710, 1, 0)),
    Name("creactive_protein_f30710_0_0", (30710, 0, 0)), Name("sex_f31_0_0", (31, 0, 0)), Name("f31_0_0", (31, 0, 0)),
    Name("participant.p30710_i0", (30710, 0, 0)), Name("p30710_i1", (30710, 1, 0)), Name("p31", (31, 0, 0)),
    Name("p4080_i2_a1", (4080, 2, 1)), Name("p22009_a7", (22009, 0, 7)), Name("participant.p31", (31, 0, 0)),
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.column)
def test_names_of_every_convention(name: Name) -> None:
    assert variable(name.column) == name.means


@pytest.mark.parametrize(
    "column",
    ["", "eid", "age", "30710", "30710-0", "30710.0.0", "f.30710", "f.30710.0", "n_30710_0.0", "hesin.p31", "p", "px31",
     "p31_0_0", "x30710", "30710-0.0.1", "f.eid", "-0.0", "0-0.0", "p030710"],
)  # fmt: skip
def test_other_names_mean_nothing(column: str) -> None:
    assert variable(column) is None


@pytest.mark.parametrize("column", ["eid", "EID", "f.eid", "n_eid", "participant.eid", "x_eid", "xeid", " eid "])
def test_names_of_the_id(column: str) -> None:
    assert is_id(column)


@pytest.mark.parametrize("column", ["reid", "eid2", "participant_id", "id", "f.eid.0.0", "withdrawn_eid", ""])
def test_other_columns_are_no_id(column: str) -> None:
    assert not is_id(column)


def dictionary(shared_data: Path) -> list[dict[str, str]]:
    with (shared_data / "ukb_fields.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_the_dictionary_s_own_names_are_understood(shared_data: Path) -> None:
    fields = dictionary(shared_data)
    assert len(fields) > 300
    for field in fields:
        means = (int(field["field_id"]), 0, 0)
        for form in ("ukbconv_csv_column", "ukbconv_tab_column", "rap_column"):
            assert variable(field[form]) == means


def test_the_catalog_has_the_units_of_uk_biobank(shared_data: Path) -> None:
    units = {"grams/decilitre": "g/dL", "percent": "%", "femtolitres": "fL", "umol/L": "µmol/L"}
    fields = {int(field["field_id"]): field for field in dictionary(shared_data)}
    catalog = load_biomarkers(PANELS)
    assert len(catalog) >= 25
    for marker in catalog.values():
        field = fields[marker.ukb_field]
        unit = re.sub(" cells/L.*", "/L", field["units"])
        assert units.get(unit, unit) == marker.unit, marker.name
        assert field["n_array"] == "1"
        assert not marker.ukb_average


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("gzipped", [False, True])
def test_every_convention_gives_the_same_people(tmp_path: Path, convention: str, gzipped: bool) -> None:
    if gzipped and convention == "rap-parquet":
        pytest.skip("Parquet is compressed by itself")
    blood = load_panel("extended", PANELS)
    asked = "source.censored_on=2015-01-01 cohort.exclude={p2443:[1],centre:[11001]} cohort.require=[visit_date]"
    oracle = read(write_export(tmp_path / "a" / "ukb", CONVENTIONS["csv"], 80, columns=300), blood, asked)
    path = write_export(tmp_path / "b" / ("u.gz" if gzipped else "u"), CONVENTIONS[convention], 80, columns=300)
    assert path.name.endswith(CONVENTIONS[convention].suffix + ".gz" * gzipped)
    pd.testing.assert_frame_equal(read(path, blood, asked), oracle, check_exact=True)
    pd.testing.assert_frame_equal(read(path.parent, blood, asked), oracle, check_exact=True)


@pytest.mark.parametrize("instance", ["0", "1", "2", "first"])
def test_conventions_mixed_over_files_and_subfolders(tmp_path: Path, instance: str) -> None:
    blood = load_panel("extended", PANELS)
    if instance == "2":  # no biochemistry there
        blood = blood.model_copy(update={"biomarkers": tuple(m for m in blood.biomarkers if m.ukb_field < 30500)})
    overrides = f"source.instance={instance} source.censored_on=2016-01-01 source.with_fields=[21003]"
    whole = read(write_export(tmp_path / "a" / "ukb", CONVENTIONS["csv"], 90), blood, overrides)
    paths = write_mixed(tmp_path / "b", 90, columns=120)
    assert len(paths) == 9
    assert len({path.parent for path in paths}) == 4
    (tmp_path / "b" / "notes.txt").write_text("Baskets of 2024, in several forms\n")
    (tmp_path / "b" / "w12345_20260101.csv").write_text("1234567\n7654321\n")
    (tmp_path / "b" / ".hidden.csv").write_text("")
    (tmp_path / "b" / "ukb.enc").write_bytes(b"\0\1")
    mixed = read(tmp_path / "b", blood, overrides)
    both = [table.sort_values("participant", ignore_index=True) for table in (mixed, whole)]
    pd.testing.assert_frame_equal(*both, check_exact=False, rtol=1e-12)
    assert len(whole) == 90 if instance in ("0", "first") else 0 < len(whole) < 40


def test_the_table_against_a_reading_by_hand(tmp_path: Path) -> None:
    blood = load_panel("blood9", PANELS)
    path = write_export(tmp_path / "ukb", CONVENTIONS["csv"], 200, columns=100)
    table = read(path, blood)
    raw = pd.read_csv(path)
    assert len(table) == table["participant"].nunique() == 200
    for marker in blood.biomarkers:
        np.testing.assert_array_equal(table[marker.name], raw[f"{marker.ukb_field}-0.0"])
    assert table["sex"].fillna("").tolist() == raw["31-0.0"].map({0: "female", 1: "male"}).fillna("").tolist()
    years = pd.to_datetime(raw["53-0.0"]).dt.year - raw["34-0.0"]
    assert ((table["age_years"] - years).abs() < 1).all()
    assert ((table["age_years"] - raw["21003-0.0"]).between(-0.1, 1.1)).all()
    assert table["age_years"].nunique() > 150


def test_one_row_a_participant_at_the_visit_that_is_asked_for(tmp_path: Path, panel: Panel) -> None:
    data = put(tmp_path / "ukb.csv", PEOPLE)
    nan = np.nan
    table = read(data, panel)
    np.testing.assert_array_equal(table["crp_mg_l"], [1.5, 0.25, nan, nan])
    np.testing.assert_array_equal(table["systolic_mmhg"], [125, 130, 110, nan])
    np.testing.assert_allclose(table["age_years"], [58, 49, 64 + 17 / 365.25, 41], atol=0.003)
    assert table["sex"].tolist() == ["female", "male", "female", "male"]
    assert set(table["visit"]) == {"0"}

    table = read(data, panel, "source.instance=1")
    np.testing.assert_array_equal(table["crp_mg_l"], [2.5, 3.5])
    np.testing.assert_array_equal(table["systolic_mmhg"], [150, nan])
    np.testing.assert_allclose(table["age_years"], [62, 67 + 17 / 365.25], atol=0.003)

    one = panel.model_copy(update={"biomarkers": panel.biomarkers[:1]})
    table = read(data, one, "source.instance=first")
    np.testing.assert_array_equal(table["crp_mg_l"], [1.5, 0.25, 3.5, nan])
    assert table["visit"].tolist() == ["0", "0", "1", "0"]
    np.testing.assert_allclose(table["age_years"], [58, 49, 67 + 17 / 365.25, 41], atol=0.003)


def test_without_averaging_the_first_of_several_readings_counts(tmp_path: Path, panel: Panel) -> None:
    first = panel.biomarkers[1].model_copy(update={"ukb_average": False})
    panel = panel.model_copy(update={"biomarkers": (panel.biomarkers[0], first)})
    table = read(put(tmp_path / "ukb.csv", PEOPLE), panel, f"source.with_fields=[{SYSTOLIC}]")
    np.testing.assert_array_equal(table["systolic_mmhg"], [120, 130, np.nan, np.nan])


@pytest.mark.parametrize("lacking", ["34-0.0", "52-0.0", "53-0.0"])
def test_without_the_dates_the_age_is_the_recorded_one(tmp_path: Path, panel: Panel, lacking: str) -> None:
    some = {name: cells for name, cells in PEOPLE.items() if name != lacking}
    assert read(put(tmp_path / "a.csv", some), panel)["age_years"].tolist() == [58, 49, 64, 41]
    at_recruitment = {"21022-0.0" if name == "21003-0.0" else name: cells for name, cells in some.items()}
    assert read(put(tmp_path / "b.csv", at_recruitment), panel)["age_years"].tolist() == [58, 49, 64, 41]
    neither = {name: cells for name, cells in some.items() if name != "21003-0.0"}
    assert "no column of field 21003 (age, unless there are 34, 52 and 53) at visit 0" in refusal(
        put(tmp_path / "c.csv", neither), panel
    )


def test_ages_that_do_not_follow_from_the_dates_are_reported(
    tmp_path: Path, panel: Panel, caplog: pytest.LogCaptureFixture
) -> None:
    read(put(tmp_path / "ukb.csv", PEOPLE | {"21003-0.0": ("58", "52", "61", "41")}), panel)
    assert "the age of 2 participants does not follow from their dates" in caplog.text


def test_codings_and_their_labels(tmp_path: Path, panel: Panel) -> None:
    oracle = read(put(tmp_path / "a.csv", PEOPLE), panel)
    labels = PEOPLE | {"31-0.0": ("Female", "Male", "female", "1.0"), "52-0.0": ("June", "january", "12.0", "March")}
    pd.testing.assert_frame_equal(read(put(tmp_path / "b.csv", labels), panel), oracle)
    stata = PEOPLE | {"53-0.0": ("15jun2008", "15jan2009", "01Jan2010", "15mar2007")}
    pd.testing.assert_frame_equal(read(put(tmp_path / "c.csv", stata), panel), oracle)
    days = PEOPLE | {"53-0.0": ("17698", "17912.0", "18263", "2007-03-15 09:30:00")}
    pd.testing.assert_frame_equal(read(put(tmp_path / "d.csv", days), panel), oracle)
    unknown = PEOPLE | {"31-0.0": ("-3", "1", "9", "Prefer not to answer"), "30710-0.0": ("-1", "-2.5", "-3", "-121")}
    table = read(put(tmp_path / "e.csv", unknown), panel)
    assert table["sex"].fillna("missing").tolist() == ["missing", "male", "9", "missing"]
    np.testing.assert_array_equal(table["crp_mg_l"], [np.nan, -2.5, np.nan, np.nan])


def test_a_measurement_that_may_be_below_zero_keeps_its_values(tmp_path: Path, panel: Panel) -> None:
    marker = panel.biomarkers[0].model_copy(update={"plausible": (-20.0, 20.0), "transform": "identity"})
    panel = panel.model_copy(update={"biomarkers": (marker,)})
    table = read(put(tmp_path / "ukb.csv", PEOPLE | {"30710-0.0": ("-1", "-3", "2", "")}), panel)
    np.testing.assert_array_equal(table["crp_mg_l"], [-1, -3, 2, np.nan])


def test_parquet_of_any_types(tmp_path: Path, panel: Panel) -> None:
    oracle = read(put(tmp_path / "a.csv", PEOPLE), panel)
    columns: dict[str, Any] = {}
    for number, (name, cells) in enumerate(PEOPLE.items()):
        array = pa.array([cell or None for cell in cells])
        if name.startswith("53"):
            columns[name] = array.cast(pa.date32()).cast([pa.date32(), pa.timestamp("us")][number % 2])
        elif name == "eid":
            columns[name] = array.cast(pa.float64())
        elif name.startswith("31"):
            columns[name] = array.dictionary_encode()
        else:
            columns[name] = array.cast(pa.float64()).cast([pa.float64(), pa.float32()][number % 2])
    pq.write_table(pa.table(columns), tmp_path / "b.parquet")
    pd.testing.assert_frame_equal(read(tmp_path / "b.parquet", panel), oracle)


def test_columns_for_filters_and_splits(tmp_path: Path, panel: Panel) -> None:
    more = PEOPLE | {"54-0.0": ("11001", "", "11002", "11003"), "54-1.0": ("11020", "", "11021", "")}
    more |= {"2443-0.0": ("1", "0.0", "-3", "Do not know"), "189-0.0": ("-1.5", "2", "0.25", "")}
    asked = "cohort.exclude={p2443:[1],p189:[2]} cohort.require=[visit_date]"
    asked += " split.by=column split.column=centre split.test=[11001]"
    table = read(put(tmp_path / "ukb.csv", more), panel, asked)
    shown = table[["centre", "visit_date", "p2443", "p189"]].fillna("").to_numpy().tolist()
    assert shown[0] == ["11001", "2008-06-15", "1", "-1.5"]
    assert shown[2:] == [["11002", "2010-01-01", "", "0.25"], ["11003", "2007-03-15", "", ""]]
    assert (table[["centre", "visit_date", "p2443", "p189"]].dtypes == "str").all()
    assert read(tmp_path / "ukb.csv", panel, f"{asked} source.instance=1")["centre"].tolist() == ["11020", "11021"]
    assert read(tmp_path / "ukb.csv", panel, f"{asked} source.instance=1")["p2443"].fillna("").tolist() == ["1", ""]
    assert "cohort.require: an export of UK Biobank gives no column pregnant" in refusal(
        tmp_path / "ukb.csv", panel, "cohort.require=[pregnant]"
    )
    assert "no column of field 21015 (cohort.require) at visit 0; expected for example 21015-0.0" in refusal(
        tmp_path / "ukb.csv", panel, "cohort.require=[p21015]"
    )


def test_follow_up_ends_with_death_loss_or_the_censoring_day(tmp_path: Path, panel: Panel) -> None:
    some = PEOPLE | {"40000-0.0": ("2010-06-15", "", "", "2012-01-01"), "40000-1.0": ("", "2011-01-15", "", "")}
    data = put(tmp_path / "ukb.csv", some | {"191-0.0": ("", "", "2011-01-01", "2011-03-15")})
    table = read(data, panel, "source.censored_on=2010-12-31")
    assert table["died"].tolist() == [1, 0, 0, 0]
    np.testing.assert_allclose(table["followup_months"], [24, 23.5, 12, 45.5], atol=0.1)
    table = read(data, panel, "source.censored_on=2020-01-01")
    assert table["died"].tolist() == [1, 1, 0, 0]
    np.testing.assert_allclose(table["followup_months"], [24, 24, 12, 48], atol=0.1)
    table = read(data, panel, "source.censored_on=2009-06-15")
    assert table["died"].fillna(9).tolist() == [0, 0, 9, 0]
    assert table["followup_months"].isna().tolist() == [False, False, True, False]
    assert "died" not in read(data, panel)
    assert "cohort.require: died needs source.censored_on" in refusal(data, panel, "cohort.require=[died]")
    assert "no column of field 40000 (date of death, for source.censored_on)" in refusal(
        put(tmp_path / "alive.csv", PEOPLE), panel, "source.censored_on=2010-12-31"
    )


def test_files_are_joined_by_eid_in_any_order(tmp_path: Path, panel: Panel) -> None:
    oracle = read(put(tmp_path / "one.csv", PEOPLE), panel)
    folder = tmp_path / "many"
    put(folder / "a.csv", {name: cells[::-1] for name, cells in only("31-0.0", "34-0.0", "52-0.0").items()})
    put(folder / "b.csv", only("53-0.0", "53-1.0", "21003-0.0", "4080-0.0", "4080-0.1", "4080-1.0"))
    put(folder / "c.csv", only("30710-0.0", "30710-1.0", rows=slice(2)))
    put(folder / "deep" / "er" / "c.csv", only("30710-0.0", "30710-1.0", rows=slice(2, 4)))
    put(folder / "d.csv", only("31-0.0", rows=slice(1, 3)))
    table = read(folder, panel)
    pd.testing.assert_frame_equal(table.set_index("participant").loc[oracle["participant"]].reset_index(), oracle)


def test_links_are_followed_and_those_that_lead_back_end(tmp_path: Path, panel: Panel) -> None:
    put(tmp_path / "store" / "UKB.CSV", PEOPLE)
    (tmp_path / "ukb").mkdir()
    (tmp_path / "ukb" / "linked").symlink_to(tmp_path / "store")
    (tmp_path / "store" / "back").symlink_to(tmp_path / "ukb")
    (tmp_path / "store" / "itself").symlink_to(tmp_path / "store")
    assert len(read(tmp_path / "ukb", panel)) == 4
    assert len(find_exports(tmp_path / "ukb")) == 1


def test_who_is_in_some_files_alone_has_missing_values_and_who_never_came_is_left_out(
    tmp_path: Path, panel: Panel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(tmp_path / "ukb" / "a.csv", only("31-0.0", "21003-0.0", "4080-0.0", rows=slice(3)))
    put(tmp_path / "ukb" / "b.csv", {"eid": (*EIDS[:2], "9"), "30710-0.0": ("1.5", "", "")})
    table = read(tmp_path / "ukb", panel)
    np.testing.assert_array_equal(table["crp_mg_l"], [1.5, np.nan, np.nan])
    assert "left out: 1 of 4 participants, who did not come to visit 0" in caplog.text


def test_the_same_column_twice(tmp_path: Path, panel: Panel) -> None:
    oracle = read(put(tmp_path / "one.csv", PEOPLE), panel)
    put(tmp_path / "ukb" / "a.csv", PEOPLE | {"f.30710.0.0": ("1.50", "", "", "")})
    put(tmp_path / "ukb" / "b.csv", {"eid": EIDS[:2], "p30710_i0": ("", "2.5e-1"), "ts_53_0_0": ("15jun2008", "")})
    pd.testing.assert_frame_equal(read(tmp_path / "ukb", panel), oracle)
    put(tmp_path / "ukb" / "b.csv", {"eid": EIDS[:2], "p30710_i0": ("1.51", "0.26")})
    assert re.fullmatch(
        r"field 30710-0.0: 2 participants have one value in column (30710-0.0|f.30710.0.0) of /ukb/a.csv and another "
        r"in column p30710_i0 of /ukb/b.csv; expected equal ones, or one of the columns gone",
        refusal(tmp_path / "ukb", panel),
    )
    put(tmp_path / "ukb" / "b.csv", {"eid": EIDS[:2], "p31": ("1", "1")})
    assert "field 31-0.0: 1 participants have one value" in refusal(tmp_path / "ukb", panel)


def test_intersection_with_a_file_of_ids(tmp_path: Path, panel: Panel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    data = put(tmp_path / "ukb.csv", PEOPLE)
    everybody = read(data, panel)
    (tmp_path / "ids").write_text(f"{EIDS[1]}\n{EIDS[2]}\n\n99\n")
    (tmp_path / "ids.txt").write_text(f"\ufeff{EIDS[1]}\r\n{EIDS[2]}\r\n")
    put(tmp_path / "images.csv", {"eid": (EIDS[2], EIDS[1], EIDS[1]), "21015-0.0": ("a.fds", "b.fds", "c.fds")})
    pq.write_table(pa.table({"n_eid": [int(EIDS[1]), int(EIDS[2])]}), tmp_path / "ids.parquet")
    for name in ("ids", "ids.txt", "images.csv", "ids.parquet"):
        table = read(data, panel, f"source.with_ids={tmp_path / name}")
        pd.testing.assert_frame_equal(table, everybody[1:3].reset_index(drop=True))
        assert f"left out: 2 of 4 participants, who are not in {tmp_path / name}" in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "/ids.csv: no such file; expected a file of ids (source.with_ids)"),
        ("", "/ids.csv: is empty"),
        ("1 2\n3\n", "/ids.csv: 1 of 2 lines hold no id; expected ids alone, or a column eid"),
        (
            "99\n98\n",
            "/ukb.csv: nobody of 4 participants has age, sex and a biomarker; are the files of one application",
        ),
    ],
)
def test_a_file_of_ids_that_does_not_help(tmp_path: Path, panel: Panel, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "ids.csv").write_text(content)
    data = put(tmp_path / "ukb.csv", PEOPLE)
    assert refusal(data, panel, f"source.with_ids={tmp_path / 'ids.csv'}").startswith(message)


def test_intersection_with_who_has_a_value_in_a_field(tmp_path: Path, panel: Panel) -> None:
    data = put(tmp_path / "ukb.csv", PEOPLE)
    put(tmp_path / "more" / "ukb.csv", PEOPLE)
    images = {"21015-0.0": ("", "a.fds", "", ""), "21015-1.1": ("b.fds", "", "", ""), "27800-0.0": ("", "5", "6", "")}
    put(tmp_path / "more" / "images.csv", {"eid": EIDS} | images)
    everybody = read(data, panel)
    table = read(tmp_path / "more", panel, "source.with_fields=[21015]")
    pd.testing.assert_frame_equal(table, everybody[:2])
    table = read(tmp_path / "more", panel, "source.with_fields=[21015,27800]")
    assert table["participant"].tolist() == [everybody["participant"][1]]
    assert "no column of field 21015 (source.with_fields)" in refusal(data, panel, "source.with_fields=[21015]")


def text(columns: dict[str, Any], delimiter: str = ",") -> str:
    rows = [columns, *zip(*columns.values(), strict=True)]
    return "".join(delimiter.join(row) + "\n" for row in rows)


GOOD = text(PEOPLE)
BAD_FILES: dict[str, tuple[str, str | bytes, str]] = {
    "empty": ("ukb.csv", "", ": is empty; expected a header and rows"),
    "header only": ("ukb.csv", GOOD.split("\n")[0] + "\n", ": no rows after the header"),
    "wrong delimiter": ("ukb.csv", GOOD.replace(",", ";"), ": columns separated by ';'; expected ','"),
    "tabs in a .csv": ("ukb.csv", GOOD.replace(",", "\t"), ": columns separated by '\\t'; expected ','"),
    "commas in a .tab": ("ukb.tab", GOOD, ": columns separated by ','; expected '\\t'"),
    "UTF-16": ("ukb.csv", GOOD.encode("utf-16"), ": is UTF-16 or not text at all"),
    "ragged": ("ukb.csv", GOOD + EIDS[0] + ",1\n", ": 1 rows have more or fewer fields than the header (line 6: 2, "),
    "duplicate column": ("ukb.csv", GOOD.replace("53-1.0", "53-0.0"), ": columns 5 and 6 have the same name"),
    "two columns of ids": ("ukb.csv", GOOD.replace("53-1.0", "f.eid"), ": 2 columns of participants' ids"),
    "decimal comma": ("ukb.csv", GOOD.replace("0.25", '"0,25"'), ": not a number in column 30710-0.0 (1 rows); the "
                      "first in row 2 after the header, column 30710-0.0: a decimal comma"),
    "below detection": ("ukb.csv", GOOD.replace("0.25", "<0.25"), "column 30710-0.0: a limit like '<' or '>'"),
    "not gzip": ("ukb.csv.gz", GOOD, ": not a gzip file, or a damaged one"),
    "not Parquet": ("ukb.parquet", GOOD, ": not a Parquet file, or a damaged one"),
    "no date": ("ukb.csv", GOOD.replace("2008-06-15", "15/06/2008"), ": column 53-0.0: 1 of 4 cells are not a "
                "date; expected 2008-03-17 or 17mar2008"),
    "no such day": ("ukb.csv", GOOD.replace("2009-01-15", "2009-02-30"), ": column 53-0.0: 1 of 4 cells are not a"),
    "no month": ("ukb.csv", GOOD.replace(",12,", ",13,"), ": column 52-0.0: 1 of 4 cells are not a month"),
    "an id is missing": ("ukb.csv", GOOD.replace(EIDS[1], ""), ": 1 of 4 rows have no id in column eid"),
    "an id twice": ("ukb.csv", GOOD.replace(EIDS[1], EIDS[0]), ": 1 of 4 rows repeat an id; expected each participant "
                    "once"),
    "an id that is none": ("ukb.csv", GOOD.replace(EIDS[1], "a b"), "1 of 4 rows have an invalid participant id"),
    "no biomarker": ("ukb.csv", GOOD.replace("30710-", "30711-"), ": no column of field 30710 (C-reactive protein) at "
                     "visit 0; expected for example 30710-0.0, f.30710.0.0, n_30710_0_0 or p30710_i0"),
    "no sex": ("ukb.csv", GOOD.replace("31-0.0", "32-0.0"), ": no column of field 31 (sex) at visit 0"),
    "no export": ("ukb.csv", GOOD.replace("eid", "id"), ": not an export of UK Biobank; expected a column eid"),
    "no fields": ("ukb.csv", "eid,age\n1,2\n", ": not an export of UK Biobank; expected a column eid and columns like "
                  "30710-0.0"),
    "unknown kind": ("ukb.sas7bdat", GOOD, ": unknown kind of file; expected a file whose name ends in"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_exports_end_in_one_clear_line(tmp_path: Path, panel: Panel, case: str) -> None:
    name, content, message = BAD_FILES[case]
    (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
    said = refusal(tmp_path / name, panel, "source.kind=ukbiobank")
    assert message in said
    assert said.startswith(f"/{name}: ") or not message.startswith(":")


@pytest.mark.parametrize(
    "case", ["empty", "wrong delimiter", "UTF-16", "ragged", "duplicate column", "not gzip", "not Parquet"]
)
def test_a_bad_file_in_a_folder_is_named(tmp_path: Path, panel: Panel, case: str) -> None:
    name, content, message = BAD_FILES[case]
    folder = tmp_path / "ukb"
    put(folder / "sub" / "z.csv", only("31-0.0", "21003-0.0", "4080-0.0", "30710-0.0"))
    (folder / "sub" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    assert f"/ukb/sub/{name}{message}" in refusal(folder, panel)


def test_a_gzip_cut_short(tmp_path: Path, panel: Panel) -> None:
    path = write_export(tmp_path / "ukb.gz", CONVENTIONS["r"], 300, columns=300)
    path.write_bytes(path.read_bytes()[:-5])
    message = refusal(path, load_panel("blood9", PANELS), "source.kind=ukbiobank")
    assert message == "/ukb.tab.gz: gzip file is cut short; expected the whole file"


def test_places_that_are_no_export(tmp_path: Path, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = "source.kind=ukbiobank"
    assert refusal(tmp_path / "none", panel, kind).startswith("/none: no such file; ")
    (tmp_path / "nothing").mkdir()
    assert refusal(tmp_path / "nothing", panel, kind).startswith(
        "/nothing: not an export of UK Biobank; expected a column"
    )
    os.mkfifo(tmp_path / "fifo.csv")
    assert refusal(tmp_path / "fifo.csv", panel, kind).startswith("/fifo.csv: is a pipe or device; expected a file")
    put(tmp_path / "ukb" / "a.csv", PEOPLE)
    os.mkfifo(tmp_path / "ukb" / "fifo.csv")
    assert refusal(tmp_path / "ukb", panel, kind).startswith("/ukb/fifo.csv: is a pipe or device; expected a file")
    (tmp_path / "ukb" / "fifo.csv").unlink()

    def denied(path: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", denied)
        assert refusal(tmp_path / "ukb", panel, kind) == "/ukb: cannot be read: Permission denied"


def test_files_of_different_applications(tmp_path: Path, panel: Panel) -> None:
    put(tmp_path / "ukb" / "a.csv", only("31-0.0", "21003-0.0"))
    others = [f"9{eid}" for eid in EIDS]
    put(tmp_path / "ukb" / "b.csv", {"eid": others} | {name: PEOPLE[name] for name in ("30710-0.0", "4080-0.0")})
    assert "nobody of 8 participants has age, sex and a biomarker" in refusal(tmp_path / "ukb", panel)


def test_a_biomarker_that_uk_biobank_lacks(tmp_path: Path, panel: Panel) -> None:
    unknown = panel.biomarkers[0].model_copy(update={"ukb_field": None})
    panel = panel.model_copy(update={"biomarkers": (unknown,)})
    assert refusal(put(tmp_path / "ukb.csv", PEOPLE), panel).startswith("crp_mg_l: no field of UK Biobank is known")


def test_room_for_the_cache_is_checked_before_the_work(
    tmp_path: Path, panel: Panel, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = put(tmp_path / "ukb.csv", PEOPLE)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(ukbiobank, "estimated_rows", lambda _: 10**9)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5 << 30))
    monkeypatch.setattr(ukbiobank, "read_variables", None)
    with pytest.raises(
        EnvironmentProblem, match=r"/.henaw: 5120 MiB free on its disk; the cache of 1000000000 partic"
    ) as e:
        read(data, panel)
    assert e.value.exit_code == 3


@pytest.mark.parametrize(
    ("convention", "form"), [("csv", "ukb"), ("csv", "ukb.gz"), ("r", "ukb.gz"), ("rap-parquet", "ukb")]
)
def test_rows_are_estimated_without_reading_them(tmp_path: Path, convention: str, form: str) -> None:
    write_export(tmp_path / form, CONVENTIONS[convention], 3000, columns=200, keeps=lambda person: person < 1000)
    write_export(tmp_path / "b" / form, CONVENTIONS[convention], 3000, columns=200, keeps=lambda person: person >= 1000)
    write_export(tmp_path / "c" / form, CONVENTIONS[convention], 500, holds=lambda field: field == 31)
    assert estimated_rows(find_exports(tmp_path)) == pytest.approx(3000, rel=0.1)


def test_what_data_looks_like_decides(tmp_path: Path) -> None:
    put(tmp_path / "ukb" / "deep" / "a.csv", only("31-0.0"))
    put(tmp_path / "table.csv", {"participant_id": EIDS, "age_years": ["50"] * 4})
    put(tmp_path / "eid.csv", {"eid": EIDS, "age_years": ["50"] * 4})
    kinds = {name: source_kind(settings(tmp_path / name)) for name in ("ukb", "ukb/deep/a.csv", "table.csv", "eid.csv")}
    assert kinds == {"ukb": "ukbiobank", "ukb/deep/a.csv": "ukbiobank", "table.csv": "table", "eid.csv": "table"}
    assert source_kind(settings(tmp_path / "none.csv")) == "table"
    assert source_kind(load_config()) == "synthetic"
    assert source_kind(settings(tmp_path / "ukb", "source.kind=table")) == "table"


def test_the_digest_follows_bytes_and_settings_and_not_names(tmp_path: Path, panel: Panel) -> None:
    put(tmp_path / "ukb" / "a.csv", only("31-0.0", "21003-0.0", "53-0.0", "53-1.0", "34-0.0", "52-0.0"))
    put(tmp_path / "ukb" / "b.csv", only(*(name for name in PEOPLE if name.startswith(("4080", "30710")))))
    put(tmp_path / "ukb" / "c.csv", {"eid": EIDS, "40000-0.0": [""] * 4})
    (tmp_path / "ids").write_text(f"{EIDS[0]}\n")
    digest = source_digest(settings(tmp_path / "ukb"), panel)
    seen = {digest}
    for overrides in (
        "source.instance=first",
        "source.instance=1",
        f"source.with_fields=[{CRP}]",
        "source.censored_on=2010-01-01",
        "source.censored_on=2010-01-02",
        f"source.with_ids={tmp_path / 'ids'}",
        "cohort.require=[visit_date]",
    ):
        seen.add(source_digest(settings(tmp_path / "ukb", overrides), panel))
    (tmp_path / "ids").write_text(f"{EIDS[1]}\n")
    seen.add(source_digest(settings(tmp_path / "ukb", f"source.with_ids={tmp_path / 'ids'}"), panel))
    assert len(seen) == 9
    (tmp_path / "ukb" / "x").mkdir()
    (tmp_path / "ukb" / "b.csv").rename(tmp_path / "ukb" / "x" / "y.csv")
    put(tmp_path / "ukb" / "unused.csv", {"eid": EIDS, "99-0.0": EIDS})
    assert source_digest(settings(tmp_path / "ukb"), panel) == digest
    put(tmp_path / "ukb" / "a.csv", only("31-0.0", "21003-0.0", "53-0.0", "53-1.0", "34-0.0"))
    assert source_digest(settings(tmp_path / "ukb"), panel) != digest


def test_a_source_that_changes_while_it_is_read(tmp_path: Path, panel: Panel, monkeypatch: pytest.MonkeyPatch) -> None:
    data = put(tmp_path / "ukb.csv", PEOPLE)
    real = ukbiobank.read_variables

    def touched(*arguments: Any) -> Any:
        values = real(*arguments)
        put(data, PEOPLE | {"30710-0.0": ("1.5", "0.25", "7", "")})
        return values

    monkeypatch.setattr(ukbiobank, "read_variables", touched)
    assert refusal(data, panel) == "/ukb.csv: changed while it was read; run again when it is complete"


def test_digests_of_large_files_are_remembered_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "_WORTH_REMEMBERING", 10)
    monkeypatch.setattr(files, "_TICK_SECONDS", -1.0)
    hashed: list[Path] = []
    real = files.digest_file
    monkeypatch.setattr(files, "digest_file", lambda path: hashed.append(path) or real(path))
    path, memory = tmp_path / "large", tmp_path / "state" / "digests.json"
    path.write_text("0123456789")
    for _ in range(3):
        assert files.remembered_digest(path, memory) == real(path)
    assert len(hashed) == 1
    assert memory.stat().st_mode & 0o777 == 0o600
    assert memory.parent.stat().st_mode & 0o777 == 0o700
    assert "large" not in memory.read_text()
    before = path.stat()
    path.write_text("012345678X")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # the time of change of its state betrays it
    assert files.remembered_digest(path, memory) == real(path)
    memory.write_text("[broken")
    assert files.remembered_digest(path, memory) == real(path)
    path.write_text("small")
    hashed.clear()
    for _ in range(2):
        files.remembered_digest(path, memory)
    assert len(hashed) == 2


def test_a_file_just_written_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_WORTH_REMEMBERING", 0)
    (tmp_path / "new").write_text("x")
    files.remembered_digest(tmp_path / "new", tmp_path / "digests.json")
    assert not (tmp_path / "digests.json").exists()


def test_no_id_and_no_value_is_logged(tmp_path: Path, panel: Panel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    table = read(put(tmp_path / "ukb.csv", PEOPLE), panel, "source.instance=first source.with_fields=[4080]")
    everything = caplog.text + table.drop(columns=["age_years", "crp_mg_l", "systolic_mmhg"]).to_csv()
    for secret in (*EIDS, "2008-06-15"):
        assert secret not in everything


@pytest.mark.slow
def test_memory_does_not_grow_with_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(asset_folder("mlproject").parent / "benchmarks"))
    from bench_ukb import memory

    small = write_export(tmp_path / "a" / "ukb", CONVENTIONS["csv"], 5_000, columns=2000)
    large = write_export(tmp_path / "b" / "ukb", CONVENTIONS["csv"], 50_000, columns=2000)
    assert large.stat().st_size > 9 * small.stat().st_size
    assert memory(large, "henaw") - memory(small, "henaw") < 100
