"""Who has withdrawn is gone before anything is counted, and a list that is none is refused without showing an id."""

import logging
import os
import stat
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from benchmarks.make_ukb_export import CONVENTIONS, write_export
from henaw.config import Config, asset_folder, load_config
from henaw.data.cohort import read_cohort, source_digest
from henaw.data.panel import load_panel
from henaw.data.participants import KEY_VARIABLE, load_or_create_key, pseudonyms
from henaw.data.synthetic import synthetic_table
from henaw.data.withdrawals import (
    LEDGER_FILE,
    Withdrawals,
    read_ids_to_withdraw,
    remember_withdrawn,
    withdrawals,
    withdrawn_pseudonyms,
)
from henaw.errors import BadInput, IntegrityError

PANEL = load_panel("blood9", asset_folder("mlproject") / "panels")


@pytest.fixture(autouse=True)
def no_key_in_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)


def put(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    "content",
    ["1000012\n1000027\n", "1000012\r\n1000027\r\n", "1000027\n\n 1000012 ", '"1000012"\n"1000027"\n',
     b"\xef\xbb\xbf1000012\n1000027", "1000012\n1000012\n1000027"],
)  # fmt: skip
def test_ids_one_a_line(tmp_path: Path, content: str | bytes) -> None:
    assert read_ids_to_withdraw(put(tmp_path / "w12345_20260101.csv", content)) == {"1000012", "1000027"}


def test_ids_are_taken_exactly(tmp_path: Path) -> None:
    assert read_ids_to_withdraw(put(tmp_path / "ids", "007\n7\nIII_7\na-B\n")) == {"007", "7", "III_7", "a-B"}


def test_a_folder_is_all_its_lists_together(tmp_path: Path) -> None:
    put(tmp_path / "w" / "w12345_20250101.csv", "1\n2\n")
    put(tmp_path / "w" / "w12345_20260101.csv", "2\n3\n")
    put(tmp_path / "w" / "w12345_20260801.csv", "")
    put(tmp_path / "w" / ".hidden", "not a list, at all")
    put(tmp_path / "more.txt", "4")
    assert read_ids_to_withdraw(tmp_path / "w") == {"1", "2", "3"}
    found = withdrawals([str(tmp_path / "w"), str(tmp_path / "more.txt")], tmp_path / "state")
    assert found.ids == {"1", "2", "3", "4"}
    again = put(tmp_path / "one" / "list", "4\n3\n2\n1\n")
    assert withdrawals([str(again)], tmp_path / "state").digest == found.digest
    assert withdrawals([str(tmp_path / "w")], tmp_path / "state").digest != found.digest


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("eid,sex\n1000012,1\n", "2 of 2 lines hold no id, the first is line 1"),
        ("1000012\n\nxyzzy plugh\n1000027", "1 of 3 lines hold no id, the first is line 3"),
        ("x" * 65, "1 of 1 lines hold no id"),
        ("1000012\n".encode("utf-16"), "is not text in UTF-8"),
        ("1\x002\n", "1 of 1 lines hold no id"),
        (b"\x1f\x8b\x08\x00" + bytes(range(200)), "is not text in UTF-8"),
    ],
)
def test_what_is_no_list_is_refused_in_one_line_without_an_id(tmp_path: Path, content: str | bytes, words: str) -> None:
    path = put(tmp_path / "w12345_20260101.csv", content)
    with pytest.raises(BadInput) as caught:
        read_ids_to_withdraw(path)
    message = str(caught.value).removeprefix(f"{path}: ")
    assert message.startswith(words)
    assert message.endswith("expected a list of withdrawn participants: one id a line, no header")
    assert "\n" not in message
    assert not any(part in message for part in ("1000012", "xyzzy", "plugh"))


def test_paths_that_hold_no_list(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "deep" / "er").mkdir(parents=True)
    os.mkfifo(tmp_path / "pipe")
    for name, words in (
        ("absent", "no such file"),
        ("empty", "an empty folder"),
        ("deep", "is a folder"),
        ("pipe", "is a pipe or device"),
    ):
        with pytest.raises(BadInput, match=words):
            read_ids_to_withdraw(tmp_path / name)


def test_the_digest_of_a_list_tells_nobody_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "w.csv", "1000012\n")
    digests = set()
    for key in ("ab" * 32, "cd" * 32):
        monkeypatch.setenv(KEY_VARIABLE, key)
        one = withdrawals([str(tmp_path / "w.csv")], tmp_path)
        digests |= {one.digest, withdrawals([str(tmp_path / "w.csv")] * 2, tmp_path).digest}
        ledger = frozenset(pseudonyms(pd.Series(sorted(one.ids)), load_or_create_key(tmp_path)))
        assert one.digest == Withdrawals(frozenset(), ledger, tmp_path).digest, "listed or told, it is the same person"
    assert len(digests) == 2


def people(folder: Path, rows: int = 40) -> pd.DataFrame:
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    table = synthetic_table(rows, (40, 69), 3, summaries=summaries)
    table.to_csv(folder / "people.csv", index=False)
    return table


