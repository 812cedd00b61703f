"""A body between a connection that feeds it and a reader that pulls."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import ClientDisconnected, UpstreamError
from sidecar.http.headers import Headers
from sidecar.net.incoming import IncomingBody
from tests.support.stream import turns


class Source:
    def __init__(self, limit_bytes: int = 10) -> None:
        self.flow: list[bool] = []
        self.given_up = 0
        loop = asyncio.get_running_loop()
        self.body = IncomingBody(None, limit_bytes, self.flow.append, self._give_up, loop)

    def _give_up(self) -> None:
        self.given_up += 1


async def test_reads_what_is_there_and_waits_for_more() -> None:
    source = Source()
    source.body.feed(b"a")
    source.body.feed(b"b")
    assert source.body.read_nowait() == b"ab"
    assert source.body.read_nowait() is None
    reader = asyncio.ensure_future(source.body.read())
    await turns()
    assert source.body.is_awaited
    source.body.feed(b"c")
    assert await reader == b"c"
    source.body.feed_end(Headers([(b"x", b"1")]))
    assert await source.body.read() == b""
    assert source.body.read_nowait() == b""
    assert source.body.trailers == [(b"x", b"1")]


async def test_source_goes_on_only_when_more_is_asked_for() -> None:
    source = Source(limit_bytes=10)
    source.body.feed(b"x" * 10)
    assert source.flow == []
    source.body.feed(b"x")
    assert source.flow == [True]
    assert source.body.read_nowait() == b"x" * 11
    assert source.flow == [True]
    assert source.body.read_nowait() is None
    assert source.flow == [True, False]


async def test_error_comes_after_what_arrived() -> None:
    source = Source()
    source.body.feed(b"a")
    source.body.fail(UpstreamError(502, "UpstreamFailure", "gone"))
    assert await source.body.read() == b"a"
    for _ in range(2):
        with pytest.raises(UpstreamError):
            await source.body.read()


async def test_nothing_heals_a_failed_body() -> None:
    source = Source()
    source.body.fail(ClientDisconnected("gone"))
    source.body.feed(b"late")
    source.body.feed_end()
    with pytest.raises(ClientDisconnected):
        source.body.read_nowait()
    assert source.body.is_failed


async def test_error_after_the_end_is_none() -> None:
    source = Source()
    source.body.feed_end()
    source.body.fail(ClientDisconnected("gone"))
    assert await source.body.read() == b""


async def test_error_reaches_a_waiting_reader() -> None:
    source = Source()
    reader = asyncio.ensure_future(source.body.read())
    await turns()
    source.body.fail(ClientDisconnected("gone"))
    with pytest.raises(ClientDisconnected):
        await reader


async def test_close_tells_the_source_once_and_lets_it_flow() -> None:
    source = Source(limit_bytes=1)
    source.body.feed(b"ab")
    source.body.close()
    source.body.close()
    source.body.feed(b"c")
    assert source.given_up == 1
    assert source.flow == [True, False]
    assert source.body.read_nowait() == b""


async def test_close_after_the_end_tells_nobody() -> None:
    source = Source()
    source.body.feed_end()
    source.body.close()
    assert source.given_up == 0


async def test_demand_is_told_once_when_a_reader_waits() -> None:
    source = Source()
    told: list[int] = []
    source.body.on_demand = lambda: told.append(1)
    source.body.feed(b"a")
    await source.body.read()
    assert told == []
    for _ in range(2):
        reader = asyncio.ensure_future(source.body.read())
        await turns()
        source.body.feed(b"b")
        await reader
    assert told == [1]
