"""Promotion against a real store: what passes moves the aliases, else nothing moves, whoever is killed when."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient

from henaw.config import Config, asset_folder, load_config
from henaw.data.panel import load_panel
from henaw.data.splits import split
from henaw.data.synthetic import synthetic_table
from henaw.data.trainings import record_training
from henaw.data.withdrawals import remember_withdrawn
from henaw.errors import BadInput, IntegrityError, Refused
from henaw.model.clock import Clock
from henaw.model.storage import CLOCK_FOLDER, save_clock
from henaw.registry import promotion as promoting
from henaw.registry.aliases import delete_version, move_champion, rollback, version_with
from henaw.registry.gates import Decision, Finding
from henaw.registry.lineage import tag_withdrawn, training_runs
from henaw.registry.manifest import fetch_verified
from henaw.registry.promotion import promote, require_promoted
from henaw.registry.signatures import signature_faults
from henaw.registry.versions import register, signature
from henaw.training.fit import fit_clock
from henaw.training.telemetry import Events
from henaw.validation.clean import clean, judge
from tests.scenarios import blood_clock
from tests.stores import tracking_store

NAMES = ("champion", "challenger", "previous")


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    summaries = asset_folder("mlproject") / "synthetic" / "nhanes_1999_2010.json"
    synthetic_table(4000, (40, 69), 3, summaries=summaries).to_csv(folder / "people.csv", index=False)
    return folder / "people.csv"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("store")
    with tracking_store(folder):
        yield folder


@pytest.fixture(scope="module")
def config(people: Path, store: Path) -> Config:
    settings = f"state.folder={store / 'state'} evaluation.draws=100 training.threads=1 training.epochs=12"
    return load_config("smoke", str(people), settings)


@pytest.fixture(scope="module")
def good(config: Config) -> Clock:
    """A clock that was trained on the training people of the cohort."""
    panel = load_panel("blood9", asset_folder("mlproject") / "panels")
    table, _ = clean(judge(config, panel), config, panel)
    parts = split(table, config.split, config.seed)
    return fit_clock(table.iloc[parts.train], table.iloc[parts.calibration], panel, config, Events())[0]


@pytest.fixture(scope="module")
def poor(good: Clock) -> Clock:
    """The same with noise in its weights."""
    noisy = blood_clock()
    assert noisy.panel == good.panel
    weights = {name: values * 0.3 for name, values in good.weights.items()}
    return replace(good, weights=weights)


def registered(clock: Clock, name: str, folder: Path, tags: dict[str, str] | None = None) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / str(len(list(folder.iterdir()))) / CLOCK_FOLDER
    save_clock(clock, place)
    with mlflow.start_run():
        return register(place, name, tags or {}).number


def bare_versions(name: str, count: int, folder: Path) -> None:
    """Versions with nothing in them, the first of them champion: enough for aliases to move between."""
    client = MlflowClient()
    client.create_registered_model(name)
    for _ in range(count):
        client.create_model_version(name, str(folder / "artifacts" / "none"))
    client.set_registered_model_alias(name, "champion", "1")
    client.set_registered_model_alias(name, "challenger", str(count))


def aliases(name: str) -> tuple[int | None, ...]:
    return tuple(version_with(name, alias) for alias in NAMES)


def named(config: Config, name: str) -> Config:
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"model_name": name})})


def test_a_cycle_refused_promoted_and_taken_back(config: Config, store: Path, good: Clock, poor: Clock) -> None:
    config = named(config, "cycle")
    registered(poor, "cycle", store / "cycle")
    registered(poor, "cycle", store / "cycle")
    client = MlflowClient()

    refused = promote(config, "", dry_run=False)
    assert not refused.decision.promoted
    with pytest.raises(Refused, match="cycle version 2 is refused"):
        require_promoted(refused)
    assert "better on one" in refused.words()
    assert aliases("cycle") == (1, 2, None)
    assert client.get_model_version("cycle", "2").tags["henaw.decision"] == "refused"

    registered(good, "cycle", store / "cycle")
    rehearsed = promote(config, "models:/cycle/3", dry_run=True)
    assert rehearsed.decision.promoted, rehearsed.words()
    assert aliases("cycle") == (1, 3, None)

    promoted = promote(config, "", dry_run=False)
    assert "It is champion now" in promoted.words()
    assert aliases("cycle") == (3, None, 1)
    tags = client.get_model_version("cycle", "3").tags
    assert (tags["henaw.decision"], tags["henaw.judged_against"]) == ("passed", "1")
    names = {item.path for item in client.list_artifacts(promoted.run)}
    assert {"decision.json", "decision.md", "decision.html", "config.yaml"} <= names
    page = mlflow.artifacts.load_text(f"runs:/{promoted.run}/decision.html")
    assert "<table>" in page
    assert "http" not in page, "it loads nothing from elsewhere"
    with pytest.raises(BadInput, match="is the champion already"):
        promote(config, "models:/cycle/3", dry_run=False)

    for number in (1, 3):
        with pytest.raises(BadInput, match="a version with an alias is not deleted"):
            delete_version("cycle", number)
    delete_version("cycle", 2)
    assert rollback("cycle", Path(config.state.folder)) == (1, 3)
    assert aliases("cycle") == (1, None, None)
    with pytest.raises(BadInput, match="no previous champion"):
        rollback("cycle", Path(config.state.folder))


@pytest.mark.slow
def test_a_version_whose_files_were_touched_is_refused(config: Config, store: Path, good: Clock, poor: Clock) -> None:
    config = named(config, "touched")
    registered(poor, "touched", store / "touched")
    number = registered(good, "touched", store / "touched")
    before = {path: path.read_bytes() for path in store.glob("artifacts/models/*/artifacts/**/*") if path.is_file()}
    newest = max(before, key=lambda path: path.stat().st_mtime_ns).parts
    model = Path(*newest[: newest.index("models") + 2]) / "artifacts"
    for name in ("scoring_model.py", "requirements.txt", f"artifacts/{CLOCK_FOLDER}/clock.json"):
        path = model / name
        content = path.read_bytes()
        path.write_bytes(content + b"\n# one more line\n")
        with pytest.raises(IntegrityError, match="differ from its manifest"):
            fetch_verified("touched", number, store / f"fetched-{Path(name).stem}")
        if name == "scoring_model.py":
            assert [each.gate for each in promote(config, "", dry_run=False).decision.failing] == ["manifest"]
        path.write_bytes(content)
    assert (fetch_verified("touched", number, store / "fetched") / "MLmodel").is_file()


def test_other_inputs_are_refused_before_anything_is_compared(good: Clock) -> None:
    extended = load_panel("extended", asset_folder("mlproject") / "panels")
    champion, more = signature(good.panel, "age"), signature(extended, "age")
    assert any("also needs mcv_fl" in fault for fault in signature_faults(champion, more))
    assert signature_faults(more, champion) == (), "fewer inputs can be called by whoever has more"
    assert signature_faults(signature(good.panel, "mortality"), champion), "risks would be missing"
    assert signature_faults(champion, None) == ("the challenger has no complete signature",)


@pytest.mark.slow
def test_versions_trained_with_who_has_withdrawn_are_marked_and_refused(
    config: Config, store: Path, good: Clock, poor: Clock
) -> None:
    config = named(config, "withdrawn")
    registered(poor, "withdrawn", store / "withdrawn", {"henaw.training_run": "clean"})
    registered(good, "withdrawn", store / "withdrawn", {"henaw.training_run": "tainted"})
    registered(good, "withdrawn", store / "withdrawn", {"henaw.recalibrated_from": "2"})
    assert "tainted" in training_runs("withdrawn", 3)
    assert tag_withdrawn(["tainted", "another"]) == [("withdrawn", 2), ("withdrawn", 3)]
    for number in (2, 3):
        found = promote(config, f"models:/withdrawn/{number}", dry_run=False)
        assert [each.gate for each in found.decision.failing] == ["withdrawn people"]
    assert aliases("withdrawn")[0] == 1


def test_nobody_goes_back_to_who_has_withdrawn_by_tag_or_by_list(store: Path, tmp_path: Path) -> None:
    """The tag is missing where the store was away as ``henaw withdraw`` was told."""
    client, person = MlflowClient(), "0123456789abcdef" * 2
    bare_versions("back", 2, store)
    client.set_model_version_tag("back", "1", "henaw.training_run", "tainted")
    move_champion("back", 2, 1)
    record_training(tmp_path, "tainted", pd.Series([person]))
    remember_withdrawn(tmp_path, [person])
    with pytest.raises(Refused, match="back version 1 was trained with people who have withdrawn"):
        rollback("back", tmp_path)
    tag_withdrawn(["tainted"])
    with pytest.raises(Refused, match="back version 1 was trained with people who have withdrawn"):
        rollback("back", tmp_path / "elsewhere")
    assert aliases("back") == (2, None, 1)


@pytest.mark.slow
def test_whoever_was_trained_with_the_judges_is_refused(config: Config, store: Path, good: Clock, poor: Clock) -> None:
    config = named(config, "seen")
    panel = good.panel
    table, _ = clean(judge(config, panel), config, panel)
    parts = split(table, config.split, config.seed)
    state = Path(config.state.folder)
    record_training(state, "honest", table["participant"].iloc[parts.train])
    record_training(state, "cheating", table["participant"])
    registered(poor, "seen", store / "seen")
    registered(good, "seen", store / "seen", {"henaw.training_run": "cheating"})
    assert [each.gate for each in promote(config, "", dry_run=False).decision.failing] == ["unseen people"]
    registered(good, "seen", store / "seen", {"henaw.training_run": "honest"})
    assert promote(config, "", dry_run=False).moved


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(
    config: Config, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second judges against a champion that the first has replaced by the time that it wants to move."""
    config = named(config, "race")
    bare_versions("race", 3, store)
    move = promoting.move_champion

    def overtaken(name: str, number: int, judged_against: int | None) -> None:
        move("race", 3, 1)
        move(name, number, judged_against)

    monkeypatch.setattr(promoting, "_judge", lambda *_: Decision((Finding("people", True, "enough"),), None))
    monkeypatch.setattr(promoting, "move_champion", overtaken)
    why = "moved champion from version 1 to version 3 meanwhile"
    with pytest.raises(Refused, match=why):
        promote(config, "models:/race/2", dry_run=False)
    assert aliases("race") == (3, None, 1)
    tags = MlflowClient().get_model_version("race", "2").tags
    assert tags["henaw.decision"] == "refused"
    run = tags["henaw.decision_run"]
    assert MlflowClient().get_run(run).data.tags["henaw.decision"] == "refused"
    written = mlflow.artifacts.load_dict(f"runs:/{run}/decision.json")
    assert not written["promoted"]
    assert [gate["gate"] for gate in written["gates"] if not gate["passed"]] == ["move"]
    for name in ("decision.md", "decision.html"):
        assert why in mlflow.artifacts.load_text(f"runs:/{run}/{name}")


