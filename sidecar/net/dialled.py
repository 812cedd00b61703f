"""A connection of its own to an upstream, for octets of whatever kind: the far end of a CONNECT.

Source: RFC 9110 section 9.3.6.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast, final

_HIGH_BYTES: Final = 64 * 1024
_LAST_SECONDS: Final = 10.0
"""For what waits to be sent at the end: a peer that takes nothing would be open for ever."""


@final
class DialledTunnel(asyncio.Protocol):
    """See sidecar.http.message.Tunnel. The client's end watches how long it is idle."""

    __slots__ = ("_can_write", "_data", "_has_ended", "_loop", "_reader", "_transport")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._data = b""
        self._has_ended = False
        self._reader: asyncio.Future[None] | None = None
        self._can_write: asyncio.Future[None] | None = None

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_HIGH_BYTES)

    def data_received(self, data: bytes) -> None:
        """Kept until they are read."""
        self._data += data
        if len(self._data) > _HIGH_BYTES:
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        """The other direction goes on, where the transport can."""
        self._has_ended = True
        _wake(self._reader)
        return True

    def pause_writing(self) -> None:
        """The upstream takes no more."""
        if self._can_write is None:
            self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        """It takes again."""
        waiter, self._can_write = self._can_write, None
        _wake(waiter)

    def connection_lost(self, exc: Exception | None) -> None:
        """Both directions are over."""
        self._has_ended = True
        _wake(self._reader)
        waiter, self._can_write = self._can_write, None
        _wake(waiter)

    # --- Tunnel ---------------------------------------------------------------------------

    async def read(self) -> bytes:
        """See Tunnel."""
        while not self._data:
            if self._has_ended:
                return b""
            self._reader = self._loop.create_future()
            await self._reader
        data, self._data = self._data, b""
        if not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """See Tunnel. What is written after the end is lost; reading tells of that."""
        if self._transport.is_closing():
            return
        self._transport.write(data)
        if self._can_write is not None:
            await self._can_write

    def write_eof(self) -> None:
        """See Tunnel."""
        if self._transport.is_closing():
            return
        if self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()

    def close(self) -> None:
        """See Tunnel."""
        close_soon(self._transport, self._loop)


def close_soon(transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
    """Close a tunnel's far end; what was written still goes out, if the peer takes it."""
    if transport.get_write_buffer_size():
        loop.call_later(_LAST_SECONDS, transport.abort)
    transport.close()


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
