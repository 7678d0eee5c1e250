"""A real server, real sockets: more than it can do, hostile strings, how it leaves, and when it does not start."""

from __future__ import annotations

import datetime as dt
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from henaw.config import load_config
from henaw.errors import BadInput, EnvironmentProblem, Refused
from henaw.serving.keys import create_key
from henaw.serving.server import serve
from tests.conftest import REPOSITORY
from tests.serving.guarded import SECRET, SLOW_ROWS, split
from tests.serving.sockets import (
    PATIENCE,
    Running,
    assert_well,
    code,
    command,
    connected,
    environment,
    impatient,
    request,
    response,
    running,
)

pytestmark = pytest.mark.xdist_group("serving")

ONE = split(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with impatient(tmp_path_factory.mktemp("server")) as found:
        yield found


# --- more than it can do ----------------------------------------------------------------------------------------------


def counted(server: Running) -> Counter[str]:
    """Requests for answers by status, as the server counts them."""
    text = server.ask(b"", "/metrics")[2].decode()
    found = re.findall(r'henaw_requests_total\{.*route="invocations",status="(\d+)"\} (\S+)', text)
    return Counter({status: int(float(value)) for status, value in found})


def test_a_full_server_sends_away_unread_and_counts_it(server: Running) -> None:
    before, seen = counted(server), Counter[str]()
    with ExitStack() as stack:
        clients = [stack.enter_context(connected(server.port)) for _ in range(60)]
        for _ in range(3):  # each connection can be used again
            for client in clients:
                client.sendall(request(ONE))
            for client in clients:
                status, headers, body = response(client)
                seen[str(status)] += 1
                if status != 200:
                    assert (code(body), headers["retry-after"]) == ("OVERLOADED", "1")
    assert set(seen) == {"200", "429"}
    assert counted(server) - before == seen
    assert_well(server)


def test_who_has_no_key_makes_nobody_be_sent_away(tmp_path: Path) -> None:
    key = create_key(tmp_path, "test", ["score"], None, dt.datetime.now(dt.UTC))[1]
    own = request(ONE, headers=f"Authorization: Bearer {key}\r\n")
    with running(tmp_path, "serving.slots=1", key=key) as server, ExitStack() as stack:
        strangers = [stack.enter_context(connected(server.port)) for _ in range(30)]
        client = stack.enter_context(connected(server.port))
        for _ in range(10):
            for number, stranger in enumerate(strangers):
                stranger.sendall(request(ONE, headers="Authorization: Bearer henaw_x\r\n" * (number % 2)))
            client.sendall(own)
            assert response(client)[0] == 200
            assert {response(stranger)[0] for stranger in strangers} == {401}


def time_out(server: Running, times: int) -> Counter[str]:
    """Codes of ``times`` calls at once that take too long; then a good one has to be answered before long."""
    slow, codes = split(SLOW_ROWS + 1), Counter[str]()

    def call() -> None:
        status, _, body = server.ask(slow)
        codes[code(body) if status != 200 else "OK"] += 1

    threads = [threading.Thread(target=call) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    until = time.monotonic() + PATIENCE
    while (status := server.ask(ONE)[0]) != 200 and time.monotonic() < until:
        assert status == 429
        time.sleep(0.05)
    assert status == 200
    return codes


def test_timed_out_calls_do_not_keep_good_ones_waiting(server: Running) -> None:
    assert set(time_out(server, 6)) == {"DEADLINE_EXCEEDED", "OVERLOADED"}


@pytest.mark.slow
def test_twenty_timed_out_calls_and_a_good_one(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    codes = time_out(server, 20)
    with capsys.disabled():
        print(f"\n20 calls that take too long: {dict(codes)}")
    assert set(codes) == {"DEADLINE_EXCEEDED", "OVERLOADED"}


# --- hostile strings -------------------------------------------------------------------------------------------------


# fmt: off
HOSTILE = [
    "", " ", "\t", "'", '"', "\\", "`", ";", "--", "' OR 1=1 --", "${jndi:ldap://x}", "{{7*7}}", "%s%n", "%00",
    "../../etc/passwd", "..%2f..%2fetc%2fpasswd", "<script>alert(1)</script>", "file:///etc/passwd", "$(id)", "| id",
    "\u202e", "\ufeff", "\u0000x",
    "ａｇｅ", "é", "💉" * 50, "A" * 5000,
    "NaN", "null", "true", "1e999", "0x41", "-0", "__proto__", "constructor", SECRET,
]
# fmt: on


def hostile(count: int) -> list[str]:
    """``count`` strings: those above, and what becomes of them."""
    found = list(HOSTILE)
    for width in range(1, count):
        found += [f"{text}{chr(32 + width * 7 % 1000)}{width}" for text in HOSTILE[:40]]
        if len(found) >= count:
            break
    return found[:count]


def hostile_requests(text: str) -> Iterator[bytes]:
    """``text`` in every place that takes one."""
    shown = "".join(character for character in text if character.isprintable()).encode("utf-8", "replace")
    quoted = "".join(f"%{byte:02x}" for byte in text.encode("utf-8", "replace"))
    column = {"columns": [*ONE["dataframe_split"]["columns"], text], "data": [[*ONE["dataframe_split"]["data"][0], 1]]}
    sex = {**ONE["dataframe_split"]}
    sex["data"] = [[text if isinstance(cell, str) else cell for cell in sex["data"][0]]]
    number = {**ONE["dataframe_split"], "data": [[text, *ONE["dataframe_split"]["data"][0][1:]]]}
    yield request({"dataframe_split": column})
    yield request({"dataframe_split": sex})
    yield request({"dataframe_split": number})
    yield request({"dataframe_split": ONE["dataframe_split"] | {"index": [text]}})
    yield request({text: [1]})
    yield request(ONE | {"params": {text: 1}})
    yield request(ONE | {"params": {"coverage": text}})
    yield request(text.encode("utf-8", "replace") or b" ")
    yield request(b"", f"/{quoted}")
    yield request(b"", f"/livez?{quoted}")
    for name in (b"Host", b"Authorization", b"Content-Type", b"X-Request-Id", b"Cookie", b"Accept", b"Origin"):
        content = json.dumps(ONE).encode()
        host = b"" if name == b"Host" else b"Host: localhost\r\n"
        kind = b"" if name == b"Content-Type" else b"Content-Type: application/json\r\n"
        head = b"POST /invocations HTTP/1.1\r\n" + host + kind + name + b": " + shown + b"\r\n"
        yield head + f"Content-Length: {len(content)}\r\n\r\n".encode() + content


def send_hostile(server: Running, count: int) -> Counter[int]:
    statuses: Counter[int] = Counter()
    for text in hostile(count):
        for sent in hostile_requests(text):
            with connected(server.port) as client:
                client.sendall(sent)
                status, _, body = response(client)
            statuses[status] += 1
            assert status < 500, sent
            answer = json.loads(body, parse_constant=pytest.fail) if body.strip() else None
            if status >= 400:
                assert set(answer) == {"error_code", "message", "request_id", "details"}
                assert len(text) < 4 or text in ("null", "true") or text not in body.decode(), sent
    return statuses


def test_hostile_strings_are_refused_or_answered_and_never_echoed(server: Running) -> None:
    statuses = send_hostile(server, 12)
    assert set(statuses) <= {200, 400, 404, 415}
    assert_well(server)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_five_hundred_hostile_strings(server: Running, capsys: pytest.CaptureFixture[str]) -> None:
    statuses = send_hostile(server, 500)
    with capsys.disabled():
        print(f"\n500 strings, {sum(statuses.values())} requests: {dict(sorted(statuses.items()))}")
    assert_well(server)


# --- leaving ---------------------------------------------------------------------------------------------------------


def load_until(port: int, stopped: threading.Event, seen: Counter[str]) -> None:
    """Ask on and on, each connection several times, until the server is gone; counts what became of each request."""
    while not stopped.is_set():
        try:
            client = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        except ConnectionRefusedError:
            return  # nobody listens any more: nothing was asked
        with client:
            for _ in range(20):
                try:
                    client.sendall(request(ONE))
                    status, headers, _ = response(client)
                except ConnectionError:
                    seen["lost"] += 1
                    break
                seen[str(status)] += 1
                if headers.get("connection") == "close":
                    break


def leave_under_load(folder: Path) -> Counter[str]:
    """What became of the requests of four clients around a SIGTERM; the server has to leave with exit code 0."""
    seen: Counter[str] = Counter()
    stopped = threading.Event()
    with running(folder, "serving.drain_seconds=0.5 serving.slots=64") as server:
        threads = [threading.Thread(target=load_until, args=(server.port, stopped, seen)) for _ in range(4)]
        for thread in threads:
            thread.start()
        while sum(seen.values()) < 50:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        said = server.ask(b"", "/ping")
        assert (said[0], said[1]["connection"]) in [(503, "close"), (200, "close")] or said[0] == 200
        assert server.process.wait(PATIENCE) == 0, server.log.read_text()
        stopped.set()
        for thread in threads:
            thread.join()
    return seen


def test_sigterm_under_load_loses_no_request(tmp_path: Path) -> None:
    seen = leave_under_load(tmp_path)
    assert not seen["lost"], seen
    assert set(seen) <= {"200", "503", "lost"}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_twenty_sigterms_under_load_lose_no_request(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = sum((leave_under_load(tmp_path / str(time)) for time in range(20)), Counter[str]())
    with capsys.disabled():
        print(f"\n20 SIGTERMs: {dict(seen)}")
    assert not seen["lost"]


def test_readiness_goes_before_the_answers_do(tmp_path: Path) -> None:
    with running(tmp_path, "serving.drain_seconds=1") as server, connected(server.port) as client:
        server.process.send_signal(signal.SIGTERM)
        until = time.monotonic() + PATIENCE
        while (found := server.ask(b"", "/ping"))[0] == 200 and time.monotonic() < until:
            time.sleep(0.01)
        assert (found[0], code(found[2])) == (503, "NOT_READY")
        client.sendall(request(ONE))
        status, headers, _ = response(client)
        assert (status, headers["connection"]) == (200, "close")
        assert server.process.wait(PATIENCE) == 0


# --- not starting ----------------------------------------------------------------------------------------------------


def test_others_are_not_let_in_without_a_key(tmp_path: Path) -> None:
    config = load_config("default", "", f"state.folder={tmp_path}")
    with pytest.raises(Refused, match="henaw keys create"):
        serve(config, "models:/henaw@champion", "0.0.0.0", 0)


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    config = load_config("default", "", f"state.folder={tmp_path}")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(EnvironmentProblem, match="cannot be listened on"),
    ):
        serve(config, "models:/henaw@champion", "127.0.0.1", taken.getsockname()[1])


@pytest.mark.parametrize("port", [-1, 65_536])
def test_a_port_that_is_none_is_said(tmp_path: Path, port: int) -> None:
    with pytest.raises(BadInput, match="expected 0 to 65535"):
        serve(load_config("default", "", f"state.folder={tmp_path}"), "models:/henaw@champion", "127.0.0.1", port)


def test_files_of_tls_that_cannot_be_used_are_said(tmp_path: Path) -> None:
    settings = f"state.folder={tmp_path} serving.tls_certificate={tmp_path / 'a'} serving.tls_key={tmp_path / 'b'}"
    done = subprocess.run(
        command("127.0.0.1", 0, settings), capture_output=True, cwd=REPOSITORY, env=environment(), check=False
    )
    assert done.returncode == 2
    assert b"tls_certificate" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.slow  # imports MLflow
def test_a_model_that_is_not_there_ends_the_server(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "henaw.cli", "serve", "--model", "models:/henaw@champion", "--port", "0"]
    own = environment() | {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'none.db'}"}
    done = subprocess.run(program, capture_output=True, cwd=tmp_path, env=own, check=False, timeout=PATIENCE)
    assert done.returncode == 2, done.stderr
    assert b"no such model store yet" in done.stderr
    assert b"Traceback" not in done.stderr