RACER = """
import sys, mlflow
from henaw.errors import Refused
from henaw.registry.aliases import move_champion
mlflow.set_tracking_uri(sys.argv[1])
mlflow.MlflowClient().search_registered_models()
print("ready", flush=True)
sys.stdin.readline()
try:
    move_champion("crowd", int(sys.argv[2]), 1)
except Refused:
    sys.exit(1)
"""


@pytest.mark.slow
def test_of_real_processes_that_move_at_once_exactly_one_wins(store: Path) -> None:
    bare_versions("crowd", 4, store)
    pipe = subprocess.PIPE
    commands = [[sys.executable, "-c", RACER, mlflow.get_tracking_uri(), str(number)] for number in (2, 3, 4)]
    racers = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for command in commands]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    codes = [racer.wait(timeout=60) for racer in racers]
    for racer in racers:
        racer.stdin.close()  # type: ignore[union-attr]
        racer.stdout.close()  # type: ignore[union-attr]
    assert sorted(codes) == [0, 1, 1]
    winner = (2, 3, 4)[codes.index(0)]
    assert (version_with("crowd", "champion"), version_with("crowd", "previous")) == (winner, 1)


@pytest.mark.parametrize("call", [0, 1, 2, 3])
@pytest.mark.parametrize("step", ["promote", "rollback"])
def test_killed_at_any_step_there_is_a_champion_and_the_way_on_is_open(store: Path, step: str, call: int) -> None:
    name = f"killed-{step}-{call}"
    bare_versions(name, 2, store)
    if step == "rollback":
        move_champion(name, 2, 1)

    def act() -> None:
        if step == "promote":
            move_champion(name, 2, 1)
        else:
            rollback(name, store / "state")

    _killed_at(call, act)
    champion = version_with(name, "champion")
    assert champion in (1, 2)
    assert version_with(name, "previous") in (None, 1)
    if champion == 1 and step == "promote":
        move_champion(name, 2, 1)
        assert version_with(name, "champion") == 2
    if champion == 2:
        assert rollback(name, store / "state") == (1, 2)
    assert version_with(name, "champion") in (1, 2)


def _killed_at(call: int, act: Callable[[], None]) -> None:
    """``act`` in a child process that is killed when it wants to change the store for the ``call``-th time."""
    child = os.fork()
    if child == 0:
        changes = ("set_registered_model_alias", "delete_registered_model_alias")
        made = {"calls": 0}

        def deadly(change: Callable[..., Any]) -> Callable[..., Any]:
            def changed(*arguments: Any) -> Any:
                if made["calls"] == call:
                    os.kill(os.getpid(), signal.SIGKILL)
                made["calls"] += 1
                return change(*arguments)

            return changed

        for name in changes:
            setattr(MlflowClient, name, deadly(getattr(MlflowClient, name)))
        try:
            act()
        finally:
            os._exit(0)
    os.waitpid(child, 0)
