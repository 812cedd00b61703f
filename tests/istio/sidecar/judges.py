"""A judge for tests that says what it was told to say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from hbone.wire.authority import make_authority
from istio.sidecar.ways import UNKNOWN, Arrival, Entry, Refused, Transport, Tunnelled, Way


@dataclass
class TableJudge:
    """`ways`: by what is called; all else leaves as it is. `denied`: identities, "" for none."""

    ways: dict[tuple[str, int], Way | Refused] = field(default_factory=dict)
    targets: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Where the application is, by port; else where the connection came to."""
    denied: set[str] = field(default_factory=set)
    preface: bytes = b""
    unknown: bool = False
    """Whether the pod itself is not known."""
    arrivals: list[Arrival] = field(default_factory=list)
    called: list[str] = field(default_factory=list)
    """Addresses and names that our application called."""

    def outbound(self, host: str, port: int, source_ip: str) -> Way | Refused:
        self.called.append(host)
        return self.ways.get((host, port)) or Way(Transport.PLAIN, host, port)

    def inbound(self, arrival: Arrival) -> Entry | Refused:
        self.arrivals.append(arrival)
        if self.unknown:
            return Refused(503, UNKNOWN, "not known yet")
        authority = arrival.authority
        if authority is not None and authority.is_address and authority.host != arrival.local[0]:
            return Refused(400, "BAD_AUTHORITY", "another address than the connection's")
        port = arrival.local[1] if authority is None else authority.port
        destination = (arrival.local[0], port)
        host, port = self.targets.get(port, destination)
        entry = Entry(host, port, destination, self.preface, ((b"baggage", b"k8s.pod.name=x"),))
        if not self.allows(arrival):
            return Refused(401, "DENY", "denied by a test")
        return entry

    def allows(self, arrival: Arrival) -> bool:
        who = "" if arrival.identity is None else str(arrival.identity)
        return who not in self.denied


def by_tunnel(
    address: str, port: int, expected: Iterable[str], hbone_port: int = 15008, name: str = ""
) -> Way:
    """To `port` of the workload at `address`."""
    authority = make_authority(name or address, port)
    return Way(Transport.HBONE, address, hbone_port, Tunnelled(authority, frozenset(expected)))
