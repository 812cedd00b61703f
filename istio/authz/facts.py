"""What a decision is made on: the connection, and the request when there is one.

Source: spec istio section 4.1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address
from typing import Any, Final, final

from hbone.wire.identity import Identity

Ip = tuple[int, int]
"""4 or 6, and the address as a number."""

SPIFFE: Final = "spiffe://"


def ip_of(text: str) -> Ip | None:
    """The address as a number; an IPv4 address in IPv6 form is the IPv4 address it is."""
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.version, int(address)


@final
class Connection:
    """One connection. `principal`: the identity without its scheme, "" for none.

    `source`, `destination`: None for what is no address; it is in no network then.
    """

    __slots__ = (
        "destination",
        "destination_ip",
        "destination_port",
        "identity",
        "namespace",
        "principal",
        "sni",
        "source",
        "source_ip",
    )

    def __init__(
        self,
        identity: Identity | None,
        source_ip: str,
        destination_ip: str,
        destination_port: int,
        sni: str = "",
    ) -> None:
        """`destination_port`: the real one, never the tunnel's. `sni`: "" for none."""
        self.identity = identity
        self.principal = "" if identity is None else str(identity).removeprefix(SPIFFE)
        self.namespace = "" if identity is None else identity.namespace
        self.source_ip = source_ip
        self.source = ip_of(source_ip)
        self.destination_ip = destination_ip
        self.destination = ip_of(destination_ip)
        self.destination_port = destination_port
        self.sni = sni.lower()

    def __repr__(self) -> str:
        to = f"{self.destination_ip}:{self.destination_port}"
        return f"Connection({self.principal or '-'}, {self.source_ip} -> {to})"


HeaderValues = Callable[[str], Sequence[str]]
"""Lower-case name of a header to its values, in order; none when it is absent."""


@final
@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request.

    `path`, `host`: canonical (sidecar.routing.canonical); the path without a query, the host with
    its port if it had one. `claims`: of a token that was verified, else None. `remote_ip`: the
    client's address as trusted proxies told it; "" when that is the connection's.
    """

    method: str
    path: str
    host: str
    headers: HeaderValues
    claims: Mapping[str, Any] | None = None
    remote_ip: str = ""
