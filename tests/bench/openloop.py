"""An open-loop client: requests are due by a schedule, whether or not earlier ones were answered.

A closed loop sends the next request after the last answer, so that a stalled server is asked less
often and its stall is hardly seen (coordinated omission). Here the latency of a request runs from
the moment it was due, so one that had to wait for a connection counts its waiting.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from time import monotonic
from typing import cast

import uvloop

# uvloop's own clock stands still between two looks at the sockets and has whole milliseconds, so
# all times here are those of `monotonic`.
_TICK_SECONDS = 0.001
_GRACE_SECONDS = 5.0


@dataclass
class Outcome:
    """Latencies in seconds of the answered requests, with their due times beside them."""

    due: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    """When each was due, by `time.monotonic`."""

    @property
    def unanswered(self) -> int:
        """Requests without an answer when the patience ended."""
        return self.due - len(self.latencies) - self.errors


class _Connection(asyncio.Protocol):
    """Carries one request at a time. An answer is whole when it ends with `end`."""

    def __init__(self, client: OpenLoop) -> None:
        self._client = client
        self._data = b""
        self._due = 0.0
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def send(self, due: float) -> None:
        self._due = due
        self.transport.write(self._client.request)

    def data_received(self, data: bytes) -> None:
        data = self._data = self._data + data if self._data else data
        if data.endswith(self._client.end):
            self._data = b""
            self._client.answered(self, self._due, data.startswith(b"HTTP/1.1 200"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._client.lost(self)


class OpenLoop:
    """Sends `rate` requests a second for `seconds` over at most `connections` connections."""

    def __init__(self, port: int, path: str, end: bytes, connections: int = 64) -> None:
        self.request = f"GET {path} HTTP/1.1\r\nhost: bench\r\n\r\n".encode()
        self.end = end
        self.outcome = Outcome()
        self._port = port
        self._count = connections
        self._free: list[_Connection] = []
        self._waiting: deque[float] = deque()
        self._finished: asyncio.Future[None] | None = None
        """Made once the last request was sent."""
        self._closing = False

    async def run(self, rate: float, seconds: float) -> Outcome:
        loop = asyncio.get_running_loop()
        for _ in range(self._count):
            _, made = await loop.create_connection(
                lambda: _Connection(self), "127.0.0.1", self._port
            )
            self._free.append(made)
        made_all = list(self._free)
        began = monotonic()
        total = int(rate * seconds)
        while self.outcome.due < total:
            now = monotonic()
            while self.outcome.due < total:
                due = began + self.outcome.due / rate
                if due > now:
                    break
                self.outcome.due += 1
                self._submit(due)
            await asyncio.sleep(_TICK_SECONDS)
        self._finished = loop.create_future()
        if self.outcome.unanswered:
            await asyncio.wait([self._finished], timeout=_GRACE_SECONDS)
        self._closing = True
        for one in made_all:
            one.transport.abort()
        return self.outcome

    def _submit(self, due: float) -> None:
        if self._free:
            self._free.pop().send(due)
        else:
            self._waiting.append(due)

    def answered(self, connection: _Connection, due: float, good: bool) -> None:
        outcome = self.outcome
        if good:
            outcome.latencies.append(monotonic() - due)
            outcome.times.append(due)
        else:
            outcome.errors += 1
        if self._waiting:
            connection.send(self._waiting.popleft())
        else:
            self._free.append(connection)
        self._tell_finished()

    def _tell_finished(self) -> None:
        finished = self._finished
        if finished is not None and not finished.done() and not self.outcome.unanswered:
            finished.set_result(None)

    def lost(self, connection: _Connection) -> None:
        if not self._closing:
            self.outcome.errors += 1
            if connection in self._free:
                self._free.remove(connection)
            self._tell_finished()


def run_open_loop(port: int, path: str, end: bytes, rate: float, seconds: float) -> Outcome:
    """The same, in a loop of its own."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(OpenLoop(port, path, end).run(rate, seconds))
