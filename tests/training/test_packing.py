"""Ensembles trained in one program: each ends as it would have alone, bit for bit, whatever happens to the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from henaw.model.losses import Loss, mortality_loss
from henaw.model.network import EnsembleNetwork
from henaw.settings import Training
from henaw.training import packing
from henaw.training.failures import Diverged
from henaw.training.packing import PACK_PHASE, Ended, train_pack
from henaw.training.telemetry import Events
from henaw.training.trainer import train
from tests.scenarios import GAUSSIAN, HAZARD, Recorder
from tests.training.small_runs import CPU, CRPS, network, people, run, training

DIFFERENT = [
    training("training.epochs=6 training.learning_rate=0.02"),
    training("training.epochs=6 training.learning_rate=0.001 training.weight_decay=0.3 training.clip_norm=0.5"),
    training("training.epochs=6 training.mask_rate=0 training.input_noise=0 training.clip_norm=1e-3"),
    training("training.epochs=6 training.mask_rate=0.4 training.input_noise=0 training.learning_rate=0.05"),
    training("training.epochs=6 training.mask_rate=0 training.input_noise=0.5"),
]

Pack = tuple[list[EnsembleNetwork], dict[int, Ended]]


def pack(
    settings: Sequence[Training], events: Sequence[Events] | None = None, dropout: float = 0.0, seed: int = 0
) -> Pack:
    """The networks of a pack, and how each ended, in the order in which they did."""
    networks = [network(dropout) for _ in settings]
    listeners = events or [Events() for _ in settings]
    ended = train_pack(networks, CRPS, people(), people(60, 1), settings, seed, listeners)
    return networks, dict(ended)


def same_weights(made: EnsembleNetwork, expected: dict[str, np.ndarray]) -> None:
    for name, values in made.arrays().items():
        np.testing.assert_array_equal(values, expected[name], err_msg=name)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_each_ends_as_it_would_alone(dropout: float) -> None:
    recorders, alone = [Recorder() for _ in DIFFERENT], [Recorder() for _ in DIFFERENT]
    networks, ended = pack(DIFFERENT, recorders, dropout)
    assert sorted(ended) == [0, 1, 2, 3, 4]
    for number, settings in enumerate(DIFFERENT):
        history, weights = run(settings, network(dropout), events=alone[number])
        same_weights(networks[number], weights)
        assert ended[number] == history
        assert (recorders[number].names, recorders[number].steps) == (alone[number].names, alone[number].steps)
    assert len({networks[number].arrays()["layer0.weight"].tobytes() for number in ended}) == 5


def test_a_mortality_clock_too() -> None:
    loss: Loss = mortality_loss(GAUSSIAN, HAZARD, CPU)

    def followed(count: int, seed: int) -> Any:
        known = people(count, seed)
        years = torch.rand(count, 2, generator=torch.Generator().manual_seed(seed)).round(decimals=1)
        return packing.replace(known, targets=torch.cat([known.targets, years], dim=1))

    networks = [network(), network()]
    settings = DIFFERENT[:2]
    data = followed(100, 0), followed(60, 1)
    dict(train_pack(networks, loss, *data, settings, 5, [Events(), Events()]))
    for made, own in zip(networks, settings, strict=True):
        alone = network()
        train(alone, loss, *data, own, 5, Events())
        same_weights(made, alone.arrays())


class Behind(Recorder):
    """Raises at the end of an epoch, as pruning does."""

    def __init__(self, epoch: int, error: Exception) -> None:
        super().__init__()
        self.epoch, self.error = epoch, error

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        super().on_epoch_end(epoch, metrics)
        if epoch == self.epoch:
            raise self.error


def test_who_has_ended_holds_no_memory_but_its_own() -> None:
    """Neither of those that it was stacked with nor, trained alone, of the optimizer."""
    pruned = ZeroDivisionError("fell behind")
    networks, ended = pack(DIFFERENT[:3], [Events(), Behind(1, pruned), Events()])
    assert ended[1] is pruned
    alone = network()
    run(DIFFERENT[0], alone)
    for made in (*networks, alone):
        for parameter in made.parameters():
            assert parameter.grad is None
            assert parameter.untyped_storage().nbytes() == parameter.numel() * parameter.element_size()


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_one_that_is_pruned_is_told_at_once_and_disturbs_nobody(dropout: float) -> None:
    pruned, crashed = RuntimeError("fell behind"), ZeroDivisionError("whatever")
    listeners = [Recorder(), Behind(1, pruned), Recorder(), Behind(3, crashed), Recorder()]
    networks, ended = pack(DIFFERENT, listeners, dropout)
    assert list(ended)[:2] == [1, 3], "in the order in which they ended"
    assert ended[1] is pruned
    assert ended[3] is crashed
    assert [len(one.epochs) for one in listeners] == [6, 2, 6, 4, 6]
    assert all(one.names[-1] == "train_end" for one in listeners)
    for number in (0, 2, 4):
        history, weights = run(DIFFERENT[number], network(dropout))
        same_weights(networks[number], weights)
        assert ended[number] == history


def test_early_stopping_is_each_ones_own() -> None:
    settings = [
        training("training.epochs=30 training.patience=2 training.learning_rate=0.05"),
        training("training.epochs=30 training.patience=2 training.learning_rate=1e-9"),
        training("training.epochs=30 training.patience=2 training.learning_rate=0.01"),
    ]
    networks, ended = pack(settings)
    lengths = []
    for number, own in enumerate(settings):
        history, weights = run(own)
        assert ended[number] == history
        same_weights(networks[number], weights)
        lengths.append(len(history))
    assert len(set(lengths)) > 1, "they do stop at different epochs"


def poisoned(ensemble: int, steps: set[int], of: int = 3) -> Loss:
    """CRPS, not finite for ``ensemble``'s second member in these steps (evaluations of the pack are none)."""
    count = iter(range(10**6))

    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        found = CRPS(outputs, targets)
        if outputs.requires_grad and next(count) in steps:
            member = ensemble * of + 1
            if member < len(found):
                factor = torch.ones(len(found), 1)
                factor[member] = float("nan")
                found = found * factor
        return found

    return loss


