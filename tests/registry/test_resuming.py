"""A run that goes on: in the same run, with the same children, by its own settings."""

from __future__ import annotations

from collections.abc import Iterator

import mlflow
import pytest
from mlflow import MlflowClient

from henaw.config import load_config
from henaw.errors import BadInput
from henaw.registry import tracking
from henaw.registry.breaker import Away
from henaw.registry.resuming import settings_to_resume
from henaw.registry.writer import Writer


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    folder = tmp_path_factory.mktemp("store")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder / 'mlflow.db'}")
    for name in ("henaw", "other"):
        mlflow.create_experiment(name, artifact_location=str(folder / "artifacts"))
    yield MlflowClient()
    mlflow.set_tracking_uri(before)


def stopped_run(overrides: str = "") -> tuple[str, str]:
    """The ids of a run that was stopped while it trained, and of that stage's."""
    ids: list[str] = []

    def work() -> None:
        with tracking.parent_run(load_config(overrides=overrides), "train") as parent:
            ids.append(parent)
            with tracking.child_run("validate"):
                pass
            with tracking.child_run("fit") as child:
                ids.append(child)
                tracking.log_params({"people": 7})
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    return ids[0], ids[1]


def test_parent_and_children_go_on_and_the_run_that_mlflow_opened_says_so(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = stopped_run("tracking.experiment=other")
    mlflow.set_experiment("henaw")
    opened = store.create_run(store.get_experiment_by_name("henaw").experiment_id).info.run_id  # type: ignore[union-attr]
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    with tracking.parent_run(load_config(), "train", parent) as again, tracking.child_run("fit") as child_again:
        tracking.log_params({"people": 7})
        tracking.log_metrics({"loss": 1.0})
        with tracking.child_run("new") as new:
            pass
    assert (again, child_again) == (parent, child)
    assert new not in (parent, child, opened)
    assert store.get_run(opened).data.tags["henaw.resumes"] == parent
    assert {store.get_run(run).info.status for run in (parent, child, new, opened)} == {"FINISHED"}
    assert store.get_run(child).data.metrics["loss"] == 1.0
    assert store.get_run(parent).info.experiment_id == store.get_experiment_by_name("other").experiment_id  # type: ignore[union-attr]


def test_a_stage_goes_on_in_its_run_though_the_store_is_away_as_it_begins(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent, child = stopped_run()

    def away(*_: object) -> None:
        raise Away

    with tracking.parent_run(load_config(), "train", parent):
        with monkeypatch.context() as patch:
            patch.setattr(Writer, "call", away)
            opened = tracking.child_run("fit")
            again = opened.__enter__()
        tracking.log_metrics({"late": 2.0})
        opened.__exit__(None, None, None)
    assert again == child
    assert store.get_run(child).data.metrics["late"] == 2.0
    assert store.get_run(child).info.status == "FINISHED"
    experiment = store.get_run(parent).info.experiment_id
    children = store.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    assert sorted(run.data.tags["henaw.stage"] for run in children) == ["fit", "validate"]


def test_without_a_stop_every_stage_has_a_run_of_its_own(store: MlflowClient) -> None:
    with tracking.parent_run(load_config(), "train"):
        with tracking.child_run("fit") as one:
            pass
        with tracking.child_run("fit") as other:
            pass
    assert one != other


def test_other_people_than_it_began_with_are_refused(store: MlflowClient) -> None:
    parent, _ = stopped_run()
    with (
        pytest.raises(BadInput, match="parameters people: this run has other ones"),
        tracking.parent_run(load_config(), "train", parent),
        tracking.child_run("fit"),
    ):
        tracking.log_params({"people": 8})


def test_its_settings_are_its_own(store: MlflowClient) -> None:
    parent, _ = stopped_run("training.epochs=3")
    assert settings_to_resume(parent) == load_config(overrides="training.epochs=3").to_yaml()


def test_what_cannot_be_resumed_is_told(store: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadInput, match="no such run"):
        settings_to_resume("0" * 32)
    with tracking.parent_run(load_config(), "train") as complete:
        pass
    with pytest.raises(BadInput, match="is complete"):
        settings_to_resume(complete)
    bare = store.create_run("0").info.run_id
    with pytest.raises(BadInput, match=r"no artifact config\.yaml"):
        settings_to_resume(bare)
    parent, _ = stopped_run()
    monkeypatch.setenv("MLFLOW_RUN_ID", bare)
    with tracking.parent_run(load_config(), "train", parent):
        pass
    with pytest.raises(BadInput, match=f"only went on with run {parent}"):
        settings_to_resume(bare)
