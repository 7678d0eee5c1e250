"""The only writer of MLflow runs: one parent run a command, a child run a stage, metrics in batches."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import filelock
import mlflow
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from henaw import __version__
from henaw.config import Config
from henaw.errors import BadInput, EnvironmentProblem
from henaw.evaluation import style
from henaw.registry.resuming import STAGE_TAG, go_on_in, stopped_child
from henaw.training.telemetry import Events, OutOfMemory

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 10.0  # a tracking server that takes longer counts as not answering
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
BATCH = 1000  # most metrics that MLflow takes in one call
VERSION_TAG = "henaw.version"


def require_tracking() -> str:
    """Make sure that runs can be written before any work is done, and return the tracking URI.

    A server must accept a connection. The schema of a database is created here, under a lock, so that processes that
    start together do not race for it.

    Raises:
        EnvironmentProblem: the server or database does not answer.
    """
    uri = mlflow.get_tracking_uri()
    shown = _without_secret(uri)
    parts = urlsplit(uri)
    try:
        _knock(uri)
    except (OSError, ValueError) as error:
        raise EnvironmentProblem(
            f"tracking server {shown} does not answer ({type(error).__name__}); start it or set MLFLOW_TRACKING_URI"
        ) from None
    try:
        if parts.scheme == "sqlite":
            with filelock.FileLock(f"{parts.path[1:]}.lock", timeout=120):
                MlflowClient(uri).search_experiments(max_results=1)
        else:
            MlflowClient(uri).search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError, ImportError, filelock.Timeout) as error:
        raise EnvironmentProblem(
            f"tracking server {shown} does not answer as MLflow ({type(error).__name__}); check MLFLOW_TRACKING_URI"
        ) from None
    return shown


def store_to_be_made() -> str | None:
    """The tracking URI where it is an SQLite file that does not exist yet, else None."""
    uri = mlflow.get_tracking_uri()
    parts = urlsplit(uri)
    return uri if parts.scheme == "sqlite" and not Path(parts.path[1:]).exists() else None


def require_models() -> None:
    """Make sure that there is a store to look for models in; none is made by looking.

    Raises:
        BadInput: the SQLite file that models would be in does not exist.
        EnvironmentProblem: the server or database does not answer.
    """
    if (uri := store_to_be_made()) is not None:
        raise BadInput(f"{uri}: no such model store yet; train first, or set MLFLOW_TRACKING_URI to where models are")
    require_tracking()


def answers() -> bool:
    """Whether the tracking store answers a knock at this moment."""
    try:
        _knock(mlflow.get_tracking_uri())
    except (OSError, ValueError):
        return False
    return True


def _knock(uri: str) -> None:
    """Raise ``OSError`` soon where nobody answers: MLflow's own client would try for minutes."""
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        with contextlib.suppress(urllib.error.HTTPError):  # an answer, if not a friendly one
            urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=ANSWER_SECONDS).close()  # noqa: S310 (the scheme is checked)
    elif parts.scheme.partition("+")[0] in DATABASE_PORTS:
        port = parts.port or DATABASE_PORTS[parts.scheme.partition("+")[0]]
        socket.create_connection((parts.hostname or "localhost", port), timeout=ANSWER_SECONDS).close()


