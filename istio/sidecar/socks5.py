"""The server's side of SOCKS 5 without authentication, CONNECT alone: octets in, octets out.

Source: RFC 1928.

For tests and for applications whose connections cannot be redirected. It is offered to this host
alone, so nobody has to prove who he is.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import Final, final

_VERSION: Final = 5
_NO_AUTHENTICATION: Final = 0
_NOTHING_ACCEPTABLE: Final = 0xFF
_CONNECT: Final = 1
_IPV4, _NAME, _IPV6 = 1, 3, 4
_SIZES: Final = {_IPV4: 4, _IPV6: 16}
_MAX_BYTES: Final = 1024
"""A greeting and a request have 519 octets at most."""


class Reply(IntEnum):
    """RFC 1928 section 6."""

    SUCCEEDED = 0
    FAILED = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    COMMAND_UNKNOWN = 7
    ADDRESS_UNKNOWN = 8


class SocksError(ValueError):
    """The client speaks something else, or asks for something else; `last`: what it is told."""

    def __init__(self, reason: str, last: bytes = b"") -> None:
        super().__init__(reason)
        self.last = last


@final
class Socks5:
    """`feed` until `target` is known; `rest` is then what belongs to the connection already."""

    __slots__ = ("_buffer", "_is_greeted", "target")

    def __init__(self) -> None:
        self.target: tuple[str, int] | None = None
        """Address or name, and port."""
        self._buffer = b""
        self._is_greeted = False

    @property
    def rest(self) -> bytes:
        """Octets behind the request."""
        return self._buffer

    def feed(self, data: bytes) -> bytes:
        """Gives what is to be sent. Raises: SocksError."""
        self._buffer += data
        out = b""
        if not self._is_greeted:
            out = self._greet()
        if self._is_greeted and self.target is None:
            self._ask()
        if self.target is None and len(self._buffer) > _MAX_BYTES:
            raise SocksError("more octets than a request has")
        return out

    def _greet(self) -> bytes:
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            raise SocksError("not version 5")
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return b""
        methods, self._buffer = buffer[2 : 2 + buffer[1]], buffer[2 + buffer[1] :]
        if _NO_AUTHENTICATION not in methods:
            raise SocksError("the client wants to authenticate", b"\5\xff")
        self._is_greeted = True
        return bytes((_VERSION, _NO_AUTHENTICATION))

    def _ask(self) -> None:
        buffer = self._buffer
        if buffer and buffer[0] != _VERSION:
            raise SocksError("not version 5")
        if len(buffer) < 5:
            return
        if buffer[1] != _CONNECT:
            raise SocksError("a command other than CONNECT", reply(Reply.COMMAND_UNKNOWN))
        kind = buffer[3]
        start, size = (5, buffer[4]) if kind == _NAME else (4, _SIZES.get(kind, 0))
        if not size:
            raise SocksError("an address of unknown kind", reply(Reply.ADDRESS_UNKNOWN))
        end = start + size
        if len(buffer) < end + 2:
            return
        host, port = _host(kind, buffer[start:end]), int.from_bytes(buffer[end : end + 2], "big")
        if not port:
            raise SocksError("port 0", reply(Reply.FAILED))
        self.target, self._buffer = (host, port), buffer[end + 2 :]


def _host(kind: int, octets: bytes) -> str:
    if kind != _NAME:
        return str(ipaddress.ip_address(octets))
    try:
        return octets.decode("ascii").lower()
    except UnicodeDecodeError as error:
        raise SocksError("a name that is not ASCII", reply(Reply.FAILED)) from error


def reply(code: Reply) -> bytes:
    """An answer to the request; the address in it, which nobody needs, is none."""
    return bytes((_VERSION, code, 0, _IPV4, 0, 0, 0, 0, 0, 0))
