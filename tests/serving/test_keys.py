"""Keys: made once, kept as hashes, gone when revoked."""

from __future__ import annotations

import datetime as dt
import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from henaw import cli
from henaw.console import run_app
from henaw.errors import BadInput, EnvironmentProblem
from henaw.serving import keys
from henaw.serving.keys import KEYS_FILE, Keyring, create_key, read_keys, revoke_key
from henaw.serving.refusals import Refusal

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_of_a_key_only_a_hash_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    key, text = create_key(folder, "clinic 1", ["score", "metrics", "score"], 30, NOW)
    path = folder / KEYS_FILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert text.startswith(f"henaw_{key.id}_")
    assert text.rpartition("_")[2] not in path.read_text()
    assert read_keys(folder) == [key]
    assert (key.scopes, key.expires) == (("metrics", "score"), "2026-01-31T00:00:00+00:00")


@pytest.mark.parametrize(
    ("name", "scopes", "days"),
    [
        ("", ["score"], None),
        ("x" * 65, ["score"], None),
        ("a\nb", ["score"], None),
        ("a", [], None),
        ("a", ["everything"], None),
        ("a", ["score"], 0),
        ("a", ["score"], 99_999_999),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(tmp_path: Path, name: str, scopes: list[str], days: int | None) -> None:
    with pytest.raises(BadInput):
        create_key(tmp_path, name, scopes, days, NOW)
    assert read_keys(tmp_path) == []


def test_keys_made_at_once_are_all_kept(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda number: create_key(tmp_path, f"{number}", ["score"], None, NOW)[0], range(16)))
    assert {key.id for key in read_keys(tmp_path)} == {key.id for key in made}


def test_a_revoked_key_is_refused_without_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LOOK_AGAIN_SECONDS", 0.0)
    key, text = create_key(tmp_path, "a", ["score"], None, NOW)
    ring = Keyring(tmp_path)
    assert ring.admit(f"bearer {text}".encode()) == key
    revoke_key(tmp_path, key.id)
    with pytest.raises(Refusal) as raised:  # also as the last one: nobody is let in for want of keys
        ring.admit(f"Bearer {text}".encode())
    assert raised.value.code == "UNAUTHENTICATED"
    with pytest.raises(BadInput, match="no key with the id"):
        revoke_key(tmp_path, key.id)


def test_the_first_key_closes_a_running_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LOOK_AGAIN_SECONDS", 0.0)
    ring = Keyring(tmp_path)
    assert ring.admit(None) is None
    create_key(tmp_path, "a", ["score"], None, NOW)
    with pytest.raises(Refusal):
        ring.admit(None)


def test_a_broken_file_opens_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "_LOOK_AGAIN_SECONDS", 0.0)
    key, text = create_key(tmp_path, "a", ["score"], None, NOW)
    ring = Keyring(tmp_path)
    (tmp_path / KEYS_FILE).write_text("{")
    assert ring.admit(f"Bearer {text}".encode()) == key
    with pytest.raises(Refusal):
        ring.admit(None)
    with pytest.raises(EnvironmentProblem, match="cannot be read as keys"):
        Keyring(tmp_path)
    (tmp_path / KEYS_FILE).unlink()
    with pytest.raises(Refusal):
        ring.admit(None)


@pytest.mark.parametrize("part", [{"digest": None}, {"scopes": "score"}, {"scopes": [1]}, {"expires": 5}, {"id": 5}])
def test_keys_of_other_types_are_a_broken_file(tmp_path: Path, part: dict[str, Any]) -> None:
    create_key(tmp_path, "a", ["score"], None, NOW)
    kept = json.loads((tmp_path / KEYS_FILE).read_text())
    kept["keys"][0] |= part
    (tmp_path / KEYS_FILE).write_text(json.dumps(kept))
    with pytest.raises(EnvironmentProblem, match="cannot be read as keys"):
        Keyring(tmp_path)


def test_a_folder_in_which_nothing_can_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / f"{KEYS_FILE}.lock").mkdir()
    with pytest.raises(EnvironmentProblem, match="cannot be written"):
        create_key(tmp_path, "a", ["score"], None, NOW)


def test_the_commands_make_list_and_revoke(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--overrides", f"state.folder={tmp_path}"]
    assert run_app(cli.app, ["keys", "create", "--name", "clinic", "--scope", "score", "--days", "7", *where]) == 0
    text = capsys.readouterr().out.strip()
    assert Keyring(tmp_path).admit(f"Bearer {text}".encode()) is not None
    assert run_app(cli.app, ["keys", "list", *where]) == 0
    listed = capsys.readouterr().out
    assert "clinic" in listed
    assert text not in listed
    assert json.loads((tmp_path / KEYS_FILE).read_text())["keys"][0]["digest"] not in listed
    key_id = listed.split()[0]
    assert run_app(cli.app, ["keys", "revoke", key_id, *where]) == 0
    assert run_app(cli.app, ["keys", "revoke", key_id, *where]) == 2
    assert run_app(cli.app, ["keys", "create", "--name", "a", "--scope", "all", *where]) == 2
