"""What clients were told on streams whose servers name no events, to be asked for once more.

Source: spec/mcp_a2a.md sections 1.2 (2025-11-25), 1.3 and 5.2 row 5; MCP 2025-11-25, transports,
"Resumability and Redelivery"; design section 8 (bounds).

From its beginning the server is read by the log's own task: a client that loses its connection
loses no answer. What listens of its own accord is read on for a moment only: then the server, where
it does, keeps what it has to say for the next stream. Where logs are kept, and how long:
mcp.event_logs.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple, final

import orjson

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import INTERNAL_ERROR, Id, Json, JsonRpcError
from sidecar.mcp.event_ids import Logged, logged
from sidecar.mcp.upstream.base import Inbound, Messages, Refused
from sidecar.mcp.upstream.inbox import Whole
from sidecar.mcp.waiter import Waiter

if TYPE_CHECKING:
    from sidecar.mcp.event_logs import EventLogs

LINGER_SECONDS: Final = 300.0
"""How long a client may take to come back."""
GRACE_SECONDS: Final = 2.0
"""How long a listening stream is read on without a client. Those that lost it come back at once."""
_WAITING_MAX: Final = 64
"""Events that wait for a slow client; then the server is not read."""
LOST: Final = "the answer is kept no more: its worker has ended, or it was left for too long"
Failure = SidecarError | JsonRpcError | Refused


def failure(identity: Id, error: Failure) -> Json:
    """A server's failure in the middle of an answer, as the answer."""
    if isinstance(error, JsonRpcError):
        return jsonrpc.error(identity, error.code, str(error), error.data)
    return jsonrpc.error(identity, INTERNAL_ERROR, str(error))


def lost(identity: Id | None) -> Messages:
    """What is left of a log that is no more: a client that waits for its answer is told."""
    if identity is None:
        return Whole([], is_json=False)
    return Whole([Inbound(jsonrpc.error(identity, INTERNAL_ERROR, LOST))], is_json=False)


class Entry(NamedTuple):
    """An event that is kept."""

    serial: int
    """Of all of the worker."""
    log: Log
    number: int
    raw: bytes
    own_id: bytes
    """The server's; b"" without."""
    is_passed: bool
    """Whether that is the id the client was told."""


@final
class Reader:
    """The events of a log for one client. See Messages; closing it leaves the log."""

    __slots__ = ("_log", "_over", "_waiter", "is_json", "queue", "rest", "retry_ms")

    def __init__(self, log: Log, events: Sequence[Inbound]) -> None:
        self.is_json = False
        self.retry_ms: int | None = None
        self.queue = deque(events)
        self.rest: Messages | None = None
        """What follows, unlogged: its events have ids of their server's."""
        self._log = log
        self._over = False
        self._waiter = Waiter()

    @property
    def is_full(self) -> bool:
        """Whether the server should be read no further for now."""
        return len(self.queue) >= _WAITING_MAX

    def put(self, inbound: Inbound) -> None:
        """One more event."""
        self.queue.append(inbound)
        self.wake()

    def finish(self) -> None:
        """There are no more."""
        self._over = True
        self.wake()

    def wake(self) -> None:
        """Look again."""
        self._waiter.wake()

    async def next(self) -> Inbound | None:
        """See Messages."""
        while not self.queue:
            if self.rest is not None:
                return await self.rest.next()
            if self._over:
                return None
            await self._waiter.wait()
        inbound = self.queue.popleft()
        if len(self.queue) <= _WAITING_MAX // 2:
            self._log.room.set()
        return inbound

    def close(self) -> None:
        """See Messages."""
        self._over = True
        self.queue.clear()
        rest, self.rest = self.rest, None
        if rest is not None:
            rest.close()
        self._log.leave(self)


