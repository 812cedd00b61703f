"""What is found where, and that the order of changes does not matter.

Source: spec istio sections 2.1 and 3.4; section 6 rows 43, 47 and 48.
"""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from istio.workload import Service, Store, Workload
from tests.istio.meshes import gateway, mesh, service, workload


def key(found: Service | None) -> str:
    return "" if found is None else found.key.removesuffix(".svc.cluster.local")


def uids(store: Store, found: Service) -> list[str]:
    return sorted(endpoint.workload.uid for endpoint in store.members(found))


def test_by_address_hostname_and_name() -> None:
    store = mesh(
        service("s", "10.0.0.1"),
        service("t", "other/10.0.0.1"),
        workload("w", "10.1.0.1", hostname="W.example"),
        workload("v6", "fd00:0::1"),
    )
    assert key(store.service_at("", "10.0.0.1")) == "ns/s.ns"
    assert key(store.service_at("other", "10.0.0.1")) == "ns/t.ns"
    assert store.service_at("", "10.0.0.2") is None
    assert key(store.service_named("S.ns.svc.cluster.local")) == "ns/s.ns"
    assert store.service("ns", "none") is None
    found = store.workload_at("", "10.1.0.1")
    assert found is not None
    assert found is store.workload("w") is store.workload_named("w.EXAMPLE")
    assert store.workload_at("other", "10.1.0.1") is None
    assert store.workload_at("", "fd00::1") is store.workload("v6")
    store.drop("workload", "w")
    assert store.workload_at("", "10.1.0.1") is store.workload_named("w.example") is None


def test_a_shared_address_goes_to_ones_own_name_space_then_the_canonical_then_the_first() -> None:
    store = mesh(
        service("a", "10.0.0.1", "one"),
        service("b", "10.0.0.1", "two", canonical=True),
        service("c", "10.0.0.1", "three"),
    )
    assert key(store.service_at("", "10.0.0.1", "three")) == "three/c.three"
    assert key(store.service_at("", "10.0.0.1", "else")) == "two/b.two"
    store.drop("service", "two/b.two.svc.cluster.local")
    assert key(store.service_at("", "10.0.0.1", "else")) == "one/a.one"
    assert [key(one) for one in store.services_at("", "10.0.0.1", "three")] == [
        "three/c.three",
        "one/a.one",
    ]


def test_a_service_of_its_name_space_is_not_seen_from_others() -> None:
    store = mesh(service("a", "10.0.0.1", "one", visibility="Namespace"))
    assert store.service_at("", "10.0.0.1", "two") is None
    assert store.service_named("a.one.svc.cluster.local", "two") is None
    assert key(store.service_at("", "10.0.0.1", "one")) == "one/a.one"


def test_networks_of_services() -> None:
    store = mesh(
        service("wide", namespace="one", cidrVips=["/10.0.0.0/8"]),
        service("narrow", namespace="two", cidrVips=["/10.1.0.0/16", "other/10.0.0.0/8"]),
        service("same", namespace="three", cidrVips=["/10.1.0.0/16"], canonical=True),
        service("exact", "10.1.0.1", "four"),
        service("six", namespace="five", cidrVips=["/fd00::/8"]),
    )
    assert key(store.service_at("", "10.2.0.1")) == "one/wide.one"
    assert key(store.service_at("", "10.1.0.2")) == "three/same.three"  # canonical
    assert key(store.service_at("", "10.1.0.2", "two")) == "two/narrow.two"  # own before canonical
    assert key(store.service_at("", "10.1.0.2", "one")) == "one/wide.one"  # own before longest
    assert key(store.service_at("", "10.1.0.1", "one")) == "four/exact.four"  # addresses first
    assert key(store.service_at("other", "10.9.0.1")) == "two/narrow.two"
    assert key(store.service_at("", "fd01::1")) == "five/six.five"
    assert store.service_at("", "11.0.0.1") is None
    store.drop("service", "one/wide.one.svc.cluster.local")
    assert store.service_at("", "10.2.0.1") is None


def test_a_workload_waits_for_its_service() -> None:
    store = mesh(workload("w", "10.1.0.1", services=["s"]))
    store.apply(dict([service("s")]), ())
    found = store.service("ns", "s.ns.svc.cluster.local")
    assert found is not None
    assert uids(store, found) == ["w"]


def test_a_service_that_comes_again_keeps_its_endpoints() -> None:
    store = mesh(service("s"), workload("w", "10.1.0.1", services=["s"]))
    store.apply(dict([service("s", "10.0.0.9")]), ())
    found = store.service_at("", "10.0.0.9")
    assert found is not None
    assert uids(store, found) == ["w"]
    store.drop("service", found.key)
    store.apply(dict([service("s", "10.0.0.8")]), ())
    found = store.service_at("", "10.0.0.8")
    assert found is not None
    assert uids(store, found) == ["w"]
    assert store.service_at("", "10.0.0.9") is None


