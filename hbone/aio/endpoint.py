"""One HBONE connection on a transport, either side: TLS, identity, frames, tunnels, time.

Source: spec istio 1.2, 1.6, 1.8 and 1.9; RFC 9113.

Design note.

    state        meaning                                             left when
    HANDSHAKE    TLS is being made; no octet of HTTP/2 is looked at  the peer is accepted
    OPENING      our SETTINGS are sent, the peer's are awaited       they came
    READY        tunnels                                             an error, or drained
    LOST         nothing is read or written any more                 -

1. A peer that is not accepted gets no HTTP/2 octet and causes none to be read.
2. HANDSHAKE and OPENING together have one deadline.
3. No tunnel begins after either side's certificate has expired: the connection drains, those that
   live go on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final, cast

from h2.errors import ErrorCodes

from hbone.aio.link import Link, State
from hbone.aio.peer import Accepts, Peer, peer_of
from hbone.aio.settings import Settings
from hbone.aio.sockets import set_keepalive
from hbone.aio.tls import TlsSession
from hbone.aio.validity import has_passed
from hbone.errors import (
    ConnectionLostError,
    ConnectTimeoutError,
    HandshakeError,
    HboneError,
    PeerRejectedError,
    ProtocolMismatchError,
    RevokedError,
    TunnelResetError,
    TunnelUnprocessedError,
    WireError,
)
from hbone.wire.connection import Connection
from hbone.wire.events import (
    AnswerReceived,
    ConnectReceived,
    ConnectRejected,
    DataReceived,
    Event,
    PeerDraining,
    SettingsReceived,
    StreamEnded,
    StreamReset,
    WindowOpened,
)
from hbone.wire.sender import Drain

_FLUSH_BYTES: Final = 64 * 1024
_LINGER_SECONDS: Final = 1.0
"""For a last GOAWAY or alert to be taken by the peer."""
_DRAIN_PING_SECONDS: Final = 5.0
"""How long the PING of a drain is waited for."""


class Endpoint(Link):
    """What both sides do; each subclasses it. A TunnelOwner."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        context: ssl.SSLContext,
        settings: Settings,
        accepts: Accepts,
        *,
        is_client: bool,
        not_after: float,
    ) -> None:
        """`not_after`: end of our own certificate, seconds since 1970."""
        tls = TlsSession(context, is_server=not is_client)
        connection = Connection(settings.limits, is_client=is_client, now=loop.time())
        super().__init__(loop, tls, connection, settings)
        self.error: HboneError | None = None
        """Why it is LOST; None when it ended as it should."""
        self._peer: Peer | None = None
        self._accepts = accepts
        self._is_client = is_client
        self._not_after = not_after
        self._timer: asyncio.TimerHandle | None = None
        self._drain_timer: asyncio.TimerHandle | None = None
        self.closed: asyncio.Future[None] = loop.create_future()
        """Done when the transport is gone."""

    @property
    def has_peer(self) -> bool:
        """Whether TLS stands and the peer was accepted."""
        return self._peer is not None

    @property
    def peer(self) -> Peer:
        """Known from OPENING on."""
        assert self._peer is not None
        return self._peer

    @property
    def has_expired(self) -> bool:
        """Whether a certificate that it was made with, ours or the peer's, is good no more."""
        return has_passed(self._not_after)

    # --- what each side does --------------------------------------------------------------

    def on_ready(self) -> None:
        """The peer's settings came."""

    def on_lost(self) -> None:
        """LOST was entered; every tunnel has failed already."""

    def on_connect(self, event: ConnectReceived) -> None:
        """A client wants a tunnel."""

    def on_rejected(self, event: ConnectRejected) -> None:
        """A request was answered without being looked at."""

    def on_answer(self, event: AnswerReceived) -> None:
        """A server answered."""

    def on_stream_gone(self, event: StreamReset) -> None:
        """A stream was reset which may have no tunnel yet."""

    def on_draining(self) -> None:
        """The peer takes no new tunnels."""

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin TLS."""
        settings = self._settings
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=settings.write_buffer_bytes)
        set_keepalive(self.transport, settings)
        seconds = (
            settings.connect_timeout_seconds
            if self._is_client
            else settings.handshake_timeout_seconds
        )
        self._timer = self.loop.call_later(seconds, self._handshake_expired)
        if self._is_client:
            self._guarded(self._tls.start)
            self._write_records()

    def data_received(self, data: bytes) -> None:
        """Octets from the peer."""
        if not self.is_lost():
            self._guarded(lambda: self._receive(data))
            self._flush()

    def _receive(self, data: bytes) -> None:
        tls = self._tls
        clear = tls.receive(data)
        if self.state is State.HANDSHAKE and tls.is_established:
            self._open()
        if clear:
            for event in self._connection.receive(clear, self.loop.time()):
                self._dispatch(event)
        if tls.has_ended and not self.is_lost():
            raise self._lost_error()
        self.close_if_done()

    def _open(self) -> None:
        if self._tls.tls.selected_alpn_protocol() != "h2":
            raise ProtocolMismatchError("the peer does not speak HTTP/2 (ALPN)")
        peer = peer_of(self._tls.tls)
        self._accepts(peer)
        self._peer = peer
        self._not_after = min(self._not_after, peer.not_after.timestamp())
        self.state = State.OPENING
        self._connection.start()

    def _guarded(self, step: Callable[[], None]) -> None:
        """Run a step that may find the connection to be over."""
        try:
            step()
        except (PeerRejectedError, RevokedError) as error:
            self.lose(error)
            self.transport.abort()
        except HboneError as error:
            is_end = isinstance(error, ConnectionLostError) and not self.tunnels
            if is_end and self.state is State.READY:
                self.lose(None)
            else:
                self._lose_with_words(error)
            self._linger()

    def eof_received(self) -> bool:
        """A peer that half-closes TCP is gone: let the transport close."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        if self.state is not State.LOST:
            if self.state is State.READY and not self.tunnels and exc is None:
                self.lose(None)
            else:
                self.lose(self._lost_error())
        if not self.closed.done():
            self.closed.set_result(None)

    def _lost_error(self) -> HboneError:
        if self.state is State.READY:
            return ConnectionLostError("the connection was lost")
        if not self._is_client:
            return HandshakeError("the client went away during the handshake")
        # In TLS 1.3 a server judges the client's certificate after the client is done.
        return HandshakeError("closed in the handshake; the peer may have refused our certificate")

    # --- events ---------------------------------------------------------------------------

    def _dispatch(self, event: Event) -> None:
        match event:
            case DataReceived(stream_id, data):
                tunnel = self.tunnels.get(stream_id)
                if tunnel is None:
                    self._connection.consumed(stream_id, len(data))
                else:
                    tunnel.feed(data)
            case WindowOpened(stream_id):
                self._on_window(stream_id)
            case StreamEnded(stream_id):
                if (tunnel := self.tunnels.get(stream_id)) is not None:
                    tunnel.feed_eof()
            case StreamReset(stream_id):
                self._on_reset(event)
            case ConnectReceived():
                self.on_connect(event)
            case AnswerReceived():
                self.on_answer(event)
            case SettingsReceived():
                self._become_ready()
            case PeerDraining():
                self.on_draining()
                self.close_if_done()
            case ConnectRejected():
                self.on_rejected(event)

    def _become_ready(self) -> None:
        self.state = State.READY
        self._cancel_timer()
        self._tick()
        self.on_ready()

    def _on_reset(self, event: StreamReset) -> None:
        self.on_stream_gone(event)
        tunnel = self.tunnels.pop(event.stream_id, None)
        if tunnel is not None:
            if event.code == ErrorCodes.NO_ERROR:
                tunnel.feed_eof()
            unprocessed = TunnelUnprocessedError("the peer took no more tunnels")
            tunnel.fail(unprocessed if event.is_unprocessed else TunnelResetError(event.code))
        self.close_if_done()

    def drop(self, stream_id: int) -> None:
        """See TunnelOwner."""
        self.tunnels.pop(stream_id, None)
        self.close_if_done()

    # --- time -----------------------------------------------------------------------------

    def _handshake_expired(self) -> None:
        self.lose(ConnectTimeoutError(f"no HBONE handshake in time in state {self.state.name}"))
        self.transport.abort()

    def _tick(self) -> None:
        self._timer = None
        if self.state is State.LOST:
            return
        now = self.loop.time()
        due: list[float | None] = []
        self._guarded(lambda: due.append(self._connection.tick(now)))
        self._flush()
        if due and due[0] is not None:
            self._timer = self.loop.call_at(due[0], self._tick)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- ending ---------------------------------------------------------------------------

    def drain(self) -> None:
        """No new tunnels; the connection closes when the last one ends."""
        if self.state is State.READY and self._connection.drain_state is Drain.OPEN:
            self._connection.drain()
            self.flush_soon()
            self._drain_timer = self.loop.call_later(_DRAIN_PING_SECONDS, self._finish_drain)
            self.close_if_done()
        elif self.state in (State.HANDSHAKE, State.OPENING):
            self.abort(ConnectionLostError("draining"))

    def _finish_drain(self) -> None:
        if self.state is State.READY:
            self._connection.finish()
            self.flush_soon()
            self.close_if_done()

    def discard(self, error: HboneError) -> None:
        """End it now, in whatever state, even before it had a transport."""
        if self.transport is None:
            self.lose(error)
            if not self.closed.done():
                self.closed.set_result(None)
        else:
            self.abort(error)

    def close_if_done(self) -> None:
        """Close a connection that takes no new tunnels and has none."""
        connection = self._connection
        if (
            self.state is State.READY
            and connection.drain_state is Drain.LAST
            and not connection.stream_count
            and not self.tunnels
        ):
            self.loop.call_soon(self._close)

    def _close(self) -> None:
        if self.state is not State.LOST:
            self._flush()
            self._tls.end()
            self._write_records()
            self.lose(None)
            self._linger()

    def abort(self, error: HboneError) -> None:
        """End it now: GOAWAY if there is time, every tunnel fails with `error`."""
        if self.state is State.LOST:
            return
        if self.state is State.HANDSHAKE:
            self.lose(error)
        else:
            self._connection.close()
            self._lose_with_words(error)
        self._linger()

    def _lose_with_words(self, error: HboneError) -> None:
        """LOST, after the peer was told what is queued: an alert or a GOAWAY."""
        if isinstance(error, WireError) or self.state is not State.HANDSHAKE:
            self._flush()
        self._write_records()
        self.lose(error)

    def _linger(self) -> None:
        self.transport.close()
        if not self.closed.done():
            self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def lose(self, error: HboneError | None) -> None:
        """Enter LOST; the transport is the caller's to close."""
        if self.state is State.LOST:
            return
        self.state = State.LOST
        self.error = error
        self._cancel_timer()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        cause = error or ConnectionLostError("the connection was closed")
        tunnels, self.tunnels = list(self.tunnels.values()), {}
        for tunnel in tunnels:
            tunnel.fail(cause)
        self.on_lost()


def address_of(transport: asyncio.BaseTransport, name: str) -> tuple[str, int]:
    """`peername` or `sockname` as address and port; ("", 0) inside a tunnel."""
    address: Any = transport.get_extra_info(name)
    return (str(address[0]), int(address[1])) if isinstance(address, tuple) else ("", 0)