@final
class Log:
    """One stream."""

    __slots__ = (
        "_last",
        "_logs",
        "_reading",
        "_source",
        "_task",
        "_timer",
        "entries",
        "identity",
        "reader",
        "room",
        "session",
        "stream",
    )

    def __init__(self, logs: EventLogs, session: bytes, identity: Id | None) -> None:
        """`identity`: of the request that it answers; None for a listening stream."""
        self.stream = os.urandom(8).hex()
        self.session = session
        self.identity = identity
        self.entries: deque[Entry] = deque()
        self.reader: Reader | None = None
        self.room = asyncio.Event()
        self.room.set()
        self._logs = logs
        self._last = 0
        self._source: Messages | None = None
        self._reading: asyncio.Task[Inbound | None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    def place(self, number: int) -> bytes:
        """The id of an event."""
        identity = self.identity
        place = Logged(
            self._logs.worker, self.stream, number, listens=identity is None, identity=identity
        )
        return logged(place)

    def begin(
        self,
        source: Messages,
        reading: asyncio.Task[Inbound | None] | None,
        first: Sequence[Inbound],
        *,
        primes: bool,
    ) -> Reader:
        """Read the server from here on. See EventLogs.begin."""
        events = [Inbound({}, self.place(0))] if primes else []
        events += [self._noted(inbound) for inbound in first]
        self.reader = Reader(self, events)
        self._source = source
        self._reading = reading
        self._task = asyncio.get_running_loop().create_task(self._pump(source))
        return self.reader

    async def _pump(self, source: Messages) -> None:
        try:
            while True:
                reading = self._reading
                inbound = await (source.next() if reading is None else reading)
                self._reading = None
                if inbound is None or self._passed(inbound, source):
                    return
                await self.room.wait()
        except (SidecarError, JsonRpcError, Refused) as error:
            if self.identity is not None:
                self._told(Inbound(failure(self.identity, error)))
        finally:
            self._over()

    def _passed(self, inbound: Inbound, source: Messages) -> bool:
        """Tell the client of it. True when its server goes on with ids of its own."""
        if not inbound.event_id or (inbound.message and self._last):
            self._told(inbound)
            return False
        self._last += 1
        self._logs.keep(self, self._last, inbound, is_passed=True)
        self._source = None
        reader = self.reader
        if reader is None:
            source.close()
        else:
            reader.rest = source
            reader.put(inbound)
        return True

    def _told(self, inbound: Inbound) -> None:
        reader = self.reader
        if inbound.message:
            inbound = self._noted(inbound)
        if reader is not None:
            reader.put(inbound)
            if reader.is_full:
                self.room.clear()

    def _noted(self, inbound: Inbound) -> Inbound:
        self._last += 1
        self._logs.keep(self, self._last, inbound, is_passed=False)
        return Inbound(inbound.message, self.place(self._last), inbound.retry_ms)

    def resume(self, after: int) -> Messages:
        """What followed an event, and what follows. Of a listening stream that is read no more it
        is the former alone, in one piece (`is_json`), by the ids of its servers: who asks goes on
        by listening anew."""
        self._stop_timer()
        kept = [entry for entry in self.entries if entry.number > after]
        before, self.reader = self.reader, None
        if before is not None:
            # Its connection is dead, though nobody has noticed.
            before.finish()
        if self.identity is None and self._source is None:
            self._logs.drop(self)
            return Whole([_again(entry, entry.own_id) for entry in kept], is_json=True)
        self._logs.taken(self)
        events = [
            _again(entry, entry.own_id if entry.is_passed else self.place(entry.number))
            for entry in kept
        ]
        is_over = self._source is None
        if is_over and after < self._last and not (kept and kept[-1].number == self._last):
            # What passes the bounds is dropped, and the answer may be of that.
            assert self.identity is not None
            events.append(Inbound(jsonrpc.error(self.identity, INTERNAL_ERROR, LOST)))
        self.reader = Reader(self, events)
        self.room.set()
        if is_over:
            self.reader.finish()
        return self.reader

    def leave(self, reader: Reader) -> None:
        """The client has gone, or has all."""
        if self.reader is not reader:
            return
        self.reader = None
        self.room.set()
        self._linger()

    def _over(self) -> None:
        """The server has no more to say, or is asked no more."""
        self._let_go()
        reader = self.reader
        if reader is None:
            self._linger()
        elif reader.rest is None:
            reader.finish()

    def _let_go(self) -> None:
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def _stop(self) -> None:
        """Read no further."""
        if self._task is not None:
            self._task.cancel()
        # Here too: a task that has not run yet ends without a word.
        if self._reading is not None:
            self._reading.cancel()
        self._let_go()

    def _linger(self) -> None:
        self._stop_timer()
        if self._logs.left(self):
            loop = asyncio.get_running_loop()
            if self.identity is None and self._source is not None:
                self._timer = loop.call_later(GRACE_SECONDS, self._rested)
            else:
                self._timer = loop.call_later(LINGER_SECONDS, self._logs.drop, self)

    def _rested(self) -> None:
        self._stop()
        self._linger()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> asyncio.Task[None] | None:
        """Nobody may ask for it any more. What of it still runs."""
        self._stop_timer()
        reader, self.reader = self.reader, None
        if reader is not None and reader.rest is None:
            reader.finish()
        self.room.set()
        self._stop()
        return self._task


def _again(entry: Entry, event_id: bytes) -> Inbound:
    return Inbound(orjson.loads(entry.raw), event_id)
