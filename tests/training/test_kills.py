"""Runs that are killed outright at random points: nothing corrupt is loaded, no epoch is lost, and the end is the same.

Each run is a process of its own, forked by a server that has imported everything already.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from henaw.training.checkpoints import Checkpoints
from henaw.training.history import read_history
from henaw.training.telemetry import Events
from tests.training.small_runs import described_run, digest_of, fresh_state, saved_run, training

SETTINGS = training("training.epochs=8 training.batch_size=32 training.patience=99")  # 4 steps an epoch
STEPS = 32
STEP_EVENTS = ("batch", "grad", "step")
DISK_CALLS = ("open", "write", "fsync", "mkdir", "rename", "unlink")
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.training.warm_runs", "hypothesis", "pytest"])


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Reporting(Events):
    """Writes down each epoch that is over, and dies at a given event of a given step."""

    def __init__(self, folder: Path, at: tuple[str, int] | None) -> None:
        self.told, self.at, self.seen = folder.with_suffix(".told"), at, 0

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        with self.told.open("a") as file:
            file.write(f"{epoch}\n")
        self.reach("epoch")

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        self.seen = epoch * 4 + batch
        self.reach("batch")

    def on_grad_computed(self, step: int, metrics: dict[str, float]) -> None:
        self.reach("grad")

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        self.reach("step")

    def reach(self, event: str) -> None:
        if self.at == (event, self.seen):
            die()


def dying_disk(call: int) -> None:
    """Die at the ``call``-th call to the disk from here on; half of what is being written is there by then."""
    left = [call]

    def wrapped(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def replacement(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                if name == "write":
                    real(arguments[0], arguments[1][: len(arguments[1]) // 2])
                die()
            return real(*arguments, **named)

        return replacement

    for name in DISK_CALLS:
        setattr(os, name, wrapped(name, getattr(os, name)))


def train_until(folder: Path, at: tuple[str, int] | None = None, disk_call: int | None = None) -> None:
    if disk_call is not None:
        dying_disk(disk_call)
    saved_run(folder, SETTINGS, Reporting(folder, at))


def started(*arguments: Any) -> BaseProcess:
    process = PROCESSES.Process(target=train_until, args=arguments)
    process.start()
    return process


def ended(process: BaseProcess) -> int:
    process.join(60)
    code = process.exitcode
    process.close()
    assert code is not None
    return code


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the run that was never stopped."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    saved_run(folder, SETTINGS)
    return digest_of(folder)


def require_whole(folder: Path) -> None:
    """What is there loads, and no epoch that was told of is missing from it."""
    checkpoints, state = Checkpoints(folder, SETTINGS), fresh_state(SETTINGS)
    told = folder.with_suffix(".told").read_text().split() if folder.with_suffix(".told").exists() else []
    if not folder.is_dir() or not checkpoints.saved():
        assert not told
        return
    contents = checkpoints.newest(state.contents(), described_run(SETTINGS))
    assert contents is not None
    assert not list(folder.glob("*.broken"))
    assert contents.state["epoch"] >= len(set(told))


def kill_and_resume(folder: Path, expected: str, at: tuple[str, int]) -> None:
    assert ended(started(folder, at)) == -signal.SIGKILL
    require_whole(folder)
    assert ended(started(folder)) == 0
    assert digest_of(folder) == expected, at
    assert {int(line) for line in folder.with_suffix(".told").read_text().split()} == set(range(8)), "nobody untold"


def random_point(chance: random.Random) -> tuple[str, int]:
    step = chance.randrange(STEPS)
    return ("epoch", step // 4 * 4 + 3) if chance.random() < 0.2 else (chance.choice(STEP_EVENTS), step)


@pytest.mark.parametrize("at", [("grad", 0), ("step", 13), ("epoch", 7)])
def test_a_run_killed_and_resumed_ends_bitwise_as_if_it_had_not_been(
    tmp_path: Path, expected: str, at: tuple[str, int]
) -> None:
    kill_and_resume(tmp_path / "run", expected, at)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_50_random_kills_and_resumes_end_the_same(tmp_path: Path, expected: str) -> None:
    chance = random.Random(3)
    for number in range(50):
        kill_and_resume(tmp_path / f"run{number}", expected, random_point(chance))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_one_run_killed_again_and_again_ends_the_same(tmp_path: Path, expected: str) -> None:
    """At every third batch, so that each start gets a little further than the last."""
    folder = tmp_path / "run"
    for step in range(0, STEPS, 3):
        assert ended(started(folder, ("step", step))) in (-signal.SIGKILL, 0)
        require_whole(folder)
    assert ended(started(folder)) == 0
    assert digest_of(folder) == expected


def kill_at_disk_calls(tmp_path: Path, expected: str, calls: list[int]) -> None:
    for call in calls:
        folder = tmp_path / f"run{call}"
        assert ended(started(folder, None, call)) in (-signal.SIGKILL, 0)
        require_whole(folder)
        assert ended(started(folder)) == 0
        assert digest_of(folder) == expected, call


def test_a_kill_at_calls_to_the_disk_tears_nothing(tmp_path: Path, expected: str) -> None:
    kill_at_disk_calls(tmp_path, expected, [9, 40, 62])


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_200_kills_at_random_calls_to_the_disk_and_random_moments_tear_nothing(tmp_path: Path, expected: str) -> None:
    """Half of them at a call to the disk, in the middle of a write where it is one; half whenever the clock says."""
    chance = random.Random(4)
    kill_at_disk_calls(tmp_path, expected, chance.sample(range(180), 100))
    killed = 0
    for number in range(100):
        folder = tmp_path / f"moment{number}"
        process = started(folder)
        time.sleep(chance.uniform(0.0, 0.6))
        process.kill()
        killed += ended(process) == -signal.SIGKILL
        require_whole(folder)
        assert ended(started(folder)) == 0
        assert digest_of(folder) == expected
        assert len(list(read_history(folder / "history.jsonl"))) == 8
    assert killed > 20, "the moments were too late to mean anything"
