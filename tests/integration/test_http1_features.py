"""What HTTP/1.1 offers, end to end: from a raw client through a real gateway to a strict origin."""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve

from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.hostile_http1 import chunked, get, post
from tests.support.origin import Client, Origin, Recorded, Stream, answer

MIB = 1024 * 1024
UPGRADE = (b"Connection: Upgrade", b"Upgrade: Echo/1")


def resident_bytes(pid: int) -> int:
    """What the kernel says the process holds in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


class Behaviour:
    """Answers by the request's path; what a test waits for is here."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.blocked = threading.Event()
        self.gone = threading.Event()
        self.gone_at = 0.0
        self.sent = 0
        self.total = 0

    def __call__(self, stream: Stream, head: Recorded) -> bool | None:
        name = head.target[1:].partition("?")[0]
        action = getattr(self, f"on_{name}", None)
        if action is None:
            stream.read_body(head)
            stream.send(answer(head.body or head.target.encode()))
            return None
        return bool(action(stream, head))

    def on_no_content(self, stream: Stream, head: Recorded) -> bool:
        stream.send(b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n")
        return True

    def on_not_modified(self, stream: Stream, head: Recorded) -> bool:
        stream.send(b'HTTP/1.1 304 Not Modified\r\netag: "1"\r\ncontent-length: 5\r\n\r\n')
        return True

    def on_head(self, stream: Stream, head: Recorded) -> bool:
        stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n")
        return True

    def on_head_chunked(self, stream: Stream, head: Recorded) -> bool:
        stream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        return True

    def on_early(self, stream: Stream, head: Recorded) -> bool:
        stream.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        stream.send(b"HTTP/1.1 103 Early Hints\r\nlink: </a.css>\r\n\r\n")
        self.go.wait(10)
        stream.send(answer(b"late"))
        return True

    def on_trailers(self, stream: Stream, head: Recorded) -> bool:
        stream.read_body(head)
        sums = dict(head.trailers).get("x-sum", "none").encode()
        stream.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
        stream.send(b"3\r\nabc\r\n0\r\nx-got: %b\r\n\r\n" % sums)
        return True

    def on_events(self, stream: Stream, head: Recorded) -> bool:
        stream.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n"
            b"transfer-encoding: chunked\r\n\r\n8\r\ndata: 1\n\r\n"
        )
        stream.wait_end()
        self.gone_at = time.monotonic()
        self.gone.set()
        return False

    def on_silent(self, stream: Stream, head: Recorded) -> bool:
        self.go.set()
        stream.wait_end()
        self.gone_at = time.monotonic()
        self.gone.set()
        return False

    def on_flood(self, stream: Stream, head: Recorded) -> bool:
        """Sends until the total, noting when nothing more goes out."""
        stream.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % self.total)
        block = bytes(MIB)
        while self.sent < self.total:
            stream.sock.settimeout(1.0)
            try:
                self.sent += stream.sock.send(block[: self.total - self.sent])
            except TimeoutError:
                self.blocked.set()
        return True

    def on_stuck(self, stream: Stream, head: Recorded) -> bool:
        """Reads the request's body only when it is told to."""
        self.go.wait(20)
        stream.read_body(head)
        stream.send(answer(hashlib.sha256(head.body).hexdigest().encode()))
        return True

    def on_upgrade(self, stream: Stream, head: Recorded) -> bool:
        assert head.values("upgrade") == ["echo/1"]
        assert not stream.buffer
        self.go.wait(10)
        stream.send(
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\nhi "
        )
        while stream.buffer or stream.more():
            stream.send(stream.buffer)
            stream.buffer = b""
        stream.send(b"bye")
        return False

    def on_other(self, stream: Stream, head: Recorded) -> bool:
        stream.send(b"HTTP/1.1 101 Up\r\nconnection: upgrade\r\nupgrade: else\r\n\r\n")
        return False

    def on_declined(self, stream: Stream, head: Recorded) -> bool:
        stream.send(answer(b"plain", line=b"HTTP/1.1 426 Upgrade Required"))
        return True


class Front:
    def __init__(self, gateway: GatewayProcess, origin: Origin, port: int) -> None:
        self.gateway = gateway
        self.origin = origin
        self.port = port
        self.behaviour = Behaviour()

    def client(self) -> Client:
        return Client(self.port)


