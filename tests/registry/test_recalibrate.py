"""Recalibration of a registered model, against a real MLflow store: the next version, or nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from henaw.config import asset_folder, load_config
from henaw.data.synthetic import synthetic_table
from henaw.errors import BadInput
from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry.recalibrate import recalibrate_version
from henaw.registry.versions import exact_version, load_version, register
from tests.scenarios import blood_clock
from tests.stores import tracking_store

MODEL = "models:/henaw-mortality@champion"


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store with version 1 of a mortality clock and of an age clock, and a cohort of the synthetic kind."""
    folder = tmp_path_factory.mktemp("store")
    with tracking_store(folder):
        for name, target in (("henaw-mortality", "mortality"), ("henaw", "age")):
            save_clock(blood_clock(target=target), folder / name / CLOCK_FOLDER)  # type: ignore[arg-type]
            with mlflow.start_run():
                register(folder / name / CLOCK_FOLDER, name, {})
        summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
        synthetic_table(3000, (40, 69), 3, summaries=summaries).to_csv(folder / "people.csv", index=False)
        yield folder


def settings(folder: Path, overrides: str = "", profile: str = "default"):  # type: ignore[no-untyped-def]
    return load_config(profile, str(folder / "people.csv"), f"state.folder={folder / 'state'} {overrides}")


def test_a_recalibrated_clock_is_the_next_version_and_says_where_it_comes_from(workplace: Path) -> None:
    found, version = recalibrate_version(settings(workplace, "split.test_fraction=0.5"), MODEL)
    assert (version.name, version.number, version.aliases) == ("henaw-mortality", 2, ("challenger",))
    client = MlflowClient()
    assert int(client.get_model_version_by_alias("henaw-mortality", "champion").version) == 1
    registered = client.get_model_version("henaw-mortality", "2")
    assert registered.tags["henaw.recalibrated_from"] == "1"
    assert registered.tags["henaw.recalibrated_people"] == str(found.fitted)
    assert len(registered.tags["henaw.source_digest"]) == 64
    assert abs(found.fitted - found.judged) < 100, "half fit, half judge"
    run = client.get_run(registered.run_id or "")
    assert run.data.metrics["slope"] == pytest.approx(found.slope)
    assert run.data.metrics["observed_over_expected_10y_after"] == pytest.approx(found.ratios[10][1].value)
    assert {"recalibration.md", "clock", "config.yaml"} <= {
        item.path for item in client.list_artifacts(run.info.run_id)
    }
    # a clock of random weights ranks nobody, and yet its absolute risk can be put right
    before, after = found.ratios[10]
    assert abs(after.value - 1) < 0.2 < abs(before.value - 1)
    served = load_version("models:/henaw-mortality/2")
    assert served.hazard == found.clock.hazard != load_version("models:/henaw-mortality/1").hazard


def test_by_column_the_target_are_the_people_held_out_for_testing(workplace: Path) -> None:
    held_out = "split.by=column split.column=sex split.test=[female]"
    both, _ = recalibrate_version(settings(workplace), MODEL)
    women, _ = recalibrate_version(settings(workplace, held_out), MODEL)
    everyone, tested = both.fitted + both.judged, women.fitted + women.judged
    assert 0.4 * everyone < tested < 0.7 * everyone
    assert women.judged == round(0.2 * tested)


@pytest.mark.parametrize(
    ("model", "overrides", "words"),
    [
        ("models:/henaw@champion", "", "is an age clock"),
        ("models:/henaw-mortality@nobody", "", "no such model"),
        ("models:/absent/1", "", "no such model"),
        ("models:/henaw-mortality/99", "", "no such model"),
        ("henaw-mortality", "", "expected an address such as models:/"),
        ("runs:/0123/clock", "", "expected an address such as models:/"),
        (MODEL, "panel=phenoage9", "set panel=blood9"),
        (MODEL, "cohort.ages=[2,3]", "nobody is left"),
        (MODEL, "mortality.recalibration_cap_years=0.001", "fewer than 5 deaths"),
    ],
)
def test_what_cannot_be_recalibrated_is_one_line_and_registers_nothing(
    workplace: Path, model: str, overrides: str, words: str
) -> None:
    client = MlflowClient()
    before = len(client.search_model_versions("name='henaw-mortality'"))
    with pytest.raises(BadInput) as raised:
        recalibrate_version(settings(workplace, overrides), model)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)
    assert len(client.search_model_versions("name='henaw-mortality'")) == before


def test_an_alias_is_resolved_to_the_version_it_has_now(workplace: Path) -> None:
    assert exact_version(MODEL) == ("henaw-mortality", 1)
    assert exact_version("models:/henaw/1") == ("henaw", 1)


def test_the_command_and_the_stage_say_what_was_gained(workplace: Path) -> None:
    """As a user starts them, in processes of their own."""
    environment = {"MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    options = ["--data", str(workplace / "people.csv"), "--overrides", f"state.folder={workplace / 'state'}"]
    henaw = str(Path(sys.executable).parent / "henaw")
    for command, code, words in (
        ([henaw, "recalibrate", "--model", MODEL, *options], 0, "Registered henaw-mortality version"),
        ([sys.executable, "-m", "pipelines.recalibrate", "--model", "models:/henaw/1", *options], 2, "is an age clock"),
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=240)
        assert done.returncode == code, done.stderr[-2000:]
        assert words in (done.stdout if code == 0 else done.stderr.strip().splitlines()[-1])