def _without_secret(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.password is None:
        return uri
    return uri.replace(f":{parts.password}@", ":***@")


@contextmanager
def parent_run(config: Config, name: str, resume: str = "") -> Iterator[str]:
    """The run of a command: the one that ``mlflow run`` opened, or a new one in ``tracking.experiment``.

    It holds the resolved settings and is closed as FAILED when the block raises. With ``resume``, the id of a run, it
    is that one, and the one that ``mlflow run`` opened only says so. Yields the run's id.
    """
    require_tracking()
    if resume:
        go_on_in(resume)
    elif "MLFLOW_RUN_ID" not in os.environ:
        mlflow.set_experiment(config.tracking.experiment)
    new = not resume and "MLFLOW_RUN_ID" not in os.environ
    with mlflow.start_run(run_id=resume or None, run_name=name if new else None) as run:
        # a run that `mlflow run` opened has not got the plugin's tag
        mlflow.set_tags({STAGE_TAG: name, VERSION_TAG: __version__})
        mlflow.log_text(config.to_yaml(), "config.yaml")
        yield run.info.run_id


@contextmanager
def child_run(stage: str) -> Iterator[str]:
    """A child of the active run for one stage, closed as FAILED when the block raises. Yields its id.

    Where the active run goes on after a stop, so does its child of that stage.
    """
    with mlflow.start_run(run_id=stopped_child(stage), run_name=stage, nested=True) as run:
        mlflow.set_tags({STAGE_TAG: stage, VERSION_TAG: __version__})
        started = time.perf_counter()
        yield run.info.run_id
        mlflow.log_metric("stage_seconds", time.perf_counter() - started)


def log_metrics(metrics: dict[str, float]) -> None:
    """Metrics of the active run; not-finite ones (undefined on so few people) are left out."""
    finite = {name: float(value) for name, value in metrics.items() if value == value and abs(value) != float("inf")}
    if finite:
        mlflow.log_metrics(finite)


def log_params(params: dict[str, str | int | float | None]) -> None:
    """Parameters of the active run.

    Raises:
        BadInput: a run that goes on has another value of one.
    """
    try:
        mlflow.log_params(params)
    except MlflowException as error:
        if error.error_code != "INVALID_PARAMETER_VALUE":
            raise
        raise BadInput(
            f"parameters {', '.join(params)}: this run has other ones; expected the people it began with"
        ) from None


def log_text(text: str, name: str) -> None:
    """A text artifact of the active run."""
    mlflow.log_text(text, name)


def log_json(value: dict[str, Any] | list[Any], name: str) -> None:
    """A JSON artifact of the active run."""
    mlflow.log_text(json.dumps(value, indent=1, ensure_ascii=False), name)


def log_figure(figure: Figure, name: str) -> None:
    """A figure as PNG and SVG artifacts ``figures/<name>`` of the active run."""
    with TemporaryDirectory() as folder:
        style.save(figure, Path(folder), name)
        mlflow.log_artifacts(folder, "figures")


def set_tags(tags: dict[str, str]) -> None:
    """Tags of the active run."""
    mlflow.set_tags(tags)


def log_folder(folder: Path, name: str) -> None:
    """The files of ``folder`` as artifacts under ``name`` of the active run."""
    mlflow.log_artifacts(str(folder), name)


def fetch_folder(run_id: str, name: str, into: Path) -> Path:
    """Download artifact folder ``name`` of run ``run_id`` below ``into``.

    Raises:
        BadInput: no such run, or it has no such artifacts.
    """
    require_tracking()
    try:
        MlflowClient().get_run(run_id)
    except MlflowException:
        raise BadInput(f"run {run_id!r}: no such run in {_without_secret(mlflow.get_tracking_uri())}") from None
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(into)))
    except (MlflowException, OSError):
        raise BadInput(f"run {run_id}: has no artifacts {name}/; expected a run of the train stage") from None


class TrackingEvents(Events):
    """Writes a training run's events to the active MLflow run, in batches, once an epoch."""

    def __init__(self) -> None:
        """Listen on behalf of the run that is active now."""
        run = mlflow.active_run()
        assert run is not None, "opened by child_run"
        self._run_id = run.info.run_id
        self._client = MlflowClient()
        self._pending: list[Metric] = []

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        """Keep the step's metrics for the next batch."""
        now = int(time.time() * 1000)
        self._pending += [Metric(f"step/{name}", value, now, step) for name, value in metrics.items()]

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Write the epoch's metrics and what is pending."""
        now = int(time.time() * 1000)
        self._pending += [
            Metric(f"epoch/{name}", value, now, epoch) for name, value in metrics.items() if name != "epoch"
        ]
        self._flush()

    def on_step_skipped(self, epoch: int, batch: int, in_a_row: int) -> None:
        """Keep the event for the next batch."""
        logger.warning("loss or gradient not finite: batch %d of epoch %d skipped", batch, epoch)
        self._pending.append(Metric("skipped_steps_in_a_row", float(in_a_row), int(time.time() * 1000), epoch))

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        """Write the event at once, as a metric and as a row of the table ``events.json``."""
        level = logging.WARNING if event.to_rows else logging.ERROR
        logger.log(level, "out of memory in %s, epoch %d, step %d", event.phase, event.epoch, event.step)
        self._pending.append(Metric("out_of_memory_events", 1.0, int(time.time() * 1000), event.step))
        self._flush()
        self._client.log_table(self._run_id, {name: [value] for name, value in asdict(event).items()}, "events.json")

    def on_train_end(self) -> None:
        """Write what is pending."""
        self._flush()

    def _flush(self) -> None:
        for start in range(0, len(self._pending), BATCH):
            self._client.log_batch(self._run_id, metrics=self._pending[start : start + BATCH])
        self._pending.clear()
