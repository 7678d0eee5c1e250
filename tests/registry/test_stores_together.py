"""Stores that several processes begin at once: the schema is made once, and everybody's run arrives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry.aliases import move_champion, rollback, version_with
from henaw.registry.versions import exact_version, load_version, register
from tests.postgresql import running_server
from tests.scenarios import blood_clock

BEGINNER = """
import sys
import mlflow
from henaw.config import load_config
from henaw.registry import tracking
mlflow.set_tracking_uri(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
with tracking.parent_run(load_config(overrides=f"state.folder={sys.argv[2]}"), "train"):
    tracking.log_metrics({"mae_years": 7.0})
"""


def begin_together(uri: str, folder: Path, processes: int) -> list[tuple[int, str]]:
    """Exit codes and last words of processes that all wait at the same point."""
    pipe = subprocess.PIPE
    environment = {**os.environ, "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    commands = [[sys.executable, "-c", BEGINNER, uri, str(folder / f"state{number}")] for number in range(processes)]
    started = [
        subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=folder, env=environment)
        for command in commands
    ]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    ended = []
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in started:
        _, words = process.communicate(timeout=200)
        ended.append((process.returncode, words[-1500:]))
    return ended


def require_all_runs(uri: str, processes: int) -> None:
    client = MlflowClient(tracking_uri=uri)
    [experiment] = [found for found in client.search_experiments() if found.name == "henaw"]
    found = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in found] == ["FINISHED"] * processes
    assert [run.data.metrics["mae_years"] for run in found] == [7.0] * processes


@pytest.mark.slow
def test_processes_that_start_on_an_empty_sqlite_store_do_not_race(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    ended = begin_together(uri, tmp_path, 2)
    assert [code for code, _ in ended] == [0, 0], ended
    require_all_runs(uri, 2)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with running_server() as address:
        yield address


@pytest.mark.slow
def test_postgresql_begun_by_two_at_once(database: str, tmp_path: Path) -> None:
    ended = begin_together(database, tmp_path, 2)
    assert [code for code, _ in ended] == [0, 0], ended
    require_all_runs(database, 2)


@pytest.mark.slow
def test_versions_and_aliases_in_postgresql(database: str, tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(database)
    try:
        experiment = mlflow.create_experiment("models", artifact_location=str(tmp_path / "artifacts"))
        for number in range(2):
            folder = tmp_path / str(number) / CLOCK_FOLDER
            save_clock(blood_clock(number), folder)
            with mlflow.start_run(experiment_id=experiment):
                register(folder, "henaw", {})
        move_champion("henaw", 2, 1)
        assert exact_version("models:/henaw@champion") == ("henaw", 2)
        assert version_with("henaw", "previous") == 1
        assert rollback("henaw", tmp_path) == (1, 2)
        assert load_version("models:/henaw@champion").panel.name == "blood9"
    finally:
        mlflow.set_tracking_uri(before)
