"""Reads of bounded size for a connection that carries a stream.

uvloop hands a plain protocol up to 256,000 octets at once. A peer behind that takes nothing more
then holds a quarter of a megabyte; through a buffer of our own it holds what the buffer has.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

READ_BYTES: Final = 96 * 1024
# One for all connections of the process: an event loop asks for it, fills it and says so without
# running anything else in between, and the octets are copied out there and then.
_BUFFER: Final = memoryview(bytearray(READ_BYTES))


@final
class BoundedReader(asyncio.BufferedProtocol):
    """Stands between a transport and its protocol and passes everything on."""

    __slots__ = ("_protocol",)

    def __init__(self, protocol: asyncio.Protocol) -> None:
        self._protocol = protocol

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next octets go."""
        return _BUFFER

    def buffer_updated(self, nbytes: int) -> None:
        """They are there."""
        self._protocol.data_received(bytes(_BUFFER[:nbytes]))

    def eof_received(self) -> bool | None:
        """See Protocol."""
        return self._protocol.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """See Protocol."""
        self._protocol.connection_lost(exc)

    def pause_writing(self) -> None:
        """See Protocol."""
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        """See Protocol."""
        self._protocol.resume_writing()


def switch(transport: asyncio.Transport, protocol: asyncio.BaseProtocol) -> None:
    """Make `protocol` the transport's while it reads: how it reads is settled when it begins to."""
    if not transport.is_closing():
        transport.pause_reading()
        transport.set_protocol(protocol)
        transport.resume_reading()
