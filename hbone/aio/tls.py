"""TLS as octets in and out, so that it runs over a socket and inside a tunnel alike.

Source: RFC 8446; spec istio 1.2.
"""

from __future__ import annotations

import ssl
from typing import Final, final

from hbone.errors import HandshakeError

_RECORD_BYTES: Final = 16 * 1024


@final
class TlsSession:
    """One connection's TLS. Of no more use after HandshakeError; what `take` gives is then an alert
    for the peer."""

    __slots__ = ("_in", "_out", "has_ended", "is_established", "tls")

    def __init__(self, context: ssl.SSLContext, *, is_server: bool) -> None:
        self._in = ssl.MemoryBIO()
        self._out = ssl.MemoryBIO()
        self.tls = context.wrap_bio(self._in, self._out, server_side=is_server)
        self.is_established = False
        self.has_ended = False
        """The peer said that it writes no more."""

    def start(self) -> None:
        """A client's first words. Raises: HandshakeError."""
        self._handshake()

    def receive(self, data: bytes) -> bytes:
        """What `data` brought in clear. Raises: HandshakeError."""
        self._in.write(data)
        if not self.is_established:
            self._handshake()
            if not self.is_established:
                return b""
        parts: list[bytes] = []
        read = self.tls.read
        try:
            while part := read(_RECORD_BYTES):
                parts.append(part)
            self.has_ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:
            self.has_ended = True
        except ssl.SSLError as error:
            raise HandshakeError(_text(error)) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, data: bytes) -> None:
        """Encrypt; `take` gives the records."""
        view = memoryview(data)
        while view:
            view = view[self.tls.write(view) :]

    def take(self) -> bytes:
        """Everything to be written, once."""
        return self._out.read()

    def end(self) -> None:
        """Say that we write no more."""
        try:
            self.tls.unwrap()
        except ssl.SSLError:
            # It waits for the peer's own ending, which nobody needs; ours is written.
            return

    def _handshake(self) -> None:
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as error:
            raise HandshakeError(_text(error)) from error
        self.is_established = True


def _text(error: ssl.SSLError) -> str:
    """What was wrong, without file names and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verification failed: {error.verify_message}"
    return f"TLS failed: {(error.reason or 'unknown reason').lower().replace('_', ' ')}"
