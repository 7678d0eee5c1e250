"""Spool, delivery, breaker and writer, with a store that fails as planned and keeps twice what it is sent twice."""

from __future__ import annotations

import errno
import json
import os
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tests
from hypothesis import strategies as st
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE

from henaw.errors import BadInput, EnvironmentProblem
from henaw.registry import spool as spools
from henaw.registry import writer as writers
from henaw.registry.breaker import LONGEST_SECONDS, Away, Breaker
from henaw.registry.delivery import BATCH, Delivery
from henaw.registry.replay import replay, spool_folder, unsent
from henaw.registry.spool import Spool
from henaw.registry.writer import Writer, send, sending


class Killed(BaseException):
    """The process ends here."""


class Store:
    """In memory, as careless as may be; ``plan`` says how many points each further write takes before it fails."""

    def __init__(self, plan: list[tuple[int, type[BaseException]] | None] | None = None) -> None:
        self.points: list[tuple[str, str, int, int, float]] = []
        self.params: dict[str, str] = {}
        self.plan = plan or []
        self.calls: Counter[str] = Counter()

    def log_batch(
        self,
        run: str,
        metrics: list[Metric] | None = None,
        params: list[Param] | None = None,
        tags: list[RunTag] | None = None,
    ) -> None:
        self.calls["log_batch"] += 1
        assert len(metrics or ()) <= BATCH
        for param in params or ():
            if self.params.setdefault(param.key, param.value) != param.value:
                raise MlflowException("changing a parameter", INVALID_PARAMETER_VALUE)
        fault = self.plan.pop(0) if self.plan else None
        taken = metrics or [] if fault is None else (metrics or [])[: fault[0]]
        self.points += [(run, metric.key, metric.step, metric.timestamp, metric.value) for metric in taken]
        if fault is not None:
            raise fault[1]("planned")

    def get_metric_history(self, run: str, name: str) -> list[Metric]:
        found = [point for point in self.points if point[:2] == (run, name)]
        return [Metric(name, value, when, step) for _, _, step, when, value in found]


def metrics(step: int, names: int = 2, run: str = "r") -> dict[str, Any]:
    return {"run": run, "time": 1000 + step, "step": step, "metrics": {f"m{name}": step / 7 for name in range(names)}}


def expected(entries: list[dict[str, Any]]) -> list[tuple[str, str, int, int, float]]:
    return [
        (entry["run"], name, entry["step"], entry["time"], value)
        for entry in entries
        for name, value in entry["metrics"].items()
    ]


# --- exactly once ----------------------------------------------------------------------------------------------------

FAULTS = st.one_of(st.none(), st.tuples(st.integers(0, 12), st.sampled_from([ConnectionError, Killed])))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.lists(FAULTS, max_size=10), st.integers(1, 5))
@tests(max_examples=150)
def test_each_point_is_written_once_and_in_order_whatever_breaks_off(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], plan: list[Any], runs: int
) -> None:
    folder = tmp_path_factory.mktemp("spool") / "r"
    store = Store(list(plan))
    entries = [metrics(step, names, f"run{step % runs}") for step, names in enumerate(sizes)]
    spool, put = Spool(folder, {"run": "r"}), 0
    delivery = Delivery(spool, store)  # type: ignore[arg-type]
    while put < len(entries) or spool.pending:
        if put < len(entries):
            spool.append(entries[put])
            put += 1
        try:
            while put % 3 == 0 or put == len(entries):
                found = delivery.next_entries()
                if not found:
                    break
                send(delivery, spool, found)
        except ConnectionError:
            pass
        except Killed:  # what the process had in memory is gone
            spool.close()
            spool = Spool(folder)
            delivery = Delivery(spool, store)  # type: ignore[arg-type]
    spool.close()
    assert store.points == expected(entries)
    assert not folder.exists()


def test_a_call_takes_as_many_points_as_mlflow_does_and_no_more(tmp_path: Path) -> None:
    spool, store = Spool(tmp_path / "r"), Store()
    entries = [metrics(step, 12) for step in range(200)] + [metrics(200, 2300)]
    for entry in entries:
        spool.append(entry)
    for call in sending(spool, store):  # type: ignore[arg-type]
        call()
    assert store.points == expected(entries)
    assert store.calls["log_batch"] == 3 + 3
    spool.close()


