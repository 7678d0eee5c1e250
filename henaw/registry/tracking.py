"""The only writer of runs: one parent run a command, a child run a stage, and a store that may go away meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.tracking.context.registry import resolve_tags

from henaw import __version__
from henaw.config import Config
from henaw.errors import BadInput, EnvironmentProblem
from henaw.evaluation import style
from henaw.registry.breaker import Away
from henaw.registry.delivery import LOCAL_TAG, is_away
from henaw.registry.replay import replay, spool_folder, unsent
from henaw.registry.resuming import STAGE_TAG, go_on_in, stopped_children
from henaw.registry.session import Session, opened, session, session_or_none
from henaw.registry.spool import Spool
from henaw.registry.stores import bounded_requests, require_tracking, without_secret
from henaw.registry.writer import Writer

if TYPE_CHECKING:
    from matplotlib.figure import Figure

VERSION_TAG = "henaw.version"


@contextmanager
def parent_run(config: Config, name: str, resume: str = "") -> Iterator[str]:
    """The run of a command: the one that ``mlflow run`` opened, or a new one in ``tracking.experiment``.

    It holds the resolved settings and is closed as FAILED when the block raises. With ``resume``, the id of a run, it
    is that one, and the one that ``mlflow run`` opened only says so. Yields the run's id. What is logged in the block
    goes into a spool in ``state.folder`` and from there to the store, however often that goes away meanwhile.

    Raises:
        EnvironmentProblem: the store does not answer at the start.
    """
    store = require_tracking()
    with bounded_requests(), ExitStack() as open_things:
        with store_needed():
            if resume:
                _send_what_is_left(config, resume)
            run = _parent(config, name, resume)
            children = stopped_children(resume) if resume else {}  # later the store may be away
        header = {"run": run.info.run_id, "stage": name, "store": store}
        spool = Spool(spool_folder(Path(config.state.folder), run.info.run_id), header)
        others = partial(_left_by_others, Path(config.state.folder), header)
        mine = Session(name, Writer(spool, MlflowClient(), others), [run.info.run_id], bool(resume), children)
        open_things.enter_context(opened(mine))
        with mine.ending():
            # a run that `mlflow run` opened has not got the plugin's tag
            set_tags({STAGE_TAG: name, VERSION_TAG: __version__})
            log_text(config.to_yaml(), "config.yaml")
            if config.tracking.system_seconds > 0:
                open_things.enter_context(mine.system_metrics(config.tracking.system_seconds))
            yield run.info.run_id


def _parent(config: Config, name: str, resume: str) -> mlflow.ActiveRun:
    if resume:
        go_on_in(resume)
    elif "MLFLOW_RUN_ID" not in os.environ:
        mlflow.set_experiment(config.tracking.experiment)
    new = not resume and "MLFLOW_RUN_ID" not in os.environ
    return mlflow.start_run(run_id=resume or None, run_name=name if new else None, log_system_metrics=False)


def _send_what_is_left(config: Config, run: str) -> None:
    """What a run that goes on logged last must be there before it does: which children it has, for one."""
    for left in unsent(Path(config.state.folder)):
        if left.run == run:
            replay(left, left.store)


def _left_by_others(state: Path, own: dict[str, str]) -> list[Path]:
    return [left.folder for left in unsent(state) if left.store == own["store"] and left.run != own["run"]]


@contextmanager
def child_run(stage: str) -> Iterator[str]:
    """A child of the active run for one stage, closed as FAILED when the block raises. Yields its id.

    Where the active run goes on after a stop, so does its child of that stage. Where the store is away, the child is
    opened when it is back, and the id of one that is new is a local one until then.
    """
    mine = session()
    tags = {STAGE_TAG: stage, VERSION_TAG: __version__}
    local = f"local-{uuid.uuid4().hex}"
    known = mine.children.get(stage)

    def open_child() -> str:
        run = mlflow.start_run(
            run_id=known, run_name=stage, nested=True, tags=tags | {LOCAL_TAG: local}, log_system_metrics=False
        )
        return str(run.info.run_id)

    try:
        run = mine.writer.call(open_child)
    except Away:
        run = known or local
        if known is None:
            mine.put({"opened": {"parent": mine.runs[0], "name": stage, "tags": resolve_tags(tags)}}, run)
    mine.runs.append(run)
    with mine.ending():
        started = time.perf_counter()
        yield run
        log_metrics({"stage_seconds": time.perf_counter() - started})


@contextmanager
def store_needed() -> Iterator[None]:
    """A block (as a decorator: a function) that asks the store itself and cannot do without its answer.

    All that was logged is written before; a child run that was opened while the store was away becomes MLflow's active
    run.

    Raises:
        EnvironmentProblem: the store is away, or goes away.
    """
    mine = session_or_none()
    try:
        if mine is not None:
            if not mine.writer.drain():
                raise Away("what was logged before is not written yet")
            mine.become_known()
        yield
    except Exception as error:
        if not isinstance(error, Away) and not is_away(error):
            raise
        way_on = "give the same command again"
        if mine is not None and mine.name == "train":
            way_on = f"go on where this run stopped: mlflow run . -e train -P resume={mine.runs[0]}"
        raise EnvironmentProblem(
            f"tracking server {without_secret(mlflow.get_tracking_uri())} went away where it is needed "
            f"({type(error).__name__}); start it and {way_on}"
        ) from error


def log_metrics(metrics: dict[str, float], step: int = 0) -> None:
    """Metrics of the active run; not-finite ones (undefined on so few people) are left out."""
    finite = {name: float(value) for name, value in metrics.items() if value == value and abs(value) != float("inf")}
    if finite:
        session().put({"metrics": finite, "step": step})


def log_params(params: dict[str, str | int | float | None]) -> None:
    """Parameters of the active run.

    Raises:
        BadInput: a run that goes on has another value of one.
    """
    mine = session()
    number = mine.put({"params": params})
    if mine.writer.drain() and number in mine.writer.refused:
        raise BadInput(f"parameters {', '.join(params)}: this run has other ones; expected the people it began with")


def log_text(text: str, name: str) -> None:
    """A text artifact of the active run."""
    session().put({"text": text, "name": name})


def log_json(value: dict[str, Any] | list[Any], name: str) -> None:
    """A JSON artifact of the active run."""
    log_text(json.dumps(value, indent=1, ensure_ascii=False), name)


def log_figure(figure: Figure, name: str) -> None:
    """A figure as PNG and SVG artifacts ``figures/<name>`` of the active run."""
    _log_files(lambda folder: style.save(figure, folder, name), "figures")


def log_folder(folder: Path, name: str) -> None:
    """The files of ``folder`` as artifacts under ``name`` of the active run."""
    _log_files(lambda copy: shutil.copytree(folder, copy, dirs_exist_ok=True), name)


def _log_files(write: Callable[[Path], object], name: str) -> None:
    mine = session()
    if (staged := mine.writer.spool.stage(write)) is not None:
        mine.put({"files": staged, "into": name})


def set_tags(tags: dict[str, str]) -> None:
    """Tags of the active run."""
    session().put({"tags": tags})


def fetch_folder(run_id: str, name: str, into: Path) -> Path:
    """Download artifact folder ``name`` of run ``run_id`` below ``into``.

    Raises:
        BadInput: no such run, or it has no such artifacts.
    """
    require_tracking()
    try:
        MlflowClient().get_run(run_id)
    except MlflowException:
        raise BadInput(f"run {run_id!r}: no such run in {without_secret(mlflow.get_tracking_uri())}") from None
    try:
        return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name, dst_path=str(into)))
    except (MlflowException, OSError):
        raise BadInput(f"run {run_id}: has no artifacts {name}/; expected a run of the train stage") from None
