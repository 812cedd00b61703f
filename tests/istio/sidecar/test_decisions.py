"""The pod's decisions over a mesh that is known, as captured connections get them."""

from __future__ import annotations

from typing import Any

import pytest

from hbone.wire.authority import make_authority, parse_authority
from hbone.wire.identity import parse_identity
from istio.authz import Policies
from istio.sidecar.decisions import Decisions
from istio.sidecar.ways import UNKNOWN, Arrival, Entry, Refused, Transport, Way
from istio.workload import Place, Store
from tests.hbone.pki import spiffe

OWN, CART, OLD, FAR = "10.0.0.1", "10.0.0.7", "10.0.0.9", "10.9.0.1"
VIP = "10.50.0.1"


def workload(name: str, ip: str, **more: Any) -> dict[str, Any]:
    base = {"name": name, "namespace": "default", "ips": [ip], "service_account": name}
    return {**base, "protocol": "HBONE", "trust_domain": "cluster.local", **more}


def store() -> Store:
    made = Store("", "cluster.local")
    cart = {"default/cart.test": {"80": 8080}}
    made.apply(
        {
            "workload/own": workload("own", OWN, services={"default/own.test": {"80": 8080}}),
            "workload/cart": workload("cart", CART, services=cart),
            "workload/plain": workload("plain", "10.0.0.8", protocol="TCP"),
            "workload/old": workload("old", OLD, protocol="LEGACY_ISTIO_MTLS"),
            "workload/gateway": workload("gateway", "10.0.0.20"),
            "workload/far": workload(
                "far",
                FAR,
                network="far",
                network_gateway={"destination": "/10.0.0.20", "hbone_port": 15008},
                services={"default/far.test": {"80": 8080}},
            ),
            "service/default/cart.test": {
                "name": "cart",
                "namespace": "default",
                "hostname": "cart.test",
                "vips": [f"/{VIP}"],
                "ports": {"80": 8080},
            },
            "service/default/own.test": {
                "name": "own",
                "namespace": "default",
                "hostname": "own.test",
                "vips": ["/10.50.0.2"],
                "ports": {"80": 8080},
            },
            "service/default/far.test": {
                "name": "far",
                "namespace": "default",
                "hostname": "far.test",
                "vips": ["/10.50.0.3"],
                "ports": {"80": 8080},
                "subject_alt_names": [spiffe("far")],
            },
            "service/default/empty.test": {
                "name": "empty",
                "namespace": "default",
                "hostname": "empty.test",
                "vips": ["/10.50.0.4"],
                "ports": {"80": 8080},
            },
        },
        (),
    )
    return made


def decisions(*denying: str) -> Decisions:
    policies = Policies()
    if denying:
        principals = [{"exact": name.removeprefix("spiffe://")} for name in denying]
        data = {
            "name": "deny",
            "namespace": "default",
            "scope": "Namespace",
            "action": "Deny",
            "dryRun": False,
            "rules": [[[{"principals": principals}]]],
        }
        policies.apply({"authorization/default/deny": data}, ())
    return Decisions(store(), policies, Place(), "default", lambda: 0.5)


@pytest.mark.parametrize(
    ("host", "port", "transport", "dialled", "authority", "expected", "service"),
    [
        (CART, 9000, Transport.HBONE, (CART, 15008), f"{CART}:9000", {spiffe("cart")}, ""),
        (
            *(VIP, 80, Transport.HBONE, (CART, 15008)),
            *(f"{CART}:8080", {spiffe("cart")}, "default/cart.test"),
        ),
        (
            *("cart.test", 80, Transport.HBONE, (CART, 15008)),
            *(f"{CART}:8080", {spiffe("cart")}, "default/cart.test"),
        ),
        ("10.0.0.8", 80, Transport.PLAIN, ("10.0.0.8", 80), "", set(), ""),
        ("192.0.2.1", 443, Transport.PLAIN, ("192.0.2.1", 443), "", set(), ""),
        ("example.com", 443, Transport.PLAIN, ("example.com", 443), "", set(), ""),
        (
            *("10.50.0.3", 80, Transport.DOUBLE_HBONE, ("10.0.0.20", 15008)),
            *("far.test:80", {spiffe("gateway")}, "default/far.test"),
        ),
    ],
)
def test_ways_out(
    host: str,
    port: int,
    transport: Transport,
    dialled: tuple[str, int],
    authority: str,
    expected: set[str],
    service: str,
) -> None:
    way = decisions().outbound(host, port, OWN)
    assert isinstance(way, Way)
    assert (way.transport, (way.host, way.port), way.service) == (transport, dialled, service)
    if way.outer is None:
        assert not authority
        return
    assert str(way.outer.authority) == authority
    assert way.outer.expected == expected
    names = [name for name, _ in way.outer.headers]
    assert {b"baggage", b"forwarded", b"traceparent"} <= set(names)
    assert (b"x-istio-source", b"sidecar") in way.outer.headers
    if transport is Transport.DOUBLE_HBONE:
        assert way.inner is not None
        assert way.inner.expected == {spiffe("far")}


