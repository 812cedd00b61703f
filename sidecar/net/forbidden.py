"""Addresses that nobody asks for in good faith through a proxy: clouds' services to a machine.

Source: RFC 3927; RFC 4291 section 2.5.6; hardening case 43 (server-side request forgery).

What answers there hands out credentials to whoever asks from the machine. The check is of the
address that is connected to, after names were resolved, so that no name leads around it.
"""

from __future__ import annotations

import ipaddress
import socket
from typing import Final

_METADATA: Final = frozenset(
    map(
        ipaddress.ip_address,
        # Those that are not link-local: AWS, Google, Oracle and Scaleway over IPv6, Azure's host,
        # Alibaba, Oracle.
        (
            *("fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42"),
            *("168.63.129.16", "100.100.100.200", "192.0.0.192"),
        ),
    )
)


def is_forbidden(address: str) -> bool:
    """Whether a literal address, in any spelling, is link-local or one of the clouds' services."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        try:
            # What is no address to us may be one to who resolves it: decimal, octal, hexadecimal.
            found = ipaddress.IPv4Address(socket.inet_aton(address))
        except (OSError, ValueError):
            return False
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or _translated(found)
        if inner is not None:
            return inner.is_link_local or inner in _METADATA
    return found.is_link_local or found in _METADATA


def is_own(address: str) -> bool:
    """Whether whoever connects to a literal address gets to this machine."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found
    if found.is_loopback or found.is_unspecified:
        return True
    family = socket.AF_INET if found.version == 4 else socket.AF_INET6
    try:
        # Nobody can be bound to an address of another machine.
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((str(found), 0))
    except OSError:
        return False
    return True


def _translated(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address behind NAT64 (RFC 6052) or a compatible form; None for any other."""
    number = int(address)
    if number >> 32 in (0x64_FF9B << 64, 0) and number >> 32 << 32 != number:
        return ipaddress.IPv4Address(number & 0xFFFF_FFFF)
    return None
