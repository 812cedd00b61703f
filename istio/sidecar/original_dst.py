"""Where a connection was going before a packet filter redirected it to us.

Source: Linux netfilter, SO_ORIGINAL_DST and IP6T_SO_ORIGINAL_DST (80 on SOL_IP and SOL_IPV6);
spec istio 1.10.

Connection tracking also answers for connections that nobody redirected, with the address they have
anyway. Such a connection was made to our listener itself; to serve it would be to call ourselves.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
from typing import Final

SO_ORIGINAL_DST: Final = 80
_SOL_IP: Final = 0
_SOL_IPV6: Final = 41
_IPV4 = struct.Struct("!HH4s8x")
"""sockaddr_in; the family, which is in the machine's own order, is not looked at."""
_IPV6 = struct.Struct("!HHI16sI")
"""sockaddr_in6."""


def original_destination(sock: socket.socket) -> tuple[str, int] | None:
    """Address and port the peer connected to, None when that is this socket's own.

    An IPv4 address mapped into IPv6 is the IPv4 address it is.
    """
    own = sock.getsockname()
    address = plain_address(own[0])
    try:
        if ":" in address:
            raw = sock.getsockopt(_SOL_IPV6, SO_ORIGINAL_DST, _IPV6.size)
        else:
            raw = sock.getsockopt(_SOL_IP, SO_ORIGINAL_DST, _IPV4.size)
        found = parse_sockaddr(raw)
    except OSError:
        # Not tracked, or no packet filter at all: nobody has redirected it.
        return None
    return None if found == (address, own[1]) else found


def parse_sockaddr(raw: bytes) -> tuple[str, int]:
    """A sockaddr_in or sockaddr_in6, told apart by its size. Raises: OSError for any other size."""
    if len(raw) == _IPV4.size:
        _, port, octets = _IPV4.unpack(raw)
    elif len(raw) == _IPV6.size:
        _, port, _, octets, _ = _IPV6.unpack(raw)
    else:
        raise OSError("an original destination of unknown form")
    return plain_address(str(ipaddress.ip_address(octets))), port


def plain_address(text: str) -> str:
    """The address without a zone, IPv4 where it is mapped into IPv6."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(mapped or address)
