"""Workloads and services as the decisions need them, made of the snapshot's plain data.

Source: spec istio sections 2.1, 3.8 and 5.1.

There may be tens of thousands, so a record has slots, shares its texts and tables with its like
(`Shared`), and makes what few ask for when they ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final, final

from hbone.wire.baggage import Baggage
from hbone.wire.identity import Identity

Data = Mapping[str, Any]
Ports = Mapping[int, int]
"""Port of a service to the workload's own."""

HBONE: Final = "HBONE"
PLAIN: Final = "TCP"
LEGACY_MTLS: Final = "LEGACY_ISTIO_MTLS"
HBONE_PORT: Final = 15008


@final
class Shared:
    """What many records have in common, once. Belongs to one store."""

    __slots__ = ("_ports", "_texts")

    def __init__(self) -> None:
        self._texts: dict[str, str] = {}
        self._ports: dict[tuple[tuple[int, int], ...], Ports] = {}

    def text(self, text: str) -> str:
        """An equal text."""
        return self._texts.setdefault(text, text)

    def ports(self, data: Data) -> Ports:
        """An equal table of ports: keys of JSON are text."""
        pairs = tuple([(int(port), int(target)) for port, target in data.items()])
        found = self._ports.get(pairs)
        if found is None:
            found = self._ports[pairs] = dict(pairs)
        return found

    def trim(self) -> None:
        """Forget everything; records keep what they have."""
        self._texts.clear()
        self._ports.clear()

    def __len__(self) -> int:
        return len(self._texts) + len(self._ports)


@final
@dataclass(frozen=True, slots=True)
class GatewayAddress:
    """A waypoint or a network's gateway, not looked up yet.

    `place`: the network of an address, the name space of a hostname.
    """

    place: str
    host: str
    is_address: bool
    hbone_port: int = HBONE_PORT

    @classmethod
    def of(cls, data: Data | None) -> GatewayAddress | None:
        """Of `{destination, hbone_port}`."""
        if data is None:
            return None
        place, _, host = data["destination"].partition("/")
        return cls(place, host, is_ip(host), data.get("hbone_port") or HBONE_PORT)

    def __str__(self) -> str:
        return f"{self.place}/{self.host}"


@final
@dataclass(frozen=True, slots=True)
class Place:
    """Where somebody is; empty for unknown."""

    region: str = ""
    zone: str = ""
    subzone: str = ""
    node: str = ""
    cluster: str = ""
    network: str = ""


@final
@dataclass(frozen=True, slots=True)
class Balancer:
    """Which endpoints a service prefers. `scopes`: fields of Place, the most important first."""

    scopes: tuple[str, ...] = ()
    mode: str = "Standard"
    allows_unhealthy: bool = False

    @classmethod
    def of(cls, data: Data | None) -> Balancer:
        """Of `{scopes, mode, health}`."""
        if data is None:
            return STANDARD
        scopes = tuple(scope.lower() for scope in data.get("scopes") or ())
        return cls(scopes, data.get("mode") or "Standard", data.get("health") == "AllowAll")


STANDARD: Final = Balancer()


@final
class Workload:
    """An endpoint. `ips` are canonical; `services`: `namespace/hostname` to its ports there."""

    __slots__ = (
        "_cluster",
        "_data",
        "application_tunnel",
        "authorization_policies",
        "capacity",
        "hbone_port",
        "hostname",
        "ips",
        "is_healthy",
        "name",
        "namespace",
        "network",
        "protocol",
        "service_account",
        "services",
        "trust_domain",
        "uid",
    )

    def __init__(self, uid: str, data: Data, shared: Shared, trust_domain: str) -> None:
        """`trust_domain`: of those that say none."""
        text = shared.text
        self.uid = uid
        self.name: str = data.get("name") or uid
        self.namespace = text(data["namespace"])
        self.network = text(data.get("network") or "")
        self.ips: tuple[str, ...] = tuple(data.get("ips") or ())
        self.hostname: str = (data.get("hostname") or "").lower()
        self.protocol = text(data.get("protocol") or PLAIN)
        self.hbone_port: int = data.get("hbone_port") or HBONE_PORT
        self.trust_domain = text(data.get("trust_domain") or trust_domain)
        self.service_account = text(data.get("service_account") or "default")
        self.capacity: int = data.get("capacity", 1)
        self.is_healthy = data.get("status", "Healthy") == "Healthy"
        self.services: Mapping[str, Ports] = {
            text(name): shared.ports(ports) for name, ports in (data.get("services") or {}).items()
        }
        tunnel = data.get("application_tunnel")
        self.application_tunnel = None if tunnel is None else AppTunnel.of(tunnel)
        self.authorization_policies: tuple[str, ...] = tuple(
            text(name) for name in data.get("authorization_policies") or ()
        )
        self._cluster = text(data.get("cluster_id") or "Kubernetes")
        self._data = _rest(data, shared)

    @property
    def identity(self) -> Identity:
        """Who it proves to be."""
        return Identity(self.trust_domain, self.namespace, self.service_account)

    @property
    def waypoint(self) -> GatewayAddress | None:
        """What calls of its address go through."""
        return GatewayAddress.of(self._data.get("waypoint"))

    @property
    def network_gateway(self) -> GatewayAddress | None:
        """How it is reached from other networks."""
        return GatewayAddress.of(self._data.get("network_gateway"))

    @property
    def labels(self) -> Mapping[str, str]:
        """Those that are known: of workloads in a file."""
        found: Mapping[str, str] = self._data.get("labels") or _NOTHING
        return found

    @property
    def is_host_network(self) -> bool:
        """Whether it shares its addresses with its machine."""
        return self._data.get("network_mode") == "HostNetwork"

    @property
    def is_native_tunnel(self) -> bool:
        """Whether it speaks HBONE itself."""
        return bool(self._data.get("native_tunnel"))

    @property
    def place(self) -> Place:
        """Where it is."""
        locality = self._data.get("locality") or _NOTHING
        return Place(
            locality.get("region") or "",
            locality.get("zone") or "",
            locality.get("subzone") or "",
            self._data.get("node") or "",
            self._cluster,
            self.network,
        )

    @property
    def baggage(self) -> Baggage:
        """How it describes itself to others."""
        data, place = self._data, self.place
        return Baggage(
            cluster=self._cluster,
            namespace=self.namespace,
            kind=data.get("workload_type") or "deployment",
            workload=data.get("workload_name") or self.name,
            service=data.get("canonical_name") or "",
            version=data.get("canonical_revision") or "",
            region=place.region,
            zone=place.zone,
        )

    def __repr__(self) -> str:
        return f"Workload({self.uid!r}, {self.network}/{','.join(self.ips)})"


