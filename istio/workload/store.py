"""The workloads and services of the mesh, changed piece by piece, and how they are found.

Source: spec istio sections 2.1 (1 and 2), 3.4 (4 and 5) and 3.8.

Invariants, whatever order changes come in:
1. `_members[service]` has exactly the workloads that name the service, known or not: a service
   that comes late or comes again finds its endpoints there.
2. `_by_address[network/ip]` has every workload with the address, the last that came at the end:
   it is the one found, and when it goes the one before is found again.
3. Nothing empty is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from ipaddress import ip_address
from typing import Final, TypeVar, final

from istio.workload.records import Data, Endpoint, Ports, Service, Shared, Workload

SERVICE: Final = "service"
WORKLOAD: Final = "workload"
_CHOICES_KEPT: Final = 64

_T = TypeVar("_T")


@final
class Members:
    """The workloads of a service, and what was worked out of them until they change."""

    __slots__ = ("choices", "ports")

    def __init__(self) -> None:
        self.ports: dict[str, Ports] = {}
        """uid → the service's ports there."""
        self.choices: dict[object, object] = {}

    def remember(self, key: object, value: object) -> None:
        """Keep a result, but not for ever more callers."""
        if len(self.choices) >= _CHOICES_KEPT:
            self.choices.clear()
        self.choices[key] = value


@final
class Store:
    """One thread's. `network`, `cluster_domain`: the gateway's own."""

    def __init__(
        self,
        network: str = "",
        trust_domain: str = "cluster.local",
        cluster_domain: str = "cluster.local",
    ) -> None:
        """`trust_domain`: that of workloads which say none."""
        self.network = network
        self.cluster_domain = cluster_domain
        self.generation = 0
        """Grows with each change."""
        self._trust_domain = trust_domain
        self._shared = Shared()
        self._workloads: dict[str, Workload] = {}
        self._services: dict[str, Service] = {}
        self._members: dict[str, Members] = {}
        self._by_address: dict[str, dict[str, Workload]] = {}
        self._by_hostname: dict[str, dict[str, Workload]] = {}
        self._by_vip: dict[str, dict[str, Service]] = {}
        self._by_name: dict[str, dict[str, Service]] = {}
        self._with_cidr: dict[str, Service] = {}

    def __len__(self) -> int:
        return len(self._workloads) + len(self._services)

    # Changes.

    def apply(self, changed: Mapping[str, Data], removed: Iterable[str]) -> None:
        """Snapshot keys (`service/…`, `workload/…`; others are passed over) and their data."""
        for key in removed:
            self.drop(*_split(key))
        for key, data in changed.items():
            self.put(*_split(key), data)

    def put(self, kind: str, name: str, data: Data) -> None:
        """Add or replace one."""
        if kind == WORKLOAD:
            self._put_workload(Workload(name, data, self._shared, self._trust_domain))
        elif kind == SERVICE:
            self._put_service(Service(data, self._shared))

    def drop(self, kind: str, name: str) -> None:
        """Remove one; none of that name is nothing."""
        if kind == WORKLOAD:
            self._drop_workload(name)
        elif kind == SERVICE:
            self._drop_service(_service_key(name))
        if len(self._shared) > 4 * len(self) + 4096:
            self._shared.trim()

    def _put_workload(self, workload: Workload) -> None:
        self.generation += 1
        uid = workload.uid
        old = self._workloads.get(uid)
        if old is not None:
            self._forget(old, keep=workload.services.keys())
        self._workloads[uid] = workload
        if not workload.is_host_network:
            # Hosts share their addresses with many: an address does not say which is meant.
            for ip in workload.ips:
                _last(self._by_address, f"{workload.network}/{ip}", uid, workload)
        if workload.hostname:
            _last(self._by_hostname, workload.hostname, uid, workload)
        for name, ports in workload.services.items():
            members = self._members.get(name)
            if members is None:
                members = self._members[name] = Members()
            members.ports[uid] = ports
            members.choices.clear()

    def _drop_workload(self, uid: str) -> None:
        old = self._workloads.pop(uid, None)
        if old is not None:
            self.generation += 1
            self._forget(old)

    def _forget(self, workload: Workload, keep: Iterable[str] = ()) -> None:
        uid = workload.uid
        for ip in workload.ips:
            _without(self._by_address, f"{workload.network}/{ip}", uid)
        if workload.hostname:
            _without(self._by_hostname, workload.hostname, uid)
        for name in workload.services.keys() - set(keep):
            members = self._members[name]
            del members.ports[uid]
            members.choices.clear()
            if not members.ports:
                del self._members[name]

    def _put_service(self, service: Service) -> None:
        self._drop_service(service.key)
        self.generation += 1
        self._services[service.key] = service
        for vip in service.vips:
            _last(self._by_vip, vip, service.key, service)
        _last(self._by_name, service.hostname, service.key, service)
        if service.cidr_vips:
            self._with_cidr[service.key] = service
        self._changed(service.key)

    def _drop_service(self, key: str) -> None:
        old = self._services.pop(key, None)
        if old is None:
            return
        self.generation += 1
        for vip in old.vips:
            _without(self._by_vip, vip, key)
        _without(self._by_name, old.hostname, key)
        self._with_cidr.pop(key, None)
        self._changed(key)

    def _changed(self, key: str) -> None:
        members = self._members.get(key)
        if members is not None:
            members.choices.clear()

    # What is where.

    def workload(self, uid: str) -> Workload | None:
        """By its uid."""
        return self._workloads.get(uid)

    def workload_at(self, network: str, ip: str) -> Workload | None:
        """By a canonical address. Not those that share their host's."""
        return _newest(self._by_address.get(f"{network}/{ip}"))

    def workload_named(self, hostname: str) -> Workload | None:
        """By its own hostname."""
        return _newest(self._by_hostname.get(hostname.lower()))

    def service(self, namespace: str, hostname: str) -> Service | None:
        """By its key."""
        return self._services.get(f"{namespace}/{hostname.lower()}")

    def service_at(self, network: str, ip: str, client_namespace: str = "") -> Service | None:
        """By an address as somebody in that name space sees it.

        Of several: the client's own, then the canonical, then the first; of networks, which come
        after addresses, the client's own before the longest prefix before the canonical.
        """
        found = self._by_vip.get(f"{network}/{ip}")
        if found is not None:
            seen = _preferred(found, client_namespace)
            if seen is not None:
                return seen
        return self._by_cidr(network, ip, client_namespace) if self._with_cidr else None

    def service_named(self, hostname: str, client_namespace: str = "") -> Service | None:
        """By its hostname, in any name space: the client's own, then the canonical, the first."""
        return _preferred(self._by_name.get(hostname.lower()) or {}, client_namespace)

    def services_at(self, network: str, ip: str, client_namespace: str = "") -> list[Service]:
        """Every service with the address, the one that `service_at` would give first."""
        found = _ranked(self._by_vip.get(f"{network}/{ip}") or {}, client_namespace)
        if not found and self._with_cidr:
            service = self._by_cidr(network, ip, client_namespace)
            return [] if service is None else [service]
        return found

    def services_named(self, hostname: str, client_namespace: str = "") -> list[Service]:
        """Every service of that hostname, the one that `service_named` would give first."""
        return _ranked(self._by_name.get(hostname.lower()) or {}, client_namespace)

    def _by_cidr(self, network: str, ip: str, client_namespace: str) -> Service | None:
        address = ip_address(ip)
        best: tuple[tuple[bool, int, bool], Service] | None = None
        for service in self._with_cidr.values():
            if not _is_seen(service, client_namespace):
                continue
            for of, cidr in service.cidr_vips:
                if of != network or address.version != cidr.version or address not in cidr:
                    continue
                is_own = service.namespace == client_namespace
                rank = (is_own, cidr.prefixlen, service.is_canonical)
                if best is None or rank > best[0]:
                    best = rank, service
        return None if best is None else best[1]

    def members_of(self, service: Service) -> Members | None:
        """What its endpoints are made of; for `istio.workload.balance`."""
        return self._members.get(service.key)

    def members(self, service: Service) -> list[Endpoint]:
        """Every workload of it, unhealthy ones too; `port` 0, since none was asked for."""
        members = self._members.get(service.key)
        uids = () if members is None else members.ports
        return [Endpoint(self._workloads[uid], 0, service) for uid in uids]

    def services_of(self, workload: Workload) -> list[Service]:
        """The known services that it is an endpoint of."""
        found = (self._services.get(name) for name in workload.services)
        return [service for service in found if service is not None]


