"""Workloads, services and authorization of the control plane as plain data."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import pytest
from google.protobuf.any_pb2 import Any as AnyMessage

from istio.errors import ResourceError
from istio.xds import translate
from istio.xds._pb import authorization_pb2 as security
from istio.xds._pb import workload_pb2 as wds
from sidecar.config.model.discovery import Service, Workload


def octets(text: str) -> bytes:
    return ip_address(text).packed


def workload(**fields: Any) -> Any:
    one = wds.Workload(**{"uid": "Kubernetes//Pod/ns/pod", "namespace": "ns", **fields})
    data = translate.address(wds.Address(workload=one).SerializeToString())
    return data["workload"]


def service(**fields: Any) -> Any:
    one = wds.Service(**{"name": "s", "namespace": "ns", "hostname": "s.ns.svc", **fields})
    return translate.address(wds.Address(service=one).SerializeToString())["service"]


def waypoint(port: int = 0) -> wds.GatewayAddress:
    name = wds.NamespacedHostname(namespace="ns", hostname="w.ns.svc")
    return wds.GatewayAddress(hostname=name, hbone_mtls_port=port)


def test_a_workload_with_nothing_said_has_the_control_planes_defaults() -> None:
    assert workload() == {
        "uid": "Kubernetes//Pod/ns/pod",
        "name": "Kubernetes//Pod/ns/pod",
        "namespace": "ns",
        "workloadIps": [],
        "network": "",
        "protocol": "TCP",
        "trustDomain": "cluster.local",
        "serviceAccount": "default",
        "clusterId": "Kubernetes",
        "status": "Healthy",
        "capacity": 1,
        "services": {},
        "workloadType": "deployment",
    }


FULL = {
    "name": "pod",
    "addresses": [octets("10.0.0.1"), octets("2001:db8::1")],
    "hostname": "pod.ns",
    "network": "net1",
    "tunnel_protocol": wds.HBONE,
    "trust_domain": "td",
    "service_account": "sa",
    "waypoint": waypoint(),
    "network_gateway": wds.GatewayAddress(
        address=wds.NetworkAddress(network="net1", address=octets("9.9.9.9")),
        hbone_mtls_port=15443,
    ),
    "node": "node1",
    "canonical_name": "app",
    "canonical_revision": "v1",
    "workload_type": wds.POD,
    "workload_name": "pod",
    "native_tunnel": True,
    "application_tunnel": wds.ApplicationTunnel(protocol=wds.ApplicationTunnel.PROXY, port=15088),
    "services": {
        "ns/s.ns.svc": wds.PortList(
            ports=[
                wds.Port(service_port=80, target_port=8080),
                wds.Port(service_port=81),
            ]
        )
    },
    "authorization_policies": ["ns/p"],
    "status": wds.UNHEALTHY,
    "cluster_id": "c1",
    "locality": wds.Locality(region="r", zone="z"),
    "network_mode": wds.HOST_NETWORK,
    "capacity": {"value": 0},
}


def test_everything_a_workload_can_say() -> None:
    assert workload(**FULL) == {
        "uid": "Kubernetes//Pod/ns/pod",
        "name": "pod",
        "namespace": "ns",
        "workloadIps": ["10.0.0.1", "2001:db8::1"],
        "hostname": "pod.ns",
        "network": "net1",
        "protocol": "HBONE",
        "trustDomain": "td",
        "serviceAccount": "sa",
        "waypoint": {"destination": "ns/w.ns.svc", "hboneMtlsPort": 15008},
        "networkGateway": {"destination": "net1/9.9.9.9", "hboneMtlsPort": 15443},
        "node": "node1",
        "canonicalName": "app",
        "canonicalRevision": "v1",
        "workloadType": "pod",
        "workloadName": "pod",
        "nativeTunnel": True,
        "applicationTunnel": {"protocol": "PROXY", "port": 15088},
        "services": {"ns/s.ns.svc": {"80": 8080, "81": 0}},
        "authorizationPolicies": ["ns/p"],
        "status": "Unhealthy",
        "clusterId": "c1",
        "locality": {"region": "r", "zone": "z", "subzone": ""},
        "networkMode": "HostNetwork",
        "capacity": 0,
    }


def test_everything_a_service_can_say() -> None:
    made = service(
        addresses=[
            wds.NetworkAddress(network="n", address=octets("10.1.0.1")),
            wds.NetworkAddress(network="n", address=octets("10.1.0.2"), length=32),
            wds.NetworkAddress(network="", address=octets("10.2.3.4"), length=16),
        ],
        ports=[
            wds.Port(service_port=80, target_port=8080, app_protocol=wds.HTTP2),
            wds.Port(service_port=443, target_port=0),
        ],
        subject_alt_names=["spiffe://td/ns/a/sa/b"],
        waypoint=waypoint(1),
        weighted_waypoints=[wds.WeightedWaypoint(destination=waypoint(), weight=3)],
        load_balancing=wds.LoadBalancing(
            routing_preference=[wds.LoadBalancing.UNSPECIFIED_SCOPE, wds.LoadBalancing.NODE],
            mode=wds.LoadBalancing.STRICT,
            health_policy=wds.LoadBalancing.ALLOW_ALL,
        ),
        ip_families=wds.DUAL,
        canonical=True,
        ingress_use_waypoint=True,
        visibility=wds.Service.NAMESPACE,
    )
    assert made == {
        "name": "s",
        "namespace": "ns",
        "hostname": "s.ns.svc",
        "vips": ["n/10.1.0.1", "n/10.1.0.2"],
        "cidrVips": ["/10.2.0.0/16"],
        "ports": {"80": 8080, "443": 0},
        "appProtocols": {"80": "HTTP2"},
        "subjectAltNames": ["spiffe://td/ns/a/sa/b"],
        "waypoint": {"destination": "ns/w.ns.svc", "hboneMtlsPort": 1},
        "weightedWaypoints": [
            {"destination": {"destination": "ns/w.ns.svc", "hboneMtlsPort": 15008}, "weight": 3}
        ],
        "loadBalancer": {
            "routingPreferences": ["Node"],
            "mode": "Strict",
            "healthPolicy": "AllowAll",
        },
        "ipFamilies": "Dual",
        "canonical": True,
        "ingressUseWaypoint": True,
        "visibility": "Namespace",
    }
    Service.model_validate(made)


def test_what_is_made_fits_the_files_model() -> None:
    Service.model_validate(service())
    Workload.model_validate(workload())
    # The same but for what a file may not say yet.
    Workload.model_validate(workload(**FULL) | {"protocol": "TCP"})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"uid": ""}, "uid is missing"),
        ({"namespace": ""}, "namespace is missing"),
        ({"addresses": [b"abc"]}, "addresses[0]: an address has 4 or 16 octets, not 3"),
        ({"addresses": [octets("::1"), b""]}, "addresses[1]: an address has 4 or 16 octets, not 0"),
        ({"tunnel_protocol": 7}, "tunnel_protocol: 7 is not known here"),
        ({"status": 9}, "status: 9 is not known here"),
        ({"services": {"s": wds.PortList()}}, "services: `s` is not namespace/hostname"),
        (
            {"services": {"a/b": wds.PortList(ports=[wds.Port(service_port=70000)])}},
            "services[a/b]: 70000 is no port",
        ),
        ({"waypoint": wds.GatewayAddress()}, "waypoint: it has no destination"),
        ({"waypoint": waypoint(65536)}, "waypoint.hbone_mtls_port: 65536 is no port"),
        (
            {"network_gateway": wds.GatewayAddress(address=wds.NetworkAddress(address=b"1"))},
            "network_gateway.address: an address has 4 or 16 octets, not 1",
        ),
    ],
)
def test_bad_workloads(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ResourceError) as caught:
        workload(**fields)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"hostname": ""}, "hostname is missing"),
        ({"ports": [wds.Port(target_port=1)]}, "ports: 0 is no port"),
        (
            {"addresses": [wds.NetworkAddress(address=octets("1.2.3.4"), length=33)]},
            "addresses[0]: 33 bits are more than the address has",
        ),
        ({"ip_families": 4}, "ip_families: 4 is not known here"),
        (
            {"weighted_waypoints": [wds.WeightedWaypoint(weight=1)]},
            "weighted_waypoints[0]: it has no destination",
        ),
    ],
)
def test_bad_services(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ResourceError) as caught:
        service(**fields)
    assert str(caught.value) == reason


@pytest.mark.parametrize("payload", [b"", b"\xff\xff", b"\x0a\x50x"])
def test_bad_addresses(payload: bytes) -> None:
    with pytest.raises(ResourceError):
        translate.address(payload)


def policy(**fields: Any) -> Any:
    one = security.Authorization(**{"name": "p", "namespace": "ns", **fields})
    return translate.authorization(one.SerializeToString())


def rules(**match: Any) -> list[security.Rule]:
    clause = security.Clause(matches=[security.Match(**match)])
    return [security.Rule(clauses=[clause])]


def test_an_authorization() -> None:
    text = security.StringMatch
    made = policy(
        scope=security.WORKLOAD_SELECTOR,
        action=security.DENY,
        dry_run=True,
        rules=rules(
            namespaces=[text(exact="a")],
            not_namespaces=[text(prefix="b")],
            principals=[text(suffix="c")],
            not_principals=[text(presence={})],
            source_ips=[security.Address(address=octets("10.1.2.3"), length=8)],
            not_source_ips=[security.Address(address=octets("::1"), length=128)],
            destination_ips=[security.Address(address=octets("1.1.1.1"), length=0)],
            not_destination_ips=[security.Address(address=octets("1.1.1.1"), length=32)],
            destination_ports=[80],
            not_destination_ports=[443],
            service_accounts=[security.ServiceAccountMatch(namespace="n", serviceAccount="s")],
            not_service_accounts=[security.ServiceAccountMatch(namespace="n", serviceAccount="t")],
        ),
    )
    assert made == {
        "name": "p",
        "namespace": "ns",
        "scope": "WORKLOAD_SELECTOR",
        "action": "DENY",
        "dryRun": True,
        "rules": [
            [
                [
                    {
                        "namespaces": [{"exact": "a"}],
                        "notNamespaces": [{"prefix": "b"}],
                        "principals": [{"suffix": "c"}],
                        "notPrincipals": [{"presence": {}}],
                        "sourceIps": ["10.0.0.0/8"],
                        "notSourceIps": ["::1/128"],
                        "destinationIps": ["0.0.0.0/0"],
                        "notDestinationIps": ["1.1.1.1/32"],
                        "destinationPorts": [80],
                        "notDestinationPorts": [443],
                        "serviceAccounts": [{"namespace": "n", "serviceAccount": "s"}],
                        "notServiceAccounts": [{"namespace": "n", "serviceAccount": "t"}],
                    }
                ]
            ]
        ],
    }


def test_empty_rules_clauses_and_matches_are_kept_apart() -> None:
    """They mean different things (spec istio 4.3)."""
    assert policy()["rules"] == []
    assert policy(rules=[security.Rule()])["rules"] == [[]]
    assert policy(rules=[security.Rule(clauses=[security.Clause()])])["rules"] == [[[]]]
    assert policy(rules=rules())["rules"] == [[[{}]]]
    assert policy(scope=security.GLOBAL, namespace="")["scope"] == "GLOBAL"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"name": ""}, "name is missing"),
        ({"namespace": "", "scope": security.NAMESPACE}, "namespace is missing"),
        ({"action": 2}, "action: 2 is not known here"),
        ({"scope": 3}, "scope: 3 is not known here"),
        (
            {"rules": rules(namespaces=[security.StringMatch()])},
            "namespaces: a match that says nothing",
        ),
        (
            {"rules": rules(source_ips=[security.Address(address=b"123", length=8)])},
            "source_ips: an address has 4 or 16 octets, not 3",
        ),
        (
            {"rules": rules(source_ips=[security.Address(address=b"1234", length=40)])},
            "source_ips: 40 bits are more than the address has",
        ),
        ({"rules": rules(destination_ports=[65536])}, "destination_ports: 65536 is no port"),
        (
            {"rules": rules(extensions=[wds.Extension(name="x", config=AnyMessage())])},
            "extension x of a match is not known here",
        ),
    ],
)
def test_bad_authorizations(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ResourceError) as caught:
        policy(**fields)
    assert str(caught.value) == reason


def test_a_condition_of_a_later_version_is_refused() -> None:
    """Not knowing it, an allowing policy would allow more than was meant."""
    later = b"\xa2\x06\x01x"  # field 100 of the match
    match = bytes([0x12, len(later)]) + later  # clause.matches
    clause = bytes([0x0A, len(match)]) + match  # rule.clauses
    rule = bytes([0x2A, len(clause)]) + clause
    with pytest.raises(ResourceError) as caught:
        translate.authorization(b"\x0a\x01p\x12\x02ns" + rule)
    assert str(caught.value) == "rules.clauses.matches: field 100 is not known here"


def test_a_policy_that_cannot_be_honoured_denies() -> None:
    bad = security.Authorization(
        name="p",
        namespace="ns",
        scope=security.NAMESPACE,
        rules=rules(source_ips=[security.Address(address=b"123", length=8)]),
    )
    made = translate.authorization_or_denial(bad.SerializeToString())
    assert made == {
        "name": "p",
        "namespace": "ns",
        "scope": "NAMESPACE",
        "action": "DENY",
        "dryRun": False,
        "rules": [[]],
        "fault": "source_ips: an address has 4 or 16 octets, not 3",
    }
    bad.dry_run = True
    assert translate.authorization_or_denial(bad.SerializeToString())["dryRun"] is True
    good = security.Authorization(name="p", namespace="ns").SerializeToString()
    assert translate.authorization_or_denial(good) == translate.authorization(good)
    for payload in (b"\xff", b"", b"\x0a\x01p\x18\x09"):
        with pytest.raises(ResourceError):
            translate.authorization_or_denial(payload)
