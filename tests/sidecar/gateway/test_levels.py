"""Which policies hold where, from least to most specific (spec/config.md section 3.3)."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.gateway.levels import Levels, on_backends, on_route
from sidecar.policies.merge import merge

LISTENER: dict[str, Any] = {
    "name": "web",
    "gateway_name": "default",
    "gateway_namespace": "default",
    "policies": {},
}
ROUTE: dict[str, Any] = {"namespace": "default", "name": "r", "rule_name": "", "policies": {}}


def at(target: dict[str, Any], kind: str, payload: Any, phase: str = "route") -> dict[str, Any]:
    return {"target": target, "phase": phase, "kind": kind, "policy": payload}


def gateway(**more: Any) -> dict[str, Any]:
    return {"gateway": {"gatewayName": "default", "gatewayNamespace": "default", **more}}


def route(name: str = "r", **more: Any) -> dict[str, Any]:
    return {"route": {"name": name, "namespace": "default", **more}}


def test_split_of_a_routes_policies() -> None:
    payloads = {"cors": 1, "backendTLS": 2, "backendAuth": 3}
    assert on_route(payloads) == {"cors": 1}
    assert on_backends(payloads) == {"backendTLS": 2, "backendAuth": 3}


def test_nothing_anywhere() -> None:
    levels = Levels([])
    assert levels.route_phase(LISTENER, 80, ROUTE) == []
    assert levels.gateway_phase(LISTENER, 80) == []
    backend = {"name": "b", "target": {}, "policies": {}}
    assert levels.backend_phase(LISTENER, 80, ROUTE, backend, {}) == []


def test_order_of_the_route_phase() -> None:
    """gateway, port, listener, route, rule, inline; the last replaces what came before."""
    policies = [
        at(route(ruleName="one"), "cors", "rule"),
        at(route(), "cors", "route"),
        at(gateway(listenerName="web"), "cors", "listener"),
        at(gateway(port=80), "cors", "port"),
        at(gateway(), "cors", "gateway"),
        at(route("other"), "cors", "other"),
        at(gateway(port=81), "cors", "other port"),
        at(gateway(listenerName="x"), "cors", "other listener"),
        at(gateway(), "cors", "other phase", phase="gateway"),
    ]
    levels = Levels(policies)
    inline = {**ROUTE, "rule_name": "one", "policies": {"cors": "inline"}}
    found = [level["cors"] for level in levels.route_phase(LISTENER, 80, inline)]
    assert found == ["gateway", "port", "listener", "route", "rule", "inline"]
    assert [one["cors"] for one in levels.route_phase(LISTENER, 80, ROUTE)][-1] == "route"
    assert merge(levels.route_phase(LISTENER, 80, inline)) == {"cors": "inline"}


def test_gateway_phase_ends_with_the_listeners_own() -> None:
    levels = Levels([at(gateway(), "cors", "gateway", phase="gateway")])
    own = {**LISTENER, "policies": {"cors": "own"}}
    assert [level["cors"] for level in levels.gateway_phase(own, 80)] == ["gateway", "own"]


def test_order_of_the_backend_phase() -> None:
    """gateway, service, route, the backend's own, the route's inline, the reference's."""
    service = {"backend": {"service": {"namespace": "ns", "hostname": "h"}}}
    at_port = {"backend": {"service": {"namespace": "ns", "hostname": "h", "port": 80}}}
    levels = Levels(
        [
            at(route(), "backendTLS", "route"),
            at(service, "backendTLS", "service"),
            at(at_port, "backendTLS", "service port"),
            at(gateway(), "backendTLS", "gateway"),
        ]
    )
    backend = {
        "name": "b",
        "target": {"service": {"name": "ns/h", "port": 80}},
        "policies": {"backendTLS": "reference"},
    }
    inline = {**ROUTE, "policies": {"backendTLS": "inline", "cors": "not here"}}
    found = levels.backend_phase(LISTENER, 80, inline, backend, {"backendTLS": "own"})
    assert [level["backendTLS"] for level in found] == [
        "gateway",
        "service",
        "service port",
        "route",
        "own",
        "inline",
        "reference",
    ]
    assert all("cors" not in level for level in found)


def test_backend_policies_do_not_act_on_the_route() -> None:
    levels = Levels([at(gateway(), "backendTLS", {}), at(route(), "cors", "c")])
    assert merge(levels.route_phase(LISTENER, 80, ROUTE)) == {"cors": "c"}


def test_a_backend_is_targeted_by_the_name_of_either_form() -> None:
    target = {"backend": {"backend": {"name": "shared", "namespace": ""}}}
    levels = Levels([at(target, "requestHeaderModifier", {"set": {"a": "b"}})])
    by_reference = {"name": "/r/backend0", "target": {"ref": "shared"}, "policies": {}}
    other = {"name": "/r/backend0", "target": {"ref": "another"}, "policies": {}}
    assert len(levels.backend_phase(LISTENER, 80, ROUTE, by_reference, {})) == 1
    assert levels.backend_phase(LISTENER, 80, ROUTE, other, {}) == []


def test_a_policy_for_routes_of_one_kind() -> None:
    of_tcp = {"route": {**route()["route"], "kind": "TCPRoute"}}
    of_http = {"route": {**route()["route"], "kind": "HTTPRoute"}}
    levels = Levels([at(of_tcp, "cors", "tcp"), at(of_http, "cors", "http")])
    assert [one["cors"] for one in levels.route_phase(LISTENER, 80, ROUTE)] == ["http"]
    other = {**ROUTE, "tcp": True}
    assert [one["cors"] for one in levels.route_phase(LISTENER, 80, other)] == ["tcp"]
    assert levels.route_phase(LISTENER, 80, {**ROUTE, "kind": "GRPCRoute"}) == []


@pytest.mark.parametrize("kind", ["authorization", "mcpAuthorization"])
@pytest.mark.parametrize(
    "target",
    [
        gateway(),
        gateway(port=80),
        gateway(listenerName="web"),
        route(),
        {"backend": {"backend": {"name": "b", "namespace": ""}}},
        {"backend": {"service": {"namespace": "ns", "hostname": "h"}}},
    ],
    ids=["gateway", "port", "listener", "route", "backend", "service"],
)
def test_rules_of_several_policies_for_one_target_hold_together(
    target: dict[str, Any], kind: str
) -> None:
    one, other = {"rules": [{"deny": "a"}]}, {"rules": [{"deny": "b"}]}
    levels = Levels([at(target, kind, one), at(target, kind, other)])
    is_service = "service" in target.get("backend", {})
    named: dict[str, Any] = {"service": {"name": "ns/h", "port": 80}} if is_service else {}
    backend = {"name": "b", "target": named, "policies": {}}
    found = levels.route_phase(LISTENER, 80, ROUTE)
    found += levels.backend_phase(LISTENER, 80, ROUTE, backend, {})
    assert merge(found)[kind] == {"rules": [*one["rules"], *other["rules"]]}
    assert one == {"rules": [{"deny": "a"}]}


def test_rules_of_several_policies_before_routing_hold_together() -> None:
    one, other = {"rules": [{"deny": "a"}]}, {"rules": [{"deny": "b"}]}
    given = [at(gateway(), "authorization", rules, phase="gateway") for rules in (one, other)]
    assert merge(Levels(given).gateway_phase(LISTENER, 80)) == {
        "authorization": {"rules": [*one["rules"], *other["rules"]]}
    }
