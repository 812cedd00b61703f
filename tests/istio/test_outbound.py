"""What becomes of outgoing connections. Source: spec istio 1.3, 1.4 and 2.1; section 6 rows 5 to 8,
11, 12, 27 to 36."""

from __future__ import annotations

from typing import Any

import pytest

from hbone.wire.authority import parse_authority
from istio.outbound import Route, Source, decide, to_service
from istio.workload import Place, Store
from tests.istio.meshes import fixed, gateway, mesh, service, workload

ME = workload("me", "10.1.0.9", locality={"region": "eu"}, canonicalName="app")
WP = "ns/wp.ns.svc.cluster.local"
WP_SAN = "spiffe://cluster.local/ns/ns/sa/wp"
W_SAN = "spiffe://cluster.local/ns/ns/sa/w"


def from_me(store: Store, to: str, *, random: float = 0.0) -> Route:
    me = store.workload("me")
    assert me is not None
    return decide(
        store, parse_authority(to.encode()), Source.of(me, "10.1.0.9", 4321), fixed(random)
    )


def brief(route: Route) -> tuple[str, str, str, str]:
    """Transport, what is dialled, the authority, whose identities are expected."""
    dialled = f"{route.host}:{route.port}" if route.host else ""
    who = ",".join(sorted(san.rpartition("/")[2] for san in route.expected_sans))
    return route.transport, dialled, str(route.authority or ""), who


WAYPOINT = [
    service("wp", "10.0.0.100", ports={"15008": 15008}),
    workload("wp", "10.1.0.100", services=["wp"]),
]

