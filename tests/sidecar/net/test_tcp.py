"""Relays over loopback: both directions, half closes, backpressure, and how a pair ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from functools import partial

import pytest

from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import HIGH_WATER_BYTES, Relay
from tests.support.turns import turn_until


def _same(side: Relay) -> Relay:
    return side


class Pair:
    """Two relays and the sockets of their peers."""

    def __init__(self, sweeper: Sweeper, idle_seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        self.client, client_end = socket.socketpair()
        self.server, server_end = socket.socketpair()
        for sock in (self.client, self.server, client_end, server_end):
            sock.setblocking(False)
        self._ends = client_end, server_end
        self.lost: list[Relay] = []
        self.gone = asyncio.Event()
        self.down = Relay(sweeper, idle_seconds, self._lost)
        self.up = Relay(sweeper, idle_seconds)

    def _lost(self, side: Relay) -> None:
        self.lost.append(side)
        self.gone.set()

    async def open(self) -> None:
        for side, end in zip((self.down, self.up), self._ends, strict=True):
            await self._loop.create_unix_connection(partial(_same, side), sock=end)

    async def send(self, sock: socket.socket, data: bytes) -> None:
        await asyncio.wait_for(self._loop.sock_sendall(sock, data), 20)

    async def read(self, sock: socket.socket, count: int) -> bytes:
        """So many octets, fewer at the end."""
        got = b""
        while len(got) < count:
            piece = await asyncio.wait_for(self._loop.sock_recv(sock, count - len(got)), 20)
            if not piece:
                break
            got += piece
        return got


@pytest.fixture
async def sweeper() -> AsyncIterator[Sweeper]:
    made = Sweeper(asyncio.get_running_loop())
    yield made
    made.close()


@pytest.fixture
async def pair(sweeper: Sweeper) -> AsyncIterator[Pair]:
    made = Pair(sweeper, 60.0)
    await made.open()
    yield made
    for relay in (made.down, made.up):
        relay.transport.abort()
    made.client.close()
    made.server.close()
    await asyncio.wait_for(made.gone.wait(), 20)


async def test_both_ways_and_counts(pair: Pair) -> None:
    pair.down.join(pair.up)
    await pair.send(pair.client, b"ping")
    assert await pair.read(pair.server, 4) == b"ping"
    await pair.send(pair.server, b"pong!")
    assert await pair.read(pair.client, 5) == b"pong!"
    assert (pair.down.received_bytes, pair.down.sent_bytes) == (4, 5)


async def test_what_came_before_the_join_is_passed_on(pair: Pair) -> None:
    await pair.send(pair.client, b"early")
    await turn_until(lambda: pair.down.received_bytes == 5)
    pair.client.shutdown(socket.SHUT_WR)
    pair.down.join(pair.up)
    assert await pair.read(pair.server, 100) == b"early"
    assert pair.down.sent_bytes == 0
    assert pair.up.sent_bytes == 5


async def test_before_the_join_no_more_is_read_than_the_bound(pair: Pair) -> None:
    data = bytes(1024 * 1024)
    sending = asyncio.ensure_future(pair.send(pair.client, data))
    await turn_until(lambda: pair.down.received_bytes > HIGH_WATER_BYTES)
    held = pair.down.received_bytes
    for _ in range(20):
        await asyncio.sleep(0)
    assert pair.down.received_bytes == held
    pair.down.join(pair.up)
    assert await pair.read(pair.server, len(data)) == data
    await sending


async def test_half_close_leaves_the_other_direction(pair: Pair) -> None:
    pair.down.join(pair.up)
    await pair.send(pair.client, b"all")
    pair.client.shutdown(socket.SHUT_WR)
    assert await pair.read(pair.server, 100) == b"all"
    await pair.send(pair.server, b"answer")
    assert await pair.read(pair.client, 6) == b"answer"


async def test_a_pair_whose_sides_both_said_all_is_gone(pair: Pair) -> None:
    pair.down.join(pair.up)
    pair.client.shutdown(socket.SHUT_WR)
    assert await pair.read(pair.server, 1) == b""
    await pair.send(pair.server, b"last")
    pair.server.shutdown(socket.SHUT_WR)
    assert await pair.read(pair.client, 100) == b"last"
    await asyncio.wait_for(pair.gone.wait(), 20)
    assert pair.lost == [pair.down]


async def test_a_side_lost_before_the_join_ends_the_other(pair: Pair) -> None:
    await pair.send(pair.server, b"bye")
    pair.server.close()
    await turn_until(lambda: pair.up._eof)
    pair.up.transport.abort()
    await turn_until(lambda: pair.up.is_lost)
    pair.down.join(pair.up)
    assert await pair.read(pair.client, 100) == b"bye"
    await asyncio.wait_for(pair.gone.wait(), 20)


async def test_a_reader_that_stops_stops_its_sender(pair: Pair) -> None:
    pair.down.join(pair.up)
    loop = asyncio.get_running_loop()
    sent = 0
    with contextlib.suppress(TimeoutError):
        while sent < 16 * 1024 * 1024:
            await asyncio.wait_for(loop.sock_sendall(pair.client, bytes(65536)), 0.3)
            sent += 65536
    assert sent < 16 * 1024 * 1024
    # The reader goes on, and so does everything else.
    assert len(await pair.read(pair.server, sent)) == sent


async def test_an_idle_pair_is_cut(sweeper: Sweeper) -> None:
    made = Pair(sweeper, 60.0)
    await made.open()
    made.down.join(made.up)
    made.down.expire()
    assert await made.read(made.client, 1) == b""
    assert await made.read(made.server, 1) == b""
    await asyncio.wait_for(made.gone.wait(), 20)
    made.client.close()
    made.server.close()