@final
@dataclass(frozen=True, slots=True)
class AppTunnel:
    """How a workload takes what a tunnel brings. `port` 0: the one that was called."""

    is_proxy_protocol: bool
    port: int

    @classmethod
    def of(cls, data: Data) -> AppTunnel:
        """Of `{protocol, port}`."""
        return cls(data.get("protocol") == "PROXY", data.get("port") or 0)


_NOTHING: Final[Data] = {}
_RARE: Final = (
    "waypoint",
    "network_gateway",
    "network_mode",
    "native_tunnel",
    "labels",
    "locality",
    "node",
    "workload_type",
    "workload_name",
    "canonical_name",
    "canonical_revision",
)
"""Kept as data: only what is set takes room."""


def _rest(data: Data, shared: Shared) -> Data:
    kept: dict[str, Any] = {}
    for key in _RARE:
        value = data.get(key)
        if value:
            kept[key] = shared.text(value) if isinstance(value, str) else value
    return kept or _NOTHING


@final
class Service:
    """A name for workloads. `vips`: `network/ip`; `key`: `namespace/hostname`."""

    __slots__ = (
        "app_protocols",
        "balancer",
        "cidr_vips",
        "hostname",
        "ingress_uses_waypoint",
        "ip_families",
        "is_canonical",
        "is_namespaced",
        "key",
        "name",
        "namespace",
        "ports",
        "subject_alt_names",
        "vips",
        "waypoint",
        "weighted_waypoints",
    )

    def __init__(self, data: Data, shared: Shared) -> None:
        self.name: str = data["name"]
        self.namespace = shared.text(data["namespace"])
        self.hostname: str = data["hostname"].lower()
        self.key = shared.text(f"{self.namespace}/{self.hostname}")
        self.vips: tuple[str, ...] = tuple(data.get("vips") or ())
        self.cidr_vips = tuple(_cidr(text) for text in data.get("cidr_vips") or ())
        self.ports = shared.ports(data.get("ports") or {})
        self.app_protocols: Mapping[int, str] = {
            int(port): protocol for port, protocol in (data.get("app_protocols") or {}).items()
        }
        self.subject_alt_names: frozenset[str] = frozenset(data.get("subject_alt_names") or ())
        self.waypoint = GatewayAddress.of(data.get("waypoint"))
        self.weighted_waypoints: tuple[tuple[GatewayAddress, int], ...] = tuple(
            (gateway, int(one["weight"]))
            for one in data.get("weighted_waypoints") or ()
            if (gateway := GatewayAddress.of(one["gateway"])) is not None
        )
        self.balancer = Balancer.of(data.get("load_balancer"))
        self.ip_families: str = data.get("ip_families") or ""
        self.is_canonical = bool(data.get("canonical"))
        self.is_namespaced = data.get("visibility") == "Namespace"
        """Known by its address in its own name space only."""
        self.ingress_uses_waypoint = bool(data.get("ingress_use_waypoint"))

    @property
    def has_waypoint(self) -> bool:
        """Whether calls of it go through a waypoint."""
        return bool(self.weighted_waypoints) or self.waypoint is not None

    def vip(self, network: str) -> str:
        """One address of it as others write it: of that network first, IPv4 first; "" for none."""
        pairs = [vip.partition("/")[::2] for vip in self.vips]
        pairs.sort(key=lambda pair: (pair[0] != network, ":" in pair[1]))
        return pairs[0][1] if pairs else ""

    def __repr__(self) -> str:
        return f"Service({self.key!r})"


@final
@dataclass(frozen=True, slots=True)
class Endpoint:
    """A workload that was chosen, and where: `port` is its own."""

    workload: Workload
    port: int
    service: Service | None = None
    """The service as one of whose endpoints it was chosen."""

    @property
    def sans(self) -> frozenset[str]:
        """Who may answer there: its identity, or one that its service names."""
        own = frozenset((str(self.workload.identity),))
        return own if self.service is None else own | self.service.subject_alt_names


def _cidr(text: str) -> tuple[str, IPv4Network | IPv6Network]:
    network, _, cidr = text.partition("/")
    return network, ip_network(cidr)


def is_ip(text: str) -> bool:
    """Whether it is an address rather than a name."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
