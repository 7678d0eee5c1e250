"""The benchmark of training: what it compares with trains the same thing, and the whole of it once, small."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from henaw.config import load_config
from henaw.model.losses import crps_loss
from henaw.training.batches import Disturbance, epoch_batches

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SCRIPTS = REPOSITORY / "benchmarks"
CPU = torch.device("cpu")
BATCH, PEOPLE = 32, 96


@pytest.fixture
def scripts(monkeypatch):
    """The scripts import each other by their bare names."""
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture
def ensemble(scripts):
    """An untrained ensemble, its loss, its people, and everybody's turn in an epoch."""
    from made_up_people import network, people

    made = network(load_config(overrides="network.members=3"), CPU, (8, 8))
    order = torch.stack([torch.randperm(PEOPLE, generator=torch.Generator().manual_seed(k)) for k in range(3)])
    return made, crps_loss(made.shape.head, CPU), people(PEOPLE, 0, CPU), order


def chosen(**differently):
    from training_rivals import Chosen

    return Chosen(**{"batch_size": BATCH, "steps": 30, "learning_rate": 0.01, "weight_decay": 0.01} | differently)


def trained_as_one(ensemble):
    """What the ensemble becomes in an epoch, step by step, in its own batched program and without HENAW's trainer."""
    from henaw.training.schedule import one_cycle

    network, loss, data, order = ensemble
    optimizer = torch.optim.AdamW(network.parameters(), weight_decay=0.01, fused=True)
    for step, batch in enumerate(epoch_batches(data, order, BATCH, Disturbance(0.0, 0.0), 0, 0)):
        optimizer.param_groups[0]["lr"] = one_cycle(step, 30, 0.01)
        for piece in batch.split(BATCH):
            loss(network(piece.inputs), piece.targets).mean(dim=1).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    inputs = data.inputs(slice(None)).expand(3, -1, -1)
    return network(inputs).detach()


def test_a_member_by_itself_is_the_member(ensemble):
    from training_rivals import member_network

    network, _, data, _ = ensemble
    inputs = data.inputs(slice(None))
    expected = network(inputs.expand(3, -1, -1))
    for number in range(3):
        torch.testing.assert_close(member_network(network, number)(inputs), expected[number])


@pytest.mark.parametrize("manner", ["by itself", "one optimizer", "one loss"])
def test_the_loop_trains_what_the_ensemble_trains(ensemble, manner):
    from training_rivals import MemberLoop

    loop = MemberLoop(*ensemble[:3], chosen(), manner)
    before = loop.outputs(ensemble[2].inputs(slice(None)))
    loop.epoch(ensemble[3])
    found = loop.outputs(ensemble[2].inputs(slice(None)))
    expected = trained_as_one(ensemble)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert (found - before).abs().max() > 0.03
    assert loop.step == 3


@pytest.mark.parametrize("manner", ["by itself", "one optimizer", "one loss"])
def test_the_loop_that_does_the_same_work_hides_and_clips(ensemble, manner):
    from training_rivals import MemberLoop

    settings = load_config(overrides="training.mask_rate=0.5 training.input_noise=0 training.clip_norm=1e-9").training
    loop = MemberLoop(*ensemble[:3], chosen(weight_decay=0.0, disturbed=settings), manner)
    data, rows = ensemble[2], torch.arange(PEOPLE)
    inputs = loop._inputs(rows)
    present = inputs[:, 10:20]
    assert 0.4 < present.mean() / data.present.mean() < 0.6
    torch.testing.assert_close(inputs[:, :10], data.scaled * present)
    before = loop.outputs(data.inputs(slice(None)))
    loop.epoch(ensemble[3])  # gradients of 1e-9 are drowned in AdamW's epsilon of 1e-8
    assert (loop.outputs(data.inputs(slice(None))) - before).abs().max() < 0.02


def test_the_loss_of_the_others_is_ours(ensemble):
    from training_rivals import plain_crps

    network, loss, data, _ = ensemble
    losses = []
    for each in (loss, plain_crps(network.shape.head, CPU)):
        network.zero_grad()
        found = each(network(data.inputs(slice(None)).expand(3, -1, -1)), data.targets.expand(3, -1, -1))
        found.mean(dim=1).sum().backward()
        losses.append((found.detach(), [parameter.grad.clone() for parameter in network.parameters()]))
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-5)


def test_products_of_a_step_are_counted(scripts):
    from training_rivals import product_operations

    forward = 2 * 4 * 32 * (21 * 64 + 64 * 9)
    assert product_operations((21, 64, 9), members=4, batch_size=32) == 2 * forward + 2 * 4 * 32 * 64 * 9


def test_tabm_has_the_loss_of_every_member(ensemble):
    pytest.importorskip("tabm")
    from training_rivals import TabMEnsemble

    network, loss, data, _ = ensemble
    tabm = TabMEnsemble(network, loss, data, chosen())
    outputs = tabm.model(tabm.inputs).transpose(0, 1)
    one_by_one = [loss(outputs[member], data.targets) for member in range(3)]
    torch.testing.assert_close(loss(outputs, data.targets.expand(3, -1, -1)), torch.stack(one_by_one))
    tabm.epoch(torch.arange(PEOPLE))
    assert tabm.step == 3


def test_a_course_does_not_count_the_time_of_its_own_measurements(scripts):
    import time

    from nhanes_training import Course
    from time_to_crps import _reached

    found = iter([8.0, 7.5, 7.4])

    def slow():
        time.sleep(0.2)
        return next(found)

    course = Course(slow)
    course.on_train_begin(3, 1)
    for epoch in range(3):
        time.sleep(0.01)
        course.on_epoch_end(epoch, {})
    reached = _reached(course, 7.5)
    assert reached.crps == 7.4
    assert reached.target == course.seconds[1] < reached.whole < 0.2
    assert _reached(course, 7.3).target is None


def test_a_snapshot_is_left_out_only_while_it_is_measured(scripts):
    from bench_training_reliability import snapshots_switched

    from henaw.training.transaction import Transaction

    protected = Transaction.keep
    with snapshots_switched() as switch:
        switch(False)
        assert Transaction.keep is not protected
        switch(True)
        assert Transaction.keep is protected
        switch(False)
    assert Transaction.keep is protected


def test_without_its_table_it_says_what_to_name(scripts, tmp_path, monkeypatch, capsys):
    from bench_training import main

    monkeypatch.setattr(sys, "argv", ["bench_training.py", str(tmp_path / "absent.csv"), "--only", "crps"])
    assert main() == 2
    assert "no such file" in capsys.readouterr().out


def test_without_a_gpu_cuda_is_refused(scripts, monkeypatch, capsys):
    from bench_gpu import main

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["bench_gpu.py", "--device", "cuda"])
    assert main() == 3
    assert "no GPU" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_quick_run_judges_every_bar_and_writes_its_sections(nhanes_table, tmp_path):
    pytest.importorskip("tabm")
    document = tmp_path / "benchmarks.md"
    command = [sys.executable, "benchmarks/bench_training.py", str(nhanes_table), "--quick", "--docs", str(document)]
    found = subprocess.run(
        command, cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    text = document.read_text(encoding="utf-8")
    for part in ("epochs", "growth", "crps"):
        assert f"<!-- bench-training-{part}:begin -->" in text
    bars = (
        "epoch, batch 128: loop",
        "epoch, batch 512: TabM",
        "epoch, 8,000",
        "to the same CRPS",
        "whole training: NG",
    )
    for bar in bars:
        assert f"| {bar}" in text
    assert str(nhanes_table) not in text