@pytest.fixture(scope="module")
def shared() -> Iterator[Front]:
    port = free_ports(1)[0]
    with Origin() as origin, GatewayProcess(proxy_config(port, origin.address)) as gateway:
        yield Front(gateway, origin, port)
        assert "Traceback" not in gateway.log()


@pytest.fixture
def front(shared: Front) -> Iterator[Front]:
    shared.behaviour = Behaviour()
    shared.origin.on_head = shared.behaviour
    shared.origin.heads.clear()
    yield shared
    shared.behaviour.go.set()
    assert shared.origin.problems == []


def path(name: str, *fields: bytes, method: str = "GET", version: str = "1.1") -> bytes:
    return get(*fields, line=f"{method} /{name} HTTP/{version}".encode())


class TestMessages:
    def test_keep_alive_and_pipelining(self, front: Front) -> None:
        with front.client() as client:
            client.send(b"".join(path(f"n{number}") for number in range(50)))
            found = [client.read().body for _ in range(50)]
        assert found == [f"/n{number}".encode() for number in range(50)]
        assert len({head.connection for head in front.origin.heads}) == 1

    def test_head(self, front: Front) -> None:
        with front.client() as client:
            found = client.ask(path("head", method="HEAD"), is_head=True)
            assert found.value("content-length") == "1234"
            found = client.ask(path("head_chunked", method="HEAD"), is_head=True)
            assert (found.status, found.value("content-length")) == (200, None)
            assert client.ask(path("next")).body == b"/next"

    def test_no_content_and_not_modified(self, front: Front) -> None:
        with front.client() as client:
            found = client.ask(path("no_content"))
            assert (found.status, found.value("content-length")) == (204, None)
            assert found.value("transfer-encoding") is None
            found = client.ask(path("not_modified"))
            assert (found.status, found.value("etag")) == (304, '"1"')
            assert client.ask(path("next")).body == b"/next"

    def test_early_hints_come_early(self, front: Front) -> None:
        with front.client() as client:
            client.send(path("early"))
            found = client.read_head()
            assert (found.status, found.value("link")) == (103, "</a.css>")
            front.behaviour.go.set()
            assert client.read().body == b"late"

    def test_no_interim_responses_for_1_0(self, front: Front) -> None:
        front.behaviour.go.set()
        with front.client() as client:
            client.send(path("early", version="1.0"))
            assert client.read_head().status == 200

    def test_expect_continue(self, front: Front) -> None:
        with front.client() as client:
            client.send(post(b"Expect: 100-continue", b"Content-Length: 5"))
            assert client.read_head().status == 100
            assert client.ask(b"hello").body == b"hello"
        assert front.origin.heads[0].values("expect") == []

    def test_chunks_and_trailers_both_ways(self, front: Front) -> None:
        body = b"2\r\nab\r\n1;x=y\r\nc\r\n0\r\nX-Sum: 7\r\n\r\n"
        head = path("trailers", b"TE: trailers", b"Transfer-Encoding: chunked", method="POST")
        with front.client() as client:
            found = client.ask(head + body)
            assert (found.body, found.trailers) == (b"abc", [("x-got", "7")])
            assert client.ask(chunked(b"1\r\nx\r\n0\r\n\r\n")).body == b"x"

    @pytest.mark.parametrize("keep", [False, True])
    def test_1_0(self, front: Front, keep: bool) -> None:
        fields = [b"Connection: keep-alive"] if keep else []
        with front.client() as client:
            found = client.ask(path("trailers", *fields, version="1.0"))
            assert found.body == b"abc"  # no chunks for those who do not know them
            assert found.value("transfer-encoding") is None
        with front.client() as client:
            found = client.ask(path("a", *fields, version="1.0"))
            assert found.body == b"/a"
            assert found.value("connection") == ("keep-alive" if keep else "close")
            if keep:
                assert client.ask(path("b", version="1.0")).body == b"/b"
            assert client.rest() == b""


