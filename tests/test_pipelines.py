"""The stages in this process: what they refuse, and that a refusal leaves nothing half-done."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from mlflow import MlflowClient

from henaw.config import asset_folder
from henaw.console import run_app
from henaw.data.synthetic import synthetic_table
from pipelines import evaluate, monitor, register, score, train, validate

CANARY = 7.7731


def call(stage: object, *arguments: str) -> int:
    app = typer.Typer()
    app.command()(stage.main)  # type: ignore[attr-defined]
    return run_app(app, arguments)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on standard error that is meant for the user."""
    text = capsys.readouterr().err
    [line] = [line for line in text.splitlines() if line.startswith("henaw: ")]
    assert "Traceback" not in text
    return line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--overrides", "trainin.epochs=3"], "did you mean 'training.epochs'?"),
        (["--overrides", "training.epochs=many"], "training.epochs"),
        (["--overrides", "training.learning_rate=-1"], "training.learning_rate"),
        (["--overrides", "panel=blood8"], "panel 'blood8'"),
        (["--data", "absent.csv"], "absent.csv: no such file"),
        (["--profile", "nhanes"], "name a table with data=FILE"),
        (["--profile", "ukb"], "source.data"),
        (["--colour", "red"], "--colour"),
        (["stray"], "stray"),
    ],
)
def test_what_train_refuses(
    workplace: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert call(train, *arguments) == 2
    assert words in one_line(capsys)
    assert not MlflowClient().search_registered_models()


def table() -> pd.DataFrame:
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    return synthetic_table(300, (40, 69), 3, summaries=summaries)


def spoil(folder: Path, fault: str) -> Path:
    path, rows = folder / "people.csv", table()
    if fault == "empty":
        path.write_text("")
    elif fault == "header only":
        rows.head(0).to_csv(path, index=False)
    elif fault == "column missing":
        rows.drop(columns="crp_mg_l").to_csv(path, index=False)
    elif fault == "id column missing":
        rows.drop(columns="participant_id").to_csv(path, index=False)
    elif fault == "text in a number":
        rows.astype({"crp_mg_l": object}).assign(crp_mg_l=f"<{CANARY}").to_csv(path, index=False)
    elif fault == "no rows left":
        rows.assign(age_years=95.0).to_csv(path, index=False)
    elif fault == "all implausible":
        rows.assign(albumin_g_l=CANARY).to_csv(path, index=False)
    elif fault == "repeated people":
        pd.concat([rows, rows]).to_csv(path, index=False)
    elif fault == "gzip cut short":
        path = folder / "people.csv.gz"
        rows.to_csv(path, index=False)
        path.write_bytes(path.read_bytes()[:-200])
    elif fault == "folder":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("empty", "is empty"),
        ("header only", "no rows"),
        ("column missing", "crp_mg_l"),
        ("id column missing", "source.id_columns"),
        ("text in a number", "crp_mg_l"),
        ("no rows left", "nobody is left"),
        ("all implausible", "albumin_g_l"),
        ("repeated people", "participant"),
        ("gzip cut short", "cut short"),
        ("folder", "is a folder"),
    ],
)
def test_tables_that_cannot_be_used(
    workplace: Path, capsys: pytest.CaptureFixture[str], fault: str, words: str
) -> None:
    path = spoil(workplace, fault)
    assert call(train, "--profile", "smoke", "--data", str(path)) == 2
    line = one_line(capsys)
    assert words in line
    assert str(CANARY) not in line
    client = MlflowClient()
    runs = [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]
    assert {run.info.status for run in runs} == {"FAILED"}
    assert not client.search_registered_models()


@pytest.mark.parametrize("stage", [monitor])
def test_what_is_not_built_says_so(capsys: pytest.CaptureFixture[str], stage: object) -> None:
    assert call(stage) == 2
    assert "not built yet" in one_line(capsys)


def test_stages_that_need_more_say_what(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage, arguments, words in (
        (register, [], "run_id"),
        (register, ["--run-id", "0123"], "no such run"),
        (evaluate, ["--model", "models:/henaw@champion"], "no such model"),
        (evaluate, ["--model", "henaw"], "models:/"),
        (score, [], "input, output"),
        (score, ["--input", "a.csv", "--output", "b.csv", "--coverage", "wide"], "--coverage"),
        (score, ["--input", "a.csv", "--output", "b.csv", "--quantiles", "perhaps"], "quantiles"),
    ):
        assert call(stage, *arguments) == 2
        assert words in one_line(capsys)


def test_validate_logs_the_verdict_and_counts_alone(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = table()
    rows.loc[0, "crp_mg_l"] = 7773.1  # implausible, and recognizable
    rows.to_csv(workplace / "people.csv.gz", index=False)
    assert call(validate, "--data", "people.csv.gz") == 0
    assert "set aside" in capsys.readouterr().out
    artifacts = [path for path in workplace.glob("mlruns/**/*") if path.is_file()]
    expected = {"verdict.json", "verdict.md", "validation.html", "cohort.json", "config.yaml"}
    assert expected <= {path.name for path in artifacts}
    for path in [*artifacts, workplace / "mlflow.db"]:
        text = path.read_bytes()
        assert b"7773.1" not in text
        assert rows.loc[0, "participant_id"].encode() not in text
    cohort, verdict = (
        json.loads(next(path for path in artifacts if path.name == name).read_text())
        for name in ("cohort.json", "verdict.json")
    )
    told = [verdict["rows"], verdict["set_aside"], *cohort.values()]
    assert told == [300, "<5", 300, *[0] * (len(cohort) - 2), 300]  # the one that is missing cannot be worked out
    quarantine = workplace / ".henaw" / "quarantine.csv"
    assert "7773.1" in quarantine.read_text()
    assert quarantine.stat().st_mode & 0o077 == 0


def test_the_second_time_the_cohort_comes_from_the_cache(workplace: Path) -> None:
    with gzip.open(workplace / "people.csv.gz", "wt") as file:
        table().to_csv(file, index=False)
    tiny = "training.epochs=1 network.members=2 network.hidden=[8]"
    for _ in range(2):
        assert call(train, "--profile", "smoke", "--data", "people.csv.gz", "--overrides", tiny) == 0
    client = MlflowClient()
    [experiment] = [found for found in client.search_experiments() if found.name == "henaw"]
    runs = client.search_runs([experiment.experiment_id], order_by=["start_time ASC"])
    assert [run.data.metrics["cache_hit"] for run in runs if "cache_hit" in run.data.metrics] == [0.0, 1.0]
    verdicts = sorted(workplace.glob("mlruns/**/verdict.json"))
    assert len({path.read_text() for path in verdicts}) == 1
    assert len(verdicts) == 2
    assert client.get_model_version_by_alias("henaw", "champion").version in ("1", 1)
    assert client.get_model_version_by_alias("henaw", "challenger").version in ("2", 2)
