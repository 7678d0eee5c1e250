"""The study's promises, with work that takes no time: each trial ends once, none is lost, equal seeds do the same."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, Trial, TrialState

from henaw.config import load_config
from henaw.errors import BadInput, EnvironmentProblem
from henaw.tuning.queue import PLACE, REASON, RETRY_OF, originals
from henaw.tuning.storage import JournalFile, PostgreSQL
from henaw.tuning.study import (
    Outcome,
    TrialEvents,
    best_trial,
    choose_pruner,
    open_study,
    run_study,
)
from henaw.tuning.summary import summarize
from tests.postgresql import running_server

# A worker of a study: each trial takes a moment, and says where it is so that it can be killed there.
WORKER = """
import os, sys, time
from pathlib import Path
from henaw.tuning.storage import open_storage
from henaw.tuning.study import Outcome, TrialEvents, choose_pruner, open_study, run_study
url, folder, marks = sys.argv[1] or None, Path(sys.argv[2]), Path(sys.argv[3])
trials, seconds = int(sys.argv[4]), float(sys.argv[5])
def work(trial):
    x = trial.suggest_float("x", -1, 1)
    (marks / f"{trial.number}.begun").write_text(str(os.getpid()))
    time.sleep(seconds)
    return Outcome(x * x)
storage = open_storage(url, folder, "many", 1)
study = open_study(storage, "many", choose_pruner("none", 1))
run_study(study, storage, work, trials=trials, seed=1, first=None, events=TrialEvents())
"""


def quadratic(trial: Trial) -> Outcome:
    x, kind = trial.suggest_float("x", -1, 1), trial.suggest_categorical("kind", ["a", "b"])
    return Outcome(x * x + (kind == "b"))


def carry_out(
    path: Path, work: Callable[[Trial], Outcome] = quadratic, trials: int = 8, seed: int = 1, **options: Any
) -> list[FrozenTrial]:
    storage = JournalFile(path)
    study = open_study(storage, "study", choose_pruner("none", 1))
    given: dict[str, Any] = {"first": None, "events": TrialEvents()} | options
    run_study(study, storage, work, trials=trials, seed=seed, **given)
    return study.get_trials()


def settings(trials: list[FrozenTrial]) -> list[dict[str, Any]]:
    return [trial.params for trial in trials]


def test_the_same_seed_gives_the_same_trials_and_another_seed_others(tmp_path: Path) -> None:
    first, again, other = (
        carry_out(tmp_path / name, trials=14, seed=seed) for name, seed in (("a.j", 1), ("b.j", 1), ("c.j", 2))
    )
    assert settings(first) == settings(again)
    assert settings(first) != settings(other)
    assert len({trial.params["x"] for trial in first}) == 14, "the seed is not begun anew with each trial"


def test_an_interrupted_study_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = carry_out(tmp_path / "whole.j", trials=14)
    calls = Counter[str]()

    def interrupted(trial: Trial) -> Outcome:
        outcome = quadratic(trial)
        calls["begun"] += 1
        if calls["begun"] in (4, 9, 13):
            raise KeyboardInterrupt
        return outcome

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            carry_out(tmp_path / "parts.j", interrupted, trials=14)
    parts = carry_out(tmp_path / "parts.j", interrupted, trials=14)
    complete = [trial for trial in parts if trial.state == TrialState.COMPLETE]
    assert settings(complete) == settings(whole)
    broken = [trial for trial in parts if trial.state == TrialState.FAIL]
    assert [trial.user_attrs[RETRY_OF] for trial in parts if RETRY_OF in trial.user_attrs] == [
        trial.number for trial in broken
    ]
    assert originals(parts) == 14
    assert summarize(parts).died == 3


def test_more_trials_are_the_same_study(tmp_path: Path) -> None:
    assert len(carry_out(tmp_path / "more.j", trials=3)) == 3
    more = carry_out(tmp_path / "more.j", trials=6)
    assert settings(more) == settings(carry_out(tmp_path / "at_once.j", trials=6))


def test_the_first_trial_has_the_settings_as_they_are(tmp_path: Path) -> None:
    trials = carry_out(tmp_path / "first.j", first={"x": 0.25, "kind": "a"}, trials=3)
    assert trials[0].params == {"x": 0.25, "kind": "a"}
    assert [trial.user_attrs[PLACE] for trial in trials] == [0, 1, 2]
    assert len(trials) == 3


def test_what_raises_ends_its_trial_and_no_more(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def fragile(trial: Trial) -> Outcome:
        outcome = quadratic(trial)
        if trial.number == 1:
            raise ValueError("albumin 7.7731 of participant 12345")
        if trial.number == 2:
            raise BadInput("the loss is not finite any more")
        if trial.number == 3:
            return Outcome(float("nan"))
        if trial.number == 4:
            return Outcome(None, "fell behind", pruned=True)
        return outcome

    trials = carry_out(tmp_path / "fragile.j", fragile, trials=6)
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "FAIL", "FAIL", "PRUNED", "COMPLETE"]
    reasons = [trial.user_attrs.get(REASON) for trial in trials]
    assert reasons[1].startswith("unexpected ValueError in test_study.py:")
    assert reasons[2:5] == ["the loss is not finite any more", "the objective is not finite", "fell behind"]
    assert "7.7731" not in caplog.text + (tmp_path / "fragile.j").read_text()
    found = summarize(trials)
    assert (found.complete, found.pruned, found.failed, found.died) == (2, 1, 3, 0)


def test_the_best_meets_every_constraint(tmp_path: Path) -> None:
    def constrained(trial: Trial) -> Outcome:
        outcome = quadratic(trial)
        return Outcome(outcome.value, constraints={"least": 0.5 - trial.params["x"], "other": -1.0})

    carry_out(tmp_path / "bound.j", constrained, trials=12)
    study = open_study(JournalFile(tmp_path / "bound.j"), "study", choose_pruner("none", 1))
    best = best_trial(study)
    allowed = [trial for trial in study.trials if trial.params["x"] >= 0.5]
    assert best.params["x"] >= 0.5
    assert best.value == min(trial.value for trial in allowed)
    assert min(trial.value for trial in study.trials) < best.value, "an infeasible one was better"


def test_nothing_that_meets_the_constraints_is_said(tmp_path: Path) -> None:
    carry_out(tmp_path / "none.j", lambda _: Outcome(1.0, constraints={"never": 1.0}), trials=2)
    with pytest.raises(EnvironmentProblem, match="none of 2 complete trials meets the constraints"):
        best_trial(open_study(JournalFile(tmp_path / "none.j"), "study", choose_pruner("none", 1)))


def test_a_trial_that_kills_its_worker_again_and_again_is_given_up(tmp_path: Path) -> None:
    """As the kernel does when memory ends: nobody is there any more to say why."""

    def killed(trial: Trial) -> Outcome:
        quadratic(trial)
        os.kill(os.getpid(), signal.SIGKILL)
        return Outcome(0.0)

    path = tmp_path / "deadly.j"
    for _ in range(3):
        child = os.fork()
        if child == 0:
            carry_out(path, killed, trials=2)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    trials = carry_out(path, trials=2)
    assert [trial.state.name for trial in trials] == ["FAIL"] * 3 + ["COMPLETE"]
    assert [trial.user_attrs[PLACE] for trial in trials] == [0, 0, 0, 1]
    assert trials[0].params == trials[1].params == trials[2].params
    found = summarize(trials)
    assert (found.complete, found.failed, found.died) == (1, 1, 2)


def test_the_pruner_is_the_one_that_is_asked_for() -> None:
    assert isinstance(choose_pruner("median", 40), optuna.pruners.MedianPruner)
    assert isinstance(choose_pruner("hyperband", 40), optuna.pruners.HyperbandPruner)
    assert isinstance(choose_pruner("none", 40), optuna.pruners.NopPruner)


def start(url: str, folder: Path, marks: Path, trials: int, seconds: float) -> subprocess.Popen[bytes]:
    marks.mkdir(exist_ok=True)
    arguments = [url, str(folder), str(marks), str(trials), str(seconds)]
    log = (folder / "workers.log").open("ab")
    with log:
        return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], stderr=log, cwd=folder)


def require_each_ended_once(trials: list[FrozenTrial], asked: int) -> None:
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.FAIL}
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert sorted(trial.user_attrs[PLACE] for trial in complete) == list(range(asked))
    successors = Counter(trial.user_attrs[RETRY_OF] for trial in trials if RETRY_OF in trial.user_attrs)
    assert successors == {trial.number: 1 for trial in trials if trial.state == TrialState.FAIL}
    by_number = {trial.number: trial for trial in trials}
    for trial in complete:
        if RETRY_OF in trial.user_attrs:
            dead = by_number[trial.user_attrs[RETRY_OF]]
            assert dead.params.items() <= trial.params.items()


def kill_two_of_four(url: str, folder: Path, trials: int = 12, seconds: float = 0.25) -> None:
    marks = folder / "marks"
    workers = [start(url, folder, marks, trials, seconds) for _ in range(4)]
    try:
        killed = []
        deadline = time.monotonic() + 120
        while len(killed) < 2:
            assert time.monotonic() < deadline, (folder / "workers.log").read_text()
            at_work = {int(mark.read_text() or 0) for mark in marks.glob("*.begun")} & {each.pid for each in workers}
            for pid in sorted(at_work - set(killed))[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(seconds)
        codes = [worker.wait(timeout=240) for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    assert sorted(codes) == [-9, -9, 0, 0], (folder / "workers.log").read_text()


def test_four_workers_two_killed_and_every_trial_ends_exactly_once(tmp_path: Path) -> None:
    kill_two_of_four("", tmp_path)
    study = open_study(JournalFile(tmp_path / "many.journal"), "many", choose_pruner("none", 1))
    require_each_ended_once(study.trials, 12)
    assert not list(tmp_path.glob("*.worker")), "the dead are cleared away"


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with running_server() as address:
        yield address


@pytest.mark.slow
def test_the_same_in_postgresql(database: str, tmp_path: Path) -> None:
    """The dead are known by their silence, so this takes longer."""
    kill_two_of_four(database, tmp_path)
    study = open_study(PostgreSQL(database, "many", 1), "many", choose_pruner("none", 1))
    require_each_ended_once(study.trials, 12)


@pytest.mark.slow
def test_a_trial_that_died_before_its_first_heartbeat_is_not_lost(database: str) -> None:
    storage = PostgreSQL(database, "silent", 1)
    study = open_study(storage, "silent", choose_pruner("none", 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.ask()  # and never a word again
    run_study(study, storage, quadratic, trials=2, seed=1, first=None, events=TrialEvents())
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_a_database_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(EnvironmentProblem, match=r"study\.storage: the database does not answer"):
            PostgreSQL(f"postgresql://nobody@127.0.0.1:{taken.getsockname()[1]}/none", "study", 1)


def test_a_password_does_not_get_into_the_settings() -> None:
    with pytest.raises(BadInput, match="PGPASSWORD") as caught:
        load_config(overrides="study.storage=postgresql://me:secret@host/studies")
    assert "secret" not in str(caught.value)
    assert load_config(overrides="study.storage=postgresql://me@host/studies").study.storage
