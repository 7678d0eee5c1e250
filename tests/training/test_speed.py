"""Precision, compilation and batch size: what ``auto`` means, what is not there, and that all ways train alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from henaw.config import load_config
from henaw.training import speed
from henaw.training.gradients import Gradients
from henaw.training.speed import Row, as_begun, has_bf16, resolved, speed_table
from tests.scenarios import Recorder
from tests.training.small_runs import CPU, run, training


def row(device: str, people: int, size: int, precision: str = "fp32", compiled: str = "never") -> Row:
    values = {"device": device, "from_people": people, "batch_size": size, "measured": "not"}
    return Row.model_validate(values | {"precision": precision, "compiled": compiled})


TABLE = [row("cpu", 0, 32), row("cpu", 1000, 256, "bf16", "always"), row("cuda", 0, 4096, "bf16")]
AUTO = training("training.batch_size=auto training.precision=auto training.compiled=auto")


def test_every_device_has_a_row_whatever_the_number_of_people() -> None:
    for device in ("cpu", "cuda"):
        assert any(row.device == device and row.from_people == 0 for row in speed_table())


def test_the_default_batch_is_the_one_the_figures_of_the_clocks_were_made_with() -> None:
    assert resolved(load_config().training, 10**6, CPU).people_in_batch == 512


@pytest.mark.parametrize(
    ("people", "expected"), [(1, (32, "fp32", "never")), (999, (32, "fp32", "never")), (1000, (256, "bf16", "always"))]
)
def test_auto_is_the_last_row_that_the_people_reach(
    monkeypatch: pytest.MonkeyPatch, people: int, expected: tuple[int, str, str]
) -> None:
    monkeypatch.setattr(speed, "speed_table", lambda: TABLE)
    monkeypatch.setattr(speed, "has_bf16", lambda _: True)
    found = resolved(AUTO, people, CPU)
    assert (found.people_in_batch, found.precision, found.compiled) == expected
    asked = training("training.batch_size=7 training.precision=fp32 training.compiled=never")
    assert resolved(asked, people, CPU) == asked, "what is asked for stays"
    with pytest.raises(ValueError, match="not settled"):
        _ = AUTO.people_in_batch


def test_a_run_goes_on_with_what_auto_came_to_when_it_began() -> None:
    begun = {"training.batch_size": 77, "training.precision": "bf16", "training.compiled": "never"}
    found = as_begun(AUTO, begun)
    assert (found.batch_size, found.precision, found.compiled) == (77, "bf16", "auto")
    asked = training("training.batch_size=7 training.precision=fp32")
    assert as_begun(asked, begun) == asked
    assert as_begun(AUTO, {}) == AUTO


def test_a_device_without_bf16_trains_in_fp32_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(speed, "has_bf16", lambda _: False)
    _, expected = run(training())
    with caplog.at_level("WARNING"):
        _, found = run(training("training.precision=bf16"))
    assert caplog.messages == ["training.precision: this cpu has no bf16, so it is fp32"]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_graphs_are_of_gpus(caplog: pytest.LogCaptureFixture) -> None:
    _, expected = run(training())
    with caplog.at_level("WARNING"):
        _, found = run(training("training.compiled=graphs"))
    assert caplog.messages == ["training.compiled: graphs are of GPUs, so it is never"]
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_in_bf16_training_comes_out_nearly_the_same_and_twice_bitwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slowly where the processor has no bf16: PyTorch computes it all the same."""
    monkeypatch.setattr(speed, "has_bf16", lambda _: True)
    settings = "training.epochs=30 training.learning_rate=0.02"
    exact, _ = run(training(settings))
    rounded, weights = run(training(f"{settings} training.precision=bf16"))
    again, weights_again = run(training(f"{settings} training.precision=bf16"))
    assert rounded == again
    assert all(np.array_equal(weights[name], weights_again[name]) for name in weights)
    assert rounded != exact
    assert rounded[-1]["validation_loss"] == pytest.approx(exact[-1]["validation_loss"], rel=0.05)


def test_what_this_machine_has_is_found_out_without_an_error() -> None:
    assert has_bf16(CPU) in (True, False)


def test_where_nothing_can_be_compiled_it_trains_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from torch._dynamo.exc import TorchDynamoException

    def no_compiler(*_: Any, **__: Any) -> Any:
        def fail(*_: Any) -> Any:
            raise TorchDynamoException("no C++ compiler")

        return fail

    recorder = Recorder()
    monkeypatch.setattr(torch, "compile", no_compiler)
    _, expected = run(training())
    with caplog.at_level("WARNING"):
        _, found = run(training("training.compiled=always"), events=recorder)
    assert caplog.messages == ["training.compiled: not possible here (TorchDynamoException), goes on without"]
    assert recorder.names.count("step") == 6
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values)


def test_an_error_of_the_step_itself_is_not_taken_for_a_missing_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise ValueError("of the loss")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: fail)
    with pytest.raises(ValueError, match="of the loss"):
        run(training("training.compiled=always"))


@pytest.mark.slow
@pytest.mark.skipif(not torch.backends.cpu.get_cpu_capability().startswith("AVX"), reason="no compiler tried elsewhere")
def test_compiled_training_comes_out_nearly_the_same() -> None:
    compiled: list[bool] = []
    added = Gradients._added

    def watched(losses: Any, piece: Any, people: int) -> torch.Tensor:
        compiled.append(hasattr(losses, "_torchdynamo_orig_callable"))
        return added(losses, piece, people)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Gradients, "_added", staticmethod(watched))
        exact, expected = run(training())
        assert not any(compiled)
        compiled.clear()
        history, found = run(training("training.compiled=always"))
    assert compiled == [True, False] * 3, "batches of 64, and a last one of 36"
    assert history[-1]["validation_loss"] == pytest.approx(exact[-1]["validation_loss"], rel=1e-4)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-4)
