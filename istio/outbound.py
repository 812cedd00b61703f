"""What becomes of a connection that a workload of the mesh opens.

Source: spec istio sections 1.2 to 1.4 and 2.1; section 6 rows 5 to 8, 11, 12 and 27 to 36.

    service by VIP ── has a waypoint ──► tunnel to it, authority = what was called
          │            unresolvable ───► refused
          └─ endpoint ── other network ► tunnel to that network's gateway, another in it
          │          └─ HBONE | TCP | LEGACY_ISTIO_MTLS
    workload by address ── waypoint ───► tunnel to it, authority = what was called
          └─ HBONE | TCP | LEGACY_ISTIO_MTLS
    neither ───────────────────────────► as it was called, without TLS of ours

Nothing of the mesh is ever called in plaintext for want of something else: then it is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final, Literal, final

from hbone.wire.authority import ILLEGAL_PORTS, Authority, make_authority
from hbone.wire.baggage import Baggage, Forwarded, encode_traceparent
from hbone.wire.connect import Field
from istio.workload.balance import Random, choose
from istio.workload.records import (
    HBONE,
    LEGACY_MTLS,
    Endpoint,
    GatewayAddress,
    Place,
    Service,
    Workload,
    is_ip,
)
from istio.workload.store import Store
from istio.workload.waypoint import (
    Named,
    Reached,
    address_of,
    is_from,
    of_service,
    resolve,
)

Transport = Literal["plain", "hbone", "double_hbone", "legacy_mtls", "passthrough", "refused"]

_NOBODY: Final[frozenset[str]] = frozenset()


@final
@dataclass(frozen=True, slots=True)
class Source:
    """Who calls. `ip`: where from, canonical; `workload`: None when it is not in the store.

    `kind`: what a gateway calls itself to other gateways (`waypoint`, `gateway`, `sidecar`); ""
    says nothing.
    """

    workload: Workload | None = None
    ip: str = ""
    port: int = 0
    place: Place = field(default_factory=Place)
    namespace: str = ""
    kind: str = ""

    @classmethod
    def of(cls, workload: Workload, ip: str = "", port: int = 0, kind: str = "") -> Source:
        """A workload of the store."""
        return cls(workload, ip, port, workload.place, workload.namespace, kind)

    @property
    def baggage(self) -> Baggage:
        """How it describes itself."""
        return Baggage() if self.workload is None else self.workload.baggage


@final
@dataclass(frozen=True, slots=True)
class Route:
    """What to do.

    `host`, `port`: what to dial, a name when `is_name`; nothing when refused.
    `authority`: of the CONNECT, of the outer one of two; None without a tunnel.
    `expected_sans`: who may answer the first TLS; an empty set accepts nobody.
    """

    transport: Transport
    host: str = ""
    port: int = 0
    authority: Authority | None = None
    expected_sans: frozenset[str] = _NOBODY
    inner_authority: Authority | None = None
    inner_sans: frozenset[str] = _NOBODY
    """Of the TLS in the tunnel: those of the service alone."""
    workload: Workload | None = None
    """Who gets it: the endpoint, the waypoint or the gateway."""
    service: Service | None = None
    """What was called, when it was a service."""
    is_waypoint: bool = False
    source: Source = field(default_factory=Source)
    flag: str = "-"
    """Of the access log, when refused."""
    reason: str = ""
    """Why it is refused."""

    @property
    def is_name(self) -> bool:
        """Whether `host` is to be resolved first."""
        return bool(self.host) and not is_ip(self.host)

    @property
    def is_tunnel(self) -> bool:
        """Whether CONNECT is sent."""
        return self.authority is not None

    def headers(self, trace_id: bytes, span_id: bytes) -> tuple[Field, ...]:
        """Fields of the CONNECT that the last one of the mesh reads: the inner one of two."""
        source = self.source
        fields = _common(self, trace_id, span_id)
        if self.transport == "double_hbone" and source.place.network:
            fields.append((b"x-forwarded-network", source.place.network.encode()))
        return tuple(fields)

    def outer_headers(self, trace_id: bytes, span_id: bytes) -> tuple[Field, ...]:
        """Fields of the outer CONNECT of two."""
        return tuple(_common(self, trace_id, span_id))


def _common(route: Route, trace_id: bytes, span_id: bytes) -> list[Field]:
    source = route.source
    fields: list[Field] = []
    baggage = source.baggage.encode()
    if baggage:
        fields.append((b"baggage", baggage))
    if source.ip:
        client = f"[{source.ip}]" if ":" in source.ip else source.ip
        host = "" if route.service is None else route.service.hostname
        fields.append((b"forwarded", Forwarded(f"{client}:{source.port}", host).encode()))
    fields.append((b"traceparent", encode_traceparent(trace_id, span_id)))
    if source.kind:
        fields.append((b"x-istio-source", source.kind.encode()))
    return fields


def decide(store: Store, called: Authority, source: Source, random: Random) -> Route:
    """A workload calls an address, or a name (by SOCKS or a proxy's CONNECT)."""
    network = source.place.network
    if not called.is_address:
        return _to_name(store, called, source, random)
    workload = store.workload_at(network, called.host)
    if workload is not None:
        return _to_workload(store, workload, called, source, random)
    service = store.service_at(network, called.host, source.namespace)
    if service is not None:
        return to_service(store, service, called, source, random)
    return _passthrough(called, source)


def _to_name(store: Store, called: Authority, source: Source, random: Random) -> Route:
    service = store.service_named(called.host, source.namespace)
    if service is not None:
        return to_service(store, service, called, source, random)
    workload = store.workload_named(called.host)
    if workload is not None:
        return _to_workload(store, workload, called, source, random)
    return _passthrough(called, source)


def _passthrough(called: Authority, source: Source, service: Service | None = None) -> Route:
    return Route("passthrough", called.host, called.port, service=service, source=source)


def _refused(source: Source, reason: str, service: Service | None = None) -> Route:
    return Route("refused", service=service, source=source, flag="CONNECT", reason=reason)


def to_service(
    store: Store,
    service: Service,
    called: Authority,
    source: Source,
    random: Random,
    *,
    skip_waypoint: bool = False,
) -> Route:
    """A call of a service. `skip_waypoint`: the caller is its waypoint, or may go around it."""
    if service.has_waypoint and not skip_waypoint:
        gateway = of_service(service, random)
        assert gateway is not None  # it has one
        return _to_waypoint(store, service, gateway, called, source, random)
    if service.balancer.mode == "Passthrough" and called.is_address:
        return _passthrough(called, source, service)
    endpoint = choose(store, service, called.port, source.place, random)
    if endpoint is None:
        return _refused(source, "the service has no healthy endpoint with that port", service)
    return to_endpoint(store, endpoint, called, source, random)


def to_endpoint(
    store: Store, endpoint: Endpoint, called: Authority, source: Source, random: Random
) -> Route:
    """A call of a service, of which an endpoint was chosen. `called.port`: the service's."""
    service = endpoint.service
    assert service is not None  # it was chosen for one
    if endpoint.workload.network != source.place.network:
        return _through_gateway(store, endpoint, service, called.port, source, random)
    host = address_of(endpoint.workload, service, called.host if called.is_address else "")
    return _direct(endpoint, host, source)


def _to_waypoint(
    store: Store,
    target: Named,
    gateway: GatewayAddress,
    called: Authority,
    source: Source,
    random: Random,
) -> Route:
    service = target if isinstance(target, Service) else None
    reached = resolve(store, gateway, source.place, random)
    if reached is None:
        # Around the waypoint would be around its policies.
        return _refused(source, f"the waypoint {gateway} cannot be resolved", service)
    if reached.endpoint.workload.network != source.place.network:
        if service is None:
            return _refused(source, "a workload's waypoint is in another network")
        return _through_gateway(store, reached.endpoint, service, called.port, source, random)
    return Route(
        "hbone",
        reached.host,
        reached.port,
        authority=called,
        expected_sans=reached.sans,
        workload=reached.endpoint.workload,
        service=service,
        is_waypoint=True,
        source=source,
    )


def _to_workload(
    store: Store, workload: Workload, called: Authority, source: Source, random: Random
) -> Route:
    waypoint = workload.waypoint
    identity = None if source.workload is None else source.workload.identity
    if waypoint is not None and not is_from(store, workload, identity, source.ip):
        return _to_waypoint(store, workload, waypoint, called, source, random)
    if workload.network != source.place.network:
        return _refused(source, "a workload of another network is called as a service only")
    host = called.host if called.is_address else address_of(workload)
    return _direct(Endpoint(workload, called.port), host, source)


def directly(endpoint: Endpoint, source: Source, host: str = "") -> Route:
    """A call of a workload in our own network. `host`: an address of it that was called."""
    return _direct(endpoint, host or address_of(endpoint.workload), source)


def _direct(endpoint: Endpoint, host: str, source: Source) -> Route:
    workload, service = endpoint.workload, endpoint.service
    if not host:
        return _refused(source, "the workload has no address", service)
    if workload.protocol == HBONE:
        if endpoint.port in ILLEGAL_PORTS:
            return _refused(source, f"port {endpoint.port} is a proxy's own", service)
        return Route(
            "hbone",
            host,
            workload.hbone_port,
            authority=make_authority(host, endpoint.port),
            expected_sans=endpoint.sans,
            workload=workload,
            service=service,
            source=source,
        )
    is_mtls = workload.protocol == LEGACY_MTLS
    return Route(
        "legacy_mtls" if is_mtls else "plain",
        host,
        endpoint.port,
        expected_sans=endpoint.sans if is_mtls else _NOBODY,
        workload=workload,
        service=service,
        source=source,
    )


def _through_gateway(
    store: Store,
    endpoint: Endpoint,
    service: Service,
    service_port: int,
    source: Source,
    random: Random,
) -> Route:
    """To another network: a tunnel to its gateway, and in it one to who was chosen there."""
    remote = endpoint.workload.network
    address = endpoint.workload.network_gateway
    reached = None if address is None else _gateway(store, address, remote, source, random)
    if reached is None or not reached.host:
        reason = f"network {remote} cannot be reached: no gateway"
        return _refused(source, reason, service)
    authority = make_authority(service.hostname, service_port)
    by = endpoint.service or service
    return Route(
        "double_hbone",
        reached.host,
        reached.port,
        authority=authority,
        expected_sans=reached.sans,
        inner_authority=authority,
        # The address is the other network's business: only the service says who may answer.
        inner_sans=by.subject_alt_names,
        workload=reached.endpoint.workload,
        service=service,
        source=source,
    )


def _gateway(
    store: Store, address: GatewayAddress, remote: str, source: Source, random: Random
) -> Reached | None:
    """A gateway is dialled from here, whichever network its own workload is said to be in."""
    for network in (remote, source.place.network):
        reached = resolve(store, address, replace(source.place, network=network), random)
        if reached is not None:
            return reached
    return None
