"""A real `mlflow server` that is killed, hangs and is unwell while a run trains: nothing of the run is lost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from typer.testing import CliRunner

from henaw.cli import app
from henaw.config import Config, load_config
from henaw.errors import EnvironmentProblem
from henaw.registry import stores, tracking, writer
from henaw.registry.run_events import TrackingEvents
from henaw.training.telemetry import Events, Listeners, OutOfMemory
from tests.registry.servers import UNWELL, MlflowServer, answering
from tests.training import small_runs

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("outages")]

MEASURED = ("seconds", "memory", "samples_per_second", "system/")  # differ from run to run


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    made = MlflowServer(tmp_path_factory.mktemp("server"))
    made.start()
    yield made
    made.kill()


@pytest.fixture(scope="module", autouse=True)
def _soon(server: MlflowServer) -> Iterator[None]:
    """Visits and pauses are short."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(server.address)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "EVERY_SECONDS", 0.2)
        patch.setattr(writer, "PATIENCE_SECONDS", 3.0)
        patch.setattr("henaw.registry.breaker.FIRST_SECONDS", 0.1)
        patch.setattr("henaw.registry.breaker.LONGEST_SECONDS", 0.4)
        patch.setattr(stores, "ANSWER_SECONDS", 2.0)
        yield
    mlflow.set_tracking_uri(before)


class Slowly(Events):
    """Leaves the writer time to see what ``at`` does before epoch so-and-so; counts the longest that a step took."""

    def __init__(self, at: dict[int, Callable[[], Any]]) -> None:
        self.at, self.longest = at, 0.0
        self._last = time.perf_counter()

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        self.longest = max(self.longest, time.perf_counter() - self._last)
        if batch == 0 and epoch in self.at:
            self.at[epoch]()
        time.sleep(0.02)
        self._last = time.perf_counter()


def settings(folder: Path) -> Config:
    return load_config(overrides=f"state.folder={folder} tracking.system_seconds=0.2")


