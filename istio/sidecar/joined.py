"""Two streams that are relayed until both directions end, and what is left of them when cut.

Source: spec istio 1.8 and 1.9.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field
from typing import final

from hbone.aio import ByteStream, relay
from hbone.errors import HboneError
from istio.sidecar.ways import Arrival


@final
@dataclass(slots=True)
class Counts:
    """What one worker's sidecar has done since it began."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Connections that are over, by direction (outbound, inbound, plaintext) and flag; "-" for
    those that ended as they should."""
    sent_bytes: Counter[str] = field(default_factory=Counter)
    """From the one who connected, by direction."""
    received_bytes: Counter[str] = field(default_factory=Counter)
    """To the one who connected."""


@final
@dataclass(slots=True, eq=False)
class Live:
    """An incoming connection that a change of policy may end."""

    arrival: Arrival
    streams: tuple[ByteStream, ByteStream]
    is_denied: bool = False

    def deny(self) -> None:
        """Cut both sides."""
        self.is_denied = True
        for stream in self.streams:
            stream.abort()


@final
class Prefixed:
    """A ByteStream some of whose octets were read already."""

    __slots__ = ("_rest", "_stream")

    def __init__(self, stream: ByteStream, rest: bytes) -> None:
        self._stream = stream
        self._rest = rest

    async def read(self) -> bytes:
        """See ByteStream."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return await self._stream.read()

    async def write(self, data: bytes) -> None:
        """See ByteStream."""
        await self._stream.write(data)

    async def write_eof(self) -> None:
        """See ByteStream."""
        await self._stream.write_eof()

    def abort(self) -> None:
        """See ByteStream."""
        self._stream.abort()


async def relayed(
    counts: Counts, direction: str, one: ByteStream, other: ByteStream, live: Live | None = None
) -> None:
    """Relay to the end; nothing is raised but cancellation, and no stream is left open."""
    flag = "-"
    try:
        sent, received = await relay(one, other)
    except asyncio.CancelledError:
        counts.ended[direction, "DRAINED"] += 1
        raise
    except HboneError as error:
        flag = error.flag
    except OSError:
        flag = "RESET"
    else:
        counts.sent_bytes[direction] += sent
        counts.received_bytes[direction] += received
    if live is not None and live.is_denied:
        flag = "DENY"
    counts.ended[direction, flag] += 1
