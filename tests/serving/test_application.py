"""What becomes of a worker without the process that started it, and of its reason not to start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from henaw.errors import EnvironmentProblem, HenawError
from henaw.serving.application import STARTUP_FAILURE
from henaw.serving.metrics import FOLDER_VARIABLE
from henaw.serving.processes import _reason
from tests.conftest import REPOSITORY
from tests.serving.sockets import await_that

PROGRAM = """
import multiprocessing, os, sys
from henaw import errors
from henaw.serving import application

def worker(alone):
    if alone:
        multiprocessing.parent_process().join()
    application._give_up(getattr(errors, sys.argv[1], ZeroDivisionError)("of 61.98765"))

if __name__ == "__main__":
    alone = sys.argv[2] == "alone"
    process = multiprocessing.get_context("spawn").Process(target=worker, args=(alone,))
    process.start()
    if alone:
        os._exit(0)
    process.join()
    sys.exit(process.exitcode)
"""


def give_up(folder: Path, error: str, parent: str) -> int:
    figures = folder / "figures"
    figures.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    environment = {**os.environ, FOLDER_VARIABLE: str(figures), "PYTHONPATH": str(REPOSITORY)}
    arguments = [sys.executable, str(folder / "program.py"), error, parent]
    return subprocess.run(arguments, env=environment, check=False, stderr=subprocess.DEVNULL).returncode


@pytest.mark.parametrize("error", [EnvironmentProblem])
def test_the_reason_of_a_worker_is_raised_by_who_started_it(tmp_path: Path, error: type[HenawError]) -> None:
    assert give_up(tmp_path, error.__name__, "there") == STARTUP_FAILURE
    found = _reason(tmp_path / "figures", "models:/henaw@champion")
    assert (type(found), str(found)) == (error, "of 61.98765")


def test_a_reason_that_nobody_expected_has_no_text(tmp_path: Path) -> None:
    give_up(tmp_path, "ZeroDivisionError", "there")
    found = _reason(tmp_path / "figures", "models:/henaw@champion")
    assert (found.exit_code, "61.98765" in str(found)) == (70, False)
    assert str(found).startswith("ZeroDivisionError")


def test_where_no_reason_could_be_left_it_is_the_machines(tmp_path: Path) -> None:
    assert _reason(tmp_path, "models:/henaw@champion").exit_code == 3


def test_a_worker_that_begins_when_nobody_is_there_any_more_leaves_nothing(tmp_path: Path) -> None:
    give_up(tmp_path, "BadInput", "alone")
    await_that(lambda: not (tmp_path / "figures").exists())
