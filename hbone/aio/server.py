"""The server: listens, proves and demands identities, and hands CONNECTs to a handler.

Source: spec istio 1.2, 1.5, 1.6 and 1.8.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, cast, final

from h2.errors import ErrorCodes

from hbone.aio.credentials import Credentials
from hbone.aio.endpoint import Endpoint, address_of
from hbone.aio.peer import Accepts, Peer, accepts_trust_domains
from hbone.aio.revocation import RevocationList
from hbone.aio.settings import Settings
from hbone.aio.tunnel import Tunnel
from hbone.errors import (
    CertificateError,
    ConnectionLostError,
    HboneError,
    RevokedError,
    TunnelResetError,
)
from hbone.wire.authority import Authority
from hbone.wire.connect import UNAVAILABLE, ConnectRequest, Field
from hbone.wire.events import ConnectReceived, ConnectRejected, StreamReset

_OK: Final = 200
_BACKLOG: Final = 1024
_HANDSHAKES_KEPT: Final = 4096


@final
class Connect:
    """A CONNECT and what is known of its sender; to be accepted or refused, once."""

    __slots__ = (
        "_answer",
        "_tunnel",
        "is_accepted",
        "label",
        "local_address",
        "remote_address",
        "request",
    )

    def __init__(
        self,
        request: ConnectRequest,
        tunnel: Tunnel,
        local_address: tuple[str, int],
        remote_address: tuple[str, int],
        answer: Callable[[int, Iterable[Field]], None],
        label: object = None,
    ) -> None:
        self.request = request
        self.label = label
        """What `Server.endpoint` was given for the connection."""
        self.local_address = local_address
        """The connection's destination, address and port."""
        self.remote_address = remote_address
        """The peer's: of the proxy, or of its pod where it keeps the pod's address."""
        self.is_accepted = False
        self._tunnel = tunnel
        self._answer = answer

    @property
    def peer(self) -> Peer:
        """Who asks; the only proof of identity there is."""
        return self._tunnel.peer

    @property
    def authority(self) -> Authority:
        """What for."""
        return self.request.authority

    @property
    def headers(self) -> tuple[Field, ...]:
        """Claims of the peer: for logs and labels, never for a decision about it."""
        return self.request.headers

    def accept(self, headers: Iterable[Field] = ()) -> Tunnel:
        """Answer 200: to be called when the way to the target is known to be open.

        Raises: HboneError when the client has gone meanwhile; MalformedError.
        """
        assert not self.is_accepted
        if self._tunnel.is_closed:
            raise TunnelResetError(0)
        self._answer(_OK, headers)
        self.is_accepted = True
        return self._tunnel


Handler = Callable[[Connect], Awaitable[int | None]]
"""Gives the status of a refusal, or None after it accepted and the tunnel is done with.

Cancelled when the client gives up before the answer, and when a drain's time is over.
"""