# name → (resources, what is called, what becomes of it)
CASES: dict[str, tuple[list[Any], str, tuple[str, str, str, str]]] = {
    "27 unknown": ([], "1.2.3.4:80", ("passthrough", "1.2.3.4:80", "", "")),
    "unknown name": ([], "a.example:80", ("passthrough", "a.example:80", "", "")),
    "28 known, plain": (
        [workload("w", "10.1.0.1", protocol="TCP")],
        "10.1.0.1:80",
        ("plain", "10.1.0.1:80", "", ""),
    ),
    "28 known, hbone": (
        [workload("w", "10.1.0.1")],
        "10.1.0.1:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:80", "w"),
    ),
    "a port of its own for tunnels": (
        [workload("w", "10.1.0.1", hboneMtlsPort=16008)],
        "10.1.0.1:80",
        ("hbone", "10.1.0.1:16008", "10.1.0.1:80", "w"),
    ),
    "older mTLS": (
        [workload("w", "10.1.0.1", protocol="LEGACY_ISTIO_MTLS")],
        "10.1.0.1:80",
        ("legacy_mtls", "10.1.0.1:80", "", "w"),
    ),
    "IPv6": (
        [workload("w", "fd00::1")],
        "[fd00:0::1]:80",
        ("hbone", "fd00::1:15008", "[fd00::1]:80", "w"),
    ),
    "12, 33 a service": (
        [service("s", "10.0.0.1"), workload("w", "10.1.0.1", services=["s"])],
        "10.0.0.1:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:8080", "w"),
    ),
    "a service by name": (
        [service("s"), workload("w", "10.1.0.1", services=["s"])],
        "s.ns.svc.cluster.local:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:8080", "w"),
    ),
    "a workload by name": (
        [workload("w", "10.1.0.1", hostname="w.example")],
        "w.example:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:80", "w"),
    ),
    "25 a workload that only has a name": (
        [service("s", "10.0.0.1"), workload("w", hostname="w.example", services=["s"])],
        "10.0.0.1:80",
        ("hbone", "w.example:15008", "w.example:8080", "w"),
    ),
    "names of the service": (
        [
            service("s", "10.0.0.1", subjectAltNames=["spiffe://td/ns/x/sa/more"]),
            workload("w", "10.1.0.1", services=["s"]),
        ],
        "10.0.0.1:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:8080", "more,w"),
    ),
    "32 no endpoints": ([service("s", "10.0.0.1")], "10.0.0.1:80", ("refused", "", "", "")),
    "no such port": (
        [service("s", "10.0.0.1"), workload("w", "10.1.0.1", services=["s"])],
        "10.0.0.1:81",
        ("refused", "", "", ""),
    ),
    "a workload before a service": (
        [service("s", "10.1.0.1"), workload("w", "10.1.0.1", services=["s"])],
        "10.1.0.1:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:80", "w"),
    ),
    "6, 31 a service's waypoint": (
        [
            *WAYPOINT,
            service("s", "10.0.0.1", waypoint=gateway("/10.0.0.100")),
            workload("w", "10.1.0.1", services=["s"]),
        ],
        "10.0.0.1:80",
        ("hbone", "10.1.0.100:15008", "10.0.0.1:80", "wp"),
    ),
    "7 a waypoint by its service's name": (
        [*WAYPOINT, service("s", "10.0.0.1", waypoint=gateway(WP))],
        "10.0.0.1:80",
        ("hbone", "10.1.0.100:15008", "10.0.0.1:80", "wp"),
    ),
    "8 a waypoint by its workload's name": (
        [
            workload("wp", "10.1.0.100", hostname="wp.example"),
            service("s", "10.0.0.1", waypoint=gateway("ns/wp.example", 16008)),
        ],
        "10.0.0.1:80",
        ("hbone", "10.1.0.100:16008", "10.0.0.1:80", "wp"),
    ),
    "a waypoint by its workload's address": (
        [
            workload("wp", "10.1.0.100"),
            service("s", "10.0.0.1", waypoint=gateway("/10.1.0.100", 16008)),
        ],
        "10.0.0.1:80",
        ("hbone", "10.1.0.100:16008", "10.0.0.1:80", "wp"),
    ),
    "a waypoint is called by the name that was called": (
        [*WAYPOINT, service("s", waypoint=gateway(WP))],
        "s.ns.svc.cluster.local:80",
        ("hbone", "10.1.0.100:15008", "s.ns.svc.cluster.local:80", "wp"),
    ),
    "a waypoint that nobody knows": (
        [
            service("s", "10.0.0.1", waypoint=gateway("/10.0.0.100")),
            workload("w", "10.1.0.1", services=["s"]),
        ],
        "10.0.0.1:80",
        ("refused", "", "", ""),
    ),
    "a waypoint without pods": (
        [WAYPOINT[0], service("s", "10.0.0.1", waypoint=gateway("/10.0.0.100"))],
        "10.0.0.1:80",
        ("refused", "", "", ""),
    ),
    "5, 30 a workload's waypoint": (
        [*WAYPOINT, workload("w", "10.1.0.1", waypoint=gateway("/10.0.0.100"))],
        "10.1.0.1:80",
        ("hbone", "10.1.0.100:15008", "10.1.0.1:80", "wp"),
    ),
    "a workload's waypoint that nobody knows": (
        [workload("w", "10.1.0.1", waypoint=gateway("/10.0.0.100"))],
        "10.1.0.1:80",
        ("refused", "", "", ""),
    ),
    "a workload's waypoint is not for its services": (
        [
            *WAYPOINT,
            service("s", "10.0.0.1"),
            workload("w", "10.1.0.1", services=["s"], waypoint=gateway("/10.0.0.100")),
        ],
        "10.0.0.1:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:8080", "w"),
    ),
    "29 one's own waypoint is not for what one calls": (
        [
            *WAYPOINT,
            workload("me", "10.1.0.9", waypoint=gateway("/10.0.0.100")),
            workload("w", "10.1.0.1"),
        ],
        "10.1.0.1:80",
        ("hbone", "10.1.0.1:15008", "10.1.0.1:80", "w"),
    ),
    "35 called as it is": (
        [
            service("s", "10.0.0.1", loadBalancer={"mode": "Passthrough"}),
            workload("w", "10.1.0.1", services=["s"]),
        ],
        "10.0.0.1:80",
        ("passthrough", "10.0.0.1:80", "", ""),
    ),
    "35 called as it is, through its waypoint": (
        [
            *WAYPOINT,
            service(
                "s",
                "10.0.0.1",
                loadBalancer={"mode": "Passthrough"},
                waypoint=gateway("/10.0.0.100"),
            ),
        ],
        "10.0.0.1:80",
        ("hbone", "10.1.0.100:15008", "10.0.0.1:80", "wp"),
    ),
    "36 a host's address is nobody's": (
        [workload("w", "10.1.0.1", networkMode="HostNetwork")],
        "10.1.0.1:80",
        ("passthrough", "10.1.0.1:80", "", ""),
    ),
    "36 a host's workload as a service": (
        [
            service("s", "10.0.0.1"),
            workload("w", "10.1.0.1", networkMode="HostNetwork", services=["s"], protocol="TCP"),
        ],
        "10.0.0.1:80",
        ("plain", "10.1.0.1:8080", "", ""),
    ),
    "16 a proxy's own port": (
        [workload("w", "10.1.0.1")],
        "10.1.0.1:15006",
        ("refused", "", "", ""),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_routes(name: str) -> None:
    resources, called, expected = CASES[name]
    route = from_me(mesh(ME, *resources), called)
    assert brief(route) == expected
    assert bool(route.reason) == (route.transport == "refused")
    assert route.is_tunnel == (route.transport == "hbone")


def test_30_the_waypoint_itself_goes_on_to_the_workload() -> None:
    store = mesh(*WAYPOINT, workload("w", "10.1.0.1", waypoint=gateway("/10.0.0.100")))
    wp = store.workload("wp")
    assert wp is not None
    called = parse_authority(b"10.1.0.1:80")
    route = decide(store, called, Source.of(wp, "10.1.0.100"), fixed())
    assert brief(route) == ("hbone", "10.1.0.1:15008", "10.1.0.1:80", "w")
    # Its account alone does not make a waypoint, nor does its address.
    elsewhere = decide(store, called, Source.of(wp, "10.1.0.7"), fixed())
    assert brief(elsewhere)[1] == "10.1.0.100:15008"


def test_45_several_waypoints_by_weight() -> None:
    several = [
        {"destination": gateway("/10.1.0.100"), "weight": 90},
        {"destination": gateway("/10.1.0.101"), "weight": 10},
    ]
    store = mesh(
        ME,
        workload("wp", "10.1.0.100"),
        workload("canary", "10.1.0.101"),
        # The single one does not count beside them.
        service("s", "10.0.0.1", weightedWaypoints=several, waypoint=gateway("/10.9.9.9")),
        service("none", "10.0.0.2", weightedWaypoints=[{**several[1], "weight": 0}]),
    )
    hosts = [from_me(store, "10.0.0.1:80", random=at).host for at in (0.0, 0.89, 0.9, 0.99)]
    assert hosts == ["10.1.0.100", "10.1.0.100", "10.1.0.101", "10.1.0.101"]
    assert from_me(store, "10.0.0.2:80").host == "10.1.0.101"


FAR_SAN = "spiffe://cluster.local/ns/ns/sa/far"
FAR = [
    workload(
        "far",
        "10.1.0.1",
        services=["s"],
        network="far",
        networkGateway=gateway("far/9.9.9.9", 15010),
    ),
    workload("eastwest", "9.9.9.9", network="far"),
]


def test_34_other_networks_are_reached_through_their_gateway() -> None:
    store = mesh(ME, service("s", "10.0.0.1", subjectAltNames=[FAR_SAN]), *FAR)
    route = from_me(store, "10.0.0.1:80")
    name = "s.ns.svc.cluster.local:80"
    assert brief(route) == ("double_hbone", "9.9.9.9:15010", name, "eastwest")
    assert str(route.inner_authority) == name
    assert route.inner_sans == {FAR_SAN}  # the workload's own would not do


@pytest.mark.parametrize("by", ["address", "name"])
def test_34_gateways_that_are_services(by: str) -> None:
    place = "far/9.0.0.1" if by == "address" else "ns/ew.ns.svc.cluster.local"
    store = mesh(
        ME,
        service("s", "10.0.0.1"),
        service("ew", "far/9.0.0.1", ports={"15008": 15010}),
        workload("far", "10.1.0.1", services=["s"], network="far", networkGateway=gateway(place)),
        workload("eastwest", "9.9.9.9", network="far", services=["ew"]),
    )
    assert brief(from_me(store, "10.0.0.1:80"))[:2] == ("double_hbone", "9.9.9.9:15010")


def test_34_no_gateway() -> None:
    store = mesh(ME, service("s", "10.0.0.1"), FAR[0])
    assert from_me(store, "10.0.0.1:80").transport == "refused"
    assert from_me(mesh(ME, service("s", "10.0.0.1"), *FAR), "10.1.0.1:80").transport == (
        "passthrough"  # its address means nothing in this network
    )


def test_34_failover_to_another_network() -> None:
    near = workload("near", "10.1.0.2", services=["s"])
    balancer = {"mode": "Failover", "routingPreferences": ["Network"]}
    store = mesh(ME, service("s", "10.0.0.1", loadBalancer=balancer), near, *FAR)
    assert from_me(store, "10.0.0.1:80", random=0.99).host == "10.1.0.2"
    store.drop("workload", "near")
    assert from_me(store, "10.0.0.1:80").transport == "double_hbone"


def test_a_waypoint_in_another_network() -> None:
    store = mesh(
        ME,
        service("s", "10.0.0.1", waypoint=gateway(WP)),
        service("wp", ports={"15008": 15008}, subjectAltNames=[WP_SAN]),
        workload(
            "wp", "10.1.0.1", services=["wp"], network="far", networkGateway=gateway("far/9.9.9.9")
        ),
        FAR[1],
    )
    route = from_me(store, "10.0.0.1:80")
    assert brief(route)[:3] == ("double_hbone", "9.9.9.9:15008", "s.ns.svc.cluster.local:80")
    assert route.inner_sans == {WP_SAN}


def test_fields_of_the_connect() -> None:
    trace, span = bytes(range(16)), bytes(range(8))
    store = mesh(ME, service("s", "10.0.0.1"), workload("w", "10.1.0.1", services=["s"]))
    fields = dict(from_me(store, "10.0.0.1:80").headers(trace, span))
    assert fields[b"baggage"].startswith(b"k8s.cluster.name=Kubernetes,k8s.namespace.name=ns")
    assert fields[b"forwarded"] == b'for="10.1.0.9:4321";host=s.ns.svc.cluster.local'
    assert fields[b"traceparent"].startswith(b"00-000102")
    assert len(fields) == 3
    assert dict(from_me(store, "10.1.0.1:80").headers(trace, span))[b"forwarded"] == (
        b'for="10.1.0.9:4321"'
    )


def test_fields_of_two_tunnels() -> None:
    store = mesh(
        workload("me", "10.1.0.9", network="near"),
        service("s", "near/10.0.0.1"),
        *FAR,
        network="near",
    )
    me = store.workload("me")
    assert me is not None
    source = Source.of(me, "fd00::9", 1, kind="sidecar")
    route = decide(store, parse_authority(b"10.0.0.1:80"), source, fixed())
    inner, outer = (dict(of(bytes(16), bytes(8))) for of in (route.headers, route.outer_headers))
    assert inner[b"x-forwarded-network"] == b"near"
    assert b"x-forwarded-network" not in outer
    assert outer[b"x-istio-source"] == b"sidecar"
    assert inner[b"traceparent"] == outer[b"traceparent"]
    assert outer[b"forwarded"] == b'for="[fd00::9]:1";host=s.ns.svc.cluster.local'


def test_57_a_gateway_may_go_around_the_waypoint() -> None:
    store = mesh(
        *WAYPOINT,
        service("s", "10.0.0.1", waypoint=gateway(WP), ingressUseWaypoint=True),
        workload("w", "10.1.0.1", services=["s"]),
    )
    found = store.service_at("", "10.0.0.1")
    assert found is not None
    called = parse_authority(b"s.ns.svc.cluster.local:80")
    source = Source(place=Place(), kind="gateway")
    through = to_service(store, found, called, source, fixed())
    assert brief(through) == ("hbone", "10.1.0.100:15008", "s.ns.svc.cluster.local:80", "wp")
    around = to_service(store, found, called, source, fixed(), skip_waypoint=True)
    assert brief(around) == ("hbone", "10.1.0.1:15008", "10.1.0.1:8080", "w")


def test_addresses_of_the_family_that_was_called() -> None:
    data = workload("w", services=["s"], workloadIps=["10.1.0.1", "fd00::1"])
    store = mesh(
        ME,
        service("s", vips=["/10.0.0.1", "/fd01::1"], ipFamilies="Dual"),
        service("six", "10.0.0.6", ipFamilies="IPv6"),
        data,
        workload("x", services=["six"], workloadIps=["10.1.0.2", "fd00::2"]),
    )
    assert from_me(store, "10.0.0.1:80").host == "10.1.0.1"
    assert from_me(store, "[fd01::1]:80").host == "fd00::1"
    assert from_me(store, "10.0.0.6:80").host == "fd00::2"
