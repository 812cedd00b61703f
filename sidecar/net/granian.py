"""The `granian` front door: HTTP/2 connections of one port, served by Granian in this process.

Source: design section 3; docs/frontdoors.md (what it is for, what it lacks, how it was measured).

The port accepts, admits and, when a connection opens with the HTTP/2 preface, relays its octets to
Granian over the loopback. So a connection is admitted, counted and drained as any other, and the
client is known: Granian tells the port its peer connected from, and that is our end of the relay.
A Unix socket would not do, for Granian gives those no peer at all.

HTTP/1.1 never comes here: hyper takes bare line feeds, drops Content-Length beside
Transfer-Encoding and hides the name in an absolute target (hardening cases 1, 8 and 36), all before
anybody could refuse them, and it costs twice what the native front door does.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections.abc import Callable, Coroutine
from typing import Any, Final, final

from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP2Settings
from granian.log import LogLevels
from granian.server.embed import Server

from sidecar.errors import RequestError
from sidecar.http.h2_fields import FieldRules
from sidecar.http.message import Connection, Handler
from sidecar.net.asgi import Application, Client
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.net.granian")
_LOOPBACK: Final = "127.0.0.1"
_BACKLOG: Final = 1024
_IN_FLIGHT: Final = 65_536
"""Granian's own bound; the worker's is lower, and answers 503 instead of waiting."""
_CONNECT_SECONDS: Final = 5.0
_RESET_ON_CLOSE: Final = struct.pack("ii", 1, 0)
_RETRY_SECONDS: Final = 0.005
# Granian's own logger only: without `incremental` it would shut every handler of the process.
_LOGGING: Final[dict[str, Any]] = {"incremental": True, "handlers": {}, "loggers": {}}


@final
class GranianDoor:
    """Granian for the HTTP/2 connections of one port; started by the first of them."""

    def __init__(
        self,
        handler: Handler,
        settings: HttpSettings,
        sweeper: Sweeper,
        clock: Clock,
        *,
        check_authority: Callable[[str], str],
        date: Callable[[], bytes],
        on_refused: Callable[[Connection, RequestError], None],
    ) -> None:
        self.handler = handler
        self.settings = settings
        self.rules = FieldRules(check_authority, settings.header_count)
        self.sweeper = sweeper
        self.clock = clock
        self.date = date
        self.refused = on_refused
        self._clients: dict[int, Client] = {}
        self._reserved: socket.socket | None = None
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None

    def client_of(self, port: int) -> Client | None:
        """See asgi.Door."""
        return self._clients.get(port)

    def relay(
        self,
        connection: Connection,
        transport: asyncio.Transport,
        data: bytes,
        on_lost: Callable[[Relay], None],
    ) -> Coroutine[Any, Any, None]:
        """Take a transport, of which `data` was read; the coroutine joins it with Granian.

        It is taken at once: octets that come before the coroutine has begun must find us there.
        """
        idle_seconds = self.settings.tunnel_idle_seconds
        side = Relay(self.sweeper, idle_seconds, on_lost, data, ends_at_eof=True)
        transport.set_protocol(side)
        side.connection_made(transport)
        return self._join(connection, side)

    async def _join(self, connection: Connection, side: Relay) -> None:
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                other = await self._connect(connection, side)
        except OSError as error:  # TimeoutError is one
            _log.error("cannot reach the HTTP/2 server on the loopback: %s", error)
            side.transport.abort()
            return
        if side.is_lost:
            other.transport.abort()
            return
        side.join(other)

    async def _connect(self, connection: Connection, side: Relay) -> Relay:
        port = self._start()
        loop = asyncio.get_running_loop()
        own = 0

        def lost(_: Relay) -> None:
            client = self._clients.pop(own, None)
            if client is not None:
                client.lost()

        other = Relay(self.sweeper, self.settings.tunnel_idle_seconds, lost)
        while True:
            try:
                await loop.create_connection(lambda: other, _LOOPBACK, port)
                break
            except ConnectionRefusedError:
                # Granian tells nobody when it has begun to listen; it takes a millisecond.
                await asyncio.sleep(_RETRY_SECONDS)
        # Granian holds a connection whose client has ended it for as long as something is unsent
        # there: only a reset makes it let go. The other way it changes nothing.
        endpoint = other.transport.get_extra_info("socket")
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        own = other.transport.get_extra_info("sockname")[1]
        # Nothing was sent yet, so no request can come before its client is known.
        self._clients[own] = Client(connection, self.settings, self.sweeper, side.transport.abort)
        return other

    def _start(self) -> int:
        """Have Granian listen, if it does not; its port."""
        if self._reserved is None:
            # Bound but not listening: with SO_REUSEPORT Granian gets the same port, no other user
            # can, and no connection comes here.
            self._reserved = reserved = socket.socket()
            reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            reserved.bind((_LOOPBACK, 0))
            self._server = _server(Application(self), reserved.getsockname()[1], self.settings)
            self._task = asyncio.get_running_loop().create_task(self._server.serve())
            self._task.add_done_callback(self._ended)
        return int(self._reserved.getsockname()[1])

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._reserved is not None:
            self._reserved.close()
        self._reserved = None
        if not task.cancelled() and task.exception() is not None:
            _log.error("the HTTP/2 server ended: %s", task.exception())

    def drain(self) -> asyncio.Task[None] | None:
        """GOAWAY to every client; connections end with their last stream, then the task does."""
        if self._server is not None:
            self._server.stop()  # type: ignore[no-untyped-call]
            self._server = None
        return self._task


def _server(application: Application, port: int, settings: HttpSettings) -> Server:
    return Server(
        application,
        address=_LOOPBACK,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.http2,
        websockets=False,
        backlog=_BACKLOG,
        backpressure=_IN_FLIGHT,
        http2_settings=HTTP2Settings(
            initial_connection_window_size=settings.h2_connection_window_bytes,
            initial_stream_window_size=settings.h2_stream_window_bytes,
            keep_alive_interval=(
                int(settings.h2_keepalive_interval_seconds * 1000)
                if settings.h2_keepalive_interval_seconds
                else None
            ),
            keep_alive_timeout=int(settings.h2_keepalive_timeout_seconds),
            max_concurrent_streams=settings.h2_max_streams,
            max_frame_size=settings.h2_frame_bytes,
            max_headers_size=settings.h2_header_list_bytes,
            max_send_buffer_size=settings.stream_buffer_bytes,
        ),
        log_level=LogLevels.error,
        log_dictconfig=_LOGGING,
    )


@final
class RelayedHttp:
    """A connection that Granian serves, as its port sees it."""

    __slots__ = ("_transport",)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport

    def drain(self) -> None:
        """Granian sends GOAWAY to all of them at once: see `GranianDoor.drain`."""

    def abort(self) -> None:
        """Cut it."""
        self._transport.abort()
