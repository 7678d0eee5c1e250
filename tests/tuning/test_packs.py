"""Trials carried out together: as many as asked for, each as it would be alone, and one's end nobody else's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import FrozenTrial, Trial, TrialState

from henaw.config import Config, load_config
from henaw.errors import BadInput
from henaw.training import packing
from henaw.training.telemetry import Events
from henaw.tuning import pack_size as sizes
from henaw.tuning.objective import study_people
from henaw.tuning.pack_size import fastest, pack_size, seconds_an_epoch
from henaw.tuning.queue import INTERRUPTED, PLACE, REASON, RETRY_OF, originals
from henaw.tuning.space import load_space
from henaw.tuning.storage import JournalFile
from henaw.tuning.study import Outcome, TrialEvents, choose_pruner, open_study, run_study
from henaw.tuning.trials import ClockTrials
from tests.scenarios import KNOWN, known_cohort

PARTS = "source.people=600 training.epochs=4 training.threads=1 training.batch_size=64 network.hidden=[8]"


def suggested(trial: Trial) -> float:
    return trial.suggest_float("x", -1, 1) ** 2 + (trial.suggest_categorical("kind", ["a", "b", "c"]) == "b")


class Quadratic:
    """Packs of trials of one kind that take no time; keeps which were together."""

    def __init__(self, size: int, ends: Callable[[Trial], Outcome] | None = None) -> None:
        self.size, self.ends = size, ends or (lambda trial: Outcome(suggested(trial)))
        self.packs: list[list[int]] = []

    def shape(self, trial: Trial) -> dict[str, Any]:
        suggested(trial)
        return {"kind": trial.params["kind"]}

    def outcomes(self, trials: Sequence[Trial]) -> Iterator[tuple[int, Callable[[], Outcome]]]:
        self.packs.append([trial.number for trial in trials])
        assert len({trial.params["kind"] for trial in trials}) == 1
        for position in reversed(range(len(trials))):
            yield position, partial(self.ends, trials[position])


def carry_out(
    path: Path, pack: Quadratic | None, trials: int = 10, first: dict[str, Any] | None = None
) -> list[FrozenTrial]:
    storage = JournalFile(path)
    study = open_study(storage, "study", choose_pruner("none", 1))

    def alone(trial: Trial) -> Outcome:
        return pack.ends(trial) if pack else Outcome(suggested(trial))

    run_study(study, storage, alone, trials=trials, seed=1, first=first, events=TrialEvents(), pack=pack)
    return study.get_trials()


def test_packs_are_of_one_shape_and_there_are_as_many_trials_as_asked_for(tmp_path: Path) -> None:
    pack = Quadratic(4)
    trials = carry_out(tmp_path / "a.j", pack, trials=10, first={"x": 0.25, "kind": "c"})
    assert pack.packs == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 10
    assert trials[0].params == {"x": 0.25, "kind": "c"}
    assert [trial.user_attrs[PLACE] for trial in trials] == list(range(10))
    assert len({trial.params["x"] for trial in trials}) == 10
    again = carry_out(tmp_path / "b.j", Quadratic(4), trials=10, first={"x": 0.25, "kind": "c"})
    assert [trial.params for trial in again] == [trial.params for trial in trials], "the same seed, the same trials"


def test_a_pack_of_one_is_no_pack(tmp_path: Path) -> None:
    pack = Quadratic(1)
    packed, alone = (carry_out(tmp_path / name, given) for name, given in (("a.j", pack), ("b.j", None)))
    assert pack.packs == []
    assert [trial.params for trial in packed] == [trial.params for trial in alone]


def test_each_trial_of_a_pack_has_an_end_of_its_own(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def ends(trial: Trial) -> Outcome:
        if trial.number == 1:
            raise ValueError("albumin 7.7731")
        if trial.number == 2:
            return Outcome(None, "fell behind", pruned=True)
        if trial.number == 3:
            raise BadInput("not finite any more")
        return Outcome(float("nan") if trial.number == 4 else suggested(trial))

    trials = carry_out(tmp_path / "a.j", Quadratic(6, ends), trials=6)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "PRUNED", "FAIL", "FAIL", "COMPLETE"]
    assert trials[1].user_attrs[REASON].startswith("unexpected ValueError in test_packs.py:")
    assert trials[3].user_attrs[REASON] == "not finite any more"
    assert "7.7731" not in caplog.text


def test_what_the_common_work_raises_ends_those_that_are_left_and_not_the_study(tmp_path: Path) -> None:
    class Broken(Quadratic):
        def outcomes(self, trials: Sequence[Trial]) -> Iterator[tuple[int, Callable[[], Outcome]]]:
            ended = super().outcomes(trials)
            yield next(ended)
            if trials[0].number == 0:
                raise ValueError("shapes")
            yield from ended

    trials = carry_out(tmp_path / "a.j", Broken(3), trials=6)
    assert [trial.state.name for trial in trials] == ["FAIL", "FAIL", *["COMPLETE"] * 4]
    assert trials[0].user_attrs[REASON].startswith("unexpected ValueError")


def test_an_interrupted_pack_is_tried_again_and_nothing_is_lost(tmp_path: Path) -> None:
    calls = Counter[str]()

    def ends(trial: Trial) -> Outcome:
        calls["begun"] += 1
        if calls["begun"] == 6:  # the second of the second pack
            raise KeyboardInterrupt
        return Outcome(suggested(trial))

    pack = Quadratic(4, ends)
    with pytest.raises(KeyboardInterrupt):
        carry_out(tmp_path / "a.j", pack, trials=8)
    trials = carry_out(tmp_path / "a.j", pack, trials=8)
    broken = [trial.number for trial in trials if trial.state == TrialState.FAIL]
    assert broken == [4, 5, 6]
    assert all(trials[number].user_attrs[INTERRUPTED] for number in broken)
    assert [trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs] == broken
    assert pack.packs[-1] == [8, 9, 10], "they are of one shape, and go together again"
    assert originals(trials) == 8
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 8


def test_the_seconds_of_a_pack_are_shared_among_its_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 8.0, 9.0, 10.0, 12.0])
    monkeypatch.setattr("henaw.tuning.study.time", SimpleNamespace(perf_counter=lambda: next(now)))
    trials = carry_out(tmp_path / "a.j", Quadratic(4), trials=4)
    assert [trial.user_attrs["seconds"] for trial in trials] == pytest.approx([4.833, 2.833, 2.333, 2.0], abs=1e-3)
    assert sum(trial.user_attrs["seconds"] for trial in trials) == pytest.approx(12.0, abs=0.01)


# --- of clocks --------------------------------------------------------------------------------------------------------


def clock_trials(tmp_path: Path, size: int, overrides: str = "") -> ClockTrials:
    config = load_config("smoke", overrides=f"{PARTS} state.folder={tmp_path / 'state'} {overrides}")
    people = study_people(known_cohort(400, 1).table, config)
    return ClockTrials(load_space(config), config, KNOWN, people, TrialEvents(), Events(), size)


def tried(trials: ClockTrials, study: optuna.Study, given: list[dict[str, Any]]) -> list[Trial]:
    for parameters in given:
        study.enqueue_trial(parameters)
    found = [study.ask() for _ in given]
    for trial in found:
        trials.shape(trial)
    return found


def given(trials: ClockTrials, **other: Any) -> list[dict[str, Any]]:
    first = trials.space.parameters_of(trials.config) or {}
    return [first | {"training.learning_rate": rate} | other for rate in (0.0005, 0.02, 0.004)]


def same(one: Outcome, other: Outcome) -> None:
    measured = {"latency_ms", "memory_mib"}
    assert (one.value, one.reason, one.pruned) == (other.value, other.reason, other.pruned)
    keys = (one.facts.keys() | other.facts.keys()) - measured
    assert {key: one.facts.get(key) for key in keys} == {key: other.facts.get(key) for key in keys}


@pytest.fixture
def in_the_space(monkeypatch: pytest.MonkeyPatch) -> str:
    """Settings that the shipped space holds."""
    return "network.members=8 network.hidden=[64,64] training.batch_size=256 training.epochs=3"


def test_a_clock_of_a_pack_is_judged_as_it_would_be_alone(tmp_path: Path, in_the_space: str) -> None:
    trials = clock_trials(tmp_path, 3, f"{in_the_space} study.coverage_off=0.5")
    together = tried(trials, optuna.create_study(), given(trials, **{"network.dropout": 0.1}))
    packed = {position: outcome() for position, outcome in trials.outcomes(together)}
    alone = tried(trials, optuna.create_study(), given(trials, **{"network.dropout": 0.1}))
    assert len({outcome.value for outcome in packed.values()}) == 3
    for position, trial in enumerate(alone):
        outcome = trials.work(trial)
        same(packed[position], outcome)
        assert packed[position].constraints == outcome.constraints


def test_one_that_is_pruned_leaves_the_others_as_they_are(tmp_path: Path, in_the_space: str) -> None:
    trials = clock_trials(tmp_path, 3, in_the_space)
    found = []
    for study in (optuna.create_study(pruner=Worst()), optuna.create_study(pruner=Worst())):
        mine = tried(trials, study, given(trials))
        if not found:
            found.append({position: outcome() for position, outcome in trials.outcomes(mine)})
        else:
            found.append({position: trials.work(trial) for position, trial in enumerate(mine)})
    packed, alone = found
    assert [packed[position].pruned for position in range(3)] == [False, True, False]
    for position in range(3):
        same(packed[position], alone[position])


class Worst(optuna.pruners.BasePruner):
    """Prunes the second trial in its first epoch."""

    def prune(self, study: optuna.Study, trial: FrozenTrial) -> bool:
        return trial.number == 1


def test_a_pack_that_does_not_fit_is_carried_out_one_by_one_and_the_next_is_smaller(
    tmp_path: Path, in_the_space: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(packing._Pack, "step", full)
    trials = clock_trials(tmp_path, 3, in_the_space)
    together = tried(trials, optuna.create_study(), given(trials))
    packed = {position: outcome() for position, outcome in trials.outcomes(together)}
    assert trials.size == 1
    assert [outcome.facts["out_of_memory_events"] for outcome in packed.values()] == [1, 1, 1]
    assert all(outcome.value is not None for outcome in packed.values())


def test_those_of_another_shape_get_a_pack_of_their_own(tmp_path: Path, in_the_space: str) -> None:
    trials = clock_trials(tmp_path, 3, in_the_space)
    mixed = given(trials)
    mixed[1]["network.hidden"] = "[128, 128]"
    packed = {position: outcome() for position, outcome in trials.outcomes(tried(trials, optuna.create_study(), mixed))}
    for position, trial in enumerate(tried(trials, optuna.create_study(), mixed)):
        same(packed[position], trials.work(trial))


# --- how many --------------------------------------------------------------------------------------------------------


def test_packs_grow_as_long_as_that_is_faster() -> None:
    each = {1: 8.0, 2: 4.1, 4: 2.2, 8: 1.3, 16: 1.28, 32: 0.1}
    assert fastest(each.__getitem__) == 8, "16 are hardly faster"
    assert fastest({1: 1.0, 2: 1.1}.__getitem__) == 1

    def small(size: int) -> float:
        if size > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1 / size

    assert fastest(small) == 2
    with pytest.raises(RuntimeError, match="bug"):
        fastest(lambda _: (_ for _ in ()).throw(RuntimeError("bug")))


@pytest.mark.parametrize(
    ("overrides", "gpu", "expected"),
    [
        ("", False, 1),
        ("", True, 8),
        ("study.pack=5", False, 5),
        ("study.pack=5 study.memory_mib=500", True, 1),
    ],
)
def test_the_size_is_the_one_asked_for_or_the_fastest_here(
    overrides: str, gpu: bool, expected: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    trials = clock_trials(tmp_path, 1, overrides)
    monkeypatch.setattr(sizes, "choose_device", lambda _: torch.device("cuda" if gpu else "cpu"))
    monkeypatch.setattr(
        sizes, "seconds_an_epoch", lambda *arguments: {1: 1.0, 2: 0.5, 4: 0.3, 8: 0.2, 16: 0.3}[arguments[3]]
    )
    assert pack_size(trials.config, KNOWN, trials.people) == expected


def test_the_measurement_is_of_real_trainings(tmp_path: Path) -> None:
    trials = clock_trials(tmp_path, 1)
    config: Config = trials.config
    assert 0 < seconds_an_epoch(config, KNOWN, trials.people, 2) < 10
