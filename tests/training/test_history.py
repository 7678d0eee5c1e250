"""The history: every row on the disk, the last ones in memory, whatever was cut short."""

import json
import math
import resource
from pathlib import Path

import pytest

from henaw.training import history
from henaw.training.history import History, read_history
from henaw.training.telemetry import Events
from tests.training.small_runs import run, saved_run, training


def rows(count: int) -> list[dict[str, float]]:
    return [{"epoch": float(epoch), "loss": 1 / (epoch + 3), "nothing": math.nan} for epoch in range(count)]


def same(one: list[dict[str, float]], other: list[dict[str, float]]) -> bool:
    return repr(one) == repr(other)


def written(path: Path, count: int) -> History:
    made = History(path)
    for row in rows(count):
        made.append(row)
    return made


def test_every_row_is_in_the_file_bitwise_and_the_last_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "IN_MEMORY", 3)
    path = tmp_path / "history.jsonl"
    made = History(path)
    made.recent = type(made.recent)(maxlen=3)
    for row in rows(10):
        made.append(row)
    assert same(list(read_history(path)), rows(10))
    assert same(list(made.recent), rows(10)[-3:])
    assert path.stat().st_mode & 0o777 == 0o600
    assert all(json.loads(line)["nothing"] is None for line in path.read_text().splitlines())


@pytest.mark.parametrize("keep", [0, 1, 7, 10, 99])
def test_going_on_keeps_the_epochs_before(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "history.jsonl"
    written(path, 10)
    again = History(path)
    assert again.keep_first(keep) == min(keep, 10)
    assert same(list(again.recent), rows(10)[:keep])
    assert same(list(read_history(path)), rows(10)[:keep])


@pytest.mark.parametrize("cut", [1, 5, 30])
def test_a_row_that_was_cut_short_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "history.jsonl"
    written(path, 4)
    path.write_bytes(path.read_bytes()[:-cut])
    again = History(path)
    assert again.keep_first(4) == 3 + (cut == 1 and 1)
    again.append(rows(5)[-1])
    assert [row["epoch"] for row in read_history(path)] == [0, 1, 2, *([3] if cut == 1 else []), 4]


def test_without_a_file_the_last_rows_are_all() -> None:
    made = History(None)
    for row in rows(3):
        made.append(row)
    made.flush()
    assert same(list(made.recent), rows(3))
    assert made.keep_first(2) == 0


def test_a_saved_runs_history_is_what_an_unsaved_one_returns(tmp_path: Path) -> None:
    expected, _ = run(training())
    saved_run(tmp_path / "run", training(), dropout=0.0)
    assert same(list(read_history(tmp_path / "run" / "history.jsonl")), expected)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_ten_thousand_epochs_take_a_kibibyte_each_at_most(tmp_path: Path) -> None:
    """Highest resident memory at the end against that after 2,000 epochs, when all that is bounded is full."""
    highest: dict[int, int] = {}

    class Measuring(Events):
        def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
            if epoch in (2000, 9999):
                highest[epoch] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    settings = training(
        "training.epochs=10000 training.patience=10000 training.batch_size=100 training.checkpoint_every=500"
    )
    saved_run(tmp_path / "run", settings, Measuring())
    assert sum(1 for _ in read_history(tmp_path / "run" / "history.jsonl")) == 10_000
    assert (highest[9999] - highest[2000]) * 1024 / 7999 <= 1024, highest
