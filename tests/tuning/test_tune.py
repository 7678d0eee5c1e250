"""The stage tune in this process: from the cohort to the profile, with stores that stay and that go away."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import optuna
import pandas as pd
import pytest
from mlflow import MlflowClient
from optuna.trial import Trial

import henaw.tuning.trials as judged_by
from henaw.config import Config, asset_folder, load_config
from henaw.data.panel import load_panel
from henaw.data.stored_splits import kept_split
from henaw.errors import BadInput
from henaw.evaluation.cox import partial_likelihood_loss
from henaw.registry import trial_runs
from henaw.training.failures import MemoryExhausted
from henaw.training.telemetry import Events, OutOfMemory
from henaw.tuning.objective import objective_name, objective_value, study_people
from henaw.tuning.space import load_space
from henaw.tuning.study import TrialEvents
from henaw.tuning.trials import ClockTrials
from pipelines import tune
from tests.scenarios import KNOWN, blood_clock, known_cohort, mortal_cohort

TINY = (
    "study.trials=4 study.coverage_off=null source.people=600 training.epochs=3 training.threads=1 evaluation.draws=50 "
    "study.space=tiny"
)
SPACE = """
network.members: {choices: [2, 3]}
network.hidden: {choices: [[8], [16]]}
training.learning_rate: {low: 0.001, high: 0.02, log: true}
"""


@pytest.fixture(name="workplace")
def workplace_with_a_project(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder with a project of its own too, whose spaces and profiles may be added to."""
    shutil.copytree(asset_folder("mlproject"), workplace / "mlproject")
    (workplace / "mlproject" / "search" / "tiny.yaml").write_text(SPACE)
    own = lambda name: workplace / name if name == "mlproject" else asset_folder(name)  # noqa: E731
    for module in ("henaw.config", "henaw.tuning.space", "pipelines.tune"):
        monkeypatch.setattr(f"{module}.asset_folder", own)
    return workplace


def runs() -> tuple[Any, list[Any]]:
    """The study's parent run, and its children by trial."""
    client = MlflowClient()
    [experiment] = [found for found in client.search_experiments() if found.name == "henaw"]
    found = client.search_runs([experiment.experiment_id])
    [parent] = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    return parent, sorted(children, key=lambda run: int(run.data.tags["henaw.trial"]))


@pytest.mark.slow
def test_a_study_from_the_cohort_to_the_profile_and_on(workplace: Path) -> None:
    said = tune.run(load_config("smoke", overrides=TINY), "smoke")
    assert "4 trials complete" in said or "pruned" in said
    parent, children = runs()
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["henaw.stage"] == "tune"
    assert len(children) == 4
    for number, child in enumerate(children):
        assert child.info.status == "FINISHED"
        assert child.data.params["training.learning_rate"]
        assert child.data.tags["henaw.trial.place"] == str(number)
        assert child.data.metrics["memory_mib"] >= 0
        history = MlflowClient().get_metric_history(child.info.run_id, "epoch/validation_loss")
        assert len(history) == child.data.metrics["epochs"]
    assert {"found_minus_default/crps_years", "trials_per_hour_without_pruning"} <= parent.data.metrics.keys()
    objectives = [child.data.metrics.get("objective", np.inf) for child in children]
    assert parent.data.metrics["best_objective"] == min(objectives)
    names = {item.path for item in MlflowClient().list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "trials.md", "config.yaml", "figures"} <= names
    figures = {item.path for item in MlflowClient().list_artifacts(parent.info.run_id, "figures")}
    expected = ("history", "parallel_coordinates", "timeline", "importances")
    assert {f"figures/study_{name}.png" for name in expected} <= figures

    best = mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/best.yaml")
    (workplace / "mlproject" / "profiles" / "best.yaml").write_text(best)
    found = load_config("best")
    winner = children[int(np.argmin(objectives))].data.params
    assert found.training.learning_rate == float(winner["training.learning_rate"])
    assert (str([found.network.hidden[0]]), str(found.network.members)) == (
        winner["network.hidden"],
        winner["network.members"],
    )
    assert found.training.epochs == 3, "what the study was told on the command line"
    assert (found.source.people, found.source.data) == (600, None)
    assert found.training.threads == load_config("smoke").training.threads, "where it ran is no setting found"

    tune.run(load_config("smoke", overrides=TINY.replace("trials=4", "trials=5 study.compare=false")), "smoke")
    again, more = runs()
    assert again.info.run_id == parent.info.run_id, "the same command goes on with the same study"
    assert [run.info.run_id for run in more[:4]] == [run.info.run_id for run in children]
    assert len(more) == 5


