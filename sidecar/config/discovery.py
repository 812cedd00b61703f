"""Services and workloads as the snapshot has them, of a file or of a control plane.

Source: spec/config.md sections 1.7 and 4.3; spec/istio.md section 3.8.

What the snapshot leaves out is the default: a record is small, since there may be thousands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

from sidecar.config.discovery_values import (
    HBONE_PORT,
    Notes,
    canonical_address,
    check_texts,
    entries,
    place_of,
    port_number,
    read_balancer,
    read_cidr_vips,
    read_gateway,
    read_ports,
    read_protocols,
    read_tunnel,
    read_vips,
    read_weighted,
    renamed,
    require,
)
from sidecar.config.run import Node, Run, child, items
from sidecar.config.snapshot import Json
from sidecar.errors import ConfigError

_SERVICE_KEYS = {
    "name": "name",
    "namespace": "namespace",
    "hostname": "hostname",
    "vips": "vips",
    "cidrVips": "cidr_vips",
    "ports": "ports",
    "appProtocols": "app_protocols",
    "subjectAltNames": "subject_alt_names",
    "waypoint": "waypoint",
    "weightedWaypoints": "weighted_waypoints",
    "loadBalancer": "load_balancer",
    "ipFamilies": "ip_families",
    "canonical": "canonical",
    "ingressUseWaypoint": "ingress_use_waypoint",
    "visibility": "visibility",
}
_WORKLOAD_KEYS = {
    "uid": "uid",
    "name": "name",
    "namespace": "namespace",
    "workloadIps": "ips",
    "network": "network",
    "networkGateway": "network_gateway",
    "networkMode": "network_mode",
    "protocol": "protocol",
    "hboneMtlsPort": "hbone_port",
    "nativeTunnel": "native_tunnel",
    "applicationTunnel": "application_tunnel",
    "capacity": "capacity",
    "services": "services",
    "locality": "locality",
    "node": "node",
    "clusterId": "cluster_id",
    "hostname": "hostname",
    "status": "status",
    "trustDomain": "trust_domain",
    "serviceAccount": "service_account",
    "waypoint": "waypoint",
    "authorizationPolicies": "authorization_policies",
    "labels": "labels",
    "canonicalName": "canonical_name",
    "canonicalRevision": "canonical_revision",
    "workloadType": "workload_type",
    "workloadName": "workload_name",
}
_WORKLOAD_DEFAULTS: Json = {
    "network": "",
    "protocol": "TCP",
    "capacity": 1,
    "locality": None,
    "node": "",
    "cluster_id": "",
    "hostname": "",
    "status": "Healthy",
}
_CHOICES: Mapping[str, tuple[str, ...]] = {
    "protocol": ("HBONE", "TCP", "LEGACY_ISTIO_MTLS"),
    "status": ("Healthy", "Unhealthy"),
    "network_mode": ("Standard", "HostNetwork"),
    "workload_type": ("deployment", "cronjob", "pod", "job"),
    "ip_families": ("IPv4", "IPv6", "Dual"),
    "visibility": ("Public", "Namespace"),
}
"""Key of the snapshot to what it may be."""
_SPELLING = {name: key for key, name in {**_SERVICE_KEYS, **_WORKLOAD_KEYS}.items()}
_UNSET: tuple[object, ...] = (None, "", [], {}, False)


@final
class _First:
    """Raises the first problem, for a resource that comes alone."""

    def problem(self, path: str, message: str) -> None:
        raise ConfigError(path, message)

    def warn(self, path: str, message: str) -> None:
        """Nobody reads warnings of a control plane's resources."""


def service_of(node: Node) -> tuple[str, Json]:
    """`(name, data)` of the snapshot's `service` resource. Raises: ConfigError."""
    data = _service(node, "", _First())
    assert data is not None
    return f"{data['namespace']}/{data['hostname']}", data


def workload_of(node: Node) -> tuple[str, Json]:
    """`(uid, data)` of the snapshot's `workload` resource. Raises: ConfigError."""
    made = _workload(node, "", _First())
    assert made is not None
    return made


def services(data: Node, run: Run) -> None:
    """Every entry of `services`."""
    for path, node in items(data, "services"):
        service = _service(node, path, run)
        if service is not None:
            run.make("service", f"{service['namespace']}/{service['hostname']}", service, path)


def workloads(data: Node, run: Run) -> None:
    """Every entry of `workloads`."""
    for path, node in items(data, "workloads"):
        made = _workload(node, path, run)
        if made is None:
            continue
        uid, workload = made
        services = workload["services"]
        assert isinstance(services, dict)
        for name in services:
            if not run.known.has("service", name):
                run.warn(f"{path}.services", f"unknown service {name}")
        run.make("workload", uid, workload, path)


