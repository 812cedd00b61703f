"""Kept connections: which is used, which is replaced, which is dropped."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import h2.config
import h2.connection
import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Connection, FixedBody, Request, Response
from sidecar.net.dialer import Address, DialSettings, DirectDialer, UpstreamTls
from sidecar.net.pool import Call, Pool, PoolSettings, Version
from sidecar.net.sweep import Sweeper
from tests.support.downstream import PlainTransport
from tests.support.h2 import H2Upstream
from tests.support.origin import Origin, Recorded, Stream, answer
from tests.support.stream import ManualTime, turns


class Peers:
    """A pool before an origin on loopback."""

    def __init__(self, origin: Origin, settings: PoolSettings) -> None:
        loop = asyncio.get_running_loop()
        self.origin = origin
        self.connected: list[str] = []
        self.sweeper = Sweeper(loop)
        self.pool = Pool(
            Address("127.0.0.1", origin.port),
            None,
            DirectDialer(loop),
            settings,
            loop,
            self.sweeper,
            lambda seconds, transport: self.connected.append(transport),
        )

    async def send(
        self, target: str = "/", *, method: str = "GET", body: Body | None = None
    ) -> bytes:
        response = await self.pool.send(call(target, method=method, body=body), "h1")
        return await whole(response)


def call(
    target: str = "/",
    *,
    method: str = "GET",
    body: Body | None = None,
    headers: list[tuple[bytes, bytes]] | None = None,
    authority: str = "a.example",
) -> Call:
    fields = Headers(headers or [])
    made = FixedBody() if body is None else body
    request = Request(
        method, "http", authority, target, "HTTP/1.1", fields, made, Connection("", 0, "", 0), 0
    )
    return Call(method, "http", authority, target, fields, made, request)


async def whole(response: Response) -> bytes:
    body = b""
    while chunk := await response.body.read():
        body += chunk
    return body


def _script(stream: Stream, request: Recorded) -> bool:
    if request.target == "/drop":
        return False
    stream.send(answer(request.target.encode()))
    return request.target != "/last"


@pytest.fixture
async def peers() -> AsyncIterator[Callable[..., Peers]]:
    made: list[Peers] = []
    with Origin(_script) as origin:

        def make(settings: PoolSettings | None = None) -> Peers:
            made.append(Peers(origin, settings or PoolSettings()))
            return made[-1]

        yield make
        for one in made:
            one.pool.close()
            one.sweeper.close()


async def ended(origin: Origin, count: int) -> None:
    await asyncio.to_thread(origin.wait, lambda it: it.ended >= count)


async def test_one_connection_for_one_after_the_other(peers: Callable[..., Peers]) -> None:
    front = peers()
    for number in range(5):
        assert await front.send(f"/{number}") == f"/{number}".encode()
    assert front.connected == ["plaintext"]
    assert front.pool.open_connections == 1


async def test_as_many_as_are_needed_at_once(peers: Callable[..., Peers]) -> None:
    front = peers()
    found = await asyncio.gather(*[front.send(f"/{number}") for number in range(5)])
    assert found == [f"/{number}".encode() for number in range(5)]
    assert 1 <= len(front.connected) <= 5
    before = len(front.connected)
    await front.send()
    assert len(front.connected) == before


async def test_no_more_idle_ones_than_allowed(peers: Callable[..., Peers]) -> None:
    front = peers(PoolSettings(max_idle=2))
    await asyncio.gather(*[front.send() for _ in range(6)])
    await ended(front.origin, len(front.connected) - 2)
    assert front.pool.open_connections == 2


async def test_dead_connection_is_not_kept(peers: Callable[..., Peers]) -> None:
    front = peers()
    await front.send("/last")
    await ended(front.origin, 1)
    assert await front.send("/next", method="POST", body=FixedBody(b"x")) == b"/next"
    assert len(front.connected) == 2


async def test_failed_call_is_told(peers: Callable[..., Peers]) -> None:
    front = peers()
    with pytest.raises(UpstreamError) as caught:
        await front.send("/drop")
    assert (caught.value.status, caught.value.retryable) == (503, True)
    assert await front.send("/next") == b"/next"


async def test_closed_pool_keeps_nothing(peers: Callable[..., Peers]) -> None:
    front = peers()
    await front.send()
    front.pool.close()
    await ended(front.origin, 1)
    assert front.pool.open_connections == 0


async def test_idle_connection_expires(peers: Callable[..., Peers]) -> None:
    front = peers(PoolSettings(idle_seconds=0.1))
    await front.send()
    await ended(front.origin, 1)
    assert await front.send() == b"/"
    assert len(front.connected) == 2


async def test_nobody_there() -> None:
    with Origin() as origin:
        port = origin.port
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    settings = PoolSettings(dial=DialSettings(connect_seconds=5))
    address = Address("127.0.0.1", port)
    pool = Pool(address, None, DirectDialer(loop), settings, loop, sweeper, lambda *_: None)
    with pytest.raises(UpstreamError, match=f"connect 127.0.0.1:{port}: ") as caught:
        await pool.send(call(), "h1")
    assert (caught.value.status, caught.value.retryable, caught.value.sent) == (503, True, False)
    sweeper.close()


@pytest.mark.parametrize(
    "bad",
    [
        call("/a b"),
        call("/a\r\nx: y"),
        call("/", authority="a\r\nb"),
        call("/", headers=[(b"x", b"a\r\nb: c")]),
        call("/", headers=[(b"x", b"a\nb")]),
        call("/", headers=[(b"x", b"a\0b")]),
        call("/", headers=[(b"x\r\ny", b"a")]),
    ],
)
def test_malformed_head_is_not_sent(bad: Call) -> None:
    with pytest.raises(UpstreamError, match="malformed") as caught:
        bad.h1_head()
    assert caught.value.status == 500


def test_head() -> None:
    made = call("/x?y", headers=[(b"a", b"1"), (b"content-length", b"5"), (b"b", b"")])
    assert made.h1_head() == b"GET /x?y HTTP/1.1\r\nhost: a.example\r\na: 1\r\nb: \r\n"
    made.upgrade = "websocket"
    assert made.h1_head().endswith(b"connection: upgrade\r\nupgrade: websocket\r\n")
    made.upgrade, made.wants_trailers = "", True
    assert made.h1_head().endswith(b"connection: te\r\nte: trailers\r\n")


# --- what ALPN chose --------------------------------------------------------------------------


class Chosen:
    """What a pool asks of TLS, before and after a handshake that chose `alpn`."""

    server_hostname = "a.example"

    def __init__(self, alpn: str | None) -> None:
        self.alpn = alpn

    def context(self, *, http1_only: bool) -> ssl.SSLContext:
        raise AssertionError("no handshake in memory")

    def verify(self, ssl_object: ssl.SSLObject) -> None:
        """Nothing to check."""

    def selected_alpn_protocol(self) -> str | None:
        return self.alpn


class SecureTransport(PlainTransport):
    """A transport after such a handshake."""

    def __init__(self, protocol: asyncio.BaseProtocol, alpn: str | None) -> None:
        super().__init__(protocol)
        self.chosen = Chosen(alpn)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.chosen if name == "ssl_object" else default


class GatedDialer:
    """Connects in memory once the gate is open."""

    def __init__(self, alpn: str | None) -> None:
        self.alpn = alpn
        self.gate = asyncio.Event()
        self.made: list[SecureTransport] = []
        self.is_lost_at_once = False

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        tls: UpstreamTls | None,
        settings: DialSettings,
        *,
        http1_only: bool,
    ) -> asyncio.Transport:
        await self.gate.wait()
        protocol = factory()
        transport = SecureTransport(protocol, self.alpn)
        self.made.append(transport)
        protocol.connection_made(transport)
        if self.is_lost_at_once:
            transport.is_closed = True
            protocol.connection_lost(None)
        return transport


def gated(alpn: str | None, *, tls: bool = True) -> tuple[Pool, GatedDialer, ManualTime]:
    time = ManualTime()
    dialer = GatedDialer(alpn)
    pool = Pool(
        Address("192.0.2.1", 443),
        Chosen(alpn) if tls else None,
        dialer,
        PoolSettings(answer_seconds=5),
        asyncio.get_running_loop(),
        Sweeper(time),  # type: ignore[arg-type]  # the two methods it uses
        lambda *_: None,
    )
    return pool, dialer, time


def begun(pool: Pool, version: Version) -> asyncio.Task[Response]:
    return asyncio.create_task(pool.send(call(), version))


async def test_fallback_nobody_waits_for_is_kept_and_expires() -> None:
    pool, dialer, time = gated("http/1.1")
    task = begun(pool, "auto")
    await turns()
    task.cancel()
    await turns()
    dialer.gate.set()
    await turns()
    assert pool.open_connections == 1
    kept = pool.take_kept()
    assert kept is not None
    assert kept.deadline > time.time()
    time.advance(91)
    await turns()
    assert dialer.made[0].is_closed
    assert pool.open_connections == 0


async def test_fallback_serves_one_of_those_who_wait() -> None:
    pool, dialer, _ = gated("http/1.1")
    tasks = [begun(pool, "auto"), begun(pool, "auto")]
    dialer.gate.set()
    await turns()
    assert len(dialer.made) == 2
    for transport in dialer.made:
        assert transport.take().startswith(b"GET / HTTP/1.1")
        reader = transport.get_protocol()
        assert isinstance(reader, asyncio.Protocol)
        reader.data_received(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
    assert [await whole(await task) for task in tasks] == [b"ok", b"ok"]
    pool.close()
    await turns()
    assert pool.open_connections == 0


@pytest.mark.parametrize("tls", [True, False])
async def test_calls_that_wait_for_http2_outlive_their_pool(tls: bool) -> None:
    pool, dialer, _ = gated("h2", tls=tls)
    tasks = [begun(pool, "h2"), begun(pool, "h2")]
    await turns()
    pool.close()
    dialer.gate.set()
    await turns()
    (transport,) = dialer.made
    assert not transport.is_closed
    client = transport.get_protocol()
    assert isinstance(client, asyncio.Protocol)
    server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
    server.initiate_connection()
    server.receive_data(transport.take())
    for stream_id in (1, 3):
        server.send_headers(stream_id, [(":status", "200")])
        server.send_data(stream_id, b"ok", end_stream=True)
    client.data_received(server.data_to_send())
    assert [await whole(await task) for task in tasks] == [b"ok", b"ok"]
    await turns()
    assert transport.is_closed
    assert pool.open_connections == 0


async def test_http2_connection_of_a_closed_pool_that_nobody_waits_for_is_closed() -> None:
    pool, dialer, _ = gated("h2")
    task = begun(pool, "h2")
    await turns()
    task.cancel()
    await turns()
    pool.close()
    dialer.gate.set()
    await turns()
    assert dialer.made[0].is_closed
    assert pool.open_connections == 0


class WatchedUpstream(H2Upstream):
    """Tells of each connection that has ended."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Semaphore(0)

    def _converse(self, sock: socket.socket) -> None:
        super()._converse(sock)
        self.ended.release()


