"""Which endpoint is chosen. Source: spec istio section 2.1; section 6 rows 12, 33, 45 and 61."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from istio.workload import Place, Service, Store
from istio.workload.balance import buckets, choose, target_port
from tests.istio.meshes import fixed, gateway, mesh, service, workload

HERE = Place("eu", "eu-1", "a", "n1", "Kubernetes", "")


def the_service(store: Store) -> Service:
    found = store.service("ns", "s.ns.svc.cluster.local")
    assert found is not None
    return found


def near(store: Store, place: Place = HERE, port: int = 80) -> list[list[str]]:
    return [
        sorted(endpoint.workload.uid for endpoint in bucket.endpoints)
        for bucket in buckets(store, the_service(store), port, place)
    ]


def at(name: str, ip: str, region: str, zone: str = "", node: str = "", **more: Any) -> Any:
    locality = {"region": region, "zone": zone}
    return workload(name, ip, services=["s"], locality=locality, node=node, **more)


SPREAD = [
    at("node", "10.1.0.1", "eu", "eu-1", "n1"),
    at("zone", "10.1.0.2", "eu", "eu-1", "n2"),
    at("region", "10.1.0.3", "eu", "eu-2", "n3"),
    at("far", "10.1.0.4", "us", "us-1", "n4"),
]


def balanced(mode: str, *scopes: str, **more: Any) -> Any:
    return service("s", loadBalancer={"mode": mode, "routingPreferences": list(scopes), **more})


MODES: dict[str, tuple[Any, list[list[str]]]] = {
    "standard": (balanced("Standard", "Region"), [["far", "node", "region", "zone"]]),
    "strict": (balanced("Strict", "Region", "Zone"), [["node", "zone"]]),
    "strict node": (balanced("Strict", "Node"), [["node"]]),
    "failover": (
        balanced("Failover", "Region", "Zone", "Node"),
        [["node"], ["zone"], ["region"], ["far"]],
    ),
    "a later scope does not count alone": (
        balanced("Failover", "Zone", "Region"),
        [["node", "zone"], ["far", "region"]],
    ),
    "cluster": (balanced("Failover", "Cluster"), [["far", "node", "region", "zone"]]),
    "network": (balanced("Strict", "Network"), [["far", "node", "region", "zone"]]),
}


@pytest.mark.parametrize("name", MODES)
def test_modes(name: str) -> None:
    made, expected = MODES[name]
    assert near(mesh(made, *SPREAD)) == expected


def test_strict_refuses_when_nobody_is_near() -> None:
    store = mesh(balanced("Strict", "Region"), *SPREAD)
    assert near(store, Place("asia")) == []
    assert choose(store, the_service(store), 80, Place("asia"), fixed()) is None


def test_failover_goes_on_to_the_next() -> None:
    store = mesh(balanced("Failover", "Region", "Zone", "Node"), *SPREAD)
    for name, expected in (("node", "zone"), ("zone", "region"), ("region", "far")):
        store.drop("workload", name)
        chosen = choose(store, the_service(store), 80, HERE, fixed())
        assert chosen is not None
        assert chosen.workload.uid == expected
    store.drop("workload", "far")
    assert choose(store, the_service(store), 80, HERE, fixed()) is None


def test_callers_of_other_places_get_their_own() -> None:
    store = mesh(balanced("Failover", "Region"), *SPREAD)
    assert near(store)[0] == ["node", "region", "zone"]
    assert near(store, Place("us"))[0] == ["far"]
    for index in range(200):  # what is remembered is bounded
        near(store, Place(f"r{index}"))
    members = store.members_of(the_service(store))
    assert members is not None
    assert len(members.choices) <= 64


def test_health() -> None:
    sick = workload("sick", "10.1.0.1", services=["s"], status="Unhealthy")
    well = workload("well", "10.1.0.2", services=["s"])
    assert near(mesh(service("s"), sick, well)) == [["well"]]
    assert near(mesh(service("s"), sick)) == []
    anyway = balanced("Standard", healthPolicy="AllowAll")
    assert near(mesh(anyway, sick, well)) == [["sick", "well"]]


def test_a_change_of_health_counts_at_once() -> None:
    store = mesh(service("s"), workload("w", "10.1.0.1", services=["s"]))
    assert near(store) == [["w"]]
    store.apply(dict([workload("w", "10.1.0.1", services=["s"], status="Unhealthy")]), ())
    assert near(store) == []


def test_capacity() -> None:
    store = mesh(
        service("s"),
        workload("one", "10.1.0.1", services=["s"]),
        workload("three", "10.1.0.2", services=["s"], capacity=3),
        workload("none", "10.1.0.3", services=["s"], capacity=0),
    )
    source = random.Random(1)
    counts: Counter[str] = Counter()
    for _ in range(4000):
        chosen = choose(store, the_service(store), 80, HERE, source.random)
        assert chosen is not None
        counts[chosen.workload.uid] += 1
    assert set(counts) == {"one", "three"}
    assert 2.5 < counts["three"] / counts["one"] < 3.5
    last = choose(store, the_service(store), 80, HERE, fixed(0.999999))
    assert last is not None
    drained = mesh(service("s"), workload("none", "10.1.0.3", services=["s"], capacity=0))
    assert near(drained) == []


S = "ns/s.ns.svc.cluster.local"
TUNNEL = {"protocol": "PROXY", "port": 15088}
# ports of the service, of the workload, the application tunnel's → the target of port 80
PORTS: dict[str, tuple[dict[str, int], dict[str, int], Any, int | None]] = {
    "the workload's own": ({"80": 8080}, {"80": 9090}, None, 9090),
    "the service's": ({"80": 8080}, {"81": 9090}, None, 8080),
    "a name that the workload knows": ({"80": 0}, {"80": 9090}, None, 9090),
    "a name that nobody knows": ({"80": 0}, {}, None, None),
    "no such port": ({"81": 8080}, {}, None, None),
    "a name, with an application tunnel": ({"80": 0}, {}, TUNNEL, 80),
    "an application tunnel without a port": ({"80": 0}, {}, {"protocol": "PROXY"}, None),
}


@pytest.mark.parametrize("name", PORTS)
def test_target_ports(name: str) -> None:
    ports, own, tunnel, expected = PORTS[name]
    more = {} if tunnel is None else {"applicationTunnel": tunnel}
    store = mesh(service("s", ports=ports), workload("w", "10.1.0.1", services={S: own}, **more))
    found = store.workload("w")
    assert found is not None
    assert target_port(found, the_service(store), 80) == expected
    assert near(store) == ([] if expected is None else [["w"]])


def test_other_networks_need_a_gateway() -> None:
    store = mesh(
        service("s"),
        workload(
            "reached",
            "10.1.0.1",
            services=["s"],
            network="far",
            networkGateway=gateway("far/1.2.3.4"),
        ),
        workload("lost", "10.1.0.2", services=["s"], network="far"),
    )
    assert near(store) == [["reached"]]
    assert near(store, Place(network="far")) == [["lost", "reached"]]
