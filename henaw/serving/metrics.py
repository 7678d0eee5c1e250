"""Figures of the service for Prometheus: counts by code, rule and status, latency, what is in flight; never values.

With several workers they are counted in files of a common folder, so that each worker shows the sum of all.
"""

from __future__ import annotations

import os
from collections import Counter as Tally
from collections.abc import Collection
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from henaw.data.files import disk_errors
from henaw.serving.refusals import Detail

FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"  # prometheus_client's own, read when it is imported
CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"
_FILE_BYTES = 1 << 18  # about two thousand series
_MOST_ARMS = 100  # of two roles and so many versions
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What is counted; ``text`` is what ``/metrics`` shows."""

    def __init__(self) -> None:
        """Set up counting.

        Raises:
            EnvironmentProblem: with several workers: there is no room for the files.
        """
        own = CollectorRegistry()
        if FOLDER_VARIABLE in os.environ:
            _make_room(Path(os.environ[FOLDER_VARIABLE]))
        self._known: dict[tuple[str, int, str], tuple[Counter, Histogram]] = {}
        self._requests = Counter("henaw_requests", "Answered requests", ["route", "status", "code"], registry=own)
        self._seconds = Histogram(
            "henaw_request_seconds", "From the headers to the answer", ["route"], buckets=_SECONDS, registry=own
        )
        self.in_flight = Gauge(
            "henaw_in_flight_requests", "Requests not answered yet", registry=own, multiprocess_mode="livesum"
        )
        self._rows = Counter("henaw_rows", "Answered rows by status", ["status"], registry=own)
        self._flags = Counter("henaw_row_flags", "Answered rows by reason", ["flag"], registry=own)
        self._rules = Counter("henaw_refused_rules", "What refused requests broke", ["rule"], registry=own)
        self._model = Gauge(
            "henaw_model_info",
            "1 for the version that answers",
            ["name", "version"],
            registry=own,
            multiprocess_mode="livemax",
        )
        self.disconnected = Counter(
            "henaw_disconnected", "Clients that left before their request was whole", registry=own
        )
        self.reload_failures = Counter("henaw_reload_failures", "Newer versions that were not taken", registry=own)
        self.audit_lost = Counter("henaw_audit_lost", "Audit lines that could not be written", registry=own)
        self._arms = Counter(
            "henaw_arm_requests", "Answered requests by arm and version", ["arm", "model"], registry=own
        )
        self.challenger_failures = Counter(
            "henaw_challenger_failures",
            "Challengers not loaded (load) or that raised, the champion answering (answer)",
            ["at"],
            registry=own,
        )
        self.shadow_samples = Counter(
            "henaw_shadow_samples",
            "Samples queued or dropped here; compared, failed or skipped by the shadow",
            ["outcome"],
            registry=own,
        )
        self.shadow_rows = Counter("henaw_shadow_rows", "Rows that champion and shadow answered", registry=own)
        self.shadow_difference = Counter(
            "henaw_shadow_absolute_difference_years", "Summed over those rows", registry=own
        )
        self.comparison_lost = Counter(
            "henaw_comparison_unwritten", "Times that the sums of a comparison could not be written", registry=own
        )
        self._known_arms: dict[tuple[str, str], Counter] = {}
        self._answering: Gauge | None = None
        self._registry = own
        if FOLDER_VARIABLE in os.environ:
            self._registry = CollectorRegistry()
            MultiProcessCollector(self._registry)  # type: ignore[no-untyped-call]
            _forget_the_dead(Path(os.environ[FOLDER_VARIABLE]))

    def answered(self, route: str, status: int, code: str, seconds: float, details: Collection[Detail] = ()) -> None:
        """Count an answer; ``code`` is ``OK`` or that of the refusal."""
        counter, histogram = self._of_answers(route, status, code)
        counter.inc()
        histogram.observe(seconds)
        if details:
            for rule, times in Tally(detail.rule for detail in details).items():
                self._rules.labels(rule).inc(times)

    def _of_answers(self, route: str, status: int, code: str) -> tuple[Counter, Histogram]:
        """Looked up once: looking up takes longer than counting."""
        key = (route, status, code)
        if (known := self._known.get(key)) is None:
            known = self._requests.labels(route, str(status), code), self._seconds.labels(route)
            self._known[key] = known
        return known

    def scored(self, status: list[str], flags: list[str]) -> None:
        """Count answered rows."""
        for name in set(status):
            self._rows.labels(name).inc(status.count(name))
        if any(flags):
            for flag, times in Tally(flag for of_row in flags if of_row for flag in of_row.split(";")).items():
                self._flags.labels(flag).inc(times)

    def answered_by(self, arm: str, model: str) -> None:
        """Count an answer for the arm and the version that gave it; a process names so many versions and no more."""
        if (known := self._known_arms.get((arm, model))) is None:
            named = len(self._known_arms) < _MOST_ARMS
            known = self._arms.labels(arm, model if named else "other")
            if named:
                self._known_arms[arm, model] = known
        known.inc()

    def serves(self, name: str, version: int) -> None:
        """Say which version answers now."""
        if self._answering is not None:
            self._answering.set(0)  # in the files of several workers a value that was cleared would stay
        self._model.clear()
        self._answering = self._model.labels(name, str(version))
        self._answering.set(1)

    def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        return generate_latest(self._registry)


def _make_room(folder: Path) -> None:
    """Take the room of this process' files now: to write where a disk is full ends a process that maps a file there."""
    for kind in ("counter", "histogram", "gauge_livesum", "gauge_livemax"):
        path = folder / f"{kind}_{os.getpid()}.db"
        with disk_errors(path), path.open("ab") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, _FILE_BYTES)


def _forget_the_dead(folder: Path) -> None:
    """Workers that were killed had requests in flight that no longer are; what they counted stays."""
    for path in folder.glob("gauge_live*.db"):
        process = path.stem.rpartition("_")[2]
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            mark_process_dead(int(process), str(folder))  # type: ignore[no-untyped-call]