def test_a_store_that_goes_away_costs_the_study_nothing(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    away, asked = {"now": False}, []

    def answers() -> bool:
        asked.append(away["now"])
        return not away["now"]

    monkeypatch.setattr(trial_runs, "answers", answers)
    monkeypatch.setattr(trial_runs, "_SILENCE_SECONDS", 0.0)
    fit_clock = judged_by.fit_clock
    fitted: list[int] = []

    def fit(*arguments: Any) -> Any:
        fitted.append(1)
        away["now"] = len(fitted) in (2, 3)  # gone in the second trial, back in the fourth
        return fit_clock(*arguments)

    monkeypatch.setattr(judged_by, "fit_clock", fit)
    tune.run(load_config("smoke", overrides=TINY + " study.compare=false"), "smoke")
    assert any(asked), "the store was away at times"
    parent, children = runs()
    assert parent.info.status == "FINISHED"
    assert [child.data.tags["henaw.trial"] for child in children] == ["0", "1", "2", "3"]
    assert {child.info.status for child in children} == {"FINISHED"}
    for child in children:
        history = MlflowClient().get_metric_history(child.info.run_id, "epoch/validation_loss")
        assert len(history) >= 1, "what was missed is written afterwards"
        assert "training.learning_rate" in child.data.params


def test_a_store_that_never_comes_back_leaves_the_profile_here(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    there = [False]
    monkeypatch.setattr(trial_runs, "answers", lambda: there[0])
    said = tune.run(load_config("smoke", overrides=TINY + " study.compare=false"), "smoke")
    [best] = workplace.glob(".henaw/studies/*.best.yaml")
    assert f"Kept as {best.relative_to(workplace)}; run" in said
    assert "as best.yaml in run" not in said
    assert "learning_rate" in best.read_text()
    assert "the study goes on" in caplog.text

    there[0] = True
    said = tune.run(load_config("smoke", overrides=TINY + " study.compare=false"), "smoke")
    parent, children = runs()
    assert said.endswith(f"and as best.yaml in run {parent.info.run_id}.")
    assert mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/best.yaml") == best.read_text()
    assert len(children) == 4


def test_what_somebody_tags_a_run_with_is_in_the_trial_and_the_trials_words_in_the_run(workplace: Path) -> None:
    experiment = mlflow.create_experiment("henaw")
    client = MlflowClient()
    parent = client.create_run(experiment).info.run_id
    listener = trial_runs.TrialRuns(parent, experiment, "study")
    study = optuna.create_study()
    trial = study.ask()
    listener.on_trial_begin(trial)
    run = trial.user_attrs["run"]
    client.set_tag(run, "note", "looked odd")
    trial.set_user_attr("reason", "fell behind in epoch 3")
    listener.on_trial_closing(trial)
    listener.on_trial_end(study.tell(trial, state=optuna.trial.TrialState.PRUNED))
    assert study.trials[0].user_attrs["note"] == "looked odd"
    tags = client.get_run(run).data.tags
    assert tags["henaw.trial.reason"] == "fell behind in epoch 3"
    assert tags["henaw.trial_state"] == "pruned"
    assert tags["mlflow.parentRunId"] == parent


def carry_out(config: Config, table: pd.DataFrame, trial: Trial) -> Any:
    people = study_people(table, config)
    return ClockTrials(load_space(config), config, KNOWN, people, TrialEvents(), Events()).work(trial)


@pytest.fixture
def known(tmp_path: Path, workplace: Path) -> tuple[Config, pd.DataFrame]:
    config = load_config("smoke", overrides=f"{TINY} state.folder={tmp_path / 'state'} training.batch_size=64")
    return config, known_cohort(400, 1).table


def test_out_of_memory_is_a_pruned_trial_with_its_reason(
    known: tuple[Config, pd.DataFrame], monkeypatch: pytest.MonkeyPatch
) -> None:
    event = OutOfMemory("training", 2, 7, 1, 0, 1, 2, 3, 0.1)

    def exhausted(*arguments: Any) -> Any:
        arguments[4].on_out_of_memory(event)
        raise MemoryExhausted(event, 64, [64, 32, 1])

    monkeypatch.setattr(judged_by, "fit_clock", exhausted)
    outcome = carry_out(*known, optuna.create_study().ask())
    assert outcome.pruned
    assert outcome.reason.startswith("out of memory in training, epoch 2, step 7")
    assert outcome.facts["out_of_memory_events"] == 1


def test_a_trial_that_falls_behind_is_stopped_after_the_epoch(known: tuple[Config, pd.DataFrame]) -> None:
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=-1.0))
    outcome = carry_out(*known, study.ask())
    assert outcome.pruned
    assert outcome.facts["epochs"] == 1
    assert "epoch 1" in outcome.reason


