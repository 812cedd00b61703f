"""H2Client against a hand-driven server, back to back with H2Server, and between gRPC peers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import RequestReceived, StreamEnded, StreamReset, TrailersReceived
from h2.settings import SettingCodes

from sidecar.errors import ClientDisconnected, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Connection, FixedBody, Request, Response, read_all
from sidecar.net.h2_client import SETTINGS, H2Client, Head
from sidecar.net.h2_server import H2Server
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import SystemClock
from tests.support.h2_server import ChunkBody, echo
from tests.support.stream import FakeTransport, ManualTime, Peer, Wire, turns

OK = [(b":status", b"200")]


def make_request(method: str = "GET", body: Body | None = None) -> Request:
    return Request(
        method, "http", "a", "/x", "HTTP/2.0", Headers(), body or FixedBody(),
        Connection("", 0, "", 0), 0,
    )  # fmt: skip


def make_head(method: str = "GET", *fields: tuple[bytes, bytes]) -> Head:
    return (method, "http", "a", "/x?y", Headers(fields))


class Bench:
    """A client on a fake transport, a hand-driven server, and the time."""

    def __init__(self, settings: HttpSettings = SETTINGS, cut: int = 0) -> None:
        self.time = ManualTime()
        self.closed: list[H2Client] = []
        self.client = H2Client(
            asyncio.get_running_loop(),
            Sweeper(self.time),  # type: ignore[arg-type]
            on_closed=self.closed.append,
            settings=settings,
        )
        self.transport = FakeTransport(self.client)
        self.client.connection_made(self.transport)
        self.peer = Peer(self.client, self.transport, is_client=False, cut=cut)

    def start(
        self, method: str = "GET", body: Body | None = None, *fields: tuple[bytes, bytes]
    ) -> asyncio.Task[Response]:
        request = make_request(method)
        return asyncio.ensure_future(
            self.client.request(request, head=make_head(method, *fields), body=body or FixedBody())
        )


async def failure(task: asyncio.Task[Response]) -> UpstreamError:
    with pytest.raises(UpstreamError) as raised:
        await task
    return raised.value


@pytest.mark.parametrize("cut", [0, 1, 6])
async def test_exchange(cut: int) -> None:
    bench = Bench(cut=cut)
    task = bench.start("POST", FixedBody(b"ping"), (b"accept", b"*/*"), (b"connection", b"x"))
    await bench.peer.pump()
    (event,) = bench.peer.of(RequestReceived)
    assert event.headers == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":authority", b"a"),
        (b":path", b"/x?y"),
        (b"accept", b"*/*"),
        (b"content-length", b"4"),
    ]
    assert bench.peer.body(1) == b"ping"
    assert bench.peer.of(StreamEnded, 1)
    bench.peer.h2.send_headers(1, [*OK, (b"x", b"y"), (b"content-length", b"4")])
    bench.peer.h2.send_data(1, b"po")
    bench.peer.h2.send_data(1, b"ng", end_stream=True)
    await bench.peer.pump()
    response = await task
    assert (response.status, response.version) == (200, "HTTP/2.0")
    assert response.headers == [(b"x", b"y"), (b"content-length", b"4")]
    assert response.body.length == 4
    assert await read_all(response.body, 100) == b"pong"
    assert bench.client.in_flight == 0
    assert bench.client.can_take


async def test_trailers_and_streaming_both_ways() -> None:
    bench = Bench()
    gate = asyncio.Semaphore(0)
    body = ChunkBody(b"one", b"two", trailers=Headers([(b"x-sum", b"1")]), gate=gate)
    request = make_request("POST")
    request.wants_trailers = True
    task = asyncio.ensure_future(bench.client.request(request, head=make_head("POST"), body=body))
    await bench.peer.pump()
    assert (b"te", b"trailers") in bench.peer.of(RequestReceived)[0].headers
    bench.peer.h2.send_headers(1, OK)
    bench.peer.h2.send_data(1, b"hi")
    await bench.peer.pump()
    response = await task
    assert await response.body.read() == b"hi"
    gate.release()
    await bench.peer.pump()
    assert bench.peer.body(1) == b"one"
    gate.release()
    gate.release()
    await bench.peer.pump()
    (event,) = bench.peer.of(TrailersReceived, 1)
    assert event.headers == [(b"x-sum", b"1")]
    bench.peer.h2.send_headers(1, [(b"grpc-status", b"0")], end_stream=True)
    await bench.peer.pump()
    assert await response.body.read() == b""
    assert response.body.trailers == [(b"grpc-status", b"0")]


async def test_informational_responses_are_passed_on_and_capped_19() -> None:
    bench = Bench()
    seen: list[tuple[int, Headers]] = []
    request = make_request()
    request.on_informational = lambda status, headers: seen.append((status, headers))
    task = asyncio.ensure_future(bench.client.request(request, head=make_head(), body=FixedBody()))
    await bench.peer.pump()
    for _ in range(17):
        bench.peer.h2.send_headers(1, [(b":status", b"103"), (b"link", b"</a>")])
    await bench.peer.pump()
    assert len(seen) == 16
    assert seen[0] == (103, [(b"link", b"</a>")])
    assert (await failure(task)).status == 502


async def test_upload_waits_for_the_window_and_response_reader_for_its_own() -> None:
    bench = Bench()
    body = ChunkBody(*[b"x" * 16_384] * 10)
    task = bench.start("POST", body)
    await bench.peer.pump()
    assert len(bench.peer.body(1)) == 65_535
    assert body.taken <= 6
    bench.peer.h2.increment_flow_control_window(10**6)
    bench.peer.h2.increment_flow_control_window(10**6, 1)
    await bench.peer.pump(8)
    assert len(bench.peer.body(1)) == 163_840
    bench.peer.h2.send_headers(1, OK)
    for _ in range(4):
        bench.peer.h2.send_data(1, b"y" * 16_000)
    await bench.peer.pump()
    response = await task
    assert bench.peer.h2.local_flow_control_window(1) == 65_536 - 64_000
    assert len(await response.body.read()) == 64_000
    await bench.peer.pump()
    assert bench.peer.h2.local_flow_control_window(1) == 65_536
    response.body.close()


RESETS = {
    "refused": (ErrorCodes.REFUSED_STREAM, True, False),
    "internal": (ErrorCodes.INTERNAL_ERROR, False, True),
    "unknown": (0xBEEF, False, True),
}


@pytest.mark.parametrize(("code", "retryable", "sent"), RESETS.values(), ids=RESETS.keys())
async def test_reset_before_the_response(code: int, retryable: bool, sent: bool) -> None:
    bench = Bench()
    task = bench.start()
    await bench.peer.pump()
    bench.peer.h2.reset_stream(1, code)
    await bench.peer.pump()
    error = await failure(task)
    assert (error.status, error.code) == (503, "UpstreamFailure")
    assert (error.retryable, error.sent) == (retryable, sent)


async def test_reset_in_mid_body_fails_the_reader() -> None:
    bench = Bench()
    task = bench.start()
    await bench.peer.pump()
    bench.peer.h2.send_headers(1, OK)
    bench.peer.h2.send_data(1, b"part")
    bench.peer.h2.reset_stream(1, ErrorCodes.REFUSED_STREAM)
    await bench.peer.pump()
    response = await task
    assert await response.body.read() == b"part"
    with pytest.raises(UpstreamError) as raised:
        await response.body.read()
    assert not raised.value.retryable


async def test_goaway_spares_what_the_server_still_answers() -> None:
    bench = Bench()
    first, second = bench.start(), bench.start()
    await bench.peer.pump()
    bench.peer.push(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\x01\0\0\0\0")
    await turns()
    assert not bench.client.can_take
    assert bench.closed == [bench.client]
    error = await failure(second)
    assert (error.retryable, error.sent) == (True, False)
    bench.peer.h2.send_headers(1, OK)
    bench.peer.h2.send_data(1, b"late", end_stream=True)
    bench.peer.push()
    await turns()
    assert await read_all((await first).body, 100) == b"late"
    await turns()
    assert bench.transport.is_closed


async def test_cancelled_request_resets_its_stream_50() -> None:
    bench = Bench()
    body = ChunkBody(b"x", gate=asyncio.Semaphore(0))
    task = bench.start("POST", body)
    await bench.peer.pump()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bench.peer.pump()
    (event,) = bench.peer.of(StreamReset, 1)
    assert event.error_code == ErrorCodes.CANCEL
    assert bench.client.in_flight == 0
    assert body.is_closed


async def test_reader_that_gives_up_resets_the_stream() -> None:
    bench = Bench()
    task = bench.start()
    await bench.peer.pump()
    bench.peer.h2.send_headers(1, OK)
    await bench.peer.pump()
    (await task).body.close()
    await bench.peer.pump()
    assert bench.peer.of(StreamReset, 1)[0].error_code == ErrorCodes.CANCEL


async def test_request_body_that_fails_is_what_the_caller_gets() -> None:
    bench = Bench()
    task = bench.start("POST", ChunkBody(b"x", ClientDisconnected("gone")))
    await bench.peer.pump()
    with pytest.raises(ClientDisconnected):
        await task
    assert bench.peer.of(StreamReset, 1)


async def test_early_response_stops_the_upload() -> None:
    bench = Bench()
    body = ChunkBody(b"x", gate=asyncio.Semaphore(0))
    task = bench.start("POST", body)
    await bench.peer.pump()
    bench.peer.h2.send_headers(1, [(b":status", b"413")], end_stream=True)
    await bench.peer.pump()
    assert (await task).status == 413
    await bench.peer.pump()
    assert body.is_closed
    assert bench.peer.of(StreamReset, 1)


async def test_streams_are_limited_to_what_the_peer_takes() -> None:
    bench = Bench()
    bench.peer.h2.update_settings({SettingCodes.MAX_CONCURRENT_STREAMS: 2})
    await bench.peer.pump()
    tasks = [bench.start(), bench.start()]
    await turns()
    assert not bench.client.can_take
    error = await failure(bench.start())
    assert (error.retryable, error.sent) == (True, False)
    await bench.peer.pump()
    bench.peer.h2.send_headers(1, OK, end_stream=True)
    await bench.peer.pump()
    assert bench.client.can_take
    bench.client.abort()
    await asyncio.gather(*tasks, return_exceptions=True)
    await bench.client.wait_closed()


BAD_RESPONSES: dict[str, list[Any]] = {
    "19-too-short": [[*OK, (b"content-length", b"5")], b"abc"],
    "19-too-long": [[*OK, (b"content-length", b"1")], b"abc"],
    "19-two-lengths": [[*OK, (b"content-length", b"1"), (b"content-length", b"2")], b"a"],
    "19-204-with-body": [[(b":status", b"204")], b"abc"],
    "19-transfer-encoding": [[*OK, (b"transfer-encoding", b"chunked")], b"a"],
    "no-status": [[(b"x", b"y")], b"a"],
}


@pytest.mark.parametrize(("fields", "data"), BAD_RESPONSES.values(), ids=BAD_RESPONSES.keys())
async def test_bad_response_resets_its_stream_alone_19(fields: Any, data: bytes) -> None:
    bench = Bench()
    task = bench.start()
    await bench.peer.pump()
    bench.peer.h2.send_headers(1, fields)
    bench.peer.h2.send_data(1, data, end_stream=True)
    bench.peer.push()
    with pytest.raises(UpstreamError) as raised:
        await read_all((await task).body, 100)
    assert raised.value.status == 502
    assert not bench.transport.is_closed
    assert bench.client.can_take


async def test_head_response_has_a_length_and_no_body() -> None:
    bench = Bench()
    task = bench.start("HEAD")
    await bench.peer.pump()
    bench.peer.h2.send_headers(1, [*OK, (b"content-length", b"5")], end_stream=True)
    await bench.peer.pump()
    response = await task
    assert response.headers == [(b"content-length", b"5")]
    assert response.body.length is None
    assert await response.body.read() == b""


async def test_rewritten_request_that_is_malformed_is_not_sent() -> None:
    bench = Bench()
    for head in (
        ("GET", "http", "a", "/x y", Headers()),
        ("GET", "http", "a", "/x", Headers([(b"x", b"a\r\nb")])),
        ("GET", "http", "a\n", "/x", Headers()),
    ):
        with pytest.raises(UpstreamError) as raised:
            await bench.client.request(make_request(), head=head, body=FixedBody())
        assert (raised.value.status, raised.value.sent) == (500, False)
    assert bench.client.in_flight == 0


async def test_lost_connection_fails_what_is_under_way() -> None:
    bench = Bench()
    task = bench.start()
    await bench.peer.pump()
    bench.transport.abort()
    error = await failure(task)
    assert not error.retryable
    await bench.client.wait_closed()
    assert bench.closed == [bench.client]


async def test_server_that_breaks_the_protocol_ends_the_connection() -> None:
    bench = Bench()
    task = bench.start()
    await bench.peer.pump()
    bench.client.data_received(b"\0\0\x01\0\0\0\0\0\x09x")
    assert (await failure(task)).status == 502
    assert bench.transport.is_closed


async def test_upload_nobody_takes_is_cut_and_idle_connection_closed() -> None:
    bench = Bench()
    task = bench.start("POST", FixedBody(b"x" * 100_000))
    await bench.peer.pump()
    bench.time.advance(62)
    assert (await failure(task)).status == 504
    bench.time.advance(91)
    assert bench.transport.is_closed


async def test_call_that_is_never_answered_times_out_alone() -> None:
    bench = Bench()
    mute, served = bench.start(), bench.start()
    await bench.peer.pump()
    bench.peer.h2.send_headers(3, OK)
    await bench.peer.pump()
    response = await served
    bench.time.advance(899)
    await turns()
    assert not mute.done()
    bench.time.advance(2)
    error = await failure(mute)
    assert (error.status, error.code, error.retryable) == (504, "Timeout", True)
    await bench.peer.pump()
    assert bench.peer.of(StreamReset, 1)[0].error_code == ErrorCodes.CANCEL
    assert not bench.peer.of(StreamReset, 3)
    assert bench.client.can_take
    response.body.close()


async def test_upload_may_last_longer_than_the_answer() -> None:
    bench = Bench()
    gate = asyncio.Semaphore(0)
    task = bench.start("POST", ChunkBody(b"a", b"b", b"c", b"d", gate=gate))
    for _ in range(3):
        await bench.peer.pump()
        bench.time.advance(800)
        gate.release()
    await bench.peer.pump()
    assert bench.peer.body(1) == b"abc"
    bench.time.advance(899)
    await turns()
    assert not task.done()
    bench.time.advance(2)
    assert (await failure(task)).status == 504


@pytest.mark.parametrize("cut", [0, 1, 1000])
async def test_client_and_server_back_to_back(cut: int) -> None:
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(ManualTime())  # type: ignore[arg-type]
    client = H2Client(loop, sweeper, on_closed=lambda client: None)
    server = H2Server(
        echo, None, HttpSettings(), sweeper, SystemClock(),
        scheme="http", check_authority=str, on_closed=lambda server: None,
    )  # fmt: skip
    Wire(client, server, cut)
    size = 2_000 if cut == 1 else 300_000
    bodies = [bytes((number,)) * size for number in range(20)]

    async def exchange(body: bytes) -> bytes:
        source = ChunkBody(body[: size // 2], body[size // 2 :], trailers=Headers([(b"t", b"1")]))
        answer = await client.request(make_request("POST"), head=make_head("POST"), body=source)
        whole = await read_all(answer.body, 1 << 20)
        assert answer.body.trailers == [(b"t", b"1")]
        return whole

    assert await asyncio.gather(*map(exchange, bodies)) == bodies
    client.close()
    await client.wait_closed()
    await server.wait_closed()


# --- gRPC -------------------------------------------------------------------------------------


@asynccontextmanager
async def proxied_grpc() -> AsyncIterator[Any]:
    """grpcio client -> H2Server -> H2Client -> grpcio server; gives the client's channel."""
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)

    async def unary(request: bytes, context: Any) -> bytes:
        if request == b"fail":
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no")
        return request.upper()

    async def fan_out(request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(5):
            yield b"%b%d" % (request, number)

    async def gather(requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b",".join([item async for item in requests])

    async def chat(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for item in requests:
            yield item[::-1]

    upstream = grpc.aio.server()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "FanOut": grpc.unary_stream_rpc_method_handler(fan_out),
        "Gather": grpc.stream_unary_rpc_method_handler(gather),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
    }
    upstream.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    upstream_port = upstream.add_insecure_port("127.0.0.1:0")
    await upstream.start()
    client = H2Client(loop, sweeper, on_closed=lambda client: None)
    await loop.create_connection(lambda: client, "127.0.0.1", upstream_port)

    async def forward(request: Request) -> Response:
        head = (request.method, "http", request.authority, request.target, request.headers)
        return await client.request(request, head=head, body=request.body)

    servers: list[H2Server] = []

    def accept() -> H2Server:
        server = H2Server(
            forward, None, HttpSettings(), sweeper, SystemClock(),
            scheme="http", check_authority=str, on_closed=servers.remove,
        )  # fmt: skip
        servers.append(server)
        return server

    front = await loop.create_server(accept, "127.0.0.1", 0)
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{front.sockets[0].getsockname()[1]}")
    try:
        yield channel
    finally:
        await channel.close()
        front.close()
        for server in servers:
            server.abort()
            await server.wait_closed()
        client.close()
        await client.wait_closed()
        await upstream.stop(None)
        sweeper.close()


async def test_grpc_of_all_four_kinds() -> None:
    grpc = pytest.importorskip("grpc", reason="grpcio is not installed")
    async with proxied_grpc() as channel:
        assert await channel.unary_unary("/t.T/Unary")(b"abc") == b"ABC"
        big = b"x" * 1_000_000
        assert await channel.unary_unary("/t.T/Unary")(big) == big.upper()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/t.T/Unary")(b"fail")
        assert raised.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert raised.value.details() == "no"
        answers = [item async for item in channel.unary_stream("/t.T/FanOut")(b"n")]
        assert answers == [b"n0", b"n1", b"n2", b"n3", b"n4"]
        assert await channel.stream_unary("/t.T/Gather")(iter([b"a", b"b", b"c"])) == b"a,b,c"
        call = channel.stream_stream("/t.T/Chat")()
        for item in (b"ab", b"cd"):
            await call.write(item)
            assert await call.read() == item[::-1]
        await call.done_writing()
        assert await call.read() == grpc.aio.EOF
        with pytest.raises(grpc.aio.AioRpcError) as missing:
            await channel.unary_unary("/t.T/Missing")(b"")
        assert missing.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_grpc_cancellation_reaches_the_server() -> None:
    async with proxied_grpc() as channel:
        call = channel.stream_stream("/t.T/Chat")()
        await call.write(b"ab")
        assert await call.read() == b"ba"
        call.cancel()
        assert await channel.unary_unary("/t.T/Unary")(b"abc") == b"ABC"
