"""A study in MLflow: one parent run, a child run a trial; and a store that goes away costs the study nothing.

What could not be written is written later, from the trials' own attributes: at the next trial, or when the study ends.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import mlflow
import optuna
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunStatus, RunTag
from mlflow.exceptions import MlflowException
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from henaw import __version__
from henaw.config import Config
from henaw.evaluation import style
from henaw.registry.delivery import BATCH
from henaw.registry.resuming import STAGE_TAG
from henaw.registry.stores import answers, require_tracking
from henaw.registry.tracking import VERSION_TAG
from henaw.tuning.queue import REASON
from henaw.tuning.study import TrialEvents

logger = logging.getLogger(__name__)

T = TypeVar("T")

RUN = "run"  # the attribute of a trial, and of a study, that names its run
TRIAL_TAG, STUDY_TAG = "henaw.trial", "henaw.study"
_SILENCE_SECONDS = 30.0  # after a store has failed, nothing is asked of it for so long
_STATUS = {TrialState.FAIL: "FAILED"}  # a pruned trial has done what it should
_LONGEST = 500  # characters of a parameter or tag


class TrialRuns(TrialEvents):
    """Writes each trial to a child run of ``parent``; never raises for the store's sake."""

    def __init__(self, parent: str, experiment: str, study: str) -> None:
        """Write below run ``parent`` of experiment id ``experiment``, for study ``study``."""
        self._client = MlflowClient()
        self.parent, self._experiment, self._study = parent, experiment, study
        self._silent_until = 0.0

    def attempt(self, what: Callable[[], T]) -> T | None:
        """Do ``what``, or go without: the store has to answer soon, or it is left alone for a while."""
        if time.monotonic() < self._silent_until:
            return None
        try:
            if answers():
                return what()
            reason = "does not answer"
        except (MlflowException, SQLAlchemyError, OSError) as error:
            reason = type(error).__name__
        self._silent_until = time.monotonic() + _SILENCE_SECONDS
        logger.warning("the tracking store failed (%s); the study goes on and is written later", reason)
        return None

    def on_trial_begin(self, trial: Trial) -> None:
        """Open the trial's run, and name it in the trial's attributes."""
        run = self.attempt(lambda: self._create(trial.number))
        if run is not None:
            trial.set_user_attr(RUN, run)

    def on_trial_epoch(self, trial: Trial, epoch: int, metrics: dict[str, float]) -> None:
        """Write the epoch's validation loss."""
        run = trial.user_attrs.get(RUN)
        if run is not None:
            self.attempt(
                lambda: self._client.log_metric(run, "epoch/validation_loss", metrics["validation_loss"], step=epoch)
            )

    def on_trial_closing(self, trial: Trial) -> None:
        """Take over what somebody has tagged the run with meanwhile."""
        run = trial.user_attrs.get(RUN)
        found = self.attempt(lambda: self._client.get_run(run).data.tags) if run is not None else None
        for name, value in (found or {}).items():
            if not name.startswith(("mlflow.", "henaw.")):
                trial.set_user_attr(name, value)

    def on_trial_end(self, trial: FrozenTrial) -> None:
        """Write how the trial ended."""
        self.attempt(lambda: self._write(trial, trial.user_attrs.get(RUN)))

    def catch_up(self, trials: Iterable[FrozenTrial]) -> None:
        """Write what is missing of ``trials`` that have ended: of dead workers, and of when the store was away."""

        def write_missing() -> None:
            child = f"tags.`mlflow.parentRunId` = '{self.parent}' and tags.`{STUDY_TAG}` = '{self._study}'"
            runs: dict[str, Any] = {}
            token = None
            while True:
                page = self._client.search_runs([self._experiment], child, page_token=token)
                runs |= {run.data.tags[TRIAL_TAG]: run for run in page}
                token = page.token
                if not token:
                    break
            for trial in trials:
                known = runs.get(str(trial.number))
                if trial.state.is_finished() and (known is None or known.info.status == "RUNNING"):
                    self._write(trial, known.info.run_id if known is not None else None)

        self._silent_until = 0.0
        self.attempt(write_missing)

    def log(self, texts: Mapping[str, str], metrics: Mapping[str, float], figures: Mapping[str, Figure]) -> bool:
        """What the study found, to the parent run; whether all of it is there."""

        def write() -> bool:
            for name, text in texts.items():
                self._client.log_text(self.parent, text, name)
            for name, value in metrics.items():
                self._client.log_metric(self.parent, name, value)
            with TemporaryDirectory() as folder:
                for name, figure in figures.items():
                    style.save(figure, Path(folder), name)
                self._client.log_artifacts(self.parent, folder, "figures")
            return True

        return self.attempt(write) is not None

    def _create(self, number: int) -> str:
        tags = {
            "mlflow.parentRunId": self.parent,
            "mlflow.runName": f"trial {number}",
            TRIAL_TAG: str(number),
            STUDY_TAG: self._study,
            STAGE_TAG: "trial",
            VERSION_TAG: __version__,
        }
        return str(self._client.create_run(self._experiment, tags=tags).info.run_id)

    def _write(self, trial: FrozenTrial, run: str | None) -> None:
        run = run or self._create(trial.number)
        now = int(time.time() * 1000)
        facts = dict(trial.user_attrs)
        metrics = {name: value for name, value in facts.items() if type(value) in (int, float)}
        metrics |= {f"constraint/{name}": excess for name, excess in trial.constraints.items()}
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            metrics["objective"] = trial.value
        tags = {TRIAL_TAG + "_state": trial.state.name.lower()}
        tags |= {f"{TRIAL_TAG}.{name}": str(value)[:_LONGEST] for name, value in facts.items() if name != RUN}
        known = self._client.get_run(run).data
        written = [Metric(name, float(value), now, 0) for name, value in metrics.items()]
        if "epoch/validation_loss" not in known.metrics:
            epochs = sorted(trial.intermediate_values.items())
            written += [Metric("epoch/validation_loss", value, now, epoch) for epoch, value in epochs]
        self._client.log_batch(
            run,
            metrics=written[:BATCH],
            params=[Param(name, str(value)[:_LONGEST]) for name, value in trial.params.items()],
            tags=[RunTag(name, text) for name, text in tags.items()],
        )
        status = "KILLED" if trial.state == TrialState.FAIL and REASON not in facts else _STATUS.get(trial.state)
        self._client.set_terminated(run, status or RunStatus.to_string(RunStatus.FINISHED))


