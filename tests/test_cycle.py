"""A clock's whole life on the NHANES table, with the commands of docs/cycle.md and a server that follows them."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import mlflow
import pandas as pd
import pytest
import yaml
from mlflow import MlflowClient

from henaw.config import asset_folder
from henaw.data.panel import load_panel
from henaw.model.answers import answer, input_columns
from henaw.registry.aliases import version_with
from henaw.registry.versions import load_version
from tests.test_end_to_end import environment, project_copy

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.xdist_group("cycle")]

ALWAYS = "training.threads=1 evaluation.draws=200"  # modest, so that the way is a few minutes long
SMALL = f"{ALWAYS} network.hidden=[64,64] training.epochs=12"
FIRST = f"{SMALL} network.members=1 training.era_column=null"
FOUND = f"{SMALL} network.members=8 training.era_column=null"
WORSE = f"{ALWAYS} network.hidden=[8] network.members=2 training.epochs=2"
BETTER = f"{SMALL} network.members=8 training.era_column=cycle"  # told the survey cycle (docs/model.md)
SPACE = """# A short search.
training.learning_rate: {low: 0.002, high: 0.008, log: true}
training.input_noise: {low: 0.1, high: 0.3}
"""
CLIENTS = 4


class Project:
    """A checkout, the NHANES table, and the commands of a user."""

    def __init__(self, folder: Path, table: Path) -> None:
        self.folder, self.table = folder, table
        self.environment = environment() | {
            "LOGNAME": "researcher",
            "MLFLOW_TRACKING_URI": "sqlite:///mlflow.db",
            "PYTHONPATH": str(folder),  # `henaw` too runs this copy, with its gates
        }

    def run(self, *command: str, code: int = 0) -> str:
        """What ``command`` prints; it must end with ``code``."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        return done.stdout + done.stderr

    def stage(self, name: str, overrides: str, profile: str = "nhanes", code: int = 0) -> str:
        told = ("-P", f"profile={profile}", "-P", f"data={self.table}", "-P", f"overrides={overrides}")
        return self.run("mlflow", "run", ".", "-e", name, "--env-manager", "local", *told, code=code)

    def promote(self, *options: str, code: int = 0) -> str:
        told = ("--profile", "nhanes", "--data", str(self.table), "--overrides", ALWAYS)
        return self.run("henaw", "promote", *told, *options, code=code)

    def aliases(self) -> dict[str, int | None]:
        return {alias: version_with("henaw", alias) for alias in ("champion", "challenger", "previous")}


@pytest.fixture
def project(tmp_path: Path, nhanes_table: Path) -> Iterator[Project]:
    found = Project(project_copy(tmp_path / "henaw"), nhanes_table)
    gates = found.folder / "mlproject" / "gates.yaml"
    settings = yaml.safe_load(gates.read_text())
    settings["age"]["groups"]["worse_by"]["crps_years"] = 1.0  # networks this small trade one age band for another
    gates.write_text(yaml.safe_dump(settings))
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{found.folder / 'mlflow.db'}")
    yield found
    mlflow.set_tracking_uri(before)


