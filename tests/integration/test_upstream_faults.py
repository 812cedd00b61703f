"""Upstreams that are down, reset, stall or lie: what the client is told, and nothing is poisoned.

Source: spec/config.md section 11; spec hardening section 4.3 A 19.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.hostile_http1 import get, post
from tests.support.origin import Answer, Client, Origin, Recorded, Stream, answer

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"

REFUSED = {
    "19-length_and_coding": OK
    + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    "19-two_lengths": OK + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello!",
    "19-bad_length": OK + b"content-length: +5\r\n\r\nhello",
    "19-bad_coding": OK + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n",
    "19-bad_chunk": CHUNKED + b"zz\r\nhello\r\n0\r\n\r\n",
    "19-bare_lf": b"HTTP/1.1 200 OK\ncontent-length: 0\n\n",
    "19-bad_field": OK + b"a : b\r\ncontent-length: 0\r\n\r\n",
    "19-folded_field": OK + b"a: b\r\n c\r\ncontent-length: 0\r\n\r\n",
    "19-interim_flood": b"HTTP/1.1 103 Early\r\n\r\n" * 50 + answer(),
    "19-unasked_101": b"HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
    "19-not_http": b"SSH-2.0-OpenSSH_9.0\r\n",
    "19-version_2": b"HTTP/2.0 200 OK\r\n\r\n",
    "19-status_099": b"HTTP/1.1 099 Low\r\ncontent-length: 0\r\n\r\n",
    "19-huge_head": OK + b"a: " + b"a" * 100_000 + b"\r\n\r\n",
}
CUT = {
    "short_length": OK + b"content-length: 10\r\n\r\nhello",
    "short_chunk": CHUNKED + b"a\r\nhello",
    "no_last_chunk": CHUNKED + b"5\r\nhello\r\n",
}
NOT_KEPT = {
    "19-length_with_204": b"HTTP/1.1 204 No\r\ncontent-length: 5\r\n\r\n",
    "19-chunks_with_204": b"HTTP/1.1 204 No\r\ntransfer-encoding: chunked\r\n\r\n",
    "19-body_with_204": b"HTTP/1.1 204 No\r\n\r\nhello",
    "19-more_than_length": OK + b"content-length: 2\r\n\r\nok" + answer(b"poison"),
    "19-more_than_chunks": CHUNKED + b"2\r\nok\r\n0\r\n\r\n" + answer(b"poison"),
    "19-body_with_304": b"HTTP/1.1 304 No\r\n\r\n" + answer(b"poison"),
    "said_close": answer(b"ok", b"connection: close"),
}


class Faults:
    """A gateway before an origin that does what the request's path says."""

    def __init__(self) -> None:
        self.origin = Origin(self.script, on_head=None)
        self.port, self.dead = free_ports(2)
        self.release = threading.Event()

    def script(self, stream: Stream, request: Recorded) -> bool | None:
        kind, _, name = request.target[1:].partition("/")
        if kind == "raw":
            stream.send({**REFUSED, **NOT_KEPT}[name])
            return None
        if kind == "cut":
            stream.send(CUT[name])
            return False
        if kind == "reset":
            stream.reset()
            return False
        if kind == "close":
            return False
        if kind == "half":
            stream.send(b"HTTP/1.1 200 OK\r\ncontent-le")
            return False
        if kind in ("stall", "route_stall"):
            stream.wait_end()
            return False
        if kind == "until_close":
            stream.send(OK + b"\r\nhello")
            if name == "reset":
                self.release.wait(10)
                stream.reset()
            return False
        stream.send(answer(request.target.encode()))
        return None

    def config(self) -> dict[str, Any]:
        def route(prefix: str, address: str, **policies: Any) -> dict[str, Any]:
            return {
                "name": prefix.strip("/") or "all",
                "matches": [{"path": {"pathPrefix": prefix}}],
                "backends": [{"host": address}],
                "policies": policies,
            }

        routes = [
            route("/down", f"127.0.0.1:{self.dead}"),
            route("/stall", self.origin.address, timeout={"backendRequestTimeout": "200ms"}),
            route("/route_stall", self.origin.address, timeout={"requestTimeout": "200ms"}),
            route("/", self.origin.address),
        ]
        return {"binds": [{"port": self.port, "listeners": [{"routes": routes}]}]}

    def ask(self, target: str, *, is_head: bool = False) -> Answer:
        with Client(self.port) as client:
            return client.ask(get(line=f"GET {target} HTTP/1.1".encode()), is_head=is_head)


@pytest.fixture(scope="module")
def faults() -> Iterator[Faults]:
    made = Faults()
    with made.origin, GatewayProcess(made.config()) as gateway:
        workers = gateway.worker_pids()
        yield made
        assert gateway.worker_pids() == workers
        assert "Traceback" not in gateway.log()


