"""Tunnels in: each is for something this gateway stands before, and is served by its binds.

Source: spec istio sections 1.5, 2.4 and 4.

What a CONNECT meets, in this order: what it is for (400, 404, 503), whether a policy lets it in
(401), for what is no HTTP whether the way on is open (503), and only then 200.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass, replace
from typing import Final, cast, final

from cryptography.hazmat.primitives.serialization import Encoding

from hbone.aio import Connect, Credentials, RevocationList, Server, Settings
from hbone.aio.server import ServerEndpoint
from hbone.errors import ConnectionLostError, HboneError
from hbone.wire.authority import BadAuthorityError, make_authority
from hbone.wire.identity import parse_identity
from istio import inbound
from istio.authz import Stage
from istio.judge import DESTINATION, FACTS, Judge
from istio.live import Live, Lives
from istio.workload import OwnGateway, Store
from istio.workload.waypoint import address_of
from sidecar.errors import SidecarError
from sidecar.gateway.mesh import Front, MeshGate
from sidecar.http.headers import Headers
from sidecar.http.identity import note_workload
from sidecar.http.message import Connection, TlsInfo
from sidecar.net.admission import read_hello
from sidecar.net.bind import CARRYING, Carried
from sidecar.net.listener import Port
from sidecar.net.stream import Unread
from sidecar.net.tcp import Relay

_log = logging.getLogger("istio.waypoint")
_DENIED: Final = 401
_NOT_FOUND: Final = 404
_UNAVAILABLE: Final = 503
_TLS: Final = b"\x16"


@final
class _Link:
    """One TLS connection, and what its tunnels have in common."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.certificate = b""


@final
class _Carried:
    """See sidecar.net.bind.Carried."""

    def __init__(self, endpoint: ServerEndpoint) -> None:
        self._endpoint = endpoint
        self.protocol = cast("asyncio.Protocol", endpoint)
        self.closed = endpoint.closed

    def drain(self) -> None:
        """See Carried."""
        self._endpoint.drain()

    def abort(self) -> None:
        """See Carried."""
        self._endpoint.discard(ConnectionLostError("the gateway ends"))


@final
@dataclass(frozen=True, slots=True)
class _Call:
    """A CONNECT whose target is known. `speaks`: http, tls, tcp or unknown."""

    connect: Connect
    connection: Connection
    where: Front
    port: Port
    speaks: str


