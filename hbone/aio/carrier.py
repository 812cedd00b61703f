"""A tunnel as a transport, for the HBONE connection inside it (double HBONE).

Source: spec istio 1.1 and 1.2.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final, final

from hbone.aio.tunnel import ByteStream
from hbone.errors import HboneError

_HIGH_BYTES: Final = 64 * 1024


@final
class Carrier(asyncio.Transport):
    """Runs a protocol over a stream; owns two tasks that end with it, and ends the stream."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, stream: ByteStream, protocol: asyncio.Protocol
    ) -> None:
        super().__init__()
        self._loop = loop
        self._stream = stream
        self._protocol = protocol
        self._buffer: list[bytes] = []
        self._size = 0
        self._high = _HIGH_BYTES
        self._is_paused = False
        self._is_closing = False
        self._is_gone = False
        self._has_output = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        protocol.connection_made(self)
        if not self._is_gone:
            self._tasks = [loop.create_task(self._read()), loop.create_task(self._write())]

    async def _read(self) -> None:
        try:
            while data := await self._stream.read():
                self._protocol.data_received(data)
        except (HboneError, OSError) as error:
            self._end(error)
            return
        except Exception as error:
            # As transports do: a protocol that fails inside must not stay, with nobody reading.
            self._loop.call_exception_handler(
                {"message": "a protocol in a tunnel failed", "exception": error}
            )
            self._end(error)
            return
        self._protocol.eof_received()
        self.close()

    async def _write(self) -> None:
        try:
            while True:
                while self._buffer:
                    data = b"".join(self._buffer)
                    self._buffer.clear()
                    await self._stream.write(data)
                    self._size -= len(data)
                    if self._is_paused and self._size <= self._high // 2:
                        self._is_paused = False
                        self._protocol.resume_writing()
                if self._is_closing:
                    await self._stream.write_eof()
                    self._end(None)
                    return
                self._has_output.clear()
                await self._has_output.wait()
        except (HboneError, OSError) as error:
            self._end(error)

    def _end(self, error: Exception | None) -> None:
        if self._is_gone:
            return
        self._is_gone = self._is_closing = True
        self._stream.abort()
        current = asyncio.current_task(self._loop)
        for task in self._tasks:
            if task is not current:
                task.cancel()
        self._loop.call_soon(self._protocol.connection_lost, error)

    # --- asyncio.Transport ----------------------------------------------------------------

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """See asyncio."""
        if self._is_closing or not data:
            return
        self._buffer.append(bytes(data))
        self._size += len(data)
        self._has_output.set()
        if self._size > self._high and not self._is_paused:
            self._is_paused = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        """See asyncio."""
        return self._size

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See asyncio; `low` is half of `high`."""
        self._high = _HIGH_BYTES if high is None else high

    def is_closing(self) -> bool:
        """See asyncio."""
        return self._is_closing

    def close(self) -> None:
        """See asyncio."""
        self._is_closing = True
        self._has_output.set()

    def abort(self) -> None:
        """See asyncio."""
        self._end(None)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Nothing is known of what is outside."""
        return default

    async def wait_closed(self) -> None:
        """Until its tasks have ended."""
        if self._tasks:
            await asyncio.wait(self._tasks)
