"""Two ends of a pipe in memory: what goes in at one comes out at the other, with backpressure.

Used where a client's CONNECT leads back into the gateway itself.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final, final

_HIGH_BYTES: Final = 64 * 1024


class PipeError(ConnectionError):
    """The other end was cut."""


@final
class _Lane:
    """One direction. One reader, one writer."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._chunks: list[bytes] = []
        self._size = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self.has_ended = False
        self.is_cut = False

    @property
    def room(self) -> int:
        return max(_HIGH_BYTES - self._size, 0)

    def put(self, data: bytes) -> None:
        self._chunks.append(data)
        self._size += len(data)
        _wake(self._reader)

    async def take(self) -> bytes:
        while not self._chunks:
            if self.is_cut:
                raise PipeError("the other end was cut")
            if self.has_ended:
                return b""
            self._reader = self._loop.create_future()
            await self._reader
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        _wake(self._writer)
        return data

    async def wait_room(self) -> None:
        while not self.room and not self.is_cut:
            self._writer = self._loop.create_future()
            await self._writer

    def end(self) -> None:
        self.has_ended = True
        _wake(self._reader)

    def cut(self) -> None:
        self.is_cut = True
        _wake(self._reader)
        _wake(self._writer)


@final
class PipeEnd:
    """See sidecar.net.stream.ByteStream; made by `pipe`."""

    def __init__(self, incoming: _Lane, outgoing: _Lane) -> None:
        self._incoming = incoming
        self._outgoing = outgoing

    async def read(self) -> bytes:
        """See ByteStream. Raises: PipeError."""
        return await self._incoming.take()

    def write_nowait(self, data: bytes) -> int:
        """See ByteStream. Raises: PipeError."""
        lane = self._outgoing
        if lane.is_cut or lane.has_ended:
            raise PipeError("the pipe takes no more")
        size = min(lane.room, len(data))
        if size:
            lane.put(data[:size])
        return size

    async def write(self, data: bytes) -> None:
        """See ByteStream. Raises: PipeError."""
        while True:
            data = data[self.write_nowait(data) :]
            if not data:
                return
            await self._outgoing.wait_room()

    async def write_eof(self) -> None:
        """See ByteStream."""
        self.end_output()

    def end_output(self) -> None:
        """The same, at once."""
        self._outgoing.end()

    def abort(self) -> None:
        """See ByteStream."""
        self._incoming.cut()
        if not self._outgoing.has_ended:
            self._outgoing.cut()

    def release(self) -> None:
        """See ByteStream."""
        self.abort()


@final
class PipeTunnel:
    """An end of a pipe as sidecar.http.message.Tunnel."""

    def __init__(self, end: PipeEnd) -> None:
        self._end = end

    async def read(self) -> bytes:
        """See Tunnel. A cut reads as an end: the client's connection is then closed."""
        try:
            return await self._end.read()
        except PipeError:
            return b""

    async def write(self, data: bytes) -> None:
        """See Tunnel. What goes into a cut pipe is lost; reading tells that it was cut."""
        with contextlib.suppress(PipeError):
            await self._end.write(data)

    def write_eof(self) -> None:
        """See Tunnel."""
        self._end.end_output()

    def close(self) -> None:
        """See Tunnel."""
        self._end.abort()


def pipe(loop: asyncio.AbstractEventLoop) -> tuple[PipeEnd, PipeEnd]:
    """The two ends."""
    there, back = _Lane(loop), _Lane(loop)
    return PipeEnd(there, back), PipeEnd(back, there)


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