def settings(folder: Path, **source: Any) -> Config:
    config = load_config(data=str(folder / "people.csv"))
    source = {"withdrawals": [], **source}
    return config.model_copy(
        update={
            "source": config.source.model_copy(update=source),
            "state": config.state.model_copy(update={"folder": str(folder / ".henaw")}),
        }
    )


def test_the_withdrawn_are_gone_and_another_cohort_follows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    table = people(tmp_path)
    gone = table["participant_id"].iloc[[0, 7, 39]].tolist()
    put(tmp_path / "w.csv", "\n".join([*gone, "nobody"]))
    config = settings(tmp_path, withdrawals=[str(tmp_path / "w.csv")])
    with caplog.at_level(logging.INFO):
        cohort = read_cohort(config, PANEL)
    everyone = read_cohort(settings(tmp_path), PANEL)
    keep = ~table["participant_id"].isin(gone)
    pd.testing.assert_frame_equal(cohort.table, everyone.table[keep.to_numpy()].reset_index(drop=True))
    assert cohort.digest != everyone.digest
    assert "read 37 rows of 37 participants" in caplog.text
    assert "withdrawn: 3 rows of the source are left out" in caplog.text
    assert "read 40 rows" not in caplog.text.partition("read 37")[0]
    assert not any(person in caplog.text for person in gone)
    put(tmp_path / "w.csv", "\n".join(gone))
    assert source_digest(config, PANEL) != cohort.digest


def test_a_list_in_which_nobody_of_the_source_is_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people(tmp_path)
    put(tmp_path / "w.csv", "nobody\n")
    with caplog.at_level(logging.INFO):
        cohort = read_cohort(settings(tmp_path, withdrawals=[str(tmp_path / "w.csv")]), PANEL)
    assert len(cohort.table) == 40
    assert "withdrawn: 0 rows of the source are left out" in caplog.text


def test_whom_the_command_was_told_of_stays_away_without_a_list(tmp_path: Path) -> None:
    table = people(tmp_path)
    config = settings(tmp_path)
    everyone = read_cohort(config, PANEL)
    told = everyone.table["participant"].iloc[[3, 4]]
    assert remember_withdrawn(tmp_path / ".henaw", told[:1]) == set(told[:1])
    assert remember_withdrawn(tmp_path / ".henaw", told[1:]) == set(told)
    cohort = read_cohort(config, PANEL)
    assert len(cohort.table) == len(table) - 2
    assert not cohort.table["participant"].isin(told).any()
    assert cohort.digest != everyone.digest
    path = tmp_path / ".henaw" / LEDGER_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(person in path.read_text() for person in table["participant_id"])


@pytest.mark.parametrize("content", ["", "{", "[]", '{"withdrawn": 3}', '{"withdrawn": ["S1"]}', '{"other": []}'])
def test_a_damaged_ledger_stops_everything(tmp_path: Path, content: str) -> None:
    put(tmp_path / LEDGER_FILE, content)
    with pytest.raises(IntegrityError, match=r"withdrawn.json: damaged; remove it and run henaw withdraw again"):
        withdrawn_pseudonyms(tmp_path)
    assert (tmp_path / LEDGER_FILE).read_text() == content


def test_without_ids_nobody_can_be_found(tmp_path: Path) -> None:
    people(tmp_path)
    put(tmp_path / "w.csv", "row-1\n")
    with pytest.raises(BadInput, match="nobody can be found without ids"):
        read_cohort(settings(tmp_path, withdrawals=[str(tmp_path / "w.csv")], id_columns=[]), PANEL)


@pytest.mark.parametrize("told", ["list", "ledger"])
def test_of_an_export_they_are_gone_before_the_first_count(
    tmp_path: Path, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_export(tmp_path / "ukb", CONVENTIONS["csv"], 60, columns=40)
    (file,) = tmp_path.glob("ukb*")
    eids = pd.read_csv(file, dtype=str, usecols=["eid"])["eid"].iloc[:5]
    if told == "list":
        put(tmp_path / "w12345_20260101.csv", "\n".join(eids))
        config = settings(
            tmp_path, kind="ukbiobank", data=str(file), withdrawals=[str(tmp_path / "w12345_20260101.csv")]
        )
    else:
        config = settings(tmp_path, kind="ukbiobank", data=str(file))
        remember_withdrawn(tmp_path / ".henaw", pseudonyms(eids, load_or_create_key(tmp_path / ".henaw")))
    with caplog.at_level(logging.INFO):
        cohort = read_cohort(config, PANEL)
    assert len(cohort.table) == 55
    assert "55 participants in 1 files" in caplog.text
    assert caplog.text.count("withdrawn: 5 rows of the source are left out") == caplog.text.count("withdrawn:") == 1
    assert "60" not in "".join(
        record.getMessage() for record in caplog.records if "participants" in record.getMessage()
    )
