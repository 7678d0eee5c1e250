"""A cohort holds pseudonyms and what the settings ask for, nothing else; the filter keeps whom it should."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from henaw.config import Config, asset_folder, load_config, validate_config
from henaw.data.cohort import read_cohort, source_digest
from henaw.data.panel import Panel, load_panel
from henaw.data.participants import KEY_VARIABLE, load_or_create_key, pseudonyms
from henaw.data.selection import rows_with, select
from henaw.errors import BadInput
from henaw.validation.clean import clean, judge

IDS = [f"canary{number:02d}xyzzy" for number in range(50)]


@pytest.fixture(autouse=True)
def no_key_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


@pytest.fixture
def panel() -> Panel:
    return load_panel("blood9", asset_folder("mlproject") / "panels")


def changed(config: Config, **sections: Any) -> Config:
    values = yaml.safe_load(config.to_yaml())
    for section, keys in sections.items():
        values[section] = values[section] | keys if isinstance(keys, dict) else keys
    return validate_config(values)


@pytest.fixture
def frame(panel: Panel) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    columns: dict[str, Any] = {
        "participant_id": IDS,
        "age_years": np.linspace(15, 95, 50),
        "sex": ["female", "male"] * 25,
    }
    columns |= {name: rng.uniform(20, 30, 50).round(2) for name in panel.names}
    columns |= {"centre": ["a", "b", "c", "d", "e"] * 10, "pregnant": [1, 0, None, 0, 0] * 10, "note": "987.654"}
    return pd.DataFrame(columns)


@pytest.fixture
def config(tmp_path: Path, frame: pd.DataFrame) -> Config:
    frame.to_csv(tmp_path / "t.csv", index=False)
    return changed(load_config(data=str(tmp_path / "t.csv")), state={"folder": str(tmp_path / "state")})


def test_ids_become_pseudonyms_and_only_asked_columns_stay(config: Config, panel: Panel, frame: pd.DataFrame) -> None:
    cohort = read_cohort(config, panel)
    assert list(cohort.table.columns) == ["participant", "age_years", "sex", *panel.names]
    assert cohort.kind == "table"
    assert isinstance(cohort.table.index, pd.RangeIndex)
    key = load_or_create_key(Path(config.state.folder))
    assert cohort.table["participant"].tolist() == pseudonyms(frame["participant_id"].astype("str"), key).tolist()
    for name in ("age_years", *panel.names):
        np.testing.assert_array_equal(cohort.table[name], frame[name])
        assert cohort.table[name].dtype == np.float64
    everything = cohort.table.to_csv() + repr(cohort) + Path(config.state.folder, "pseudonym.key").read_text()
    assert "xyzzy" not in everything


@pytest.mark.parametrize(
    "setting", [{"with_ids": "ids.csv"}, {"with_fields": [21015]}, {"censored_on": "2022-11-30"}, {"instance": "first"}]
)
def test_a_choice_among_the_people_of_uk_biobank_is_not_lost_on_another_source(
    config: Config, panel: Panel, setting: dict[str, Any]
) -> None:
    [name] = setting
    with pytest.raises(BadInput, match=rf"^source.{name}: is for exports of UK Biobank; .* of kind table$"):
        read_cohort(changed(config, source=setting), panel)


def test_columns_of_filter_split_follow_up_and_visit_stay(config: Config, panel: Panel, frame: pd.DataFrame) -> None:
    frame.assign(died=0, followup_months=12.5, visit="first").to_csv(config.source.data, index=False)
    config = changed(
        config,
        cohort={"exclude": {"pregnant": [1]}},
        split={"by": "column", "column": "centre", "test": ["e"]},
    )
    table = read_cohort(config, panel).table
    assert list(table.columns) == [
        "participant", "age_years", "sex", *panel.names, "died", "followup_months", "visit", "pregnant", "centre",
    ]  # fmt: skip
    assert (table.dtypes[["visit", "pregnant", "centre"]] == "str").all()
    assert table["pregnant"].isna().sum() == 10


def test_required_biomarkers_are_numbers_and_judged_as_the_panels_are(
    config: Config, panel: Panel, frame: pd.DataFrame
) -> None:
    urea, urate = frame["rdw_pct"] / 5, frame["rdw_pct"] * 10
    urea[3], urea[4], urate[5], urate[6] = np.nan, 1e4, np.nan, 1e5
    frame.assign(urea_mmol_l=urea, urate_umol_l=urate).to_csv(config.source.data, index=False)
    asked = {"require": ["urea_mmol_l", "centre"], "plausible": ["urate_umol_l"]}
    config = changed(config, cohort={"ages": [0, 99]} | asked)
    judged = judge(config, panel)
    assert judged.cohort.table["urea_mmol_l"].dtype == np.float64
    assert judged.cohort.table["centre"].dtype == "str"
    assert np.flatnonzero(judged.verdict.set_aside).tolist() == [4, 6]
    kept, counts = clean(judged, config, panel)
    assert counts["left_out.urea_mmol_l_missing"] == 1
    assert counts["selected"] == len(kept) == 47
    assert kept["urate_umol_l"].isna().sum() == 1, "a value need not be there to be plausible"


def test_low_values_are_read_as_the_floor_and_mistakes_are_left_to_validation(
    config: Config, panel: Panel, frame: pd.DataFrame
) -> None:
    frame["crp_mg_l"] = [0.0, 0.3, 2.1, 5.0, -1.0, None, 2.0999, 1e4, *[7.0] * 42]
    frame.to_csv(config.source.data, index=False)
    found = read_cohort(changed(config, cohort={"floors": {"crp_mg_l": 2.1}}), panel).table
    expected = [2.1, 2.1, 2.1, 5.0, -1.0, np.nan, 2.1, 1e4]
    np.testing.assert_array_equal(found["crp_mg_l"][:8], expected)
    np.testing.assert_array_equal(found["rdw_pct"], frame["rdw_pct"])


def test_sex_is_read_without_case_and_anything_else_as_it_stands(
    config: Config, panel: Panel, frame: pd.DataFrame
) -> None:
    frame["sex"] = [" Female", "MALE ", "other", None, "2"] * 10
    frame.to_csv(config.source.data, index=False)
    found = read_cohort(config, panel).table["sex"]
    assert found[:5].tolist()[:3] == ["female", "male", "other"]
    assert found.isna().sum() == 10
    assert found[4] == "2"


def test_id_columns_are_joined_and_dropped_unless_asked_for(config: Config, panel: Panel, frame: pd.DataFrame) -> None:
    config = changed(
        config,
        source={"id_columns": ["centre", "participant_id"]},
        split={"by": "column", "column": "centre", "test": ["e"]},
    )
    table = read_cohort(config, panel).table
    assert "participant_id" not in table
    joined = (frame["centre"] + "_" + frame["participant_id"]).astype("str")
    assert table["participant"].tolist() == pseudonyms(joined, load_or_create_key(Path(config.state.folder))).tolist()


def test_without_id_columns_each_row_is_a_person(config: Config, panel: Panel, frame: pd.DataFrame) -> None:
    frame.drop(columns="participant_id").to_csv(config.source.data, index=False)
    config = changed(config, source={"id_columns": []})
    assert read_cohort(config, panel).table["participant"].nunique() == 50


def test_synthetic_is_the_default_and_has_the_same_form(tmp_path: Path, panel: Panel) -> None:
    config = changed(load_config(overrides="source.people=200"), state={"folder": str(tmp_path)})
    cohort = read_cohort(config, panel)
    assert cohort.kind == "synthetic"
    assert list(cohort.table.columns) == ["participant", "age_years", "sex", *panel.names, "died", "followup_months"]
    assert len(cohort.table) == cohort.table["participant"].nunique() == 200
    with pytest.raises(BadInput, match=r"^split.column: the synthetic cohort has no column cycle"):
        read_cohort(changed(config, split={"by": "column", "column": "cycle", "test": ["x"]}), panel)


FAULTS: dict[str, tuple[dict[str, Any], dict[str, str | None], str]] = {
    "two biomarkers absent": ({}, {"crp_mg_l": "crp_mg_dl", "rdw_pct": None}, "no column crp_mg_l (nearest: "
                              "crp_mg_dl), rdw_pct; needed by panel blood9, in the unit that the name says"),
    "no age": ({}, {"age_years": "age"}, "no column age_years"),
    "no sex": ({}, {"sex": "gender"}, "no column sex"),
    "no id": ({}, {"participant_id": "eid"}, "no column participant_id; source.id_columns names the columns of the "
              "participant's id ([]: every row is a person)"),
    "no column to split by": ({"split": {"by": "column", "column": "center", "test": ["a"]}}, {},
                              "no column center (nearest: centre); split.column asks for it"),
    "no column to exclude by": ({"cohort": {"exclude": {"smoker": [1]}}}, {},
                                "no column smoker; cohort.exclude asks for it"),
    "no column to require": ({"cohort": {"require": ["urea_mmol_l"]}}, {},
                             "(nearest: creatinine_umol_l); cohort.require asks for it"),
    "no follow-up to require": ({"cohort": {"require": ["died"]}}, {}, "no column died; cohort.require asks for it"),
    "no follow-up of the dead": ({"target": "mortality"}, {}, "no column died; target mortality asks for it"),
    "no column to judge": ({"cohort": {"plausible": ["urea_mmol_l"]}}, {}, "cohort.plausible asks for it"),
    "no biomarker to judge": ({"cohort": {"plausible": ["note"]}}, {}, "cohort.plausible: note: no such biomarker"),
    "a floor under nothing that is read": ({"cohort": {"floors": {"urea_mmol_l": 1.0}}}, {},
                                           "cohort.floors: urea_mmol_l is not read"),
    "the id required": ({"cohort": {"require": ["participant_id"]}}, {}, "ids are never kept"),
    "the id itself kept": ({"cohort": {"exclude": {"participant_id": ["x"]}}}, {}, "ids are never kept"),
    "a measurement for an id": ({"source": {"id_columns": ["age_years"]}}, {}, "age_years is a measurement"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_columns_that_cannot_be_used_are_named(config: Config, panel: Panel, frame: pd.DataFrame, case: str) -> None:
    sections, names, message = FAULTS[case]
    dropped = [name for name, new in names.items() if new is None]
    frame.drop(columns=dropped).rename(columns=names).to_csv(config.source.data, index=False)
    with pytest.raises(BadInput) as caught:
        read_cohort(changed(config, **sections), panel)
    assert message in str(caught.value)
    assert not any(cell in str(caught.value) for cell in ("987.654", "xyzzy"))


def test_a_file_that_changes_while_it_is_read_is_refused(
    config: Config, panel: Panel, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from henaw.data import cohort

    read = cohort.read_table

    def read_and_append(path: Path, **columns: Any) -> pd.DataFrame:
        rows = read(path, **columns)
        with path.open("a") as file:
            file.write("x\n")
        return rows

    monkeypatch.setattr(cohort, "read_table", read_and_append)
    with pytest.raises(BadInput, match="changed while it was read"):
        read_cohort(config, panel)


def test_digest_follows_bytes_and_reading_but_not_the_place(config: Config, panel: Panel, tmp_path: Path) -> None:
    digests = [source_digest(config, panel)]
    assert read_cohort(config, panel).digest == digests[0]
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes(Path(config.source.data or "").read_bytes())
    assert source_digest(changed(config, source={"data": str(moved)}), panel) == digests[0]
    digests.append(source_digest(changed(config, source={"id_columns": []}), panel))
    digests.append(source_digest(changed(config, cohort={"exclude": {"pregnant": [1]}}), panel))
    digests.append(source_digest(changed(config, cohort={"floors": {"crp_mg_l": 2.1}}), panel))
    digests.append(source_digest(config, panel.model_copy(update={"biomarkers": panel.biomarkers[1:]})))
    moved.write_bytes(moved.read_bytes().replace(b"female", b"Female", 1))
    digests.append(source_digest(changed(config, source={"data": str(moved)}), panel))
    synthetic = load_config()
    for overrides in ("", "seed=1", "source.people=10", "source.ages=[40,60]"):
        digests.append(source_digest(load_config(overrides=overrides), panel))  # noqa: PERF401
    assert source_digest(synthetic, panel) == digests[6]
    assert len(set(digests)) == len(digests)


def table(**columns: list[Any]) -> pd.DataFrame:
    rows = len(next(iter(columns.values())))
    panel = load_panel("blood9", asset_folder("mlproject") / "panels")
    base = {"participant": [f"{row:032x}" for row in range(rows)], "age_years": [50.0] * rows, "sex": ["male"] * rows}
    return pd.DataFrame(base | {name: [20.0] * rows for name in panel.names} | columns)


def test_ages_are_whole_years_with_both_ends(panel: Panel) -> None:
    ages = [19.99, 20.0, 79.0, 79.99, 80.0, np.nan]
    kept, counts = select(table(age_years=ages), load_config(), panel)
    assert kept["age_years"].tolist() == [20.0, 79.0, 79.99]
    assert counts == {"participants": 6, "left_out.age_unknown": 1, "left_out.age_outside": 2, "selected": 3}


def test_each_row_is_left_out_by_the_first_rule_that_applies(panel: Panel) -> None:
    config = changed(load_config(), cohort={"exclude": {"pregnant": [1]}, "complete_panel": True})
    rows = table(age_years=[10.0, 50.0, 50.0, 50.0, 50.0], pregnant=["1", "1", "1.0", "0", None])
    rows.loc[[0, 1, 3], "rdw_pct"] = np.nan
    kept, counts = select(rows, config, panel)
    assert counts == {
        "participants": 5, "left_out.age_unknown": 0, "left_out.age_outside": 1, "left_out.pregnant": 2,
        "left_out.panel_incomplete": 1, "selected": 1,
    }  # fmt: skip
    assert kept["participant"].tolist() == [rows["participant"][4]]
    assert isinstance(kept.index, pd.RangeIndex)


def test_mortality_is_studied_on_people_whose_follow_up_is_known(panel: Panel) -> None:
    rows = table(died=[0.0, 1.0, np.nan, 1.0], followup_months=[60.0, 7.0, 60.0, np.nan])
    assert len(select(rows, load_config(), panel)[0]) == 4
    kept, counts = select(rows, load_config(overrides="target=mortality"), panel)
    assert kept["followup_months"].tolist() == [60.0, 7.0]
    assert (counts["left_out.died_missing"], counts["left_out.followup_months_missing"]) == (1, 1)


def test_counts_are_of_people_not_of_visits(panel: Panel) -> None:
    rows = table(age_years=[10.0, 11.0, 50.0, 51.0], participant=["a", "a", "a", "b"])
    counts = select(rows, load_config(), panel)[1]
    assert (counts["participants"], counts["left_out.age_outside"], counts["selected"]) == (2, 1, 2)


def test_nobody_left_says_why_without_small_counts(panel: Panel) -> None:
    with pytest.raises(BadInput) as caught:
        select(table(age_years=[10.0] * 6 + [np.nan]), load_config(), panel)
    assert "participants 5, left_out.age_unknown <5, left_out.age_outside 5, selected 0" in str(caught.value)


def test_an_exclusion_that_meets_nobody_is_warned_of(panel: Panel, caplog: pytest.LogCaptureFixture) -> None:
    config = changed(load_config(), cohort={"exclude": {"pregnant": [2]}})
    select(table(pregnant=["1", "0"]), config, panel)
    assert "nobody has one of [2] in column pregnant" in caplog.text


@pytest.mark.parametrize(
    ("cells", "values", "found"),
    [
        (["1", "1.0", "01", "a", None], [1], [True, True, True, False, False]),
        (["1", "1.0", "01", "a", None], ["1"], [True, False, False, False, False]),
        (["1", "1.0", "01", "a", None], ["a", 1.0], [True, True, True, True, False]),
        ([1.0, 2.0, np.nan], [1, 3], [True, False, False]),
        (["1", "2"], [], [False, False]),
    ],
)
def test_rows_with(cells: list[Any], values: list[Any], found: list[bool]) -> None:
    column = pd.Series(cells, dtype="str" if isinstance(cells[0], str) else np.float64)
    assert rows_with(column, values).tolist() == found
