"""Where the Workload API is, and which resources need it."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.normalise import Normaliser
from sidecar.config.snapshot import Resource
from sidecar.config.static import static_config
from sidecar.config.svid import VARIABLE, endpoint_of, uses_svid
from sidecar.errors import ConfigError
from sidecar.gateway.check import resource_check

SOCKET, OTHER = "unix:///run/agent.sock", "unix:///run/other.sock"


@pytest.mark.parametrize(
    ("section", "env", "endpoint"),
    [
        ({}, {}, ""),
        ({}, {VARIABLE: SOCKET}, ""),
        ({"spiffe": {}}, {}, ""),
        ({"spiffe": {}}, {VARIABLE: SOCKET}, SOCKET),
        ({"spiffe": {"endpoint": None}}, {VARIABLE: SOCKET}, SOCKET),
        ({"spiffe": {"endpoint": OTHER}}, {VARIABLE: SOCKET}, OTHER),
        ({"spiffe": {"endpoint": "tcp://127.0.0.1:8081"}}, {}, "tcp://127.0.0.1:8081"),
    ],
)
def test_endpoint(section: dict[str, Any], env: dict[str, str], endpoint: str) -> None:
    assert endpoint_of(static_config({"config": section}, env)) == endpoint


@pytest.mark.parametrize("value", ["/run/agent.sock", "unix://run/x", "tcp://a", "unix:///", "x"])
def test_what_is_no_endpoint(value: str) -> None:
    for section, env in (({"endpoint": value}, {}), ({}, {VARIABLE: value})):
        with pytest.raises(ConfigError) as caught:
            static_config({"config": {"spiffe": section}}, env)
        assert caught.value.path == "config.spiffe.endpoint"


def test_a_route_that_is_kept_is_looked_at_again_when_the_endpoint_goes() -> None:
    route = {
        "gateways": "g",
        "backends": [{"host": "a.test:443", "policies": {"backendTLS": {"spiffe": {}}}}],
    }
    document: dict[str, Any] = {"gateways": {"g": {"port": 80}}, "routes": [route]}
    normaliser = Normaliser(env={})
    problems: list[ConfigError] = []
    normaliser.normalise({**document, "config": {"spiffe": {"endpoint": SOCKET}}}, problems)
    assert problems == []
    normaliser.normalise(document, problems)
    (problem,) = problems
    assert problem.path == "routes[0].backends[0].policies.backendTLS.spiffe"


LISTENER: dict[str, Any] = {"tls": {"spiffe": {}}}
ROUTE = {"backends": [{"policies": {"backendTLS": {"spiffe": {}}}, "host": {"tls": True}}]}
POLICY: dict[str, Any] = {"kind": "backendTLS", "policy": {"spiffe": {}}}


@pytest.mark.parametrize(
    ("data", "uses"),
    [
        (LISTENER, True),
        (ROUTE, True),
        (POLICY, True),
        ({"tls": None, "policy": "a"}, False),
        ({"tls": {"cert": "x"}}, False),
        ({"spiffe": {}}, False),
    ],
)
def test_uses(data: dict[str, Any], uses: bool) -> None:
    assert uses_svid(data) == uses


def test_a_control_plane_cannot_ask_for_what_nobody_gives() -> None:
    policy = Resource.of("policy", "p", POLICY)
    resource_check({"spiffe": {"endpoint": SOCKET}}, {})(policy)
    with pytest.raises(ConfigError, match=r"SPIFFE needs config\.spiffe\.endpoint"):
        resource_check({}, {})(policy)
