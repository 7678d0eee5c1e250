"""A training run's events, written to its MLflow run: curves by step and by epoch, and a table of what went wrong."""

from __future__ import annotations

import datetime as dt
import logging
import math
import time
from dataclasses import asdict

import numpy as np
import psutil
from mlflow import MlflowClient

from henaw.registry.breaker import Away
from henaw.registry.session import session
from henaw.training.microbatch import device_memory
from henaw.training.telemetry import Events, OutOfMemory

logger = logging.getLogger(__name__)

STEP_POINTS = 320  # most points of a curve by step, as in a chart of MLflow: of a longer run every second … is written
MIB = 1 << 20
_EVENTS = "out_of_memory_events"


class TrackingEvents(Events):
    """Writes a training run's events to the run that is active when it is made.

    Nothing here waits for the tracking store (``registry.writer``). A run that goes on writes what it does again only
    where it was not written before.
    """

    def __init__(self) -> None:
        """Listen on behalf of the active run."""
        self._session = session()
        self._run = self._session.runs[-1]
        self._every = 1
        self._steps_per_epoch = 0
        self._told: dict[str, int] = {}
        self._out_of_memory = 0
        self._began = 0.0
        self._new_epoch()

    def _new_epoch(self) -> None:
        self._epoch_began = self._committed_at = time.perf_counter()
        self._seconds: list[float] = []
        self._samples = 0.0

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        """Learn how long the run may be and, where it goes on, what was written before."""
        self._steps_per_epoch = steps_per_epoch
        self._every = max(1, math.ceil(epochs * steps_per_epoch / STEP_POINTS))
        if self._session.resumed:
            try:
                self._told, self._out_of_memory = self._session.writer.call(lambda: _told_before(self._run))
            except Away:
                logger.warning("the tracking store is away: what is done again is written again")
        self._new_epoch()

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        """The step's time begins."""
        self._began = time.perf_counter()

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        """Write the step's figures, where it is one of those that are written."""
        self._committed_at = time.perf_counter()
        self._seconds.append(self._committed_at - self._began)
        self._samples += metrics.get("samples", 0.0)
        if step % self._every == 0:
            figures = {name: value for name, value in metrics.items() if name != "samples"}
            self._write("step", figures, step)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """Write the epoch's figures, and what its steps took."""
        figures = {name: value for name, value in metrics.items() if name != "epoch"}
        if self._seconds:
            p50, p99 = np.quantile(self._seconds, [0.5, 0.99])
            figures |= {"step_seconds_p50": float(p50), "step_seconds_p99": float(p99)}
            figures["samples_per_second"] = self._samples / (self._committed_at - self._epoch_began)
        self._write("epoch", figures | _memory(), epoch)
        self._new_epoch()

    def on_step_skipped(self, epoch: int, batch: int, in_a_row: int) -> None:
        """Write that a batch, counted over all epochs, was skipped."""
        logger.warning("loss or gradient not finite: batch %d of epoch %d skipped", batch, epoch)
        self._once({"skipped_steps_in_a_row": float(in_a_row)}, epoch * self._steps_per_epoch + batch)

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        """Write the event as a metric (how many there were) and as a row of the table ``events.json``."""
        level = logging.WARNING if event.to_rows else logging.ERROR
        logger.log(level, "out of memory in %s, epoch %d, step %d", event.phase, event.epoch, event.step)
        self._out_of_memory += 1
        self._put({_EVENTS: float(self._out_of_memory)}, event.step)
        row = {"time": dt.datetime.now(dt.UTC).isoformat(timespec="microseconds"), **asdict(event)}
        self._session.put({"event": row | {"seconds": round(event.seconds, 6)}}, self._run)

    def _write(self, kind: str, figures: dict[str, float], step: int) -> None:
        self._once({f"{kind}/{name}": value for name, value in figures.items()}, step)

    def _once(self, metrics: dict[str, float], step: int) -> None:
        self._put({name: value for name, value in metrics.items() if step > self._told.get(name, -1)}, step)

    def _put(self, metrics: dict[str, float], step: int) -> None:
        if metrics:
            self._session.put({"metrics": metrics, "step": step}, self._run)


def _told_before(run: str) -> tuple[dict[str, int], int]:
    """The last step that each curve of ``run`` has in the store, and how often memory had run out."""
    client = MlflowClient()
    metrics = client.get_run(run).data.metrics
    names = [name for name in metrics if name.startswith(("step/", "epoch/", "skipped_steps"))]
    steps = {name: max(metric.step for metric in client.get_metric_history(run, name)) for name in names}
    return steps, max((int(it.value) for it in client.get_metric_history(run, _EVENTS)), default=0)


def _memory() -> dict[str, float]:
    """Memory in MiB: of the process and, where there is a GPU, of that."""
    found = {"process_memory_mib": psutil.Process().memory_info().rss / MIB}
    allocated, reserved, peak = device_memory()
    if reserved:
        found |= {
            "device_memory_allocated_mib": allocated / MIB,
            "device_memory_reserved_mib": reserved / MIB,
            "device_memory_peak_mib": peak / MIB,
        }
    return found
