"""What a person at a terminal meets: exit codes, one line for each error, and quiet where nobody watches."""

import io
import logging
import os
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from typing import Annotated

import pytest
import typer

from henaw import __version__, errors
from henaw.cli import app as henaw_app
from henaw.console import INTERRUPTED_EXIT, UNEXPECTED_EXIT, ProgressLine, run_app, run_command, run_stage
from tests.conftest import REPOSITORY

SECRET = "S01-1987.25"  # what an unexpected error may hold


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("HENAW_LOG", raising=False)
    names = (None, "henaw", "mlflow", "alembic", "great_expectations")
    levels = {name: logging.getLogger(name).level for name in names}
    with warnings.catch_warnings():
        yield
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)


def failing(error: BaseException) -> None:
    raise error


# --- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.HenawError("nothing was registered"), 70),
        (errors.Refused("gate"), 1),
        (errors.BadInput("table.csv: no such file"), 2),
        (errors.NotBuiltYet("tune: not built yet"), 2),
        (errors.IntegrityError("clock.json: differs"), 2),
        (errors.EnvironmentProblem("disk is full"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_on_purpose_is_its_message_and_its_code(
    error: errors.HenawError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(lambda: failing(error)) == code
    assert capsys.readouterr() == ("", f"henaw: {error}\n")


def test_success_is_zero_and_silent(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: None) == 0
    assert capsys.readouterr() == ("", "")


def test_one_error_is_one_line_even_if_a_path_is_not(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: failing(errors.BadInput("bad\nname.csv: no such file"))) == 2
    assert capsys.readouterr().err == "henaw: bad name.csv: no such file\n"


def test_an_unexpected_error_shows_type_and_place_but_neither_text_nor_trace(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command(lambda: failing(ValueError(SECRET))) == UNEXPECTED_EXIT == 70
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("henaw: unexpected ValueError in test_console.py:")
    assert SECRET not in err
    assert "Traceback" not in err


def test_debug_shows_the_trace_too(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HENAW_LOG", "debug")
    assert run_command(lambda: failing(ValueError(SECRET))) == 70
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert SECRET in err


def test_a_cause_with_values_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    def chained() -> None:
        try:
            failing(ValueError(SECRET))
        except ValueError as error:
            raise errors.BadInput("table.csv: text in a number") from error

    assert run_command(chained) == 2
    assert capsys.readouterr().err == "henaw: table.csv: text in a number\n"


def test_an_interruption_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(lambda: failing(KeyboardInterrupt())) == INTERRUPTED_EXIT == 130
    assert capsys.readouterr().err == "henaw: interrupted\n"


def test_an_interruption_inside_a_command_is_130_too(capsys: pytest.CaptureFixture[str]) -> None:
    """typer catches it first; a scheduler must not take the run for a success."""
    app = typer.Typer()
    app.command()(lambda: failing(KeyboardInterrupt()))
    assert run_app(app, []) == 130
    assert capsys.readouterr().err == "henaw: interrupted\n"


# --- options ---------------------------------------------------------------------------------------------------------


def program() -> typer.Typer:
    app = typer.Typer()

    @app.command()
    def measure(
        name: Annotated[str, typer.Option()], times: int = 1, share: float = 0.5, loud: bool = False, input: str = ""
    ) -> None:
        if times == 13:
            raise errors.EnvironmentProblem("measure: out of luck")
        typer.echo(f"{name} {times} {share} {loud} {input}")

    return app


def test_options_reach_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(program(), ["--name", "a", "--times", "3", "--share", "1e-1", "--loud", "--input", "x.csv"]) == 0
    assert capsys.readouterr() == ("a 3 0.1 True x.csv\n", "")


def test_a_commands_own_error_has_its_own_code() -> None:
    assert run_app(program(), ["--name", "a", "--times", "13"]) == 3


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--name", "a", "--tims", "3"], "--tims"),
        (["--name", "a", "--times", "three"], "--times"),
        (["--name", "a", "--times", "1.5"], "--times"),
        (["--name", "a", "--share", "much"], "--share"),
        (["--name", "a", "--times"], "--times"),
        (["--times", "3"], "--name"),
        (["--name", "a", "extra"], "extra"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_app(program(), arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("henaw: ")
    assert named in err
    assert err.endswith("; see --help\n")


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(henaw_app, ["--help"]) == 0
    out, err = capsys.readouterr()
    assert "score" in out
    assert err == ""


def test_a_stages_parameters_are_its_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(profile: str = "default", coverage: float = 0.9) -> None:
        typer.echo(f"{profile} {coverage}")

    monkeypatch.setattr(sys, "argv", ["pipelines.stage", "--profile", "smoke", "--coverage", "0.5"])
    assert run_stage(main) == 0
    assert capsys.readouterr().out == "smoke 0.5\n"
    monkeypatch.setattr(sys, "argv", ["pipelines.stage", "--coverage", "x"])
    assert run_stage(main) == 2


# --- the real command ------------------------------------------------------------------------------------------------


def henaw(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "henaw.cli", *arguments], capture_output=True, text=True, timeout=120, cwd=REPOSITORY
    )


def test_the_command_prints_its_version_and_needs_a_known_subcommand() -> None:
    done = henaw("version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{__version__}\n", "")
    done = henaw("scor")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("henaw: No such command 'scor'. Did you mean 'score'")
    assert done.stderr.count("\n") == 1


def test_the_bare_command_shows_its_help() -> None:
    done = henaw()
    assert (done.returncode, done.stderr) == (0, "")
    assert "doctor" in done.stdout


def test_control_c_ends_a_process_with_130() -> None:
    program = (
        "import sys, time, typer\n"
        "from henaw.console import run_stage\n"
        "def main() -> None:\n"
        "    print('started', flush=True)\n"
        "    time.sleep(60)\n"
        "sys.exit(run_stage(main))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "started\n"
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert process.stderr.read() == "henaw: interrupted\n"


# --- logging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        (None, ["INFO", "WARNING", "ERROR"]),
        ("DEBUG", ["DEBUG", "INFO", "WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"]),
        ("Warning", ["WARNING", "ERROR"]),
        ("ERROR", ["ERROR"]),
    ],
)
def test_henaw_log_chooses_the_least_level_shown(level: str | None, shown: list[str]) -> None:
    program = (
        "import logging\n"
        "from henaw.console import run_command\n"
        "def speak():\n"
        "    for name in ('henaw.training.fit', 'mlflow.store', 'another'):\n"
        "        for level in ('DEBUG', 'INFO', 'WARNING', 'ERROR'):\n"
        "            logging.getLogger(name).log(getattr(logging, level), 'said')\n"
        "raise SystemExit(run_command(speak))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)} | ({} if level is None else {"HENAW_LOG": level})
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, timeout=120, check=True
    )
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert [line for line in lines if "henaw" in line] == [f"{name} henaw.training.fit: said" for name in shown]
    for other in ("mlflow.store", "another"):
        assert [line for line in lines if other in line] == [f"{name} {other}: said" for name in ("WARNING", "ERROR")]


def test_a_level_that_is_none_is_bad_input(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HENAW_LOG", "loud")
    assert run_command(lambda: None) == 2
    assert capsys.readouterr().err == "henaw: HENAW_LOG: expected DEBUG, INFO, WARNING or ERROR, found 'LOUD'\n"


# --- the progress line -----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    progress = ProgressLine()
    for stage in ("validate", "train"):
        with progress.stage(stage):
            progress.update(0.25, "epoch 1/4  loss 7.123")
            progress._progress.refresh()
    return stream.getvalue()


def test_progress_is_silent_where_standard_error_is_no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_on(io.StringIO(), monkeypatch) == ""


def test_progress_shows_stage_detail_and_time_left_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = shown_on(Terminal(), monkeypatch)
    for part in ("validate", "train", "epoch 1/4  loss 7.123", "ETA"):
        assert part in shown


def test_progress_outside_a_stage_and_after_an_error_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = ProgressLine()
    progress.update(0.5, "nothing runs")
    with pytest.raises(errors.BadInput), progress.stage("train"):
        raise errors.BadInput("stop")
    with progress.stage("train again"):
        progress.update(1.0, "done")
    assert progress._progress.task_ids == [], "no stage is left standing"


def test_sigterm_unwinds_like_an_interrupt(capsys: pytest.CaptureFixture[str]) -> None:
    closed = []

    def command() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        finally:
            closed.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run_command(command) == 143
    assert closed
    assert signal.getsignal(signal.SIGTERM) == before
    assert capsys.readouterr().err == "henaw: terminated\n"


def test_memory_that_runs_out_is_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise MemoryError

    assert run_command(command) == 3
    assert "out of memory" in capsys.readouterr().err


def test_the_command_calls_nobody_and_shows_no_bars_of_others() -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "GX_"))}
    program = (
        "import os, sys; sys.argv = ['henaw', '--help']; from henaw.cli import main\n"
        "assert 'mlflow' not in sys.modules, 'which reads the environment when it is imported'\n"
        "try: main()\n"
        "except SystemExit: print({name: value for name, value in os.environ.items() if name[:3] in ('MLF', 'GX_')})"
    )
    done = subprocess.run([sys.executable, "-c", program], env=bare, cwd=REPOSITORY, capture_output=True, text=True)
    assert "'MLFLOW_DISABLE_TELEMETRY': 'true'" in done.stdout, done.stderr
    for other in ("ALLOW_PICKLE_DESERIALIZATION': 'false", "ARTIFACTS_PROGRESS_BAR': 'false", "ANALYTICS_ENABLED': 'f"):
        assert other in done.stdout
