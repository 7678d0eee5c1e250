"""Runs in a real store: parents and children, batches of metrics, failures, and stores that do not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from henaw.config import load_config
from henaw.errors import BadInput, EnvironmentProblem
from henaw.registry import stores, tracking
from henaw.registry.run_events import TrackingEvents
from henaw.training.telemetry import OutOfMemory
from tests.stores import tracking_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    folder = tmp_path_factory.mktemp("store")
    with tracking_store(folder, chosen=False):
        yield MlflowClient()


def test_a_parent_holds_the_settings_and_its_children_their_stage(store: MlflowClient) -> None:
    config = load_config("smoke")
    with tracking.parent_run(config, "train") as parent, tracking.child_run("fit") as child:
        tracking.log_metrics({"good": 1.0, "undefined": float("nan"), "endless": float("inf")})
    assert store.get_run(parent).info.status == "FINISHED"
    assert store.get_run(parent).data.tags["henaw.version"]
    settings = mlflow.artifacts.load_text(f"runs:/{parent}/config.yaml")
    assert settings == config.to_yaml()
    run = store.get_run(child)
    assert run.data.tags["mlflow.parentRunId"] == parent
    assert run.data.tags["henaw.stage"] == "fit"
    assert set(run.data.metrics) == {"good", "stage_seconds"}


def test_what_raises_is_closed_as_failed(store: MlflowClient) -> None:
    seen: list[str] = []

    def fail() -> None:
        with tracking.parent_run(load_config(), "train") as parent, tracking.child_run("fit") as child:
            seen.extend([parent, child])
            raise BadInput("no")

    with pytest.raises(BadInput):
        fail()
    assert [store.get_run(run).info.status for run in seen] == ["FAILED", "FAILED"]
    assert mlflow.active_run() is None


def test_a_parent_goes_on_in_the_run_that_mlflow_run_opened(
    store: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = store.create_run(store.get_experiment_by_name("henaw").experiment_id).info.run_id  # type: ignore[union-attr]
    monkeypatch.setenv("MLFLOW_RUN_ID", opened)
    with tracking.parent_run(load_config(), "train") as parent:
        pass
    assert parent == opened
    assert store.get_run(opened).data.tags["henaw.version"]


def test_every_step_arrives_in_batches(store: MlflowClient) -> None:
    with tracking.parent_run(load_config(), "train") as run:
        events = TrackingEvents()
        for step in range(1500):
            events.on_step_committed(step, {"gradient_norm": float(step)})
        events.on_epoch_end(0, {"epoch": 0.0, "validation_loss": 7.5})
        events.on_step_committed(1500, {"gradient_norm": 1500.0})
        events.on_train_end()
    history = store.get_metric_history(run, "step/gradient_norm")
    assert sorted(metric.step for metric in history) == list(range(1501))
    assert [metric.value for metric in store.get_metric_history(run, "epoch/validation_loss")] == [7.5]


def test_out_of_memory_events_are_a_metric_and_rows_of_a_table(
    store: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    first = OutOfMemory("training", 3, 77, 2, 1, 10, 20, 30, 0.5)
    last = OutOfMemory("training", 3, 77, 1, 0, 10, 20, 30, 0.25)
    with tracking.parent_run(load_config(), "train") as run:
        events = TrackingEvents()
        for event in (first, last):
            events.on_out_of_memory(event)
    assert [metric.value for metric in store.get_metric_history(run, "out_of_memory_events")] == [1.0, 2.0]
    table = mlflow.load_table("events.json", run_ids=[run])
    assert [OutOfMemory(*row) for row in table.drop(columns="time").itertuples(index=False)] == [first, last]
    assert [record.levelname for record in caplog.records if "out of memory" in record.message] == ["WARNING", "ERROR"]


def test_those_who_start_together_on_an_empty_store_do_not_race(tmp_path: Path) -> None:
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'fresh.db'}")
    try:
        with ThreadPoolExecutor(4) as pool:
            asked = [pool.submit(stores.require_tracking) for _ in range(4)]
            assert len({each.result() for each in asked}) == 1
    finally:
        mlflow.set_tracking_uri(before)


@pytest.fixture
def silent_server() -> Iterator[int]:
    """Accepts connections and answers with something that is not MLflow."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        stop = threading.Event()

        def answer() -> None:
            server.settimeout(0.1)
            while not stop.is_set():
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    continue
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()[1]
        stop.set()
        thread.join()


@pytest.fixture
def mute_server() -> Iterator[int]:
    """Accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_stores_that_do_not_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, silent_server: int, mute_server: int
) -> None:
    monkeypatch.setattr(stores, "ANSWER_SECONDS", 0.5)
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused = taken.getsockname()[1]
        for uri in (
            f"http://127.0.0.1:{refused}",
            f"postgresql://henaw:secret@127.0.0.1:{refused}/mlflow",
            f"http://127.0.0.1:{silent_server}",
            f"http://127.0.0.1:{mute_server}",
            f"sqlite:///{in_the_way}/mlflow.db",
        ):
            monkeypatch.setattr(mlflow, "get_tracking_uri", lambda uri=uri: uri)
            with pytest.raises(EnvironmentProblem) as caught:
                stores.require_tracking()
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)


def test_looking_for_models_makes_no_store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(mlflow, "get_tracking_uri", lambda: f"sqlite:///{tmp_path / 'none.db'}")
    with pytest.raises(BadInput, match="no such model store yet"):
        stores.require_models()
    assert not list(tmp_path.iterdir())


def test_fetching_what_is_not_there(store: MlflowClient, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such run"):
        tracking.fetch_folder("0" * 32, "clock", tmp_path)
    with tracking.parent_run(load_config(), "train") as run:
        pass
    with pytest.raises(BadInput, match="has no artifacts clock/"):
        tracking.fetch_folder(run, "clock", tmp_path)
