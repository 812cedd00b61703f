"""Relays octets between a downstream and an upstream connection: TCP routes, TLS passthrough.

Each side's reading pauses while the other side's write buffer is full, so a slow peer slows its
sender and nothing is held beyond the buffers of two transports. Half closes are passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast, final

from sidecar.net.sweep import Sweeper

HIGH_WATER_BYTES = 64 * 1024


@final
class Relay(asyncio.Protocol):
    """One side of a relayed pair. What arrives before `join` waits: about HIGH_WATER_BYTES."""

    __slots__ = (
        "_early",
        "_ends_at_eof",
        "_eof",
        "_idle_seconds",
        "_on_lost",
        "_peer",
        "_sweeper",
        "deadline",
        "is_lost",
        "received_bytes",
        "sent_bytes",
        "transport",
    )

    def __init__(
        self,
        sweeper: Sweeper,
        idle_seconds: float,
        on_lost: Callable[[Relay], None] | None = None,
        early: bytes = b"",
        *,
        ends_at_eof: bool = False,
    ) -> None:
        self._sweeper = sweeper
        self._idle_seconds = idle_seconds
        self._on_lost = on_lost
        self._peer: Relay | None = None
        self._early = early
        self._ends_at_eof = ends_at_eof
        self._eof = False
        self.deadline = 0.0
        self.is_lost = False
        self.received_bytes = len(early)
        self.sent_bytes = 0
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready to be joined."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.deadline = self._sweeper.time() + self._idle_seconds
        self._sweeper.add(self)

    def join(self, peer: Relay) -> None:
        """Pass octets to each other from now on."""
        self._link(peer)
        peer._link(self)
        self._end_pair()
        # One that was lost before it had a peer could not tell it.
        if self.is_lost or peer.is_lost:
            (peer if self.is_lost else self).transport.close()

    def _link(self, peer: Relay) -> None:
        self._peer = peer
        early, self._early = self._early, b""
        if early:
            peer.sent_bytes += len(early)
            peer.transport.write(early)
        if self._eof:
            peer.end()
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def end(self) -> None:
        """The other side sends no more."""
        if self.transport.is_closing():
            return
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()

    def data_received(self, data: bytes) -> None:
        """Pass it on."""
        self.received_bytes += len(data)
        peer = self._peer
        if peer is None:
            self._early += data
            if len(self._early) > HIGH_WATER_BYTES:
                self.transport.pause_reading()
            return
        now = self._sweeper.time()
        self.deadline = now + self._idle_seconds
        peer.deadline = now + self._idle_seconds
        if not peer.transport.is_closing():
            peer.sent_bytes += len(data)
            peer.transport.write(data)

    def eof_received(self) -> bool:
        """Pass the half close on; the other direction goes on."""
        self._eof = True
        if self._peer is not None:
            self._peer.end()
            self._end_pair()
        return not self._ends_at_eof

    def _end_pair(self) -> None:
        """Both have said all: what is still in a write buffer goes out, then the pair is gone."""
        peer = self._peer
        if self._eof and peer is not None and peer._eof:
            peer.transport.close()
            self.transport.close()

    def pause_writing(self) -> None:
        """This side takes no more: its sender has to wait."""
        if self._peer is not None and not self._peer.transport.is_closing():
            self._peer.transport.pause_reading()

    def resume_writing(self) -> None:
        """This side takes again."""
        if self._peer is not None and not self._peer.transport.is_closing():
            self._peer.transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """The pair ends together; what was written to the other side still goes out."""
        self.is_lost = True
        self._sweeper.discard(self)
        self.deadline = 0.0
        peer, self._peer = self._peer, None
        if peer is not None and not peer.transport.is_closing():
            if exc is None:
                peer.transport.close()
            else:
                peer.transport.abort()
        if self._on_lost is not None:
            self._on_lost(self)

    def expire(self) -> None:
        """Neither side said anything for the idle time."""
        self.transport.abort()


@final
class RelayedStream:
    """A relayed connection, as drain sees it."""

    __slots__ = ("_side",)

    def __init__(self, side: Relay) -> None:
        self._side = side

    def drain(self) -> None:
        """A relayed stream has no point at which it could be told; it ends or is cut."""

    def abort(self) -> None:
        """Cut it."""
        self._side.transport.abort()
