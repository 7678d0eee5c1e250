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

from henaw.errors import EnvironmentProblem
from henaw.model.losses import Loss, mortality_loss
from henaw.model.network import EnsembleNetwork
from henaw.training import trainer
from henaw.training.clipping import clip_members, step_figures
from henaw.training.device import choose_device, use_threads
from henaw.training.evaluation import evaluate_members
from henaw.training.failures import Diverged, MemoryExhausted, is_out_of_memory
from henaw.training.telemetry import Events, Listeners
from henaw.training.trainer import train
from tests.scenarios import GAUSSIAN, HAZARD, Recorder
from tests.training.small_runs import CPU, CRPS, network, people, run, training


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
@settings(max_examples=60)
def test_after_clipping_no_members_norm_is_above_the_limit(scales: list[float], limit: float, seed: int) -> None:
    parameters = with_gradients(scales, seed)
    before = norms(parameters)
    original = [parameter.grad.clone() for parameter in parameters if parameter.grad is not None]
    reported = clip_members(parameters, limit).sum(dim=0).sqrt()
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
    reported = clip_members(parameters, 0.5).sum(dim=0).sqrt()
    assert float(reported[0]) == 0
    ratio = float(0.5 / reported[1])
    for parameter, gradient in zip(parameters, before, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad[1], gradient * ratio)
        assert (parameter.grad[0] == 0).all()


def test_norms_are_told_by_member_and_by_layer_before_clipping_and_after_it() -> None:
    parameters = with_gradients([1.0, 5.0, 5.0], 0)
    names = ["layer0_weight", "layer0_bias", "layer1_weight", "layer1_bias"]
    by_layer = [torch.cat([part.grad.flatten() for part in parameters[i : i + 2]]).norm() for i in (0, 2)]  # type: ignore[union-attr]
    expected = norms(parameters)
    figures = step_figures(names, torch.cat([torch.arange(3.0)[None], clip_members(parameters, 0.1)]), 0.1)
    assert figures.losses == [0, 1, 2]
    assert figures.norms == pytest.approx(expected.tolist(), rel=1e-5)
    assert figures.groups == pytest.approx({"layer0": float(by_layer[0]), "layer1": float(by_layer[1])}, rel=1e-5)
    clipped = [torch.cat([part.grad.flatten() for part in parameters[i : i + 2]]).norm() for i in (0, 2)]  # type: ignore[union-attr]
    assert figures.clipped_groups == pytest.approx({"layer0": float(clipped[0]), "layer1": float(clipped[1])}, rel=1e-5)
    assert figures.metrics["gradient_norm_clipped"] == pytest.approx(float(norms(parameters).norm()), rel=1e-5)
    assert figures.by_layer["gradient_norm_layer1_clipped"] == figures.clipped_groups["layer1"]
    assert figures.clipped_fraction == figures.metrics["clipped_fraction"] == 1.0
    assert figures.metrics["loss"] == 1.0
    assert figures.metrics["gradient_norm"] == pytest.approx(float(expected.norm()), rel=1e-5)
    assert figures.metrics["gradient_norm_largest_member"] == pytest.approx(float(expected.max()), rel=1e-5)
    assert figures.finite


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_one_number_that_is_not_finite_is_seen(poison: float, where: str) -> None:
    losses, squares = torch.ones(2, 3), torch.ones(2, 3)
    (losses if where == "loss" else squares).view(-1)[1] = abs(poison) if where == "gradient" else poison
    assert not step_figures(["layer0_weight", "layer0_bias"], torch.cat([losses, squares]), 1.0).finite


