"""A worker's part of `/debug/trace`: exchanges that tell how they fare, while somebody listens.

Control announces a listener with the next configuration; the worker connects to it and puts another
maker of exchanges into the compiled gateway. When the connection ends, the plain one is put back:
requests that nobody asks about pass nothing of this file.

Source: spec/config.md section 8.4; unix(7), abstract names.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Mapping
from typing import Any, Final, cast, final

from sidecar.cel.engine import Engine
from sidecar.errors import ConfigError
from sidecar.gateway.exchange import Exchange, MakeExchange, WorkerState
from sidecar.gateway.plan import Gateway, Route
from sidecar.gateway.recorded import RecordedExchange, exchanges
from sidecar.http.message import Request, Response
from sidecar.telemetry.bodies import Recorder, Room
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.debug_trace import DebugTrace, Watched, peer_uid
from sidecar.telemetry.expressions import Compiler

MAX_WAITING_BYTES: Final = 1024 * 1024
"""Of events that control has not taken yet; past that they are dropped."""

_NOTHING: Final = Recorder(0, Room(0), wants_request=False, wants_response=False)
_log = logging.getLogger("sidecar.gateway.traced")


def traced(trace: DebugTrace, recorder: Recorder | None) -> MakeExchange:
    """Makes exchanges that tell of themselves, of requests that are wanted."""
    plain = exchanges(recorder)
    kept = _NOTHING if recorder is None else recorder

    def make(request: Request, worker: WorkerState) -> Exchange:
        watched = trace.watched(request)
        if watched is None:
            return plain(request, worker)
        return TracedExchange(request, worker, kept, watched)

    return make


@final
class TracedExchange(RecordedExchange):
    """One request, told of as its facts become known."""

    __slots__ = ("_ended_ns", "_route", "_started_ns", "_watched")

    def __init__(
        self, request: Request, worker: WorkerState, recorder: Recorder, watched: Watched
    ) -> None:
        super().__init__(request, worker, recorder)
        self._watched = watched

    @property
    def route(self) -> Route | None:
        """See Exchange."""
        return self._route

    @route.setter
    def route(self, route: Route | None) -> None:
        self._route = route
        if route is not None:
            self._watched.routed(route)

    @property
    def upstream_started_ns(self) -> int:
        """See Exchange."""
        return self._started_ns

    @upstream_started_ns.setter
    def upstream_started_ns(self, value: int) -> None:
        self._started_ns = value
        if value:
            self._watched.called(self.endpoint)

    @property
    def upstream_ended_ns(self) -> int:
        """See Exchange."""
        return self._ended_ns

    @upstream_ended_ns.setter
    def upstream_ended_ns(self, value: int) -> None:
        self._ended_ns = value
        if value:
            self._watched.call_ended(self.endpoint, value - self._started_ns)

    def answer(self, response: Response) -> None:
        """See Exchange."""
        super().answer(response)
        self._watched.answered(self.request, response)

    def _finish(self, status: int, sent_bytes: int, error: str, reason: str) -> None:
        super()._finish(status, sent_bytes, error, reason)
        request = self.request
        took_ns = self.worker.clock.monotonic_ns() - request.started_ns
        self._watched.finished(request, status, sent_bytes, error, reason, took_ns)


@final
class _Wire(asyncio.Protocol):
    """The connection to control, on which events go out."""

    def __init__(self, follower: TraceFollower) -> None:
        self._follower = follower
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # a stream's

    def connection_lost(self, exc: Exception | None) -> None:
        self._follower.lost(self)

    def send(self, data: bytes) -> bool:
        """See debug_trace.Send."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        if transport.get_write_buffer_size() + len(data) > MAX_WAITING_BYTES:
            return False
        transport.write(data)
        return True

    def close(self) -> None:
        """Let go of it."""
        if self._transport is not None:
            self._transport.abort()


@final
class TraceFollower:
    """One a worker. `swapped` is told of each compiled gateway, `open` of each listener."""

    __slots__ = ("_clock", "_gateway", "_loop", "_trace", "_wire", "_worker")

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, worker: int) -> None:
        self._loop = loop
        self._clock = clock
        self._worker = worker
        self._gateway: Gateway | None = None
        self._trace: DebugTrace | None = None
        self._wire: _Wire | None = None

    def swapped(self, gateway: Gateway) -> None:
        """This one serves from now on."""
        self._gateway = gateway
        if self._trace is not None:
            self._put()

    async def open(self, listener: Mapping[str, Any], engine: Engine) -> None:
        """Tell this listener. One that cannot be reached is gone already: nothing is told."""
        wire = _Wire(self)
        try:
            trace = self._made(listener, engine, wire)
            connection = _connected(str(listener["address"]))
            await self._loop.create_unix_connection(lambda: wire, sock=connection)
        except (OSError, ConfigError) as error:
            _log.debug("a debug trace cannot be told: %s", error)
            return
        self.close()
        self._trace, self._wire = trace, wire
        trace.tell("traceStarted", "", "info", {})
        self._put()

    def _made(self, listener: Mapping[str, Any], engine: Engine, wire: _Wire) -> DebugTrace:
        source = listener.get("expression")
        compiler = Compiler(engine)
        wanted = None
        if source is not None:
            wanted = compiler.expression(source, "expression", at_end=False)
        hidden = engine.sensitive_headers
        return DebugTrace(wanted, hidden, wire.send, self._clock, self._worker)

    def lost(self, wire: _Wire) -> None:
        """A listener has gone."""
        if wire is self._wire:
            self._trace = self._wire = None
            self._put()

    def close(self) -> None:
        """Tell nobody any more."""
        wire, self._wire = self._wire, None
        self._trace = None
        if wire is not None:
            wire.close()
            self._put()

    def _put(self) -> None:
        gateway = self._gateway
        if gateway is None:
            return
        trace, recorder = self._trace, gateway.recorder
        gateway.exchange = exchanges(recorder) if trace is None else traced(trace, recorder)


def _connected(name: str) -> socket.socket:
    """To the listener of this abstract name. Raises: OSError, also when it is another user's."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        made.connect("\0" + name)
        if peer_uid(made) != os.getuid():
            raise PermissionError("the listener is another user's")
    except BaseException:
        made.close()
        raise
    return made
