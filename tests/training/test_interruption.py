"""Ctrl-C and SIGTERM: the step in hand is finished and saved, then the signal does what it would have done."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from henaw.training import checkpoints, trainer
from henaw.training.checkpoints import Checkpoints
from henaw.training.interruption import signals_deferred
from henaw.training.telemetry import Events
from tests.training.small_runs import digest_of, saved_run, training

SETTINGS = training("training.epochs=4 training.batch_size=32")  # 4 steps an epoch


class Terminated(BaseException):
    """What SIGTERM raises here."""


@pytest.fixture
def termination_raises() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Terminated

    before = signal.signal(signal.SIGTERM, stop)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Ctrl-C raises, as in a terminal; a process started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Signaling(Events):
    """Sends signals in the middle of a step, or at the end of an epoch; notes where training stopped."""

    def __init__(self, *numbers: signal.Signals, at: tuple[str, int] = ("grad", 5)) -> None:
        self.numbers, self.at, self.batches, self.stopped = numbers, at, -1, ()

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        self.batches += 1

    def on_grad_computed(self, step: int, metrics: dict[str, float]) -> None:
        self.reach("grad", step)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.reach("epoch", epoch)

    def on_stopped(self, epoch: int, batch: int) -> None:
        self.stopped = (epoch, batch)

    def reach(self, event: str, number: int) -> None:
        if self.at == (event, number):
            for signal_number in self.numbers:
                signal.raise_signal(signal_number)


@pytest.mark.usefixtures("termination_raises")
@pytest.mark.parametrize(
    ("numbers", "raised"),
    [
        ([signal.SIGINT], KeyboardInterrupt),
        ([signal.SIGTERM], Terminated),
        ([signal.SIGINT, signal.SIGTERM], KeyboardInterrupt),  # as `mlflow run` passes a Ctrl-C on
        ([signal.SIGTERM, signal.SIGTERM], Terminated),
    ],
)
@pytest.mark.parametrize(
    ("at", "stopped"),
    [
        (("grad", 0), (0, 1)),
        (("grad", 5), (1, 2)),
        (("grad", 7), (1, 4)),
        (("epoch", 1), (2, 0)),
        (("epoch", 3), (4, 0)),
    ],
)
def test_a_stopped_run_is_saved_where_it_stopped_and_ends_bitwise_the_same(
    tmp_path: Path,
    numbers: list[signal.Signals],
    raised: type[BaseException],
    at: tuple[str, int],
    stopped: tuple[int, int],
) -> None:
    events = Signaling(*numbers, at=at)
    with pytest.raises(raised):
        saved_run(tmp_path / "run", SETTINGS, events)
    assert events.stopped == stopped
    newest = Checkpoints(tmp_path / "run", SETTINGS).saved()[-1]
    assert newest.name == f"epoch-{stopped[0]:06d}-batch-{stopped[1]:08d}"
    saved_run(tmp_path / "run", SETTINGS)
    saved_run(tmp_path / "undisturbed", SETTINGS)
    assert digest_of(tmp_path / "run") == digest_of(tmp_path / "undisturbed")


@pytest.mark.usefixtures("termination_raises")
@pytest.mark.parametrize(
    ("module", "name", "call", "stopped"),
    [
        (trainer, "fingerprint", 1, (0, 1)),  # set-up
        (checkpoints, "write_checkpoint", 1, (0, 1)),  # the checkpoint before the first step
        (trainer, "evaluate_members", 2, (2, 0)),
        (checkpoints, "write_checkpoint", 3, (2, 0)),
        (trainer, "evaluate_members", 4, (4, 0)),
        (checkpoints, "write_checkpoint", 5, (4, 0)),
    ],
)
def test_a_signal_during_set_up_validation_and_saving_is_held_back_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: ModuleType, name: str, call: int, stopped: tuple[int, int]
) -> None:
    real, calls, events = getattr(module, name), [], Signaling(at=("", 0))

    def signaled(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            signal.raise_signal(signal.SIGTERM)
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, signaled)
        with pytest.raises(Terminated):
            saved_run(tmp_path / "run", SETTINGS, events)
    assert len(calls) >= call
    if name == "fingerprint":  # nothing is done yet, and nothing has to be saved
        assert events.stopped == ()
    else:
        assert events.stopped == stopped
        newest = Checkpoints(tmp_path / "run", SETTINGS).saved()[-1]
        assert newest.name == f"epoch-{stopped[0]:06d}-batch-{stopped[1]:08d}"
    assert not list((tmp_path / "run").glob(".*.tmp")) if (tmp_path / "run").exists() else True
    saved_run(tmp_path / "run", SETTINGS)
    saved_run(tmp_path / "undisturbed", SETTINGS)
    assert digest_of(tmp_path / "run") == digest_of(tmp_path / "undisturbed")


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    events = Signaling(signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        saved_run(tmp_path / "run", SETTINGS, events)
    assert events.stopped == ()
    assert Checkpoints(tmp_path / "run", SETTINGS).saved()[-1].name == "epoch-000001-batch-00000000"


def test_handlers_are_back_afterwards_and_ignored_signals_stay_ignored() -> None:
    before = signal.getsignal(signal.SIGINT)
    with signals_deferred() as stop:
        assert signal.getsignal(signal.SIGINT) is not before
        assert not stop
    assert signal.getsignal(signal.SIGINT) is before
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals_deferred() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop
    finally:
        signal.signal(signal.SIGINT, before)


def test_an_error_is_not_covered_by_a_signal() -> None:
    def fail() -> None:
        with signals_deferred():
            signal.raise_signal(signal.SIGINT)
            raise ValueError("first")

    with pytest.raises(ValueError, match="first"):
        fail()


def test_in_another_thread_nothing_is_held() -> None:
    seen: list[bool] = []

    def work() -> None:
        with signals_deferred() as stop:
            seen.append(bool(stop))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [False]