@pytest.fixture(autouse=True)
def _clean(faults: Faults) -> Iterator[None]:
    faults.origin.requests.clear()
    yield
    # Whatever the upstream did, the next client gets its own answer.
    for _ in range(3):
        assert faults.ask("/alive").body == b"/alive"
    assert faults.origin.problems == []


@pytest.mark.parametrize("name", REFUSED)
def test_refused_response_is_502(faults: Faults, name: str) -> None:
    found = faults.ask(f"/raw/{name}")
    assert found.status == 502
    assert found.value("content-type") == "text/plain"
    expected = b"upgrade failed" if "101" in name else b"upstream call failed: "
    assert expected in found.body
    assert b"poison" not in found.body


@pytest.mark.parametrize("name", CUT)
def test_cut_response_is_cut(faults: Faults, name: str) -> None:
    # The head may have gone on already: then the client can tell by the framing.
    with Client(faults.port) as client:
        found = client.ask(get(line=f"GET /cut/{name} HTTP/1.1".encode()))
        assert found.is_cut


@pytest.mark.parametrize("name", NOT_KEPT)
def test_doubtful_connection_is_not_reused(faults: Faults, name: str) -> None:
    assert faults.ask("/before").status == 200
    first = faults.origin.requests[-1].connection
    assert faults.ask(f"/raw/{name}").status in (200, 204, 304)
    used = faults.origin.requests[-1].connection
    assert used == first
    assert faults.ask("/after").body == b"/after"
    assert faults.origin.requests[-1].connection != used


def test_good_connection_is_reused(faults: Faults) -> None:
    numbers = set()
    for _ in range(4):
        faults.ask("/x")
        numbers.add(faults.origin.requests[-1].connection)
    assert len(numbers) == 1


@pytest.mark.parametrize(
    ("target", "status", "body"),
    [
        ("/down", 503, b"upstream call failed: connect 127.0.0.1:%d: "),
        ("/reset", 503, b"upstream call failed: "),
        ("/close", 503, b"upstream call failed: "),
        ("/half", 503, b"upstream call failed: "),
        ("/stall", 504, b"upstream call timeout"),
        ("/route_stall", 504, b"request timeout"),
    ],
)
def test_status_and_body(faults: Faults, target: str, status: int, body: bytes) -> None:
    found = faults.ask(target)
    assert found.status == status
    assert found.value("content-type") == "text/plain"
    expected = body % faults.dead if b"%" in body else body
    assert found.body.startswith(expected)


def test_stalled_call_is_given_up(faults: Faults) -> None:
    before = faults.origin.ended
    assert faults.ask("/stall").status == 504
    faults.origin.wait(lambda origin: origin.ended > before)


def test_until_close_is_whole(faults: Faults) -> None:
    found = faults.ask("/until_close")
    assert (found.status, found.body, found.is_cut) == (200, b"hello", False)


def test_until_close_that_is_reset_is_cut(faults: Faults) -> None:
    faults.release.clear()
    with Client(faults.port) as client:
        client.send(get(line=b"GET /until_close/reset HTTP/1.1"))
        assert client.read_head().status == 200
        faults.release.set()
        assert not client.rest().endswith(b"0\r\n\r\n")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_connection_that_died_in_the_pool(faults: Faults, method: str) -> None:
    # The upstream closes kept connections; the next call goes to a fresh one.
    ended = faults.origin.ended
    assert faults.ask("/x").status == 200
    number = faults.origin.requests[-1].connection
    assert faults.ask("/close").status == 503
    faults.origin.wait(lambda origin: origin.ended > ended)
    with Client(faults.port) as client:
        line = f"{method} /y HTTP/1.1".encode()
        assert client.ask(get(b"content-length: 0", line=line)).status == 200
    assert faults.origin.requests[-1].connection > number


def test_answer_before_the_body_was_read() -> None:
    # An early answer with keep-alive: what becomes of the body's rest is unknown, so no reuse.
    def early(stream: Stream, request: Recorded) -> bool:
        stream.send(answer(b"no", line=b"HTTP/1.1 413 Large"))
        stream.wait_end()
        return False

    port = free_ports(1)[0]
    with Origin(on_head=early) as origin:
        config = {
            "binds": [
                {
                    "port": port,
                    "listeners": [{"routes": [{"backends": [{"host": origin.address}]}]}],
                }
            ]
        }
        with GatewayProcess(config), Client(port) as client:
            client.send(post(b"content-length: 1000000", body=b"x" * 1000))
            found = client.read()
            assert (found.status, found.body) == (413, b"no")
            origin.wait(lambda origin: origin.ended == 1)
