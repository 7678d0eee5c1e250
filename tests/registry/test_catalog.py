"""Where a version comes from, its model card, and what ``henaw models`` says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient

from henaw.cli import app
from henaw.config import Config, asset_folder, load_config
from henaw.console import run_app
from henaw.data.synthetic import synthetic_table
from henaw.evaluation.card import model_card
from henaw.evaluation.evaluate import evaluate
from henaw.evaluation.page import page
from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry import tracking
from henaw.registry.lineage import lineage_of, mark_withdrawn
from pipelines import register
from tests.scenarios import blood_clock

CLOCK = blood_clock()


def people(seed: int) -> pd.DataFrame:
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    table = synthetic_table(400, (40, 69), seed, summaries=summaries).rename(columns={"participant_id": "participant"})
    return table[table["sex"].notna()].reset_index(drop=True)


REPORT = evaluate(CLOCK, people(1), people(2), [0.9], 20, 0).report


def trained(config: Config, folder: Path) -> str:
    """A run as the train stage leaves it; returns its id."""
    source = {"henaw.source": "table", "henaw.source_digest": "d" * 64, "henaw.verdict": "passed"}
    with tracking.parent_run(config, "train") as run:
        with tracking.child_run("validate"):
            tracking.set_tags(source)
        with tracking.child_run("train"):
            tracking.log_params({"people_train": 300, "people_calibration": 30, "people_test": "<5"})
        with tracking.child_run("evaluate"):
            tracking.log_json(REPORT.to_dict(), "evaluation.json")
        place = folder / run / CLOCK_FOLDER
        save_clock(CLOCK, place)
        with tracking.child_run("register"):
            register.run(config, place, {"henaw.training_run": run})
    return run


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    mlflow.create_experiment("henaw", artifact_location=str(folder / "artifacts"))
    mlflow.set_experiment("henaw")
    here = f"state.folder={folder / 'state'}"
    found = [
        trained(load_config(overrides=here), folder),
        trained(load_config(overrides=f"{here} seed=5 study.found_by=age-x-1"), folder),
    ]
    yield found
    mlflow.set_tracking_uri(before)


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    capsys.readouterr()
    assert run_app(app, list(arguments)) == 0
    return capsys.readouterr().out


def test_a_version_says_where_it_comes_from(store: list[str]) -> None:
    tags = MlflowClient().get_model_version("henaw", "2").tags
    assert tags["henaw.training_run"] == store[1]
    assert tags["henaw.source_digest"] == "d" * 64
    assert (tags["henaw.verdict"], tags["henaw.study"], tags["henaw.version"]) == ("passed", "age-x-1", "0.1.0")
    assert {len(tags[f"henaw.{name}_digest"]) for name in ("config", "lock", "source")} == {64}
    assert re.fullmatch(r"\d+\.\d{3} \(\d+\.\d{3} to \d+\.\d{3}\)", tags["henaw.figure.crps_years"])
    assert "ridge" in tags["henaw.reference_clocks"]
    assert tags["henaw.population"].startswith("300 people trained, 30 calibrated, <5 were held out; aged 20 to 79")
    other = MlflowClient().get_model_version("henaw", "1").tags
    assert other["henaw.config_digest"] != tags["henaw.config_digest"]
    assert "henaw.study" not in other


def test_a_run_that_says_little_is_enough(store: list[str]) -> None:
    with mlflow.start_run() as run:
        pass
    lineage = lineage_of(run.info.run_id, load_config())
    assert lineage.evaluation is None
    assert lineage.tags["henaw.training_run"] == run.info.run_id
    assert "It was not evaluated" in model_card("henaw", CLOCK, lineage.tags, None)


def test_the_card_says_what_a_card_must(store: list[str]) -> None:
    card = model_card("henaw", CLOCK, {"henaw.source": "table"}, REPORT.to_dict())
    for words in (
        "not a medical device",
        "### By sex",
        "### By age",
        "### Calibration of intervals",
        "## Limits",
        "POST /invocations",
        "| source | table |",
        "crp_mg_l",
    ):
        assert words in card
    assert "mixture" not in card
    mortality = model_card("m", blood_clock(target="mortality"), {}, None)
    assert "Biological age is never observed" in mortality
    assert "the risk of death within 5 and 10 years" in mortality


def test_no_cell_of_the_card_rests_on_fewer_than_five(store: list[str]) -> None:
    few = people(2)
    few.loc[few.index[few["sex"] == "female"][3:], "sex"] = "male"
    report = evaluate(CLOCK, people(1), few, [0.9], 20, 0).report
    card = model_card("henaw", CLOCK, {}, report.to_dict())
    sex = card[card.index("### By age") - 600 : card.index("### By age")]
    assert "| female |" not in sex
    assert "sex: female" in card, "and it is said that somebody is withheld"


def test_the_card_is_part_of_the_version_and_of_the_run(store: list[str]) -> None:
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/henaw/1"))
    card = (folder / "artifacts" / "card" / "model_card.md").read_text()
    html = (folder / "artifacts" / "card" / "model_card.html").read_text()
    assert card.startswith("# henaw\n")
    assert "<table>" in html
    assert "http://" not in html.replace("HTTP", "")
    version = MlflowClient().get_model_version("henaw", "1")
    assert "model_card.html" in {item.path for item in MlflowClient().list_artifacts(version.run_id or "")}


def test_what_somebody_writes_is_text_in_a_page() -> None:
    shown = page("a <b>", "| x |\n|---|\n| <script>alert(1)</script> |\n")
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "<title>a &lt;b&gt;</title>" in shown


def test_list_show_compare_and_diff(store: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    listed = said(capsys, "models", "list")
    assert "| henaw | 2 | challenger |" in listed
    assert "| henaw | 1 | champion |" in listed
    shown = said(capsys, "models", "show", "models:/henaw@challenger")
    assert shown.startswith("henaw version 2, aliases: challenger")
    assert "not a medical device" in shown
    compared = said(capsys, "models", "compare", "models:/henaw/1", "models:/henaw/2")
    assert "| CRPS (years) |" in compared
    assert "of the same data" in compared
    differ = said(capsys, "models", "diff", "models:/henaw/1", "models:/henaw/2")
    assert "henaw.study: – → age-x-1" in differ
    assert "-seed: 0" in differ
    assert "+seed: 5" in differ
    assert run_app(app, ["models", "show", "models:/henaw/9"]) == 2
    assert run_app(app, ["models", "delete", "models:/henaw/1"]) == 2
    assert "a version with an alias is not deleted" in capsys.readouterr().err
    assert run_app(app, ["rollback", "henaw"]) == 2


def test_withdrawn_versions_are_marked_in_the_list(store: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert mark_withdrawn(["nobody"]) == "No registered version is of them."
    words = mark_withdrawn([store[1]])
    assert words.endswith("henaw version 2.")
    [line] = [line for line in said(capsys, "models", "list").splitlines() if line.startswith("| henaw | 2 |")]
    assert "have withdrawn" in line


def test_of_more_models_than_a_page_every_one_is_marked(workplace: Path) -> None:
    client = MlflowClient()
    for number in range(101):  # MLflow gives out a hundred at a time
        client.create_registered_model(f"model-{number:03d}")
    client.create_model_version("model-100", str(workplace / "none"), tags={"henaw.training_run": "gone"})
    assert mark_withdrawn(["gone"]).endswith(": model-100 version 1.")


def test_a_version_that_another_was_made_from_stays(
    workplace: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    client = MlflowClient()
    client.create_registered_model("henaw-mortality")
    client.create_model_version("henaw-mortality", str(workplace / "none"), tags={"henaw.training_run": "gone"})
    client.create_model_version("henaw-mortality", str(workplace / "none"), tags={"henaw.recalibrated_from": "1"})
    assert run_app(app, ["models", "delete", "models:/henaw-mortality/1"]) == 2
    assert "version 2 was recalibrated from it" in capsys.readouterr().err
    assert mark_withdrawn(["gone"]).endswith("henaw-mortality version 1, henaw-mortality version 2.")
    client.delete_model_version("henaw-mortality", "1")  # as MLflow itself would
    assert mark_withdrawn(["another"]) == "No registered version is of them."
    assert "version 1 was deleted" in caplog.text


def test_without_a_store_marking_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'none.db'}")
    try:
        assert "There is no model store here" in mark_withdrawn(["run"])
    finally:
        mlflow.set_tracking_uri(before)
    assert not list(tmp_path.iterdir())


def test_no_tag_and_no_card_holds_a_value_of_anybody(store: list[str]) -> None:
    tested = people(2)
    values = {f"{value:.4f}" for value in np.ravel(tested[list(CLOCK.panel.names)].dropna().to_numpy()[:40])}
    values = {value for value in values if len(value) > 6}
    for number in ("1", "2"):
        version = MlflowClient().get_model_version("henaw", number)
        card = mlflow.artifacts.load_text(f"runs:/{version.run_id}/model_card.md")
        text = card + json.dumps(version.tags)
        assert not [value for value in values if value in text]
        assert not [name for name in tested["participant"].astype(str) if len(name) > 6 and name in text]
