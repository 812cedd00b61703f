"""An application's TCP connection as a ByteStream, the far end of a tunnel.

Source: spec istio 1.9; RFC 9293 section 3.6.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from typing import Any, Final, cast, final

from hbone.aio.dial import Prepare, open_tcp
from hbone.errors import ConnectFailedError, ConnectTimeoutError

_BUFFER_BYTES: Final = 256 * 1024
_LINGER_OFF: Final = struct.pack("ii", 1, 0)
_LAST_SECONDS: Final = 60.0
"""For a peer to take the last of it when both directions have ended: nobody waits for it any more,
and a peer that reads nothing would keep the socket for ever."""


@final
class TcpStream(asyncio.Protocol):
    """See ByteStream; also the protocol to be given to `create_server` or `create_connection`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._has_ended = False
        self._has_sent_end = False
        self._is_paused = False
        self._is_reading = True
        self._error: OSError | None = None
        self._last: asyncio.TimerHandle | None = None

    # --- ByteStream -----------------------------------------------------------------------

    async def read(self) -> bytes:
        """See ByteStream."""
        while not self._chunks:
            if self._has_ended:
                return b""  # also when what we sent was refused afterwards
            if self._error is not None:
                raise self._error
            self._reader = self._loop.create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._size = 0
        if not self._is_reading and self._error is None:
            self._is_reading = True
            self._transport.resume_reading()
        return data

    async def write(self, data: bytes) -> None:
        """See ByteStream."""
        if self._error is not None:
            raise self._error
        if self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._transport.write(data)
        while self._is_paused and self._error is None:
            self._writer = self._loop.create_future()
            try:
                await self._writer
            finally:
                self._writer = None
        if self._error is not None:
            raise self._error

    async def write_eof(self) -> None:
        """See ByteStream."""
        if self._has_sent_end:
            return
        if self._error is not None:
            raise self._error
        self._has_sent_end = True
        self._transport.write_eof()
        self._close_if_done()

    def abort(self) -> None:
        """Reset the connection, unless both directions had ended."""
        if (self._has_ended and self._has_sent_end) or self._error is not None:
            return
        sock: Any = self._transport.get_extra_info("socket")
        if sock is not None and sock.family in (socket.AF_INET, socket.AF_INET6):
            # The application learns that the stream was cut: a FIN would say that it is complete.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        self._transport.abort()

    def _close_if_done(self) -> None:
        if self._has_ended and self._has_sent_end and self._last is None:
            self._transport.close()
            self._last = self._loop.call_later(_LAST_SECONDS, self._transport.abort)

    # --- asyncio.Protocol -----------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=_BUFFER_BYTES)

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._chunks.append(data)
        self._size += len(data)
        if self._size >= _BUFFER_BYTES and self._is_reading:
            self._is_reading = False
            self._transport.pause_reading()
        _wake(self._reader)

    def eof_received(self) -> bool:
        """The other direction goes on."""
        self._has_ended = True
        _wake(self._reader)
        self._close_if_done()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if self._last is not None:
            self._last.cancel()
        if not (self._has_ended and self._has_sent_end):
            is_os_error = isinstance(exc, OSError)
            self._error = exc if is_os_error else ConnectionResetError("the connection is closed")  # type: ignore[assignment]
        _wake(self._reader)
        _wake(self._writer)

    def pause_writing(self) -> None:
        """See asyncio."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """See asyncio."""
        self._is_paused = False
        _wake(self._writer)


async def dial_tcp(
    host: str,
    port: int,
    timeout_seconds: float = 10.0,
    *,
    source_ip: str = "",
    prepare: Prepare | None = None,
) -> TcpStream:
    """`source_ip`: to dial from, "" for any. `prepare`: sets options before it connects.

    Raises: ConnectFailedError, ConnectTimeoutError.
    """
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_seconds):
            stream = await open_tcp(
                loop, TcpStream, host, port, source_ip=source_ip, prepare=prepare
            )
    except TimeoutError as error:
        raise ConnectTimeoutError(f"connect {host}:{port} timed out") from error
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise ConnectFailedError(f"connect {host}:{port} failed: {reason}") from error
    return stream


def _wake(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
