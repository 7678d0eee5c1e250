"""What a command has open: its writer, and its runs from the outermost in."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import mlflow
from mlflow.tracking.fluent import _active_run_stack

from henaw.registry.spool import Entry
from henaw.registry.system_metrics import SystemMetrics
from henaw.registry.writer import Writer

logger = logging.getLogger(__name__)


@dataclass
class Session:
    """What a command has open.

    Attributes:
        name: of the command's stage.
        writer: writes what is logged, however often the store goes away.
        runs: ids, from the outermost run in.
        resumed: whether the outermost goes on after a stop.
        children: ids of the runs that it had before, by stage.
    """

    name: str
    writer: Writer
    runs: list[str] = field(default_factory=list)
    resumed: bool = False
    children: dict[str, str] = field(default_factory=dict)

    def put(self, entry: Entry, run: str | None = None) -> int:
        """Have ``entry`` of run ``run``, by default the innermost, written."""
        return self.writer.put({"run": run or self.runs[-1], "time": int(time.time() * 1000), **entry})

    @contextmanager
    def ending(self) -> Iterator[None]:
        """The innermost run ends with the block, as FAILED where that raises."""
        status = "FAILED"
        try:
            yield
            status = "FINISHED"
        finally:
            self.put({"ended": status})
            run = self.runs[-1] if len(self.runs) == 1 else self.runs.pop()
            # `mlflow.end_run` would ask the store, which may be away
            stack = _active_run_stack.get()
            stack[:] = [active for active in stack if active.info.run_id != run]

    @contextmanager
    def system_metrics(self, seconds: float) -> Iterator[None]:
        """Samples of the machine, every so many ``seconds``, beside the outermost and the innermost run."""

        def put(metrics: dict[str, float], step: int) -> None:
            for run in {self.runs[0], self.runs[-1]}:
                self.put({"metrics": metrics, "step": step}, run)

        sampler = SystemMetrics(self.runs[0], seconds, self.resumed, put)
        sampler.start()  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            sampler.finish()  # type: ignore[no-untyped-call]

    def become_known(self) -> None:
        """Make the innermost run MLflow's active one, should it have been opened while the store was away."""
        run = self.writer.spool.names.get(self.runs[-1], self.runs[-1])
        active = mlflow.active_run()
        if active is None or active.info.run_id != run:
            self.runs[-1] = run
            mlflow.start_run(run_id=run, nested=True, log_system_metrics=False)


_current: Session | None = None


def session() -> Session:
    """What the command has open."""
    assert _current is not None, "opened by tracking.parent_run"
    return _current


def session_or_none() -> Session | None:
    """What the command has open, if it has anything."""
    return _current


@contextmanager
def opened(mine: Session) -> Iterator[None]:
    """``mine`` is what is open in the block; at its end all that was logged is written, or kept for later."""
    global _current
    before, _current = _current, mine
    try:
        yield
    finally:
        _current = before
        if not mine.writer.close():
            logger.warning(
                "run %s is not whole in the tracking store, which is away; the rest is kept in %s: "
                "the next run writes it, or `henaw runs replay`",
                mine.runs[0],
                mine.writer.spool.folder,
            )
