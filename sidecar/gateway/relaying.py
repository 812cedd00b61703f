"""Connections that a listener relays as they come: a route, a backend, a line in the access log.

Source: spec/config.md sections 2.1 and 9.2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol, final

from sidecar.errors import RequestError, SidecarError
from sidecar.gateway.plan import Gateway, TcpRoute
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request
from sidecar.net.bind import TCP_IDLE_SECONDS
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.telemetry.clock import Clock
from sidecar.telemetry.fields import AccessEntry

RELAYED: Final = "relayed"
"""Where `Connection.extra` has its Relayed."""


class _Serving(Protocol):
    """What is asked of the worker."""

    gateway: Gateway
    sweeper: Sweeper
    clock: Clock


@final
@dataclass(slots=True)
class Relayed:
    """A TCP connection under way, for its line in the access log."""

    route: TcpRoute
    started_ns: int
    endpoint: str = ""
    error: str = ""


@final
class Relaying:
    """The relays of one worker. `draw`: random numbers, by which a backend is chosen."""

    def __init__(self, worker: _Serving, draw: Callable[[], float]) -> None:
        self._worker = worker
        self._draw = draw

    async def dial(self, bind: str, listener: str, connection: Connection) -> Relay:
        """See Gate (net.bind)."""
        found = self._worker.gateway.bind(bind)
        place = found.listeners.get(listener) if found is not None else None
        sni = connection.tls.sni if connection.tls is not None else ""
        route = place.tcp_routes.match(sni) if place is not None else None
        backend = route.choose(self._draw()) if route is not None else None
        if route is None or backend is None:
            raise RequestError(404, "NotFound", "route not found")
        relayed = Relayed(route, self._worker.clock.monotonic_ns())
        connection.extra[RELAYED] = relayed
        try:
            request = _tcp_request(connection, sni)
            picked = backend.upstream.pick_nowait(request) or await backend.upstream.pick(request)
            relayed.endpoint = picked.label
            other = Relay(self._worker.sweeper, TCP_IDLE_SECONDS)
            await picked.pool.open_stream(lambda: other)
        except SidecarError as error:
            relayed.error = str(error)
            raise
        return other

    async def relay(self, bind: str, listener: str, connection: Connection, side: Relay) -> None:
        """See Gate (net.bind)."""
        try:
            other = await self.dial(bind, listener, connection)
        except SidecarError:
            side.transport.close()
            return
        if side.transport.is_closing():
            other.transport.abort()
            return
        side.join(other)

    def log(self, connection: Connection, relayed: Relayed, received: int, sent: int) -> None:
        """The line of a connection that has ended."""
        entry = AccessEntry(
            connection,
            None,
            None,
            relayed.route,
            request_bytes=received,
            response_bytes=sent,
            duration_ns=self._worker.clock.monotonic_ns() - relayed.started_ns,
            endpoint=relayed.endpoint,
            error=relayed.error,
            reason="UpstreamFailure" if relayed.error else "Upstream",
        )
        access_log = self._worker.gateway.access_log
        if access_log is not None:
            access_log.emit(entry)


def _tcp_request(connection: Connection, sni: str) -> Request:
    """What a dynamic TCP destination is computed from: server name and original port."""
    authority = f"{sni}:{connection.local_port}" if sni else ""
    return Request("CONNECT", "", authority, "", "", Headers(), FixedBody(), connection, 0)
