"""What becomes of incoming connections. Source: spec istio 1.5, 2.1b, 2.2 and 2.4; section 6 rows
14 to 16, 37, 56, 58 and 59."""

from __future__ import annotations

from typing import Any

import pytest

from hbone.wire.authority import parse_authority
from hbone.wire.identity import Identity
from istio.authz import Connection, Policies
from istio.inbound import (
    Incoming,
    admitted,
    is_from_gateway,
    server,
    waypoint,
)
from istio.workload import OwnGateway
from tests.istio.meshes import gateway, mesh, service, workload

CALLER = Identity("cluster.local", "web", "front")
NAME = "s.ns.svc.cluster.local"
PROXY = {"protocol": "PROXY", "port": 15088}


def incoming(authority: str | None, to: str = "10.1.0.1", port: int = 15008) -> Incoming:
    called = None if authority is None else parse_authority(authority.encode())
    return Incoming(called, None if called is None else CALLER, to, port, "10.1.0.9", 4321)


W = workload("w", "10.1.0.1", services={f"ns/{NAME}": {"80": 8080}})
WP = workload("wp", "10.1.0.100", services=["wp"])
WP_SERVICE = service("wp", "10.0.0.100", ports={"15008": 15008})
BY_POD = gateway("/10.1.0.100")
BY_SERVICE = gateway("/10.0.0.100")

