"""A waypoint that knows nothing but where istiod is: its certificate, binds, routes, services and
workloads come from there, and it serves on when istiod is gone.

Source: spec istio sections 2.4, 2.6, 3.4 to 3.6 and 6 (rows 49 to 51, 66, 69).
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from google.protobuf import json_format

from istio.xds._pb import resource_pb2, workload_pb2
from istio.xds.translate import ADDRESS, RESOURCE
from tests.hbone.pki import Pki, spiffe
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.istiod import Istiod
from tests.support.mesh import Proxies
from tests.support.upstream import Answer, Upstream

PORT = free_ports(1)[0]
HOST = "app.shop.svc.cluster.local"
WAYPOINT = spiffe("gate", namespace="shop")
ENVIRONMENT = {"NAMESPACE": "shop", "GATEWAY": "gate", "SERVICE_ACCOUNT": "gate"}


@dataclass
class Net:
    istiod: Istiod
    proxies: Proxies
    gateway: GatewayProcess
    first: Upstream
    second: Upstream

    def door(self) -> int:
        return self.proxies.door(PORT, f"{HOST}:80", expected=WAYPOINT)

    def wait_body(self, body: bytes) -> None:
        """Until this is who answers."""
        door, until = self.door(), time.monotonic() + 20
        while (got := fetch(door, "/")).body != body:
            assert time.monotonic() < until, (got, self.gateway.log())
            time.sleep(0.02)


def service(port: int) -> bytes:
    one = workload_pb2.Address()
    one.service.name, one.service.namespace, one.service.hostname = "app", "shop", HOST
    one.service.ports.add(service_port=80, target_port=port)
    one.service.waypoint.hostname.namespace = "shop"
    one.service.waypoint.hostname.hostname = "gate.shop.svc.cluster.local"
    return bytes(one.SerializeToString())


def workload(uid: str, port: int, **more: Any) -> bytes:
    one = workload_pb2.Address()
    one.workload.uid = one.workload.name = uid
    one.workload.namespace = "shop"
    one.workload.addresses.append(bytes((127, 0, 0, 1)))
    one.workload.services[f"shop/{HOST}"].ports.add(service_port=80, target_port=port)
    json_format.ParseDict(more, one.workload)
    return bytes(one.SerializeToString())


def resource(**data: Any) -> bytes:
    return bytes(json_format.ParseDict(data, resource_pb2.Resource()).SerializeToString())


def pki_of(istiod: Istiod) -> Pki:
    """The same authority, for the other proxies."""
    pki = Pki()
    pki._key, pki.root = istiod.authority.key, istiod.authority.certificate
    pki.root_pem = pki.root.public_bytes(Encoding.PEM)
    return pki


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with (
        Istiod() as istiod,
        Proxies(pki_of(istiod)) as proxies,
        Upstream(lambda _: Answer(200, [], b"first")) as first,
        Upstream(lambda _: Answer(200, [], b"second")) as second,
    ):
        key = f"{PORT}/shop/gate"
        istiod.put(
            RESOURCE,
            {
                "bind": resource(
                    bind={"key": key, "port": PORT, "tunnelProtocol": "HBONE_WAYPOINT"}
                ),
                "listener": resource(
                    listener={
                        "key": "waypoint",
                        "bindKey": key,
                        "name": {
                            "gatewayName": "gate",
                            "gatewayNamespace": "shop",
                            "listenerName": "mesh",
                        },
                        "protocol": "HBONE",
                    }
                ),
            },
        )
        istiod.put(ADDRESS, {f"shop/{HOST}": service(first.port), "w": workload("w", first.port)})
        environment = {
            **ENVIRONMENT,
            "XDS_ADDRESS": istiod.address,
            "CA_ADDRESS": istiod.address,
        }
        with GatewayProcess({}, env=environment) as gateway:
            yield Net(istiod, proxies, gateway, first, second)


def test_it_serves_what_istiod_says(net: Net) -> None:
    assert net.istiod.requested
    net.wait_body(b"first")


def test_the_dump_tells_of_both(net: Net) -> None:
    mesh = net.gateway.dump()["mesh"]
    assert mesh["certificate"]["spiffeId"] == WAYPOINT
    assert mesh["xds"]["address"] == net.istiod.address
    assert f"service/shop/{HOST}" in net.gateway.dump()["resources"]
    net.gateway.wait_metric("agentgateway_xds_connected", 1)
    net.gateway.wait_metric_above("agentgateway_certificate_expiry_timestamp_seconds", 0)


def test_an_endpoint_that_moves(net: Net) -> None:
    net.istiod.put(ADDRESS, {"w": workload("w", net.second.port)})
    net.wait_body(b"second")
    net.istiod.put(ADDRESS, {"w": workload("w", net.first.port)})
    net.wait_body(b"first")


def test_routes_of_the_service_come_first(net: Net) -> None:
    route = {
        "key": "routed",
        "name": {"name": "routed", "namespace": "shop"},
        "serviceKey": {"namespace": "shop", "hostname": HOST},
        "matches": [{"path": {"pathPrefix": "/only"}}],
        "trafficPolicies": [
            {"directResponse": {"status": 200, "body": "cm91dGVk"}},
        ],
    }
    net.istiod.put(RESOURCE, {"routed": resource(route=route)})
    door, until = net.door(), time.monotonic() + 20
    while fetch(door, "/only/this").body != b"routed":
        assert time.monotonic() < until, net.gateway.log()
        time.sleep(0.02)
    # What meets none of them is not the service's any more.
    assert fetch(door, "/").status == 404
    net.istiod.remove(RESOURCE, "routed")
    net.wait_body(b"first")


def test_a_control_that_dies_takes_nothing_with_it(net: Net) -> None:
    door = net.door()
    pid = net.gateway.control_pid()
    streams = net.istiod.streams
    os.kill(pid, signal.SIGKILL)
    assert fetch(door, "/").body == b"first"
    net.istiod.wait_streams(streams + 1)
    net.gateway.wait_ready()
    net.wait_body(b"first")


def test_what_is_gone_when_istiod_comes_back_is_gone(net: Net) -> None:
    streams = net.istiod.streams
    net.istiod.stop()
    assert fetch(net.door(), "/").body == b"first"
    net.istiod._resources[ADDRESS].pop("w")
    net.istiod.put(ADDRESS, {"v": workload("v", net.second.port)})
    net.istiod.start()
    net.istiod.wait_streams(streams + 1)
    net.wait_body(b"second")


def test_not_ready_before_the_certificate_and_the_mesh_are_there() -> None:
    with Istiod() as istiod:
        istiod.is_silent = True
        environment = {
            **ENVIRONMENT,
            "XDS_ADDRESS": istiod.address,
            "CA_ADDRESS": istiod.address,
        }
        gateway = GatewayProcess({}, env=environment)
        gateway.wait_ready, really = (lambda: None), gateway.wait_ready  # type: ignore[method-assign]
        with gateway:
            istiod.wait_streams(1)
            until = time.monotonic() + 20
            while not _waits_for(gateway, "xds"):
                assert time.monotonic() < until, gateway.log()
                time.sleep(0.02)
            assert not gateway.is_ready()
            istiod.is_silent = False
            istiod.end_streams()
            really()


def _waits_for(gateway: GatewayProcess, what: str) -> bool:
    try:
        return what in gateway._get(gateway.readiness_port, "/healthz/ready")[1].decode()
    except OSError:
        return False
