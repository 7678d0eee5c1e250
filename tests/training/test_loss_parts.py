"""A loss that is a sum is told of by its parts too, from the pass that trains."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from henaw.model.bins import BinsHead
from henaw.model.losses import Loss, crps_and_nll_loss, crps_loss, in_parts, part_names, weighted_loss
from henaw.model.network import EnsembleNetwork
from henaw.training.packing import train_pack
from henaw.training.telemetry import Events
from henaw.training.trainer import train
from tests.scenarios import Recorder
from tests.training.small_runs import CPU, CRPS, SHAPE, people, training

HEAD = BinsHead(20.0, 80.0, 5.0)
BOTH = crps_and_nll_loss(HEAD, 0.5, CPU)
PARTS = ("crps", "weighted_nll")


def network() -> EnsembleNetwork:
    return EnsembleNetwork(replace(SHAPE, head=HEAD), 0.0, torch.Generator().manual_seed(0))


def fitted(
    loss: Loss, overrides: str = "", events: Events | None = None
) -> tuple[list[dict[str, float]], EnsembleNetwork]:
    made = network()
    return train(made, loss, people(), people(60, 1), training(overrides), 0, events or Events()), made


def test_each_part_is_told_by_step_and_by_epoch_and_together_they_are_the_loss() -> None:
    recorder = Recorder()
    history, _ = fitted(BOTH, events=recorder)
    for figures, prefix in [(recorder.steps, "loss"), (history, "train_loss")]:
        for row in figures:
            assert {name for name in row if name.startswith(f"{prefix}_")} == {f"{prefix}_{part}" for part in PARTS}
            assert row[f"{prefix}_crps"] + row[f"{prefix}_weighted_nll"] == pytest.approx(row[prefix], rel=1e-12)
    for row, steps in zip(history, np.array_split(np.array(recorder.steps), 3), strict=True):
        assert row["train_loss_crps"] == pytest.approx(sum(step["loss_crps"] for step in steps) / 2)


def test_before_the_first_step_all_ages_are_equally_likely() -> None:
    """Hand-worked: the density is 1/60 a year whoever is asked, so the weighted likelihood is ½ log 60."""
    made = network()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name.startswith("layer1"):
                parameter.zero_()
    recorder = Recorder()
    train(made, BOTH, people(), people(60, 1), training("training.epochs=1"), 0, recorder)
    assert recorder.steps[0]["loss_weighted_nll"] == pytest.approx(0.5 * math.log(60), rel=1e-6)


def test_telling_of_parts_changes_nothing_in_training() -> None:
    crps, weighted_nll = BOTH.parts.values()  # type: ignore[attr-defined]
    history, made = fitted(BOTH)
    plain_history, plain = fitted(lambda outputs, targets: crps(outputs, targets) + weighted_nll(outputs, targets))
    for parameter, expected in zip(made.parameters(), plain.parameters(), strict=True):
        assert torch.equal(parameter, expected)
    names = {name for row in history for name in row} - {name for row in plain_history for name in row}
    assert names == {f"train_loss_{part}" for part in PARTS}
    assert [row["train_loss"] for row in history] == pytest.approx([row["train_loss"] for row in plain_history])


def test_a_loss_of_one_part_has_no_parts_to_tell_of() -> None:
    assert part_names(CRPS) == part_names(crps_loss(HEAD, CPU)) == ()
    assert part_names(BOTH) == part_names(weighted_loss(BOTH)) == PARTS


def test_a_part_that_is_not_finite_skips_the_step() -> None:
    broken = replace(BOTH, parts=dict(BOTH.parts) | {"bad": lambda outputs, _: outputs[..., 0] * math.nan})  # type: ignore[type-var, attr-defined]
    recorder = Recorder()
    with pytest.raises(Exception, match="not finite in 2 steps in a row"):
        fitted(broken, "training.max_skipped=2", recorder)
    assert len(recorder.skipped) == 2
    assert not recorder.steps


@pytest.mark.parametrize("rows", [7, 32])
def test_pieces_of_a_batch_add_up_to_its_parts(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    whole, pieces = Recorder(), Recorder()
    fitted(BOTH, events=whole)
    from henaw.training.gradients import Gradients

    real = Gradients.of
    monkeypatch.setattr(Gradients, "of", lambda self, batch, _: real(self, batch, rows))
    fitted(BOTH, events=pieces)
    for part in PARTS:
        assert [step[f"loss_{part}"] for step in pieces.steps] == pytest.approx(
            [step[f"loss_{part}"] for step in whole.steps], rel=1e-4
        )


def test_people_of_weight_zero_count_in_no_part() -> None:
    outputs = torch.randn(3, 4, HEAD.outputs, generator=torch.Generator().manual_seed(0))
    targets, weights = torch.full((4, 1), 50.0), torch.tensor([[1.0], [0.0], [1.0], [0.0]])
    found = in_parts(weighted_loss(BOTH))(outputs, torch.cat([targets, weights], dim=1))
    assert torch.equal(found, in_parts(BOTH)(outputs, targets) * weights[:, 0])
    assert found.shape == (2, 3, 4)


def test_a_pack_tells_of_parts_as_each_ensemble_would_alone() -> None:
    recorders, overrides = [Recorder(), Recorder()], ["training.learning_rate=0.02", "training.clip_norm=0.1"]
    settings = [training(each) for each in overrides]
    ended = dict(train_pack([network(), network()], BOTH, people(), people(60, 1), settings, 0, recorders))
    for number, each in enumerate(overrides):
        alone = Recorder()
        history, _ = fitted(BOTH, each, alone)
        assert ended[number] == history
        assert recorders[number].steps == alone.steps
