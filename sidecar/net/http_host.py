"""HTTP of one port: what its connections share, and Granian for those it serves.

Source: design sections 1 and 3; sidecar.net.host, sidecar.net.granian.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, final

from sidecar.errors import RequestError
from sidecar.http import h1
from sidecar.http.message import Connection, Handler
from sidecar.net.granian import GranianDoor, RelayedHttp
from sidecar.net.h2_server import H2Server
from sidecar.net.host import Direct
from sidecar.net.native import H1Server
from sidecar.net.settings import HttpSettings
from sidecar.net.tcp import Relay

if TYPE_CHECKING:
    from sidecar.net.listener import Port


@final
class HttpHost:
    """The Host (sidecar.net.host) of one bind: shared by its connections of one scheme."""

    def __init__(self, port: Port, scheme: str) -> None:
        gate = port.gate
        self._port = port
        self.scheme = scheme
        self.handler: Handler = gate.handler_for(port.plan.key)
        # A handler may offer to serve what needs no waiting in callbacks (gateway.pipeline does).
        self.direct: Direct | None = None
        if isinstance(self.handler, Direct):
            self.direct = self.handler
        self.settings: HttpSettings = port.plan.settings
        self.limits = h1.HeadLimits(
            self.settings.request_line_bytes, self.settings.header_bytes, self.settings.header_count
        )
        self.sweeper = gate.sweeper
        self.clock = gate.clock
        self.draining = port.draining
        self.date = gate.date
        self.check_authority: Callable[[str], str] = gate.check_authority

    def opened(self, connection: H1Server) -> None:
        """See Host."""
        self._port.connections.open[connection] = connection.connection

    def closed(self, connection: H1Server) -> None:
        """See Host."""
        self._port.connections.forget(
            connection, connection.connection, connection.received_bytes, connection.sent_bytes
        )

    def refused(self, connection: H1Server, error: RequestError) -> None:
        """See Host."""
        self._port.gate.request_refused(self._port.plan.key, connection.connection, error)

    def take_h2(self, connection: H1Server, data: bytes) -> bool:
        """See Host."""
        transport = connection.detach()
        self._port.connections.open.pop(connection, None)
        if self._port.plan.uses_granian and self.scheme == "http" and not self.draining:
            self._port.granian.relay(self, connection.connection, transport, data)
        else:
            self.make_h2(connection.connection).adopt(transport, data)
        return True

    def protocol_for(self, connection: Connection, alpn: str) -> asyncio.Protocol:
        """The protocol of a TLS connection of this host."""
        if alpn == "h2":
            return self.make_h2(connection)
        return H1Server(self, connection, self._port.gate.loop, self.direct)

    def make_h2(self, connection: Connection) -> H2Server:
        """An HTTP/2 protocol for a connection of this host."""
        port = self._port

        def closed(server: H2Server) -> None:
            port.connections.forget(server, connection, server.received_bytes, server.sent_bytes)

        server = H2Server(
            self.handler,
            connection,
            self.settings,
            self.sweeper,
            self.clock,
            scheme=self.scheme,
            check_authority=self.check_authority,
            on_closed=closed,
            on_refused=lambda error: port.gate.request_refused(port.plan.key, connection, error),
            date=port.gate.date_value,
        )
        port.connections.open[server] = connection
        return server


@final
class PortGranian:
    """Granian of one port, from the first connection that goes there on."""

    def __init__(self, port: Port) -> None:
        self._port = port
        self._door: GranianDoor | None = None

    def relay(
        self, host: HttpHost, connection: Connection, transport: asyncio.Transport, data: bytes
    ) -> None:
        """Have Granian serve a connection that is open already, of which `data` was read."""
        connections = self._port.connections
        served = RelayedHttp(transport)
        connections.open[served] = connection
        if self._door is None:
            gate, key = self._port.gate, self._port.plan.key
            self._door = GranianDoor(
                host.handler,
                host.settings,
                gate.sweeper,
                gate.clock,
                check_authority=gate.check_authority,
                date=gate.date_value,
                on_refused=lambda whose, error: gate.request_refused(key, whose, error),
            )

        def lost(side: Relay) -> None:
            connections.forget(served, connection, side.received_bytes, side.sent_bytes)

        relaying = self._door.relay(connection, transport, data, lost)
        connections.follow(self._port.gate.loop.create_task(relaying))

    def drain(self) -> None:
        """Let Granian end its connections; those to come get another."""
        door, self._door = self._door, None
        serving = door.drain() if door is not None else None
        if serving is not None:
            self._port.connections.follow(serving)
