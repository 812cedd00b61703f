"""A stream of octets as an asyncio transport, so that connections inside connections are served by
the same protocols as those of sockets.

What is written goes straight to the stream while that has room, and waits here above it: then the
protocol is told to pause. What the peer sends is read only as fast as the protocol takes it.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, Protocol, final

_HIGH_BYTES: Final = 64 * 1024


class ByteStream(Protocol):
    """Both directions of a tunnel (hbone's, or a pipe). One reader and one writer at a time.

    What goes wrong is raised as an Exception of whatever kind; the stream is over then.
    """

    async def read(self) -> bytes:
        """Some octets; b"" when the other side ended its direction."""

    async def write(self, data: bytes) -> None:
        """Waits while the other side takes nothing."""

    def write_nowait(self, data: bytes) -> int:
        """How many of the octets were taken at once."""

    async def write_eof(self) -> None:
        """End this direction; the other goes on."""

    def abort(self) -> None:
        """End both directions at once; nothing when both have ended."""

    def release(self) -> None:
        """Nobody uses it any more: as `abort`, but what was written is whole."""


@final
class Unread:
    """A stream whose first octets were looked at: they come again."""

    def __init__(self, stream: ByteStream, early: bytes) -> None:
        self._stream = stream
        self._early = early
        self.write = stream.write
        self.write_nowait = stream.write_nowait
        self.write_eof = stream.write_eof
        self.abort = stream.abort
        self.release = stream.release

    async def read(self) -> bytes:
        """See ByteStream."""
        early, self._early = self._early, b""
        return early or await self._stream.read()


@final
class StreamTransport(asyncio.Transport):
    """Runs a protocol over a stream. `closed` is done when the protocol was told of the end."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        stream: ByteStream,
        protocol: asyncio.BaseProtocol,
        extra: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(extra)
        self._loop = loop
        self._stream = stream
        self._protocol: Any = protocol
        self._backlog: list[bytes] = []
        self._size = 0
        self._high = _HIGH_BYTES
        self._is_paused = False
        self._is_closing = False
        self._is_gone = False
        self._wants_eof = False
        self._has_sent_eof = False
        self._may_read: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = loop.create_future()
        self._protocol.connection_made(self)
        self._reader = loop.create_task(self._read())

    # --- reading --------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                data = await self._stream.read()
            except Exception as error:
                self._end(error)
                return
            if self._may_read is not None:
                await self._may_read
            if not data or self._is_closing:
                break
            try:
                await self._deliver(data)
            except Exception as error:
                self._fail(error)
                return
            del data  # one at rest holds nothing
        if not self._is_closing and not self._protocol.eof_received():
            self.close()

    async def _deliver(self, data: bytes) -> None:
        """In pieces, where the protocol says how much it takes at a time."""
        view = memoryview(data)
        while view and not self._is_closing:
            protocol = self._protocol
            if isinstance(protocol, asyncio.BufferedProtocol):
                buffer = memoryview(protocol.get_buffer(len(view)))
                size = min(len(buffer), len(view))
                buffer[:size] = view[:size]
                protocol.buffer_updated(size)
                view = view[size:]
            else:
                protocol.data_received(data if len(view) == len(data) else bytes(view))
                view = view[:0]
            if self._may_read is not None:
                await self._may_read

    def _fail(self, error: Exception) -> None:
        """The protocol's fault, or ours."""
        context = {"message": "a protocol failed in a stream", "exception": error}
        self._loop.call_exception_handler(context)
        self._end(error)

    def is_reading(self) -> bool:
        """See asyncio."""
        return self._may_read is None and not self._is_closing

    def pause_reading(self) -> None:
        """See asyncio."""
        if self._may_read is None and not self._is_closing:
            self._may_read = self._loop.create_future()

    def resume_reading(self) -> None:
        """See asyncio."""
        waiter, self._may_read = self._may_read, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- writing --------------------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        if self._is_closing or self._wants_eof or not data:
            return
        data = bytes(data)
        # Fast path: nothing waits, and there is room.
        if self._writer is None:
            try:
                taken = self._stream.write_nowait(data)
            except Exception as error:
                self._end(error)
                return
            if taken == len(data):
                return
            data = data[taken:]
        self._backlog.append(data)
        self._size += len(data)
        self._begin_writing()
        if self._size > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def _begin_writing(self) -> None:
        if self._writer is None and not self._is_gone:
            self._writer = self._loop.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._backlog:
                data = b"".join(self._backlog)
                self._backlog.clear()
                await self._stream.write(data)
                self._size -= len(data)
                if self._is_paused and self._size <= self._high // 2:
                    self._is_paused = False
                    self._protocol.resume_writing()
            if (self._wants_eof or self._is_closing) and not self._has_sent_eof:
                self._has_sent_eof = True
                await self._stream.write_eof()
        except Exception as error:
            self._end(error)
            return
        self._writer = None
        if self._is_closing:
            self._end(None, is_whole=True)

    def can_write_eof(self) -> bool:
        """See asyncio."""
        return True

    def write_eof(self) -> None:
        """See asyncio."""
        if not self._is_closing and not self._wants_eof:
            self._wants_eof = True
            self._begin_writing()

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self._size

    def get_write_buffer_limits(self) -> tuple[int, int]:
        """See asyncio."""
        return self._high // 2, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio; `low` is half of `high`."""
        self._high = _HIGH_BYTES if high is None else high

    # --- ending ---------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._is_closing

    def close(self) -> None:
        """See asyncio: what was written still goes out."""
        if not self._is_closing:
            self._is_closing = True
            self._reader.cancel()
            self._begin_writing()

    def abort(self) -> None:
        """See asyncio."""
        self._end(None)

    def _end(self, error: Exception | None, *, is_whole: bool = False) -> None:
        if self._is_gone:
            return
        self._is_gone = self._is_closing = True
        self._backlog.clear()
        if is_whole:
            self._stream.release()
        else:
            self._stream.abort()
        current = asyncio.current_task(self._loop)
        for task in (self._reader, self._writer):
            if task is not None and task is not current:
                task.cancel()
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            if not self.closed.done():
                self.closed.set_result(None)

    # --- protocols ------------------------------------------------------------------------

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """See asyncio."""
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        """See asyncio."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol
