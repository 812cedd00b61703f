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
import errno
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.http.identity import IdentityError
from sidecar.http.message import Connection, TlsInfo
from sidecar.net import admission, handshake, tunnelled
from sidecar.net.bind import CARRYING, TCP_IDLE_SECONDS, BindPlan, Gate, TlsTerminator
from sidecar.net.connections import Connections
from sidecar.net.h2_server import H2Server
from sidecar.net.http_host import HttpHost, PortGranian
from sidecar.net.native import H1Server
from sidecar.net.stream import ByteStream
from sidecar.net.tcp import Relay, RelayedStream

_log = logging.getLogger("sidecar.net.listener")
_ACCEPTS_PER_WAKE: Final = 64
_OUT_OF_FILES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@final
class Port:
    """The listening sockets of one bind and their connections, in one worker."""

    def __init__(self, plan: BindPlan, gate: Gate, *socks: socket.socket) -> None:
        """`socks`: mostly one; none where it is only entered from within (`serve`)."""
        self.plan = plan
        self.gate = gate
        self.draining = False
        self.connections = Connections(gate, plan.key)
        self.granian = PortGranian(self)
        self._socks = socks
        self.hosts: dict[str, HttpHost] = {}
        self._resume: asyncio.TimerHandle | None = None
        self._next_id = 0
        self._make_hosts()

    def _make_hosts(self) -> None:
        self.hosts = {scheme: HttpHost(self, scheme) for scheme in ("http", "https")}

    def start(self) -> None:
        """Accept from now on."""
        for sock in self._socks:
            self.gate.loop.add_reader(sock, self._accept, sock)

    def replace(self, plan: BindPlan) -> None:
        """Treat new connections by another plan.

        With other settings, those open end with their next answer, or when they have been idle for
        as long as the old settings allow: none is cut.
        """
        if plan.tls is not self.plan.tls or plan.settings != self.plan.settings:
            old = self.hosts
            self.plan = plan
            self._make_hosts()
            if any(host.settings != plan.settings for host in old.values()):
                for host in old.values():
                    host.draining = True
                for served in list(self.connections.open):
                    if isinstance(served, H2Server):
                        served.drain()  # GOAWAY tells the client which requests still count
                self.granian.drain()
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
        admitting = self._admit(sock, address, called)
        self.connections.follow(self.gate.loop.create_task(admitting))

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
            host = self.hosts["http"]
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
        self.connections.open[carried] = connection
        carried.closed.add_done_callback(
            lambda _: self.connections.forget(carried, connection, 0, 0)
        )
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
                connection, hello.sni, self.hosts["https"].protocol_for
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
                self.connections.forget(served, connection, side.received_bytes, side.sent_bytes)

        side = Relay(self.gate.sweeper, TCP_IDLE_SECONDS, lost)
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
        self.connections.open[served] = connection
        self.gate.connection_opened(plan.key, connection, 0.0)
        await self.gate.relay(plan.key, key, connection, side)

    # --- connections inside connections ---------------------------------------------------

    async def serve(self, connection: Connection, stream: ByteStream) -> None:
        """Serve a connection that came through a tunnel, to its end.

        The caller has asked `gate.admit`. Raises: SidecarError, OSError, ssl.SSLError, and what the
        stream raises; it is to be aborted then.
        """
        await tunnelled.serve(self, connection, stream)

    async def join(
        self, connection: Connection, stream: ByteStream, key: str, other: Relay | None = None
    ) -> None:
        """Relay a stream for a TCP listener, to its end. `other`: dialled already."""
        await tunnelled.join(self, connection, stream, key, other)

    # --- ending ---------------------------------------------------------------------------

    def stop_accepting(self) -> None:
        """Close the listening sockets once their queues are empty: the kernel resets what waits."""
        socks, self._socks = self._socks, ()
        for listening in socks:
            while self._accept(listening):
                continue
            self.gate.loop.remove_reader(listening)
            listening.close()
        if self._resume is not None:
            self._resume.cancel()

    def drain(self) -> None:
        """Tell every connection to end when it can."""
        self.draining = True
        for host in self.hosts.values():
            host.draining = True
        self.connections.drain()
        self.granian.drain()

    async def wait_idle(self) -> None:
        """Until no connection is left."""
        await self.connections.wait_idle()

    def cut(self, is_meant: Callable[[Connection], bool]) -> None:
        """Cut those of its connections that are meant."""
        self.connections.cut(is_meant)

    def abort(self) -> None:
        """Cut what is left."""
        self.connections.abort()
