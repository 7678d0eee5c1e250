"""The spine, with real processes: `mlflow run . -e train` → registry → `mlflow models serve` → an HTTP client."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from henaw.config import asset_folder
from henaw.data.panel import load_panel
from henaw.data.synthetic import synthetic_table
from henaw.model.answers import NUMBERS, input_columns, output_columns
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.xdist_group("end_to_end")

PANEL = load_panel("blood9", asset_folder("mlproject") / "panels")
OUTPUTS = output_columns("age")


def project_copy(folder: Path) -> Path:
    """What git would give a newcomer, uncommitted changes included, so that a run leaves nothing in the checkout."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (REPOSITORY / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(REPOSITORY / name, folder / name)
    return folder


def environment() -> dict[str, str]:
    """What `make` exports: this environment's programs first, no address of another store, nothing calls home."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "HENAW_", "PYTHONPATH"))
    }
    return {
        **inherited,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "GX_ANALYTICS_ENABLED": "false",
    }


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )


@contextmanager
def served(folder: Path, model: str, *options: str, env: dict[str, str] | None = None) -> Iterator[str]:
    """The address of a real `mlflow models serve` process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / "serve.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            ["mlflow", "models", "serve", "-m", model, "--port", str(port), *(options or ("--env-manager", "local"))],
            cwd=folder, env=env or environment(), stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(1200):
            assert process.poll() is None, log.read_text()
            try:
                if httpx.get(f"{address}/health", timeout=1).status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.25)
        else:
            pytest.fail(f"not ready: {log.read_text()}")
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(timeout=30)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the project in which the smoke profile has been trained once."""
    folder = project_copy(tmp_path_factory.mktemp("project"))
    done = run(folder, "mlflow", "run", ".", "-e", "train", "--env-manager", "local", "-P", "profile=smoke")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "Registered henaw version 1 (challenger, champion)" in done.stdout
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    yield folder
    mlflow.set_tracking_uri(before)


@pytest.fixture(scope="module")
def people(trained: Path) -> pd.DataFrame:
    """Ten people in the participant-table form, one with a marker missing, one beyond belief, one without sex."""
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    table = synthetic_table(200, (40, 69), 7, summaries=summaries)
    rows = table.dropna(subset=list(input_columns(PANEL))).head(10).reset_index(drop=True)
    rows.loc[1, PANEL.names[0]] = float("nan")
    rows.loc[2, PANEL.names[1]] = PANEL.biomarkers[1].plausible[1] * 10
    rows.loc[3, "sex"] = None
    return rows


def test_a_stage_a_child_run_and_all_that_was_promised_is_logged(trained: Path) -> None:
    client = MlflowClient()
    [parent] = [run for run in client.search_runs(["0"]) if "mlflow.parentRunId" not in run.data.tags]
    children = client.search_runs(["0"], filter_string=f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'")
    by_stage = {child.data.tags["henaw.stage"]: child for child in children}
    assert set(by_stage) == {"validate", "cache", "train", "evaluate", "register"}
    assert {child.info.status for child in [parent, *children]} == {"FINISHED"}
    assert {"mae_years", "r", "crps_years", "coverage_90"} <= parent.data.metrics.keys()
    assert parent.data.tags["henaw.version"]
    steps = client.get_metric_history(by_stage["train"].info.run_id, "step/gradient_norm")
    assert len(steps) >= 8
    assert all(step.value > 0 for step in steps)

    def artifacts(stage: str, folder: str | None = None) -> set[str]:
        return {item.path for item in client.list_artifacts(by_stage[stage].info.run_id, folder)}

    assert "config.yaml" in {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"verdict.json", "verdict.md"} <= artifacts("validate")
    assert {"figures/loss.png", "figures/gradient_norms.png"} <= artifacts("train", "figures")
    assert {
        "figures/predicted_against_true.png",
        "figures/calibration.png",
        "figures/age_gap_by_age.png",
    } <= artifacts("evaluate", "figures")
    assert "clock" in artifacts("register")


def test_the_version_is_whole(trained: Path) -> None:
    client = MlflowClient()
    for alias in ("champion", "challenger"):
        assert client.get_model_version_by_alias("henaw", alias).version in ("1", 1)
    info = mlflow.models.get_model_info("models:/henaw@champion")
    signature = info.signature
    assert [column.name for column in signature.inputs] == list(input_columns(PANEL))
    assert {column.type.name for column in signature.inputs if column.name != "sex"} == {"double"}
    assert [column.name for column in signature.outputs] == list(OUTPUTS)
    assert {parameter.name: parameter.default for parameter in signature.params} == {"coverage": 0.9}
    files = {path.name for path in trained.glob("mlruns/*/models/*/artifacts/**/*") if path.is_file()}
    assert {"weights.safetensors", "clock.json", "manifest.json", "scoring_model.py", "input_example.json"} <= files
    assert not [name for name in files if name.endswith((".pkl", ".pickle", ".joblib", ".pt", ".pth"))]


def as_bodies(people: pd.DataFrame) -> dict[str, dict[str, object]]:
    rows = json.loads(people[list(input_columns(PANEL))].to_json(orient="split"))
    records = json.loads(people[list(input_columns(PANEL))].to_json(orient="records"))
    return {
        "dataframe_split": {"dataframe_split": {"columns": rows["columns"], "data": rows["data"]}},
        "dataframe_records": {"dataframe_records": records},
    }


def require_equal(served_rows: list[dict[str, object]], scored: pd.DataFrame) -> None:
    assert len(served_rows) == len(scored)
    for answer, (_, row) in zip(served_rows, scored.iterrows(), strict=True):
        assert answer["status"] == row["status"]
        assert (answer["flags"] or "") == ("" if pd.isna(row["flags"]) else row["flags"])
        for name in NUMBERS:
            if answer["status"] == "abstain":
                assert answer[name] is None
                assert pd.isna(row[name])
            else:
                assert answer[name] == pytest.approx(row[name], abs=1e-9)


def test_served_answers_equal_scored_ones(trained: Path, people: pd.DataFrame) -> None:
    people.to_csv(trained / "ten.csv", index=False)
    done = run(
        trained, "henaw", "score", "--model", "models:/henaw@champion", "--input", "ten.csv", "--output", "ages.csv"
    )
    assert done.returncode == 0, done.stderr
    scored = pd.read_csv(trained / "ages.csv")
    assert list(scored.columns) == list(OUTPUTS)
    assert scored["status"].tolist().count("abstain") == 2
    with served(trained, "models:/henaw@champion") as address:
        for body in as_bodies(people).values():
            reply = httpx.post(f"{address}/invocations", json=body)
            assert reply.status_code == 200, reply.text
            require_equal(json.loads(reply.text, parse_constant=pytest.fail)["predictions"], scored)
        narrow = httpx.post(
            f"{address}/invocations", json={**as_bodies(people)["dataframe_records"], "params": {"coverage": 0.5}}
        ).json()["predictions"]
        assert (
            narrow[0]["upper_years"] - narrow[0]["lower_years"]
            < scored.loc[0, "upper_years"] - scored.loc[0, "lower_years"]
        )


def test_score_as_a_stage_gives_the_same_file(trained: Path, people: pd.DataFrame) -> None:
    people.to_parquet(trained / "ten.parquet")
    done = run(
        trained, "mlflow", "run", ".", "-e", "score", "--env-manager", "local",
        "-P", "input=ten.parquet", "-P", "output=stage.csv", "-P", "quantiles=true", "-P", "keep=participant_id",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    stage = pd.read_csv(trained / "stage.csv")
    assert stage["participant_id"].tolist() == people["participant_id"].tolist()
    kept = stage[stage["status"] != "abstain"]
    assert (kept["q05"] - kept["lower_years"]).abs().max() < 1e-9
    assert (kept["q95"] - kept["upper_years"]).abs().max() < 1e-9


def test_a_failed_stage_closes_its_run_and_registers_nothing(trained: Path) -> None:
    before = len(MlflowClient().search_model_versions("name='henaw'"))
    done = run(
        trained, sys.executable, "-m", "pipelines.train", "--profile", "smoke",
        "--overrides", "validation.max_set_aside=0.0 source.people=2000",
    )  # fmt: skip
    assert done.returncode == 2, done.stderr[-3000:]
    assert done.stderr.strip().splitlines()[-1].startswith("henaw: validation ")
    experiment = MlflowClient().get_experiment_by_name("henaw")
    assert experiment is not None
    runs = MlflowClient().search_runs([experiment.experiment_id])
    assert {run.info.status for run in runs} == {"FAILED"}
    assert {run.data.tags["henaw.stage"] for run in runs} == {"train", "validate"}
    assert len(MlflowClient().search_model_versions("name='henaw'")) == before


def test_bad_input_ends_mlflow_run_and_the_module_alike(trained: Path) -> None:
    for command, code in (
        ([sys.executable, "-m", "pipelines.train", "--profile", "smok"], 2),
        (["mlflow", "run", ".", "-e", "train", "--env-manager", "local", "-P", "profile=smok"], 1),  # MLflow's own
    ):
        done = run(trained, *command)
        assert done.returncode == code
        [line] = [line for line in done.stderr.splitlines() if line.startswith("henaw: ")]
        assert "did you mean 'smoke'?" in line
        assert "henaw/" not in done.stderr


def test_a_tracking_server_that_does_not_answer_ends_at_once(trained: Path) -> None:
    with socket.socket() as taken:  # bound but not listening: a connection is refused
        taken.bind(("127.0.0.1", 0))
        env = {**environment(), "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.train", "--profile", "smoke"],
            cwd=trained, env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 3
    assert "does not answer" in done.stderr


@pytest.mark.slow
def test_served_where_henaw_is_not_installed(trained: Path, people: pd.DataFrame) -> None:
    """MLflow builds the version's own environment with uv; it has no HENAW but what the version carries."""
    people.to_csv(trained / "ten.csv", index=False)
    done = run(
        trained, "henaw", "score", "--model", "models:/henaw@champion", "--input", "ten.csv", "--output", "ages.csv"
    )
    assert done.returncode == 0, done.stderr
    env = environment()
    if "PIP_FIND_LINKS" in env:  # uv reads none of pip's settings
        env.setdefault("UV_FIND_LINKS", env["PIP_FIND_LINKS"])
    env["MLFLOW_ENV_ROOT"] = str(trained / "envs")
    with served(trained, "models:/henaw@champion", "--env-manager", "uv", env=env) as address:
        reply = httpx.post(f"{address}/invocations", json=as_bodies(people)["dataframe_split"])
        assert reply.status_code == 200, reply.text
        require_equal(reply.json()["predictions"], pd.read_csv(trained / "ages.csv"))
