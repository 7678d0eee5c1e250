"""Work recorded as a CUDA graph and replayed is the same work; where it cannot be recorded it is done as it comes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from henaw.model.losses import crps_loss
from henaw.training import work
from henaw.training.batches import Disturbance, LogicalBatch
from henaw.training.checkpoints import Checkpoints
from henaw.training.shares import _OfMembers
from henaw.training.telemetry import Events, OutOfMemory
from henaw.training.trainer import train
from henaw.training.transaction import Transaction
from henaw.training.work import Recorded, Work
from tests.scenarios import GAUSSIAN
from tests.training.small_runs import network, people, training

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def batch(first: int, stream: int, count: int = 8) -> LogicalBatch:
    rows = torch.arange(first, first + count).expand(3, -1)
    return LogicalBatch(people(), rows, Disturbance(0.3, 0.1), (), stream)


def drawn(of: LogicalBatch) -> Tensor:
    return torch.cat([torch.cat([piece.inputs, piece.targets], dim=-1) for piece in of.split(3)], dim=1)


def test_a_batch_is_that_of_the_people_and_numbers_that_stand_in_its_places() -> None:
    one, other = batch(0, 5), batch(40, -7)
    rows, stream = one.rows.clone(), torch.tensor(one.stream)
    placed = one.placed(rows, stream)
    assert torch.equal(drawn(placed), drawn(one))
    rows.copy_(other.rows)
    stream.fill_(other.stream)
    assert torch.equal(drawn(placed), drawn(other))
    assert not torch.equal(drawn(one), drawn(other))


def test_so_it_is_for_the_part_of_some_members() -> None:
    one, other = (
        _OfMembers(each.data, each.rows[1:], each.disturbance, each.derived, each.stream, each, slice(1, 3))
        for each in (batch(0, 5), batch(40, 9))
    )
    rows, stream = one.rows.clone(), torch.tensor(one.stream)
    placed = one.placed(rows, stream)
    rows.copy_(other.rows)
    stream.fill_(other.stream)
    assert torch.equal(drawn(placed), drawn(other))


class FakeRecording:
    """Replays by doing the work anew, and says so."""

    made: list[int]

    def __init__(self, plain: Callable[..., Any], parameters: Any, of: LogicalBatch, rows: int) -> None:
        self.made.append(rows)
        self.replay = lambda _: "replayed"


def recorded(monkeypatch: pytest.MonkeyPatch, how: Callable[..., Any], parameters: Any = ()) -> Recorded:
    """Recorded work that is ``how``."""
    made = network()
    transaction = Transaction(made, torch.optim.AdamW(made.parameters()))
    monkeypatch.setattr(Work, "__call__", lambda _, *batch: how(*batch))
    return Recorded(None, parameters, 1.0, None, transaction)  # type: ignore[arg-type]


def test_the_second_batch_is_recorded_and_those_after_it_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeRecording, "made", [], raising=False)
    monkeypatch.setattr(work, "_Recording", FakeRecording)
    found = recorded(monkeypatch, lambda *_: "plain")
    full, last = batch(0, 1), batch(0, 1, count=5)
    asked: Any = [(full, 8), (full, 8), (last, 8), (full, 8), (full, 4), (full, 4), (full, 4)]
    assert [found(*each) for each in asked] == [
        *("plain", "replayed", "plain", "replayed"),
        *("plain", "replayed", "replayed"),
    ]
    assert FakeRecording.made == [8, 4], "pieces of another size are a new beginning"
    found.release()
    assert [found(full, 4) for _ in range(2)] == ["plain", "replayed"]
    found.undo()  # memory ran out, perhaps in a short batch: the recording's may be what was missing
    assert [found(each, 4) for each in (last, full, full)] == ["plain", "plain", "replayed"]
    assert FakeRecording.made == [8, 4, 4, 4]


def test_a_run_that_goes_on_with_a_short_batch_records_the_full_ones_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In pieces of one size, so that a recording of the short batch would be taken for one of the full."""
    monkeypatch.setattr(FakeRecording, "made", [], raising=False)
    monkeypatch.setattr(work, "_Recording", FakeRecording)
    found = recorded(monkeypatch, lambda *_: "plain")
    full, last = batch(0, 1), batch(0, 1, count=5)
    asked: Any = [(last, 4), (last, 4), (full, 4), (full, 4), (last, 4), (full, 4)]
    assert [found(*each) for each in asked] == ["plain", "replayed", "plain", "replayed", "plain", "replayed"]
    assert FakeRecording.made == [4, 4]