@final
class Entrance:
    """Serves HBONE on any number of binds of one worker."""

    def __init__(
        self,
        gate: MeshGate,
        store: Store,
        own: OwnGateway,
        judge: Judge,
        settings: Settings,
        trusted: frozenset[str] | None,
    ) -> None:
        """`trusted`: trust domains beside our own; None for any."""
        self.lives = Lives(judge)
        """What is under way."""
        self._gate = gate
        self._store = store
        self._own = own
        self._judge = judge
        self._settings = settings
        self._trusted = trusted
        self._credentials: Credentials | None = None
        self._revoked: RevocationList | None = None
        self._servers: dict[str, Server] = {}
        self._left: list[Server] = []
        """Of an earlier trust domain."""
        self._number = 0

    # --- connections ----------------------------------------------------------------------

    def set_credentials(self, credentials: Credentials | None) -> None:
        """For connections to come; those there are keep theirs. Raises: CertificateError."""
        old, self._credentials = self._credentials, credentials
        if credentials is None:
            return
        if old is not None and old.identity.trust_domain != credentials.identity.trust_domain:
            self._left += self._servers.values()
            self._servers = {}
        for server in self._servers.values():
            server.set_credentials(credentials)

    def set_revoked(self, revoked: RevocationList | None) -> None:
        """For connections to come, and ends those of peers that are revoked."""
        self._revoked = revoked
        for server in self.servers:
            server.set_revoked(revoked)

    def carry(self, bind: str, tunnel: str, connection: Connection) -> Carried | None:
        """See WorkerMesh."""
        if self._credentials is None:
            _log.warning("%s: closed, for there is no certificate yet", connection.peer_host)
            return None
        server = self._servers.get(bind)
        if server is None:
            server = self._servers[bind] = self._server(bind, tunnel, self._credentials)
        return _Carried(server.endpoint(_Link(connection)))

    def _server(self, bind: str, tunnel: str, credentials: Credentials) -> Server:
        is_waypoint = tunnel == "hboneWaypoint"

        async def handle(connect: Connect) -> int | None:
            if is_waypoint:
                return await self._to_target(bind, connect)
            return await self._to_port(bind, connect)

        trusted = self._trusted
        if trusted is not None:
            trusted |= {credentials.identity.trust_domain}
        return Server(
            handle,
            credentials,
            settings=self._settings,
            trust_domains=trusted,
            revoked=self._revoked,
        )

    @property
    def servers(self) -> list[Server]:
        """All there are."""
        return [*self._servers.values(), *self._left]

    async def close(self) -> None:
        """End everything."""
        for server in self.servers:
            await server.close()

    # --- tunnels --------------------------------------------------------------------------

    async def _to_port(self, bind: str, connect: Connect) -> int | None:
        """A gateway: the target's port says which bind it is for."""
        number = connect.authority.port
        port = self._gate.port_of(number)
        if port is None or port.plan.tunnel in CARRYING:
            return _NOT_FOUND
        connection = self._described(connect, "")
        where = Front(bind, "gateway", "", number, is_tcp=bool(port.plan.tcp_listener))
        return await self._serve(_Call(connect, connection, where, port, "http"))

    async def _to_target(self, bind: str, connect: Connect) -> int | None:
        """A waypoint: the target is a service or a workload."""
        found = inbound.waypoint(
            self._store, self._own, connect.authority, identity=connect.peer.identity
        )
        if found.status != inbound.OK:
            _log.debug("%s: %s", connect.authority, found.reason)
            return found.status
        service, workload = found.service, found.workload
        speaks: str = found.speaks
        if service is not None:
            kind, name, hostname = "service", service.key, service.hostname
            address = service.vip(self._store.network)
            if speaks == "http" and found.port not in service.app_protocols:
                speaks = "unknown"
        else:
            assert workload is not None
            kind, name, hostname, speaks = "workload", workload.uid, workload.hostname, "unknown"
            address = address_of(workload)
        where = Front(bind, kind, name, found.port, is_tcp=speaks in ("tcp", "tls"))
        port = self._gate.front(where)
        if port is None:
            return _UNAVAILABLE
        if port.plan.tcp_listener and speaks != "tls":
            speaks = "tcp"
        connection = self._described(connect, hostname)
        if not connect.authority.is_address:
            connection.extra[DESTINATION] = address
        return await self._serve(_Call(connect, connection, where, port, speaks))

    def handed_on(self, own: Port, connection: Connection) -> Port | None:
        """A proxy of the mesh took the tunnel and told who is in it: as `_to_target`."""
        key = own.plan.key
        try:
            called = make_authority(connection.local_host, connection.local_port)
        except BadAuthorityError:
            return None
        told = connection.extra.get("identity")
        identity = parse_identity(told) if isinstance(told, str) else None
        found = inbound.waypoint(self._store, self._own, called, identity=identity)
        if found.status != inbound.OK:
            # Not for the mesh: the bind's own routes, if no policy of the gateway's is against it.
            where = Front(key, "gateway", "", connection.local_port)
            return self.lives.hand(own, where, connection, "tcp")
        service, workload = found.service, found.workload
        is_tcp = found.speaks != "http"
        if service is not None:
            where = Front(key, "service", service.key, found.port, is_tcp=is_tcp)
            connection.extra["hostname"] = service.hostname
        else:
            assert workload is not None
            where = Front(key, "workload", workload.uid, found.port, is_tcp=is_tcp)
        port = self._gate.front(where)
        return self.lives.hand(port, where, connection, "tcp" if is_tcp else "connect")

    async def _serve(self, call: _Call) -> int | None:
        port, connection = call.port, call.connection
        is_tcp = bool(port.plan.tcp_listener) and call.speaks != "tls"
        stage: Stage = "connect"
        if is_tcp or call.where.kind == "gateway":
            # Nobody looks at the requests: what policies ask of them counts against the caller.
            stage = "tcp"
        if not await self._is_let_in(call, stage):
            return _DENIED
        other = None
        if is_tcp:
            try:
                other = await self._gate.dial(port.plan.key, port.plan.tcp_listener, connection)
            except SidecarError as error:
                _log.debug("%s: %s", call.where, error)
                return _UNAVAILABLE
            # It was not yet among the tunnels that a change of policy ends.
            if not self._judge.permits(call.where, connection, stage):
                other.transport.abort()
                return _DENIED
        try:
            tunnel = call.connect.accept()
        except HboneError:
            if other is not None:
                other.transport.abort()
            raise
        await self._carry_on(call, Live(call.where, connection, stage, tunnel), other)
        return None

    async def _is_let_in(self, call: _Call, stage: Stage) -> bool:
        key, connection = call.port.plan.key, call.connection
        if not self._judge.permits(call.where, connection, stage):
            return False
        asked = self._gate.examine(key, connection)
        if asked is not None:
            await asked
            # Policies may be others since.
            if not self._judge.permits(call.where, connection, stage):
                return False
        return self._gate.admit(key, connection)

    async def _carry_on(self, call: _Call, live: Live, other: Relay | None) -> None:
        port, connection, tunnel = call.port, call.connection, live.tunnel
        self.lives.put(live)
        try:
            if other is not None:
                await port.join(connection, tunnel, port.plan.tcp_listener, other)
            elif call.speaks == "http":
                await port.serve(connection, tunnel)
            else:
                await self._serve_unknown(live, port)
        except (SidecarError, OSError, ssl.SSLError, HboneError) as error:
            _log.debug("%s: %s", call.where, error)
            tunnel.abort()
        finally:
            self.lives.end(tunnel)

    async def _serve_unknown(self, live: Live, port: Port) -> None:
        """What the first octets say it is: TLS, which passes through, or HTTP."""
        tunnel = live.tunnel
        async with asyncio.timeout(port.plan.settings.header_read_seconds):
            first = await tunnel.read()
            is_http = first[:1] != _TLS and not port.plan.tcp_listener
            if first and not is_http:
                hello, early = await read_hello(Unread(tunnel, first))
        if is_http:
            await port.serve(live.connection, Unread(tunnel, first))
            return
        if not first:
            # Nothing to judge it by: a server that speaks first must not answer it.
            tunnel.abort()
            return
        connection = live.connection
        assert connection.tls is not None
        connection.tls = replace(connection.tls, sni=hello.sni)
        connection.extra.pop(FACTS, None)
        where = live.front
        # The request will never be seen: policies that ask for one have to be judged without it.
        where = Front(where.bind, where.kind, where.name, where.port, is_tcp=True)
        raw = port if port.plan.tcp_listener else self._gate.front(where)
        if raw is None or not self._judge.permits(where, connection, "tcp"):
            tunnel.abort()
            return
        self.lives.put(Live(where, connection, "tcp", tunnel))
        await raw.join(connection, Unread(tunnel, early), raw.plan.tcp_listener)

    def _described(self, connect: Connect, hostname: str) -> Connection:
        link = connect.label
        assert isinstance(link, _Link)
        outer, authority = link.connection, connect.authority
        if not link.certificate:
            link.certificate = connect.peer.chain[0].public_bytes(Encoding.DER)
        self._number += 1
        made = Connection(
            outer.peer_host,
            outer.peer_port,
            authority.host,
            authority.port,
            outer.raw_peer_host,
            outer.raw_peer_port,
            TlsInfo(peer_certificate=link.certificate),
            self._number,
        )
        kept = outer.extra
        if "peerIdentity" not in kept:
            # Reading a certificate takes longer than the rest of a CONNECT.
            note_workload(outer, str(connect.peer.identity), link.certificate)
        made.extra.update(kept)
        if hostname:
            made.extra["hostname"] = hostname
        made.extra["connectHeaders"] = Headers(connect.headers)
        network = self._store.network
        networks = connect.request.values(b"x-forwarded-network")
        is_remote = inbound.is_from_gateway(networks, network)
        source = None if is_remote else self._store.workload_at(network, outer.peer_host)
        if source is not None:
            made.extra["workload"] = {
                "name": source.name,
                "namespace": source.namespace,
                "serviceAccount": source.service_account,
            }
        return made
