"""Whatever the mesh looks like: nobody of it is called in plaintext who is not plain himself, no
waypoint is gone around, and no tunnel is opened to just anybody."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from hbone.wire.authority import parse_authority
from istio.outbound import Route, Source, decide
from istio.workload import Service, Store
from tests.istio.meshes import fixed, gateway, mesh, service, workload

_VIPS = ("10.0.0.1", "10.0.0.2")
_IPS = ("10.1.0.1", "10.1.0.2", "10.1.0.3")
_GATEWAYS = st.sampled_from(
    [
        "/10.0.0.2",
        "/10.1.0.3",
        "ns/b.ns.svc.cluster.local",
        "ns/w3.example",
        "/9.9.9.9",
        "far/9.9.9.9",
    ]
).map(gateway)
_MORE_OF_SERVICE = st.fixed_dictionaries(
    {},
    optional={
        "waypoint": _GATEWAYS,
        "weightedWaypoints": st.lists(
            st.builds(
                lambda to, weight: {"destination": to, "weight": weight},
                _GATEWAYS,
                st.integers(0, 2),
            ),
            max_size=2,
        ),
        "ports": st.sampled_from(
            [{"80": 8080}, {"80": 0}, {"80": 15006}, {"15008": 15008, "80": 80}]
        ),
        "loadBalancer": st.sampled_from(
            [
                {"mode": mode, "routingPreferences": ["Network", "Region"]}
                for mode in ("Standard", "Strict", "Failover", "Passthrough")
            ]
        ),
        "subjectAltNames": st.just(["spiffe://td/ns/a/sa/b"]),
    },
)
_MORE_OF_WORKLOAD = st.fixed_dictionaries(
    {
        "protocol": st.sampled_from(["HBONE", "TCP", "LEGACY_ISTIO_MTLS"]),
        "services": st.lists(st.sampled_from(["a", "b"]), max_size=2, unique=True),
    },
    optional={
        "waypoint": _GATEWAYS,
        "network": st.just("far"),
        "networkGateway": _GATEWAYS,
        "networkMode": st.just("HostNetwork"),
        "status": st.just("Unhealthy"),
        "capacity": st.integers(0, 2),
        "hostname": st.just("w3.example"),
    },
)


@st.composite
def meshes(draw: st.DrawFn) -> Store:
    made: list[Any] = [workload("me", "10.1.0.9")]
    for name, vip in zip("ab", _VIPS, strict=True):
        if draw(st.booleans()):
            made.append(service(name, vip, **draw(_MORE_OF_SERVICE)))
    for number, ip in enumerate(_IPS):
        if draw(st.booleans()):
            made.append(workload(f"w{number}", ip, **draw(_MORE_OF_WORKLOAD)))
    return mesh(*draw(st.permutations(made)))


def check(route: Route, store: Store, host: str, port: int) -> None:
    target = route.workload
    match route.transport:
        case "refused":
            assert route.reason
            assert not route.host
            return
        case "passthrough":
            assert (route.host, route.port) == (host, port)
            assert store.workload_at("", host) is None
            found = store.service_at("", host)
            assert found is None or (
                found.balancer.mode == "Passthrough" and not found.has_waypoint
            )
            return
        case "plain":
            assert target is not None
            assert target.protocol == "TCP"
            assert not route.is_waypoint
        case _:
            assert route.expected_sans
            assert target is not None
    assert route.host
    assert 0 < route.port < 65536
    assert route.is_tunnel == (route.transport in ("hbone", "double_hbone"))


def has_gone_around(route: Route, service: Service | None) -> bool:
    return (
        service is not None
        and service.has_waypoint
        and not (route.is_waypoint or route.transport in ("refused", "double_hbone"))
    )


@settings(max_examples=150, deadline=None)
@given(
    meshes(),
    st.sampled_from([*_VIPS, *_IPS, "1.2.3.4"]),
    st.sampled_from([80, 81]),
    st.floats(0, 0.99),
)
def test_routes(store: Store, host: str, port: int, random: float) -> None:
    me = store.workload("me")
    assert me is not None
    called = parse_authority(f"{host}:{port}".encode())
    route = decide(store, called, Source.of(me, "10.1.0.9"), fixed(random))
    check(route, store, host, port)
    found = store.workload_at("", host)
    if found is None:
        assert not has_gone_around(route, store.service_at("", host))
    elif found.waypoint is not None:
        assert route.is_waypoint or route.transport == "refused"
    if route.is_waypoint:
        assert str(route.authority) == f"{host}:{port}"