@contextmanager
def study_run(config: Config, study: optuna.Study, alone: AbstractContextManager[None]) -> Iterator[TrialRuns]:
    """The parent run of a study: the one it has already, that of ``mlflow run``, or a new one.

    Workers that start together agree on it, as it is chosen while ``alone``. Like ``tracking.parent_run``, but for a
    store that goes away: that is a warning, and the study's own files stay.
    """
    require_tracking()
    client = MlflowClient()
    mine = os.environ.get("MLFLOW_RUN_ID")
    with alone:
        parent = _existing(client, study.user_attrs.get(RUN)) or mine
        if parent is None:
            experiment = mlflow.set_experiment(config.tracking.experiment).experiment_id
            parent = str(client.create_run(experiment, tags={"mlflow.runName": "tune"}).info.run_id)
        study.set_user_attr(RUN, parent)
    if mine is not None and mine != parent:  # a further worker, or the same command again
        client.set_tag(mine, STUDY_TAG + "_run", parent)
    for name, value in {STAGE_TAG: "tune", VERSION_TAG: __version__, STUDY_TAG: study.study_name}.items():
        client.set_tag(parent, name, value)
    client.update_run(parent, status="RUNNING")
    client.log_text(parent, config.to_yaml(), "config.yaml")
    runs = TrialRuns(parent, client.get_run(parent).info.experiment_id, study.study_name)
    try:
        yield runs
    except BaseException as error:
        ended = "FAILED" if isinstance(error, Exception) else "KILLED"
        runs.attempt(lambda: client.set_terminated(parent, ended))
        raise
    runs.attempt(lambda: client.set_terminated(parent, "FINISHED"))


def _existing(client: MlflowClient, run: str | None) -> str | None:
    """``run`` where the store has it."""
    try:
        return None if run is None else str(client.get_run(run).info.run_id)
    except MlflowException:
        return None
