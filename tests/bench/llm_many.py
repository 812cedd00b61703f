"""Thousands of streams at once through one worker: what they take, and whether each is alive."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast, final

import uvloop

from tests.bench.llm_load import request
from tests.bench.llm_peers import STREAMED_MODEL, LlmPeer, chat
from tests.bench.llm_upstream import HOLD, MARK
from tests.bench.load import LoadError
from tests.bench.usage import memory, pss_kib

STREAMS: Final = 5000
_AT_A_TIME: Final = 100
_TICKS: Final = 10
_SECONDS: Final = 60.0


@dataclass(frozen=True, slots=True)
class Many:
    """KiB of the worker before and with the streams under way, and of all the proxy's processes."""

    streams: int
    before_rss: int
    before_pss: int
    rss: int
    pss: int
    all_pss: int
    alive: int
    """Streams that the last chunk reached, which was sent when all were open."""

    @property
    def a_stream_kib(self) -> float:
        """What RSS rose by, for each."""
        return (self.rss - self.before_rss) / self.streams


@final
class _Held(asyncio.Protocol):
    """One client. `events` counts what its stream brought."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self.events = 0
        self.is_lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(self._message)

    def data_received(self, data: bytes) -> None:
        found = data.count(MARK)
        if found:
            self.events += found
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait_events(self, count: int) -> bool:
        """Until so many have come; False when the stream ends, or takes too long."""
        try:
            async with asyncio.timeout(_SECONDS):
                while self.events < count and not self.is_lost:
                    self._waiter = self._loop.create_future()
                    await self._waiter
        except TimeoutError:
            return False
        return self.events >= count

    def close(self) -> None:
        """Leave."""
        self._transport.close()


def hold_many(peer: LlmPeer, upstream: int, count: int) -> Many:
    """Open `count` streams, send chunks to each, and take the memory. Raises: LoadError."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_hold_many(peer, upstream, count))


async def _hold_many(peer: LlmPeer, upstream: int, count: int) -> Many:
    message = request(chat(STREAMED_MODEL, HOLD.decode(), stream=True))
    before = _taken(peer.load_pids)
    held: list[_Held] = []
    try:
        await _open(held, peer.streamed, message, count)
        for tick in range(_TICKS):
            written = await asyncio.to_thread(_tick, upstream)
            if written != count:
                raise LoadError(f"the provider has {written} streams of {count}")
            alive = sum(await asyncio.gather(*(one.wait_events(2 + tick) for one in held)))
        after = _taken(peer.load_pids)
        return Many(count, *before, *after, pss_kib(peer.all_pids), alive)
    finally:
        for one in held:
            one.close()


async def _open(held: list[_Held], port: int, message: bytes, count: int) -> None:
    loop = asyncio.get_running_loop()
    while len(held) < count:
        more = min(_AT_A_TIME, count - len(held))
        opened = await asyncio.gather(
            *(
                loop.create_connection(lambda: _Held(message), "127.0.0.1", port)
                for _ in range(more)
            )
        )
        fresh = [client for _, client in opened]
        held += fresh
        came = await asyncio.gather(*(one.wait_events(1) for one in fresh))
        if not all(came):
            raise LoadError(f"of {len(held)} streams {came.count(False)} brought nothing")


def _taken(pids: Sequence[int]) -> tuple[int, int]:
    found = [memory(pid) for pid in pids]
    return sum(one.rss for one in found), sum(one.pss for one in found)


def _tick(port: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/tick", timeout=30) as answer:
        return int(answer.read())
