"""Routes of a controller mean what the same words in a file mean."""

from __future__ import annotations

from sidecar.gateway.levels import Levels
from tests.istio.xds.words import CSRF, ROUTE, Json, made, policy, same_route


def test_a_route() -> None:
    same_route(
        {
            "hostnames": ["A.example", "*.b"],
            "matches": [
                {
                    "path": {"pathPrefix": "/api/"},
                    "method": {"exact": "GET"},
                    "headers": [{"name": "X-A", "exact": "1"}, {"name": "x-b", "regex": "b.*"}],
                    "queryParams": [{"name": "q", "exact": "2"}],
                },
                {"path": {"exact": "/x"}},
                {"path": {"regex": "/y.*"}},
                {},
            ],
            "backends": [
                {"backend": {"backend": "ns/b"}, "weight": 3},
                {
                    "backend": {"service": {"namespace": "ns", "hostname": "s.ns"}, "port": 80},
                    "weight": 0,
                },
                {"backend": {"inline": {"hostname": "h.example", "port": 8080}}, "weight": 1},
                {"weight": 1},
            ],
        },
        {
            "hostnames": ["a.example", "*.b"],
            "matches": [
                {
                    "path": {"pathPrefix": "/api/"},
                    "method": "GET",
                    "headers": [
                        {"name": "X-A", "value": {"exact": "1"}},
                        {"name": "x-b", "value": {"regex": "b.*"}},
                    ],
                    "query": [{"name": "q", "value": {"exact": "2"}}],
                },
                {"path": {"exact": "/x"}},
                {"path": {"regex": "/y.*"}},
                {},
            ],
            "backends": [
                {"backend": "ns/b", "weight": 3},
                {"service": {"name": "ns/s.ns", "port": 80}, "weight": 0},
                {"host": "h.example:8080"},
                {"invalid": True},
            ],
        },
    )


def test_routes_of_services_and_groups() -> None:
    key = {"namespace": "ns", "hostname": "s.ns"}
    of_service = {**ROUTE, "listenerKey": "", "serviceKey": key, "servicePort": 80}
    data = made({"route": of_service})
    assert data["service"] == {"name": "ns/s.ns", "port": 80}
    assert data["listener"] is None
    assert made({"route": {**ROUTE, "listenerKey": "", "routeGroupKey": "g"}})["group"] == "g"
    to_group = made({"route": {**ROUTE, "backends": [{"routeGroupKey": "g", "weight": 1}]}})
    assert to_group["backends"][0]["target"] == {"group": "g"}


def test_the_kind_of_a_route() -> None:
    """Policies may be for one of two routes that differ in nothing else."""
    named = {"name": "r", "namespace": "ns", "kind": "GRPCRoute"}
    data = made({"route": {**ROUTE, "name": named}})
    assert data["kind"] == "GRPCRoute"
    assert "kind" not in made({"route": ROUTE})
    target = {"route": {"name": "r", "namespace": "ns", "kind": "GRPCRoute"}}
    policy_data = made(policy(target=target, traffic=CSRF))
    levels = Levels([policy_data])
    listener_data = {"gateway_name": "gw", "gateway_namespace": "ns", "name": "l"}
    assert levels.route_phase(listener_data, 80, data) == [policy_data_of(policy_data)]
    assert levels.route_phase(listener_data, 80, made({"route": ROUTE})) == []


def policy_data_of(policy_data: Json) -> Json:
    return {policy_data["kind"]: policy_data["policy"]}


def test_a_tcp_route() -> None:
    backend = {"backend": {"backend": "ns/b"}, "weight": 1}
    data = made({"tcpRoute": {**ROUTE, "hostnames": ["a.example"], "backends": [backend]}})
    assert data["tcp"] is True
    assert data["hostnames"] == ["a.example"]
    assert data["backends"][0]["target"] == {"ref": "ns/b"}
