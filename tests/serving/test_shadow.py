"""The shadow: what its process counts, and that the server never waits for it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from henaw.errors import NoSuchVersion
from henaw.serving import shadow_process
from henaw.serving.fast import answer_rows, to_json
from henaw.serving.ledger import FOLDER, Subject, read_ledgers
from henaw.serving.lifecycle import Served
from henaw.serving.metrics import Metrics
from henaw.serving.schema import read_rows
from henaw.serving.shadow import HEADER, Shadow
from henaw.serving.shadow_process import Scorer
from tests.scenarios import BLOOD9, blood_clock
from tests.serving.guarded import CLOCK, FAILING_AGE, SECRET, TRYING, expected, served, split

OTHER = blood_clock(1)
SUBJECT = Subject("shadow", "henaw/1", "henaw/2", "both")


def sample(body: dict[str, Any], champion: str = "henaw/1") -> tuple[dict[str, Any], bytes, bytes]:
    """What the server sends of a request that the champion answered."""
    sent = json.dumps(body).encode()
    answer = to_json(answer_rows(CLOCK, read_rows(BLOOD9, body, 10_000)))
    told = {"champion": champion, "csv": False, "body": len(sent), "answer": len(answer), "seconds": 0.001}
    return told, sent, answer


def framed(told: dict[str, Any], body: bytes, answer: bytes) -> bytes:
    head = json.dumps(told).encode()
    return HEADER.pack(len(head)) + head + body + answer


def scorer(state: Path, load: Callable[[int | None], Served | None]) -> Scorer:
    return Scorer("models:/henaw@challenger", load, state)


def scored(state: Path, samples: bytes, load: Callable[[int | None], Served | None]) -> list[dict[str, Any]]:
    """Send ``samples`` to the process's loop, and what it says until it ends."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        thread = threading.Thread(target=shadow_process.run, args=(theirs, scorer(state, load), 0.0))
        thread.start()
        ours.sendall(samples)
        ours.shutdown(socket.SHUT_WR)
        thread.join(30)
        assert not thread.is_alive()
        theirs.close()
        said = b""
        while more := ours.recv(1 << 16):
            said += more
    return [json.loads(line) for line in said.splitlines()]


def difference(body: dict[str, Any]) -> np.ndarray[Any, Any]:
    other = answer_rows(OTHER, read_rows(BLOOD9, body, 10_000))
    mine = [row["biological_age_years"] for row in expected(body)]
    pairs = zip(mine, other.numbers["biological_age_years"], other.status, strict=True)
    return np.array([theirs - one for one, theirs, status in pairs if one is not None and status != "abstain"])


def test_sums_are_those_of_the_differences(tmp_path: Path) -> None:
    bodies = [split(rows, seed) for seed, rows in enumerate((1, 7, 40, 2))]
    (said,) = scored(tmp_path, b"".join(framed(*sample(body)) for body in bodies), lambda _: served(2, OTHER))
    found = np.concatenate([difference(body) for body in bodies])
    tally = read_ledgers(tmp_path).tallies[SUBJECT]
    sums = tally.figure("difference")
    assert (tally.requests, tally.figure("rows").rows, sums.rows) == (4, 50, len(found))
    assert sums.mean == pytest.approx(found.mean())
    assert sums.sd == pytest.approx(found.std(ddof=1))
    assert tally.counts.total() == 50
    assert said["samples"] == {"compared": 4}
    assert said["rows"] == len(found)
    assert said["absolute_years"] == pytest.approx(np.abs(found).sum())


def test_a_challenger_that_fails_is_counted_and_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    failing = split(1)
    failing["dataframe_split"]["data"][0][-1] = FAILING_AGE
    samples = framed(*sample(failing)) * 3 + framed(*sample(split(5)))
    (said,) = scored(tmp_path, samples, lambda _: served(2, TRYING))
    assert said["samples"] == {"failed": 3, "compared": 1}
    assert read_ledgers(tmp_path).tallies[SUBJECT].counts["failed"] == 3
    messages = [record.getMessage() for record in caplog.records if "raised" in record.getMessage()]
    assert len(messages) == 1
    assert SECRET not in messages[0]