def test_what_the_store_refuses_is_set_aside_and_the_rest_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool, store = Spool(tmp_path / "r", {"run": "r"}), Store()
    store.params["people"] = "7"
    for entry in ({"run": "r", "params": {"people": 8}}, metrics(1)):
        spool.append(entry)
    refused = set().union(*(call() for call in sending(spool, store)))  # type: ignore[arg-type]
    spool.close()
    assert (refused, len(store.points)) == ({1}, 2)
    assert "INVALID_PARAMETER_VALUE" in caplog.text
    kept = [json.loads(line) for line in (tmp_path / "r" / "refused.jsonl").read_text().splitlines()]
    assert [entry["params"] for entry in kept] == [{"people": 8}]


# --- the spool -------------------------------------------------------------------------------------------------------


def test_only_the_user_reads_it_and_it_is_gone_when_all_is_written(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool" / "r", {"run": "r"})
    spool.append(metrics(0))
    staged = spool.stage(lambda folder: (folder / "figure.svg").write_text("x"))
    assert staged is not None
    spool.append({"run": "r", "files": staged, "into": "figures"})
    spool.sync()
    assert stat.S_IMODE(spool.folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(spool.path.stat().st_mode) == 0o600
    assert stat.S_IMODE((spool.folder / staged).stat().st_mode) == 0o700
    spool.done(spool.head(2))
    assert not (spool.folder / staged).exists()
    spool.close()
    assert not spool.folder.exists()


def test_a_line_cut_short_costs_that_line_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "r", {"run": "r"})
    for step in range(3):
        spool.append(metrics(step))
    whole = spool.path.read_bytes()
    spool.close()
    (tmp_path / "r" / "journal.jsonl").write_bytes(whole[:-20])
    again = Spool(tmp_path / "r")
    assert [entry["step"] for entry in again.head(9)] == [0, 1]
    again.append(metrics(7))
    assert [entry["step"] for entry in again.head(9)] == [0, 1, 7]
    assert again.header == {"run": "r"}
    again.close()


def test_a_long_run_leaves_no_long_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spools, "_EMPTIED_BEYOND", 2000)
    spool = Spool(tmp_path / "r", {"run": "r"})
    spool.name("local", "known")
    for step in range(200):
        number = spool.append(metrics(step))
        spool.done(spool.head(9))
        assert number == step + 1
    assert spool.path.stat().st_size < 3000
    spool.append(metrics(200))
    spool.close()
    again = Spool(tmp_path / "r")
    assert [entry["n"] for entry in again.head(9)] == [201]
    assert (again.header, again.names) == ({"run": "r"}, {"local": "known"})
    again.close()


def test_another_process_leaves_it_alone(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "r", {"run": "r"})
    code = f"from pathlib import Path; from henaw.registry.spool import Spool; Spool(Path({str(tmp_path / 'r')!r}))"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    spool.close()
    assert other.stderr.strip().splitlines()[-1].endswith("another process is writing this run")


def test_where_the_disk_is_full_entries_wait_in_memory_and_go_on_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    spool, store, real = Spool(tmp_path / "r", {"run": "r"}), Store(), os.write
    spool.append(metrics(0))
    room = [40]

    def full(descriptor: int, data: bytes) -> int:
        if room[0] <= 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = real(descriptor, data[: room[0]])
        room[0] -= written
        return written

    monkeypatch.setattr(os, "write", full)
    for step in range(1, 4):
        spool.append(metrics(step))
    assert caplog.text.count("No space left") + caplog.text.count("no space left") == 1
    assert [entry["step"] for entry in spool.head(9)][:1] == [0]
    for call in sending(spool, store):  # type: ignore[arg-type]
        call()
    assert store.points == expected([metrics(step) for step in range(4)])
    spool.append(metrics(4))
    monkeypatch.undo()
    spool.sync()  # there is room again
    spool.append(metrics(5))
    spool.close()
    again = Spool(tmp_path / "r")
    assert [entry["step"] for entry in again.head(9)][-2:] == [4, 5]
    again.close()


