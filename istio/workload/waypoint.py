"""From the address of a waypoint or a network's gateway to who answers there.

Source: spec istio sections 1.2, 2.1 (2, 4 and 5), 2.4 (step 3); section 6 rows 5 to 11, 37, 45, 60.

What cannot be resolved is None, which callers make an error of: going around a waypoint would go
around its policies.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, final

from hbone.wire.identity import Identity
from istio.workload.balance import NOWHERE, Random, choose
from istio.workload.records import Endpoint, GatewayAddress, Place, Service, Workload
from istio.workload.store import Store

Named: TypeAlias = Service | Workload


@final
@dataclass(frozen=True, slots=True)
class Reached:
    """Somebody who takes tunnels: a workload, and on which port."""

    endpoint: Endpoint

    @property
    def host(self) -> str:
        """What to dial: an address, or a name to resolve; "" when it has neither."""
        return address_of(self.endpoint.workload, self.endpoint.service)

    @property
    def port(self) -> int:
        """What to dial."""
        return self.endpoint.port

    @property
    def sans(self) -> frozenset[str]:
        """Who may answer."""
        return self.endpoint.sans


@final
@dataclass(frozen=True, slots=True)
class OwnGateway:
    """Who this process is as a waypoint: the Gateway's name and name space."""

    name: str
    namespace: str


def address_of(workload: Workload, service: Service | None = None, like: str = "") -> str:
    """An address of it: of the families its service has, and of that of `like` when it has one."""
    ips = workload.ips
    if len(ips) > 1:
        families = "" if service is None else service.ip_families
        if families in ("IPv4", "IPv6"):
            ips = tuple(ip for ip in ips if (":" in ip) == (families == "IPv6")) or ips
        if like:
            ips = tuple(ip for ip in ips if (":" in ip) == (":" in like)) or ips
    return ips[0] if ips else workload.hostname


def named(store: Store, gateway: GatewayAddress) -> Named | None:
    """What the address stands for. A workload's address comes before a service's."""
    if gateway.is_address:
        workload = store.workload_at(gateway.place, gateway.host)
        return workload or store.service_at(gateway.place, gateway.host)
    return store.service(gateway.place, gateway.host) or store.workload_named(gateway.host)


def resolve(store: Store, gateway: GatewayAddress, place: Place, random: Random) -> Reached | None:
    """One who answers at the address, for a caller at `place`."""
    found = named(store, gateway)
    if found is None:
        return None
    if isinstance(found, Workload):
        reached = Reached(Endpoint(found, gateway.hbone_port))
    else:
        endpoint = choose(store, found, gateway.hbone_port, place, random)
        if endpoint is None:
            return None
        reached = Reached(endpoint)
    return reached if reached.host or reached.endpoint.workload.network != place.network else None


def of_service(service: Service, random: Random) -> GatewayAddress | None:
    """The service's waypoint, one of several by weight; None when it has none.

    When all weights are 0 the first is taken: it has waypoints, so it is not called without.
    """
    several = service.weighted_waypoints
    if not several:
        return service.waypoint
    total = sum(weight for _, weight in several)
    left = int(random() * total)
    for gateway, weight in several:
        if left < weight:
            return gateway
        left -= weight
    return several[0][0]


def gateways_of(target: Named) -> list[GatewayAddress]:
    """Every waypoint that the target names."""
    if isinstance(target, Service) and target.weighted_waypoints:
        return [gateway for gateway, _ in target.weighted_waypoints]
    return [] if target.waypoint is None else [target.waypoint]


def is_ours(store: Store, target: Named, own: OwnGateway) -> bool:
    """Whether this gateway is a waypoint of the target, in any cluster's domain."""
    return any(is_own(store, gateway, own) for gateway in gateways_of(target))


def is_own(store: Store, gateway: GatewayAddress, own: OwnGateway) -> bool:
    """Whether the address is this gateway's service."""
    if not gateway.is_address:
        begins = gateway.host.startswith(f"{own.name}.{own.namespace}.")
        return gateway.place == own.namespace and begins
    # Its own address first: a waypoint may be named by its pod's.
    service = store.service_at(gateway.place, gateway.host, own.namespace)
    if service is not None:
        return (service.name, service.namespace) == (own.name, own.namespace)
    workload = store.workload_at(gateway.place, gateway.host)
    if workload is None:
        return False
    return any(
        (one.name, one.namespace) == (own.name, own.namespace)
        for one in store.services_of(workload)
    )


def is_fronted_by(store: Store, target: Named, workload: Workload) -> bool:
    """Whether the target names this workload as (one of the endpoints of) its waypoint."""
    for gateway in gateways_of(target):
        found = named(store, gateway)
        if found is workload:
            return True
        if isinstance(found, Service) and found.key in workload.services:
            return True
    return False


def is_from(store: Store, target: Named, identity: Identity | None, ip: str) -> bool:
    """Whether a caller is a waypoint of the target: by what it proved and by where it calls from.

    Without both, a pod with the waypoint's account could go around the waypoint.
    """
    if identity is None:
        return False
    for gateway in gateways_of(target):
        found = named(store, gateway)
        if isinstance(found, Workload):
            candidates = [found]
        elif found is not None:
            candidates = [endpoint.workload for endpoint in store.members(found)]
        else:
            continue
        if any(one.identity == identity and ip in one.ips for one in candidates):
            return True
    return False


__all__ = [
    "NOWHERE",
    "Named",
    "OwnGateway",
    "Reached",
    "address_of",
    "gateways_of",
    "is_from",
    "is_fronted_by",
    "is_ours",
    "is_own",
    "named",
    "of_service",
    "resolve",
]
