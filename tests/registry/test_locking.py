"""The lock of a model's aliases: one for all who mean the same model, and never waited for without end."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest

from henaw.errors import EnvironmentProblem
from henaw.registry import locking
from henaw.registry.locking import aliases_locked
from tests.postgresql import running_server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(locking, "_LONGEST_WAIT", 0.2)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)


def require_one_lock(monkeypatch: pytest.MonkeyPatch, mine: str, theirs: str) -> None:
    """Who names the store ``theirs``, as another user, waits for who names it ``mine``."""
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(mine)
        with aliases_locked("henaw"):
            mlflow.set_tracking_uri(theirs)
            monkeypatch.setattr(os, "getuid", lambda: 4711)
            with (
                pytest.raises(EnvironmentProblem, match="henaw: another process has been moving its aliases"),
                aliases_locked("henaw"),
            ):
                pass
            with aliases_locked("another"):
                pass
        with aliases_locked("henaw"):
            pass
    finally:
        mlflow.set_tracking_uri(before)


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///{folder}/mlflow.db"),
        ("http://127.0.0.1:5000", "http://somebody:secret@127.0.0.1:5000/"),
    ],
)
def test_users_of_a_machine_exclude_each_other(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mine: str, theirs: str
) -> None:
    require_one_lock(monkeypatch, mine, theirs.format(folder=tmp_path))
    modes = [path.stat().st_mode & 0o777 for path in tmp_path.glob(".henaw-*.lock")]
    assert modes == [0o666] * len(modes), "every user can open it"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with running_server() as address:
        yield address


def test_postgresql_is_not_waited_for_without_end(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    require_one_lock(monkeypatch, database, database.replace("henaw@", "henaw:secret@"))


def test_where_no_lock_can_be_that_is_said(tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri("sqlite:///file/mlflow.db")
    (tmp_path / "file").touch()
    try:
        with pytest.raises(EnvironmentProblem, match="lock cannot be taken"), aliases_locked("henaw"):
            pass
    finally:
        mlflow.set_tracking_uri(before)
