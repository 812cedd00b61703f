"""A gateway that a controller configures: ports, routes and policies come by discovery, and what
cannot be honoured is refused by name while the rest is served.

Source: spec istio sections 3.4 and 3.8.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict

from istio.xds._pb import resource_pb2
from istio.xds.translate import RESOURCE
from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.istiod import Istiod
from tests.support.upstream import Answer, Upstream

PORT = free_ports(1)[0]
BIND = f"{PORT}/ns/gw"
GATEWAY = {"gatewayName": "gw", "gatewayNamespace": "ns", "listenerName": "http"}


def resource(**data: Any) -> bytes:
    return bytes(ParseDict(data, resource_pb2.Resource()).SerializeToString())


def route(key: str, path: str, **more: Any) -> bytes:
    data = {
        "key": key,
        "listenerKey": "gw/http",
        "name": {"name": key, "namespace": "ns", "kind": "HTTPRoute"},
        "matches": [{"path": {"pathPrefix": path}}],
        "backends": [{"backend": {"backend": "ns/app"}, "weight": 1}],
    }
    return resource(route={**data, **more})


@pytest.fixture(scope="module")
def istiod() -> Iterator[Istiod]:
    with Istiod() as one:
        yield one


@pytest.fixture(scope="module")
def gateway(istiod: Istiod) -> Iterator[GatewayProcess]:
    with Upstream(lambda request: Answer(200, [], f"app {request.target}".encode())) as app:
        static = {"host": "127.0.0.1", "port": app.port}
        istiod.put(
            RESOURCE,
            {
                "bind": resource(bind={"key": BIND, "port": PORT}),
                "listener": resource(
                    listener={
                        "key": "gw/http",
                        "bindKey": BIND,
                        "name": GATEWAY,
                        "protocol": "HTTP",
                    }
                ),
                "app": resource(backend={"key": "ns/app", "static": static}),
                "good": route("good", "/good"),
                "bad": route(
                    "bad", "/bad", trafficPolicies=[{"authorization": {"allow": ["request.("]}}]
                ),
            },
        )
        environment = {"NAMESPACE": "ns", "GATEWAY": "gw", "XDS_ADDRESS": istiod.address}
        with GatewayProcess({}, env=environment) as one:
            yield one


def wait_status(path: str, status: int) -> None:
    until = time.monotonic() + 20
    while (got := fetch(PORT, path).status) != status:
        assert time.monotonic() < until, got
        time.sleep(0.02)


def test_what_is_good_is_served_and_what_is_bad_is_named(
    gateway: GatewayProcess, istiod: Istiod
) -> None:
    wait_status("/good/x", 200)
    assert fetch(PORT, "/good/x").body == b"app /good/x"
    assert fetch(PORT, "/bad").status == 404
    (nack,) = istiod.wait(lambda one: one.is_nack)
    text = nack.request.error_detail.message
    assert text.startswith("bad: policies.authorization")
    assert "good" not in text
    state = gateway.dump()["mesh"]["xds"]["types"][RESOURCE]
    assert (state["held"], state["refused"].keys()) == (4, {"bad"})


def test_a_policy_comes_and_goes(gateway: GatewayProcess, istiod: Istiod) -> None:
    wait_status("/good", 200)
    target = {"gateway": {"name": "gw", "namespace": "ns"}}
    deny = {"authorization": {"deny": ["request.path == '/good/secret'"]}}
    policy = {"key": "ns/deny", "target": target, "traffic": deny}
    istiod.put(RESOURCE, {"deny": resource(policy=policy)})
    wait_status("/good/secret", 403)
    assert fetch(PORT, "/good/other").status == 200
    istiod.remove(RESOURCE, "deny")
    wait_status("/good/secret", 200)


def test_a_repaired_route_is_served(gateway: GatewayProcess, istiod: Istiod) -> None:
    wait_status("/good", 200)
    istiod.put(RESOURCE, {"bad": route("bad", "/bad")})
    wait_status("/bad", 200)