def whole_run(folder: Path, at: dict[int, Callable[[], Any]], then: Callable[[], Any] = lambda: None) -> Any:
    """Ids of a parent run that trains, logs a bit of everything, and evaluates; and the longest step."""
    with tracking.parent_run(settings(folder), "train") as parent:
        with tracking.child_run("train") as child:
            tracking.log_params({"people": 100})
            slowly = Slowly(at)
            events = TrackingEvents()
            small_runs.run(
                small_runs.training("training.epochs=12 training.patience=99"), events=Listeners([slowly, events])
            )
            for rows in (4, 2):
                events.on_out_of_memory(OutOfMemory("training", 11, 23, rows, rows // 2, 1, 2, 3, 0.25))
            figure = Figure()
            figure.add_subplot().plot([0, 1])
            tracking.log_figure(figure, "line")
            tracking.log_json({"a": [1, 2]}, "facts.json")
        then()
        with tracking.child_run("evaluate") as evaluated:
            tracking.log_metrics({"crps": 5.5})
            tracking.set_tags({"henaw.verdict": "passed"})
            tracking.log_text("fine", "evaluation.md")
    return parent, child, evaluated, slowly.longest


def contents(parent: str) -> dict[str, Any]:
    """All that the store has of a parent and its children, but ids, times and what was measured on the clock."""
    client = MlflowClient()
    experiment = client.get_run(parent).info.experiment_id
    children = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    found: dict[str, Any] = {}
    for run in [client.get_run(parent), *children]:
        run_id = run.info.run_id
        curves: dict[str, Any] = {}
        for name in run.data.metrics:
            points = [(metric.step, metric.value) for metric in client.get_metric_history(run_id, name)]
            assert len(set(points)) == len(points) or name.startswith("system/"), f"{name} holds a point twice"
            if name.startswith("system/"):
                steps = sorted(step for step, _ in points)
                assert steps == list(range(steps[0], steps[-1] + 1))
            elif any(word in name for word in MEASURED):
                curves[name] = sorted(step for step, _ in points)
            else:
                curves[name] = sorted(points)
        tags = {
            name: text
            for name, text in run.data.tags.items()
            if name not in ("henaw.local_id", "mlflow.parentRunId") and not name.startswith("mlflow.source")
        }
        artifacts = sorted(
            item.path
            for folder in (None, "figures")
            for item in client.list_artifacts(run_id, folder)
            if not item.is_dir
        )
        stage = run.data.tags["henaw.stage"] + ("" if run_id == parent else " child")
        assert stage not in found, "a stage has two runs"
        found[stage] = (run.info.status, curves, run.data.params, tags, artifacts)
    return found


def table_of(run: str) -> list[list[Any]]:
    table = mlflow.load_table("events.json", run_ids=[run])
    return table.drop(columns="time").to_numpy().tolist()


@pytest.fixture(autouse=True)
def _up(server: MlflowServer) -> None:
    """Every test begins with the server up."""
    server.start()


@pytest.fixture(scope="module")
def undisturbed(server: MlflowServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    parent, child, _, _ = whole_run(tmp_path_factory.mktemp("state"), {})
    assert len(table_of(child)) == 2
    return contents(parent)


def left(folder: Path) -> list[Path]:
    return list((folder / "spool").iterdir())


def test_an_undisturbed_run_has_it_all(undisturbed: dict[str, Any]) -> None:
    assert set(undisturbed) == {"train", "train child", "evaluate child"}
    status, curves, params, _, artifacts = undisturbed["train child"]
    assert (status, params["people"]) == ("FINISHED", "100")
    assert [step for step, _ in curves["step/gradient_norm"]] == list(range(24))
    assert [step for step, _ in curves["epoch/validation_loss"]] == list(range(12))
    by_step = {"step/gradient_norm_clipped", "step/clipped_fraction", "step/loss", "step/learning_rate"}
    assert by_step <= set(curves)
    assert {"events.json", "facts.json", "figures/line.png", "figures/line.svg"} <= set(artifacts)


def test_a_server_killed_and_started_again_while_training(
    server: MlflowServer, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    at = {2: server.kill, 5: server.start, 8: server.kill, 11: server.start}
    parent, child, _, _ = whole_run(tmp_path, at)
    assert contents(parent) == undisturbed
    assert table_of(child) == [["training", 11, 23, rows, rows // 2, 1, 2, 3, 0.25] for rows in (4, 2)]
    assert left(tmp_path) == []


def test_a_server_that_stays_away_until_henaw_runs_replay(
    server: MlflowServer, undisturbed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    parent, _, evaluated, longest = whole_run(tmp_path, {3: server.kill})
    assert longest < 1.0, "the loop waited for a server that is not there"
    assert evaluated.startswith("local-"), "opened while the store was away"
    assert "henaw runs replay" in caplog.text
    asked = CliRunner().invoke(app, ["runs", "replay", "--overrides", f"state.folder={tmp_path}"])
    assert isinstance(asked.exception, EnvironmentProblem)
    server.start()
    done = CliRunner().invoke(app, ["runs", "replay", "--overrides", f"state.folder={tmp_path}"])
    assert (done.exit_code, f"run {parent} (train)" in done.output) == (0, True), done.output
    assert contents(parent) == undisturbed
    assert left(tmp_path) == []
    again = CliRunner().invoke(app, ["runs", "replay", "--overrides", f"state.folder={tmp_path}"])
    assert "Nothing is waiting" in again.output


def test_the_next_run_writes_what_the_last_one_could_not(
    server: MlflowServer, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    parent, _, _, _ = whole_run(tmp_path, {}, server.kill)
    assert len(left(tmp_path)) == 1
    server.start()
    with tracking.parent_run(settings(tmp_path), "next"):
        for _ in range(600):
            if len(left(tmp_path)) == 1:
                break
            time.sleep(0.05)
    assert left(tmp_path) == []
    assert contents(parent) == undisturbed


@pytest.mark.parametrize("answer", [None, UNWELL], ids=["hangs", "500"])
def test_a_server_that_hangs_or_is_unwell(
    server: MlflowServer, undisturbed: dict[str, Any], tmp_path: Path, answer: bytes | None
) -> None:
    opened: list[Any] = []

    @contextmanager
    def in_its_place() -> Iterator[None]:
        server.kill()
        with answering(server.port, answer):
            yield

    def begin() -> None:
        opened.append(in_its_place())
        opened[0].__enter__()

    def end() -> None:
        opened[0].__exit__(None, None, None)
        server.start()

    parent, _, _, longest = whole_run(tmp_path, {3: begin, 8: end})
    assert longest < 1.0, "the loop waited for the server"
    assert contents(parent) == undisturbed


def test_registering_needs_the_server_and_says_what_to_do(server: MlflowServer, tmp_path: Path) -> None:
    ids: list[str] = []

    def work() -> None:
        with tracking.parent_run(settings(tmp_path), "train") as parent:
            ids.append(parent)
            server.kill()
            with tracking.child_run("register"), tracking.store_needed():
                raise AssertionError("not reached")

    with pytest.raises(EnvironmentProblem, match=r"went away where it is needed .* -P resume=") as caught:
        work()
    assert ids[0] in str(caught.value)
    server.start()
    with tracking.parent_run(settings(tmp_path), "train", ids[0]):
        pass
    client = MlflowClient()
    [child] = client.search_runs([client.get_run(ids[0]).info.experiment_id], f"tags.`mlflow.parentRunId` = '{ids[0]}'")
    assert (client.get_run(ids[0]).info.status, child.info.status) == ("FINISHED", "FAILED")


def test_a_child_opened_while_the_server_was_away_is_registered_from_when_it_is_back(
    server: MlflowServer, tmp_path: Path
) -> None:
    with tracking.parent_run(settings(tmp_path), "train"):
        server.kill()
        with tracking.child_run("register") as local:
            server.start()
            with tracking.store_needed():
                active = mlflow.active_run()
                assert active is not None
                assert active.data.tags["henaw.local_id"] == local
                assert active.data.tags["henaw.stage"] == "register"
    assert mlflow.active_run() is None
    assert math.isfinite(MlflowClient().get_run(active.info.run_id).data.metrics["stage_seconds"])
