"""H2Server against a hand-driven peer, in memory; then curl and h2load where they are installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    InformationalResponseReceived,
    PingReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.settings import SettingCodes

from sidecar.errors import ClientDisconnected, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, read_all
from sidecar.net.h2_server import H2Server
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import SystemClock
from tests.support.programs import needs_program
from tests.support.stream import FakeTransport, ManualTime, Peer, turns

Handler = Callable[[Request], Awaitable[Response]]
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
POST = [(b":method", b"POST"), *GET[1:]]
HEAD = [(b":method", b"HEAD"), *GET[1:]]


def lower(raw: str) -> str:
    if "@" in raw:
        raise RequestError(400, "InvalidRequest", "bad authority")
    return raw.lower()


class Bench:
    """A server on a fake transport, its peer, and the time."""

    def __init__(
        self, handler: Handler, settings: HttpSettings | None = None, cut: int = 0, **extra: Any
    ) -> None:
        self.time = ManualTime()
        self.sweeper = Sweeper(self.time)  # type: ignore[arg-type]
        self.closed: list[H2Server] = []
        self.server = H2Server(
            handler,
            None,
            settings or HttpSettings(),
            self.sweeper,
            SystemClock(),
            scheme="http",
            check_authority=lower,
            on_closed=self.closed.append,
            **extra,
        )
        self.transport = FakeTransport(self.server)
        self.server.connection_made(self.transport)
        self.peer = Peer(self.server, self.transport, is_client=True, cut=cut)

    async def get(self, stream_id: int = 1, fields: Any = GET, end: bool = True) -> None:
        self.peer.h2.send_headers(stream_id, fields, end_stream=end)
        await self.peer.pump()

    def head(self, stream_id: int = 1) -> dict[bytes, bytes]:
        (event,) = self.peer.of(ResponseReceived, stream_id)
        return dict(event.headers)


class ChunkBody:
    """A body that gives chunks, waiting before each for `gate` when there is one."""

    def __init__(
        self,
        *chunks: bytes | Exception,
        trailers: Headers | None = None,
        gate: asyncio.Semaphore | None = None,
        length: int | None = None,
    ) -> None:
        self.length = length
        self.trailers: Headers | None = None
        self.taken = 0
        self.is_closed = False
        self._chunks = list(chunks)
        self._end = trailers
        self._gate = gate

    def read_nowait(self) -> bytes | None:
        if self._gate is not None and self._chunks:
            return None
        return self._next()

    async def read(self) -> bytes:
        if self._gate is not None:
            await self._gate.acquire()
        return self._next()

    def _next(self) -> bytes:
        if not self._chunks:
            self.trailers = self._end
            return b""
        chunk = self._chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        self.taken += 1
        return chunk

    def close(self) -> None:
        self.is_closed = True


async def hello(request: Request) -> Response:
    return Response(200, Headers([(b"x", b"y"), (b"connection", b"close")]), FixedBody(b"hello"))


async def echo(request: Request) -> Response:
    whole = await read_all(request.body, 1 << 24)
    return Response(200, body=FixedBody(whole, request.body.trailers))


@pytest.mark.parametrize("cut", [0, 1, 5])
async def test_request_and_response(cut: int) -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> Response:
        seen.append(request)
        return await hello(request)

    bench = Bench(handler, cut=cut)
    await bench.get(fields=[*GET, (b"accept", b"*/*"), (b"te", b"trailers")])
    assert bench.head() == {b":status": b"200", b"x": b"y", b"content-length": b"5"}
    assert bench.peer.body(1) == b"hello"
    (request,) = seen
    assert (request.method, request.scheme, request.authority) == ("GET", "http", "a")
    assert (request.target, request.version) == ("/", "HTTP/2.0")
    assert request.headers == [(b"accept", b"*/*")]
    assert request.wants_trailers
    assert request.connection.peer_host == "192.0.2.7"


@pytest.mark.parametrize("cut", [0, 3])
async def test_body_and_trailers_both_ways(cut: int) -> None:
    bench = Bench(echo, cut=cut)
    h2 = bench.peer.h2
    h2.send_headers(1, POST)
    h2.send_data(1, b"one ", pad_length=3)
    h2.send_data(1, b"two")
    h2.send_headers(1, [(b"grpc-status", b"0"), (b"host", b"x")], end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(1) == b"one two"
    (event,) = bench.peer.of(TrailersReceived, 1)
    assert event.headers == [(b"grpc-status", b"0")]


BODILESS = {
    "head": (HEAD, Response(200, body=FixedBody(b"hello")), b"5"),
    "204": (GET, Response(204, Headers([(b"content-length", b"0")])), None),
    "304": (GET, Response(304, Headers([(b"content-length", b"9")])), b"9"),
}


@pytest.mark.parametrize(("fields", "response", "length"), BODILESS.values(), ids=BODILESS)
async def test_responses_without_body(fields: Any, response: Response, length: bytes) -> None:
    async def handler(request: Request) -> Response:
        return response

    bench = Bench(handler)
    await bench.get(fields=fields)
    assert bench.head().get(b"content-length") == length
    assert bench.peer.body(1) == b""
    assert bench.peer.of(StreamEnded, 1)


async def test_content_length_says_what_is_sent() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, Headers([(b"content-length", b"99")]), FixedBody(b"abc"))

    bench = Bench(handler)
    await bench.get()
    assert bench.head()[b"content-length"] == b"3"


async def test_one_write_for_what_one_turn_makes() -> None:
    bench = Bench(hello)
    await bench.peer.pump()
    before = bench.transport.writes
    for stream_id in range(1, 21, 2):
        bench.peer.h2.send_headers(stream_id, GET, end_stream=True)
    await bench.peer.pump(1)
    assert bench.transport.writes - before == 1
    assert len(bench.peer.of(ResponseReceived)) == 10


async def test_response_body_waits_for_the_window() -> None:
    body = ChunkBody(*[b"x" * 30_000] * 10)

    async def handler(request: Request) -> Response:
        return Response(200, body=body)

    bench = Bench(handler)
    await bench.get()
    assert len(bench.peer.body(1)) == 65_535
    # One chunk is under way and the next was looked at; no more is taken from the source.
    assert body.taken == 4
    bench.peer.h2.increment_flow_control_window(10**6)
    bench.peer.h2.increment_flow_control_window(10**6, 1)
    await bench.peer.pump(8)
    assert len(bench.peer.body(1)) == 300_000
    assert body.is_closed


async def test_response_body_waits_for_a_client_that_does_not_read_30() -> None:
    body = ChunkBody(*[b"x" * 16_384] * 100)

    async def handler(request: Request) -> Response:
        return Response(200, body=body)

    bench = Bench(handler)
    h2 = bench.peer.h2
    await bench.peer.pump()
    h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**30})
    h2.increment_flow_control_window(2**30)
    await bench.peer.pump()
    bench.transport.is_stuck = True
    h2.send_headers(1, GET, end_stream=True)
    bench.peer.push()
    await turns(50)
    assert len(bench.transport.written) < 256 * 1024
    assert body.taken < 12
    bench.transport.release()
    await bench.peer.pump(10)
    assert len(bench.peer.body(1)) == 1_638_400


async def test_request_body_window_is_returned_as_it_is_read() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await echo(request)

    bench = Bench(handler)
    h2 = bench.peer.h2
    await bench.peer.pump()
    h2.send_headers(1, POST)
    for _ in range(4):
        h2.send_data(1, b"x" * 16_000)
    await bench.peer.pump()
    assert h2.local_flow_control_window(1) == 65_536 - 64_000
    gate.set()
    await bench.peer.pump()
    assert h2.local_flow_control_window(1) == 65_536
    h2.send_data(1, b"y" * 16_000, end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(1) == b"x" * 64_000 + b"y" * 1_535


async def test_stalled_streams_leave_the_connection_window_to_others() -> None:
    async def handler(request: Request) -> Response:
        if request.target == "/stuck":
            await asyncio.Event().wait()
        return await echo(request)

    bench = Bench(handler)
    h2 = bench.peer.h2
    await bench.peer.pump()
    for stream_id in range(1, 41, 2):
        h2.send_headers(stream_id, [*POST[:3], (b":path", b"/stuck")])
        for _ in range(4):
            h2.send_data(stream_id, b"x" * 16_384)
        await bench.peer.pump()
    h2.send_headers(41, POST)
    h2.send_data(41, b"through", end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(41) == b"through"
    bench.server.abort()
    await bench.server.wait_closed()


async def test_reset_by_the_client_cancels_the_handler_50() -> None:
    ended: list[BaseException] = []
    never = asyncio.Event()

    async def handler(request: Request) -> Response:
        try:
            await never.wait()
        except asyncio.CancelledError as error:
            ended.append(error)
            await asyncio.sleep(0)
            raise
        return await hello(request)

    bench = Bench(handler)
    await bench.get()
    bench.peer.h2.reset_stream(1, ErrorCodes.CANCEL)
    await bench.peer.pump()
    assert len(ended) == 1
    await bench.get(3, fields=POST, end=False)
    bench.server.abort()
    await bench.server.wait_closed()
    assert len(ended) == 2
    assert bench.closed == [bench.server]


async def test_reset_before_the_handler_began_leaves_nothing_behind() -> None:
    called: list[Request] = []

    async def handler(request: Request) -> Response:
        called.append(request)
        return await hello(request)

    bench = Bench(handler)
    await bench.peer.pump()
    bench.peer.h2.send_headers(1, POST)
    bench.peer.h2.reset_stream(1)
    await bench.peer.pump()
    assert not called
    bench.time.advance(62)
    assert bench.transport.is_closed


async def test_drain_of_a_client_that_reads_slowly_loses_nothing() -> None:
    bench = Bench(_large)
    await bench.peer.pump()
    bench.peer.h2.increment_flow_control_window(2**20)
    bench.peer.h2.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**20})
    await bench.peer.pump()
    bench.transport.is_stuck = True
    bench.peer.h2.send_headers(1, GET, end_stream=True)
    bench.peer.push()
    await turns()
    bench.server.drain()
    bench.time.advance(2)
    bench.transport.release()
    await turns()
    assert bench.transport.is_closed
    assert not bench.transport.was_aborted
    assert bench.transport.take().count(b"x") == 300_000


async def _large(request: Request) -> Response:
    return Response(200, body=FixedBody(b"x" * 300_000))


async def test_reader_learns_that_the_client_went_away() -> None:
    errors: list[Exception] = []

    async def handler(request: Request) -> Response:
        try:
            await asyncio.shield(asyncio.ensure_future(request.body.read()))
        except asyncio.CancelledError:
            with pytest.raises(ClientDisconnected) as raised:
                request.body.read_nowait()
            errors.append(raised.value)
            raise
        return await hello(request)

    bench = Bench(handler)
    await bench.get(fields=POST, end=False)
    bench.peer.h2.reset_stream(1)
    await bench.peer.pump()
    assert len(errors) == 1


async def test_early_response_resets_the_rest_of_the_request() -> None:
    bench = Bench(hello)
    await bench.get(fields=POST, end=False)
    assert bench.peer.body(1) == b"hello"
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.NO_ERROR


FAILURES = {
    "source-fails": ChunkBody(b"part", UpstreamError(502, "UpstreamFailure", "gone")),
    "too-short": ChunkBody(b"part", length=9),
    "too-long": ChunkBody(b"part", b"more", length=5),
    "trailers-with-crlf": ChunkBody(b"part", trailers=Headers([(b"x", b"a\r\nb")])),
}


@pytest.mark.parametrize("body", FAILURES.values(), ids=FAILURES.keys())
async def test_a_cut_response_is_reset_never_ended(body: ChunkBody) -> None:
    done: list[tuple[int, str]] = []

    async def handler(request: Request) -> Response:
        response = Response(200, body=body)
        response.on_done = lambda sent, error: done.append((sent, error))
        return response

    bench = Bench(handler)
    await bench.get()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.INTERNAL_ERROR
    assert not bench.peer.of(StreamEnded, 1)
    assert body.is_closed
    assert len(done) == 1
    assert done[0][1]


async def test_on_done_once_with_the_octets_sent() -> None:
    done: list[tuple[int, str]] = []

    async def handler(request: Request) -> Response:
        response = await hello(request)
        response.on_done = lambda sent, error: done.append((sent, error))
        return response

    bench = Bench(handler)
    await bench.get()
    assert done == [(5, "")]


async def test_informational_and_continue() -> None:
    async def handler(request: Request) -> Response:
        assert request.expects_continue
        assert request.on_informational is not None
        request.on_informational(103, Headers([(b"link", b"</a>")]))
        request.on_informational(100, Headers())
        request.on_informational(101, Headers())
        return await echo(request)

    bench = Bench(handler)
    await bench.get(fields=[*POST, (b"expect", b"100-continue")], end=False)
    events = bench.peer.of(InformationalResponseReceived, 1)
    assert [event.headers[0][1] for event in events] == [b"103", b"100"]
    bench.peer.h2.send_data(1, b"now", end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(1) == b"now"


async def test_refused_requests_are_answered() -> None:
    refused: list[RequestError] = []
    bench = Bench(hello, on_refused=refused.append)
    await bench.get(1, [*GET, (b"host", b"b")])
    await bench.get(3, [*GET[:2], (b":authority", b"a@b"), GET[3]])
    await bench.get(5, [*GET, *[(b"a", b"b")] * 101])
    statuses = [bench.head(stream_id)[b":status"] for stream_id in (1, 3, 5)]
    assert statuses == [b"400", b"400", b"431"]
    assert [error.status for error in refused] == [400, 400, 431]


LENGTHS = {
    "18-shorter": (b"5", [b"abc"], True),
    "18-longer": (b"2", [b"abc"], False),
    "18-ends-at-once": (b"2", [], True),
}


@pytest.mark.parametrize(("declared", "chunks", "ends"), LENGTHS.values(), ids=LENGTHS.keys())
async def test_content_length_that_lies_resets_the_stream_18(
    declared: bytes, chunks: list[bytes], ends: bool
) -> None:
    bench = Bench(echo)
    h2 = bench.peer.h2
    h2.send_headers(1, [*POST, (b"content-length", declared)], end_stream=ends and not chunks)
    for chunk in chunks:
        h2.send_data(1, chunk, end_stream=ends)
    await bench.peer.pump()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.PROTOCOL_ERROR
    await bench.get(3)
    assert bench.head(3)[b":status"] == b"200"


async def test_connection_specific_field_resets_only_its_stream_18() -> None:
    bench = Bench(hello)
    await bench.get(1, [*GET, (b"transfer-encoding", b"chunked")])
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.PROTOCOL_ERROR
    await bench.get(3)
    assert bench.head(3)[b":status"] == b"200"


async def test_handler_that_fails_is_reported_and_reset() -> None:
    problems: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))

    async def handler(request: Request) -> Response:
        raise ZeroDivisionError

    bench = Bench(handler)
    await bench.get()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.INTERNAL_ERROR
    assert [type(problem["exception"]) for problem in problems] == [ZeroDivisionError]


async def test_drain_in_two_phases_finishes_what_is_under_way_55() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await hello(request)

    bench = Bench(handler)
    await bench.get()
    bench.server.drain()
    await turns()
    data = bench.transport.take()
    assert b"\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0" in data
    # A request that crosses the first GOAWAY is served.
    bench.peer.h2.send_headers(3, GET, end_stream=True)
    bench.peer.push(b"\0\0\x08\x06\x01\0\0\0\0draining")
    await turns()
    assert b"\x07\0\0\0\0\0\0\0\0\x03\0\0\0\0" in bench.transport.take()
    bench.peer.h2.send_headers(5, GET, end_stream=True)
    bench.peer.push()
    await turns()
    assert bench.transport.take() == b"\0\0\x04\x03\0\0\0\0\x05\0\0\0\x07"
    assert not bench.transport.is_closed
    gate.set()
    await turns()
    assert bench.transport.take().count(b"hello") == 2
    assert bench.transport.is_closed
    assert bench.closed == [bench.server]


async def test_drain_does_not_wait_for_a_ping_that_is_never_answered() -> None:
    bench = Bench(hello)
    await bench.peer.pump()
    bench.server.drain()
    bench.time.advance(1.5)
    await turns()
    assert bench.transport.is_closed


async def test_requests_per_connection_and_response_close_drain() -> None:
    bench = Bench(hello, HttpSettings(requests_per_connection=2))
    await bench.get(1)
    assert not bench.peer.of(ConnectionTerminated)
    bench.peer.h2.send_headers(3, GET, end_stream=True)
    bench.peer.push()
    await turns()
    assert b"\x07\0\0\0\0\0\x7f\xff\xff\xff" in bench.transport.take()


async def test_idle_connection_is_closed() -> None:
    bench = Bench(hello)
    await bench.get()
    bench.time.advance(59)
    assert not bench.transport.is_closed
    bench.time.advance(2)
    assert bench.transport.is_closed
    await turns()
    assert bench.closed == [bench.server]


async def test_keepalive_cuts_a_silent_peer() -> None:
    async def handler(request: Request) -> Response:
        return Response(200, body=ChunkBody(b"x", gate=asyncio.Semaphore(0)))

    settings = HttpSettings(h2_keepalive_interval_seconds=10, h2_keepalive_timeout_seconds=5)
    bench = Bench(handler, settings)
    await bench.get()
    bench.time.advance(12)
    await bench.peer.pump()
    assert bench.peer.of(PingReceived)
    # It answered: the next PING goes out ten seconds later and is not answered.
    bench.time.advance(14)
    assert not bench.transport.is_closed
    bench.time.advance(3)
    assert bench.transport.was_aborted
    await bench.server.wait_closed()


async def test_adopt_takes_over_an_open_transport() -> None:
    bench = Bench(hello)
    other = FakeTransport(asyncio.Protocol())
    bench.server = H2Server(
        hello, None, HttpSettings(), bench.sweeper, SystemClock(),
        scheme="http", check_authority=lower, on_closed=bench.closed.append,
    )  # fmt: skip
    peer = Peer(bench.server, other, is_client=True)
    peer.h2.send_headers(1, GET, end_stream=True)
    bench.server.adopt(other, peer.h2.data_to_send())
    assert other.get_protocol() is bench.server
    await peer.pump()
    assert peer.body(1) == b"hello"


class EchoTunnel:
    """Gives back what it is given."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        self.is_closed = False

    async def read(self) -> bytes:
        return await self._queue.get()

    async def write(self, data: bytes) -> None:
        self._queue.put_nowait(data.upper())

    def write_eof(self) -> None:
        self._queue.put_nowait(b"")

    def close(self) -> None:
        self.is_closed = True