def test_without_a_challenger_or_with_the_champion_itself_samples_are_skipped(tmp_path: Path) -> None:
    def none(_: int | None) -> Served | None:
        raise NoSuchVersion("none")

    for load in (none, lambda _: served(2, OTHER)):
        (said,) = scored(tmp_path, framed(*sample(split(5), "henaw/2")), load)
        assert said["samples"] == {"skipped": 1}
    assert not (tmp_path / FOLDER).exists()


def test_nothing_leaves_of_fewer_than_five_rows(tmp_path: Path) -> None:
    (said,) = scored(tmp_path, framed(*sample(split(4))), lambda _: served(2, OTHER))
    assert (said["samples"], said["rows"], said["absolute_years"]) == ({"compared": 1}, 0, 0)
    assert not (tmp_path / FOLDER).exists()


def test_a_sample_cut_short_ends_it_and_loses_nothing_of_before(tmp_path: Path) -> None:
    whole = framed(*sample(split(6)))
    scored(tmp_path, whole + whole[: len(whole) // 2], lambda _: served(2, OTHER))
    assert read_ledgers(tmp_path).tallies[SUBJECT].requests == 1


# --- the server's side -----------------------------------------------------------------------------------------------


def outcomes(figures: Metrics) -> dict[str, float]:
    lines = [line for line in figures.text().decode().splitlines() if line.startswith("henaw_shadow_samples_total{")]
    return {line.partition('outcome="')[2].partition('"')[0]: float(line.split()[-1]) for line in lines}


def test_where_the_process_is_behind_samples_are_dropped_and_nobody_waits(tmp_path: Path) -> None:
    figures = Metrics()
    shadow = Shadow("models:/henaw@challenger", 1.0, tmp_path, 0.0, figures)  # nothing takes from its queue
    for number in range(1000):  # a queue that waited would wait for ever
        shadow.offer(f"{number:016x}", served(), False, b"{}", b"{}", 0.001)
    assert outcomes(figures) == {"queued": 64, "dropped": 936}


def test_large_bodies_do_not_fill_the_memory(tmp_path: Path) -> None:
    figures = Metrics()
    shadow = Shadow("models:/henaw@challenger", 1.0, tmp_path, 0.0, figures)
    for number in range(20):
        shadow.offer(f"{number:016x}", served(), False, b" " * (1 << 20), b" " * (1 << 20), 0.001)
    assert outcomes(figures) == {"queued": 8, "dropped": 12}


def test_the_sampled_share_is_as_asked_for(tmp_path: Path) -> None:
    figures = Metrics()
    shadow = Shadow("models:/henaw@challenger", 0.25, tmp_path, 0.0, figures)
    random = np.random.default_rng(0)
    for number in random.integers(0, 2**64, 4000, dtype=np.uint64):
        shadow.offer(f"{number:016x}", served(), False, b"", b"", 0.001)
    assert sum(outcomes(figures).values()) == pytest.approx(1000, abs=100)


def test_a_process_that_ends_is_said_once_and_its_samples_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("henaw.serving.shadow._PROGRAM", "tests.no_such_program")
    figures = Metrics()
    shadow = Shadow("models:/henaw@challenger", 1.0, tmp_path, 0.0, figures)
    shadow.start()
    try:
        until = time.monotonic() + 30
        while not any("process ended" in record.getMessage() for record in caplog.records) and time.monotonic() < until:
            shadow.offer("0" * 16, served(), False, b"{}", b"{}", 0.001)
            time.sleep(0.02)
        for _ in range(10):
            shadow.offer("0" * 16, served(), False, b"{}", b"{}", 0.001)
        time.sleep(0.2)
    finally:
        shadow.stop()
    found = outcomes(figures)
    assert found["dropped"] >= 10
    assert len([record for record in caplog.records if "process ended" in record.getMessage()]) == 1
