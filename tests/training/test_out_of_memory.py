"""Memory that runs out anywhere in a step: undone bitwise, done again in halves, nobody lost and nobody twice."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from henaw.data.sampling import AgeSampler
from henaw.model.losses import crps_loss
from henaw.training import trainer, work
from henaw.training.failures import MemoryExhausted
from henaw.training.microbatch import Halving, device_memory
from henaw.training.state import TrainingState
from henaw.training.telemetry import Events, OutOfMemory
from henaw.training.trainer import train
from tests.scenarios import GAUSSIAN
from tests.training.small_runs import CPU, CRPS, network, people, training

STAGES = ("forward", "loss", "backward", "clip", "optimizer")
SETTINGS = training("training.epochs=3 training.batch_size=32 training.clip_norm=1")  # 4 steps an epoch, the last of 4
STEPS = 12
ERROR = torch.OutOfMemoryError("CUDA out of memory, as planted")


class _RaisesInBackward(torch.autograd.Function):
    @staticmethod
    def forward(_: Any, values: torch.Tensor) -> torch.Tensor:
        return values.clone()

    @staticmethod
    def backward(*_: Any) -> Any:
        raise ERROR


@dataclass
class Fault:
    """Memory runs out once: in one attempt (from 0), at one piece, or before one parameter is changed."""

    stage: str
    attempt: int
    piece: int = 0
    parameter: int = 0


@dataclass
class Watched(Events):
    """What happened, and the hands that make it happen."""

    faults: list[Fault] = field(default_factory=list)
    halve_at: int = -1  # attempt before which the micro-batch is set, in a run without faults
    halve_to: int = 0
    attempt: int = -1
    piece: int = -1
    seen: list[torch.Tensor] = field(default_factory=list)  # people of the attempt
    epoch_people: list[torch.Tensor] = field(default_factory=list)  # people of the epoch's committed steps
    events: list[OutOfMemory] = field(default_factory=list)
    halving: list[Halving] = field(default_factory=list)
    state: list[TrainingState] = field(default_factory=list)

    def on_batch_begin(self, epoch: int, batch: int) -> None:
        if self.attempt + 1 == self.halve_at:
            self.halving[0].rows = self.halve_to

    def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
        self.epoch_people += self.seen

    def on_out_of_memory(self, event: OutOfMemory) -> None:
        self.events.append(event)

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        ages = torch.cat(self.epoch_people, dim=1).sort(dim=1).values
        assert torch.equal(ages, people().targets[:, 0].sort().values.expand(3, -1)), "everybody exactly once"
        self.epoch_people.clear()

    def at(self, stage: str) -> Fault | None:
        for fault in self.faults:
            if (fault.stage, fault.attempt) == (stage, self.attempt) and self.piece in (fault.piece, -1):
                return fault
        return None

    def fail(self, stage: str) -> None:
        if self.at(stage) is not None:
            raise ERROR


def keep(kind: Any, kept: list[Any]) -> Callable[..., Any]:
    """``kind``, each instance of which is put into ``kept``."""

    def make(*arguments: Any) -> Any:
        kept.append(kind(*arguments))
        return kept[-1]

    return make


@contextmanager
def planted(watched: Watched, made: Any) -> Iterator[Callable[..., torch.Tensor]]:
    """The loss to train with, all the places where memory may run out being under ``watched``."""
    forward, attempt, clip, update = made.forward, trainer._Run.attempt, work.clip_members, torch._fused_adamw_

    def count_attempt(run: Any, batch: Any, rows: int) -> Any:
        watched.attempt, watched.piece = watched.attempt + 1, -1
        watched.seen.clear()
        return attempt(run, batch, rows)

    def failing_forward(inputs: torch.Tensor) -> torch.Tensor:
        watched.piece += made.training
        if made.training:
            watched.fail("forward")
        return forward(inputs)

    def failing_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if made.training:
            watched.fail("loss")
            watched.seen.append(targets[:, targets[0, :, 0] != 0, 0])  # without those who fill a vector up
            if watched.at("backward"):
                outputs = _RaisesInBackward.apply(outputs)
        return CRPS(outputs, targets)

    def failing_clip(*arguments: Any) -> torch.Tensor:
        watched.piece = -1
        squares = clip(*arguments)
        watched.fail("clip")
        return squares

    def failing_update(*tensors: Any, **options: Any) -> None:
        fault = watched.at("optimizer")
        if fault is None:
            return update(*tensors, **options)
        if fault.parameter:
            update(*(part[: fault.parameter] for part in tensors), **options)
        raise ERROR

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made, "forward", failing_forward)
        patch.setattr(trainer._Run, "attempt", count_attempt)
        patch.setattr(work, "clip_members", failing_clip)
        patch.setattr(trainer, "Halving", keep(Halving, watched.halving))
        patch.setattr(trainer, "TrainingState", keep(TrainingState, watched.state))
        patch.setattr(torch, "_fused_adamw_", failing_update)
        yield failing_loss


def outcome(watched: Watched) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """History, and all that training changes: parameters, best parameters, moments and counters."""
    made = network(dropout=0.3)
    with planted(watched, made) as loss:
        history = train(made, loss, people(), people(60, 1), SETTINGS, 0, watched)
    tensors = watched.state[0].contents().tensors
    return history, {name: values for part in tensors.values() for name, values in part.items()}


def assert_equal(found: Any, expected: Any) -> None:
    assert found[0] == expected[0]
    assert found[1].keys() == expected[1].keys()
    for name, values in expected[1].items():
        assert torch.equal(found[1][name], values), name


def random_fault(chance: random.Random, attempts: range) -> Fault:
    return Fault(chance.choice(STAGES), chance.choice(attempts), 0, chance.randrange(5))


@pytest.fixture(scope="module")
def clean() -> Callable[[int, int], Any]:
    """Outcome of a run without faults that takes ``rows`` at a time from step ``step`` on."""
    known: dict[tuple[int, int], Any] = {}

    def run(step: int, rows: int) -> Any:
        if (step, rows) not in known:
            known[step, rows] = outcome(Watched(halve_at=step, halve_to=rows))
        return known[step, rows]

    return run


@pytest.mark.parametrize("stage", STAGES)
def test_a_fault_in_each_stage_is_as_if_the_half_had_been_used_from_that_step_on(
    clean: Callable[[int, int], Any], stage: str
) -> None:
    for step, parameter in ((0, 0), (5, 1), (7, 3), (11, 4)):
        watched = Watched([Fault(stage, step, 0, parameter)])
        found = outcome(watched)
        half = 2 if step % 4 == 3 else 16  # the last batch of an epoch has 4 people
        assert_equal(found, clean(step, half))
        [event] = watched.events
        assert (event.step, event.from_rows, event.to_rows) == (step, 2 * half, half)


def test_the_halved_run_is_another_one_bitwise(clean: Callable[[int, int], Any]) -> None:
    """So that the comparisons above can fail; dropout is drawn piece by piece."""
    assert not torch.equal(clean(0, 16)[1]["layer0_weight"], clean(5, 16)[1]["layer0_weight"])


@pytest.mark.parametrize("piece", [0, 1])
def test_faults_in_a_row_halve_again_also_in_a_later_piece(clean: Callable[[int, int], Any], piece: int) -> None:
    watched = Watched([Fault("forward", 5), Fault("backward", 6, piece), Fault("optimizer", 7, 0, 2)])
    assert_equal(outcome(watched), clean(5, 4))
    assert [event.to_rows for event in watched.events] == [16, 8, 4]
    assert {event.step for event in watched.events} == {5}


@pytest.mark.parametrize("faults", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_random_faults_leave_no_trace(clean: Callable[[int, int], Any], faults: int) -> None:
    chance = random.Random(faults)
    for _ in range(faults):
        fault = random_fault(chance, range(STEPS))
        found = outcome(Watched([fault]))
        assert_equal(found, clean(fault.attempt, 2 if fault.attempt % 4 == 3 else 16))


def test_without_the_snapshot_the_optimizers_faults_would_show(
    clean: Callable[[int, int], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("henaw.training.transaction.Transaction.undo", lambda _: None)
    found = outcome(Watched([Fault("optimizer", 5, 0, 3)]))
    assert not torch.equal(found[1]["layer0_weight"], clean(5, 16)[1]["layer0_weight"])
    assert not torch.equal(found[1]["layer0_weight.step"], clean(5, 16)[1]["layer0_weight.step"])


def squared(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs[..., 0] - targets[..., 0] / 10) ** 2 + torch.nn.functional.softplus(outputs[..., 1])


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("rows", [50, 33, 7, 1])
def test_pieces_give_the_full_batchs_gradient_and_step(dtype: torch.dtype, limit: float, rows: int) -> None:
    """To 1e-6 (1e-12) of the gradient's norm; averaging the pieces' means would give them wrong."""
    settings = training("training.epochs=1 training.batch_size=100 training.input_noise=0")
    data = people()
    data = data.to(dtype)
    made, gradients = {}, {}
    for size in (100, rows):
        made[size] = network().to(dtype)
        watched, events = Watched(halve_at=0, halve_to=size), Events()
        events.on_batch_begin = watched.on_batch_begin  # type: ignore[method-assign]
        events.on_step_committed = lambda *_, size=size: gradients.update(  # type: ignore[method-assign,misc]
            {size: [parameter.grad.clone() for parameter in made[size].parameters()]}
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trainer, "Halving", keep(Halving, watched.halving))
            train(made[size], squared, data, data, settings, 0, events)
    norm = torch.cat([gradient.flatten() for gradient in gradients[100]]).norm()
    for one, other in zip(gradients[100], gradients[rows], strict=True):
        assert float((one - other).abs().max() / norm) <= limit
    for one, other in zip(made[100].parameters(), made[rows].parameters(), strict=True):
        assert float((one - other).detach().abs().max()) <= limit


@pytest.mark.parametrize("place", ["henaw.training.epochs.ordered", "henaw.training.transaction._in_one_block"])
def test_what_a_run_needs_from_the_start_and_does_not_get_ends_it_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def no_memory(*_: object) -> None:
        raise ERROR

    monkeypatch.setattr(place, no_memory)
    watched = Watched()
    with pytest.raises(MemoryExhausted, match="out of memory in set-up"):
        outcome(watched)
    assert [(event.phase, event.to_rows) for event in watched.events] == [("set-up", 0)]


def test_an_order_that_does_not_fit_is_worked_out_for_fewer_members_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second epoch: three members at once are too many, one is not; all comes out as it would have."""
    expected = outcome(Watched())
    orders, calls = AgeSampler._orders, []

    def little_memory(sampler: AgeSampler, numbers: Any) -> torch.Tensor:
        calls.append(len(numbers))
        if len(calls) > 1 and len(numbers) > 1:
            raise ERROR
        return orders(sampler, numbers)

    monkeypatch.setattr(AgeSampler, "_orders", little_memory)
    watched = Watched()
    assert_equal(outcome(watched), expected)
    assert calls == [3, 3, 1, 1, 1, 1, 1, 1]
    assert [(event.phase, event.epoch, event.step, event.from_rows, event.to_rows) for event in watched.events] == [
        ("order", 1, 4, 3, 1)
    ]


