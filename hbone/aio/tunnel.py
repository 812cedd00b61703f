"""One tunnel as a stream of octets: read, write, half close, all with backpressure.

Source: spec istio 1.9; RFC 9113 sections 5.1, 5.2 and 8.5.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final, Protocol, final

from h2.errors import ErrorCodes

from hbone.aio.peer import Peer
from hbone.errors import ConnectionLostError, HboneError, TunnelResetError
from hbone.wire.authority import Authority
from hbone.wire.connect import Field

_READ_BYTES: Final = 256 * 1024
_BURST_BYTES: Final = 1024 * 1024
"""What a writer sends at most before it lets others have their turn."""


class ByteStream(Protocol):
    """Both ends of a relay: a tunnel, or a TCP connection."""

    async def read(self) -> bytes:
        """Some octets; b"" when the other side ended its direction. Raises: HboneError, OSError."""

    async def write(self, data: bytes) -> None:
        """Waits while the other side takes nothing. Raises: HboneError, OSError."""

    async def write_eof(self) -> None:
        """End this direction; the other goes on. Raises: HboneError, OSError."""

    def abort(self) -> None:
        """End both directions at once; nothing when both have ended."""


class TunnelOwner(Protocol):
    """The connection, as its tunnels need it."""

    loop: asyncio.AbstractEventLoop

    def room(self, stream_id: int) -> int:
        """Octets that can be sent now, -1 when the tunnel takes none any more."""

    def send(self, stream_id: int, data: memoryview | bytes, *, end: bool) -> None:
        """At most `room` octets."""

    async def wait_room(self, tunnel: Tunnel) -> None:
        """Until it is worth looking at `room` again."""

    def consumed(self, stream_id: int, size: int) -> None:
        """Octets were read, or thrown away."""

    def reset(self, stream_id: int, code: int) -> None:
        """End the stream, if it lives."""

    def drop(self, stream_id: int) -> None:
        """The tunnel wants to hear no more."""


@final
class Tunnel:
    """See ByteStream. One reader and one writer at a time; a context manager aborts on leaving."""

    __slots__ = (
        "_buffered",
        "_burst",
        "_chunks",
        "_closed",
        "_error",
        "_has_ended",
        "_has_sent_end",
        "_owner",
        "_reader",
        "authority",
        "headers",
        "peer",
        "received_bytes",
        "sent_bytes",
        "stream_id",
        "waiter",
    )

    def __init__(
        self, owner: TunnelOwner, stream_id: int, peer: Peer, authority: Authority
    ) -> None:
        self.stream_id = stream_id
        self.peer = peer
        self.authority = authority
        self.headers: tuple[Field, ...] = ()
        """Of the CONNECT on a server, of its answer on a client."""
        self.received_bytes = 0
        self.sent_bytes = 0
        self.waiter: asyncio.Future[None] | None = None
        """Held by a writer that waits for room."""
        self._owner = owner
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._burst = 0
        self._reader: asyncio.Future[None] | None = None
        self._has_ended = False
        self._has_sent_end = False
        self._error: HboneError | None = None
        self._closed: asyncio.Future[None] | None = None

    async def __aenter__(self) -> Tunnel:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    # --- reading --------------------------------------------------------------------------

    async def read(self) -> bytes:
        """See ByteStream. At most 256 KiB and a frame."""
        while not self._chunks:
            if self._has_ended:
                return b""
            if self._error is not None:
                raise self._error
            assert self._reader is None, "a tunnel has one reader"
            self._reader = self._owner.loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        return self._take()

    def _take(self) -> bytes:
        chunks = self._chunks
        if self._buffered <= _READ_BYTES:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
        else:
            parts: list[bytes] = []
            size = 0
            while size < _READ_BYTES:
                parts.append(chunks.popleft())
                size += len(parts[-1])
            data = b"".join(parts)
        self._buffered -= len(data)
        self._owner.consumed(self.stream_id, len(data))
        return data

    # --- writing --------------------------------------------------------------------------

    async def write(self, data: bytes) -> None:
        """See ByteStream."""
        owner = self._owner
        view = memoryview(data)
        while view:
            room = self._room()
            if not room:
                await owner.wait_room(self)
                continue
            size = min(room, len(view))
            owner.send(self.stream_id, view[:size], end=False)
            self.sent_bytes += size
            view = view[size:]
            self._burst += size
            if self._burst >= _BURST_BYTES:
                self._burst = 0
                await asyncio.sleep(0)

    def write_nowait(self, data: bytes) -> int:
        """How many of the octets there was room for: these are sent. Raises: HboneError."""
        room = self._room()
        size = min(room, len(data))
        if size:
            part = data if size == len(data) else memoryview(data)[:size]
            self._owner.send(self.stream_id, part, end=False)
            self.sent_bytes += size
        return size

    async def write_eof(self) -> None:
        """See ByteStream. Once only counts."""
        if not self._has_sent_end:
            self._room()
            self._has_sent_end = True
            self._owner.send(self.stream_id, b"", end=True)
            self._look_closed()

    def _room(self) -> int:
        if self._error is not None:
            raise self._error
        room = -1 if self._has_sent_end else self._owner.room(self.stream_id)
        if room < 0:
            raise ConnectionLostError("the tunnel takes no more data")
        return room

    def abort(self, code: int = ErrorCodes.CANCEL) -> None:
        """See ByteStream. What was not read is thrown away."""
        size, self._buffered = self._buffered, 0
        self._chunks.clear()
        if size:
            self._owner.consumed(self.stream_id, size)
        if not self.is_closed:
            self._owner.reset(self.stream_id, code)
            self.fail(TunnelResetError(code))
        self._owner.drop(self.stream_id)

    def release(self) -> None:
        """Nobody uses it any more: abort, politely when our direction had ended."""
        self.abort(ErrorCodes.NO_ERROR if self._has_sent_end else ErrorCodes.CANCEL)

    @property
    def is_closed(self) -> bool:
        """Whether both directions ended, or it failed."""
        return self._error is not None or (self._has_ended and self._has_sent_end)

    async def wait_closed(self) -> None:
        """Until it is closed, read or not."""
        if not self.is_closed:
            if self._closed is None:
                self._closed = self._owner.loop.create_future()
            await asyncio.shield(self._closed)

    # --- the connection's side ------------------------------------------------------------

    def feed(self, data: bytes) -> None:
        """Octets arrived."""
        self.received_bytes += len(data)
        self._chunks.append(data)
        self._buffered += len(data)
        _wake(self._reader)

    def feed_eof(self) -> None:
        """The peer sends no more."""
        self._has_ended = True
        _wake(self._reader)
        self._look_closed()

    def fail(self, error: HboneError) -> None:
        """It ended before its time; the reader gets `error` after what arrived before."""
        if self.is_closed:
            return
        self._error = error
        _wake(self._reader)
        self.wake_writer()
        _wake(self._closed)

    def wake_writer(self) -> None:
        """Let a waiting writer look again."""
        _wake(self.waiter)

    def _look_closed(self) -> None:
        if self.is_closed:
            _wake(self._closed)
            self._owner.drop(self.stream_id)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
