"""The loop: clipping, the best epoch of every member, determinism, and what it does when memory or numbers give out."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from henaw.errors import BadInput, EnvironmentProblem
from henaw.model.ensemble import EnsembleShape
from henaw.model.losses import Loss, crps_loss, mortality_loss
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training import trainer
from henaw.training.batches import TrainingData
from henaw.training.telemetry import Events, Listeners
from henaw.training.trainer import choose_device, clip_members, evaluate_members, is_out_of_memory, train, use_threads
from tests.scenarios import GAUSSIAN, HAZARD, Recorder, tiny_config

SHAPE = EnsembleShape(members=3, inputs=5, hidden=(8,), head=GAUSSIAN)
CPU = torch.device("cpu")
CRPS = crps_loss(GAUSSIAN, CPU)


def training(overrides: str = "") -> Training:
    return tiny_config(overrides).training


def people(count: int = 100, seed: int = 0) -> TrainingData:
    generator = torch.Generator().manual_seed(seed)
    scaled = torch.randn(count, 2, generator=generator)
    noise = torch.randn(count, 1, generator=generator)
    return TrainingData(
        scaled=scaled,
        present=torch.ones(count, 2),
        always=torch.zeros(count, 1),
        targets=50 + 8 * scaled[:, :1] + 3 * noise,
        weights=torch.ones(count),
        dependence=torch.eye(2),
    )


def network(dropout: float = 0.0, seed: int = 0) -> EnsembleNetwork:
    return EnsembleNetwork(SHAPE, dropout, torch.Generator().manual_seed(seed))


def run(settings: Training, made: EnsembleNetwork | None = None, seed: int = 0, events: Events | None = None) -> Any:
    made = made or network()
    history = train(made, CRPS, people(), people(60, 1), settings, seed, events or Events())
    return history, made.arrays()


def replaced_validation(monkeypatch: pytest.MonkeyPatch, losses: list[list[float]]) -> list[dict[str, np.ndarray]]:
    """Have the validation of epoch e say ``losses[e]`` (K,); returns where the parameters of each epoch are kept."""
    seen: list[dict[str, np.ndarray]] = []

    def craft(made: EnsembleNetwork, *_: object) -> torch.Tensor:
        seen.append(made.arrays())
        return torch.tensor(losses[len(seen) - 1])

    monkeypatch.setattr(trainer, "evaluate_members", craft)
    return seen


# --- gradients -------------------------------------------------------------------------------------------------------


def with_gradients(scales: list[float], seed: int) -> list[torch.nn.Parameter]:
    made, generator = network(), torch.Generator().manual_seed(seed)
    for parameter in made.parameters():
        size = torch.tensor(scales).view(-1, *[1] * (parameter.dim() - 1))
        parameter.grad = torch.randn(parameter.shape, generator=generator) * size
    return list(made.parameters())


def norms(parameters: list[torch.nn.Parameter]) -> torch.Tensor:
    gradients = [parameter.grad.double().flatten(1) for parameter in parameters if parameter.grad is not None]
    return torch.cat(gradients, dim=1).norm(dim=1)


@given(st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3), st.floats(0.01, 100), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_after_clipping_no_members_norm_is_above_the_limit(scales: list[float], limit: float, seed: int) -> None:
    parameters = with_gradients(scales, seed)
    before = norms(parameters)
    original = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    reported = clip_members(parameters, limit)
    torch.testing.assert_close(reported.double(), before, rtol=1e-5, atol=0)
    after = norms(parameters)
    assert (after <= limit * (1 + 1e-6)).all()
    for member in range(3):
        kept = [
            torch.equal(parameter.grad[member], gradient[member])
            for parameter, gradient in zip(parameters, original, strict=True)
            if parameter.grad is not None
        ]
        if before[member] < limit * (1 - 1e-5):
            assert all(kept), "a member below the limit is left exactly as it was"
        elif before[member] > limit * (1 + 1e-5):
            assert float(after[member]) == pytest.approx(limit, rel=1e-5), "scaled, not more than needed"


def test_clipping_keeps_the_direction_and_members_without_gradient() -> None:
    parameters = with_gradients([0.0, 5.0, 5.0], 0)
    before = [parameter.grad[1].clone() for parameter in parameters if parameter.grad is not None]
    reported = clip_members(parameters, 0.5)
    assert float(reported[0]) == 0
    ratio = float(0.5 / reported[1])
    for parameter, gradient in zip(parameters, before, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad[1], gradient * ratio)
        assert (parameter.grad[0] == 0).all()


def test_gradient_norms_of_every_step_are_reported_and_clipping_counted() -> None:
    recorder = Recorder()
    history, _ = run(training("training.clip_norm=0.001 training.epochs=2"), events=recorder)
    assert len(recorder.steps) == 2 * math.ceil(100 / 64)
    for step in recorder.steps:
        assert step.keys() == {"gradient_norm", "gradient_norm_largest_member", "learning_rate"}
        assert 0 < step["gradient_norm_largest_member"] <= step["gradient_norm"]
        assert step["gradient_norm"] <= math.sqrt(3) * step["gradient_norm_largest_member"]
    assert [row["clipped_fraction"] for row in history] == [1.0, 1.0]
    assert run(training("training.clip_norm=1e9"))[0][0]["clipped_fraction"] == 0.0


def test_clipping_comes_before_the_optimizers_step() -> None:
    """Adam divides by the size of the gradient, so only a limit below its epsilon shows in the weights."""
    changes = []
    for limit in (1e-12, 1e9):
        made = network()
        before = made.arrays()
        _, after = run(training(f"training.clip_norm={limit} training.epochs=1 training.weight_decay=0"), made)
        changes.append(max(float(np.abs(after[name] - before[name]).max()) for name in before))
    assert changes[0] < changes[1] / 10


# --- the loop --------------------------------------------------------------------------------------------------------


def test_events_come_in_order_and_history_is_what_they_said() -> None:
    recorder = Recorder()
    history, _ = run(training(), events=recorder)
    assert recorder.names == ["train_begin", *["step", "step", "epoch_end"] * 3, "train_end"]
    assert history == recorder.epochs
    assert [row["epoch"] for row in history] == [0, 1, 2]
    for row in history:
        assert row.keys() == {
            "epoch",
            "train_loss",
            "validation_loss",
            "learning_rate",
            "gradient_norm",
            "clipped_fraction",
        }
        assert all(type(value) is float and math.isfinite(value) for value in row.values())


def test_training_lowers_the_loss() -> None:
    history, _ = run(training("training.epochs=30 training.learning_rate=0.02"))
    assert history[-1]["validation_loss"] < 0.5 * history[0]["validation_loss"]
    assert history[-1]["train_loss"] < 0.5 * history[0]["train_loss"]


def test_the_learning_rate_of_a_step_is_the_one_it_used() -> None:
    """One cycle: up to the peak and down to almost nothing, the last step included."""
    recorder = Recorder()
    run(training("training.epochs=10 training.learning_rate=0.02"), events=recorder)
    rates = [step["learning_rate"] for step in recorder.steps]
    peak = int(np.argmax(rates))
    assert rates[0] == pytest.approx(0.02 / 25)
    assert 0.015 < rates[peak] <= 0.02
    assert sorted(rates[: peak + 1]) == rates[: peak + 1]
    assert sorted(rates[peak:], reverse=True) == rates[peak:]
    assert 0 < rates[-1] < 1e-6


def test_dropout_is_on_in_every_epochs_steps_and_off_in_its_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    made = network(dropout=0.5)
    modes: list[bool] = []
    forward = made.forward
    monkeypatch.setattr(made, "forward", lambda inputs: (modes.append(made.training), forward(inputs))[1])
    run(training(), made)
    assert modes == [True, True, False] * 3


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_the_same_seed_gives_bitwise_equal_weights_and_another_others(dropout: float) -> None:
    results = []
    for seed in (0, 0, 1):
        torch.rand(7)  # the global generator's state must not matter
        results.append(run(training(), network(dropout), seed))
    (history, first), (again_history, again), (_, other) = results
    assert history == again_history
    for name, values in first.items():
        np.testing.assert_array_equal(values, again[name])
    assert not np.array_equal(first["layer0.weight"], other["layer0.weight"])


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    run(training(), network(0.3))
    assert torch.equal(torch.rand(2), expected)


def test_members_start_apart_and_end_apart() -> None:
    _, weights = run(training())
    assert not np.array_equal(weights["layer0.weight"][0], weights["layer0.weight"][1])
    assert not np.array_equal(weights["layer0.weight"][1], weights["layer0.weight"][2])


def test_members_of_equal_weights_are_told_apart_by_their_batches() -> None:
    made = network()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(parameter[:1].expand_as(parameter).clone())
    _, weights = run(training("training.mask_rate=0 training.input_noise=0"), made)
    assert not np.array_equal(weights["layer0.weight"][0], weights["layer0.weight"][1])


def test_each_member_is_left_at_its_own_best_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [[3.0, 5.0, 1.0], [2.0, 5.0, 2.0], [4.0, 5.0, 3.0], [4.0, 4.0, 0.5], [5.0, 6.0, 0.6]]
    seen = replaced_validation(monkeypatch, losses)
    _, weights = run(training("training.epochs=5"))
    for name, values in weights.items():
        for member, best in enumerate((1, 3, 3)):
            np.testing.assert_array_equal(values[member], seen[best][name][member], err_msg=name)
    assert not np.array_equal(seen[1]["layer0.weight"], seen[3]["layer0.weight"])


def test_an_epoch_that_is_only_as_good_does_not_replace_the_best(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = replaced_validation(monkeypatch, [[1.0] * 3] * 3)
    _, weights = run(training("training.epochs=3"))
    np.testing.assert_array_equal(weights["layer0.weight"], seen[0]["layer0.weight"])


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 6), (9, 8)])
def test_training_stops_when_no_member_has_improved_for_so_long(
    monkeypatch: pytest.MonkeyPatch, patience: int, epochs: int
) -> None:
    """Epoch 1 improves one member, 2 none, 3 another one, then none: what counts is that nobody does."""
    losses = [[3.0] * 3, [2.0, 3, 3], [2.0, 3, 3], [2.5, 3, 1], *[[9.0] * 3] * 4]
    replaced_validation(monkeypatch, losses)
    recorder = Recorder()
    history, _ = run(training(f"training.epochs=8 training.patience={patience}"), events=recorder)
    assert len(history) == epochs
    assert recorder.names[-1] == "train_end"


@pytest.mark.parametrize("loss", [CRPS, mortality_loss(GAUSSIAN, HAZARD, CPU)], ids=["crps", "mortality"])
def test_validation_is_the_mean_loss_with_nothing_hidden_in_whatever_pieces(
    monkeypatch: pytest.MonkeyPatch, loss: Loss
) -> None:
    made, everybody = network(dropout=0.5), people(50)
    follow_up = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    everybody = replace(everybody, targets=torch.cat([everybody.targets, follow_up], dim=1))
    whole = evaluate_members(made, loss, everybody)
    monkeypatch.setattr(trainer, "EVALUATION_ROWS", 7)
    torch.testing.assert_close(evaluate_members(made, loss, everybody), whole, rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        inputs = torch.cat([everybody.scaled, everybody.present, everybody.always], dim=1)
        expected = loss(made(inputs.expand(3, -1, -1)), everybody.targets).mean(dim=1)
    torch.testing.assert_close(whole, expected, rtol=1e-5, atol=1e-5)


# --- what goes wrong -------------------------------------------------------------------------------------------------

OUT_OF_MEMORY = [
    RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried to"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    torch.OutOfMemoryError("allocation on device"),
]


def failing_at(call: int, error: Exception, made: EnsembleNetwork) -> Callable[..., Any]:
    """The network's forward pass that raises ``error`` at its ``call``-th call (from 0)."""
    calls, forward = iter(range(10**6)), made.forward

    def fail(inputs: torch.Tensor) -> torch.Tensor:
        if next(calls) == call:
            raise error
        return forward(inputs)

    return fail


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
@pytest.mark.parametrize(
    ("call", "phase", "epoch", "step"),
    [(0, "training", 0, 0), (1, "training", 0, 1), (2, "validation", 0, 2), (4, "training", 1, 3)],
)
def test_out_of_memory_is_told_and_ends_the_run_cleanly(
    monkeypatch: pytest.MonkeyPatch, error: Exception, call: int, phase: str, epoch: int, step: int
) -> None:
    made, recorder = network(), Recorder()
    monkeypatch.setattr(made, "forward", failing_at(call, error, made))
    with pytest.raises(EnvironmentProblem, match=rf"^out of memory in {phase}, epoch {epoch}, step {step} ") as raised:
        run(training(), made, events=Listeners([Events(), recorder]))
    assert raised.value.exit_code == 3
    assert "training.batch_size" in str(raised.value)
    assert raised.value.__context__ is None, "no traceback may keep the failed step's tensors"
    (event,) = recorder.out_of_memory
    assert (event.phase, event.epoch, event.step, event.batch_size) == (phase, epoch, step, 64)
    assert recorder.names[-2:] == ["out_of_memory", "train_end"]
    assert recorder.names.count("step") == step, "the failed step was not committed"


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")]
)
def test_every_other_error_passes_untouched(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    made, recorder = network(), Recorder()
    monkeypatch.setattr(made, "forward", failing_at(1, error, made))
    with pytest.raises(type(error)) as raised:
        run(training(), made, events=recorder)
    assert raised.value is error
    assert recorder.out_of_memory == []
    assert recorder.names[-1] == "train_end"


def test_what_says_out_of_memory() -> None:
    assert all(is_out_of_memory(error) for error in OUT_OF_MEMORY)
    assert not is_out_of_memory(MemoryError("out of memory"))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_ends_training_with_one_line(poison: float) -> None:
    made, recorder = network(), Recorder()
    with torch.no_grad():
        next(made.parameters())[1] = poison
    with pytest.raises(BadInput, match=r"not finite in epoch 0: lower training\.learning_rate") as raised:
        run(training(), made, events=recorder)
    assert raised.value.exit_code == 2
    assert recorder.names[-1] == "train_end"


def test_a_gpu_that_is_not_there_is_an_environment_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentProblem, match=r"^training\.device: cuda was asked for"):
        choose_device(training("training.device=cuda"))
    assert choose_device(training("training.device=auto")).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_device(training("training.device=auto")).type == "cuda"
    assert choose_device(training("training.device=cpu")).type == "cpu"


def test_threads_are_those_asked_for_or_all_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", given.append)
    use_threads(training("training.threads=3"))
    use_threads(training("training.threads=0"))
    monkeypatch.delattr("os.sched_getaffinity")  # macOS
    monkeypatch.setattr("os.cpu_count", lambda: 7)
    use_threads(training("training.threads=0"))
    assert given[0] == 3
    assert given[1] >= 1
    assert given[2] == 7