def test_no_memory_is_used_on_a_cpu() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert device_memory() == (0, 0, 0)
    assert CPU.type == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_real_out_of_memory_on_a_gpu_recovers_and_gives_the_memory_back() -> None:
    """All but a little of the memory is fenced off: the batch does not fit, half of it or a quarter does."""
    device = torch.device("cuda")
    everybody = people(200_000)
    data = everybody.to(device)
    settings = training("training.epochs=2 training.batch_size=100000 training.device=cuda")
    made = network().to(device)
    loss = crps_loss(GAUSSIAN, device)
    few = training("training.epochs=1 training.batch_size=32 training.device=cuda")
    train(network().to(device), loss, people_on(device, 100), people_on(device, 100), few, 0, Events())  # cuBLAS's own
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    total = torch.cuda.get_device_properties(device).total_memory
    fence = (torch.cuda.memory_reserved() + (64 << 20)) / total
    torch.cuda.set_per_process_memory_fraction(fence)
    events: list[OutOfMemory] = []

    class Listening(Events):
        def on_out_of_memory(self, event: OutOfMemory) -> None:
            events.append(event)

    try:
        history = train(made, loss, data, people_on(device, 1000), settings, 0, Listening())
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert events
    assert events[0].peak_bytes > 0
    assert len(history) == 2
    del history
    made.zero_grad(set_to_none=True)
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= 1.05 * before + (1 << 20)


def people_on(device: torch.device, count: int) -> Any:
    return people(count, 1).to(device)
