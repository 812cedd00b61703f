"""Services and workloads that change one by one: what is found, and what is made anew."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.gateway.discovered import (
    DOUBLE,
    WAYPOINT,
    Discovery,
    Users,
    hop,
    hop_of,
    place_of,
)
from sidecar.gateway.mesh import Front
from sidecar.net.dialer import Address
from tests.support.compiled import InProcess, ask_for, snapshot_data

HOST = "app.shop.svc"
NAME = f"shop/{HOST}"
BIND = "bind/15008"


def service(**more: Any) -> dict[str, Any]:
    return {"name": "app", "namespace": "shop", "hostname": HOST, "ports": {"80": 8080}, **more}


def workload(*ips: str, **more: Any) -> dict[str, Any]:
    return {"namespace": "shop", "ips": list(ips), "services": {NAME: {}}, **more}


def test_endpoints_of_each_kind() -> None:
    discovery = Discovery(
        {NAME: service()},
        {
            "plain": workload("10.0.0.1"),
            "own-port": workload("10.0.0.2", services={NAME: {"80": 9090}}, capacity=3),
            "sealed": workload("10.0.0.3", protocol="HBONE"),
            "sick": workload("10.0.0.4", status="Unhealthy"),
            "far": workload("10.9.0.1", network="other", network_gateway={"destination": "x/y"}),
            "lost": workload("10.9.0.2", network="other"),
            "named": workload(hostname="db.test"),
            "nowhere": workload(),
        },
    )
    assert discovery.endpoints(NAME, 80) == [
        (Address("10.0.0.1", 8080), 1),
        (Address("10.0.0.2", 9090), 3),
        (Address("10.0.0.3", 8080, hop=hop("HBONE", "sealed", NAME)), 1),
        (Address("far", 80, hop=hop(DOUBLE, "far", NAME)), 1),
        (Address("db.test", 8080), 1),
    ]
    assert discovery.endpoints("shop/other", 80) is None
    assert discovery.workload("sealed", 99) == Address(
        "10.0.0.3", 99, hop=hop("HBONE", "sealed", "")
    )
    assert discovery.workload("nobody", 1) is None
    assert hop_of(hop("HBONE", "a/b", NAME)) == ("HBONE", "a/b", NAME)


@pytest.mark.parametrize("protocol", ["TCP", "HBONE"])
def test_those_of_a_service_that_wants_gateways_at_its_waypoint(protocol: str) -> None:
    waypoint = {"destination": "shop/w.shop.svc"}
    for asks, found in ((True, True), (False, False)):
        discovery = Discovery(
            {NAME: service(waypoint=waypoint, ingress_use_waypoint=asks)},
            {"one": workload("10.0.0.1", protocol=protocol)},
        )
        ((address, _),) = discovery.endpoints(NAME, 80) or []
        assert (address == Address("one", 80, hop=hop(WAYPOINT, "one", NAME))) is found
        assert (discovery.workload("one", 9) or address).host == "10.0.0.1"


def test_unhealthy_ones_where_the_service_takes_all() -> None:
    discovery = Discovery(
        {NAME: service(load_balancer={"health": "AllowAll"})},
        {"sick": workload("10.0.0.4", status="Unhealthy")},
    )
    assert discovery.endpoints(NAME, 80) == [(Address("10.0.0.4", 8080), 1)]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("Failover", [{"10.0.0.1"}, {"10.0.0.2"}, {"10.0.0.3"}]),
        ("Strict", [{"10.0.0.1"}]),
        ("Standard", [{"10.0.0.1", "10.0.0.2", "10.0.0.3"}]),
    ],
)
def test_near_ones_come_first(mode: str, expected: list[set[str]]) -> None:
    discovery = Discovery(
        {NAME: service(load_balancer={"scopes": ["Region", "Zone"], "mode": mode})},
        {
            "near": workload("10.0.0.1", locality={"region": "r", "zone": "z"}),
            "nearer": workload("10.0.0.2", locality={"region": "r", "zone": "y"}),
            "far": workload("10.0.0.3", locality={"region": "q", "zone": "z"}),
        },
        place_of({"LOCALITY": "r/z"}, {}),
    )
    groups = discovery.groups(NAME, 80)
    assert groups is not None
    assert [{address.host for address, _ in group} for group in groups] == expected


@pytest.mark.parametrize("scope", ["Node", "Cluster", "Network", "Subzone"])
def test_every_scope_is_looked_at(scope: str) -> None:
    ours = place_of({"LOCALITY": "r/z/s", "NODE_NAME": "n"}, {"clusterId": "c", "network": ""})
    here = {
        "node": "n",
        "cluster_id": "c",
        "locality": {"region": "r", "zone": "z", "subzone": "s"},
    }
    elsewhere = {"network": "other", "network_gateway": {"destination": "x/y"}}
    discovery = Discovery(
        {NAME: service(load_balancer={"scopes": [scope], "mode": "Failover"})},
        {"here": workload("10.0.0.1", **here), "there": workload("10.0.0.2", **elsewhere)},
        ours,
    )
    groups = discovery.groups(NAME, 80)
    assert groups is not None
    assert [len(group) for group in groups] == [1, 1]
    assert groups[0][0][0].host == "10.0.0.1"


CHANGES = st.lists(
    st.tuples(
        st.sampled_from(("a", "b", "c")),
        st.none() | st.tuples(st.integers(1, 3), st.sets(st.sampled_from((NAME, "shop/z")))),
    ),
    max_size=12,
)


@given(CHANGES)
def test_any_changes_come_to_what_a_fresh_start_finds(
    changes: list[tuple[str, tuple[int, set[str]] | None]],
) -> None:
    services = {NAME: service(), "shop/z": service()}
    discovery = Discovery(services, {})
    known: dict[str, dict[str, Any]] = {}
    for uid, change in changes:
        key = f"workload/{uid}"
        if change is None:
            had = known.pop(uid, None)
            touched = discovery.change({}, [key])
            assert touched.services == set(had["services"] if had else ())
        else:
            number, joined = change
            known[uid] = workload(f"10.0.0.{number}", services={name: {} for name in joined})
            touched = discovery.change({key: known[uid]}, [])
            assert touched.services >= joined
        assert touched.workloads == {uid}
    fresh = Discovery(services, known)
    for name in services:
        found, expected = discovery.endpoints(name, 80), fresh.endpoints(name, 80)
        assert found is not None
        assert expected is not None
        assert sorted(map(str, found)) == sorted(map(str, expected))


def test_who_names_a_service_is_found_wherever_it_does() -> None:
    named = {"service": {"name": NAME, "port": 80}}
    users = Users(
        {
            "route/a": {"backends": [{"target": named}]},
            "route/b": {"policies": {"extAuthz": {**named, "timeout": "1s"}}},
            "route/c": {"backends": []},
            f"service/{NAME}": service(),
        }
    )
    assert users.of([NAME]) == {"route/a", "route/b"}
    users.put("route/a", {})
    users.put("route/c", {"backends": [{"target": named}]})
    users.drop("route/b")
    assert users.of([NAME, "shop/unknown"]) == {"route/c"}


def config(*endpoints: str, **route: Any) -> dict[str, Any]:
    return {
        "binds": [
            {
                "port": 8080,
                "listeners": [
                    {
                        "routes": [
                            {
                                "name": "r",
                                "backends": [{"service": {"name": NAME, "port": 80}}],
                                **route,
                            },
                            {"name": "other", "backends": [{"host": "127.0.0.1:9"}]},
                        ]
                    }
                ],
            },
            {
                "port": 15008,
                "tunnelProtocol": "hboneWaypoint",
                "listeners": [{"protocol": "HBONE"}],
            },
        ],
        "services": [service()],
        "workloads": [
            {
                "uid": ip,
                "namespace": "shop",
                "workloadIps": [ip],
                "services": {NAME: {"80": 8080}},
            }
            for ip in endpoints
        ],
    }


def labels(gateway: Any) -> set[str]:
    """The endpoints that the route over the service may choose."""
    listener = gateway.binds["bind/8080"].listener_of(ask_for())
    for key in listener.routes.route_keys:
        if key.endswith("/r"):
            backend = listener.routes._entries[key].payload.backends[0]
            return {pick.label for pick in backend.upstream._picks.values()}
    raise AssertionError("the route is gone")


async def test_a_change_of_an_endpoint_makes_only_its_routes_anew() -> None:
    async with InProcess(config("10.0.0.1")) as gateway:
        before = gateway.gateway
        after = gateway.apply(config("10.0.0.1", "10.0.0.2"))
        assert labels(after) == {"10.0.0.1:8080", "10.0.0.2:8080"}
        first, second = (one.binds["bind/8080"].listener_of(ask_for()) for one in (before, after))
        assert second.metrics is first.metrics
        assert after.binds[BIND] is before.binds[BIND]
        again = gateway.apply(config("10.0.0.2"))
        assert labels(again) == {"10.0.0.2:8080"}


async def test_fronts_stay_until_what_they_stand_for_changes() -> None:
    front = str(Front(BIND, "service", NAME, 80))
    async with InProcess(config("10.0.0.1")) as gateway:
        made = gateway.gateway.bind(front)
        assert made is not None
        assert gateway.gateway.bind(str(Front(BIND, "service", "shop/none", 80))) is None
        assert gateway.gateway.bind(str(Front("bind/1", "service", NAME, 80))) is None
        assert gateway.gateway.bind("bind/1") is None
        by_workload = str(Front(BIND, "workload", "10.0.0.1", 99))
        assert gateway.gateway.bind(by_workload) is not None
        data = snapshot_data(config("10.0.0.1"))
        unrelated = {"service/shop/b": {**service(), "hostname": "b"}}
        after = gateway.step({**data, **unrelated})
        assert after.bind(front) is made
        changed = gateway.apply(config("10.0.0.1", "10.0.0.2"))
        assert changed.bind(front) is not made


async def test_attached_routes_are_all_that_a_service_has() -> None:
    async with InProcess(config("10.0.0.1")) as gateway:
        data = snapshot_data(config("10.0.0.1"))
        route = next(one for key, one in data.items() if key.endswith("/other"))
        attached = {
            **route,
            "listener": None,
            "hostnames": ["unlike.the.request"],
            "matches": [{"path": {"kind": "prefix", "value": "/only"}}],
            "service": {"name": NAME, "port": None},
        }
        made = gateway.step({**data, "route/attached": attached})
        bind = made.bind(str(Front(BIND, "service", NAME, 80)))
        assert bind is not None
        listener = bind.listener_of(ask_for())
        assert list(listener.routes.route_keys) == ["attached"]
        assert listener.front is not None
        assert listener.front.fallback is None


@pytest.mark.parametrize(
    "front",
    [
        Front(BIND, "service", NAME, 80),
        Front("b/c/d", "workload", "Kubernetes//Pod/ns/a:b", 65535, is_tcp=True),
    ],
)
def test_a_front_is_found_in_its_key(front: Front) -> None:
    found = Front.parse(str(front))
    assert found is not None
    assert [getattr(found, name) for name in Front.__slots__] == [
        getattr(front, name) for name in Front.__slots__
    ]
