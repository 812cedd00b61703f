"""Server name and ALPN of a TLS ClientHello, read from octets without taking part in the handshake.

Source: RFC 8446 sections 4.1.2, 4.2 and 5.1; RFC 6066 section 3; RFC 7301 section 3.1.

`parse` gets everything that has come so far, each time from the first octet, and never more than it
needs is wanted: a hello may be spread over records, and records over packets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import final

from sidecar.errors import SidecarError

MAX_HELLO_BYTES = 16 * 1024
"""Octets of a whole hello message. Post-quantum key shares make about 2 KiB."""
MAX_RECORD_BYTES = 16 * 1024
MAX_OCTETS = 18 * 1024
"""Octets ever needed: a hello with its record headers. Records of a few octets each exceed it."""

_HANDSHAKE = 0x16
_CLIENT_HELLO = 0x01
_SERVER_NAME = 0
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_NAME = re.compile(rb"[A-Za-z0-9_\-]{1,63}(?:\.[A-Za-z0-9_\-]{1,63})*\.?")


class HelloError(SidecarError):
    """What came is no ClientHello. `is_tls`: it began like TLS and then broke the rules."""

    def __init__(self, message: str, *, is_tls: bool) -> None:
        super().__init__(message)
        self.is_tls = is_tls


@final
@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client asks for. `sni` is lower case without a final dot, "" when it named no server.

    `alpn` as offered, in order. `versions`: code points of `supported_versions` (0x0304 is TLS
    1.3), or the one legacy version of a client that has no such extension.
    """

    sni: str
    alpn: tuple[bytes, ...]
    versions: tuple[int, ...]


@final
class _Reader:
    """A bounded walk over octets; any step past the end is a broken message."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int = 0, end: int | None = None) -> None:
        self.data = data
        self.at = at
        self.end = len(data) if end is None else end

    def number(self, width: int) -> int:
        stop = self._step(width)
        return int.from_bytes(self.data[stop - width : stop], "big")

    def block(self, width: int) -> _Reader:
        """The octets behind a length of `width` octets."""
        size = self.number(width)
        stop = self._step(size)
        return _Reader(self.data, stop - size, stop)

    def skip(self, size: int) -> None:
        self._step(size)

    def rest(self) -> bytes:
        out = self.data[self.at : self.end]
        self.at = self.end
        return out

    @property
    def is_done(self) -> bool:
        return self.at == self.end

    def _step(self, size: int) -> int:
        stop = self.at + size
        if stop > self.end:
            raise HelloError("TLS client hello: a length runs past its end", is_tls=True)
        self.at = stop
        return stop


def parse(data: bytes | bytearray | memoryview) -> ClientHello | None:
    """The hello, or None while more octets are needed.

    Raises: HelloError as soon as it is certain that none will come.
    """
    message = _message(bytes(data))
    if message is not None:
        return _parse_hello(_Reader(message))
    if len(data) >= MAX_OCTETS:
        raise HelloError(f"no TLS client hello within {MAX_OCTETS} bytes", is_tls=True)
    return None


def _message(data: bytes) -> bytes | None:
    """The hello message, out of its records and without its header; None when incomplete."""
    if data[:1] not in (b"", b"\x16"):
        raise HelloError("not TLS", is_tls=False)
    if data[1:2] not in (b"", b"\x03"):
        raise HelloError("not TLS", is_tls=False)
    parts: list[bytes] = []
    size = at = 0
    wanted: int | None = None
    while wanted is None or size < wanted:
        if len(data) - at < 5:
            return None
        if data[at] != _HANDSHAKE or data[at + 1] != 3:
            raise HelloError("TLS: a record of another kind inside the client hello", is_tls=True)
        length = int.from_bytes(data[at + 3 : at + 5], "big")
        if not 0 < length <= MAX_RECORD_BYTES:
            raise HelloError("TLS: a record of a forbidden size", is_tls=True)
        part = data[at + 5 : at + 5 + length]
        parts.append(part)
        size += len(part)
        at += 5 + length
        if wanted is None:
            wanted = _wanted(b"".join(parts))
        if len(part) < length and (wanted is None or size < wanted):
            return None
    return b"".join(parts)[4:wanted]


def _wanted(begin: bytes) -> int | None:
    """Size of the message with its header of four octets, once that has come."""
    if begin[:1] not in (b"", b"\x01"):
        raise HelloError("TLS: the first message is not a client hello", is_tls=True)
    if len(begin) < 4:
        return None
    size = int.from_bytes(begin[1:4], "big")
    if size > MAX_HELLO_BYTES:
        raise HelloError(f"TLS client hello is larger than {MAX_HELLO_BYTES} bytes", is_tls=True)
    return 4 + size


def _parse_hello(reader: _Reader) -> ClientHello:
    legacy = reader.number(2)
    reader.skip(32)
    reader.block(1)
    reader.block(2)
    reader.block(1)
    sni = ""
    alpn: tuple[bytes, ...] = ()
    versions: tuple[int, ...] = (legacy,)
    seen: set[int] = set()
    extensions = _Reader(b"") if reader.is_done else reader.block(2)
    if not reader.is_done:
        raise HelloError("TLS client hello: octets after the extensions", is_tls=True)
    while not extensions.is_done:
        kind, body = extensions.number(2), extensions.block(2)
        if kind in seen:
            # Two server names would let us and the server behind us choose differently.
            raise HelloError("TLS client hello: an extension is repeated", is_tls=True)
        seen.add(kind)
        if kind == _SERVER_NAME:
            sni = _server_name(body)
        elif kind == _ALPN:
            alpn = _protocols(body)
        elif kind == _SUPPORTED_VERSIONS:
            versions = _versions(body)
    return ClientHello(sni, alpn, versions)


def _server_name(body: _Reader) -> str:
    names = body.block(2)
    if names.is_done or not body.is_done or names.number(1) != 0:
        raise HelloError("TLS client hello: a malformed server name", is_tls=True)
    name = names.block(2).rest()
    if not names.is_done or len(name) > 254 or _NAME.fullmatch(name) is None:
        raise HelloError("TLS client hello: a malformed server name", is_tls=True)
    return name.decode("ascii").lower().removesuffix(".")


def _protocols(body: _Reader) -> tuple[bytes, ...]:
    listed = body.block(2)
    out: list[bytes] = []
    while not listed.is_done:
        out.append(listed.block(1).rest())
    if not out or b"" in out or not body.is_done:
        raise HelloError("TLS client hello: a malformed ALPN list", is_tls=True)
    return tuple(out)


def _versions(body: _Reader) -> tuple[int, ...]:
    listed = body.block(1)
    out: list[int] = []
    while not listed.is_done:
        out.append(listed.number(2))
    return tuple(out)