async def test_http2_connection_expires_when_idle() -> None:
    with WatchedUpstream() as origin:
        loop = asyncio.get_running_loop()
        sweeper, connected = Sweeper(loop), []
        pool = Pool(
            Address("127.0.0.1", origin.port),
            None,
            DirectDialer(loop),
            PoolSettings(idle_seconds=0.1),
            loop,
            sweeper,
            lambda seconds, transport: connected.append(transport),
        )
        for _ in range(2):
            response = await pool.send(call(), "h2")
            assert response.status == 200
            await whole(response)
            assert await asyncio.to_thread(origin.ended.acquire, timeout=20)
            assert pool.open_connections == 0
        pool.close()
        sweeper.close()
    assert connected == ["plaintext", "plaintext"]


@pytest.mark.parametrize("alpn", ["h2", "http/1.1"])
async def test_connection_lost_at_once_is_not_kept(alpn: str) -> None:
    pool, dialer, _ = gated(alpn)
    dialer.is_lost_at_once = True
    task = begun(pool, "auto")
    await turns()
    task.cancel()
    dialer.gate.set()
    await turns()
    assert len(dialer.made) == 1
    assert pool.open_connections == 0


async def test_http2_call_that_is_never_answered() -> None:
    pool, dialer, time = gated("h2")
    task = begun(pool, "h2")
    dialer.gate.set()
    await turns()
    time.advance(7)
    with pytest.raises(UpstreamError, match="upstream call timeout") as caught:
        await task
    assert (caught.value.status, caught.value.retryable) == (504, True)
    assert pool.open_connections == 1
    pool.close()
