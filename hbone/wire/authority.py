"""The authority of a CONNECT: an address or a host name, and always a port.

Source: RFC 9113 section 8.5; RFC 9110 section 9.3.6; RFC 3986 section 3.2.2; spec istio 1.3.

One target has one form: names are lower-case without a final dot, addresses as the standard
library writes them, an IPv4 address mapped into IPv6 as the IPv4 address it is. Numbers that some
resolvers take for addresses (`127.1`, `0x7f.1`) are no names, or a policy about the address would
not see them.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, final

ILLEGAL_PORTS: Final = frozenset((15001, 15006, 15008, 15080))
"""Ports of the proxies themselves: a tunnel to one would be a loop (spec istio 1.5)."""

_MAX_BYTES: Final = 253 + 1 + 5
_SPLIT = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9._-]{1,254})):([1-9][0-9]{0,4})"
).fullmatch
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?").fullmatch
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*").fullmatch


class BadAuthorityError(ValueError):
    """Not an authority that HBONE knows. The text names the reason, never the authority."""


@final
@dataclass(frozen=True, slots=True)
class Authority:
    """`host`: an address or a name in canonical form, without brackets; `port`: 1 to 65535."""

    host: str
    port: int
    is_address: bool

    @property
    def is_illegal(self) -> bool:
        """Whether the port is one of a proxy's own."""
        return self.port in ILLEGAL_PORTS

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_authority(raw: bytes) -> Authority:
    """`a.b.c.d:port`, `[v6]:port` or `name:port`. Raises: BadAuthorityError."""
    found = _SPLIT(raw) if len(raw) <= _MAX_BYTES else None
    if found is None:
        raise BadAuthorityError("the authority is not host:port")
    port = int(found[3])
    if port > 65535:
        raise BadAuthorityError("the port is above 65535")
    if found[1] is not None:
        return Authority(_ipv6(found[1].decode()), port, True)
    host = found[2].decode().lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER(labels[-1]):
        return Authority(_ipv4(host), port, True)
    if len(host) > 253 or not all(_LABEL(label) for label in labels):
        raise BadAuthorityError("the host is neither an address nor a name")
    return Authority(host, port, False)


def make_authority(host: str, port: int) -> Authority:
    """Of parts that were decided on this side. Raises: BadAuthorityError."""
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        return parse_authority(text.encode("ascii"))
    except UnicodeEncodeError as error:
        raise BadAuthorityError("the host is not ASCII") from error


def _ipv4(text: str) -> str:
    try:
        return str(ipaddress.IPv4Address(text))
    except ValueError as error:
        raise BadAuthorityError("the host is a malformed IPv4 address") from error


def _ipv6(text: str) -> str:
    try:
        address = ipaddress.IPv6Address(text)
    except ValueError as error:
        raise BadAuthorityError("the host is a malformed IPv6 address") from error
    return str(address.ipv4_mapped or address)
