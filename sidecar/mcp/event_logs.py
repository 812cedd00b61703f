"""The event logs of a worker: which there are, what they may hold, and when each one ends.

Source: spec/mcp_a2a.md section 5.2 row 5; design section 8 (bounds).

A log is kept by the worker that serves the stream; any other asks for it there. Bounds: events and
bytes of a session, bytes and logs of the worker. What passes them is dropped, the oldest first, and
a client that asks for it gets what is left. A log ends with its session, and when nobody has taken
it up for a while.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, final

import orjson

from sidecar.http.headers import Headers
from sidecar.jsonrpc import Id
from sidecar.mcp.event_ids import Logged, parse
from sidecar.mcp.event_log import Entry, Log, Reader
from sidecar.mcp.upstream.base import Answered, Inbound, Messages, Outbound, Refused

LOGS: Final = "logs"
"""By what workers know each other's logs."""
SESSION_EVENTS: Final = 256
SESSION_BYTES: Final = 1024 * 1024
WORKER_BYTES: Final = 64 * 1024 * 1024
WORKER_LOGS: Final = 4096


@final
@dataclass(slots=True)
class _Kept:
    """What is kept of one session."""

    entries: OrderedDict[int, Entry] = field(default_factory=OrderedDict)
    logs: set[Log] = field(default_factory=set)
    size_bytes: int = 0


@final
class EventLogs:
    """Those of a worker. `listen` is that of mcp.upstream.base.Target."""

    __slots__ = ("_bytes", "_entries", "_left", "_logs", "_serial", "_sessions", "name", "worker")

    def __init__(self, worker: int) -> None:
        self.name = LOGS
        self.worker = worker
        self._logs: dict[str, Log] = {}
        self._left: OrderedDict[str, Log] = OrderedDict()
        """Those that no client reads."""
        self._sessions: dict[bytes, _Kept] = {}
        self._entries: OrderedDict[int, Entry] = OrderedDict()
        self._serial = 0
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._logs)

    def begin(
        self,
        session: bytes,
        identity: Id | None,
        source: Messages,
        reading: asyncio.Task[Inbound | None] | None = None,
        first: Sequence[Inbound] = (),
        *,
        primes: bool,
    ) -> Reader | None:
        """A new log of what `source` says; None when there is no room.

        `session`: key of its row. `identity`: of the request, None for a listening stream.
        `reading`: a read of the source under way. `first`: what was read before that. `primes`:
        whether the client is told an id before there is anything to say.
        """
        if len(self._logs) >= WORKER_LOGS:
            if not self._left:
                return None
            self.drop(next(iter(self._left.values())))
        log = Log(self, session, identity)
        self._logs[log.stream] = log
        self._sessions.setdefault(session, _Kept()).logs.add(log)
        return log.begin(source, reading, first, primes=primes)

    def keep(self, log: Log, number: int, inbound: Inbound, *, is_passed: bool) -> None:
        """Keep an event, as far as the bounds allow."""
        kept = self._sessions.get(log.session)
        if kept is None or log not in kept.logs:
            return
        raw = orjson.dumps(inbound.message)
        self._serial += 1
        entry = Entry(self._serial, log, number, raw, inbound.event_id, is_passed)
        log.entries.append(entry)
        kept.entries[entry.serial] = self._entries[entry.serial] = entry
        kept.size_bytes += len(raw)
        self._bytes += len(raw)
        while len(kept.entries) > SESSION_EVENTS or kept.size_bytes > SESSION_BYTES:
            self._forget(next(iter(kept.entries.values())))
        while self._bytes > WORKER_BYTES:
            self._forget(next(iter(self._entries.values())))

    def _forget(self, entry: Entry) -> None:
        """Of a log's entries, always its oldest."""
        kept = self._sessions[entry.log.session]
        del kept.entries[entry.serial]
        del self._entries[entry.serial]
        kept.size_bytes -= len(entry.raw)
        self._bytes -= len(entry.raw)
        entry.log.entries.popleft()

    def left(self, log: Log) -> bool:
        """Nobody reads it. False when it has ended."""
        if log.stream not in self._logs:
            return False
        self._left[log.stream] = log
        self._left.move_to_end(log.stream)
        return True

    def taken(self, log: Log) -> None:
        """Somebody reads it again."""
        self._left.pop(log.stream, None)

    def drop(self, log: Log) -> asyncio.Task[None] | None:
        """Forget it. What of it still runs."""
        if self._logs.pop(log.stream, None) is None:
            return None
        self._left.pop(log.stream, None)
        while log.entries:
            self._forget(log.entries[0])
        kept = self._sessions[log.session]
        kept.logs.discard(log)
        if not kept.logs:
            del self._sessions[log.session]
        return log.end()

    def sessions(self) -> list[bytes]:
        """Keys of those that have logs."""
        return list(self._sessions)

    def end_listening(self, session: bytes) -> None:
        """It listens anew: what nobody reads any more of its old streams ends."""
        kept = self._sessions.get(session)
        for log in tuple(kept.logs) if kept is not None else ():
            if log.identity is None and log.reader is None:
                self.drop(log)

    def end_session(self, session: bytes) -> None:
        """It has ended, and its logs with it."""
        kept = self._sessions.get(session)
        for log in tuple(kept.logs) if kept is not None else ():
            self.drop(log)

    async def close(self) -> None:
        """End all."""
        tasks = {self.drop(log) for log in list(self._logs.values())}
        if running := {task for task in tasks if task is not None and not task.done()}:
            await asyncio.wait(running)

    # --- as workers ask each other --------------------------------------------------------

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """What followed an event of the asking session's; None when there is no such log."""
        place = parse(last_event_id)
        log = self._logs.get(place.stream) if isinstance(place, Logged) else None
        if log is None or not isinstance(place, Logged) or log.session != outbound.scope.key:
            return None
        if place.listens != (log.identity is None):
            return None
        return log.resume(place.number)

    async def request(self, outbound: Outbound) -> Answered:
        """Nobody asks a log anything else. Raises: Refused."""
        raise Refused(405, Headers(), b"")

    async def send(self, outbound: Outbound) -> None:
        """Its session listens anew, at another worker."""
        self.end_listening(outbound.scope.key)

    async def end(self, outbound: Outbound) -> None:
        """It ends with its session."""