# name → (resources, who we are, authority, status, where to)
CASES: dict[str, tuple[list[Any], str, str, int, str]] = {
    "its own address": ([W], "w", "10.1.0.1:8080", 200, "10.1.0.1:8080"),
    "another's address": ([W], "w", "10.1.0.2:8080", 400, ""),
    "the service's name": ([W, service("s")], "w", f"{NAME}:80", 200, "10.1.0.1:8080"),
    "the service's own target": (
        [workload("w", "10.1.0.1"), service("s")],
        "w",
        f"{NAME}:80",
        200,
        "10.1.0.1:8080",
    ),
    "an unknown port of the service": ([W, service("s")], "w", f"{NAME}:81", 503, ""),
    "an unknown name": ([W], "w", "none.example:80", 503, ""),
    "its own name": (
        [workload("w", "10.1.0.1", hostname="w.example")],
        "w",
        "w.example:80",
        200,
        "10.1.0.1:80",
    ),
    "nobody we know": ([], "w", "10.1.0.1:8080", 503, ""),
    "a proxy's port": ([W], "w", "10.1.0.1:15008", 503, ""),
    "another proxy's port": ([W], "w", "10.1.0.1:15080", 503, ""),
    "a proxy's port behind a service": (
        [workload("w", "10.1.0.1"), service("s", ports={"80": 15001})],
        "w",
        f"{NAME}:80",
        503,
        "",
    ),
    "a service's address, and it is no waypoint": (
        [W, service("s", "10.0.0.1")],
        "w",
        "10.0.0.1:80",
        400,
        "",
    ),
    "the waypoint of a service": (
        [WP, service("s", "10.0.0.1", waypoint=BY_POD)],
        "wp",
        "10.0.0.1:80",
        200,
        "10.1.0.100:80",
    ),
    "the waypoint of a service, by its own service": (
        [WP, WP_SERVICE, service("s", "10.0.0.1", waypoint=BY_SERVICE)],
        "wp",
        "10.0.0.1:80",
        200,
        "10.1.0.100:80",
    ),
    "the waypoint of a workload": (
        [WP, workload("w", "10.1.0.1", waypoint=BY_POD)],
        "wp",
        "10.1.0.1:80",
        200,
        "10.1.0.100:80",
    ),
    "a waypoint of nothing": ([WP, service("s", "10.0.0.1")], "wp", "10.0.0.1:80", 400, ""),
    "a workload whose service has the waypoint": (
        [WP, service("s", "10.0.0.1", waypoint=BY_POD), W],
        "wp",
        "10.1.0.1:80",
        400,
        "",
    ),
    "a service whose workload has the waypoint": (
        [WP, service("s", "10.0.0.1"), workload("w", "10.1.0.1", services=["s"], waypoint=BY_POD)],
        "wp",
        "10.0.0.1:80",
        400,
        "",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_server(name: str) -> None:
    resources, who, authority, status, to = CASES[name]
    store = mesh(*resources)
    own = store.workload(who)
    came = incoming(authority, "10.1.0.100" if who == "wp" else "10.1.0.1")
    found = server(store, own, came)
    assert found.status == status
    assert (f"{found.host}:{found.port}" if found.host else "") == to
    assert bool(found.reason) == (status != 200)
    assert found.proxy_destination is None


def test_app_tunnels() -> None:
    own = workload("wp", "10.1.0.100", applicationTunnel=PROXY)
    store = mesh(own, service("s", "10.0.0.1", waypoint=BY_POD), service("none"))
    wp = store.workload("wp")
    by_address = server(store, wp, incoming("10.0.0.1:80", "10.1.0.100"))
    assert (by_address.host, by_address.port) == ("127.0.0.1", 15088)
    assert by_address.proxy_destination == ("10.0.0.1", 80)
    by_name = server(store, wp, incoming(f"{NAME}:80", "10.1.0.100"))
    assert by_name.proxy_destination == ("10.0.0.1", 80)
    there = server(store, wp, incoming("10.0.0.1:80", "10.1.0.100"), tunnels_to_localhost=False)
    assert there.host == "10.1.0.100"
    nowhere = server(store, wp, incoming("none.ns.svc.cluster.local:80", "10.1.0.100"))
    assert nowhere.status == 503
    assert server(store, wp, incoming("10.0.0.1:80", "fd00::1")).host == "::1"
    # Policies see where it really goes.
    assert by_address.connection is not None
    assert (by_address.connection.destination_ip, by_address.connection.destination_port) == (
        "10.1.0.100",
        15088,
    )


def test_a_tunnel_without_a_header_or_a_port() -> None:
    store = mesh(workload("wp", "10.1.0.100", applicationTunnel={"protocol": "NONE"}))
    found = server(store, store.workload("wp"), incoming("10.0.0.1:80", "10.1.0.100"))
    # Not the loopback address, where the gateway's own administration is.
    assert (found.status, found.host, found.port) == (200, "10.1.0.100", 80)
    assert found.proxy_destination is None


def test_plaintext_goes_where_it_was_meant_to() -> None:
    store = mesh(W)
    found = server(store, store.workload("w"), incoming(None, port=8080))
    assert (found.status, found.host, found.port) == (200, "10.1.0.1", 8080)
    assert found.connection is not None
    assert found.connection.identity is None
    assert server(store, store.workload("w"), incoming(None, port=15006)).status == 503


def deny(namespace: str, rules: Any) -> dict[str, Any]:
    data = {
        "name": "p",
        "namespace": namespace,
        "scope": "NAMESPACE",
        "action": "DENY",
        "rules": rules,
    }
    return {f"authorization/{namespace}/p": data}


def test_policies() -> None:
    store = mesh(W)
    policies = Policies()
    found = server(store, store.workload("w"), incoming("10.1.0.1:8080"))
    assert admitted(found, policies).status == 200
    policies.apply(deny("ns", [[[{"destinationPorts": [8080]}]]]), ())
    denied = admitted(found, policies)
    assert (denied.status, denied.flag, denied.policy) == (401, "DENY", "ns/p")
    policies.apply(deny("ns", [[[{"notPrincipals": [{"presence": {}}]}]]]), ())
    assert admitted(found, policies).status == 200
    plain = server(store, store.workload("w"), incoming(None, port=8080))
    assert admitted(plain, policies).status == 401
    refused = server(store, store.workload("w"), incoming("10.9.9.9:1"))
    assert admitted(refused, policies) is refused


def test_labels_select_policies() -> None:
    store = mesh(W)
    policies = Policies()
    (data,) = deny("ns", [[]]).values()
    data |= {"scope": "WORKLOAD_SELECTOR", "selector": {"app": "w"}}
    policies.apply({"authorization/ns/p": data}, ())
    came = incoming("10.1.0.1:8080")
    own = store.workload("w")
    assert admitted(server(store, own, came, labels={"app": "w", "v": "1"}), policies).status == 401
    assert admitted(server(store, own, came, labels={"app": "x"}), policies).status == 200
    assert admitted(server(store, own, came), policies).status == 200
    # Those of the file are known without asking.
    store.apply(dict([workload("w", "10.1.0.1", labels={"app": "w"})]), ())
    assert admitted(server(store, store.workload("w"), came), policies).status == 401


def test_connections_of_other_networks() -> None:
    assert not is_from_gateway([], "near")
    assert not is_from_gateway([b"near"], "near")
    assert is_from_gateway([b"far"], "near")


# At a waypoint.

OWN = OwnGateway("wp", "ns")
OURS = gateway("ns/wp.ns.svc.cluster.local")
# name → (resources, authority, status, what it is for)
FRONTED: dict[str, tuple[list[Any], str, int, str]] = {
    "hostname match": ([service("s", "10.0.0.1", waypoint=OURS)], "10.0.0.1:80", 200, "s http"),
    "any cluster's domain": (
        [service("s", "10.0.0.1", waypoint=gateway("ns/wp.ns.svc.example.org"))],
        "10.0.0.1:80",
        200,
        "s http",
    ),
    "hostname mismatch": (
        [service("s", "10.0.0.1", waypoint=gateway("ns/other.ns.svc.cluster.local"))],
        "10.0.0.1:80",
        400,
        "",
    ),
    "a name that only begins alike": (
        [service("s", "10.0.0.1", waypoint=gateway("ns/wp2.ns.svc.cluster.local"))],
        "10.0.0.1:80",
        400,
        "",
    ),
    "another name space": (
        [service("s", "10.0.0.1", waypoint=gateway("x/wp.ns.svc.cluster.local"))],
        "10.0.0.1:80",
        400,
        "",
    ),
    "address match": (
        [WP_SERVICE, service("s", "10.0.0.1", waypoint=BY_SERVICE)],
        "10.0.0.1:80",
        200,
        "s http",
    ),
    "address of our pod": (
        [WP_SERVICE, WP, service("s", "10.0.0.1", waypoint=BY_POD)],
        "10.0.0.1:80",
        200,
        "s http",
    ),
    "address mismatch": (
        [WP_SERVICE, service("s", "10.0.0.1", waypoint=gateway("/10.0.0.101"))],
        "10.0.0.1:80",
        400,
        "",
    ),
    "no waypoint on the service": ([service("s", "10.0.0.1")], "10.0.0.1:80", 400, ""),
    "no address of our own": (
        [service("s", "10.0.0.1", waypoint=BY_SERVICE)],
        "10.0.0.1:80",
        400,
        "",
    ),
    "an unknown address": ([], "10.0.0.1:80", 400, ""),
    "an unknown port": ([service("s", "10.0.0.1", waypoint=OURS)], "10.0.0.1:81", 400, ""),
    "by its name": ([service("s", waypoint=OURS)], f"{NAME}:80", 200, "s http"),
    "by another's name": ([service("s", waypoint=OURS)], "x.example:80", 400, ""),
    "one of several": (
        [
            service(
                "s",
                "10.0.0.1",
                weightedWaypoints=[
                    {"destination": gateway("ns/x.ns.svc.cluster.local"), "weight": 1},
                    {"destination": OURS, "weight": 0},
                ],
            )
        ],
        "10.0.0.1:80",
        200,
        "s http",
    ),
    "several are all there are": (
        [
            service(
                "s",
                "10.0.0.1",
                waypoint=OURS,
                weightedWaypoints=[
                    {"destination": gateway("ns/x.ns.svc.cluster.local"), "weight": 1}
                ],
            )
        ],
        "10.0.0.1:80",
        400,
        "",
    ),
    "of two that share an address, ours": (
        [
            service("other", "10.0.0.1", "a", canonical=True),
            service("s", "10.0.0.1", waypoint=OURS),
        ],
        "10.0.0.1:80",
        200,
        "s http",
    ),
    "a workload": ([workload("w", "10.1.0.1", waypoint=OURS)], "10.1.0.1:8080", 200, "w http"),
    "a workload by name": (
        [workload("w", "10.1.0.1", hostname="w.example", waypoint=OURS)],
        "w.example:8080",
        200,
        "w http",
    ),
    "a workload of another waypoint": ([W], "10.1.0.1:8080", 400, ""),
    "a proxy's port": (
        [workload("w", "10.1.0.1", waypoint=OURS)],
        "10.1.0.1:15006",
        503,
        "",
    ),
    "TCP": (
        [service("s", "10.0.0.1", waypoint=OURS, appProtocols={"80": "TCP"})],
        "10.0.0.1:80",
        200,
        "s tcp",
    ),
    "TLS": (
        [service("s", "10.0.0.1", waypoint=OURS, appProtocols={"80": "TLS"})],
        "10.0.0.1:80",
        200,
        "s tls",
    ),
    "gRPC": (
        [service("s", "10.0.0.1", waypoint=OURS, appProtocols={"80": "GRPC"})],
        "10.0.0.1:80",
        200,
        "s http",
    ),
}


@pytest.mark.parametrize("name", FRONTED)
def test_waypoint(name: str) -> None:
    resources, authority, status, expected = FRONTED[name]
    found = waypoint(mesh(*resources), OWN, parse_authority(authority.encode()))
    assert found.status == status
    target = found.service or found.workload
    assert (f"{target.name} {found.speaks}" if target else "") == expected
    assert (found.subject is None) == (status != 200)


def targeted(kind: str, name: str, namespace: str = "ns") -> Policies:
    data = {
        "name": "p",
        "namespace": namespace,
        "scope": "TARGETS",
        "targets": [{"kind": kind, "name": name}],
        "action": "DENY",
        "rules": [[]],
    }
    policies = Policies()
    policies.apply({f"authorization/{namespace}/p": data}, ())
    return policies


@pytest.mark.parametrize(
    ("policies", "is_allowed"),
    [
        (targeted("Service", "s"), False),
        (targeted("Service", "t"), True),
        (targeted("Gateway", "wp"), False),
        (targeted("Gateway", "wp", "other"), True),
        (targeted("GatewayClass", "waypoints", "istio-system"), False),
        (Policies(), True),
    ],
)
def test_policies_at_a_waypoint(policies: Policies, is_allowed: bool) -> None:
    store = mesh(service("s", "10.0.0.1", waypoint=OURS))
    came = incoming("10.0.0.1:80")
    assert came.authority is not None
    found = waypoint(store, OWN, came.authority, identity=CALLER, gateway_class="waypoints")
    assert found.subject is not None
    connection = Connection(CALLER, came.remote_ip, "10.0.0.1", found.port)
    assert policies.decide(found.subject, connection, stage="connect").allowed is is_allowed


def test_a_workloads_policies_at_a_waypoint() -> None:
    store = mesh(workload("w", "10.1.0.1", waypoint=OURS, authorizationPolicies=["ns/p"]))
    came = incoming("10.1.0.1:80")
    assert came.authority is not None
    found = waypoint(store, OWN, came.authority)
    assert found.subject is not None
    assert found.subject.listed == ("ns/p",)


def test_services_that_only_their_name_space_sees() -> None:
    store = mesh(service("s", "10.0.0.1", waypoint=OURS, visibility="Namespace"))
    called = parse_authority(b"10.0.0.1:80")
    inside = Identity("cluster.local", "ns", "x")
    assert waypoint(store, OWN, called, identity=inside).status == 200
    assert waypoint(store, OWN, called, identity=CALLER).status == 400
