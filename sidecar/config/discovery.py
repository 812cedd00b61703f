"""Static services and workloads.

Source: spec/config.md sections 1.7 and 4.3.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any

from sidecar.config.run import Node, Run, child, items
from sidecar.config.snapshot import Json

_SERVICE_KEYS = {
    "name": "name",
    "namespace": "namespace",
    "hostname": "hostname",
    "vips": "vips",
    "ports": "ports",
    "appProtocols": "app_protocols",
    "subjectAltNames": "subject_alt_names",
}
AGENT_PROTOCOLS = frozenset(("agentgateway.dev/a2a", "kgateway.dev/a2a"))
"""What a service's port says where an A2A agent listens."""
_WORKLOAD_KEYS = {
    "uid": "uid",
    "name": "name",
    "namespace": "namespace",
    "workloadIps": "ips",
    "network": "network",
    "protocol": "protocol",
    "capacity": "capacity",
    "services": "services",
    "locality": "locality",
    "node": "node",
    "clusterId": "cluster_id",
    "hostname": "hostname",
    "status": "status",
    "trustDomain": "trust_domain",
    "serviceAccount": "service_account",
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


def _renamed(node: Node, names: Mapping[str, str], path: str, run: Run) -> Json:
    """The node with the snapshot's keys. The schema leaves it open, so its keys are checked."""
    for key in node:
        if key not in names:
            run.problem(child(path, str(key)), f"unknown field `{key}`")
    return {names[key]: value for key, value in node.items() if key in names and value is not None}


def _require(data: Json, keys: tuple[str, ...], path: str, run: Run) -> bool:
    missing = [key for key in keys if not isinstance(data.get(key), str) or not data[key]]
    for key in missing:
        run.problem(path, f"missing field `{key}`")
    return not missing


def _is_port(value: object) -> bool:
    """Ports are numbers, or text when they were the keys of a JSON object."""
    text = str(value)
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536


def _ports(value: Any, path: str, run: Run) -> Json:
    """Service port (as text: JSON keys are) to target port."""
    if not isinstance(value, dict):
        run.problem(path, "invalid ports: a map of port to target port")
        return {}
    result: Json = {}
    for port, target in value.items():
        if _is_port(port) and _is_port(target):
            result[str(int(port))] = int(target)
        else:
            run.problem(path, f"invalid ports: {port} to {target}")
    return result


def _protocols(value: Any, path: str, run: Run) -> Json:
    """Service port to what is spoken there, of those that change what the gateway does."""
    result: Json = {}
    for port, protocol in value.items():
        where = child(f"{path}.appProtocols", str(port))
        if not _is_port(port):
            run.problem(where, "invalid port")
        elif protocol in AGENT_PROTOCOLS:
            result[str(int(port))] = protocol
        else:
            run.warn(where, f"`{protocol}` is ignored; backends say what they speak")
    return result


def _address(text: Any) -> str | None:
    """An IP address in its canonical form."""
    try:
        return str(ipaddress.ip_address(str(text)))
    except ValueError:
        return None


def _vips(data: Json, path: str, run: Run) -> list[str]:
    """`network/ip` each, as given but with the address in its canonical form."""
    result = []
    value = data.get("vips") or []
    for index, vip in enumerate(value if isinstance(value, list) else [value]):
        network, slash, text = str(vip).partition("/")
        address = _address(text)
        if not slash or address is None:
            run.problem(f"{path}.vips[{index}]", f"invalid vip `{vip}`: network/ip")
        else:
            result.append(f"{network}/{address}")
    return result


def services(data: Node, run: Run) -> None:
    """Every entry of `services`."""
    for path, node in items(data, "services"):
        service = _renamed(node, _SERVICE_KEYS, path, run)
        if not _require(service, ("name", "namespace", "hostname"), path, run):
            continue
        service["vips"] = _vips(service, path, run)
        service["ports"] = _ports(service.get("ports") or {}, f"{path}.ports", run)
        protocols = _protocols(service.pop("app_protocols", None) or {}, path, run)
        if protocols:
            service["app_protocols"] = protocols
        run.make("service", f"{service['namespace']}/{service['hostname']}", service, path)


def _workload_services(workload: Json, path: str, run: Run) -> Json:
    """`namespace/hostname` to service port to target port."""
    value = workload.get("services") or {}
    if not isinstance(value, dict):
        run.problem(f"{path}.services", "invalid services: a map of namespace/hostname to ports")
        return {}
    result: Json = {}
    for name, ports in value.items():
        if not run.known.has("service", str(name)):
            run.warn(f"{path}.services", f"unknown service {name}")
        result[str(name)] = _ports(ports, child(f"{path}.services", str(name)), run)
    return result


def _ips(workload: Json, path: str, run: Run) -> list[str]:
    result = []
    value = workload.get("ips") or []
    for index, text in enumerate(value if isinstance(value, list) else [value]):
        address = _address(text)
        if address is None:
            run.problem(f"{path}.workloadIps[{index}]", f"invalid address `{text}`")
        else:
            result.append(address)
    return result


def _check_workload(workload: Json, path: str, run: Run) -> None:
    capacity = workload["capacity"]
    if not isinstance(capacity, int) or isinstance(capacity, bool) or capacity < 0:
        run.problem(f"{path}.capacity", f"invalid capacity `{capacity}`: 0 or more")
    if workload["protocol"] not in ("TCP", "HBONE"):
        run.problem(f"{path}.protocol", f"invalid protocol `{workload['protocol']}`: TCP or HBONE")
    if workload["status"] not in ("Healthy", "Unhealthy"):
        run.problem(f"{path}.status", f"invalid status `{workload['status']}`")


def workloads(data: Node, run: Run) -> None:
    """Every entry of `workloads`."""
    for path, node in items(data, "workloads"):
        workload = {**_WORKLOAD_DEFAULTS, **_renamed(node, _WORKLOAD_KEYS, path, run)}
        workload.setdefault("uid", workload.get("name"))
        if not _require(workload, ("uid", "namespace"), path, run):
            continue
        uid = str(workload.pop("uid"))
        workload.setdefault("name", uid)
        _check_workload(workload, path, run)
        workload["ips"] = _ips(workload, path, run)
        workload["services"] = _workload_services(workload, path, run)
        run.make("workload", uid, workload, path)
