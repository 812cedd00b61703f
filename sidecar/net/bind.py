"""What one bind's port is told, and what it asks of the worker that owns it.

Source: design section 1; spec/config.md sections 1.3, 1.10, 2.1.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, final

from sidecar.errors import RequestError
from sidecar.http.message import Connection, Handler
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.telemetry.clock import Clock

if TYPE_CHECKING:
    from sidecar.net.listener import Port

CARRYING: Final = frozenset(("hboneWaypoint", "hboneGateway"))
"""`BindPlan.tunnel` of binds whose connections carry others."""
TCP_IDLE_SECONDS: Final = 3600.0
"""How long neither side of a relayed connection may say nothing."""


class TlsTerminator(Protocol):
    """Server side of TLS for the HTTPS and TLS listeners of one bind (sidecar.net.tls)."""

    def context_for(self, sni: str) -> ssl.SSLContext | None:
        """The context of the listener that serves this name; None when none does."""

    def listener_for(self, sni: str) -> str | None:
        """The key of that listener."""


@final
@dataclass(frozen=True, slots=True)
class BindPlan:
    """How the connections of one bind are treated; made by compilation, swapped on reload.

    `passthrough`: listener keys whose TLS is relayed, not terminated. `tcp_listeners`: keys whose
    (terminated or plain) octets are relayed. `proxy_versions`: empty when PROXY is not expected.
    """

    key: str
    port: int
    settings: HttpSettings
    tls: TlsTerminator | None = None
    tcp_listener: str = ""
    """Key of the TCP listener of a plain TCP bind."""
    relayed: frozenset[str] = frozenset()
    """Keys of TLS listeners whose octets are relayed: passed through, or after termination."""
    passed_through: frozenset[str] = frozenset()
    handshake_seconds: float = 15.0
    proxy_versions: tuple[int, ...] = ()
    proxy_optional: bool = False
    keepalive: tuple[int, int, int] | None = None
    uses_granian: bool = False
    """Plaintext HTTP/2 goes to Granian (sidecar.net.granian)."""
    tunnel: str = "direct"
    """`tunnelProtocol` of the bind."""
    routes_connect: bool = False
    """CONNECT meets routes as any request does."""
    takes_connect: bool = False
    """CONNECT is a tunnel back into the gateway; else it is refused."""
    opens_socket: bool = True
    """False for what is only entered from within."""


class Carried(Protocol):
    """A connection that carries others (HBONE). `closed`: when it is gone."""

    protocol: asyncio.Protocol
    closed: asyncio.Future[None]

    def drain(self) -> None:
        """No new tunnels; those there are may end."""

    def abort(self) -> None:
        """End all of them now."""


class Gate(Protocol):
    """What a port needs of the worker that owns it."""

    sweeper: Sweeper
    clock: Clock
    loop: asyncio.AbstractEventLoop

    def handler_for(self, bind: str) -> Handler:
        """The pipeline of a bind."""

    def date(self) -> bytes:
        """The `date` line of this second."""

    def date_value(self) -> bytes:
        """The value of that line."""

    def check_authority(self, raw: str) -> str:
        """The canonical authority. Raises RequestError."""

    def examine(self, bind: str, connection: Connection) -> Awaitable[None] | None:
        """What to await before `admit` where another service is asked (networkExtAuthz).

        It tells its outcome in the connection, and `admit` is false without it. None: nobody is.
        """

    def admit(self, bind: str, connection: Connection) -> bool:
        """Whether policy lets this connection in (networkAuthorization)."""

    async def dial(self, bind: str, listener: str, connection: Connection) -> Relay:
        """The other side of a TCP connection: choose a route and dial. Raises: SidecarError."""

    async def relay(self, bind: str, listener: str, connection: Connection, side: Relay) -> None:
        """Serve a TCP connection: choose a route, dial, join. Closes `side` when it cannot."""

    def handed_on(self, bind: str, connection: Connection) -> Port | None:
        """Where a connection is served that a proxy before us handed on, with its PROXY header
        taken: mostly the bind's own port. None: it is to be closed."""

    def carry(self, bind: str, tunnel: str, connection: Connection) -> Carried | None:
        """What opens the tunnels of a connection; None: it has to be closed."""

    def connection_opened(self, bind: str, connection: Connection, handshake: float) -> None:
        """Metrics."""

    def connection_closed(
        self, bind: str, connection: Connection, received: int, sent: int
    ) -> None:
        """Metrics."""

    def request_refused(self, bind: str, connection: Connection, error: RequestError) -> None:
        """A request was refused before it became one."""
