"""Writes that wait for the end of the event loop's turn, and then go out one after the other.

Each write to a socket may wake the process at its other end, on another core; that costs more than
the write itself. Answers and calls of one turn written together wake each peer once: at 32
connections this saves a tenth of the CPU of a small request (docs/benchmarks.md).
"""

from __future__ import annotations

import asyncio
from typing import final


@final
class Outbox:
    """One a worker. Octets for one transport keep their order among those that come this way.

    Whoever writes to a transport in another way, or closes it, between a `write` and the end of
    the turn calls `flush` first.
    """

    __slots__ = ("_loop", "_pending")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._pending: list[tuple[asyncio.Transport, bytes]] = []

    def write(self, transport: asyncio.Transport, data: bytes) -> None:
        """Send `data` at the end of this turn."""
        if not self._pending:
            self._loop.call_soon(self.flush)
        self._pending.append((transport, data))

    def flush(self) -> None:
        """Send what waits, now."""
        pending = self._pending
        if pending:
            self._pending = []
            for transport, data in pending:
                if not transport.is_closing():
                    transport.write(data)