@contextmanager
def served(project: Project) -> Iterator[str]:
    """The address of a `henaw serve` of the champion, whoever that is."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = "serving.reload_seconds=0.5 serving.rate=100000/second serving.audit=audit.jsonl"
    with (project.folder / "serve.log").open("w") as log:
        process = subprocess.Popen(
            ["henaw", "serve", "--model", "models:/henaw@champion", "--port", str(port), "--overrides", settings],
            cwd=project.folder, env=project.environment, stdout=log, stderr=log,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        until(lambda: _ready(address, process), "the server is not ready")
        yield address
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=40) == 0, (project.folder / "serve.log").read_text()[-2000:]


def _ready(address: str, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "the server has ended"
    try:
        return httpx.get(f"{address}/ping", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def until(so: Any, otherwise: str, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not so():
        assert time.monotonic() < end, otherwise
        time.sleep(0.2)


class Load:
    """Clients that ask one after another until told to stop, and keep what they were answered."""

    def __init__(self, address: str, rows: pd.DataFrame) -> None:
        self.address = address
        self.body = json.dumps({"dataframe_split": rows.to_dict(orient="split", index=False)})
        self.answers: list[tuple[int, str]] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(CLIENTS)]

    def one(self, client: httpx.Client) -> tuple[int, str]:
        reply = client.post(
            f"{self.address}/invocations", content=self.body, headers={"Content-Type": "application/json"}
        )
        return reply.status_code, reply.text

    def _ask(self) -> None:
        with httpx.Client(timeout=20) as client:
            while not self._stop.is_set():
                try:
                    self.answers.append(self.one(client))
                except httpx.TransportError as error:
                    self.answers.append((0, type(error).__name__))

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=30)


def ages(text: str) -> tuple[float, ...]:
    return tuple(round(row["biological_age_years"], 6) for row in json.loads(text)["predictions"])


def test_a_clocks_whole_life(project: Project) -> None:
    rows = pd.read_csv(project.table, nrows=3000)
    panel = load_panel("blood9", asset_folder("mlproject") / "panels")
    rows = rows.dropna(subset=list(panel.names))[list(input_columns(panel))].head(5).reset_index(drop=True)

    def answers_of(version: int) -> tuple[float, ...]:
        found = answer(load_version(f"models:/henaw/{version}"), rows, 0.9)
        return tuple(round(value, 6) for value in found["biological_age_years"])

    project.stage("train", FIRST)
    assert project.aliases() == {"champion": 1, "challenger": 1, "previous": None}

    # tune, and train with what was found
    (project.folder / "mlproject" / "search" / "short.yaml").write_text(SPACE)
    said = project.stage("tune", f"{FOUND} study.space=short study.trials=3")
    assert "held-out people: CRPS" in said
    [best] = (project.folder / ".henaw" / "studies").glob("*.best.yaml")
    (project.folder / "mlproject" / "profiles" / "found.yaml").write_text(best.read_text())
    project.stage("train", FOUND, profile="found")
    assert project.aliases() == {"champion": 1, "challenger": 2, "previous": None}
    assert MlflowClient().get_model_version("henaw", "2").tags["henaw.study"] == best.name.removesuffix(".best.yaml")

    # promote it by evidence
    assert "dry run" in project.promote("--dry-run")
    assert project.aliases()["champion"] == 1
    assert "It is champion now." in project.promote()
    assert project.aliases() == {"champion": 2, "challenger": None, "previous": 1}

    with served(project) as address, httpx.Client(timeout=20) as client:
        load = Load(address, rows)
        assert ages(load.one(client)[1]) == answers_of(2)

        # a challenger that is worse
        project.stage("train", WORSE)
        refused = project.promote(code=1)
        assert "refused" in refused
        assert "CRPS" in refused
        assert project.aliases() == {"champion": 2, "challenger": 3, "previous": 1}
        assert ages(load.one(client)[1]) == answers_of(2)

        # one that is better, by the other command; the server follows
        project.stage("train", BETTER, profile="found")
        project.stage("promote", ALWAYS)
        assert project.aliases() == {"champion": 4, "challenger": None, "previous": 2}
        until(lambda: ages(load.one(client)[1]) == answers_of(4), "the server did not follow to version 4")

        # taken back while requests go on
        with load:
            until(lambda: len(load.answers) > 200, "no load")
            said = project.run("henaw", "rollback", "henaw")
            assert "champion is version 2 again, was 4" in said
            until(lambda: ages(load.one(client)[1]) == answers_of(2), "the server did not follow the rollback")
            more = len(load.answers) + 200
            until(lambda: len(load.answers) > more, "the load has stopped")

    assert {status for status, _ in load.answers} == {200}, "a request failed"
    each = {ages(text) for text in {text for _, text in load.answers}}
    assert each == {answers_of(4), answers_of(2)}, "a reply came from neither champion"
    audited = [json.loads(line) for line in (project.folder / "audit.jsonl").read_text().splitlines()]
    assert {line["status"] for line in audited if line["route"] == "invocations"} == {200}
    named = [line["model"] for line in audited if line["route"] == "invocations"]
    assert set(named) == {"henaw/2", "henaw/4"}, "version 3 was never champion"
    assert named[-1] == "henaw/2"
    assert project.aliases() == {"champion": 2, "challenger": None, "previous": None}
    listed = project.run("henaw", "models", "list")
    print(f"{len(load.answers)} requests during the rollback\n{listed}")
    decisions = {
        number: MlflowClient().get_model_version("henaw", number).tags.get("henaw.decision") for number in "1234"
    }
    assert decisions == {"1": None, "2": "passed", "3": "refused", "4": "passed"}