def _check_choices(data: Json, path: str, notes: Notes) -> None:
    for key, choices in _CHOICES.items():
        value = data.get(key)
        if value is not None and value not in choices:
            name = _SPELLING[key]
            expected = f"{', '.join(choices[:-1])} or {choices[-1]}"
            notes.problem(place_of(path, name), f"invalid {name} `{value}`: {expected}")


def _without_unset(data: dict[str, Any], kept: Mapping[str, object]) -> Json:
    # `1 == True` and `0 == False`: numbers are kept by their type.
    return {
        key: value
        for key, value in data.items()
        if key in kept or type(value) is int or value not in _UNSET
    }


_SERVICE_KEPT: Json = {"name": "", "namespace": "", "hostname": "", "vips": [], "ports": {}}
_WORKLOAD_KEPT: Json = {**_WORKLOAD_DEFAULTS, "name": "", "namespace": "", "ips": 0, "services": 0}


def _service(node: Node, path: str, notes: Notes) -> Json | None:
    service = renamed(node, _SERVICE_KEYS, path, notes)
    if not require(service, ("name", "namespace", "hostname"), path, notes):
        return None
    service["vips"] = read_vips(service.get("vips"), path, notes)
    ports = service.get("ports") or {}
    service["ports"] = read_ports(ports, place_of(path, "ports"), notes, is_service=True)
    if "cidr_vips" in service:
        service["cidr_vips"] = read_cidr_vips(service["cidr_vips"], path, notes)
    if "app_protocols" in service:
        service["app_protocols"] = read_protocols(service["app_protocols"], path, notes)
    if "waypoint" in service:
        service["waypoint"] = read_gateway(service["waypoint"], place_of(path, "waypoint"), notes)
    if "weighted_waypoints" in service:
        service["weighted_waypoints"] = read_weighted(service["weighted_waypoints"], path, notes)
    if "load_balancer" in service:
        where = place_of(path, "loadBalancer")
        service["load_balancer"] = read_balancer(service["load_balancer"], where, notes)
    check_texts(service.get("subject_alt_names"), place_of(path, "subjectAltNames"), notes)
    _check_choices(service, path, notes)
    if service.get("visibility") == "Public":
        del service["visibility"]
    return _without_unset(service, _SERVICE_KEPT)


def _workload_services(value: Any, path: str, notes: Notes) -> Json:
    """`namespace/hostname` to service port to target port."""
    where = place_of(path, "services")
    if not isinstance(value, dict):
        notes.problem(where, "invalid services: a map of namespace/hostname to ports")
        return {}
    return {
        str(name): read_ports(ports, child(where, str(name)), notes)
        for name, ports in value.items()
    }


def _ips(value: Any, path: str, notes: Notes) -> list[str]:
    result = []
    for index, text in enumerate(entries(value)):
        address = canonical_address(text)
        if address is None:
            notes.problem(place_of(path, f"workloadIps[{index}]"), f"invalid address `{text}`")
        else:
            result.append(address)
    return result


def _workload(node: Node, path: str, notes: Notes) -> tuple[str, Json] | None:
    workload: dict[str, Any] = {
        **_WORKLOAD_DEFAULTS,
        **renamed(node, _WORKLOAD_KEYS, path, notes),
    }
    workload.setdefault("uid", workload.get("name"))
    if not require(workload, ("uid", "namespace"), path, notes):
        return None
    uid = str(workload.pop("uid"))
    workload.setdefault("name", uid)
    capacity = workload["capacity"]
    if type(capacity) is not int or capacity < 0:
        notes.problem(place_of(path, "capacity"), f"invalid capacity `{capacity}`: 0 or more")
    for key in ("waypoint", "network_gateway"):
        if key in workload:
            workload[key] = read_gateway(workload[key], place_of(path, _SPELLING[key]), notes)
    if "application_tunnel" in workload:
        where = place_of(path, "applicationTunnel")
        workload["application_tunnel"] = read_tunnel(workload["application_tunnel"], where, notes)
    if port_number(workload.get("hbone_port", HBONE_PORT)) <= 0:
        notes.problem(place_of(path, "hboneMtlsPort"), "invalid port")
    policies = workload.get("authorization_policies")
    check_texts(policies, place_of(path, "authorizationPolicies"), notes)
    labels = workload.get("labels") or {}
    if not isinstance(labels, dict) or not all(type(one) is str for one in labels.values()):
        notes.problem(place_of(path, "labels"), "invalid labels: a map of texts")
    _check_choices(workload, path, notes)
    if workload.get("network_mode") == "Standard":
        del workload["network_mode"]
    workload["ips"] = _ips(workload.get("ips"), path, notes)
    workload["services"] = _workload_services(workload.get("services") or {}, path, notes)
    return uid, _without_unset(workload, _WORKLOAD_KEPT)
