"""IP addresses and networks.

Source: Kubernetes CEL libraries "IP" and "CIDR"; spec/config.md section 7.4.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv6Address,
    IPv6Interface,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final, final

from sidecar.cel.table import Function, Table, text
from sidecar.cel.values import CelError, Opaque, no_overload

Address = IPv4Address | IPv6Address


@final
class Ip(Opaque):
    """An IPv4 or IPv6 address."""

    __slots__ = ("address",)
    type_name = "ip"

    def __init__(self, address: Address) -> None:
        self.address = address

    def plain(self) -> object:
        """See Opaque."""
        return str(self.address)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Ip) and other.address == self.address

    def __hash__(self) -> int:
        return hash(self.address)


@final
class Cidr(Opaque):
    """An address with a prefix length; host bits may be set."""

    __slots__ = ("interface", "network")
    type_name = "cidr"

    def __init__(self, interface: IPv4Interface | IPv6Interface) -> None:
        self.interface = interface
        self.network = ip_network(interface.network)

    def plain(self) -> object:
        """See Opaque."""
        return str(self.interface)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cidr) and other.interface == self.interface

    def __hash__(self) -> int:
        return hash(self.interface)


def parse_ip(source: str) -> Address:
    """A plain address, without a zone. Raises CelError."""
    try:
        address = ip_address(source)
    except ValueError as exc:
        raise CelError("ip: not an IP address") from exc
    if "%" in source:
        raise CelError("ip: an address with a zone")
    # One address, however it is written: a rule about 10.0.0.1 is about ::ffff:10.0.0.1 too.
    return getattr(address, "ipv4_mapped", None) or address


def parse_cidr(source: str) -> Cidr:
    """`address/length`. Raises CelError."""
    address, slash, length = source.partition("/")
    if not slash or not (length.isascii() and length.isdigit()) or "%" in address:
        raise CelError("cidr: not an address and a prefix length")
    try:
        return Cidr(ip_interface(source))
    except ValueError as exc:
        raise CelError("cidr: not an address and a prefix length") from exc


def _is_ip(value: object) -> bool:
    try:
        parse_ip(text("isIP", value))
    except CelError:
        if not isinstance(value, str):
            raise
        return False
    return True


def _address(what: str, test: Callable[[Address], object]) -> Function:
    def apply(value: object) -> object:
        if not isinstance(value, Ip):
            raise no_overload(what, value)
        return test(value.address)

    return Function(apply, 0, 0)


def _is_link_local_multicast(address: Address) -> bool:
    packed = address.packed
    if address.version == 4:
        return packed[:3] == b"\xe0\x00\x00"
    return packed[0] == 0xFF and packed[1] & 0x0F == 0x02


def _is_link_local_unicast(address: Address) -> bool:
    packed = address.packed
    if address.version == 4:
        return packed[:2] == b"\xa9\xfe"
    return packed[0] == 0xFE and packed[1] & 0xC0 == 0x80


def _is_global_unicast(address: Address) -> bool:
    """Unicast and not local; private IPv4 counts, unique local IPv6 does not (agentgateway)."""
    if (
        address.is_loopback
        or address.is_multicast
        or address.is_unspecified
        or _is_link_local_unicast(address)
    ):
        return False
    if address.version == 4:
        return address.packed != b"\xff\xff\xff\xff"
    return address.packed[0] & 0xFE != 0xFC


def _contains_ip(value: object, item: object) -> bool:
    if not isinstance(value, Cidr):
        raise no_overload("containsIP", value, item)
    address = item.address if isinstance(item, Ip) else parse_ip(text("containsIP", item))
    return address.version == value.network.version and address in value.network


def _contains_cidr(value: object, item: object) -> bool:
    inner = parse_cidr(item) if isinstance(item, str) else item
    if not isinstance(value, Cidr) or not isinstance(inner, Cidr):
        raise no_overload("containsCIDR", value, item)
    outer = value.network
    return (
        outer.version == inner.network.version
        and outer.prefixlen <= inner.network.prefixlen
        and inner.network.network_address in outer
    )


def _cidr(what: str, of: Callable[[Cidr], object]) -> Function:
    def apply(value: object) -> object:
        if not isinstance(value, Cidr):
            raise no_overload(what, value)
        return of(value)

    return Function(apply, 0, 0)


FUNCTIONS: Final[Table] = {
    "isIP": Function(_is_ip, 1, 1),
    "ip": Function(lambda value: Ip(parse_ip(text("ip", value))), 1, 1),
    "cidr": Function(lambda value: parse_cidr(text("cidr", value)), 1, 1),
}
METHODS: Final[Table] = {
    "family": _address("family", lambda a: a.version),
    "isUnspecified": _address("isUnspecified", lambda a: a.is_unspecified),
    "isLoopback": _address("isLoopback", lambda a: a.is_loopback),
    "isLinkLocalMulticast": _address("isLinkLocalMulticast", _is_link_local_multicast),
    "isLinkLocalUnicast": _address("isLinkLocalUnicast", _is_link_local_unicast),
    "isGlobalUnicast": _address("isGlobalUnicast", _is_global_unicast),
    "containsIP": Function(_contains_ip, 1, 1),
    "containsCIDR": Function(_contains_cidr, 1, 1),
    "ip": _cidr("ip", lambda c: Ip(c.interface.ip)),
    "masked": _cidr("masked", lambda c: Cidr(ip_interface(str(c.network)))),
    "prefixLength": _cidr("prefixLength", lambda c: c.network.prefixlen),
}
