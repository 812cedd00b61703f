"""Services and workloads: every field of the file, and what the snapshot makes of it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.discovery import service_of, workload_of
from sidecar.config.model.discovery import Service, Workload
from sidecar.errors import ConfigError

Json = dict[str, Any]

SERVICE: Json = {
    "name": "s",
    "namespace": "ns",
    "hostname": "s.ns",
    "vips": ["/10.0.0.1", "net/FD00::1"],
    "cidrVips": ["net/10.1.2.3/16"],
    "ports": {"80": 8080, "81": 0},
    "appProtocols": {"80": "HTTP2", "81": "agentgateway.dev/a2a"},
    "subjectAltNames": ["spiffe://td/ns/n/sa/s"],
    "waypoint": {"destination": "ns/WP.ns"},
    "weightedWaypoints": [
        {"destination": {"destination": "/10.0.0.9", "hboneMtlsPort": 16008}, "weight": 5}
    ],
    "loadBalancer": {"routingPreferences": ["Region", "Zone"], "mode": "Failover"},
    "ipFamilies": "Dual",
    "canonical": True,
    "ingressUseWaypoint": True,
    "visibility": "Namespace",
}
WORKLOAD: Json = {
    "uid": "u",
    "name": "w",
    "namespace": "ns",
    "workloadIps": ["10.0.0.1", "FD00::1"],
    "hostname": "w.example",
    "network": "net",
    "networkGateway": {"destination": "far/1.2.3.4", "hboneMtlsPort": 15009},
    "networkMode": "HostNetwork",
    "protocol": "TCP",
    "hboneMtlsPort": 16008,
    "nativeTunnel": True,
    "applicationTunnel": {"protocol": "PROXY", "port": 15088},
    "trustDomain": "td",
    "serviceAccount": "sa",
    "waypoint": {"destination": "ns/wp.ns", "hboneMtlsPort": 15008},
    "capacity": 0,
    "locality": {"region": "r", "zone": "z", "subzone": "s"},
    "node": "n",
    "clusterId": "c",
    "status": "Unhealthy",
    "authorizationPolicies": ["ns/p"],
    "labels": {"app": "w"},
    "canonicalName": "app",
    "canonicalRevision": "v1",
    "workloadType": "job",
    "workloadName": "batch",
    "services": {"ns/s.ns": {"80": 8080}},
}


def test_every_field_of_a_service() -> None:
    assert set(SERVICE) == {field.alias for field in Service.model_fields.values()}
    Service.model_validate(SERVICE)
    assert service_of(SERVICE) == (
        "ns/s.ns",
        {
            "name": "s",
            "namespace": "ns",
            "hostname": "s.ns",
            "vips": ["/10.0.0.1", "net/fd00::1"],
            "cidr_vips": ["net/10.1.0.0/16"],
            "ports": {"80": 8080, "81": 0},
            "app_protocols": {"80": "HTTP2", "81": "agentgateway.dev/a2a"},
            "subject_alt_names": ["spiffe://td/ns/n/sa/s"],
            "waypoint": {"destination": "ns/wp.ns", "hbone_port": 15008},
            "weighted_waypoints": [
                {"gateway": {"destination": "/10.0.0.9", "hbone_port": 16008}, "weight": 5}
            ],
            "load_balancer": {
                "scopes": ["Region", "Zone"],
                "mode": "Failover",
                "health": "OnlyHealthy",
            },
            "ip_families": "Dual",
            "canonical": True,
            "ingress_use_waypoint": True,
            "visibility": "Namespace",
        },
    )


def test_every_field_of_a_workload() -> None:
    assert set(WORKLOAD) == {field.alias for field in Workload.model_fields.values()}
    Workload.model_validate(WORKLOAD)
    assert workload_of({**WORKLOAD, "protocol": "HBONE"}) == (
        "u",
        {
            "name": "w",
            "namespace": "ns",
            "ips": ["10.0.0.1", "fd00::1"],
            "hostname": "w.example",
            "network": "net",
            "network_gateway": {"destination": "far/1.2.3.4", "hbone_port": 15009},
            "network_mode": "HostNetwork",
            "protocol": "HBONE",
            "hbone_port": 16008,
            "native_tunnel": True,
            "application_tunnel": {"protocol": "PROXY", "port": 15088},
            "trust_domain": "td",
            "service_account": "sa",
            "waypoint": {"destination": "ns/wp.ns", "hbone_port": 15008},
            "capacity": 0,
            "locality": {"region": "r", "zone": "z", "subzone": "s"},
            "node": "n",
            "cluster_id": "c",
            "status": "Unhealthy",
            "authorization_policies": ["ns/p"],
            "labels": {"app": "w"},
            "canonical_name": "app",
            "canonical_revision": "v1",
            "workload_type": "job",
            "workload_name": "batch",
            "services": {"ns/s.ns": {"80": 8080}},
        },
    )


def test_defaults_are_left_out() -> None:
    defaults = {
        "visibility": "Public",
        "canonical": False,
        "subjectAltNames": [],
        "waypoint": None,
    }
    least = {"name": "s", "namespace": "ns", "hostname": "s.ns"}
    _, data = service_of({**least, **defaults})
    assert data == {**least, "vips": [], "ports": {}}
    more = {"networkMode": "Standard", "serviceAccount": "", "nativeTunnel": False}
    _, data = workload_of({"uid": "u", "namespace": "ns", **more})
    assert data == workload_of({"uid": "u", "namespace": "ns"})[1]
    assert "network_mode" not in data


SERVICES: dict[str, tuple[Json, str]] = {
    "a gateway without a port": ({"waypoint": {"destination": "ns"}}, "waypoint.destination"),
    "a gateway with more": (
        {"waypoint": {"destination": "ns/x", "port": 1}},
        "waypoint: invalid gateway: destination and hboneMtlsPort",
    ),
    "a gateway's port": ({"waypoint": {"destination": "ns/x", "hboneMtlsPort": 70000}}, "port"),
    "a weight": (
        {"weightedWaypoints": [{"destination": {"destination": "ns/x"}, "weight": -1}]},
        "weightedWaypoints[0]",
    ),
    "a weighted destination": (
        {"weightedWaypoints": [{"destination": "ns/x", "weight": 1}]},
        "weightedWaypoints[0].destination",
    ),
    "a mode": ({"loadBalancer": {"mode": "Random"}}, "loadBalancer.mode: invalid mode `Random`"),
    "a scope": ({"loadBalancer": {"routingPreferences": ["Rack"]}}, "routingPreferences"),
    "a network": ({"cidrVips": ["/10.0.0.1"]}, "cidrVips[0]: invalid vip `/10.0.0.1`"),
    "families": ({"ipFamilies": "IPv5"}, "ipFamilies: invalid ipFamilies `IPv5`"),
    "a visibility": ({"visibility": "Secret"}, "visibility"),
    "names": ({"subjectAltNames": "x"}, "subjectAltNames: invalid value: a list of texts"),
    "an unknown field": ({"vip": []}, "vip: unknown field `vip`"),
}
WORKLOADS: dict[str, tuple[Json, str]] = {
    "a protocol": ({"protocol": "UDP"}, "protocol: invalid protocol `UDP`"),
    "an application tunnel": (
        {"applicationTunnel": {"protocol": "SOCKS"}},
        "applicationTunnel: invalid applicationTunnel",
    ),
    "a tunnel's port": ({"applicationTunnel": {"port": 70000}}, "applicationTunnel"),
    "a gateway": ({"networkGateway": {}}, "networkGateway.destination"),
    "a port": ({"hboneMtlsPort": 0}, "hboneMtlsPort: invalid port"),
    "a port of a service": ({"services": {"ns/s": {"80": 0}}}, "invalid ports: 80 to 0"),
    "policies": ({"authorizationPolicies": "p"}, "authorizationPolicies"),
    "a mode": ({"networkMode": "Host"}, "networkMode"),
    "labels": ({"labels": {"a": 1}}, "labels: invalid labels: a map of texts"),
}


@pytest.mark.parametrize("name", SERVICES)
def test_services_that_are_refused(name: str) -> None:
    more, expected = SERVICES[name]
    with pytest.raises(ConfigError) as caught:
        service_of({"name": "s", "namespace": "ns", "hostname": "s.ns", **more})
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", WORKLOADS)
def test_workloads_that_are_refused(name: str) -> None:
    more, expected = WORKLOADS[name]
    with pytest.raises(ConfigError) as caught:
        workload_of({"uid": "u", "namespace": "ns", **more})
    assert expected in str(caught.value)
