"""Stage train, the fitting itself: clean cohort → clock. ``pipelines/train.py`` is the way there and on."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import pandas as pd

from henaw.config import Config
from henaw.console import ProgressLine
from henaw.data.panel import Panel
from henaw.data.stored_splits import kept_split
from henaw.errors import EnvironmentProblem
from henaw.evaluation import training_plots
from henaw.model.clock import Clock
from henaw.registry import tracking
from henaw.registry.run_events import TrackingEvents
from henaw.registry.session import session
from henaw.training.checkpoints import Checkpoints
from henaw.training.fit import fit_clock
from henaw.training.history import read_history
from henaw.training.speed import settled
from henaw.training.telemetry import Events, Listeners

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fitted:
    """The clock; the people that it was made from, calibration included; and those that it has never seen."""

    clock: Clock
    train: pd.DataFrame
    test: pd.DataFrame


class ProgressEvents(Events):
    """Shows epoch and loss on the progress line."""

    def __init__(self, progress: ProgressLine) -> None:
        """Show on ``progress``."""
        self._progress, self._epochs = progress, 0

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Learn how many epochs there may be."""
        self._epochs = epochs

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Show the epoch's validation loss."""
        detail = f"epoch {epoch + 1}/{self._epochs}  loss {metrics['validation_loss']:.3f}"
        self._progress.update((epoch + 1) / self._epochs, detail)


class WayOn(Events):
    """Says how to go on with a run that was stopped."""

    def __init__(self, run_id: str) -> None:
        """Speak of run ``run_id``."""
        self._run_id = run_id

    def on_stopped(self, epoch: int, batch: int) -> None:
        """Name the command."""
        logger.warning(
            "stopped in epoch %d after %d steps of it; all is saved, go on with: %s",
            epoch,
            batch,
            _command(self._run_id),
        )


def _command(run_id: str) -> str:
    return f"mlflow run . -e train -P resume={run_id}"


def run(config: Config, panel: Panel, table: pd.DataFrame, progress: ProgressLine, checkpoints: Checkpoints) -> Fitted:
    """Split ``table`` by participant, fit the clock, log history and figures to the active run."""
    parts = kept_split(table, config)
    tracking.log_params(
        {
            "panel": panel.name,
            "seed": config.seed,
            **{f"people_{name}": count for name, count in parts.to_dict().items()},
        }
    )
    tracking.log_params({f"network.{name}": str(value) for name, value in config.network.model_dump().items()})
    config = settled(config, len(parts.train))  # as a setting, auto would not say what the run was
    if not session().resumed:  # a run keeps its parameters, and some settings may be others now
        tracking.log_params({f"training.{name}": value for name, value in config.training.model_dump().items()})
    run_id = checkpoints.folder.name
    try:
        clock, _ = fit_clock(
            table.iloc[parts.train],
            table.iloc[parts.calibration],
            panel,
            config,
            Listeners([TrackingEvents(), ProgressEvents(progress), WayOn(run_id)]),
            checkpoints,
        )
    except EnvironmentProblem:
        if checkpoints.saved():
            logger.warning("the last checkpoint is whole; once the cause is mended, go on with: %s", _command(run_id))
        raise
    history = list(read_history(checkpoints.history_path))
    tracking.log_json(history, "history.json")
    loss = {"age": "CRPS (years)", "mortality": "negative log likelihood (nats)"}
    tracking.log_figure(training_plots.loss_curves(history, loss[config.target]), "loss")
    tracking.log_figure(training_plots.gradient_norms(history, config.training.clip_norm), "gradient_norms")
    seen = np.union1d(parts.train, parts.calibration)
    return Fitted(clock, table.iloc[seen], table.iloc[parts.test])