def test_a_workload_leaves_its_services() -> None:
    store = mesh(service("s"), service("t"), workload("w", "10.1.0.1", services=["s", "t"]))
    store.apply(dict([workload("w", "10.1.0.1", services=["t"])]), ())
    s, t = (store.service("ns", f"{name}.ns.svc.cluster.local") for name in "st")
    assert s is not None
    assert t is not None
    assert (uids(store, s), uids(store, t)) == ([], ["w"])
    store.drop("workload", "w")
    assert uids(store, t) == []


def test_two_workloads_of_one_address() -> None:
    store = mesh(workload("old", "10.1.0.1"))
    store.apply(dict([workload("new", "10.1.0.1")]), ())
    assert store.workload_at("", "10.1.0.1") is store.workload("new")
    store.drop("workload", "old")
    assert store.workload_at("", "10.1.0.1") is store.workload("new")
    store.apply(dict([workload("old", "10.1.0.1")]), ())
    store.drop("workload", "old")
    assert store.workload_at("", "10.1.0.1") is store.workload("new")
    store.apply(dict([workload("new", "10.1.0.2")]), ())
    assert store.workload_at("", "10.1.0.1") is None
    assert store.workload_at("", "10.1.0.2") is store.workload("new")


def test_hosts_addresses_say_nothing() -> None:
    store = mesh(workload("w", "10.1.0.1", networkMode="HostNetwork"))
    assert store.workload_at("", "10.1.0.1") is None
    assert store.workload("w") is not None


def test_defaults() -> None:
    store = Store(trust_domain="td")
    store.apply({"workload/w": {"namespace": "ns"}, "route/r": {}}, ["bind/b"])
    found = store.workload("w")
    assert isinstance(found, Workload)
    assert str(found.identity) == "spiffe://td/ns/ns/sa/default"
    assert (found.protocol, found.capacity, found.hbone_port) == ("TCP", 1, 15008)
    assert found.baggage.encode() == (
        b"k8s.cluster.name=Kubernetes,k8s.namespace.name=ns,k8s.deployment.name=w"
    )


def test_a_workload_describes_itself() -> None:
    made = workload(
        "w",
        "10.1.0.1",
        clusterId="c",
        workloadType="job",
        workloadName="batch",
        canonicalName="app",
        canonicalRevision="v2",
        locality={"region": "eu", "zone": "eu-1"},
        node="n",
        waypoint=gateway("ns/wp.ns.svc.cluster.local"),
        applicationTunnel={"protocol": "PROXY", "port": 15088},
        nativeTunnel=True,
    )
    found = mesh(made).workload("w")
    assert found is not None
    assert found.baggage.encode() == (
        b"k8s.cluster.name=c,k8s.namespace.name=ns,k8s.job.name=batch,service.name=app,"
        b"service.version=v2,cloud.region=eu,cloud.availability_zone=eu-1"
    )
    assert (found.place.node, found.place.cluster) == ("n", "c")
    assert str(found.waypoint) == "ns/wp.ns.svc.cluster.local"
    assert found.application_tunnel is not None
    assert found.application_tunnel.is_proxy_protocol
    assert found.is_native_tunnel


_CHANGES = st.lists(
    st.one_of(
        st.builds(
            lambda name, ip, services: (*workload(name, ip, services=services),),
            st.sampled_from(["w1", "w2", "w3"]),
            st.sampled_from(["10.1.0.1", "10.1.0.2"]),
            st.sets(st.sampled_from(["a", "b"])),
        ),
        st.builds(
            lambda name, vip: (*service(name, vip),),
            st.sampled_from(["a", "b"]),
            st.sampled_from(["10.0.0.1", "10.0.0.2"]),
        ),
        st.sampled_from(["w1", "w2", "w3"]).map(lambda name: (f"workload/{name}", None)),
        st.sampled_from(["a", "b"]).map(
            lambda name: (f"service/ns/{name}.ns.svc.cluster.local", None)
        ),
    ),
    max_size=20,
)


def seen(store: Store) -> dict[str, Any]:
    """All that a caller can find, but for which of several comes first."""
    services = [store.service("ns", f"{name}.ns.svc.cluster.local") for name in "ab"]
    return {
        "members": [None if one is None else uids(store, one) for one in services],
        "vips": {
            vip: sorted(one.key for one in store.services_at("", vip))
            for vip in ("10.0.0.1", "10.0.0.2")
        },
        "ips": {ip: store.workload_at("", ip) is not None for ip in ("10.1.0.1", "10.1.0.2")},
    }


@settings(max_examples=100, deadline=None)
@given(_CHANGES, st.randoms(use_true_random=False))
def test_the_order_of_changes_does_not_matter(changes: list[Any], order: random.Random) -> None:
    store = Store()
    last: dict[str, Any] = {}
    for name, data in changes:
        last[name] = data
        store.apply({} if data is None else {name: data}, [name] if data is None else ())
    left = [(name, data) for name, data in last.items() if data is not None]
    order.shuffle(left)
    assert seen(store) == seen(mesh(*left))
    store.apply({}, [name for name, _ in left])
    assert len(store) == 0
    tables = (store._members, store._by_address, store._by_hostname, store._by_vip, store._by_name)
    assert not any(tables)