def test_gradient_norms_of_every_step_are_reported_and_clipping_counted() -> None:
    recorder = Recorder()
    history, _ = run(training("training.clip_norm=0.001 training.epochs=2"), events=recorder)
    assert len(recorder.steps) == 2 * math.ceil(100 / 64)
    for step in recorder.steps:
        whole = {"gradient_norm", "gradient_norm_clipped", "gradient_norm_largest_member", "clipped_fraction", "loss"}
        assert step.keys() == whole | {"learning_rate", "samples"}
        assert step["gradient_norm_clipped"] <= step["gradient_norm"]
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
    steps = ["batch", "grad", "step"] * 2
    assert recorder.names == ["train_begin", *[*steps, "epoch_end"] * 3, "train_end"]
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
            "gradient_norm_clipped",
            "gradient_norm_layer0",
            "gradient_norm_layer1",
            "gradient_norm_layer0_clipped",
            "gradient_norm_layer1_clipped",
            "skipped_steps",
            "micro_batch",
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
def test_validation_is_the_mean_loss_with_nothing_hidden_in_whatever_pieces(loss: Loss) -> None:
    made, everybody = network(dropout=0.5), people(50)
    follow_up = torch.rand(50, 2, generator=torch.Generator().manual_seed(0)).round(decimals=1)
    everybody = replace(everybody, targets=torch.cat([everybody.targets, follow_up], dim=1))
    whole = evaluate_members(made, loss, everybody, 4096)
    torch.testing.assert_close(evaluate_members(made, loss, everybody, 7), whole, rtol=1e-5, atol=1e-5)
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


