"""The `granian` front door: real Granian, real HTTP/2 over a relayed connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
)
from hyperframe.frame import GoAwayFrame, PingFrame

from sidecar.errors import ClientDisconnected, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request, Response
from sidecar.net.granian import GranianDoor
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.routing import canonical
from sidecar.telemetry.clock import SystemClock
from tests.support.stream import frames_of

SECONDS = 20.0
CLIENT = Connection("192.0.2.7", 4711, "192.0.2.1", 80)


class Grab(asyncio.Protocol):
    """Hands the connection to the door with its first octets, as the native front door does."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        bench = self._bench
        work = bench.door.relay(CLIENT, self._transport, data, bench.lost)
        bench.tasks.append(asyncio.get_running_loop().create_task(work))


@dataclass
class Bench:
    door: GranianDoor
    refused: list[RequestError]
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    port: int = 0
    clients: list[Client] = field(default_factory=list)

    def lost(self, side: Relay) -> None:
        self.ended.set()

    async def client(self) -> Client:
        self.clients.append(client := await Client.connect(self.port))
        return client


@dataclass
class Answer:
    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    reset: int | None = None


class Client:
    """A hand-driven HTTP/2 client that checks nothing of what it sends."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.h2 = H2Connection(
            H2Configuration(validate_outbound_headers=False, normalize_outbound_headers=False)
        )
        self.h2.initiate_connection()
        self.flush()
        self.answers: dict[int, Answer] = {}
        self.goaway: int | None = None
        self.reads = True

    @classmethod
    async def connect(cls, port: int) -> Client:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def send(
        self,
        path: str = "/",
        *fields: tuple[str, str],
        method: str = "GET",
        authority: str | None = "a.example",
        body: bytes | None = None,
        ends: bool = True,
    ) -> int:
        stream = self.h2.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "http"), (":path", path)]
        if authority is not None:
            head.append((":authority", authority))
        self.h2.send_headers(stream, head + list(fields), end_stream=ends and body is None)
        if body is not None:
            self.h2.send_data(stream, body, end_stream=ends)
        self.flush()
        self.answers[stream] = Answer()
        return stream

    async def until(self, is_done: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not is_done():
                data = await self.reader.read(65536)
                if not data:
                    return
                self._take(data)

    def _take(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, ResponseReceived):
                answer = self.answers[event.stream_id]
                headers = {bytes(n).decode(): bytes(v).decode() for n, v in event.headers}
                answer.status, answer.headers = int(headers.pop(":status")), headers
            elif isinstance(event, DataReceived):
                self.answers[event.stream_id].body += event.data
                if self.reads:
                    self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, StreamEnded):
                self.answers[event.stream_id].is_whole = True
            elif isinstance(event, StreamReset):
                self.answers[event.stream_id].reset = event.error_code
            elif isinstance(event, ConnectionTerminated):
                self.goaway = event.error_code
        self.flush()

    async def get(self, path: str = "/", *fields: tuple[str, str], **more: Any) -> Answer:
        answer = self.answers[self.send(path, *fields, **more)]
        await self.until(lambda: answer.is_whole or answer.reset is not None)
        return answer

    def close(self) -> None:
        self.writer.transport.abort()


@asynccontextmanager
async def served(
    handler: Callable[[Request], Awaitable[Response]], settings: HttpSettings | None = None
) -> AsyncIterator[Bench]:
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    refused: list[RequestError] = []
    door = GranianDoor(
        handler,
        settings or HttpSettings(),
        sweeper,
        SystemClock(),
        check_authority=canonical.authority,
        date=lambda: b"today",
        on_refused=lambda connection, error: refused.append(error),
    )
    bench = Bench(door, refused)
    server = await loop.create_server(lambda: Grab(bench), "127.0.0.1", 0)
    bench.port = server.sockets[0].getsockname()[1]
    try:
        yield bench
    finally:
        server.close()
        for client in bench.clients:
            client.close()
        await asyncio.gather(*bench.tasks)
        serving = door.drain()
        if serving is not None:
            async with asyncio.timeout(SECONDS):
                await serving
        sweeper.close()


async def tell(request: Request) -> Response:
    """What the request looked like."""
    body = b""
    while chunk := await request.body.read():
        body += chunk
    lines = [
        f"{request.method} {request.scheme}://{request.authority}{request.target}",
        f"{request.version} {request.connection.peer_host}:{request.connection.peer_port}",
        *(f"{n.decode()}={v.decode()}" for n, v in request.headers),
        f"{request.received_body_bytes} {body.decode()}",
    ]
    return Response(200, Headers([(b"x-made", b"1")]), FixedBody("\n".join(lines).encode()))


async def test_request_and_response() -> None:
    async with served(tell) as bench:
        client = await bench.client()
        answer = await client.get(
            "/a%2fb?c=%20", ("x-a", "1"), ("x_a", "2"), ("cookie", "a=1"), ("cookie", "b=2")
        )
    assert answer.status == 200
    assert answer.headers["x-made"] == "1"
    assert answer.headers["date"] == "today"
    assert answer.body.decode().splitlines() == [
        "GET http://a.example/a%2fb?c=%20",
        "HTTP/2.0 192.0.2.7:4711",
        "x-a=1",
        "cookie=a=1; b=2",
        "0 ",
    ]


@pytest.mark.parametrize("declares", [False, True])
async def test_body(declares: bool) -> None:
    async with served(tell) as bench:
        client = await bench.client()
        fields = (("content-length", "5"),) if declares else ()
        answer = await client.get("/", *fields, method="POST", body=b"hello")
    assert answer.body.endswith(b" hello")


@pytest.mark.parametrize(
    ("name", "status", "request_"),
    [
        ("36-userinfo", 400, {"authority": "a@b"}),
        ("36-no-host", 400, {"authority": None}),
        ("36-two-hosts", 400, {"fields": (("host", "a"), ("host", "b")), "authority": None}),
        ("38-101-fields", 431, {"fields": tuple((f"x-{i}", "1") for i in range(101))}),
        ("long-target", 414, {"path": "/" + "a" * 9000}),
        ("expect", 417, {"fields": (("expect", "other"),)}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
async def test_refused_before_the_handler(name: str, status: int, request_: dict[str, Any]) -> None:
    async with served(tell) as bench:
        client = await bench.client()
        path, fields = request_.pop("path", "/"), request_.pop("fields", ())
        answer = await client.get(path, *fields, **request_)
        client.close()
        assert answer.status == status
        assert [error.status for error in bench.refused] == [status]


@pytest.mark.parametrize(
    ("name", "fields", "path"),
    [
        ("18-transfer-encoding", (("transfer-encoding", "chunked"),), "/"),
        ("18-connection", (("connection", "x"),), "/"),
        ("18-space-in-path", (), "/a b"),
        ("18-line-feed", (("x-a", "1\nb: 2"),), "/"),
        ("te", (("te", "gzip"),), "/"),
        ("18-upper-case", (("X-A", "1"),), "/"),
        ("18-host-form", (("host", "a/#@b"),), "/"),
    ],
)
async def test_refused_by_hyper_or_us(
    name: str, fields: tuple[tuple[str, str], ...], path: str
) -> None:
    async def never(request: Request) -> Response:
        raise AssertionError(name)

    async with served(never) as bench:
        client = await bench.client()
        answer = client.answers[client.send(path, *fields)]
        await client.until(lambda: answer.is_whole or answer.reset is not None)
        client.close()
        assert answer.status == 400 or answer.reset is not None or client.goaway is not None


async def test_18_length_that_lies_fails_the_body() -> None:
    failed = asyncio.Event()

    async def read(request: Request) -> Response:
        try:
            while await request.body.read():
                continue
        except (ClientDisconnected, asyncio.CancelledError):
            failed.set()
            raise
        return Response(200)

    async with served(read) as bench:
        client = await bench.client()
        answer = client.answers[
            client.send("/", ("content-length", "9"), method="POST", body=b"short")
        ]
        await client.until(lambda: answer.reset is not None)
        async with asyncio.timeout(SECONDS):
            await failed.wait()
        client.close()


async def test_grpc_is_refused_in_its_own_words() -> None:
    async with served(tell) as bench:
        client = await bench.client()
        answer = await client.get("/", ("content-type", "application/grpc"), method="POST")
    assert answer.status == 200
    assert answer.headers["grpc-status"] == "12"
    assert "config.frontDoor" in answer.headers["grpc-message"]


@dataclass
class Ticking:
    """A body that gives a chunk whenever it is asked, and counts."""

    chunk: bytes = b"x" * 16384
    length: int | None = None
    trailers: Headers | None = None
    reads: int = 0
    is_closed: bool = False

    def read_nowait(self) -> bytes | None:
        return None

    async def read(self) -> bytes:
        self.reads += 1
        await asyncio.sleep(0)
        return self.chunk

    def close(self) -> None:
        self.is_closed = True


async def test_30_a_client_that_does_not_read_stops_the_source() -> None:
    body = Ticking()

    async def stream(request: Request) -> Response:
        return Response(200, body=body)

    async with served(stream) as bench:
        client = await bench.client()
        client.reads = False
        answer = client.answers[client.send()]
        await client.until(lambda: len(answer.body) >= 65535)
        seen = -1
        while seen != body.reads:  # until it is still for a while
            seen = body.reads
            await asyncio.sleep(0.1)
        assert body.reads * len(body.chunk) < 512 * 1024
        client.close()
        await bench.ended.wait()


@pytest.mark.parametrize("how", ["reset", "close"])
@pytest.mark.parametrize("when", ["before-head", "in-body"])
async def test_50_a_client_that_leaves_ends_its_exchange(how: str, when: str) -> None:
    loop = asyncio.get_running_loop()
    began = asyncio.Event()
    cancelled = asyncio.Event()
    done: asyncio.Future[tuple[int, str]] = loop.create_future()
    body = Ticking(b"tick")

    async def slow(request: Request) -> Response:
        began.set()
        if when == "before-head":
            try:
                await asyncio.Event().wait()
            finally:
                cancelled.set()
        response = Response(200, body=body)
        response.on_done = lambda sent, error: done.set_result((sent, error))
        return response

    async with served(slow) as bench:
        client = await bench.client()
        stream = client.send()
        async with asyncio.timeout(SECONDS):
            await began.wait()
            if when == "in-body":
                await client.until(lambda: bool(client.answers[stream].body))
            if how == "close":
                client.close()
            else:
                client.h2.reset_stream(stream, 8)
                client.flush()
            if when == "before-head":
                await cancelled.wait()
            else:
                _, error = await done
                assert "client" in error
                assert body.is_closed
        client.close()


async def test_a_cut_response_is_reset_and_done_once() -> None:
    done: list[tuple[int, str]] = []

    @dataclass
    class Broken(Ticking):
        async def read(self) -> bytes:
            self.reads += 1
            if self.reads > 1:
                raise UpstreamError(502, "UpstreamFailure", "gone")
            return b"part"

    async def cut(request: Request) -> Response:
        response = Response(200, body=Broken())
        response.on_done = lambda sent, error: done.append((sent, error))
        return response

    async with served(cut) as bench:
        client = await bench.client()
        answer = await client.get()
    assert answer.body == b"part"
    assert answer.reset is not None
    assert not answer.is_whole
    assert done == [(4, "gone")]


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_no_body_where_none_may_be(method: str, status: int) -> None:
    async def handler(request: Request) -> Response:
        return Response(status, body=FixedBody(b"12345" if status == 200 else b""))

    async with served(handler) as bench:
        client = await bench.client()
        answer = await client.get(method=method)
    assert (answer.status, answer.body) == (status, b"")
    assert answer.headers.get("content-length") == ("5" if status == 200 else None)


async def test_drain_lets_streams_end() -> None:
    go = asyncio.Event()
    began = asyncio.Event()

    async def slow(request: Request) -> Response:
        began.set()
        await go.wait()
        return Response(200, body=FixedBody(b"whole"))

    async with served(slow) as bench:
        client = await bench.client()
        answer = client.answers[client.send()]
        await began.wait()
        bench.door.drain()
        # python-h2 takes a connection for closed at the first GOAWAY, where RFC 9113 says that
        # the streams below its number go on; so the octets tell.
        async with asyncio.timeout(SECONDS):
            octets = b""
            while not any(isinstance(frame, GoAwayFrame) for frame in frames_of(octets)):
                octets += await client.reader.read(65536)
            while not (pings := [f for f in frames_of(octets) if isinstance(f, PingFrame)]):
                octets += await client.reader.read(65536)
            client.writer.write(PingFrame(0, pings[0].opaque_data, flags=["ACK"]).serialize())
            go.set()
            rest = await client.reader.read()
    assert answer.status == 0
    assert b"whole" in rest


async def test_idle_connections_are_cut() -> None:
    async with served(tell, HttpSettings(idle_seconds=0.3)) as bench:
        client = await bench.client()
        assert (await client.get()).status == 200
        async with asyncio.timeout(SECONDS):
            await bench.ended.wait()
        client.close()


async def test_20_rapid_reset_is_stopped() -> None:
    running = 0
    most = 0

    async def forever(request: Request) -> Response:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.Event().wait()
        finally:
            running -= 1
        return Response(200)

    async with served(forever) as bench:
        client = await bench.client()
        for _ in range(2000):
            stream = client.send()
            client.h2.reset_stream(stream, 8)
            client.flush()
        await client.until(lambda: client.goaway is not None)
        client.close()
        await bench.ended.wait()
    assert client.goaway is not None
    assert most <= 200


async def test_a_stranger_on_the_loopback_is_served_nothing() -> None:
    async with served(tell) as bench:
        client = await bench.client()
        assert (await client.get()).status == 200
        assert bench.door._reserved is not None
        stranger = await Client.connect(bench.door._reserved.getsockname()[1])
        assert (await stranger.get()).status == 403
        stranger.close()
        client.close()


async def test_1_8_36_why_http1_stays_native() -> None:
    """What hyper takes without a word; when this fails, docs/frontdoors.md may change."""
    from granian.constants import HTTPModes, Interfaces
    from granian.log import LogLevels
    from granian.server.embed import Server

    from tests.support.gateway import free_ports

    seen: list[list[tuple[bytes, bytes]]] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    [port] = free_ports(1)
    server = Server(
        application,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http1,
        log_level=LogLevels.error,
        log_dictconfig={"incremental": True, "handlers": {}, "loggers": {}},
    )
    task = asyncio.get_running_loop().create_task(server.serve())
    host = b"Host: a\r\n"
    vectors = {
        "8 bare line feeds": b"GET / HTTP/1.1\nHost: a\n\n",
        "1 length and coding": b"POST / HTTP/1.1\r\n" + host + b"Content-Length: 5\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "36 two names": b"GET http://b/ HTTP/1.1\r\n" + host + b"\r\n",
    }
    async with asyncio.timeout(SECONDS):
        for name, octets in vectors.items():
            while True:
                try:
                    reader, writer = await asyncio.open_connection("127.0.0.1", port)
                    break
                except ConnectionRefusedError:
                    await asyncio.sleep(0.005)
            writer.write(octets)
            assert (await reader.readline()).startswith(b"HTTP/1.1 200"), name
            writer.transport.abort()
    server.stop()  # type: ignore[no-untyped-call]
    await task
    assert [dict(fields)[b"host"] for fields in seen] == [b"a"] * 3