def test_neither_disk_nor_store_is_said_once_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(spools, "IN_MEMORY", 3)
    (tmp_path / "file").write_text("")
    spool = Spool(tmp_path / "file" / "r", {"run": "r"})  # no folder can be made there
    for step in range(9):
        spool.append(metrics(step))
    staged = spool.stage(lambda folder: (folder / "figure.svg").write_text("x"))
    assert staged is not None, "another disk takes them"
    assert [entry["step"] for entry in spool.head(9)] == [0, 1, 2]
    spool.close()
    assert [record.levelname for record in caplog.records].count("ERROR") == 2
    assert "3 entries) is lost" in caplog.text


# --- the breaker -----------------------------------------------------------------------------------------------------


def test_pauses_double_up_to_a_minute_and_a_success_ends_them() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    pauses = []

    def fail() -> None:
        raise ConnectionError

    for _ in range(12):
        with pytest.raises(Away):
            breaker.call(fail, lambda _: True)
        pauses.append(breaker.pause)
        with pytest.raises(Away, match="left alone"):
            breaker.call(pytest.fail, lambda _: True)
        now[0] += breaker.pause
    assert all(0.8 * 2**place <= pause <= 2**place for place, pause in enumerate(pauses[:6]))
    assert max(pauses) <= LONGEST_SECONDS
    assert breaker.call(lambda: 7, lambda _: True) == 7
    assert (breaker.pause, breaker.failures) == (0, 0)


def test_an_error_of_another_kind_is_raised_as_it_is() -> None:
    breaker = Breaker()
    with pytest.raises(ZeroDivisionError):
        breaker.call(lambda: 1 // 0, lambda error: isinstance(error, OSError))
    assert breaker.pause == 0


# --- the thread ------------------------------------------------------------------------------------------------------


class Hanging(Store):
    """Takes its time and then says nothing."""

    def log_batch(self, run: str, metrics: Any = None, params: Any = None, tags: Any = ()) -> None:
        time.sleep(0.5)
        raise TimeoutError


def test_whoever_logs_never_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writers, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr(writers, "PATIENCE_SECONDS", 0.1)
    spool = Spool(tmp_path / "r", {"run": "r"})
    writer = Writer(spool, Hanging(), list)  # type: ignore[arg-type]
    longest = 0.0
    for step in range(100):
        began = time.perf_counter()
        writer.put(metrics(step))
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.005)
    assert longest < 0.25
    began = time.perf_counter()
    assert not writer.close()
    assert time.perf_counter() - began < 5
    store = Store()
    again = Spool(tmp_path / "r")
    for call in sending(again, store):  # type: ignore[arg-type]
        call()
    again.close()
    assert store.points == expected([metrics(step) for step in range(100)])


def test_a_writer_goes_on_when_its_store_is_back_and_takes_along_what_others_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writers, "EVERY_SECONDS", 0.01)
    monkeypatch.setattr("henaw.registry.breaker.FIRST_SECONDS", 0.01)
    other = Spool(tmp_path / "other", {"run": "other"})
    other.append(metrics(0, run="other"))
    other.close()
    store = Store([(1, ConnectionError)] * 4)
    spool = Spool(tmp_path / "r", {"run": "r"})
    writer = Writer(spool, store, lambda: [tmp_path / "other", tmp_path / "r"])  # type: ignore[arg-type]
    for step in range(5):
        writer.put(metrics(step))
    for _ in range(500):
        if len(store.points) == 12:
            break
        time.sleep(0.01)
    assert writer.close()
    own = [point for point in store.points if point[0] == "r"]
    assert own == expected([metrics(step) for step in range(5)])
    assert [point for point in store.points if point[0] == "other"] == expected([metrics(0, run="other")])
    assert not list(tmp_path.iterdir())


# --- what was left behind --------------------------------------------------------------------------------------------


def test_what_was_left_is_found_by_run_and_store_and_sent_to_no_other(tmp_path: Path) -> None:
    header = {"run": "abc", "stage": "train", "store": "http://there"}
    spool = Spool(spool_folder(tmp_path, "abc"), header)
    spool.append(metrics(0))
    [left] = unsent(tmp_path)
    assert (left.run, left.stage, left.store) == ("abc", "train", "http://there")
    with pytest.raises(EnvironmentProblem, match="another process is writing this run"):
        replay(left, "http://there")
    spool.close()
    with pytest.raises(BadInput, match="set MLFLOW_TRACKING_URI"):
        replay(left, "http://elsewhere")
    with pytest.raises(BadInput, match="id of a run"):
        spool_folder(tmp_path, "../../etc")
    assert len(unsent(tmp_path)) == 1
