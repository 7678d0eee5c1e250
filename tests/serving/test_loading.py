"""From a real registry: verified before anything runs, tried before it answers, followed when the alias moves."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import ssl
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest
from mlflow import MlflowClient

from henaw.errors import IntegrityError
from henaw.registry import versions
from henaw.serving import loading
from henaw.serving.lifecycle import Served
from henaw.serving.mlflow_process import Versions
from tests.conftest import REPOSITORY
from tests.scenarios import blood_rows
from tests.serving.guarded import split
from tests.serving.sockets import (
    PATIENCE,
    Running,
    await_that,
    connected,
    listening_port,
    of_registry,
    request,
    response,
    rest,
    running,
)

pytestmark = pytest.mark.xdist_group("serving")

URI = "models:/henaw@champion"


def newest(current: int | None) -> Served | None:
    """The champion, found by MLflow in this process."""
    with tempfile.TemporaryDirectory() as folder:
        return loading.newest(URI, current, Versions(Path(folder)))


def test_the_champion_is_loaded_once_and_again_when_the_alias_moves(store: Path) -> None:
    first = newest(None)
    assert first is not None
    assert (first.name, first.number) == ("henaw", 1)
    assert newest(1) is None
    MlflowClient().set_registered_model_alias("henaw", "champion", "2")
    try:
        second = newest(1)
        assert second is not None
        assert second.number == 2
    finally:
        MlflowClient().set_registered_model_alias("henaw", "champion", "1")


def test_a_version_that_answers_otherwise_than_when_it_was_registered_is_not_taken(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = loading.answer_rows

    def lying(*arguments: object) -> object:
        answers = honest(*arguments)  # type: ignore[arg-type]
        answers.numbers["lower_years"][0] += 1e-5
        return answers

    monkeypatch.setattr(loading, "answer_rows", lying)
    with pytest.raises(IntegrityError, match="golden rows"):
        newest(None)


def test_a_version_that_mlflow_answers_otherwise_is_not_confirmed(store: Path) -> None:
    class Lying(Versions):
        off = 0.0

        def golden(self, name: str, number: int) -> list[dict[str, Any]]:
            answers = super().golden(name, number)
            return [row | {"lower_years": row["lower_years"] + self.off} for row in answers]

    with tempfile.TemporaryDirectory() as folder:
        mlflows = Lying(Path(folder))
        first = loading.newest(URI, None, mlflows, at_once=False)
        assert first is not None
        assert first.confirm is not None
        first.confirm()
        mlflows.off = 1e-8
        with pytest.raises(IntegrityError, match="golden rows"):
            first.confirm()
        with pytest.raises(IntegrityError, match="golden rows"):
            loading.newest(URI, None, mlflows)


def test_a_version_without_answers_of_its_day_of_registration_waits_for_mlflow(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "GOLDEN", "no_such_key")
    with tempfile.TemporaryDirectory() as folder:
        first = loading.newest(URI, None, Versions(Path(folder)), at_once=False)
    assert first is not None
    assert first.confirm is None


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_flipped_byte_is_served(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In any file of the version: a hundred places spread over all of them."""
    folder = Path(mlflow.artifacts.download_artifacts(artifact_uri="models:/henaw/1").removeprefix("file://"))
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "registered_model_meta")
    refused = 0
    for number in range(100):
        path = files[number % len(files)]
        whole = path.read_bytes()
        if not whole:
            continue
        spoiled = bytearray(whole)
        spoiled[number * 7919 % len(spoiled)] ^= 1 << number % 8
        path.write_bytes(spoiled)
        try:
            with pytest.raises(IntegrityError):
                newest(None)
            refused += 1
        finally:
            path.write_bytes(whole)
    with capsys.disabled():
        print(f"\n{refused} flipped bytes in {len(files)} files, {refused} refusals")
    assert refused > 80
    assert newest(None) is not None


@pytest.fixture
def environment(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store / 'mlflow.db'}")


def version_of(server: Running) -> str:
    return server.ask(split(1))[1]["henaw-model"]


