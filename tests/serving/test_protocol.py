"""A real server, real sockets: what is no request, what one may ask of a protocol, and who leaves half-way."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from henaw.serving.raw_requests import asks_for_an_answer
from henaw.serving.refusals import STATUS
from tests.serving.guarded import SECRET, split
from tests.serving.sockets import (
    Running,
    assert_well,
    code,
    connected,
    impatient,
    request,
    response,
    rest,
)

pytestmark = pytest.mark.xdist_group("serving")

ONE = split(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with impatient(tmp_path_factory.mktemp("protocol")) as found:
        yield found


# --- what never becomes a request ------------------------------------------------------------------------------------


def chunked(chunks: bytes, headers: bytes = b"") -> bytes:
    head = b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return head + headers + b"Transfer-Encoding: chunked\r\n\r\n" + chunks


def in_chunks(body: bytes, size: int) -> bytes:
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n"


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", "MALFORMED_REQUEST"),  # TLS
        (b"nonsense\r\n\r\n", "MALFORMED_REQUEST"),
        (f"GET /{SECRET}\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), "MALFORMED_REQUEST"),
        ("GET /é HTTP/1.1\r\nHost: localhost\r\n\r\n".encode(), None),
        (b"GET /livez HTTP/9.9\r\nHost: localhost\r\n\r\n", "MALFORMED_REQUEST"),
        (b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n", "MALFORMED_REQUEST"),
        (b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n", None),
        (b"POST /invocations HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", "MALFORMED_REQUEST"),
        (b"CONNECT localhost:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
        (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", None),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", None),
        (b"GET /" + b"a" * 100_000, "TOO_LARGE"),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: 12345678\r\n" * 6000 + b"\r\n", "TOO_LARGE"),
        (b"GET /livez HTTP/1.1\r\nHost: local", "REQUEST_TIMEOUT"),
        (chunked(b"5\r\nhello\r\nxyz\r\n"), "MALFORMED_REQUEST"),
        (chunked(b"5\r\nhelloXX0\r\n\r\n"), "MALFORMED_REQUEST"),
        (chunked(b"-1\r\n"), "MALFORMED_REQUEST"),
        (chunked(b"1\r\n \r\n0\r\n" + b"X: 12345678\r\n" * 60_000), "TOO_LARGE"),
        (chunked(b"1\r\n \r\n0\r\nX: " + b"a" * 600_000), "TOO_LARGE"),
        (chunked(b"1;" + b"a" * 600_000), "TOO_LARGE"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else value,
)
def test_what_is_no_request_is_refused_in_our_words(server: Running, sent: bytes, expected: str | None) -> None:
    with connected(server.port) as client:
        client.sendall(sent)
        status, headers, body = response(client)
        refused = code(body) if status >= 400 else "OK"
        assert expected in (None, refused)
        assert status < 500
        assert refused == "OK" or STATUS[refused] == status
        assert SECRET not in body.decode()
        if expected is not None:
            assert headers["connection"] == "close"
            assert rest(client) == b""
    assert_well(server)


def test_who_still_sends_reads_why_it_is_refused(server: Running) -> None:
    with connected(server.port) as client:
        client.sendall(b"GET /livez HTTP/1.1\r\n" + b"X: 12345678\r\n" * 400_000)  # more than any buffer takes
        status, _, body = response(client)
        assert (status, code(body)) == (413, "TOO_LARGE")
        assert rest(client) == b""


@pytest.mark.parametrize(
    ("target", "host", "expected"),
    [
        ("http://localhost:5001/livez", "evil.example", 200),  # RFC 9112, 3.2.2: the target's host is the one asked for
        ("http://[::1]/livez", "evil.example", 200),
        ("http://evil.example/livez", "localhost", 400),
        ("http://localhost@evil.example/livez", "localhost", 400),
        ("//evil.example/livez", "localhost", 404),
        ("http://localhost", "localhost", 404),  # its path is /
        ("/livez", "localhost:80\r\nHost: evil.example", 400),
        ("/livez", "localhost:evil.example", 400),
        ("/livez", "[::1]evil.example", 400),
    ],
)
def test_the_host_that_is_asked_for_is_the_one_that_is_checked(
    server: Running, target: str, host: str, expected: int
) -> None:
    with connected(server.port) as client:
        client.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
        status, _, body = response(client)
    assert status == expected
    assert status != 400 or code(body) == "WRONG_HOST"


@pytest.mark.parametrize("protocol", ["h2c", "websocket", "é"])
@pytest.mark.parametrize("form", ["length", "chunks"])
@pytest.mark.parametrize("pieces", [1, 2, 400])
def test_an_offer_of_another_protocol_is_passed_over_with_its_body_read(
    server: Running, protocol: str, form: str, pieces: int
) -> None:
    """As Java's client and ``curl --http2`` make it, with every request."""
    offer = f"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: {protocol}\r\nHTTP2-Settings: AAMA\r\n"
    body = json.dumps(ONE).encode()
    sent = request(ONE, headers=offer) if form == "length" else chunked(in_chunks(body, 99) + b"\r\n", offer.encode())
    size = -(-len(sent) // pieces)
    with connected(server.port) as client:
        for _ in range(2):  # on the same connection
            for start in range(0, len(sent), size):
                client.sendall(sent[start : start + size])
                if pieces == 2:
                    time.sleep(0.05)
            assert response(client)[0] == 200


def test_trailers_are_no_headers(server: Running) -> None:
    body = in_chunks(json.dumps(ONE).encode(), 100)
    with connected(server.port) as client:
        client.sendall(chunked(body + b"Host: evil.example\r\nContent-Encoding: gzip\r\n\r\n"))
        assert response(client)[0] == 200
        client.sendall(request(ONE))
        assert response(client)[0] == 200


def test_a_body_in_chunks_of_a_byte_is_answered(server: Running) -> None:
    with connected(server.port) as client:
        client.sendall(chunked(in_chunks(json.dumps(split(100)).encode(), 1) + b"\r\n"))
        assert response(client)[0] == 200


def test_headers_a_byte_at_a_time_are_too_slow(server: Running) -> None:
    with connected(server.port) as client:
        with suppress(ConnectionError):
            for byte in b"POST /invocations HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100:
                client.sendall(bytes([byte]))
                time.sleep(0.02)
        assert b" 408 " in rest(client)


def test_a_connection_that_says_nothing_is_closed(server: Running) -> None:
    with connected(server.port) as client:
        assert rest(client) == b""


def test_a_body_a_byte_at_a_time_is_too_slow(server: Running) -> None:
    whole = request(ONE)
    head = whole[: whole.index(b"\r\n\r\n") + 4]
    with connected(server.port) as client:
        with suppress(ConnectionError):
            client.sendall(head)
            for byte in whole[len(head) : len(head) + 60]:
                client.sendall(bytes([byte]))
                time.sleep(0.02)
        status, headers, body = response(client)
    assert (status, code(body), headers["connection"]) == (408, "REQUEST_TIMEOUT", "close")
    assert_well(server)


# --- clients that leave half-way -------------------------------------------------------------------------------------


def test_a_client_that_only_listens_any_more_gets_its_answer(server: Running) -> None:
    with connected(server.port) as client:
        client.sendall(request(ONE))
        client.shutdown(socket.SHUT_WR)
        assert response(client)[0] == 200
        assert rest(client) == b""


@pytest.mark.parametrize("part", [0.1, 0.5, 0.99])
def test_a_client_that_leaves_before_its_request_is_whole_harms_nobody(server: Running, part: float) -> None:
    whole = request(ONE)
    with connected(server.port) as client:
        client.sendall(whole[: int(len(whole) * part)])
        client.shutdown(socket.SHUT_WR)
        rest(client)
    assert_well(server)


def test_a_large_body_is_answered_and_not_reset(server: Running) -> None:
    with connected(server.port) as client:
        client.sendall(request(b" " * 20_000_000))
        status, _, body = response(client)
        assert (status, code(body)) == (413, "TOO_LARGE")
        client.sendall(request(ONE))  # what was left of it is read past
        assert response(client)[0] == 200


def test_a_large_body_in_chunks_is_found_out_on_its_way(server: Running) -> None:
    with connected(server.port) as client:
        client.sendall(chunked(b"10000\r\n" + b" " * 0x10000 + b"\r\n"))
        for _ in range(40):
            client.sendall(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        client.sendall(b"0\r\n\r\n")
        status, _, body = response(client)
    assert (status, code(body)) == (413, "TOO_LARGE")


def test_requests_on_one_connection_are_answered_in_order(server: Running) -> None:
    with connected(server.port) as client:
        client.sendall(request(ONE) + request(b"{") + request(b"", "/livez"))
        received = b""
        while received.count(b"HTTP/1.1") < 3 or not received.endswith(b"\n"):
            received += client.recv(1 << 16)
    assert [part[1:4] for part in received.split(b"HTTP/1.1")[1:]] == [b"200", b"400", b"200"]


@pytest.mark.parametrize(
    ("sent", "asks"),
    [
        (request(ONE), True),
        (request(ONE).replace(b"Content-Length", b"content-LENGTH"), True),
        (request(ONE)[:-1], False),
        (request(ONE) + b"G", False),
        (request(ONE) + request(ONE), False),
        (request(ONE).replace(b"POST", b"GET"), False),
        (request(ONE, "/invocations/"), False),
        (request(ONE, headers="Transfer-Encoding: chunked\r\n"), False),
        (request(ONE, headers="Content-Length: 3\r\n"), False),
        (request(ONE, headers="Expect: 100-continue\r\n"), False),
        (request(ONE, headers="Connection: close\r\n"), False),
        (request({"a": "x" * 9000}), False),
    ],
)
def test_only_whole_short_requests_in_the_usual_form_may_be_sent_away_unread(sent: bytes, asks: bool) -> None:
    assert asks_for_an_answer(sent) == asks