async def test_connect_tunnel() -> None:
    tunnel = EchoTunnel()

    async def handler(request: Request) -> Response:
        assert (request.method, request.target) == ("CONNECT", "db:5432")
        response = Response(200)
        response.tunnel = tunnel
        return response

    bench = Bench(handler)
    await bench.get(fields=[(b":method", b"CONNECT"), (b":authority", b"db:5432")], end=False)
    assert bench.head() == {b":status": b"200"}
    bench.peer.h2.send_data(1, b"abc")
    await bench.peer.pump()
    assert bench.peer.body(1) == b"ABC"
    bench.peer.h2.send_data(1, b"d", end_stream=True)
    await bench.peer.pump()
    assert bench.peer.body(1) == b"ABCD"
    assert bench.peer.of(StreamEnded, 1)
    assert tunnel.is_closed


# --- real clients -----------------------------------------------------------------------------


@asynccontextmanager
async def serve(handler: Handler) -> AsyncIterator[int]:
    """A real listener on loopback; gives its port."""
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    servers: list[H2Server] = []

    def accept() -> H2Server:
        server = H2Server(
            handler, None, HttpSettings(), sweeper, SystemClock(),
            scheme="http", check_authority=lower, on_closed=servers.remove,
        )  # fmt: skip
        servers.append(server)
        return server

    listener = await loop.create_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for server in servers:
            server.abort()
            await server.wait_closed()
        sweeper.close()


async def run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out


@needs_program("curl")
async def test_curl(tmp_path: Any) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"0123456789" * 100_000)
    async with serve(echo) as port:
        url = f"http://127.0.0.1:{port}/"
        out = await run("curl", "-s", "--http2-prior-knowledge", "--data-binary", f"@{upload}", url)
        assert out == upload.read_bytes()
        out = await run("curl", "-s", "--http2-prior-knowledge", "-I", url)
        assert out.startswith(b"HTTP/2 200")


@needs_program("h2load")
async def test_h2load() -> None:
    async with serve(hello) as port:
        out = await run("h2load", "-n2000", "-c4", "-m50", f"http://127.0.0.1:{port}/")
    assert b"2000 succeeded, 0 failed, 0 errored" in out
