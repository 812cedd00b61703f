"""Kept connections: which is used, which is replaced, which is dropped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Connection, FixedBody, Request, Response
from sidecar.net.dialer import Address, DialSettings, DirectDialer
from sidecar.net.pool import Call, Pool, PoolSettings
from sidecar.net.sweep import Sweeper
from tests.support.origin import Origin, Recorded, Stream, answer


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
