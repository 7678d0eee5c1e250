"""`-P resume=<run id>` in this process: stopped, told how to go on, gone on with, and the clock is the same."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

import pytest
import typer
from mlflow import MlflowClient
from mlflow.entities import Run

from henaw.config import load_config
from henaw.console import run_app
from henaw.training import checkpoint, speed
from henaw.training.checkpoints import Checkpoints
from pipelines import fit, train

TINY = "training.epochs=4 network.members=2 network.hidden=[8] source.people=600"


def call(*arguments: str) -> int:
    app = typer.Typer()
    app.command()(train.main)
    return run_app(app, arguments)


def children(client: MlflowClient, parent: str) -> dict[str, Run]:
    experiment = client.get_run(parent).info.experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert len({run.data.tags["henaw.stage"] for run in found}) == len(found), "one run a stage"
    return {run.data.tags["henaw.stage"]: run for run in found}


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 143)]
)
def test_a_stopped_run_says_how_to_go_on_and_does(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    number: signal.Signals,
    code: int,
) -> None:
    listen = fit.ProgressEvents.on_epoch_end

    def stopping(self: fit.ProgressEvents, epoch: int, metrics: dict[str, float]) -> None:
        listen(self, epoch, metrics)
        if epoch == 1:
            signal.raise_signal(number)

    with monkeypatch.context() as patch:
        patch.setattr(fit.ProgressEvents, "on_epoch_end", stopping)
        assert call("--profile", "smoke", "--overrides", TINY) == code
    [run_id] = re.findall(r"go on with: mlflow run \. -e train -P resume=(\w+)", caplog.text)
    client = MlflowClient()
    assert client.get_run(run_id).info.status == "FAILED"
    saved = workplace / ".henaw" / "checkpoints" / run_id
    assert saved.stat().st_mode & 0o077 == 0

    before = [each.to_dictionary() for each in (client.get_run(run_id), *children(client, run_id).values())]
    with Checkpoints(saved, load_config().training).held():  # as a process that has gone on with it already
        assert call("--resume", run_id) == 2
    assert f"run {run_id}: another process is training it" in capsys.readouterr().err
    assert [each.to_dictionary() for each in (client.get_run(run_id), *children(client, run_id).values())] == before

    assert call("--resume", run_id, "--overrides", "seed=3") == 2
    assert call("--resume", "../other") == 2
    with monkeypatch.context() as patch:  # by then `auto` would come to something else
        other = {"batch_size": 64, "precision": "fp32", "compiled": "never", "measured": "not"}
        patch.setattr(speed, "speed_table", lambda: [speed.Row(device="cpu", from_people=0, **other)])
        assert call("--resume", run_id) == 0
    assert client.get_run(run_id).info.status == "FINISHED"
    assert not saved.exists(), "what is complete needs no checkpoint"
    stages = children(client, run_id)
    assert set(stages) == {"validate", "cache", "train", "evaluate", "register"}
    assert {run.info.status for run in stages.values()} == {"FINISHED"}
    told = stages["train"].data.params
    assert (told["training.batch_size"], told["training.compiled"]) == ("512", "never"), "what auto came to"
    losses = client.get_metric_history(stages["train"].info.run_id, "epoch/validation_loss")
    assert sorted(metric.step for metric in losses) == [0, 1, 2, 3]
    assert call("--resume", run_id) == 2
    assert "is complete" in capsys.readouterr().err

    assert call("--profile", "smoke", "--overrides", TINY) == 0
    weights = {path.read_bytes() for path in workplace.rglob("weights.safetensors")}
    assert len(weights) == 1, "bitwise the clock of a run that was never stopped"


@pytest.mark.slow
def test_a_full_disk_ends_a_run_with_the_way_on(
    workplace: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    real, calls = checkpoint._write, 0

    def full(path: Path, content: bytes) -> None:
        nonlocal calls
        calls += 1
        real(path, content[:100] if calls > 9 else content)  # the third checkpoint
        if calls > 9:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_write", full)
        assert call("--profile", "smoke", "--overrides", TINY) == 3
    assert "No space left on device" in capsys.readouterr().err
    [run_id] = re.findall(r"once the cause is mended, go on with: mlflow run \. -e train -P resume=(\w+)", caplog.text)
    assert call("--resume", run_id) == 0
    assert MlflowClient().get_run(run_id).info.status == "FINISHED"


def test_a_run_of_another_machine_is_not_resumed_here(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("--profile", "smoke", "--data", "absent.csv") == 2
    client = MlflowClient()
    [experiment] = [found for found in client.search_experiments() if found.name == "henaw"]
    [run] = [run for run in client.search_runs([experiment.experiment_id]) if run.data.tags["henaw.stage"] == "train"]
    assert call("--resume", run.info.run_id) == 2
    assert "nothing is saved of run" in capsys.readouterr().err


def test_a_run_that_goes_on_keeps_its_settings_but_those_that_the_result_does_not_depend_on(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("--resume", "0123", "--overrides", "training.threads=1 training.epochs=2") == 2
    assert "training.epochs too; expected changes of training.checkpoint_every" in capsys.readouterr().err
    assert call("--resume", "0123", "--overrides", "training.processes=1") == 2
    assert "no such run" in capsys.readouterr().err
