"""The writing half of an HBONE connection: whose turn it is, and how much the peer takes.

Source: spec istio 1.6 and 1.9; RFC 9113 section 5.2.

1. Octets are written once per turn of the loop, or when 64 KiB are at hand.
2. Writers wait while their window, the connection's or the transport is full; those that wait are
   woken the longest waiting first, as far as the connection's window goes.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from enum import Enum
from typing import Final, cast

from hbone.aio.settings import Settings
from hbone.aio.tls import TlsSession
from hbone.aio.tunnel import Tunnel
from hbone.errors import ConnectionLostError, HboneError
from hbone.wire.connection import Connection

_FLUSH_BYTES: Final = 64 * 1024


class State(Enum):
    """See the design note of `endpoint`."""

    HANDSHAKE = 0
    OPENING = 1
    READY = 2
    LOST = 3


class Link(asyncio.Protocol, ABC):
    """What `endpoint.Endpoint` writes; most of a TunnelOwner."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        tls: TlsSession,
        connection: Connection,
        settings: Settings,
    ) -> None:
        self.loop = loop
        self.state = State.HANDSHAKE
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.tunnels: dict[int, Tunnel] = {}
        self._settings = settings
        self._tls = tls
        self._connection = connection
        self._waiting: dict[int, Tunnel] = {}
        self._is_paused = False
        self._is_flush_due = False

    def is_lost(self) -> bool:
        """Whether nothing is read or written any more."""
        return self.state is State.LOST

    @abstractmethod
    def lose(self, error: HboneError | None) -> None:
        """Enter LOST."""

    def pause_writing(self) -> None:
        """The peer does not read."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_paused = False
        self._wake_writers()

    def _on_window(self, stream_id: int) -> None:
        if not stream_id:
            self._wake_writers()
        elif (tunnel := self._waiting.get(stream_id)) is not None and not self._is_paused:
            tunnel.wake_writer()

    def _wake_writers(self) -> None:
        connection = self._connection
        is_held = self._is_paused or self.state is State.LOST
        room = 0 if is_held else connection.connection_window
        for tunnel in self._waiting.values():
            if room <= 0:
                return
            # Negative, the stream takes nothing any more: its writer has to learn that.
            own = connection.send_window(tunnel.stream_id)
            if own:
                tunnel.wake_writer()
                room -= max(own, 0)

    # --- tunnels' side (TunnelOwner) ------------------------------------------------------

    def room(self, stream_id: int) -> int:
        """See TunnelOwner."""
        if self.state is State.LOST:
            return -1
        room = self._connection.send_window(stream_id)
        return 0 if room > 0 and self._is_paused else room

    def send(self, stream_id: int, data: memoryview | bytes, *, end: bool) -> None:
        """See TunnelOwner."""
        self._connection.send(stream_id, data, end=end)
        if self._connection.pending_bytes >= _FLUSH_BYTES:
            self._flush()
        else:
            self.flush_soon()

    async def wait_room(self, tunnel: Tunnel) -> None:
        """See TunnelOwner."""
        waiter = tunnel.waiter = self.loop.create_future()
        self._waiting[tunnel.stream_id] = tunnel
        try:
            await waiter
        finally:
            tunnel.waiter = None
            self._waiting.pop(tunnel.stream_id, None)
            if not waiter.cancelled():
                # What it leaves of the room, after it wrote, is another's.
                self.loop.call_soon(self._wake_writers)

    def consumed(self, stream_id: int, size: int) -> None:
        """See TunnelOwner."""
        if self.state is not State.LOST:
            self._connection.consumed(stream_id, size)
            self.flush_soon()

    def reset(self, stream_id: int, code: int) -> None:
        """See TunnelOwner."""
        if self.state is not State.LOST:
            self._connection.reset(stream_id, code)
            self.flush_soon()

    # --- writing --------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Write what is queued at the end of this turn of the loop."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self.state is State.LOST or self.transport.is_closing():
            return
        if self.state is not State.HANDSHAKE:
            clear = self._connection.take()
            if clear:
                self._tls.write(clear)
        self._write_records()

    def _write_records(self) -> None:
        records = self._tls.take()
        if records and not self.transport.is_closing():
            self.transport.write(records)
            if self.transport.get_write_buffer_size() > self._settings.unread_output_bytes:
                self.lose(ConnectionLostError("the peer does not read"))
                self.transport.abort()
