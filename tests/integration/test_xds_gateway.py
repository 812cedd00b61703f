"""A gateway that a controller configures: ports, routes and policies come by discovery, and what
cannot be honoured is refused by name while the rest is served.

Source: spec istio sections 3.4 and 3.8.
"""

from __future__ import annotations

import json
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
from tests.support.upstream import Answer, Seen, Upstream

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


def answered(request: Seen) -> Answer:
    if not request.target.startswith("/v1/"):
        return Answer(200, [], f"app {request.target}".encode())
    model = json.loads(request.body)["model"]
    told = {"role": "assistant", "content": f"I am {model}"}
    choices = [{"index": 0, "message": told, "finish_reason": "stop"}]
    made = {"id": "1", "object": "chat.completion", "created": 1, "model": model}
    body = json.dumps({**made, "choices": choices}).encode()
    return Answer(200, [("content-type", "application/json")], body)


@pytest.fixture(scope="module")
def istiod() -> Iterator[Istiod]:
    with Istiod() as one:
        yield one


@pytest.fixture(scope="module")
def gateway(istiod: Istiod) -> Iterator[GatewayProcess]:
    with Upstream(answered) as app:
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
        istiod.put(RESOURCE, _models(app.port))
        environment = {"NAMESPACE": "ns", "GATEWAY": "gw", "XDS_ADDRESS": istiod.address}
        with GatewayProcess({}, env=environment) as one:
            yield one


def _models(port: int) -> dict[str, bytes]:
    """A route to a router of models, one of which nobody may ask for by its name."""

    def backend(key: str, model: str) -> bytes:
        host = {"host": "127.0.0.1", "port": port}
        one = {"name": key, "openai": {"model": model}, "hostOverride": host}
        return resource(backend={"key": key, "ai": {"providerGroups": [{"providers": [one]}]}})

    def model(key: str, **more: Any) -> bytes:
        return resource(modelRoute={"key": key, "match": {"model": key}, "routerKey": "r", **more})

    to_router = {"backend": {"backend": "ns/router"}, "weight": 1}
    router = {"key": "ns/router", "modelRouter": {"routerKey": "r"}}
    large = {"backend": {"backend": "ns/large"}, "modelVisibility": "INTERNAL"}
    cases = [{"model": "large", "when": "request.headers['x-size'] == 'l'"}, {"model": "small"}]
    return {
        "models": route("models", "/v1", backends=[to_router]),
        "router": resource(backend=router),
        "ns/small": backend("ns/small", "small-1"),
        "ns/large": backend("ns/large", "large-1"),
        "small": model("small", concreteModel={"backend": {"backend": "ns/small"}}),
        "large": model("large", concreteModel=large),
        "any": model("any", virtualModel={"conditional": {"targets": cases}}),
    }


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
    assert (state["held"], state["refused"].keys()) == (11, {"bad"})


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


def test_a_policy_of_what_a_backend_speaks(gateway: GatewayProcess, istiod: Istiod) -> None:
    wait_status("/good", 200)
    target = {"backend": {"name": "app", "namespace": "ns"}}
    policy = {"key": "ns/h2", "target": target, "backend": {"backendHttp": {"version": "HTTP2"}}}
    istiod.put(RESOURCE, {"h2": resource(policy=policy)})
    until = time.monotonic() + 20
    while (got := fetch(PORT, "/good").status) < 500:  # for it does not speak that
        assert time.monotonic() < until, got
        time.sleep(0.02)
    istiod.remove(RESOURCE, "h2")
    wait_status("/good", 200)


@pytest.mark.parametrize(
    ("model", "size", "expected"),
    [
        ("small", "", "I am small-1"),
        ("any", "", "I am small-1"),
        ("any", "l", "I am large-1"),
        ("large", "", 404),
        ("unknown", "", 404),
    ],
)
def test_models_of_a_controller(
    gateway: GatewayProcess, model: str, size: str, expected: object
) -> None:
    wait_status("/good", 200)
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "who?"}]})
    fields = {"content-type": "application/json", "x-size": size}
    answer = fetch(PORT, "/v1/chat/completions", "POST", headers=fields, body=body.encode())
    if answer.status == 200:
        assert json.loads(answer.body)["choices"][0]["message"]["content"] == expected
    else:
        assert answer.status == expected, answer.text


def test_models_are_listed(gateway: GatewayProcess) -> None:
    wait_status("/good", 200)
    listed = json.loads(fetch(PORT, "/v1/models").body)["data"]
    assert {one["id"] for one in listed} == {"small", "any"}
