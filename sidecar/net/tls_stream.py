"""TLS inside a stream: a handshake and records where there is no socket to give to OpenSSL.

Source: RFC 8446; Python's `ssl.MemoryBIO`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import Final, final

from sidecar.net.stream import ByteStream

_READ_BYTES: Final = 64 * 1024
_RECORDS_BYTES: Final = 64 * 1024
"""Clear octets that are made into records at a time, so that what waits has a bound."""


@final
class TlsStream:
    """See ByteStream; `ssl_object` is as a transport's extra information has it."""

    def __init__(
        self, stream: ByteStream, context: ssl.SSLContext, *, server_hostname: str | None = None
    ) -> None:
        """`server_hostname`: None on the server's side, "" for a client that names no server."""
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname or None,
        )
        self._sending = asyncio.Lock()
        self._has_ended = False

    async def handshake(self) -> None:
        """The caller bounds its time. Raises: ssl.SSLError, and what the stream raises."""
        while True:
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLError:
                await self._flush()  # the alert
                raise
            else:
                break
        await self._flush()

    async def _flush(self) -> None:
        # Reading may have to answer (a key update) while somebody writes.
        async with self._sending:
            if self._outgoing.pending:
                await self._stream.write(self._outgoing.read())

    async def _fill(self) -> None:
        data = await self._stream.read()
        if data:
            self._incoming.write(data)
        else:
            self._incoming.write_eof()

    async def read(self) -> bytes:
        """See ByteStream. Raises: ssl.SSLError for an end that the peer did not say."""
        while not self._has_ended:
            try:
                data = self.ssl_object.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                await self._flush()
                await self._fill()
            except ssl.SSLZeroReturnError:
                self._has_ended = True
            else:
                if data:
                    return data
                self._has_ended = True
        return b""

    def write_nowait(self, data: bytes) -> int:
        """See ByteStream. Nothing: records that were begun must also go out."""
        return 0

    async def write(self, data: bytes) -> None:
        """See ByteStream."""
        view = memoryview(data)
        while view:
            size = self.ssl_object.write(view[:_RECORDS_BYTES])
            view = view[size:]
            await self._flush()

    async def write_eof(self) -> None:
        """See ByteStream: says that nothing more comes, in TLS and outside of it."""
        with contextlib.suppress(ssl.SSLError):  # it waits for the peer's word; reading sees that
            self.ssl_object.unwrap()
        await self._flush()
        await self._stream.write_eof()

    def abort(self) -> None:
        """See ByteStream."""
        self._stream.abort()

    def release(self) -> None:
        """See ByteStream."""
        self._stream.release()