@pytest.mark.slow
def test_a_server_answers_json_and_csv_and_follows_the_alias(store: Path, tmp_path: Path, environment: None) -> None:
    with running(tmp_path, arguments=of_registry(tmp_path, settings="serving.reload_seconds=0.2")) as server:
        assert version_of(server) == "henaw/1"
        status, _, csv = server.ask_csv(3)
        assert status == 200
        for row, other in zip(
            json.loads(csv)["predictions"], json.loads(server.ask(split(3))[2])["predictions"], strict=True
        ):
            assert row == pytest.approx(other, abs=1e-9)
        spoiled = blood_rows(3, 0).to_csv(index=False).encode().replace(b".", b"x61.98765", 1)
        with connected(server.port) as client:
            client.sendall(request(spoiled).replace(b"application/json", b"text/csv", 1))
            status, _, said = response(client)
        assert status == 400
        assert b"61.98765" not in said
        MlflowClient().set_registered_model_alias("henaw", "champion", "2")
        try:
            await_that(lambda: version_of(server) == "henaw/2")
        finally:
            MlflowClient().set_registered_model_alias("henaw", "champion", "1")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_without_the_process_of_mlflow_json_is_answered_and_csv_again_when_it_is_back(
    store: Path, tmp_path: Path, environment: None
) -> None:
    with running(tmp_path, arguments=of_registry(tmp_path, settings="serving.drain_seconds=0.1")) as server:
        assert server.ask_csv(2)[0] == 200
        (beside,) = psutil.Process(server.process.pid).children()
        folder = Path(beside.cmdline()[3])
        beside.suspend()
        assert server.ask(split(1))[0] == 200
        beside.kill()
        assert server.ask(split(1))[0] == 200
        assert server.ask_csv(2)[0] == 200, "the next one takes over those that wait"
        server.process.kill()
        await_that(lambda: not folder.exists())  # the process ends with the server, and leaves nothing


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_behind_tls_workers_answer_json_and_csv(store: Path, tmp_path: Path, environment: None) -> None:
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost", "-days", "2"]
    make += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(make, check=True, capture_output=True)
    trusting = ssl.create_default_context(cafile=str(certificate))
    settings = f"serving.workers=2 serving.tls_certificate={certificate} serving.tls_key={key}"

    def ask(body: bytes, kind: str) -> int:
        asking = http.client.HTTPSConnection("localhost", port, context=trusting, timeout=PATIENCE)
        try:
            asking.request("POST", "/invocations", body, {"Content-Type": kind})
            return asking.getresponse().status
        finally:
            asking.close()

    (tmp_path / "log").touch()
    with (
        (tmp_path / "log").open("wb") as log,
        subprocess.Popen(of_registry(tmp_path, settings=settings), stderr=log, cwd=REPOSITORY) as process,
    ):
        try:
            port = listening_port(process, tmp_path / "log")
            body, table = json.dumps(split(1)).encode(), blood_rows(2, 0).to_csv(index=False).encode()
            until = time.monotonic() + PATIENCE
            while time.monotonic() < until:
                with suppress(ConnectionRefusedError):
                    if ask(body, "application/json") == 200:
                        break
                time.sleep(0.05)
            assert ask(body, "application/json") == 200
            assert ask(table, "text/csv") == 200
            with connected(port) as client:  # who does not speak TLS is sent nothing but the door
                client.sendall(request(split(1)))
                assert b"HTTP" not in rest(client)
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_worker_that_is_killed_is_replaced_and_its_counts_stay(
    store: Path, tmp_path: Path, environment: None
) -> None:
    with running(
        tmp_path, arguments=of_registry(tmp_path, settings="serving.workers=2 serving.drain_seconds=0.5")
    ) as server:
        answered = 0
        for _ in range(40):
            status, _, _ = server.ask(split(1))
            answered += status == 200
        assert answered == 40, "a worker that is still starting is not asked"
        workers = [
            child for child in psutil.Process(server.process.pid).children() if "spawn_main" in str(child.cmdline())
        ]
        assert len(workers) == 2
        os.kill(workers[0].pid, signal.SIGKILL)
        until = time.monotonic() + PATIENCE
        again = 0
        while again < 20 and time.monotonic() < until:
            try:
                status, _, _ = server.ask(split(1))
            except ConnectionError:  # it was this worker's
                continue
            answered += status == 200
            again += status == 200
        assert again == 20
        text = server.ask(b"", "/metrics")[2].decode()
        lines = [line for line in text.splitlines() if line.startswith("henaw_requests_total") and 'code="OK"' in line]
        (counted,) = [float(line.split()[-1]) for line in lines if 'route="invocations"' in line]
        assert counted == answered
        await_that(lambda: f"worker {workers[0].pid} ended (-9) and is replaced" in server.log.read_text())
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(PATIENCE) == 0
    shutil.rmtree(tmp_path / "state", ignore_errors=True)


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder for sockets, whose paths have room for a hundred characters; pytest's own are longer side by side."""
    with tempfile.TemporaryDirectory(prefix="henaw-test-") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_where_the_first_process_is_killed_all_others_end_and_nothing_stays(
    store: Path, tmp_path: Path, environment: None, monkeypatch: pytest.MonkeyPatch, short_folder: Path
) -> None:
    temporary = short_folder
    monkeypatch.setenv("TMPDIR", str(temporary))
    settings = "serving.workers=2 serving.drain_seconds=0.1 serving.shadow=models:/henaw/2"
    with running(tmp_path, arguments=of_registry(tmp_path, settings=settings)) as server:
        assert len(list(temporary.glob("henaw-*"))) == 2  # Python's own trials of a folder come and go
        others = psutil.Process(server.process.pid).children(recursive=True)
        server.process.kill()
        _, alive = psutil.wait_procs(others, timeout=PATIENCE)
    assert not alive
    assert not list(temporary.glob("*"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_hanging_process_of_mlflow_does_not_keep_the_server_from_leaving(
    store: Path, tmp_path: Path, environment: None
) -> None:
    settings = "serving.reload_seconds=0.1 serving.drain_seconds=0.1"
    with running(tmp_path, arguments=of_registry(tmp_path, settings=settings)) as server:
        (beside,) = psutil.Process(server.process.pid).children()
        beside.suspend()
        time.sleep(0.5)  # the alias is being looked up
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert not beside.is_running()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_workers_that_cannot_start_are_not_started_for_ever(store: Path, tmp_path: Path, environment: None) -> None:
    settings = f"serving.workers=2 serving.audit={tmp_path / 'none' / 'audit'}"
    found = subprocess.run(of_registry(tmp_path, settings=settings), capture_output=True, timeout=PATIENCE, check=False)
    assert (found.returncode, b"Traceback" in found.stderr) == (3, False)
    assert found.stderr.count(b"cannot be written: No such file") == 1
