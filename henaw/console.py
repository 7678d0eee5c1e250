"""What a person at a terminal sees: one-line errors with exit codes, log lines, and one progress line.

Log levels: ERROR a person must act, WARNING something is degraded, INFO milestones, DEBUG detail. ``HENAW_LOG`` chooses
the least level shown (default INFO).
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text
from typer.exceptions import TyperException

from henaw.errors import BadInput, EnvironmentProblem, HenawError

UNEXPECTED_EXIT = 70  # EX_SOFTWARE: a fault of HENAW's own, never one of the documented 1, 2 and 3
INTERRUPTED_EXIT, TERMINATED_EXIT = 130, 143

logger = logging.getLogger(__name__)


def settle_environment() -> None:
    """Nothing calls home, no pickle is read, no progress bars of others; to be called before MLflow is imported."""
    for name, value in {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "GX_ANALYTICS_ENABLED": "false",
    }.items():
        os.environ.setdefault(name, value)


def set_up_logging() -> None:
    """Send log lines of HENAW (INFO and above, or ``HENAW_LOG``) and warnings of other libraries to standard error.

    Raises:
        BadInput: ``HENAW_LOG`` is not a level.
    """
    level = os.environ.get("HENAW_LOG", "INFO").upper()
    if level not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise BadInput(f"HENAW_LOG: expected DEBUG, INFO, WARNING or ERROR, found {level!r}")
    logging.basicConfig(
        level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", handlers=[_CurrentErrorStream()]
    )
    logging.getLogger("henaw").setLevel(level)
    # chatter at INFO that tells a user of HENAW nothing; their warnings stay
    for name in ("mlflow", "alembic", "great_expectations"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if level != "DEBUG":
        warnings.simplefilter("ignore")


class _CurrentErrorStream(logging.Handler):
    """Writes to whatever standard error is now, so that a log line moves the progress line down and does not cut it."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stderr.write(self.format(record) + "\n")


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run a command-line program and return its exit code; a wrong option or argument is one line, like every error.

    Args:
        app: the program.
        arguments: the command line; default ``sys.argv``.
    """
    command = typer.main.get_command(app)

    def parse_and_run() -> None:
        try:
            code = command.main(args=None if arguments is None else list(arguments), standalone_mode=False)
        except TyperException as error:
            raise BadInput(f"{' '.join(error.format_message().split()).rstrip('.')}; see --help") from None
        if code == INTERRUPTED_EXIT:  # typer keeps a KeyboardInterrupt to itself and returns this
            raise KeyboardInterrupt

    return run_command(parse_and_run)


def run_stage(stage: Callable[..., None]) -> int:
    """Run ``stage`` as ``python -m pipelines.<stage>``: each of its parameters is an option."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(stage)
    return run_app(app)


def run_command(command: Callable[[], None]) -> int:
    """Run ``command`` and turn what it raises into one line on standard error and an exit code.

    An unexpected error shows its type and place but not its text or a trace, either of which may hold a participant's
    value; ``HENAW_LOG=DEBUG`` shows both.
    """
    try:
        set_up_logging()
        with _termination_raises():
            command()
    except HenawError as error:
        typer.echo(f"henaw: {' '.join(str(error).splitlines())}", err=True)
        return error.exit_code
    except KeyboardInterrupt:
        typer.echo("henaw: interrupted", err=True)
        return INTERRUPTED_EXIT
    except _Terminated:
        typer.echo("henaw: terminated", err=True)
        return TERMINATED_EXIT
    except MemoryError:
        typer.echo("henaw: out of memory: more was asked for than this machine has", err=True)
        return EnvironmentProblem.exit_code
    except Exception as error:  # noqa: BLE001 - the last resort of a program
        if logger.isEnabledFor(logging.DEBUG):
            traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        typer.echo(
            f"henaw: unexpected {type(error).__name__} in {Path(place.filename).name}:{place.lineno}; this is a "
            "fault of HENAW: please report it (HENAW_LOG=DEBUG shows the trace, which may hold participants' values)",
            err=True,
        )
        return UNEXPECTED_EXIT
    return 0


class _Terminated(BaseException):
    """SIGTERM arrived."""


@contextmanager
def _termination_raises() -> Iterator[None]:
    """SIGTERM unwinds the stack like Ctrl-C does, so that runs are closed and temporary files removed."""

    def stop(*_: object) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Eta(TimeRemainingColumn):
    """Time that is left, where that can be known."""

    def render(self, task: Task) -> Text:
        return Text("") if task.total is None else Text("ETA ") + super().render(task)


class ProgressLine:
    """One line that says where a run is; nothing at all where standard error is not a terminal."""

    def __init__(self) -> None:
        """Show nothing yet."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[detail]}"),
            TimeElapsedColumn(),
            _Eta(),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Show stage ``name`` for the length of the block."""
        with self._progress:
            task = self._progress.add_task(name, total=None, detail="")
            try:
                yield
            finally:
                self._progress.remove_task(task)

    def update(self, fraction: float, detail: str) -> None:
        """Say how much of the stage is done (0 to 1), and a few words of detail."""
        for task in self._progress.task_ids:
            self._progress.update(task, total=1.0, completed=fraction, detail=detail)
