"""Real servers beside a real registry of two versions: what callers see while champion and challenger are compared."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from mlflow import MlflowClient

from henaw.registry.aliases import move_champion, rollback
from henaw.serving.compared_report import report
from henaw.serving.comparison import in_challenger
from henaw.serving.ledger import Subject, read_ledgers
from tests.conftest import REPOSITORY
from tests.serving.guarded import split
from tests.serving.sockets import PATIENCE, Running, await_that, connected, of_registry, request, response, running
from tests.serving.sockets import environment as sockets_environment

pytestmark = [pytest.mark.xdist_group("serving"), pytest.mark.slow, pytest.mark.timeout(600)]

PAIR = ("henaw/1", "henaw/2")


@pytest.fixture(autouse=True)
def environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")
    yield
    client = MlflowClient()
    for alias, number in (("champion", "1"), ("challenger", "2")):
        client.set_registered_model_alias("henaw", alias, number)


def program(folder: Path, *options: str, settings: str = "") -> list[str]:
    return of_registry(folder, *options, settings=f"serving.drain_seconds=0.3 serving.reload_seconds=0.3 {settings}")


def stop(server: Running) -> None:
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(PATIENCE) == 0, server.log.read_text()
    assert "Traceback" not in server.log.read_text()


def bodies(server: Running) -> list[bytes]:
    sent: list[Any] = [*(split(rows, rows) for rows in (1, 2, 7, 200)), b"{", split(1) | {"params": {"coverage": 2}}]
    found = [server.ask(body)[2] for body in sent]
    refused = [json.loads(body) | {"request_id": ""} for body in found[4:]]
    return [*found[:4], json.dumps(refused).encode(), server.ask_csv(5)[2]]


def test_answers_beside_a_shadow_are_byte_for_byte_those_without(store: Path, tmp_path: Path) -> None:
    with running(tmp_path / "without", arguments=program(tmp_path / "without")) as server:
        expected = bodies(server)
        stop(server)
    folder = tmp_path / "with"
    with running(
        folder, arguments=program(folder, "--shadow", "challenger", settings="serving.shadow_share=1")
    ) as server:
        for _ in range(3):
            assert bodies(server) == expected
        children = psutil.Process(server.process.pid).children(recursive=True)
        (shadow,) = [child for child in children if "shadow_process" in " ".join(child.cmdline())]
        await_that(lambda: shadow.nice() == 19)
        compared = b'henaw_shadow_samples_total{outcome="compared"} 15.0'  # it has its time, on a busy machine more
        await_that(lambda: compared in server.ask(b"", "/metrics")[2])
        stop(server)
        assert not shadow.is_running()
    (subject,) = read_ledgers(folder / "state").tallies
    assert subject == Subject("shadow", *PAIR, "both")
    tally = read_ledgers(folder / "state").tallies[subject]
    assert (tally.requests, tally.figure("rows").rows, tally.counts["failed"]) == (15, 645, 0)
    assert "Shadow: henaw/2 beside henaw/1" in report(folder / "state", "", as_json=False)
    assert (folder / "state" / "compared").stat().st_mode & 0o777 == 0o700


def test_a_shadow_that_is_killed_is_started_again_and_nobody_notices(store: Path, tmp_path: Path) -> None:
    with running(
        tmp_path, arguments=program(tmp_path, "--shadow", "challenger", settings="serving.shadow_share=1")
    ) as server:
        expected = server.ask(split(3))[2]
        (shadow,) = [
            child
            for child in psutil.Process(server.process.pid).children(recursive=True)
            if "shadow_process" in " ".join(child.cmdline())
        ]
        shadow.kill()
        for _ in range(50):
            assert server.ask(split(3))[2] == expected
        await_that(lambda: "shadow's process ended" in server.log.read_text())
        stop(server)


def test_two_workers_and_a_restart_draw_the_same_arms_in_json_and_csv(store: Path, tmp_path: Path) -> None:
    names = [f"visit-{number}" for number in range(60)]
    arms = {name: PAIR[in_challenger(name.encode(), 0.4)] for name in names}
    for workers in (2, 1):
        arguments = program(tmp_path, "--split", "challenger=0.4", settings=f"serving.workers={workers}")
        with running(tmp_path, arguments=arguments) as server:
            await_that(lambda: all(server.ask(b"", "/ping")[0] == 200 for _ in range(30)))
            for name in names:
                status, headers, _ = server.ask(split(1), headers=f"X-Request-Id: {name}\r\n")
                assert (status, headers["henaw-model"]) == (200, arms[name])
                assert headers["x-request-id"] != name
            for name in names[:6]:
                status, headers, _ = server.ask_csv(5, f"X-Request-Id: {name}\r\n")
                assert (status, headers["henaw-model"]) == (200, arms[name])
            stop(server)
    tallies = read_ledgers(tmp_path / "state").tallies
    assert sum(tally.requests for tally in tallies.values()) == 2 * 66
    for subject, tally in tallies.items():
        model = subject.champion if subject.arm == "champion" else subject.challenger
        assert tally.requests == 2 * sum(arms[name] == model for name in [*names, *names[:6]])
    text = "".join(path.read_text() for path in (tmp_path / "state" / "compared").iterdir())
    assert "visit" not in text
    document = json.loads(report(tmp_path / "state", "", as_json=True))
    (found,) = document["splits"]
    arms_found = found["arms"]
    assert arms_found["champion"]["requests"] + arms_found["challenger"]["requests"] == 2 * 66


@pytest.mark.parametrize("workers", [1, 2])
def test_a_challenger_that_is_not_there_ends_the_server_with_its_reason(
    store: Path, tmp_path: Path, workers: int
) -> None:
    arguments = program(tmp_path, "--split", "elsewhere=0.1", settings=f"serving.workers={workers}")
    done = subprocess.run(
        arguments, capture_output=True, cwd=REPOSITORY, env=sockets_environment(), check=False, timeout=PATIENCE
    )
    assert done.returncode == 2
    assert b"no such model of HENAW's in the registry" in done.stderr
    assert b"Traceback" not in done.stderr


def test_a_server_starts_where_a_promotion_took_the_challengers_alias(store: Path, tmp_path: Path) -> None:
    MlflowClient().delete_registered_model_alias("henaw", "challenger")
    with running(tmp_path, arguments=program(tmp_path, "--split", "challenger=1", "--shadow", "challenger")) as server:
        assert server.ask(split(1))[1]["henaw-model"] == "henaw/1"
        assert "the champion answers all" in server.log.read_text()
        MlflowClient().set_registered_model_alias("henaw", "challenger", "2")
        await_that(lambda: server.ask(split(1))[1]["henaw-model"] == "henaw/2")
        stop(server)


def test_promotion_and_rollback_under_load_lose_no_request(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--split", "challenger=0.5", "--shadow", "challenger")
    seen: Counter[str] = Counter()
    stopped = threading.Event()

    def load(client_number: int) -> None:
        count = 0
        while not stopped.is_set():
            with connected(server.port) as client:
                for _ in range(50):
                    count += 1
                    try:
                        client.sendall(request(split(1), headers=f"X-Request-Id: {client_number}.{count}\r\n"))
                        status, headers, _ = response(client)
                    except ConnectionError:
                        seen["lost"] += 1
                        break
                    seen[headers["henaw-model"] if status == 200 else str(status)] += 1

    with running(
        tmp_path,
        arguments=program(
            tmp_path, *options, settings="serving.shadow_share=0.5 serving.slots=64 serving.rate=1000000/minute"
        ),
    ) as server:
        threads = [threading.Thread(target=load, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            said = server.log.read_text().count("henaw version 2 answers")
            move_champion("henaw", 2, 1)
            await_that(lambda: server.log.read_text().count("henaw version 2 answers") > said)  # noqa: B023
            time.sleep(0.5)
            said = server.log.read_text().count("henaw version 1 answers")
            rollback("henaw", tmp_path / "state")
            MlflowClient().set_registered_model_alias("henaw", "challenger", "2")
            await_that(lambda: server.log.read_text().count("henaw version 1 answers") > said)  # noqa: B023
            time.sleep(0.8)
        stopped.set()
        for thread in threads:
            thread.join()
        stop(server)
    with capsys.disabled():
        print(f"\n3 promotions and rollbacks with split and shadow: {dict(seen)}")
    assert set(seen) == set(PAIR)
    assert Subject("split", *PAIR, "challenger") in read_ledgers(tmp_path / "state").tallies
