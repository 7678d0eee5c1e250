"""After ``henaw withdraw`` nothing kept here has the person, no later run uses them, and their runs are named."""

import logging
from pathlib import Path

import pandas as pd
import pytest

from henaw.cli import app
from henaw.config import Config, asset_folder, load_config
from henaw.console import run_app
from henaw.data import stored_splits
from henaw.data.cache import CachedCohort, access, cache_folder, cache_key, store
from henaw.data.cohort import read_cohort
from henaw.data.panel import load_panel
from henaw.data.participants import KEY_VARIABLE
from henaw.data.removal import withdraw, withdrawn_runs
from henaw.data.stored_splits import kept_split
from henaw.data.synthetic import synthetic_table
from henaw.data.trainings import record_training
from henaw.errors import BadInput
from tests.leaks import leaks

PANEL = load_panel("blood9", asset_folder("mlproject") / "panels")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    """Settings of a folder in which a cohort was cached, split, trained with, and some of it set aside."""
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    synthetic_table(60, (40, 69), 3, summaries=summaries).to_csv("people.csv", index=False)
    config = load_config(data="people.csv")
    table = read_cohort(config, PANEL).table
    store(cache_folder(config), cache_key(config, PANEL), CachedCohort(table, {}))
    parts = kept_split(table, config)
    for run, side in (("trained", parts.train), ("evaluated", parts.test)):
        record_training(Path(".henaw"), run, table["participant"].iloc[side])
    aside = table.head(20).assign(rule="plausible", centre='a\nb,"c"')
    aside.to_csv(".henaw/quarantine.csv", index=False)
    return config


def people(config: Config) -> pd.DataFrame:
    """Ids beside pseudonyms."""
    pseudonyms = read_cohort(config, PANEL).table["participant"]
    return pd.read_csv("people.csv", dtype=str)[["participant_id"]].assign(participant=pseudonyms)


def test_the_person_leaves_everything_and_the_runs_are_named(config: Config, caplog: pytest.LogCaptureFixture) -> None:
    known = people(config)
    (split_file,) = Path(".henaw/splits").glob("*.json")
    trained = stored_splits._read(split_file)["train"]
    gone = known[known["participant"].isin(trained)].head(3)
    Path("w12345_20260101.csv").write_text("\n".join([*gone["participant_id"], "somebody-else"]))
    before = cache_key(config, PANEL)
    forms = {form: "pseudonym" for one in gone["participant"] for form in (one.encode(), bytes.fromhex(one))}
    assert leaks(Path(".henaw"), forms)
    with caplog.at_level(logging.DEBUG):
        removal = withdraw(Path(".henaw"), Path("w12345_20260101.csv"))
    assert (removal.ids, removal.cached, removal.splits, removal.quarantines) == (4, 2, 1, 1)
    assert removal.runs == ("trained",)
    assert "trained" in removal.summary()
    assert not any(person in caplog.text + removal.summary() for person in gone["participant_id"])
    kept_on_purpose = [Path(".henaw/withdrawn.json"), Path(".henaw/trainings")]
    assert leaks(Path(".henaw"), forms, kept_on_purpose) == []
    aside = pd.read_csv(".henaw/quarantine.csv")
    assert len(aside) == 20 - known.head(20)["participant"].isin(gone["participant"]).sum()
    assert set(aside["centre"]) == {'a\nb,"c"'}
    assert Path(".henaw/quarantine.csv").stat().st_mode & 0o777 == 0o600
    assert withdrawn_runs(Path(".henaw")) == ["trained"]
    assert cache_key(config, PANEL) != before
    with access(cache_folder(config), cache_key(config, PANEL), 5) as found:
        assert found.cohort is None
    table = read_cohort(config, PANEL).table
    assert set(table["participant"]) == set(known["participant"]) - set(gone["participant"])
    again = withdraw(Path(".henaw"), Path("w12345_20260101.csv"))
    assert (again.cached, again.splits, again.quarantines, again.runs) == (0, 0, 0, ("trained",))


def test_who_was_never_here_changes_no_file_but_the_ledger(config: Config) -> None:
    Path("w.csv").write_text("somebody-else\n")
    removal = withdraw(Path(".henaw"), Path("w.csv"))
    assert (removal.ids, removal.cached, removal.splits, removal.quarantines, removal.runs) == (1, 0, 0, 0, ())
    assert withdrawn_runs(Path(".henaw")) == []


def test_the_command(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    one = people(config)["participant_id"].iloc[0]
    Path("w.csv").write_text(f"{one}\n")
    assert run_app(app, ["withdraw", "--ids", "w.csv"]) == 0
    told = capsys.readouterr()
    assert "Never used again: the people of 1 ids. Removed: 2 files of the cache. Changed: 1 splits" in told.out
    assert one not in told.out + told.err
    for arguments, words in (
        (["--ids", "absent.csv"], "absent.csv: no such file"),
        (["--ids", "people.csv"], "lines hold no id"),
        (["--ids", "w.csv", "--overrides", "state.folder=elsewhere"], "state.folder: elsewhere: no such folder"),
    ):
        assert run_app(app, ["withdraw", *arguments]) == 2
        [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("henaw: ")]
        assert words in line
        assert one not in line


def test_no_folder_is_made_where_there_was_none(tmp_path: Path) -> None:
    (tmp_path / "w.csv").write_text("1\n")
    with pytest.raises(BadInput, match="no such folder; expected the one that earlier runs have used"):
        withdraw(tmp_path / "typo", tmp_path / "w.csv")
    assert not (tmp_path / "typo").exists()
