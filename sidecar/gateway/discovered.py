"""Services and the workloads that back them, changed piece by piece.

Source: spec/config.md section 4.3; spec istio sections 2.1 and 2.4 (step 9).

There may be tens of thousands of workloads, and one that changes is an everyday event: a change
costs what it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

from sidecar.config.discovery_values import AGENT_PROTOCOLS
from sidecar.net.dialer import Address

Data = Mapping[str, Any]
_SERVICE: Final = "service/"
_WORKLOAD: Final = "workload/"
KEYS: Final = (_SERVICE, _WORKLOAD, "authorization/")
"""Beginnings of the keys a change of which makes nothing anew but what it touches."""


@final
@dataclass(slots=True)
class Touched:
    """What a change touched: names of services, uids of workloads."""

    services: set[str] = field(default_factory=set)
    workloads: set[str] = field(default_factory=set)
    has_rules: bool = False
    """Policies of the mesh."""


@final
class Discovery:
    """What a worker knows of them."""

    def __init__(
        self,
        services: Mapping[str, Data],
        workloads: Mapping[str, Data],
        place: Mapping[str, str] | None = None,
    ) -> None:
        """`place`: where the gateway is (`place_of`)."""
        self.services = dict(services)
        self.workloads = dict(workloads)
        self._place = place or {}
        self._network = self._place.get("network", "")
        self._members: dict[str, dict[str, Data]] = {}
        """Name of a service to uids and their ports."""
        for uid, workload in workloads.items():
            self._join(uid, workload)

    def _join(self, uid: str, workload: Data) -> Iterable[str]:
        joined = workload.get("services") or {}
        for name, ports in joined.items():
            self._members.setdefault(name, {})[uid] = ports
        return joined

    def _leave(self, uid: str) -> Iterable[str]:
        left = (self.workloads.pop(uid, None) or {}).get("services") or {}
        for name in left:
            members = self._members[name]
            members.pop(uid, None)
            if not members:
                del self._members[name]
        return left

    def change(self, changed: Mapping[str, Data], removed: Iterable[str]) -> Touched:
        """Take up resources by key; those of other kinds are passed over."""
        touched = Touched()
        for key in removed:
            if key.startswith(_WORKLOAD):
                uid = key.removeprefix(_WORKLOAD)
                touched.workloads.add(uid)
                touched.services.update(self._leave(uid))
            elif key.startswith(_SERVICE):
                name = key.removeprefix(_SERVICE)
                self.services.pop(name, None)
                touched.services.add(name)
            else:
                touched.has_rules = True
        for key, data in changed.items():
            if key.startswith(_WORKLOAD):
                uid = key.removeprefix(_WORKLOAD)
                touched.workloads.add(uid)
                touched.services.update(self._leave(uid))
                self.workloads[uid] = data
                touched.services.update(self._join(uid, data))
            elif key.startswith(_SERVICE):
                name = key.removeprefix(_SERVICE)
                self.services[name] = data
                touched.services.add(name)
            else:
                touched.has_rules = True
        return touched

    def addresses(self, keys: Iterable[str]) -> set[Address]:
        """Of the endpoints that these workloads, by key, are now, of whatever service."""
        found: set[Address] = set()
        for key in keys:
            uid = key.removeprefix(_WORKLOAD)
            workload = self.workloads.get(uid) if key.startswith(_WORKLOAD) else None
            for name, ports in ((workload or {}).get("services") or {}).items():
                service = self.services.get(name) or {}
                for port, default in {**(service.get("ports") or {}), **ports}.items():
                    target = int(ports.get(port) or default or 0)
                    if workload is not None and target:
                        found.update(self._addresses(uid, workload, target, name, int(port)))
        return found

    def is_agent(self, name: str, port: int) -> bool:
        """Whether the service says of a port that an A2A agent listens there."""
        protocols = (self.services.get(name) or {}).get("app_protocols") or {}
        return protocols.get(str(port)) in AGENT_PROTOCOLS

    def endpoints(self, name: str, port: int) -> list[tuple[Address, int]] | None:
        """`[(address, capacity)]` of a service's port; None when there is no such service."""
        groups = self.groups(name, port)
        return None if groups is None else [one for group in groups for one in group]

    def groups(self, name: str, port: int) -> list[list[tuple[Address, int]]] | None:
        """The same, the nearest first where the service prefers near ones."""
        service = self.services.get(name)
        if service is None:
            return None
        default = (service.get("ports") or {}).get(str(port))
        balancer = service.get("load_balancer") or {}
        takes_all = balancer.get("health") == "AllowAll"
        scopes = balancer.get("scopes") or () if balancer.get("mode") in _RANKED else ()
        least = len(scopes) if balancer.get("mode") == "Strict" else 0
        ranked: dict[int, list[tuple[Address, int]]] = {}
        for uid, ports in self._members.get(name, {}).items():
            workload = self.workloads[uid]
            target = int(ports.get(str(port)) or default or 0)
            is_healthy = workload.get("status", "Healthy") == "Healthy"
            rank = self._rank(workload, scopes)
            if not target or not (is_healthy or takes_all) or rank < least:
                continue
            capacity = int(workload.get("capacity", 1))
            ranked.setdefault(rank, []).extend(
                (one, capacity) for one in self._addresses(uid, workload, target, name, port)
            )
        return [ranked[rank] for rank in sorted(ranked, reverse=True)]

    def _rank(self, workload: Data, scopes: Sequence[str]) -> int:
        """How many scopes are the gateway's own before the first that is not."""
        for rank, scope in enumerate(scopes):
            if _scope_of(workload, scope.lower()) != self._place.get(scope.lower(), ""):
                return rank
        return len(scopes)

    def workload(self, uid: str, port: int) -> Address | None:
        """Where a workload is called by its own address; None when it has none."""
        found = self.workloads.get(uid)
        return None if found is None else next(self._addresses(uid, found, port, "", port), None)

    def _addresses(
        self, uid: str, workload: Data, port: int, service: str, called: int
    ) -> Iterator[Address]:
        """`port`: the workload's own; `called`: the service's."""
        protocol = workload.get("protocol", "TCP")
        if (workload.get("network") or "") != self._network:
            # Its own addresses mean nothing here: there is one way, by its network's gateway.
            if workload.get("network_gateway") is not None:
                yield Address(uid, called, hop=hop(DOUBLE, uid, service))
            return
        if _asks_ingress(self.services.get(service) or {}):
            yield Address(uid, called, hop=hop(WAYPOINT, uid, service))
            return
        way = "" if protocol == "TCP" else hop(protocol, uid, service)
        # One that only has a name is resolved for each connection.
        hosts = workload.get("ips") or [workload.get("hostname")]
        for host in hosts:
            if host:
                yield Address(host, port, hop=way)