def _split(key: str) -> tuple[str, str]:
    kind, _, name = key.partition("/")
    return kind, name


def _service_key(name: str) -> str:
    namespace, _, hostname = name.partition("/")
    return f"{namespace}/{hostname.lower()}"


def _last(table: dict[str, dict[str, _T]], key: str, name: str, value: _T) -> None:
    found = table.get(key)
    if found is None:
        table[key] = {name: value}
    else:
        found.pop(name, None)
        found[name] = value


def _without(table: dict[str, dict[str, _T]], key: str, name: str) -> None:
    found = table.get(key)
    if found is not None and found.pop(name, None) is not None and not found:
        del table[key]


def _newest(found: dict[str, Workload] | None) -> Workload | None:
    return None if found is None else found[next(reversed(found))]


def _is_seen(service: Service, client_namespace: str) -> bool:
    return not service.is_namespaced or service.namespace == client_namespace


def _preferred(found: Mapping[str, Service], client_namespace: str) -> Service | None:
    # Fast path: a name or an address of one service.
    if len(found) == 1:
        (only,) = found.values()
        return only if _is_seen(only, client_namespace) else None
    ranked = _ranked(found, client_namespace)
    return ranked[0] if ranked else None


def _ranked(found: Mapping[str, Service], client_namespace: str) -> list[Service]:
    seen = [service for service in found.values() if _is_seen(service, client_namespace)]
    seen.sort(key=lambda one: (one.namespace != client_namespace, not one.is_canonical))
    return seen
