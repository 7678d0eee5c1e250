"""A checkpoint is whole and of this run, or it is refused by name; what fails while one is written costs nothing."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from henaw.data.files import digest_values
from henaw.errors import BadInput, EnvironmentProblem, IntegrityError
from henaw.settings import Training
from henaw.training.checkpoint import WrongRun, read_checkpoint
from henaw.training.checkpoints import Checkpoints
from henaw.training.state import TrainingState, fingerprint
from henaw.training.telemetry import Events
from tests.scenarios import Recorder
from tests.training.small_runs import SHAPE, described_run, digest_of, fresh_state, network, people, saved_run, training

SETTINGS = training("training.epochs=4")
FILES = {"model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of four epochs."""
    folder = tmp_path_factory.mktemp("runs") / "abc"
    saved_run(folder, SETTINGS)
    return folder


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "abc"))


def newest(folder: Path) -> Path:
    return Checkpoints(folder, SETTINGS).saved()[-1]


def load(folder: Path, settings: Training = SETTINGS) -> TrainingState:
    state = fresh_state(settings)
    contents = Checkpoints(folder, settings).newest(state.contents(), described_run(settings))
    assert contents is not None
    state.assign(contents)
    return state


def everything(state: TrainingState) -> list[Any]:
    tensors = [values.clone() for part in state.contents().tensors.values() for values in part.values()]
    return [*tensors, state.contents().state]


def same(one: list[Any], other: list[Any]) -> bool:
    return one[-1] == other[-1] and all(torch.equal(a, b) for a, b in zip(one[:-1], other[:-1], strict=True))


# --- what is there ---------------------------------------------------------------------------------------------------


def test_the_last_two_are_kept_for_this_user_alone_without_pickle(folder: Path) -> None:
    assert [path.name for path in Checkpoints(folder, SETTINGS).saved()] == [
        "epoch-000003-batch-00000000",
        "epoch-000004-batch-00000000",
    ]
    assert {path.name for path in newest(folder).iterdir()} == FILES
    for path in folder.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path
    assert newest(folder).stat().st_mode & 0o777 == 0o700


def test_more_are_kept_where_the_settings_say_so_and_less_often_saved(tmp_path: Path) -> None:
    settings = training("training.epochs=8 training.checkpoint_every=3 training.checkpoints_kept=3")
    saved_run(tmp_path / "run", settings)
    names = [path.name[:12] for path in Checkpoints(tmp_path / "run", settings).saved()]
    assert names == ["epoch-000003", "epoch-000006", "epoch-000008"]


def test_what_is_loaded_is_bitwise_what_was_saved(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = load(folder)
    assert state.progress.epoch == 4
    assert state.progress.step == 8
    Checkpoints(folder, SETTINGS).save(9, 9, state.contents(), described_run(SETTINGS))
    again = load(folder)
    assert same(everything(state), everything(again))
    assert not same(everything(state), everything(fresh_state(SETTINGS)))


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3))
@examples(max_examples=20)
def test_sums_survive_as_json_bitwise(values: list[float]) -> None:
    assert json.loads(json.dumps(values)) == values


def test_one_process_at_a_time(folder: Path) -> None:
    with (
        Checkpoints(folder, SETTINGS).held(),
        pytest.raises(BadInput, match=r"^run abc: another process"),
        Checkpoints(folder, SETTINGS).held(),
    ):
        pass


def test_a_run_that_is_complete_trains_no_more_and_ends_the_same(folder: Path) -> None:
    before, recorder = digest_of(folder), Recorder()
    made = saved_run(folder, SETTINGS, recorder)
    assert recorder.names == ["train_begin", "train_end"]
    assert digest_of(folder) == before
    kept = load(folder)
    for parameter, best in zip(made.parameters(), kept.best, strict=True):
        assert torch.equal(parameter, best)


# --- what does not fit -----------------------------------------------------------------------------------------------


def rewrite(folder: Path, name: str, change: Callable[[dict[str, Any]], None], *, honest: bool = True) -> None:
    """Change a JSON file; ``honest``: the digest of it follows."""
    values = json.loads((folder / name).read_text())
    change(values)
    if name == "manifest.json" and honest:
        values.pop("seal")
        values["seal"] = digest_values(values)
    (folder / name).write_text(json.dumps(values))
    if honest and name != "manifest.json":
        reseal(folder, name)


def reseal(folder: Path, name: str) -> None:
    digest = hashlib.blake2b((folder / name).read_bytes(), digest_size=32).hexdigest()
    rewrite(folder, "manifest.json", lambda manifest: manifest["blake2b"].update({name: digest}))


def retensor(folder: Path, name: str, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / name)
    change(tensors)
    save_file(tensors, folder / name)
    reseal(folder, name)


def flip(folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-20] ^= 1
    (folder / name).write_bytes(bytes(content))


def cut(folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-7])