def test_where_nothing_can_be_recorded_it_is_done_as_it_comes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Recording fails here by itself where PyTorch has no CUDA, and is made to where it has."""
    parameter = torch.nn.Parameter(torch.zeros(1))

    def unrecordable(*_: Any) -> str:
        if torch.cuda.is_available() and torch.cuda.is_current_stream_capturing():
            parameter.grad = torch.ones(1)
            raise torch.OutOfMemoryError
        assert parameter.grad is None
        return "plain"

    found = recorded(monkeypatch, unrecordable, [parameter])
    with caplog.at_level("WARNING"):
        assert [found(batch(0, 1), 8) for _ in range(4)] == ["plain"] * 4
    assert len(caplog.messages) == 1
    assert "goes on without" in caplog.messages[0]


# --- on a GPU --------------------------------------------------------------------------------------------------------


def gpu_run(
    overrides: str, dropout: float = 0.0, events: Events | None = None, folder: Path | None = None
) -> tuple[Any, dict[str, Any]]:
    """History and weights of a small run on the GPU."""
    settings = training(f"training.device=cuda {overrides}")
    made = network(dropout).cuda()
    loss = crps_loss(GAUSSIAN, torch.device("cuda"))
    checkpoints = Checkpoints(folder, settings) if folder else None
    data = (each.to(torch.device("cuda")) for each in (people(), people(60, 1)))
    history = train(made, loss, *data, settings, 0, events or Events(), checkpoints)
    return history, made.arrays()


def assert_same(one: tuple[Any, dict[str, Any]], other: tuple[Any, dict[str, Any]]) -> None:
    assert one[0] == other[0]
    for name, values in one[1].items():
        np.testing.assert_array_equal(values, other[1][name])


class Counting(Events):
    """How often a graph was replayed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.replayed = 0
        replay = work._Recording.replay

        def counted(recording: Any, of: LogicalBatch) -> Any:
            self.replayed += 1
            return replay(recording, of)

        monkeypatch.setattr(work._Recording, "replay", counted)


@needs_gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_recorded_run_is_bitwise_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, dropout: float, precision: str
) -> None:
    """Three full batches an epoch and a short one; noise, masks and dropout are drawn anew in each."""
    counting = Counting(monkeypatch)
    same = f"training.epochs=4 training.batch_size=32 training.precision={precision}"
    plain = gpu_run(f"{same} training.compiled=never", dropout)
    assert counting.replayed == 0
    recorded = gpu_run(f"{same} training.compiled=graphs", dropout)
    assert counting.replayed == 4 * 3 - 1
    assert_same(plain, recorded)


@needs_gpu
def test_pieces_that_become_smaller_are_recorded_anew_and_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(Counting):
        """Memory runs out once, in the optimizer of the sixth step."""

        def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
            super().__init__(monkeypatch)
            self.steps, self.events = 0, []  # type: ignore[var-annotated]

        def on_grad_computed(self, step: int, metrics: dict[str, float]) -> None:
            self.steps += 1
            if self.steps == 6:
                raise torch.OutOfMemoryError

        def on_out_of_memory(self, event: OutOfMemory) -> None:
            self.events.append(event)

    same = "training.epochs=4 training.batch_size=32"
    plain, recorded = Full(monkeypatch), Full(monkeypatch)
    assert_same(
        gpu_run(f"{same} training.compiled=never", events=plain),
        gpu_run(f"{same} training.compiled=graphs", events=recorded),
    )
    assert [(event.from_rows, event.to_rows) for event in recorded.events] == [(32, 16)]
    assert recorded.replayed > 5


@needs_gpu
def test_a_recorded_run_goes_on_bitwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopping(Events):
        def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
            if step == 6:
                raise KeyboardInterrupt

    same = "training.epochs=4 training.batch_size=32 training.compiled=graphs"
    whole = gpu_run(same, folder=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        gpu_run(same, events=Stopping(), folder=tmp_path / "stopped")
    again = gpu_run(same, folder=tmp_path / "stopped")
    for name, values in whole[1].items():
        np.testing.assert_array_equal(values, again[1][name])


@needs_gpu
def test_compiled_training_on_a_gpu_comes_out_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    counting = Counting(monkeypatch)
    same = "training.epochs=4 training.batch_size=32"
    history, weights = gpu_run(f"{same} training.compiled=never")
    compiled, found = gpu_run(f"{same} training.compiled=always")
    assert counting.replayed == 4 * 3 - 1
    assert compiled[-1]["validation_loss"] == pytest.approx(history[-1]["validation_loss"], rel=1e-4)
    for name, values in weights.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)


@needs_gpu
def test_a_run_leaves_no_memory_behind() -> None:
    same = "training.epochs=2 training.batch_size=32 training.compiled=graphs"
    gpu_run(same)  # cuBLAS keeps its workspace
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    gpu_run(same)
    torch.cuda.empty_cache()
    assert (torch.cuda.memory_allocated(), torch.cuda.memory_reserved()) == before
