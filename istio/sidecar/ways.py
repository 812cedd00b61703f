"""What is to be done with a captured connection: values, and who decides.

Source: spec istio 1.5, 2.1, 2.1b and 2.9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol, final

from hbone.wire.authority import Authority
from hbone.wire.connect import Field
from hbone.wire.identity import Identity


class Transport(Enum):
    """How the octets leave."""

    PLAIN = "plain"
    HBONE = "hbone"
    DOUBLE_HBONE = "double_hbone"
    """A tunnel to another network's gateway, and in it one to the workload behind."""


@final
@dataclass(frozen=True, slots=True)
class Tunnelled:
    """A tunnel to ask for. `expected`: identities of which the other end must have one."""

    authority: Authority
    expected: frozenset[str]
    headers: Sequence[Field] = ()


@final
@dataclass(frozen=True, slots=True)
class Way:
    """Where an outgoing connection goes."""

    transport: Transport
    host: str
    """Address, or a name where nobody knows better."""
    port: int
    outer: Tunnelled | None = None
    """Of HBONE and DOUBLE_HBONE."""
    inner: Tunnelled | None = None
    """Of DOUBLE_HBONE."""
    service: str = ""
    """`namespace/hostname` of the service that was called, empty when it was none."""
    is_waypoint: bool = False
    """Whether it goes to the service's waypoint, whose policies our own routes would go around."""


UNKNOWN: Final = "UNKNOWN"
"""Flag of what is refused because the pod's own workload is not known yet."""


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """`status`: what a CONNECT is answered with. `flag`: a stable label."""

    status: int
    flag: str
    reason: str


@final
@dataclass(frozen=True, slots=True)
class Arrival:
    """An incoming connection. `authority`: of a tunnel, None for plaintext.

    `identity`: proven by TLS, None for plaintext. `local`: the address it came to, of plaintext
    before it was redirected. `remote`: the peer's.
    """

    authority: Authority | None
    identity: Identity | None
    local: tuple[str, int]
    remote: tuple[str, int]


@final
@dataclass(frozen=True, slots=True)
class Entry:
    """Where an incoming connection goes. `destination`: of policies, the application's own."""

    host: str
    port: int
    destination: tuple[str, int]
    preface: bytes = b""
    """Sent to the application before anything else: a PROXY header."""
    headers: Sequence[Field] = ()
    """Of the answer to CONNECT."""


class Judge(Protocol):
    """Decides by what is known of the mesh. None of it waits or raises."""

    def outbound(self, host: str, port: int, source_ip: str) -> Way | Refused:
        """Of a connection of our application. `host`: an address; a name from SOCKS alone."""

    def inbound(self, arrival: Arrival) -> Entry | Refused:
        """Of a connection to our application; policies are obeyed."""

    def allows(self, arrival: Arrival) -> bool:
        """Whether policies would still let it in."""


class Mode(Enum):
    """What becomes of connections that come in plaintext."""

    STRICT = "strict"
    """Closed."""
    PERMISSIVE = "permissive"
    """Let in, without an identity, as far as policies allow that."""


@final
@dataclass(frozen=True, slots=True)
class Settings:
    """Of one pod's sidecar. A port of 0: not listened on. Times in seconds."""

    outbound_port: int = 15001
    inbound_port: int = 15006
    hbone_port: int = 15008
    socks5_port: int = 0
    mode: Mode = Mode.STRICT
    packet_mark: int = 1337
    """0: the sidecar's packets are told apart by its user."""
    preserve_source: bool = False
    """Whether the application sees the client's address rather than the sidecar's."""
    uses_ipv6: bool = True
    connect_seconds: float = 10.0
    known_seconds: float = 5.0
    """How long a connection to the pod waits for its own workload to become known."""
    max_connections: int = 10_000
    """At once, in one worker, of each kind; those above are reset as they come."""

    @property
    def own_ports(self) -> frozenset[int]:
        """Those on which only the sidecar listens: nothing goes there on behalf of a peer."""
        ports = (self.outbound_port, self.inbound_port, self.hbone_port, self.socks5_port)
        return frozenset(port for port in ports if port)
