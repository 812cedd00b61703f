"""What becomes of a connection that arrives: at a workload's own door, and at a waypoint.

Source: spec istio sections 1.4, 1.5, 2.1b, 2.2 and 2.4 (steps 2, 3, 5); section 6 rows 14 to 16,
37, 56, 58 and 59.

The authority of a tunnel never says where to connect at a workload's own door: that is the address
the connection came to. It gives the port, and is checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal, final

from hbone.wire.authority import ILLEGAL_PORTS, Authority
from hbone.wire.connect import BAD_REQUEST, DENIED, UNAVAILABLE
from hbone.wire.identity import Identity
from istio.authz import Connection, Policies, Subject
from istio.workload.balance import target_port
from istio.workload.records import Service, Workload, is_ip
from istio.workload.store import Store
from istio.workload.waypoint import Named, OwnGateway, is_fronted_by, is_ours

OK: Final = 200
Speaks = Literal["http", "tls", "tcp"]
_SPEAKS: Final[Mapping[str, Speaks]] = {"TCP": "tcp", "TLS": "tls"}


@final
@dataclass(frozen=True, slots=True)
class Incoming:
    """A connection that came. Addresses are canonical.

    `authority`: of a tunnel, None for plaintext. `identity`: what the peer proved, None for
    plaintext. `local_ip`, `local_port`: where it came to; of plaintext, before it was redirected.
    """

    authority: Authority | None
    identity: Identity | None
    local_ip: str
    local_port: int
    remote_ip: str
    remote_port: int = 0


@final
@dataclass(frozen=True, slots=True)
class Inbound:
    """At a workload's own door. `status`: 200 goes on to `host`:`port`, anything else is the answer
    to CONNECT, or the end of what came in plaintext."""

    status: int
    host: str = ""
    port: int = 0
    connection: Connection | None = None
    """What policies are asked about; None when it is refused before."""
    subject: Subject | None = None
    """Whose policies."""
    proxy_destination: tuple[str, int] | None = None
    """Set when a PROXY header (version 2) goes first: the destination it names."""
    service: Service | None = None
    """What the authority named."""
    flag: str = "-"
    reason: str = ""
    policy: str = ""
    """Which policy decided, if one did."""


def _refused(status: int, reason: str) -> Inbound:
    return Inbound(status, flag="CONNECT", reason=reason)


def server(
    store: Store,
    own: Workload | None,
    incoming: Incoming,
    *,
    labels: Mapping[str, str] | None = None,
    tunnels_to_localhost: bool = True,
) -> Inbound:
    """A tunnel to the workload `own`, or plaintext that was captured on its way there.

    Policies are not asked yet: see `admitted`. `labels`: the workload's, if known.
    `tunnels_to_localhost`: an application tunnel with a PROXY header is dialled at the loopback
    address.
    """
    if own is None:
        return _refused(UNAVAILABLE, "the workload here is not known yet")
    called = incoming.authority
    if called is None:
        return _toward(own, incoming, incoming.local_port, None, labels)
    if called.is_address:
        if not _is_meant(store, own, called, incoming):
            return _refused(BAD_REQUEST, "the authority is another workload's")
        service = store.service_at(own.network, called.host, own.namespace)
        return _tunnelled(own, incoming, called.port, called, service, labels, tunnels_to_localhost)
    service = store.service_named(called.host, own.namespace)
    if service is None:
        if own.hostname != called.host:
            return _refused(UNAVAILABLE, "the host name is unknown")
        port: int | None = called.port
    else:
        port = target_port(own, service, called.port)
    if port is None:
        return _refused(UNAVAILABLE, "the service has no such port")
    return _tunnelled(own, incoming, port, called, service, labels, tunnels_to_localhost)


def _is_meant(store: Store, own: Workload, called: Authority, incoming: Incoming) -> bool:
    """Whether an address in the authority is ours, or one that we take connections for."""
    if called.host == incoming.local_ip or own.application_tunnel is not None:
        return True
    target = _named_by_address(store, own.network, called.host, own.namespace)
    return target is not None and is_fronted_by(store, target, own)


def _named_by_address(store: Store, network: str, ip: str, namespace: str) -> Named | None:
    return store.workload_at(network, ip) or store.service_at(network, ip, namespace)


def _tunnelled(
    own: Workload,
    incoming: Incoming,
    port: int,
    called: Authority,
    service: Service | None,
    labels: Mapping[str, str] | None,
    to_localhost: bool,
) -> Inbound:
    if called.is_illegal:
        return _refused(UNAVAILABLE, f"port {called.port} is a proxy's own")
    tunnel = own.application_tunnel
    if tunnel is None:
        return _toward(own, incoming, port, service, labels)
    made = _toward(own, incoming, tunnel.port or port, service, labels)
    if made.status != OK:
        return made
    if not tunnel.is_proxy_protocol:
        # Not by the loopback address: what listens there alone is not meant for others.
        return made
    host = _loopback(made.host) if to_localhost else made.host
    destination = called.host
    if not is_ip(destination):
        destination = "" if service is None else service.vip(own.network)
        if not destination:
            return _refused(UNAVAILABLE, "the service has no address to name")
    return replace(made, host=host, proxy_destination=(destination, called.port))


def _loopback(ip: str) -> str:
    return "::1" if ":" in ip else "127.0.0.1"


def _toward(
    own: Workload,
    incoming: Incoming,
    port: int,
    service: Service | None,
    labels: Mapping[str, str] | None,
) -> Inbound:
    if port in ILLEGAL_PORTS:
        return _refused(UNAVAILABLE, f"port {port} is a proxy's own")
    host = incoming.local_ip
    connection = Connection(incoming.identity, incoming.remote_ip, host, port)
    return Inbound(OK, host, port, connection, Subject.of(own, labels), service=service)


def admitted(inbound: Inbound, policies: Policies) -> Inbound:
    """The same after policies were asked: 401 when they deny. Also for connections that are open,
    after a change; only `status` tells then."""
    if inbound.status != OK:
        return inbound
    assert inbound.subject is not None
    assert inbound.connection is not None
    decision = policies.decide(inbound.subject, inbound.connection, stage="tcp")
    if decision.allowed:
        return replace(inbound, policy=decision.policy)
    return replace(
        inbound, status=DENIED, flag="DENY", reason=decision.reason, policy=decision.policy
    )


def is_from_gateway(networks: Iterable[bytes], own_network: str) -> bool:
    """Whether a tunnel comes from another network, by its `x-forwarded-network` fields: the peer's
    address is a gateway's then, and says nothing of who called."""
    return any(value != own_network.encode() for value in networks)