def test_steps_that_are_not_finite_are_skipped_for_that_one_alone() -> None:
    networks = [network() for _ in range(3)]
    recorders = [Recorder() for _ in range(3)]
    loss = poisoned(1, {2, 5})
    ended = dict(train_pack(networks, loss, people(), people(60, 1), DIFFERENT[:3], 0, recorders))
    for number in range(3):
        alone = network()
        own = poisoned(0, {2, 5}) if number == 1 else CRPS
        history = train(alone, own, people(), people(60, 1), DIFFERENT[number], 0, Events())
        same_weights(networks[number], alone.arrays())
        assert ended[number] == history
    assert [one.names.count("skipped") for one in recorders] == [0, 2, 0]


def test_one_that_diverges_ends_alone() -> None:
    settings = [own.model_copy(update={"max_skipped": 3}) for own in DIFFERENT[:3]]
    networks = [network() for _ in range(3)]
    loss = poisoned(2, set(range(3, 99)))
    ended = dict(train_pack(networks, loss, people(), people(60, 1), settings, 0, [Events()] * 3))
    assert isinstance(ended[2], Diverged)
    for number in (0, 1):
        history, weights = run(settings[number])
        assert ended[number] == history
        same_weights(networks[number], weights)


class Again(Recorder):
    """Hears of steps a second time."""

    def on_train_begin(self, epochs: int, steps_per_epoch: int) -> None:
        super().on_train_begin(epochs, steps_per_epoch)
        self.steps = []


@pytest.mark.parametrize("where", ["loss", "optimizer", "validation"])
def test_out_of_memory_is_told_and_all_are_trained_one_after_the_other(
    monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    calls = iter(range(10**6))

    def failing(do: Callable[..., Any], wide: Callable[..., bool] = lambda *_: True) -> Callable[..., Any]:
        def fail(*arguments: Any, **named: Any) -> Any:
            if wide(*arguments) and next(calls) == 3:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return do(*arguments, **named)

        return fail

    loss = CRPS
    if where == "loss":
        loss = failing(CRPS, lambda outputs, _: len(outputs) > 3)
    elif where == "optimizer":
        monkeypatch.setattr(torch.optim.AdamW, "step", failing(torch.optim.AdamW.step))
    else:
        monkeypatch.setattr(packing, "evaluate_members", failing(packing.evaluate_members))
    recorders = [Again() for _ in range(2)]
    networks = [network(0.3) for _ in range(2)]
    ended = dict(train_pack(networks, loss, people(), people(60, 1), DIFFERENT[:2], 0, recorders))
    for number in range(2):
        [event] = recorders[number].out_of_memory
        assert event.phase == PACK_PHASE
        history, weights = run(DIFFERENT[number], network(0.3))
        same_weights(networks[number], weights)
        assert ended[number] == history


def test_what_cannot_be_trained_together_is_refused() -> None:
    with pytest.raises(ValueError, match="may differ in"):
        pack([training(), training("training.batch_size=32")])
    with pytest.raises(ValueError, match="one shape"):
        list(
            train_pack(
                [network(0.0), network(0.1)], CRPS, people(), people(), [training()] * 2, 0, [Events(), Events()]
            )
        )


def test_another_error_in_the_common_work_is_raised() -> None:
    def loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="do not fit"):
        list(train_pack([network()] * 1, loss, people(), people(), [training()], 0, [Events()]))
