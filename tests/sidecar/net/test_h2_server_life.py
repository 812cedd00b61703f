"""H2Server: how streams, tunnels and connections end.

Source: RFC 9113 sections 5.4, 6.8 and 8.5.
"""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    PingReceived,
    StreamEnded,
)
from h2.settings import SettingCodes

from sidecar.errors import ClientDisconnected
from sidecar.http.message import FixedBody, Request, Response
from sidecar.net.h2_server import H2Server
from sidecar.net.settings import HttpSettings
from sidecar.telemetry.clock import SystemClock
from tests.support.h2_server import GET, POST, Bench, ChunkBody, hello, lower
from tests.support.stream import FakeTransport, Peer, turns


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


async def test_a_refused_request_ends_no_connection_that_others_may_share() -> None:
    async def handler(request: Request) -> Response:
        response = await hello(request)
        response.close = True
        return response

    bench = Bench(handler)
    await bench.get()
    await bench.get(3)
    assert len(bench.peer.of(StreamEnded)) == 2
    assert not bench.peer.of(ConnectionTerminated)
    assert not bench.transport.is_closed


async def test_drain_does_not_wait_for_a_ping_that_is_never_answered() -> None:
    bench = Bench(hello)
    await bench.peer.pump()
    bench.server.drain()
    bench.time.advance(1.5)
    await turns()
    assert bench.transport.is_closed


async def test_requests_per_connection_and_response_close_drain() -> None:
    bench = Bench(hello, HttpSettings(h2_requests_per_connection=2))
    await bench.get(1)
    assert not bench.peer.of(ConnectionTerminated)
    bench.peer.h2.send_headers(3, GET, end_stream=True)
    bench.peer.push()
    await turns()
    assert b"\x07\0\0\0\0\0\x7f\xff\xff\xff" in bench.transport.take()


async def test_an_old_connection_drains_and_finishes_what_is_under_way() -> None:
    gate = asyncio.Event()

    async def handler(request: Request) -> Response:
        await gate.wait()
        return await hello(request)

    bench = Bench(handler, HttpSettings(max_connection_seconds=30))
    await bench.get()
    bench.time.advance(29)
    await turns()
    assert b"\x07\0\0\0\0\0\x7f\xff\xff\xff" not in bench.transport.take()
    bench.time.advance(2)
    await turns()
    assert b"\x07\0\0\0\0\0\x7f\xff\xff\xff" in bench.transport.take()
    assert not bench.transport.is_closed
    gate.set()
    await turns()
    bench.time.advance(2)
    await turns()
    assert b"hello" in bench.transport.take()
    assert bench.transport.is_closed
    assert not bench.transport.was_aborted


async def test_an_old_connection_at_rest_is_closed() -> None:
    bench = Bench(hello, HttpSettings(max_connection_seconds=30))
    await bench.get()
    bench.time.advance(33)
    await turns()
    assert bench.transport.is_closed


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
