"""Services and workloads for tests, in the form of the snapshot and as short as can be."""

from __future__ import annotations

from typing import Any

from istio.workload import Store
from sidecar.config.discovery import service_of, workload_of

Data = dict[str, Any]


def service(name: str, vip: str = "", namespace: str = "ns", **more: Any) -> tuple[str, Data]:
    """A snapshot key and its data; `more` as in a file."""
    node = {
        "name": name,
        "namespace": namespace,
        "hostname": f"{name}.{namespace}.svc.cluster.local",
        "vips": [vip if "/" in vip else f"/{vip}"] if vip else [],
        "ports": {"80": 8080},
        **more,
    }
    key, data = service_of(node)
    return f"service/{key}", data


def workload(name: str, ip: str = "", namespace: str = "ns", **more: Any) -> tuple[str, Data]:
    """A snapshot key and its data; `services`: short names of services in the name space."""
    services = more.pop("services", ())
    if not isinstance(services, dict):
        services = {f"{namespace}/{one}.{namespace}.svc.cluster.local": {} for one in services}
    node = {
        "uid": name,
        "name": name,
        "namespace": namespace,
        "workloadIps": [ip] if ip else [],
        "protocol": "HBONE",
        "serviceAccount": name,
        "services": services,
        **more,
    }
    key, data = workload_of(node)
    return f"workload/{key}", data


def mesh(*resources: tuple[str, Data], network: str = "") -> Store:
    """A store of these."""
    store = Store(network)
    store.apply(dict(resources), ())
    return store


def gateway(destination: str, port: int = 15008) -> Data:
    return {"destination": destination, "hboneMtlsPort": port}


def fixed(value: float = 0.0) -> Any:
    """A source of randomness that is none."""
    return lambda: value