@pytest.mark.parametrize(
    ("host", "port", "flag"),
    [
        ("10.50.0.4", 80, "CONNECT"),  # nobody behind it
        (VIP, 81, "CONNECT"),  # no such port
        (CART, 15008, "CONNECT"),  # the proxy's own
        (OLD, 80, "LEGACY_MTLS"),
        ("a b", 80, "BAD_AUTHORITY"),
        ("010.0.0.1", 80, "BAD_AUTHORITY"),
    ],
)
def test_no_way_is_no_plaintext(host: str, port: int, flag: str) -> None:
    found = decisions().outbound(host, port, OWN)
    assert isinstance(found, Refused)
    assert found.flag == flag


def arrival(authority: str = "", who: str = "", port: int = 8080, local: str = OWN) -> Arrival:
    return Arrival(
        parse_authority(authority.encode()) if authority else None,
        parse_identity(who) if who else None,
        (local, 15008 if authority else port),
        (CART, 4711),
    )


@pytest.mark.parametrize(
    ("came", "target"),
    [
        (arrival(f"{OWN}:9000", spiffe("cart")), (OWN, 9000)),
        (arrival("own.test:80", spiffe("cart")), (OWN, 8080)),
        (arrival(), (OWN, 8080)),
    ],
)
def test_ways_in(came: Arrival, target: tuple[str, int]) -> None:
    entry = decisions().inbound(came)
    assert isinstance(entry, Entry)
    assert (entry.host, entry.port) == entry.destination == target
    assert entry.preface == b""
    assert [name for name, _ in entry.headers] == [b"baggage"]


@pytest.mark.parametrize(
    ("came", "status"),
    [
        (arrival(f"{CART}:80", spiffe("cart")), 400),  # somebody else's address
        (arrival("nobody.test:80", spiffe("cart")), 503),
        (arrival("own.test:81", spiffe("cart")), 503),  # no such port
        (arrival(f"{OWN}:15001", spiffe("cart")), 503),
        (arrival(port=15006), 503),
        (arrival("10.0.0.99:80", spiffe("cart"), local="10.0.0.99"), 503),  # not known yet
        (arrival(local="10.0.0.99"), 503),
    ],
)
def test_what_is_not_let_in(came: Arrival, status: int) -> None:
    found = decisions().inbound(came)
    assert isinstance(found, Refused)
    assert found.status == status
    assert decisions().allows(came)  # nor is it ended for being unknown


def test_what_concerns_the_pod_itself() -> None:
    made = store()
    judge = Decisions(made, Policies(), Place(), "default")
    assert isinstance(judge.inbound(arrival()), Entry)
    assert not judge.has_moved()
    made.apply({"workload/cart": workload("cart", CART, status="Unhealthy")}, ())
    assert not judge.has_moved()  # somebody else
    made.apply({"workload/own": workload("own", OWN, authorization_policies=["a/b"])}, ())
    assert isinstance(judge.inbound(arrival()), Entry)
    assert judge.has_moved()
    assert not judge.has_moved()
    made.apply({}, ["workload/own"])
    assert judge.has_moved()
    made.apply({"workload/own": workload("own", OWN)}, ())
    assert judge.has_moved()


def test_before_the_mesh_is_known_nothing_goes_out() -> None:
    made = Store()
    judge = Decisions(made, Policies(), Place(), "default", is_told=True)
    found = judge.outbound(CART, 8080, OWN)
    assert isinstance(found, Refused)
    assert (found.status, found.flag) == (503, UNKNOWN)
    assert not judge.has_moved()
    made.apply({"workload/cart": workload("cart", CART)}, ())
    assert judge.has_moved()
    assert not judge.has_moved()
    assert isinstance(judge.outbound(CART, 8080, OWN), Way)
    alone = Decisions(Store(), Policies(), Place(), "default")
    assert isinstance(alone.outbound(CART, 8080, OWN), Way), "there is no control plane"


def test_policies_by_identity() -> None:
    judge = decisions(spiffe("cart"))
    denied = arrival(f"{OWN}:9000", spiffe("cart"))
    found = judge.inbound(denied)
    assert isinstance(found, Refused)
    assert (found.status, found.flag) == (401, "DENY")
    assert not judge.allows(denied)
    assert judge.allows(arrival(f"{OWN}:9000", spiffe("other")))
    assert judge.allows(arrival())


def test_an_application_tunnel_hears_who_called() -> None:
    made = store()
    data = workload("own", OWN, application_tunnel={"protocol": "PROXY", "port": 15088})
    made.apply({"workload/own": data}, ())
    judge = Decisions(made, Policies(), Place(), "default")
    entry = judge.inbound(arrival(f"{VIP}:80", spiffe("cart")))
    assert isinstance(entry, Entry)
    assert (entry.host, entry.port) == ("127.0.0.1", 15088)
    assert entry.preface.startswith(b"\r\n\r\n\0\r\nQUIT\n")
    assert spiffe("cart").encode() in entry.preface


def test_an_unknown_pod_calls_as_nobody() -> None:
    way = decisions().outbound(VIP, 80, "10.0.0.99")
    assert isinstance(way, Way)
    assert way.outer is not None
    assert way.outer.authority == make_authority(CART, 8080)
    assert b"baggage" not in dict(way.outer.headers)