def _asks_ingress(service: Data) -> bool:
    """Whether gateways too have to call it by way of its waypoint. Which is this one, if any, is
    known to the mesh."""
    has_waypoint = bool(service.get("waypoint") or service.get("weighted_waypoints"))
    return has_waypoint and bool(service.get("ingress_use_waypoint"))


def _scope_of(workload: Data, scope: str) -> str:
    if scope == "cluster":
        return workload.get("cluster_id") or "Kubernetes"
    of = workload if scope in ("node", "network") else workload.get("locality") or {}
    return of.get(scope) or ""


def place_of(env: Mapping[str, str], config: Data) -> dict[str, str]:
    """Where this process is. `config`: the section of that name."""
    parts = (env.get("LOCALITY") or "").split("/")
    region, zone, subzone = (*parts, "", "")[:3]
    return {
        "region": region,
        "zone": zone,
        "subzone": subzone,
        "node": env.get("NODE_NAME") or "",
        "cluster": config.get("clusterId") or "Kubernetes",
        "network": config.get("network") or "",
    }


_RANKED: Final = ("Strict", "Failover")
DOUBLE: Final = "DOUBLE_HBONE"
"""The protocol of a `hop` to another network."""
WAYPOINT: Final = "WAYPOINT"
"""Of one to a service whose waypoint is to be asked for, unless this is it."""


def hop(protocol: str, uid: str, service: str) -> str:
    """`Address.hop` of a workload, called as an endpoint of a service, or "" by its own address."""
    return "\0".join((protocol, uid, service))


def hop_of(text: str) -> tuple[str, str, str]:
    """`(protocol, uid, service)`."""
    protocol, uid, service = text.split("\0")
    return protocol, uid, service


@final
class Users:
    """Which resources name which services."""

    def __init__(self, resources: Mapping[str, Data]) -> None:
        self._named: dict[str, frozenset[str]] = {}
        self._users: dict[str, set[str]] = {}
        for key, data in resources.items():
            if not key.startswith(KEYS):
                self.put(key, data)

    def put(self, key: str, data: Data) -> None:
        """A resource that is new or another."""
        self.drop(key)
        names = frozenset(_names(data))
        if names:
            self._named[key] = names
        for name in names:
            self._users.setdefault(name, set()).add(key)

    def drop(self, key: str) -> None:
        """It is gone."""
        for name in self._named.pop(key, ()):
            self._users[name].discard(key)

    def of(self, services: Iterable[str]) -> set[str]:
        """The resources that name any of them."""
        found: set[str] = set()
        for name in services:
            found |= self._users.get(name, set())
        return found


def _names(data: object) -> Iterator[str]:
    """Names in `service: {name: …}`, wherever it stands."""
    if isinstance(data, Mapping):
        named = data.get("service")
        if isinstance(named, Mapping) and isinstance(named.get("name"), str):
            yield named["name"]
        for value in data.values():
            yield from _names(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            yield from _names(value)
