"""Policies of a controller by target, of requests, backends and whole listeners."""

from __future__ import annotations

import pytest

from istio.xds.resources import Translator
from sidecar.gateway.check import resource_check
from sidecar.gateway.levels import Levels
from tests.istio.xds.words import (
    CSRF,
    ROUTE,
    Json,
    applied,
    made,
    of_file,
    policy,
    route_of_file,
)

TARGETS: list[tuple[Json, Json]] = [
    (
        {"gateway": {"name": "gw", "namespace": "ns", "listener": "l"}},
        {"gateway": {"gatewayName": "gw", "gatewayNamespace": "ns", "listenerName": "l"}},
    ),
    (
        {"gateway": {"name": "gw", "namespace": "ns", "port": 80}},
        {"gateway": {"gatewayName": "gw", "gatewayNamespace": "ns", "port": 80}},
    ),
    (
        {"route": {"name": "r", "namespace": "ns", "routeRule": "x", "kind": "HTTPRoute"}},
        {"route": {"name": "r", "namespace": "ns", "ruleName": "x", "kind": "HTTPRoute"}},
    ),
    (
        {"service": {"namespace": "ns", "hostname": "s.ns", "port": 80}},
        {"backend": {"service": {"namespace": "ns", "hostname": "s.ns", "port": 80}}},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), TARGETS)
def test_targeted_policies(ours: Json, theirs: Json) -> None:
    document = {
        "policies": [
            {"name": {"name": "p", "namespace": "ns"}, "target": theirs, "policy": CSRF},
        ]
    }
    assert made(policy(target=ours, traffic=CSRF)) == of_file(document)["policy/ns/p"]


def test_a_policy_before_the_route() -> None:
    data = made(policy(traffic={"phase": "GATEWAY", "cors": {"allowOrigins": ["https://a"]}}))
    assert (data["phase"], data["kind"]) == ("gateway", "cors")


def test_a_policy_of_a_backend() -> None:
    tunnel: Json = {"requestHeaderModifier": {"remove": ["x"]}}
    data = made(policy(target={"backend": {"name": "b", "namespace": "ns"}}, backend=tunnel))
    assert data == {
        "target": {"backend": {"backend": {"name": "ns/b", "namespace": "ns"}}},
        "phase": "route",
        "kind": "requestHeaderModifier",
        "policy": {"remove": ["x"]},
    }


PICKER: Json = {"service": {"namespace": "ns", "hostname": "epp.ns"}, "port": 9002}
OF_BACKENDS: dict[str, tuple[Json, Json]] = {
    "inferenceRouting": (
        {"inferenceRouting": {"endpointPicker": PICKER, "failureMode": "FAIL_OPEN"}},
        {"endpointPicker": {"service": {"name": "ns/epp.ns", "port": 9002}}}
        | {"failureMode": "failOpen"},
    ),
    "health": (
        {
            "health": {
                "unhealthyCondition": "response.code >= 500",
                "eviction": {"duration": "5s", "consecutiveFailures": 2},
            }
        },
        {
            "unhealthyExpression": "response.code >= 500",
            "eviction": {"duration": "5s", "consecutiveFailures": 2},
        },
    ),
    "http": (
        {"backendHttp": {"version": "HTTP2", "requestTimeout": "3s"}},
        {"version": "HTTP/2.0", "requestTimeout": "3s"},
    ),
    "tcp": (
        {"backendTcp": {"connectTimeout": "3s"}},
        {"keepalives": {}, "connectTimeout": "3s"},
    ),
}
SERVICE: Json = {"service": {"namespace": "ns", "hostname": "s.ns", "port": 80}}


@pytest.mark.parametrize("kind", OF_BACKENDS)
def test_what_files_say_in_a_backend_alone(kind: str) -> None:
    ours, theirs = OF_BACKENDS[kind]
    reference = {"service": {"name": "ns/s.ns", "port": 80}, "policies": {kind: theirs}}
    (backend,) = route_of_file({"backends": [reference]})["backends"]
    data = made(policy(target=SERVICE, backend=ours))
    assert data == {
        "target": {"backend": SERVICE},
        "phase": "route",
        "kind": kind,
        "policy": backend["policies"][kind],
    }
    target = {**backend, "policies": {}}
    (level,) = Levels([data]).backend_phase(None, 80, made({"route": ROUTE}), target, {})
    assert level == backend["policies"]