@final
@dataclass(frozen=True, slots=True)
class Fronted:
    """At a waypoint. `status`: 200 or the answer to CONNECT. `port`: the service's, or the
    workload's own when that was called."""

    status: int
    service: Service | None = None
    workload: Workload | None = None
    port: int = 0
    speaks: Speaks = "http"
    """What is said inside: `http` is to be looked at first, it may be TLS or nothing known."""
    subject: Subject | None = None
    flag: str = "-"
    reason: str = ""


def waypoint(
    store: Store,
    own: OwnGateway,
    called: Authority,
    *,
    identity: Identity | None = None,
    gateway_class: str = "",
) -> Fronted:
    """What a tunnel to the waypoint `own` is meant for. Policies are not asked yet."""
    if called.is_illegal:
        return _not_fronted(UNAVAILABLE, f"port {called.port} is a proxy's own")
    namespace = "" if identity is None else identity.namespace
    target = _behind(store, own, called, namespace)
    if target is None:
        return _not_fronted(BAD_REQUEST, "no service or workload of this waypoint is called so")
    gateway = (own.namespace, own.name)
    if isinstance(target, Workload):
        subject = Subject.behind(
            target.namespace,
            gateway=gateway,
            gateway_class=gateway_class,
            listed=target.authorization_policies,
            labels=target.labels,
        )
        return Fronted(OK, None, target, called.port, "http", subject)
    if called.port not in target.ports:
        return _not_fronted(BAD_REQUEST, "the service has no such port")
    subject = Subject.behind(
        target.namespace, service=target.name, gateway=gateway, gateway_class=gateway_class
    )
    speaks = _SPEAKS.get(target.app_protocols.get(called.port, ""), "http")
    return Fronted(OK, target, None, called.port, speaks, subject)


def _not_fronted(status: int, reason: str) -> Fronted:
    return Fronted(status, flag="CONNECT", reason=reason)


def _behind(
    store: Store, own: OwnGateway, called: Authority, client_namespace: str
) -> Named | None:
    """Of all that is called so, what names this gateway as its waypoint."""
    if called.is_address:
        workload = store.workload_at(store.network, called.host)
        if workload is not None:
            return workload if is_ours(store, workload, own) else None
        services = store.services_at(store.network, called.host, client_namespace)
    else:
        services = store.services_named(called.host, client_namespace)
        named = None if services else store.workload_named(called.host)
        if named is not None and is_ours(store, named, own):
            return named
    return next((one for one in services if is_ours(store, one, own)), None)


__all__ = [
    "OK",
    "Fronted",
    "Inbound",
    "Incoming",
    "admitted",
    "is_from_gateway",
    "server",
    "waypoint",
]