MUTATIONS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "manifest missing": (lambda f: (f / "manifest.json").unlink(), r"manifest\.json is missing"),
    "manifest cut": (lambda f: cut(f, "manifest.json"), r"manifest\.json: not whole JSON"),
    "manifest without digests": (
        lambda f: rewrite(f, "manifest.json", lambda m: m.pop("blake2b")),
        r"manifest\.json: blake2b: missing",
    ),
    "fingerprint changed": (
        lambda f: rewrite(f, "manifest.json", lambda m: m["fingerprint"].update(seed=1), honest=False),
        r"manifest\.json: seal: differs",
    ),
    "format": (lambda f: rewrite(f, "manifest.json", lambda m: m.update(format=99)), r"format: 99, expected 1"),
    "file missing": (lambda f: (f / "optimizer.safetensors").unlink(), r"optimizer\.safetensors is missing"),
    "model flipped": (lambda f: flip(f, "model.safetensors"), r"model\.safetensors: differs"),
    "optimizer cut": (lambda f: cut(f, "optimizer.safetensors"), r"optimizer\.safetensors: differs"),
    "state changed": (
        lambda f: rewrite(f, "state.json", lambda s: s.update(step=7), honest=False),
        r"state\.json: differs",
    ),
    "state field missing": (
        lambda f: rewrite(f, "state.json", lambda s: s.pop("micro_batch")),
        r"state\.json: micro_batch: missing",
    ),
    "state field of another kind": (
        lambda f: rewrite(f, "state.json", lambda s: s.update(epoch="4", sums=[])),
        r"state\.json: epoch, sums: of another kind",
    ),
    "tensor missing": (
        lambda f: retensor(f, "model.safetensors", lambda t: t.pop("best.layer0_bias")),
        r"model\.safetensors: best\.layer0_bias: missing",
    ),
    "tensor unknown": (
        lambda f: retensor(f, "optimizer.safetensors", lambda t: t.update(extra=torch.ones(1))),
        r"optimizer\.safetensors: extra: missing or unknown",
    ),
    "tensor of another shape": (
        lambda f: retensor(f, "model.safetensors", lambda t: t.update(layer1_bias=torch.ones(3, 3))),
        r"model\.safetensors: layer1_bias: of another shape or type",
    ),
    "tensor of another type": (
        lambda f: retensor(f, "model.safetensors", lambda t: t.update(best_loss=t["best_loss"].double())),
        r"model\.safetensors: best_loss: of another shape or type",
    ),
    "no safetensors": (
        lambda f: ((f / "model.safetensors").write_bytes(b"\x80\x04pickle"), reseal(f, "model.safetensors")),
        r"model\.safetensors: not in the safetensors format",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_checkpoint_is_refused_by_name_and_nothing_assigned(folder: Path, name: str) -> None:
    mutate, words = MUTATIONS[name]
    mutate(newest(folder))
    state = fresh_state(SETTINGS)
    before = everything(state)
    with pytest.raises(IntegrityError, match=words):
        read_checkpoint(newest(folder), state.contents(), described_run(SETTINGS))
    assert same(everything(state), before)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_checkpoint_is_set_aside_and_the_one_before_is_used(
    folder: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    expected = digest_of(folder)
    MUTATIONS[name][0](newest(folder))
    assert load(folder).progress.epoch == 3
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert len(list(folder.glob("*.broken"))) == 1
    saved_run(folder, SETTINGS)
    assert digest_of(folder) == expected, "the epoch is done again, bitwise"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"network.hidden": [16]}, r"network\.hidden"),
        ({"network.members": 5}, r"network\.members"),
        ({"network.head.scale": 11.0}, r"network\.head\.scale"),
        ({"network.dropout": 0.1}, r"network\.dropout"),
        ({"training.learning_rate": 0.5, "training.epochs": 9}, r"training\.epochs, training\.learning_rate"),
        ({"training.batch_size": 63}, r"training\.batch_size"),
        ({"seed": 1}, r"seed"),
        ({"arithmetic": 99}, r"arithmetic"),
        ({"data.people": "0" * 64}, r"data\.people"),
        ({"data.validation": "0" * 64}, r"data\.validation"),
        ({"unknown": 1}, r"unknown"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused_by_field_and_stays(
    folder: Path, change: dict[str, Any], field: str
) -> None:
    state = fresh_state(SETTINGS)
    before = everything(state)
    assert change.keys() <= described_run(SETTINGS).keys() | {"unknown"}
    with pytest.raises(WrongRun, match=rf"made by a run with other {field}; nothing was loaded"):
        Checkpoints(folder, SETTINGS).newest(state.contents(), described_run(SETTINGS) | change)
    assert same(everything(state), before)
    assert not list(folder.glob("*.broken"))


def test_the_fingerprint_is_of_settings_architecture_and_people() -> None:
    found = described_run(SETTINGS)
    assert found["network.hidden"] == [8]
    assert found["network.members"] == SHAPE.members
    assert found["training.batch_size"] == 64
    other = people()
    other.scaled[3, 1] += 1
    assert fingerprint(network(0.3), SETTINGS, 0, other, people(60, 1))["data.people"] != found["data.people"]
    free = training("training.epochs=4 training.threads=2 training.checkpoint_every=9 training.checkpoints_kept=5")
    assert described_run(free) == found
    recorded, compiled = (training(f"training.epochs=4 training.compiled={how}") for how in ("graphs", "always"))
    assert described_run(recorded) == found, "a recorded step is the same step"
    assert described_run(compiled) != found


def test_what_a_run_began_with_is_in_the_newest_whole_manifest(folder: Path) -> None:
    checkpoints = Checkpoints(folder, SETTINGS)
    assert checkpoints.fingerprint() == described_run(SETTINGS)
    flip(newest(folder), "manifest.json")
    assert checkpoints.fingerprint() == described_run(SETTINGS)
    assert Checkpoints(folder / "none", SETTINGS).fingerprint() == {}


def test_where_none_is_whole_it_is_an_error(folder: Path) -> None:
    for path in Checkpoints(folder, SETTINGS).saved():
        flip(path, "model.safetensors")
    with pytest.raises(IntegrityError, match=r"^run abc: no checkpoint is whole"):
        load(folder)


def test_every_flipped_byte_is_found(folder: Path) -> None:
    """In 60 places over all four files; a digest that is spelled otherwise is one too."""
    state = fresh_state(SETTINGS)
    for name in sorted(FILES):
        path = newest(folder) / name
        content = path.read_bytes()
        for place in range(0, len(content), max(1, len(content) // 15)):
            spoiled = bytearray(content)
            spoiled[place] ^= 0x10
            path.write_bytes(bytes(spoiled))
            try:
                loaded = read_checkpoint(newest(folder), state.contents(), described_run(SETTINGS))
            except IntegrityError:
                continue
            assert name == "manifest.json", "white space between the fields is all that may change"
            assert loaded.state["epoch"] == 4
        path.write_bytes(content)


# --- what fails while it is written ----------------------------------------------------------------------------------

CALLS = ("open", "write", "fsync", "mkdir", "rename")


class Failing:
    """The ``failing``-th call (from 0) to the disk raises; a write has put half of its bytes there by then."""

    def __init__(self, patch: pytest.MonkeyPatch, failing: int) -> None:
        self.calls, self.failing = 0, failing
        for name in CALLS:
            patch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name: str, call: Any) -> Any:
        def replacement(*arguments: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls - 1 == self.failing:
                if name == "write":
                    call(arguments[0], arguments[1][: len(arguments[1]) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            return call(*arguments, **named)

        return replacement


def test_a_write_that_fails_raises_and_leaves_the_checkpoints_that_were(folder: Path) -> None:
    """For the first, second, … call to the disk, until saving needs no more: each failure is told, and none costs."""
    state, checkpoints = load(folder), Checkpoints(folder, SETTINGS)
    before = {path.name for path in checkpoints.saved()}
    for failing in range(100):
        with pytest.MonkeyPatch.context() as patch:
            disk = Failing(patch, failing)
            try:
                checkpoints.save(9, 0, state.contents(), described_run(SETTINGS))
            except EnvironmentProblem as problem:
                told = str(problem)
            else:
                break
        assert "No space left" in told
        assert len(before & {path.name for path in checkpoints.saved()}) >= 1
        with checkpoints.held():  # as the next process would
            assert not list(folder.glob("*.tmp"))
        assert load(folder).progress.step == 8
        assert not list(folder.glob("*.broken"))
        if (folder / "epoch-000009-batch-00000000").exists():  # the rename was done, what followed failed
            shutil.rmtree(folder / "epoch-000009-batch-00000000")
            shutil.copytree(folder.parent / "spare", folder, dirs_exist_ok=True)
        elif failing == 0:
            shutil.copytree(folder, folder.parent / "spare")
    assert disk.calls > 15, "four files, each opened, written and flushed, two folders, two renames"
    assert [path.name[:12] for path in checkpoints.saved()] == ["epoch-000004", "epoch-000009"]


def test_a_save_that_fails_ends_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    epochs: list[int] = []

    class Noting(Events):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            epochs.append(epoch)

    class Filling(Recorder):
        def on_step_committed(self, step: int, metrics: dict[str, float]) -> None:
            if step == 3:
                Failing(monkeypatch, 2)

    with pytest.raises(EnvironmentProblem, match="No space left"):
        saved_run(tmp_path / "run", SETTINGS, Filling())
    monkeypatch.undo()
    saved_run(tmp_path / "run", SETTINGS, Noting())
    assert epochs == [1, 2, 3], "the epoch that was not saved is done again"
    saved_run(tmp_path / "undisturbed", SETTINGS)
    assert digest_of(tmp_path / "run") == digest_of(tmp_path / "undisturbed")