def test_constraints_are_met_up_to_zero(known: tuple[Config, pd.DataFrame]) -> None:
    config, table = known
    bound = "study.coverage_off=0.9 study.memory_mib=0.001 study.latency_ms=10000"
    config = load_config("smoke", overrides=f"{TINY} {bound} state.folder={config.state.folder}")
    outcome = carry_out(config, table, optuna.create_study().ask())
    assert outcome.constraints["coverage_off"] < 0
    assert outcome.constraints["latency_ms"] < 0
    assert set(outcome.constraints) == {"coverage_off", "memory_mib", "latency_ms"}


def test_the_people_who_judge_trials_are_neither_trained_on_nor_tested(known: tuple[Config, pd.DataFrame]) -> None:
    config, table = known
    people = study_people(table, config)
    sides = [set(part["participant"]) for part in (people.train, people.calibration, people.judged)]
    tested = set(table["participant"].iloc[kept_split(table, config).test])
    assert not tested & set.union(*sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == len(table) - len(tested)
    assert len(sides[2]) == round(config.study.validation_fraction * (len(table) - len(tested)))


def test_objectives_have_their_targets() -> None:
    assert objective_name(load_config()) == "crps"
    assert objective_name(load_config("nhanes-mortality", "x.csv")) == "partial_likelihood"
    with pytest.raises(BadInput, match="does not fit target age; expected crps"):
        objective_name(load_config(overrides="study.objective=concordance"))


def test_objectives_of_a_mortality_clock_are_better_for_one_that_knows() -> None:
    cohort = mortal_cohort(800, 2)
    table = cohort.table
    years, died = table["followup_months"].to_numpy() / 12, table["died"].to_numpy()
    knowing = partial_likelihood_loss(0.09 * cohort.biological_age, years, died)
    by_age = partial_likelihood_loss(0.09 * table["age_years"].to_numpy(), years, died)
    assert knowing < by_age < partial_likelihood_loss(np.zeros(800), years, died)
    # two deaths and one alive, by hand
    hand = partial_likelihood_loss(np.log([2.0, 3.0, 5.0]), np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 0.0]))
    assert hand == pytest.approx(-(np.log(2 / 10) + np.log(3 / 8)) / 2)


def test_the_age_objective_is_the_crps_of_the_ensemble_on_those_people() -> None:
    clock = blood_clock()
    panel = load_panel("blood9", asset_folder("mlproject") / "panels")
    rng = np.random.default_rng(0)
    low, high = np.array([marker.plausible for marker in panel.biomarkers]).T
    rows = pd.DataFrame(rng.uniform(low, high, (50, len(low))), columns=list(panel.names))
    rows = rows.assign(sex="female", age_years=rng.uniform(30, 70, 50))
    value, coverage = objective_value("crps", clock, rows)
    assert 0 < value < 60
    assert 0 <= coverage <= 1
    shifted, _ = objective_value("crps", clock, rows.assign(age_years=rows["age_years"] + 100))
    assert shifted > value + 50


def test_tracking_must_answer_before_any_work(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone() -> str:
        raise BadInput("no store")

    monkeypatch.setattr(tune, "require_tracking", gone)
    with pytest.raises(BadInput, match="no store"), warnings.catch_warnings():
        tune.run(load_config("smoke", overrides=TINY))
    assert not (workplace / ".henaw" / "studies").exists()