@final
class ServerEndpoint(Endpoint):
    """One client's connection."""

    def __init__(self, server: Server, context: ssl.SSLContext, label: object = None) -> None:
        super().__init__(
            server.loop,
            context,
            server.settings,
            server.check,
            is_client=False,
            not_after=server.not_after,
        )
        self._server = server
        self._label = label
        self._came = server.loop.time()
        self._pending: dict[int, asyncio.Task[None]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See Endpoint."""
        super().connection_made(transport)
        self._server.opened(self)

    def on_ready(self) -> None:
        """See Endpoint."""
        self._server.handshakes.append(self.loop.time() - self._came)

    def connection_lost(self, exc: Exception | None) -> None:
        """See Endpoint."""
        super().connection_lost(exc)
        self._server.closed(self)

    def on_lost(self) -> None:
        """See Endpoint."""
        pending, self._pending = self._pending, {}
        for task in pending.values():
            task.cancel()
        if self.error is not None:
            self._server.ended[self.error.flag] += 1

    def on_stream_gone(self, event: StreamReset) -> None:
        """See Endpoint."""
        task = self._pending.pop(event.stream_id, None)
        if task is not None:
            task.cancel()

    def on_rejected(self, event: ConnectRejected) -> None:
        """See Endpoint."""
        self._server.answered[event.status] += 1

    def on_connect(self, event: ConnectReceived) -> None:
        """See Endpoint."""
        stream_id, request = event.stream_id, event.request
        if self.has_expired:
            # Not looked at: the client may ask again on a connection that it makes anew.
            self.drain()
            self._connection.reset(stream_id, ErrorCodes.REFUSED_STREAM)
            self.flush_soon()
            return
        tunnel = Tunnel(self, stream_id, self.peer, request.authority)
        tunnel.headers = request.headers
        self.tunnels[stream_id] = tunnel
        if request.authority.port in self._settings.refused_ports:
            self._answer(tunnel, UNAVAILABLE, ())
            return
        connect = Connect(
            request,
            tunnel,
            address_of(self.transport, "sockname"),
            address_of(self.transport, "peername"),
            lambda status, headers: self._answer(tunnel, status, headers),
            self._label,
        )
        self._pending[stream_id] = self._server.own(self._serve(connect, tunnel))

    async def _serve(self, connect: Connect, tunnel: Tunnel) -> None:
        status: int | None = None
        try:
            status = await self._server.handler(connect)
        except HboneError:
            pass  # the tunnel failed under the handler: it is answered or gone
        except Exception as error:
            self.loop.call_exception_handler(
                {"message": "an HBONE handler failed", "exception": error}
            )
        finally:
            self._pending.pop(tunnel.stream_id, None)
            if connect.is_accepted:
                tunnel.release()
            elif not tunnel.is_closed:
                is_refusal = status is not None and 300 <= status < 600
                self._answer(tunnel, status if is_refusal and status else UNAVAILABLE, ())

    def _answer(self, tunnel: Tunnel, status: int, headers: Iterable[Field]) -> None:
        self._connection.answer(tunnel.stream_id, status, headers, end=status != _OK)
        self._server.answered[status] += 1
        if status == _OK:
            # From here on its handler ends with the tunnel, not by being cancelled.
            self._pending.pop(tunnel.stream_id, None)
        else:
            tunnel.abort()
        self.flush_soon()


@final
class Server:
    """Serves HBONE with one workload's identity; to be made in the loop that runs it.

    `handler`: see Handler. `trust_domains`: whose identities may come beside our own's; any that
    the roots vouch for when None. Raises: CertificateError.
    """

    def __init__(
        self,
        handler: Handler,
        credentials: Credentials,
        *,
        settings: Settings | None = None,
        trust_domains: frozenset[str] | None = frozenset(),
        revoked: RevocationList | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.handler = handler
        self.settings = settings or Settings()
        self.answered: Counter[int] = Counter()
        """CONNECTs by status; 0 for those that were reset as malformed."""
        self.handshakes: deque[float] = deque(maxlen=_HANDSHAKES_KEPT)
        """Seconds that the last ones took; for whoever counts them, who takes them away."""
        self.ended: Counter[str] = Counter()
        """Connections that ended other than they should, by `HboneError.flag`."""
        self._trust_domains = trust_domains
        self._credentials = credentials
        self._context = credentials.context(is_server=True)
        self._revoked = revoked
        self._endpoints: set[ServerEndpoint] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listeners: list[asyncio.Server] = []
        self._is_draining = False

    # --- listening ------------------------------------------------------------------------

    async def listen(self, host: str, port: int = 15008) -> int:
        """Gives the port, which is chosen for 0. Raises: OSError."""
        listener = await self.loop.create_server(self._protocol, host, port, backlog=_BACKLOG)
        self._listeners.append(listener)
        return int(listener.sockets[0].getsockname()[1])

    async def listen_on(self, sock: socket.socket) -> None:
        """On a bound socket, which becomes the server's."""
        listener = await self.loop.create_server(self._protocol, sock=sock, backlog=_BACKLOG)
        self._listeners.append(listener)

    def _protocol(self) -> asyncio.BaseProtocol:
        return ServerEndpoint(self, self._context)

    def endpoint(self, label: object) -> ServerEndpoint:
        """A connection that somebody else accepts; `label` comes back with each of its CONNECTs."""
        return ServerEndpoint(self, self._context, label)

    def protocol(self) -> asyncio.Protocol:
        """A connection for a transport that comes from elsewhere, a tunnel (see `carrier`)."""
        return cast("asyncio.Protocol", self._protocol())

    # --- certificates ---------------------------------------------------------------------

    def set_credentials(self, credentials: Credentials) -> None:
        """For connections to come; those there are keep theirs. Raises: CertificateError."""
        self._context = credentials.context(is_server=True)
        self._credentials = credentials

    @property
    def not_after(self) -> float:
        """End of its certificate, seconds since 1970: it takes no connections after it."""
        return self._credentials.not_after.timestamp()

    def set_revoked(self, revoked: RevocationList | None) -> None:
        """For connections to come, and ends those of peers that are revoked."""
        self._revoked = revoked
        if revoked is not None:
            self.close_where(_refused_by(revoked.check), RevokedError("the peer was revoked"))

    def close_where(self, is_denied: Callable[[Peer], bool], error: HboneError) -> int:
        """End connections of peers, with their tunnels; gives how many."""
        denied = [
            endpoint
            for endpoint in self._endpoints
            if endpoint.has_peer and is_denied(endpoint.peer)
        ]
        for endpoint in denied:
            endpoint.abort(error)
        return len(denied)

    def check(self, peer: Peer) -> None:
        """Raises: PeerRejectedError, RevokedError."""
        domains = self._trust_domains
        if domains is not None:
            domains |= {self._credentials.identity.trust_domain}
        accepts_trust_domains(domains)(peer)
        if self._revoked is not None:
            self._revoked.check(peer)

    # --- ending ---------------------------------------------------------------------------

    async def drain(self, deadline_seconds: float = 5.0) -> None:
        """Stop listening, let tunnels end until the deadline, then end them."""
        self._is_draining = True
        for listener in self._listeners:
            listener.close()
        for endpoint in list(self._endpoints):
            endpoint.drain()
        if self._endpoints:
            waits = [endpoint.closed for endpoint in self._endpoints]
            await asyncio.wait(waits, timeout=deadline_seconds)
        await self.close()

    async def close(self) -> None:
        """End everything now, and wait for the handlers to notice."""
        self._is_draining = True
        for listener in self._listeners:
            listener.close()
        for endpoint in list(self._endpoints):
            endpoint.abort(ConnectionLostError("the server ends"))
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks))
        if self._endpoints:
            await asyncio.wait([endpoint.closed for endpoint in self._endpoints])

    @property
    def connections(self) -> int:
        """How many there are, handshakes too."""
        return len(self._endpoints)

    # --- the endpoints' side --------------------------------------------------------------

    def opened(self, endpoint: ServerEndpoint) -> None:
        """A transport came."""
        self._endpoints.add(endpoint)
        if self._is_draining or len(self._endpoints) > self.settings.max_connections:
            endpoint.lose(ConnectionLostError("the server takes no more connections"))
            endpoint.transport.abort()
        elif self._credentials.has_expired:
            endpoint.lose(CertificateError("our certificate has expired"))
            endpoint.transport.abort()

    def closed(self, endpoint: ServerEndpoint) -> None:
        """It went."""
        self._endpoints.discard(endpoint)

    def own(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run a handler; `close` waits for it."""
        task = asyncio.ensure_future(work, loop=self.loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _refused_by(check: Accepts) -> Callable[[Peer], bool]:
    def is_denied(peer: Peer) -> bool:
        try:
            check(peer)
        except HboneError:
            return True
        return False

    return is_denied
