"""The PROXY header that goes before what a tunnel brings to an application tunnel.

Source: the PROXY protocol, version 2, HAProxy Technologies, section 2.2; spec istio 1.4.
"""

from __future__ import annotations

import ipaddress
import struct
from typing import Final

_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_2_PROXY: Final = 0x21
_TCP4, _TCP6 = 0x11, 0x21
_IDENTITY: Final = 0xD0
"""Type of the field that holds the client's SPIFFE identity, as ztunnel writes it."""


def proxy_header(
    source: tuple[str, int], destination: tuple[str, int], identity: str = ""
) -> bytes:
    """`source`: the client's address and port. `identity`: what it proved, "" for nothing.

    Addresses of two families are both written as IPv6.
    """
    ips = [ipaddress.ip_address(address) for address, _ in (source, destination)]
    if ips[0].version == ips[1].version:
        octets = [ip.packed for ip in ips]
    else:
        octets = [ip.packed if ip.version == 6 else _mapped(ip) for ip in ips]
    family = _TCP4 if len(octets[0]) == 4 else _TCP6
    body = b"".join(octets) + struct.pack("!HH", source[1], destination[1])
    if identity:
        name = identity.encode()
        body += struct.pack("!BH", _IDENTITY, len(name)) + name
    return _SIGNATURE + struct.pack("!BBH", _VERSION_2_PROXY, family, len(body)) + body


def _mapped(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    return b"\0" * 10 + b"\xff\xff" + ip.packed
