"""Entries of a spool, written to the tracking store: each once, also where an attempt broke off and is made again.

Metrics are points (name, step, time, value) that carry the time they were taken at. Where an earlier attempt may have
got through, points that the store has are left out: not every store refuses a second one. Parameters, tags, artifacts
and the end of a run may be written again; a run that was opened while the store was away carries a tag by which it is
found.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import requests
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException, RestException
from sqlalchemy.exc import SQLAlchemyError

from henaw.registry.spool import Entry, Spool

BATCH = 1000  # most metrics that MLflow takes in one call
LOCAL_TAG = "henaw.local_id"  # of a run: what it was called here before the store knew it
EVENTS_TABLE = "events.json"
_TABLE_TAG = "mlflow.loggedArtifacts"
_BUSY = 429  # and everything beyond: too many requests, or a server that is unwell
_REFUSALS = {400, 404, 409, 413, 422}  # of an upload

Point = tuple[int, int, str]


def is_away(error: Exception) -> bool:
    """Whether the store could not be reached or could not answer, as against anything else that may go wrong."""
    if isinstance(error, RestException):
        return int(error.get_http_status_code()) >= _BUSY
    if isinstance(error, MlflowException):
        return "API request" in str(error) or error.error_code == "TEMPORARILY_UNAVAILABLE"
    return isinstance(error, SQLAlchemyError | requests.RequestException) and not is_refusal(error)


def is_refusal(error: Exception) -> bool:
    """Whether the store has said no for good: the same call again would get the same answer.

    What a proxy says in a server's stead is no answer of MLflow's, a login that does not work any more will work again,
    and a run that the store does not know is in another one.
    """
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _REFUSALS
    if isinstance(error, RestException) and error.error_code == "BAD_REQUEST":
        return True
    return isinstance(error, MlflowException) and error.error_code == "INVALID_PARAMETER_VALUE"


class Delivery:
    """Writes a spool's entries to the store, in their order."""

    def __init__(self, spool: Spool, client: MlflowClient) -> None:
        """Write what ``spool`` holds with ``client``."""
        self._spool, self._client = spool, client
        self._doubtful_to = spool.recovered  # entries that may have been written before
        self._known: dict[tuple[str, str], set[Point]] = {}

    def next_entries(self) -> list[Entry]:
        """The first entries that one call writes: metrics of one run as many as it takes, or one of another kind."""
        head = self._spool.head(BATCH)
        if not head or "metrics" not in head[0]:
            return head[:1]
        taken: list[Entry] = []
        points = 0
        for entry in head:
            points += len(entry.get("metrics", ()))
            if "metrics" not in entry or entry["run"] != head[0]["run"] or (taken and points > BATCH):
                break
            taken.append(entry)
        return taken

    def write(self, entries: Sequence[Entry]) -> None:
        """Write ``entries``, as ``next_entries`` gave them. What this raises, ``is_away`` and ``is_refusal`` judge."""
        doubtful = entries[0]["n"] <= self._doubtful_to
        self._doubtful_to = max(self._doubtful_to, entries[-1]["n"])  # should this break off
        try:
            self._write(entries, doubtful)
        except Exception:
            self._known.clear()  # what the store has now is not known
            raise

    def _write(self, entries: Sequence[Entry], doubtful: bool) -> None:
        first = entries[0]
        run: str = self._spool.names.get(first["run"]) or first["run"]
        if "metrics" in first:
            self._write_metrics(run, entries, doubtful)
        elif "params" in first:
            self._client.log_batch(run, params=[Param(name, str(value)) for name, value in first["params"].items()])
        elif "tags" in first:
            self._client.log_batch(run, tags=[RunTag(name, str(text)) for name, text in first["tags"].items()])
        elif "text" in first:
            self._client.log_text(run, first["text"], first["name"])
        elif "files" in first:
            self._client.log_artifacts(run, str(self._spool.folder / first["files"]), first["into"])
        elif "event" in first:
            self._write_event(run, first["event"])
        elif "opened" in first:
            self._open(first)
        elif "ended" in first:
            self._client.set_terminated(run, first["ended"], first["time"])

    def _write_metrics(self, run: str, entries: Sequence[Entry], doubtful: bool) -> None:
        metrics = [
            Metric(name, value, entry["time"], entry["step"])
            for entry in entries
            for name, value in entry["metrics"].items()
        ]
        if doubtful:
            metrics = [metric for metric in metrics if _point(metric) not in self._points(run, metric.key)]
        for start in range(0, len(metrics), BATCH):
            self._client.log_batch(run, metrics=metrics[start : start + BATCH])

    def _points(self, run: str, name: str) -> set[Point]:
        """Points of metric ``name`` that the store has; asked once, as nobody else writes them."""
        if (run, name) not in self._known:
            self._known[run, name] = {_point(metric) for metric in self._client.get_metric_history(run, name)}
        return self._known[run, name]

    def _write_event(self, run: str, event: dict[str, Any]) -> None:
        """Add a row to the table of events, unless it is there."""
        if EVENTS_TABLE in [item.path for item in self._client.list_artifacts(run)]:
            with TemporaryDirectory() as folder:
                path = Path(self._client.download_artifacts(run, EVENTS_TABLE, folder))
                table = json.loads(path.read_text(encoding="utf-8"))
            if [event.get(name) for name in table["columns"]] in table["data"]:
                self._client.set_tag(run, _TABLE_TAG, json.dumps([{"path": EVENTS_TABLE, "type": "table"}]))
                return
        self._client.log_table(run, {name: [value] for name, value in event.items()}, EVENTS_TABLE)

    def _open(self, entry: Entry) -> None:
        """Open the run that ``entry`` describes, unless an earlier attempt did."""
        local, opened = entry["run"], entry["opened"]
        parent = self._client.get_run(opened["parent"])
        experiment = parent.info.experiment_id
        found = list(self._client.search_runs([experiment], f"tags.`{LOCAL_TAG}` = '{local}'", max_results=1))
        if not found:
            tags = opened["tags"] | {LOCAL_TAG: local, "mlflow.parentRunId": opened["parent"]}
            found = [self._client.create_run(experiment, entry["time"], tags, opened["name"])]
        self._spool.name(local, found[0].info.run_id)


def _point(metric: Metric) -> Point:
    return metric.timestamp, metric.step, repr(float(metric.value))
