"""Trainings that several processes share: the same members as of one, and an end with a reason if one is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from henaw.errors import BadInput
from henaw.model.clock import Clock
from henaw.model.losses import AGE
from henaw.training.batches import Disturbance, epoch_batches, ordered
from henaw.training.checkpoints import Checkpoints
from henaw.training.fit import fit_clock
from henaw.training.history import read_history
from henaw.training.ranks import RankLost
from henaw.training.shares import SomePeople, part_of, people_from, weighted
from henaw.training.telemetry import Events, Listeners, OutOfMemory
from tests.scenarios import KNOWN, known_cohort, tiny_config
from tests.training import small_runs

SMALL = (
    "network.members=4 network.hidden=[16] training.threads=1 training.batch_size=64 training.epochs=3 "
    "training.patience=9"
)


@pytest.fixture(autouse=True)
def _one_thread_each() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


class Listening(Events):
    """All that is told of steps and epochs; does something at an epoch's end."""

    def __init__(self, at: dict[int, Any] | None = None) -> None:
        self.told: list[Any] = []
        self.out_of_memory: list[OutOfMemory] = []
        self.at = at or {}

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        self.told.append((step, metrics))

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.told.append((epoch, metrics))
        if epoch in self.at:
            self.at[epoch]()

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        self.out_of_memory.append(event)


def helper_of(parent: int | None = None) -> psutil.Process:
    """The process that helps this one train."""
    [found] = [
        child
        for child in psutil.Process(parent).children(recursive=True)
        if "henaw.training.helper" in " ".join(child.cmdline())
    ]
    return found


def fit(overrides: str = "", folder: Path | None = None, at: Any = None) -> tuple[Clock, list[Any], Listening]:
    config = tiny_config(f"{SMALL} {overrides}")
    people, calibration = known_cohort(301, 0).table, known_cohort(150, 1).table
    listening = Listening(at)
    kept = folder and Checkpoints(folder, config.training)
    clock, history = fit_clock(people, calibration, KNOWN, config, Listeners([listening]), kept)
    return clock, history, listening


def same(one: Clock, other: Clock) -> bool:
    return all(np.array_equal(values, other.weights[name]) for name, values in one.weights.items())


@pytest.fixture(scope="module")
def alone() -> tuple[Clock, list[Any], Listening]:
    return fit()


def test_two_processes_with_half_the_members_each_end_bitwise_as_one(
    alone: tuple[Clock, list[Any], Listening], tmp_path: Path
) -> None:
    clock, history, listening = fit("training.processes=2", tmp_path / "run")
    assert same(clock, alone[0])
    assert history == alone[1]
    assert listening.told == alone[2].told, "every figure of every step"
    assert list(read_history(tmp_path / "run" / "history.jsonl")) == history


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        "network.dropout=0.3",
        "network.head=bins network.bin_years=2.5 training.nll_weight=0.5",
        "target=mortality network.members=16",
        "training.clip_norm=0.5 training.age_groups=even",
    ],
)
def test_dropout_heads_and_losses_are_shared_out_too(settings: str) -> None:
    if "mortality" in settings:
        from tests.training.test_fit import mortal_cohort

        config = tiny_config(f"{SMALL} {settings}"), tiny_config(f"{SMALL} {settings} training.processes=2")
        people, calibration = mortal_cohort(300, 0).table, mortal_cohort(150, 1).table
        one, two = (fit_clock(people, calibration, KNOWN, it, Events()) for it in config)
    else:
        one, two = fit(settings)[:2], fit(f"{settings} training.processes=2")[:2]
    assert same(one[0], two[0])
    assert one[1] == two[1]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_with_some_of_the_people_each_end_as_one_but_for_rounding(
    alone: tuple[Clock, list[Any], Listening], tmp_path: Path, processes: int
) -> None:
    clock, history, _ = fit(f"training.processes={processes} training.split=people", tmp_path / "run")
    for name, values in alone[0].weights.items():
        assert np.abs(values - clock.weights[name]).max() <= 1e-6 * max(1.0, np.abs(values).max()), name
    for row, expected in zip(history, alone[1], strict=True):
        assert row == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2), (2, 3), (2, 2)])
def test_a_run_goes_on_with_any_number_of_processes(
    alone: tuple[Clock, list[Any], Listening], tmp_path: Path, before: int, after: int
) -> None:
    folder = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        fit(f"training.processes={before}", folder, {0: lambda: signal.raise_signal(signal.SIGINT)})
    assert len(list(read_history(folder / "history.jsonl"))) == 1
    clock, history, _ = fit(f"training.processes={after}", folder)
    if after != 3:  # a member of its own in a process: the last of a vector is computed apart, so 3 may round otherwise
        assert same(clock, alone[0])
        assert history == alone[1]
    assert [row["epoch"] for row in history] == [0, 1, 2]


@pytest.mark.slow
def test_a_killed_process_ends_the_run_with_a_reason_and_the_checkpoint_is_whole(
    alone: tuple[Clock, list[Any], Listening], tmp_path: Path
) -> None:
    begun: list[float] = []

    def kill() -> None:
        begun.append(time.monotonic())
        helper_of().kill()

    with pytest.raises(RankLost, match="process 1 ended by signal 9; the last checkpoint is whole"):
        fit("training.processes=2", tmp_path / "run", {1: kill})
    assert time.monotonic() - begun[0] < 10, "nobody waits for who is gone"
    clock, history, _ = fit("training.processes=2", tmp_path / "run")
    assert same(clock, alone[0])
    assert history == alone[1]


