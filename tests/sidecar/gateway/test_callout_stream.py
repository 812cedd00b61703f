"""A call with messages both ways: what waits, what is kept for a second try, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.gateway.callout_stream import CalloutStream, Outgoing
from sidecar.http import grpc
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response
from tests.support.messages import request

GRPC = Headers([(b"content-type", b"application/grpc")])
OK = Headers([(b"grpc-status", b"0")])
DOWN = UpstreamError(503, "UpstreamFailure", "connection refused", sent=False)


class Incoming:
    """The answer's body: what the test lets come."""

    def __init__(self) -> None:
        self.length = None
        self.trailers: Headers | None = None
        self.is_closed = False
        self._chunks: asyncio.Queue[bytes] = asyncio.Queue()

    def come(self, data: bytes, trailers: Headers | None = None) -> None:
        self.trailers = trailers or self.trailers
        self._chunks.put_nowait(data)

    def read_nowait(self) -> bytes | None:
        return None

    async def read(self) -> bytes:
        return await self._chunks.get()

    def close(self) -> None:
        self.is_closed = True


class Peer:
    """The other end: gives a head when the test says, and takes what is sent."""

    def __init__(self) -> None:
        self.body = Incoming()
        self.head: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self.sent: Outgoing
        self.ends: list[str] = []
        self.lingering: list[asyncio.Task[None]] = []
        self.has_room = True
        self.stream = CalloutStream(request("POST"), self.exchange, self.ends.append, self.linger)

    async def exchange(self, made: Request) -> Response:
        assert isinstance(made.body, Outgoing)
        self.sent = made.body
        return await self.head

    def linger(self, make: Callable[[], Coroutine[Any, Any, None]]) -> bool:
        if self.has_room:
            self.lingering.append(asyncio.create_task(make()))
        return self.has_room

    def answer(self, headers: Headers = GRPC, status: int = 200) -> None:
        self.head.set_result(Response(status, headers, self.body))


async def soon(done: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(done, 20)


async def test_messages_go_both_ways_before_and_after_the_head():
    peer = Peer()
    peer.stream.send(b"one")
    await peer.stream.wait_room()
    await asyncio.sleep(0)
    assert await soon(peer.sent.read()) == grpc.frame(b"one")
    peer.stream.send(b"two")
    assert peer.sent.read_nowait() == grpc.frame(b"two")
    assert peer.sent.read_nowait() is None
    peer.answer()
    peer.body.come(grpc.frame(b"a") + grpc.frame(b"b")[:3])
    assert await soon(peer.stream.receive()) == b"a"
    peer.body.come(grpc.frame(b"b")[3:])
    assert await soon(peer.stream.receive()) == b"b"
    peer.body.come(b"", OK)
    assert await soon(peer.stream.receive()) is None
    peer.stream.finish()
    await asyncio.gather(*peer.lingering)
    assert peer.ends == [""]
    assert peer.sent.read_nowait() == b""


@pytest.mark.parametrize(
    ("headers", "status", "trailers", "code"),
    [
        (GRPC, 200, Headers([(b"grpc-status", b"7")]), grpc.PERMISSION_DENIED),
        (GRPC, 200, None, grpc.INTERNAL),
        (Headers([*GRPC, (b"grpc-status", b"12")]), 200, None, grpc.UNIMPLEMENTED),
        (Headers(), 503, None, grpc.UNAVAILABLE),
        (Headers([(b"content-type", b"text/html")]), 200, None, grpc.UNKNOWN),
    ],
)
async def test_how_a_call_can_end(headers, status, trailers, code):
    peer = Peer()
    peer.stream.send(b"one")
    peer.answer(headers, status)
    peer.body.come(b"", trailers)
    with pytest.raises(grpc.GrpcError) as caught:
        await soon(peer.stream.receive())
    assert caught.value.grpc_status == code
    peer.stream.close("why")
    peer.stream.close("again")
    assert (peer.ends, peer.body.is_closed) == (["why"], True)


async def test_half_a_message_is_none():
    peer = Peer()
    peer.stream.send(b"one")
    peer.answer()
    peer.body.come(grpc.frame(b"abc")[:6])
    peer.body.come(b"", OK)
    with pytest.raises(grpc.GrpcError, match="within a message"):
        await soon(peer.stream.receive())


async def test_a_call_that_fails_makes_nobody_wait():
    peer = Peer()
    peer.stream.send(b"x" * 100_000)
    waiting = asyncio.create_task(peer.stream.wait_room())
    peer.head.set_exception(DOWN)
    await soon(waiting)
    with pytest.raises(UpstreamError, match="refused"):
        await soon(peer.stream.receive())
    peer.stream.send(b"more")
    await soon(peer.stream.wait_room())
    peer.stream.close()


async def test_receiving_may_be_given_up_and_taken_up_again():
    peer = Peer()
    peer.stream.send(b"one")
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(peer.stream.receive(), 0.01)
    peer.answer()
    peer.body.come(grpc.frame(b"a"))
    assert await soon(peer.stream.receive()) == b"a"
    peer.stream.close()


async def test_a_call_that_nobody_answers_can_be_cut():
    peer = Peer()
    peer.stream.close()
    assert peer.ends == []
    peer = Peer()
    peer.stream.send(b"one")
    await asyncio.sleep(0)
    peer.stream.close()
    await asyncio.sleep(0)
    assert (peer.ends, peer.head.cancelled()) == ([""], True)


async def test_without_room_in_the_background_it_is_cut_at_once():
    peer = Peer()
    peer.has_room = False
    peer.stream.send(b"one")
    peer.answer()
    peer.body.come(grpc.frame(b"a"))
    assert await soon(peer.stream.receive()) == b"a"
    peer.stream.finish()
    assert (peer.ends, peer.body.is_closed) == ([""], True)


async def test_what_waits_to_go_out_is_bounded():
    body = Outgoing()
    body.feed(b"x" * 60_000)
    await soon(body.wait_room())
    body.feed(b"x" * 60_000)
    waiting = [asyncio.create_task(body.wait_room()) for _ in range(2)]
    await asyncio.sleep(0)
    assert not any(one.done() for one in waiting)
    assert len(body.read_nowait() or b"") == 120_000
    await soon(asyncio.gather(*waiting))
    assert body.size == 0


async def test_what_was_taken_comes_again_until_the_head_is_here():
    body = Outgoing()
    body.feed(b"one")
    assert body.read_nowait() == b"one"
    body.feed(b"two")
    body.close()
    assert body.rewind()
    assert await body.read() == b"onetwo"
    body.forget()
    assert not body.rewind()
    large = Outgoing()
    large.feed(b"x" * 300_000)
    assert len(await large.read()) == 300_000
    assert not large.rewind()


async def test_nothing_is_kept_for_a_call_that_is_gone():
    body = Outgoing()
    body.forget()
    body.close()
    body.feed(b"x" * 1_000_000)
    assert body.size == 0
    await soon(body.wait_room())
