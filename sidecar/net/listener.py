"""A port of one worker: accepts, admits, and hands each connection to the protocol it speaks.

Source: design section 1 (SO_REUSEPORT, drain); spec/config.md sections 1.3, 1.10, 2.1, 10.2.

What happens to a connection, in order: PROXY header (where configured), admission
(`networkAuthorization`, `networkExtAuthz`), ClientHello peek (where some TLS listener passes
through), TLS handshake, then HTTP/1.1, HTTP/2 or a TCP relay. Nothing is read from the socket
before the step that needs it: headers ahead of a handshake are peeked at, and only the PROXY header
itself is consumed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Final, Protocol, cast, final

from sidecar.errors import RequestError, SidecarError
from sidecar.http import h1
from sidecar.http.identity import IdentityError
from sidecar.http.message import Connection, Handler, TlsInfo
from sidecar.net import admission, handshake
from sidecar.net.granian import GranianDoor, RelayedHttp
from sidecar.net.h2_server import H2Server
from sidecar.net.host import Direct
from sidecar.net.native import H1Server
from sidecar.net.settings import HttpSettings
from sidecar.net.stream import ByteStream, StreamTransport, Unread
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay, RelayedStream
from sidecar.net.tls_stream import TlsStream
from sidecar.telemetry.clock import Clock

_log = logging.getLogger("sidecar.net.listener")
CARRYING: Final = frozenset(("hboneWaypoint", "hboneGateway"))
"""`BindPlan.tunnel` of binds whose connections carry others."""
_ACCEPTS_PER_WAKE: Final = 64
_TCP_IDLE_SECONDS: Final = 3600.0
_OUT_OF_FILES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


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


@final
class _HttpHost:
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
        self._port.connections[connection] = connection.connection

    def closed(self, connection: H1Server) -> None:
        """See Host."""
        self._port.forget(
            connection, connection.connection, connection.received_bytes, connection.sent_bytes
        )

    def refused(self, connection: H1Server, error: RequestError) -> None:
        """See Host."""
        self._port.gate.request_refused(self._port.plan.key, connection.connection, error)

    def take_h2(self, connection: H1Server, data: bytes) -> bool:
        """See Host."""
        transport = connection.detach()
        self._port.connections.pop(connection, None)
        if self._port.plan.uses_granian and self.scheme == "http" and not self.draining:
            self._port.relay_h2(self, connection.connection, transport, data)
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
            port.forget(server, connection, server.received_bytes, server.sent_bytes)

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
        port.connections[server] = connection
        return server


class _Served(Protocol):
    """A connection being served, whatever it speaks."""

    def drain(self) -> None: ...

    def abort(self) -> None: ...


@final
class Port:
    """One listening socket and its connections, in one worker."""

    def __init__(self, plan: BindPlan, gate: Gate, sock: socket.socket | None) -> None:
        """`sock`: None for one that is only entered from within (`serve`)."""
        self.plan = plan
        self.gate = gate
        self.draining = False
        self.connections: dict[object, Connection] = {}
        self._sock = sock
        self._tasks: set[asyncio.Task[None]] = set()
        self._hosts: dict[str, _HttpHost] = {}
        self._resume: asyncio.TimerHandle | None = None
        self._idle: asyncio.Future[None] | None = None
        self._next_id = 0
        self._door: GranianDoor | None = None
        self._make_hosts()

    def _make_hosts(self) -> None:
        self._hosts = {scheme: _HttpHost(self, scheme) for scheme in ("http", "https")}

    def start(self) -> None:
        """Accept from now on."""
        if self._sock is not None:
            self.gate.loop.add_reader(self._sock, self._accept, self._sock)

    def replace(self, plan: BindPlan) -> None:
        """Treat new connections by another plan.

        With other settings, those open end with their next answer, or when they have been idle for
        as long as the old settings allow: none is cut.
        """
        if plan.tls is not self.plan.tls or plan.settings != self.plan.settings:
            old = self._hosts
            self.plan = plan
            self._make_hosts()
            if any(host.settings != plan.settings for host in old.values()):
                for host in old.values():
                    host.draining = True
                for served in list(self.connections):
                    if isinstance(served, H2Server):
                        served.drain()  # GOAWAY tells the client which requests still count
                self._drain_door()
        self.plan = plan

    # --- accepting ------------------------------------------------------------------------

    def _accept(self, listening: socket.socket) -> bool:
        """Take what waits, within bounds; whether there may be more."""
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return False
            except OSError as error:
                if error.errno not in _OUT_OF_FILES:
                    raise
                # Level-triggered readiness would spin; the kernel's queue holds them meanwhile.
                _log.warning("accept on port %d: %s", self.plan.port, error.strerror)
                self.gate.loop.remove_reader(listening)
                self._resume = self.gate.loop.call_later(0.1, self.start)
                return False
            sock.setblocking(False)
            self.take(sock, address)
        return True

    def take(
        self, sock: socket.socket, address: tuple[str, int], called: tuple[str, int] | None = None
    ) -> None:
        """Serve a connection, accepted here or elsewhere, and close its socket.

        `address`: the peer's. `called`: what the peer connected to, where the socket does not say.
        """
        task = self.gate.loop.create_task(self._admit(sock, address, called))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _admit(
        self, sock: socket.socket, address: tuple[str, int], called: tuple[str, int] | None
    ) -> None:
        plan = self.plan
        handed_over = False
        try:
            self._next_id += 1
            connection = admission.describe(sock, address, self._next_id, plan.keepalive)
            if called is not None:
                connection.local_host, connection.local_port = called
            if plan.proxy_versions and not await admission.take_proxy_header(
                self.gate.loop,
                sock,
                connection,
                plan.proxy_versions,
                is_optional=plan.proxy_optional,
                trusts_identity=plan.tunnel == "proxy",
            ):
                return
            if plan.tunnel in CARRYING:
                # Whom it is from its handshake tells, and each tunnel is admitted by that.
                handed_over = await self._carry(sock, plan, connection)
                return
            own, is_handed = plan.key, plan.tunnel == "proxy"
            place = self.gate.handed_on(own, connection) if is_handed else self
            if place is None:
                return
            plan = plan if place is self else place.plan
            asked = self.gate.examine(plan.key, connection)
            if asked is not None:
                await asked
                # The mesh's policies may be others since.
                if is_handed and self.gate.handed_on(own, connection) is None:
                    return
            if not self.gate.admit(plan.key, connection):
                return
            handed_over = await place._open(sock, plan, connection)
        except (OSError, SidecarError) as error:  # TimeoutError is an OSError
            # A peer that leaves or fails its handshake is everyday; it shows at debug level.
            _log.debug("connection from %s ended early: %s", address[0], error)
        finally:
            if not handed_over:
                sock.close()

    async def _open(self, sock: socket.socket, plan: BindPlan, connection: Connection) -> bool:
        """Finish the handshake and hand the socket to a protocol; False when it is to be closed."""
        if plan.tcp_listener:
            await self._relay(sock, plan, connection, plan.tcp_listener, None)
            return True
        if plan.tls is None:
            host = self._hosts["http"]
            await self.gate.loop.connect_accepted_socket(
                lambda: H1Server(host, connection, self.gate.loop, host.direct), sock
            )
            self.gate.connection_opened(plan.key, connection, 0.0)
            return True
        return await self._open_tls(sock, plan, plan.tls, connection)

    async def _carry(self, sock: socket.socket, plan: BindPlan, connection: Connection) -> bool:
        carried = self.gate.carry(plan.key, plan.tunnel, connection)
        if carried is None:
            return False
        await self.gate.loop.connect_accepted_socket(lambda: carried.protocol, sock)
        self.connections[carried] = connection
        carried.closed.add_done_callback(lambda _: self.forget(carried, connection, 0, 0))
        return True

    async def _open_tls(
        self, sock: socket.socket, plan: BindPlan, tls: TlsTerminator, connection: Connection
    ) -> bool:
        hello = await admission.peek_hello(self.gate.loop, sock, plan.handshake_seconds)
        if hello is None:
            return False
        key = tls.listener_for(hello.sni)
        if key is None:
            return False
        connection.extra["listener"] = key
        if key in plan.passed_through:
            connection.tls = TlsInfo(sni=hello.sni)
            await self._relay(sock, plan, connection, key, None)
            return True
        context = tls.context_for(hello.sni)
        if context is None:
            return False
        if key in plan.relayed:
            connection.tls = TlsInfo(sni=hello.sni)
            await self._relay(sock, plan, connection, key, context)
            return True
        started = self.gate.clock.monotonic_ns()
        await self.gate.loop.connect_accepted_socket(
            lambda: handshake.AfterHandshake(
                connection, hello.sni, self._hosts["https"].protocol_for
            ),
            sock,
            ssl=context,
            ssl_handshake_timeout=plan.handshake_seconds,
        )
        taken = (self.gate.clock.monotonic_ns() - started) / 1e9
        self.gate.connection_opened(plan.key, connection, taken)
        return True

    async def _relay(
        self,
        sock: socket.socket,
        plan: BindPlan,
        connection: Connection,
        key: str,
        context: ssl.SSLContext | None,
    ) -> None:
        served: RelayedStream | None = None

        def lost(side: Relay) -> None:
            if served is not None:
                self.forget(served, connection, side.received_bytes, side.sent_bytes)

        side = Relay(self.gate.sweeper, _TCP_IDLE_SECONDS, lost)
        if context is None or connection.tls is None:
            await self.gate.loop.connect_accepted_socket(lambda: side, sock)
        else:
            await self.gate.loop.connect_accepted_socket(
                lambda: side, sock, ssl=context, ssl_handshake_timeout=plan.handshake_seconds
            )
            try:
                handshake.note(connection, side.transport, connection.tls.sni)
            except IdentityError:
                side.transport.abort()
                raise
        if side.is_lost:
            return
        served = RelayedStream(side)
        self.connections[served] = connection
        self.gate.connection_opened(plan.key, connection, 0.0)
        await self.gate.relay(plan.key, key, connection, side)

    def relay_h2(
        self, host: _HttpHost, connection: Connection, transport: asyncio.Transport, data: bytes
    ) -> None:
        """Have Granian serve a connection that is open already."""
        served = RelayedHttp(transport)
        self.connections[served] = connection
        if self._door is None:
            gate, key = self.gate, self.plan.key
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
            self.forget(served, connection, side.received_bytes, side.sent_bytes)

        task = self.gate.loop.create_task(self._door.relay(connection, transport, data, lost))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- connections inside connections ---------------------------------------------------

    async def serve(self, connection: Connection, stream: ByteStream) -> None:
        """Serve a connection that came through a tunnel, to its end.

        The caller has asked `gate.admit`. Raises: SidecarError, OSError, ssl.SSLError, and what the
        stream raises; it is to be aborted then.
        """
        plan = self.plan
        if plan.tcp_listener:
            await self.join(connection, stream, plan.tcp_listener)
        elif plan.tls is not None:
            await self._serve_tls(plan, plan.tls, connection, stream)
        else:
            host = self._hosts["http"]
            protocol = H1Server(host, connection, self.gate.loop, host.direct)
            transport = StreamTransport(self.gate.loop, stream, protocol)
            self.gate.connection_opened(plan.key, connection, 0.0)
            await transport.closed

    async def _serve_tls(
        self, plan: BindPlan, tls: TlsTerminator, connection: Connection, stream: ByteStream
    ) -> None:
        async with asyncio.timeout(plan.handshake_seconds):
            hello, early = await admission.read_hello(stream)
        key = tls.listener_for(hello.sni)
        context = None if key is None else tls.context_for(hello.sni)
        stream = Unread(stream, early)
        if key is None or (context is None and key not in plan.passed_through):
            stream.abort()
            return
        connection.extra["listener"] = key
        carried = connection.tls
        if key in plan.passed_through or context is None:
            connection.tls = replace(carried or TlsInfo(), sni=hello.sni)
            await self.join(connection, stream, key)
            return
        inner = TlsStream(stream, context)
        async with asyncio.timeout(plan.handshake_seconds):
            await inner.handshake()
        if key in plan.relayed:
            connection.tls = replace(carried or TlsInfo(), sni=hello.sni)
            await self.join(connection, inner, key)
            return
        first = handshake.AfterHandshake(
            connection, hello.sni, self._hosts["https"].protocol_for, keeps=carried
        )
        extra = {"ssl_object": inner.ssl_object}
        transport = StreamTransport(self.gate.loop, inner, first, extra)
        self.gate.connection_opened(plan.key, connection, 0.0)
        await transport.closed

    async def join(
        self,
        connection: Connection,
        stream: ByteStream,
        key: str,
        other: Relay | None = None,
    ) -> None:
        """Relay a stream for a TCP listener, to its end. `other`: dialled already."""
        served: RelayedStream | None = None

        def lost(side: Relay) -> None:
            if served is not None:
                self.forget(served, connection, side.received_bytes, side.sent_bytes)

        side = Relay(self.gate.sweeper, _TCP_IDLE_SECONDS, lost)
        transport = StreamTransport(self.gate.loop, stream, side)
        served = RelayedStream(side)
        self.connections[served] = connection
        self.gate.connection_opened(self.plan.key, connection, 0.0)
        if other is None:
            await self.gate.relay(self.plan.key, key, connection, side)
        else:
            side.join(other)
        await transport.closed

    # --- ending ---------------------------------------------------------------------------

    def forget(self, served: object, connection: Connection, received: int, sent: int) -> None:
        """A connection is gone."""
        if served in self.connections:
            del self.connections[served]
            self.gate.connection_closed(self.plan.key, connection, received, sent)
        if not self.connections and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _drain_door(self) -> None:
        """Let Granian end its connections; those to come get another."""
        door, self._door = self._door, None
        serving = door.drain() if door is not None else None
        if serving is not None:
            self._tasks.add(serving)
            serving.add_done_callback(self._tasks.discard)

    def _drain_connections(self) -> None:
        for served in list(self.connections):
            cast("_Served", served).drain()

    def stop_accepting(self) -> None:
        """Close the listening socket once its queue is empty: the kernel resets what waits."""
        listening = self._sock
        if listening is None or listening.fileno() == -1:
            return
        while self._accept(listening):
            continue
        if self._resume is not None:
            self._resume.cancel()
        self.gate.loop.remove_reader(listening)
        listening.close()

    def drain(self) -> None:
        """Tell every connection to end when it can."""
        self.draining = True
        for host in self._hosts.values():
            host.draining = True
        self._drain_connections()
        self._drain_door()

    async def wait_idle(self) -> None:
        """Until no connection is left."""
        while self.connections or self._tasks:
            self._idle = self.gate.loop.create_future()
            waits: list[Awaitable[object]] = [*self._tasks]
            if self.connections:
                waits.append(self._idle)
            await asyncio.wait(
                [asyncio.ensure_future(wait) for wait in waits],
                return_when=asyncio.FIRST_COMPLETED,
            )

    def cut(self, is_meant: Callable[[Connection], bool]) -> None:
        """Cut those of its connections that are meant."""
        for served, connection in list(self.connections.items()):
            if is_meant(connection):
                with contextlib.suppress(OSError):
                    cast("_Served", served).abort()

    def abort(self) -> None:
        """Cut what is left."""
        for task in list(self._tasks):
            task.cancel()
        for served in list(self.connections):
            with contextlib.suppress(OSError):
                cast("_Served", served).abort()