FAULTY = """
import sys, torch
from henaw.model.network import EnsembleNetwork
from henaw.training import helper
kind, limit, calls, forward = sys.argv[1], int(sys.argv[2]), [0], EnsembleNetwork.forward
def broken(network, inputs):
    calls[0] += network.training
    if network.training and calls[0] > 7 and inputs.shape[1] > limit:
        raise torch.OutOfMemoryError("planned") if kind == "memory" else ValueError("secret 47.11")
    return forward(network, inputs)
EnsembleNetwork.forward = broken
sys.exit(helper.main(*sys.argv[3:]))
"""


def break_helper(monkeypatch: pytest.MonkeyPatch, kind: str, limit: int) -> None:
    """Let the other process break in the middle of training: memory runs out above ``limit`` rows, or it raises."""
    real = subprocess.Popen

    def started(command: list[str], **named: Any) -> Any:
        assert command[1:3] == ["-m", "henaw.training.helper"]
        return real([command[0], "-c", FAULTY, kind, str(limit), *command[3:]], **named)

    monkeypatch.setattr("henaw.training.ranks.subprocess.Popen", started)


@pytest.mark.slow
def test_memory_that_runs_out_in_another_process_is_halved_there_and_told_here(
    alone: tuple[Clock, list[Any], Listening], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_helper(monkeypatch, "memory", 32)
    clock, _, listening = fit("training.processes=2", tmp_path / "run")
    assert [(it.phase, it.from_rows, it.to_rows) for it in listening.out_of_memory] == [("training", 64, 32)]
    for name, values in alone[0].weights.items():
        assert np.array_equal(values[:2], clock.weights[name][:2]), "members of the other process have not felt it"
        assert np.abs(values - clock.weights[name]).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("split", ["members", "people"])
def test_all_is_told_of_memory_that_ran_out_in_another_process_in_the_last_epoch(
    monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    break_helper(monkeypatch, "memory", 32)
    listening = fit(f"training.processes=2 training.batch_size=269 training.epochs=5 training.split={split}")[2]
    told = [(it.phase, it.epoch, it.step, it.from_rows) for it in listening.out_of_memory]
    assert told == [("training", 4, 8, rows) for rows in (269, 134, 67, 33)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "said"),
    [("memory", "process 1: out of memory in training, epoch 1"), ("error", "process 1: unexpected ValueError;")],
)
def test_a_process_that_fails_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str, said: str
) -> None:
    break_helper(monkeypatch, kind, 0)
    with pytest.raises(RankLost) as caught:
        fit("training.processes=2", tmp_path / "run")
    assert said in str(caught.value)
    assert caught.value.exit_code == 3
    assert "47.11" not in str(caught.value) + capfd.readouterr().err
    assert len(list(read_history(tmp_path / "run" / "history.jsonl"))) == 1


@pytest.mark.slow
def test_a_signal_to_any_process_stops_all_in_the_same_place(
    alone: tuple[Clock, list[Any], Listening], tmp_path: Path
) -> None:
    with pytest.raises(RankLost, match="stopped by a signal to one of its processes; all is saved"):
        fit("training.processes=2", tmp_path / "run", {0: lambda: helper_of().send_signal(signal.SIGTERM)})
    clock, history, _ = fit("", tmp_path / "run")
    assert same(clock, alone[0])
    assert history == alone[1]


def test_more_processes_than_there_is_work_for_are_refused() -> None:
    with pytest.raises(BadInput, match="2 processes share 1 members"):
        fit("network.members=1 training.processes=2")
    with pytest.raises(BadInput, match="151 processes share people out"):
        fit("training.split=people training.processes=151")


@pytest.mark.parametrize(("people", "batch_size"), [(101, 16), (97, 16), (7, 1)])
def test_everybody_of_a_batch_is_held_by_one_process(people: int, batch_size: int) -> None:
    """Also of one so small that a process holds nobody of it."""
    data = small_runs.people(people)
    order = ordered(data.targets[:, AGE], 3, batch_size, "proportional", 0)
    for batch in epoch_batches(data, order(0), batch_size, Disturbance(0.3, 0.2), 0, 0):
        [whole] = batch.split(1000)
        seen = torch.zeros(3, *whole.inputs.shape[2:])
        weight = torch.zeros(3)
        for rank in range(3):
            first, stop = part_of(people, rank, 3)
            part = SomePeople.of_batch(replace(batch, data=weighted(people_from(data, first, stop))), first, stop)
            assert len(part) == len(batch)
            for piece in part.split(3):
                seen += (piece.inputs * piece.targets[..., -1:]).sum(dim=1)
                weight += piece.targets[..., -1].sum(dim=1)
        assert weight.tolist() == [len(batch)] * 3
        assert torch.allclose(seen, whole.inputs.sum(dim=1), atol=1e-4)


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def trained(command: list[str], workplace: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    settings = "training.threads=1 training.epochs=3 network.members=4 network.hidden=[8] source.people=600"
    arguments = ["--profile", "smoke", "--overrides", " ".join([settings, *overrides])]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [*command, "-m", "pipelines.train", *arguments],
        cwd=workplace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_trains_registers_once_and_ends_as_one_process(workplace: Path) -> None:
    from mlflow import MlflowClient

    together = trained(TORCHRUN, workplace)
    assert together.returncode == 0, together.stderr
    assert len(re.findall("Registered henaw version 1", together.stdout)) == 1
    assert trained([sys.executable], workplace).returncode == 0
    client = MlflowClient()
    assert len(client.search_model_versions("name='henaw'")) == 2
    weights = {path.read_bytes() for path in workplace.rglob("weights.safetensors")}
    assert len(weights) == 1