@pytest.mark.parametrize(
    ("target", "spec", "reason"),
    [
        (
            {"gateway": {"name": "gw", "namespace": "ns"}},
            OF_BACKENDS["inferenceRouting"][0],
            "only supported on services",
        ),
        (
            {"backend": {"name": "b", "namespace": "ns"}},
            OF_BACKENDS["inferenceRouting"][0],
            "only supported on services",
        ),
        (SERVICE, {"backendTcp": {"connectTimeout": "-1s"}}, "cannot be negative"),
        (SERVICE, {"health": {"unhealthyCondition": "response.("}}, "policy.health"),
        (SERVICE, {"health": {"eviction": {"healthThreshold": 7}}}, "policy.health"),
    ],
)
def test_what_no_backend_could_do(target: Json, spec: Json, reason: str) -> None:
    result = applied(policy(target=target, backend=spec), to=Translator(resource_check({})))
    (text,) = result.refused.values()
    assert reason in text


def test_alternatives_of_a_policy() -> None:
    entries = [
        {"condition": "request.path == '/a'", "traffic": {"directResponse": {"status": 201}}},
        {"traffic": {"directResponse": {"status": 202}}},
    ]
    data = made(policy(conditional={"policies": entries}))
    assert data["kind"] == "directResponse"
    assert data["policy"]["conditional"] == [
        {"status": 201, "condition": "request.path == '/a'"},
        {"status": 202},
    ]


FRONTEND: dict[str, tuple[Json, Json]] = {
    "http": (
        {"http": {"maxBufferSize": 100, "http1IdleTimeout": "5s", "http1HeaderCase": "PRESERVE"}},
        {"http": {"maxBufferSize": 100, "http1IdleTimeout": "5s", "http1HeaderCase": "preserve"}},
    ),
    "tls": (
        {
            "tls": {
                "handshakeTimeout": "3s",
                "minVersion": "TLS_V1_3",
                "alpn": {"protocols": ["h2"]},
            }
        },
        {"tls": {"handshakeTimeout": "3s", "minVersion": "TLS_V1_3", "alpn": [[104, 50]]}},
    ),
    "network rules": (
        {"networkAuthorization": {"deny": ["source.address == '1.1.1.1'"]}},
        {"networkAuthorization": {"rules": [{"deny": "source.address == '1.1.1.1'"}]}},
    ),
    "log": (
        {"logging": {"filter": "true", "fields": {"add": [{"name": "a", "expression": "'1'"}]}}},
        {"accessLog": {"filter": "true", "add": {"a": "'1'"}}},
    ),
    "tracing": (
        {
            "tracing": {
                "providerBackend": {"backend": "ns/b"},
                "attributes": [{"name": "a", "value": "'1'"}],
                "randomSampling": "true",
            }
        },
        {
            "tracing": {
                "backend": "ns/b",
                "attributes": {"a": "'1'"},
                "randomSampling": "true",
                "protocol": "http",
            }
        },
    ),
    "proxy": (
        {"proxyProtocol": {"version": "ALL", "mode": "OPTIONAL"}},
        {"proxyProtocol": {"version": "all", "mode": "optional"}},
    ),
}


@pytest.mark.parametrize("name", FRONTEND)
def test_frontend_policies(name: str) -> None:
    ours, theirs = FRONTEND[name]
    document = {"frontendPolicies": theirs, "backends": [{"name": "ns/b", "host": "1.1.1.1:1"}]}
    (kind,) = theirs
    result = applied(policy(frontend=ours))
    assert result.refused == {}
    assert {key: one.data for key, one in result.changed.items()} == {
        f"frontend/{kind}": of_file(document)[f"frontend/{kind}"]
    }
