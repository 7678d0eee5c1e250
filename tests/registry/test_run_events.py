"""A training run's events in its MLflow run: of a run that goes on, what it does again is there once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import mlflow
import pytest
from mlflow import MlflowClient

from henaw.config import load_config
from henaw.registry import tracking
from henaw.registry.run_events import TrackingEvents
from henaw.training.telemetry import OutOfMemory
from tests.stores import tracking_store

STEPS_PER_EPOCH = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowClient]:
    folder = tmp_path_factory.mktemp("store")
    with tracking_store(folder, chosen=False):
        yield MlflowClient()


def attempt(
    work: Callable[[TrackingEvents], None], resume: str | None = None, *, ends: bool = False
) -> tuple[str, str]:
    """Begin or go on with a run, in which ``work`` happens before it is stopped; the ids of run and stage."""
    ids: list[str] = []

    def told() -> None:
        with (
            tracking.parent_run(load_config(), "train", resume) as parent,
            tracking.child_run("train") as child,
        ):
            ids.extend([parent, child])
            events = TrackingEvents()
            events.on_train_begin(3, STEPS_PER_EPOCH)
            work(events)
            if not ends:
                raise KeyboardInterrupt

    if ends:
        told()
    else:
        with pytest.raises(KeyboardInterrupt):
            told()
    return ids[0], ids[1]


def points(store: MlflowClient, run: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in store.get_metric_history(run, name)]


def event(step: int, rows: int) -> OutOfMemory:
    return OutOfMemory("training", 0, step, rows, rows // 2, 0, 0, 0, 0.1)


def test_a_batch_that_is_skipped_again_after_a_stop_is_told_of_once(store: MlflowClient) -> None:
    def skipping(events: TrackingEvents) -> None:
        events.on_step_skipped(0, 3, 1)
        events.on_step_skipped(1, 2, 1)
        events.on_step_skipped(1, 3, 2)

    def again_from_the_second_epoch(events: TrackingEvents) -> None:
        events.on_step_skipped(1, 2, 1)
        events.on_step_skipped(1, 3, 2)
        events.on_step_skipped(1, 4, 3)

    run, stage = attempt(skipping)
    assert attempt(again_from_the_second_epoch, run, ends=True) == (run, stage)
    assert points(store, stage, "skipped_steps_in_a_row") == [(3, 1.0), (12, 1.0), (13, 2.0), (14, 3.0)]


def test_events_of_memory_go_on_being_counted_after_a_stop(store: MlflowClient) -> None:
    def two(events: TrackingEvents) -> None:
        events.on_out_of_memory(event(4, 64))
        events.on_out_of_memory(event(4, 32))

    run, stage = attempt(two)
    attempt(lambda _: None, run)
    attempt(lambda events: events.on_out_of_memory(event(5, 16)), run, ends=True)
    assert points(store, stage, "out_of_memory_events") == [(4, 1.0), (4, 2.0), (5, 3.0)]
    table = mlflow.load_table("events.json", run_ids=[stage])
    assert list(table["from_rows"]) == [64, 32, 16]


def test_another_run_counts_from_the_beginning(store: MlflowClient) -> None:
    def one_of_each(events: TrackingEvents) -> None:
        events.on_out_of_memory(event(4, 64))
        events.on_step_skipped(0, 0, 1)

    for _ in range(2):
        _, stage = attempt(one_of_each, ends=True)
        assert points(store, stage, "out_of_memory_events") == [(4, 1.0)]
        assert points(store, stage, "skipped_steps_in_a_row") == [(0, 1.0)]


def test_a_step_or_epoch_that_is_done_again_is_told_of_once(store: MlflowClient) -> None:
    def to(step: int) -> Callable[[TrackingEvents], None]:
        def steps(events: TrackingEvents) -> None:
            for number in range(max(0, step - 15), step):
                events.on_batch_begin(number // STEPS_PER_EPOCH, number % STEPS_PER_EPOCH)
                events.on_step_committed(number, {"loss": float(number), "loss_crps": number / 2, "samples": 5.0})
                if number % STEPS_PER_EPOCH == STEPS_PER_EPOCH - 1:
                    epoch = number // STEPS_PER_EPOCH
                    events.on_epoch_end(epoch, {"epoch": float(epoch), "train_loss_crps": epoch / 2})

        return steps

    run, stage = attempt(to(15))
    attempt(to(30), run, ends=True)
    attempted = [(number, float(number)) for number in range(30)]
    assert points(store, stage, "step/loss") == attempted
    assert points(store, stage, "step/loss_crps") == [(step, value / 2) for step, value in attempted]
    assert points(store, stage, "epoch/train_loss_crps") == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert len(points(store, stage, "epoch/step_seconds_p99")) == 3