def failing_at(calls: set[int], error: Exception, made: EnsembleNetwork) -> Callable[..., Any]:
    """The network's forward pass that raises ``error`` at its calls with these numbers (from 0)."""
    counted, forward = iter(range(10**6)), made.forward

    def fail(inputs: torch.Tensor) -> torch.Tensor:
        if next(counted) in calls:
            raise error
        return forward(inputs)

    return fail


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: str(error)[:30])
def test_out_of_memory_is_told_halves_and_training_goes_on(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    made, recorder = network(), Recorder()
    monkeypatch.setattr(made, "forward", failing_at({1}, error, made))  # batches of 64 and of 36
    history, _ = run(training(), made, events=Listeners([Events(), recorder]))
    [event] = recorder.out_of_memory
    assert (event.phase, event.epoch, event.step, event.from_rows, event.to_rows) == ("training", 0, 1, 36, 18)
    assert event.seconds >= 0
    assert [row["micro_batch"] for row in history] == [18, 18, 18]
    assert recorder.names.count("step") == 6


@pytest.mark.parametrize(
    ("first", "phase", "epoch", "step", "tried"),
    [
        (0, "training", 0, 0, [64, 32, 16, 8, 4, 2, 1]),
        (1, "training", 0, 1, [36, 18, 9, 4, 2, 1]),
        (2, "validation", 0, 2, [60, 30, 15, 7, 3, 1]),
        (4, "training", 1, 3, [36, 18, 9, 4, 2, 1]),
    ],
)
def test_out_of_memory_with_a_single_person_ends_the_run_cleanly(
    monkeypatch: pytest.MonkeyPatch, first: int, phase: str, epoch: int, step: int, tried: list[int]
) -> None:
    made, recorder = network(), Recorder()
    always = set(range(first, 10**5))
    monkeypatch.setattr(made, "forward", failing_at(always, torch.OutOfMemoryError("on device"), made))
    with pytest.raises(MemoryExhausted, match=rf"^out of memory in {phase}, epoch {epoch}, step {step}: ") as raised:
        run(training(), made, events=recorder)
    assert raised.value.exit_code == 3
    assert raised.value.tried == tried
    assert ", ".join(map(str, tried)) in str(raised.value)
    assert "bytes allocated" in str(raised.value)
    assert raised.value.__context__ is None, "no traceback may keep the failed step's tensors"
    assert [event.from_rows for event in recorder.out_of_memory] == tried
    assert recorder.out_of_memory[-1].to_rows == 0
    assert recorder.names[-2:] == ["out_of_memory", "train_end"]
    assert recorder.names.count("step") == step, "the failed step was not committed"


def test_validation_in_halves_is_bitwise_validation_in_pieces_of_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    made, recorder = network(), Recorder()
    monkeypatch.setattr(made, "forward", failing_at({2}, torch.OutOfMemoryError("on device"), made))
    seen: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def watched(made: EnsembleNetwork, loss: Loss, data: Any, rows: int) -> torch.Tensor:
        found = evaluate_members(made, loss, data, rows)
        seen.append((rows, found, evaluate_members(made, loss, data, rows)))
        return found

    monkeypatch.setattr(trainer, "evaluate_members", watched)
    run(training(), made, events=recorder)
    assert [rows for rows, _, _ in seen] == [30, 30, 30]
    assert all(torch.equal(found, clean) for _, found, clean in seen)


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError("out of memory")]
)
def test_every_other_error_passes_untouched(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    made, recorder = network(), Recorder()
    monkeypatch.setattr(made, "forward", failing_at({1}, error, made))
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
def test_a_loss_that_stays_not_finite_ends_training_with_one_line(poison: float) -> None:
    made, recorder = network(), Recorder()
    with torch.no_grad():
        next(made.parameters())[1] = poison
    before = made.arrays()
    with pytest.raises(Diverged, match=r"2 steps in a row, lower training\.learning_rate$") as raised:
        run(training("training.max_skipped=2"), made, events=recorder)
    assert raised.value.exit_code == 2
    assert recorder.names == ["train_begin", *["batch", "grad", "skipped"] * 2, "train_end"]
    for name, values in made.arrays().items():
        np.testing.assert_array_equal(values, before[name])


def test_a_validation_loss_that_is_not_finite_ends_training_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_validation(monkeypatch, [[1.0, 2.0, math.nan]])
    with pytest.raises(Diverged, match=r"^the validation loss is not finite in epoch 0, lower training\.learning_rate"):
        run(training())


def poisoned(monkeypatch: pytest.MonkeyPatch, calls: set[int], where: str) -> Callable[..., Any]:
    """A loss that is NaN, or has a gradient that is, at its calls with these numbers, for one person of one member."""
    counted = iter(range(10**6))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        each = CRPS(outputs, targets)
        if next(counted) in calls:
            hit = torch.zeros_like(each)
            hit[1, 3] = 1
            each = each + (hit * math.nan if where == "loss" else 0 * (outputs[..., 0] * hit).sqrt())
        return each

    return loss


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_leaves_everything_bitwise_as_it_was(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Parameters, moments and counters are those before; the next step uses the learning rate that this one had."""
    states: list[list[torch.Tensor]] = []

    class Watching(Recorder):
        def on_batch_begin(self, epoch: int, batch: int) -> None:
            super().on_batch_begin(epoch, batch)
            states.append(everything())

    runs: list[Any] = []
    made_state = trainer.TrainingState

    def kept(*arguments: Any) -> Any:
        runs.append(made_state(*arguments))
        return runs[-1]

    def everything() -> list[torch.Tensor]:
        tensors = runs[0].contents().tensors
        return [values.clone() for part in tensors.values() for values in part.values()]

    monkeypatch.setattr(trainer, "TrainingState", kept)
    recorder = Watching()
    loss = poisoned(monkeypatch, {1, 6}, where)  # the 2nd step; the 3rd call of each epoch is validation's
    history = train(network(), loss, people(), people(60, 1), training(), 0, recorder)
    assert recorder.skipped == [(0, 1, 1), (2, 0, 1)]
    assert [row["skipped_steps"] for row in history] == [1, 0, 1]
    assert all(torch.equal(one, other) for one, other in zip(states[4], states[5], strict=True)), "3rd epoch's 1st step"
    assert not all(torch.equal(one, other) for one, other in zip(states[2], states[3], strict=True))
    rates = [step["learning_rate"] for step in recorder.steps]
    expected = Recorder()
    run(training(), events=expected)
    assert rates == [step["learning_rate"] for step in expected.steps][:4]


def test_skipped_steps_count_only_in_a_row() -> None:
    recorder = Recorder()
    loss = poisoned(pytest.MonkeyPatch(), {0, 3, 6}, "loss")
    train(network(), loss, people(), people(60, 1), training("training.max_skipped=2"), 0, recorder)
    assert [in_a_row for _, _, in_a_row in recorder.skipped] == [1, 1, 1]


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
