"""What workers and the process that has MLflow say to each other: over a real socket, without MLflow."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from henaw.errors import BadInput, EnvironmentProblem, HenawError, NoSuchVersion
from henaw.serving import beside, mlflow_process
from henaw.serving.asgi import Application, Message
from henaw.serving.beside import Found
from henaw.serving.csv_rows import ask_mlflow
from henaw.serving.mlflow_process import Versions
from henaw.serving.refusals import Refusal
from tests.conftest import REPOSITORY
from tests.serving.guarded import SECRET

GOLDEN: list[dict[str, Any]] = [{"flags": "é", "risk": None}]
FOUND = Found("henaw", 3, "/nowhere/clock", GOLDEN)
REPLY = '{"predictions": [{"status": "ok", "flags": "é"}]}'.encode()


class Standing:
    """Stands for ``Versions``."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    def find(self, uri: str, current: int | None) -> Found | None:
        if uri == "broken":
            raise ZeroDivisionError(SECRET)
        for error in (BadInput, NoSuchVersion, EnvironmentProblem):
            if uri == error.__name__:
                raise error(f"said by {uri}")
        return None if current == FOUND.number else FOUND

    def golden(self, name: str, number: int) -> list[dict[str, Any]]:
        if number != 3:
            raise BadInput("said by golden")
        return GOLDEN

    def application(self, name: str, number: int) -> Application:
        assert (name, number) == ("henaw", 3)

        async def application(scope: Any, receive: Any, send: Any) -> None:
            message: Message = await receive()
            self.bodies.append(message["body"])
            if message["body"] == b"raise":
                raise ZeroDivisionError(SECRET)
            status = 400 if message["body"] == b"wrong" else 200
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": REPLY[:10], "more_body": True})
            await send({"type": "http.response.body", "body": REPLY[10:]})

        return application


@pytest.fixture
def standing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Standing]:
    path, versions = tmp_path / "socket", Standing()
    monkeypatch.setenv(beside.ADDRESS_VARIABLE, str(path))
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def accept() -> None:
            with suppress(OSError):  # the socket is closed at the end
                mlflow_process._accept(cast("Versions", versions), listening)

        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield versions
        listening.shutdown(socket.SHUT_RDWR)
        accepting.join()


def test_a_version_is_found_as_it_was_sent(standing: Standing) -> None:
    assert beside.find("models:/henaw@champion", None) == FOUND
    assert beside.find("models:/henaw@champion", 3) is None


def test_golden_answers_come_as_they_were_sent(standing: Standing) -> None:
    assert beside.golden("henaw", 3) == GOLDEN
    with pytest.raises(BadInput, match="said by golden"):
        beside.golden("henaw", 4)


@pytest.mark.parametrize("error", [BadInput, NoSuchVersion, EnvironmentProblem])
def test_errors_are_of_the_same_class_here(standing: Standing, error: type[HenawError]) -> None:
    with pytest.raises(error, match=f"said by {error.__name__}") as raised:
        beside.find(error.__name__, None)
    assert type(raised.value) is error


def test_an_error_that_nobody_expected_has_no_text(standing: Standing) -> None:
    with pytest.raises(HenawError, match="ZeroDivisionError at") as raised:
        beside.find("broken", None)
    assert SECRET not in str(raised.value)


def test_csv_goes_there_and_comes_back_whole(standing: Standing, caplog: pytest.LogCaptureFixture) -> None:
    body = b"a,b\n" + b"1,2\n" * 100_000
    application = beside.csv_application("henaw", 3)
    assert asyncio.run(ask_mlflow(application, body)).body == REPLY
    assert standing.bodies == [body]
    with pytest.raises(Refusal, match="expected numbers"):
        asyncio.run(ask_mlflow(application, b"wrong"))
    with pytest.raises(RuntimeError, match="500"):
        asyncio.run(ask_mlflow(application, b"raise"))
    assert SECRET not in caplog.text


def test_where_nobody_answers_csv_is_refused_and_no_version_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(beside.ADDRESS_VARIABLE, str(tmp_path / "none"))
    with pytest.raises(EnvironmentProblem, match="does not answer"):
        beside.find("models:/henaw@champion", None)
    with pytest.raises(Refusal) as raised:
        asyncio.run(ask_mlflow(beside.csv_application("henaw", 3), b"a\n"))
    assert (raised.value.code, dict(raised.value.headers)) == ("NOT_READY", {b"retry-after": b"5"})


def test_the_process_is_started_again_and_ends_with_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "models:/henaw@champion"
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json.py").write_text("raise SystemExit(1)")  # what lies where it is started is not imported
    monkeypatch.setattr(beside, "_PROGRAM", "tests.serving.short_lived")
    monkeypatch.setattr(beside, "_PAUSE_SECONDS", 0.01)
    with beside.mlflow_beside():
        assert beside.find(uri, None) == FOUND
        assert beside.find(uri, None) == FOUND  # from the next process: each answers once
    assert beside.ADDRESS_VARIABLE not in os.environ


def test_what_is_not_taken_up_is_refused_so_that_it_holds_no_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(beside.ADDRESS_VARIABLE, str(tmp_path / "socket"))
    monkeypatch.setattr(beside, "_TAKEN_SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as hanging:
        hanging.bind(str(tmp_path / "socket"))
        hanging.listen()  # and nobody accepts
        with pytest.raises(Refusal) as raised:
            asyncio.run(ask_mlflow(beside.csv_application("henaw", 3), b"a\n"))
    assert raised.value.code == "NOT_READY"


@pytest.mark.parametrize("folder", ["none", "long" * 30])
def test_a_folder_where_no_socket_can_be_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / folder))
    if folder != "none":
        (tmp_path / folder).mkdir()
    with pytest.raises(EnvironmentProblem, match="TMPDIR"), beside.mlflow_beside():
        pass
    assert not list(tmp_path.glob("*/*")), "nothing is left behind"