class TestStreams:
    def test_event_arrives_while_the_stream_is_open(self, front: Front) -> None:
        with front.client() as client:
            client.send(path("events"))
            assert client.read_head().value("content-type") == "text/event-stream"
            assert client.stream.line() == b"8"
            assert client.stream.take(10) == b"data: 1\n\r\n"

    @pytest.mark.parametrize("name", ["events", "silent"])
    def test_50_client_that_leaves_cancels_the_upstream(self, front: Front, name: str) -> None:
        taken = []
        for _ in range(3):
            front.behaviour.gone.clear()
            front.behaviour.go.clear()
            client = front.client()
            client.send(path(name))
            if name == "events":
                client.read_head()
            else:
                assert front.behaviour.go.wait(20)
            left_at = time.monotonic()
            client.close()
            assert front.behaviour.gone.wait(20)
            taken.append(front.behaviour.gone_at - left_at)
        assert min(taken) < 0.5

    def test_30_client_that_stops_reading_stops_the_upstream(self, front: Front) -> None:
        behaviour = front.behaviour
        behaviour.total = 64 * MIB
        (pid,) = front.gateway.worker_pids()
        before = resident_bytes(pid)
        with front.client() as client:
            client.send(path("flood"))
            assert behaviour.blocked.wait(20)
            assert behaviour.sent < 32 * MIB  # what the kernel's buffers of four sockets hold
            assert resident_bytes(pid) - before < 2 * MIB
            client.read_head()
            left = behaviour.total
            while left:
                left -= client.skip(left)

    def test_upstream_that_stops_reading_stops_the_client(self, front: Front) -> None:
        total = 64 * MIB
        digest = hashlib.sha256(bytes(total)).hexdigest().encode()
        (pid,) = front.gateway.worker_pids()
        before = resident_bytes(pid)
        with front.client() as client:
            client.send(path("stuck", b"Content-Length: %d" % total, method="POST"))
            client.sock.settimeout(1.0)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < total:
                    sent += client.sock.send(bytes(min(MIB, total - sent)))
            assert sent < 32 * MIB
            assert resident_bytes(pid) - before < 2 * MIB
            front.behaviour.go.set()
            client.sock.settimeout(20)
            client.send(bytes(total - sent))
            assert client.read().body == digest

    def test_long_stream_needs_no_memory(self, front: Front) -> None:
        front.behaviour.total = 10 * 1024 * MIB
        (pid,) = front.gateway.worker_pids()
        before = peak = resident_bytes(pid)
        with front.client() as client:
            client.send(path("flood"))
            client.read_head()
            left = front.behaviour.total
            rounds = 0
            while left:
                left -= client.skip(left)
                rounds += 1
                if not rounds % 200:
                    peak = max(peak, resident_bytes(pid))
        assert peak - before < 32 * MIB


class TestUpgrade:
    def test_other_protocol(self, front: Front) -> None:
        with front.client() as client:
            client.send(path("upgrade", *UPGRADE) + b"ahead")
            front.behaviour.go.set()
            found = client.read_head()
            assert (found.status, found.value("upgrade")) == (101, "echo/1")
            assert found.value("connection") == "upgrade"
            assert client.stream.take(8) == b"hi ahead"
            client.send(b"x" * 100_000)
            assert client.stream.take(100_000) == b"x" * 100_000
            client.sock.shutdown(1)
            assert client.rest() == b"bye"

    def test_another_protocol_than_asked_for(self, front: Front) -> None:
        with front.client() as client:
            found = client.ask(path("other", *UPGRADE))
            assert found.status == 502
            expected = b"request upgrade failed, backend tried else but echo/1 was requested"
            assert found.body == expected

    def test_declined(self, front: Front) -> None:
        with front.client() as client:
            found = client.ask(path("declined", *UPGRADE))
            assert (found.status, found.body) == (426, b"plain")
            assert client.ask(path("next")).body == b"/next"


def _echo(connection: ServerConnection) -> None:
    for message in connection:
        connection.send(message)


@pytest.fixture(scope="module")
def websocket() -> Iterator[tuple[int, Server]]:
    port = free_ports(1)[0]
    with serve(_echo, "127.0.0.1", 0, max_size=None) as server:
        upstream = f"127.0.0.1:{server.socket.getsockname()[1]}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with GatewayProcess(proxy_config(port, upstream)):
            yield port, server
        server.shutdown()
        thread.join()


class TestWebSocket:
    def test_messages(self, websocket: tuple[int, Server]) -> None:
        with connect(f"ws://127.0.0.1:{websocket[0]}/x", max_size=None) as client:
            for message in ("hello", b"\x00\xff", "", "é" * 1000, b"x" * MIB):
                client.send(message)
                assert client.recv(timeout=20) == message
            assert client.ping().wait(20)
        assert client.close_code == 1000

    def test_refused_by_the_gateway(self, front: Front) -> None:
        with pytest.raises(InvalidStatus) as caught:
            connect(f"ws://127.0.0.1:{front.port}/no_content")
        assert caught.value.response.status_code == 204
