"""Policies that authenticate and ask services, set on several levels and in several phases.

Source: spec/config.md sections 0.5, 1.5 and 3.1 to 3.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

(PORT,) = free_ports(1)
GATEWAY = {"gatewayName": "default", "gatewayNamespace": "default"}
Policies = dict[str, Any]


def key(value: str, header: str = "x-key") -> Policies:
    return {
        "apiKey": {
            "mode": "strict",
            "keys": [{"key": value}],
            "location": {"header": {"name": header}},
        }
    }


def deny(level: str) -> Policies:
    return {"authorization": {"rules": [{"deny": f'request.headers["x-level"] == "{level}"'}]}}


def judge(seen: Seen) -> Answer:
    return Answer(403 if seen.get("x-level") == seen.target.strip("/") else 200)


@pytest.fixture(scope="module")
def judged() -> Iterator[Upstream]:
    with Upstream(judge) as made:
        yield made


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream() as made:
        yield made


@pytest.fixture(scope="module", autouse=True)
def gateway(judged: Upstream, up: Upstream) -> Iterator[GatewayProcess]:
    def ask(name: str) -> Policies:
        return {
            "host": judged.address,
            "includeRequestHeaders": ["x-level"],
            "protocol": {"http": {"path": f"'/{name}'"}},
        }

    def asking(name: str) -> Policies:
        return {"extAuthz": ask(name)}

    numbers = count()

    def targeted(target: Policies, policy: Policies, phase: str = "route") -> Policies:
        name = {"name": f"p{next(numbers)}", "namespace": "default"}
        return {"name": name, "target": target, "policy": policy, "phase": phase}

    def route(name: str, policies: Policies, at_backend: Policies | None = None) -> Policies:
        return {
            "name": name,
            "matches": [{"path": {"pathPrefix": f"/{name}"}}],
            "policies": policies,
            "backends": [{"host": up.address, "policies": at_backend or {}}],
        }

    by_tenant = {
        "extAuthz": {
            "conditional": [
                {"condition": 'request.headers["x-tenant"] == "a"', **ask("tenant-a")},
                # An error is no match.
                {"condition": "jwt.tenant == 'b'", **ask("tenant-b")},
                ask("others"),
            ]
        }
    }
    only_a = {
        "extAuthz": {
            "conditional": [{"condition": 'request.headers["x-tenant"] == "a"', **ask("tenant-a")}]
        }
    }
    routes = [
        route("inherits", {}),
        route("own", asking("route")),
        route("behind", {}, asking("backend")),
        route("conditional", by_tenant),
        route("without-fallback", only_a),
        route("keyed", key("of-the-route", "x-route-key")),
        route("added-up", deny("route"), deny("backend")),
    ]
    at_gateway = {"gateway": GATEWAY}
    at_listener = {"gateway": {**GATEWAY, "listenerName": "web"}}
    config = {
        "binds": [
            {
                "port": PORT,
                "listeners": [
                    {"name": "web", "policies": key("of-the-listener"), "routes": routes}
                ],
            }
        ],
        "policies": [
            # The listener's own stands above it.
            targeted(at_gateway, key("of-the-gateway"), "gateway"),
            targeted(at_gateway, asking("early"), "gateway"),
            targeted(at_gateway, asking("gateway")),
            targeted(at_listener, asking("listener")),
            # All of these hold, two of them for one target.
            targeted(at_gateway, deny("early"), "gateway"),
            targeted(at_gateway, deny("gateway")),
            targeted(at_gateway, deny("gateway-too")),
            targeted(at_listener, deny("listener")),
            targeted({"route": {"name": "added-up", "namespace": "default"}}, deny("target")),
        ],
    }
    with GatewayProcess(config) as running:
        yield running


@pytest.fixture
def fresh(judged: Upstream, up: Upstream) -> Upstream:
    judged.take()
    up.take()
    return judged


def call(path: str, **headers: str) -> Got:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(PORT, path, headers={"x-key": "of-the-listener", **named})


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/inherits", ["/early", "/listener"]),
        ("/own", ["/early", "/route"]),
        ("/behind", ["/early", "/listener", "/backend"]),
    ],
)
def test_the_most_specific_of_each_phase_is_asked(
    path: str, asked: list[str], fresh: Upstream, up: Upstream
) -> None:
    assert call(path).status == 200
    assert [one.target for one in fresh.take()] == asked
    (seen,) = up.take()
    # What let the client in goes no further.
    assert seen.get("x-key") is None


@pytest.mark.parametrize("level", ["early", "listener", "backend"])
def test_each_phase_may_refuse(level: str, fresh: Upstream, up: Upstream) -> None:
    assert call("/behind", x_level=level).status == 403
    assert up.take() == []
    # It was asked last: nothing behind it was.
    assert [one.target for one in fresh.take()][-1] == f"/{level}"


@pytest.mark.parametrize(
    ("tenant", "asked"), [("a", ["/early", "/tenant-a"]), ("b", ["/early", "/others"])]
)
def test_the_first_alternative_that_is_true_acts(
    tenant: str, asked: list[str], fresh: Upstream
) -> None:
    assert call("/conditional", x_tenant=tenant).status == 200
    assert [one.target for one in fresh.take()] == asked


def test_without_a_true_alternative_the_policy_is_skipped(fresh: Upstream) -> None:
    assert call("/without-fallback", x_tenant="a").status == 200
    assert [one.target for one in fresh.take()] == ["/early", "/tenant-a"]
    assert call("/without-fallback", x_tenant="b").status == 200
    # Nor does the listener's come back in its place: the route's own stands above it.
    assert [one.target for one in fresh.take()] == ["/early"]


def test_credentials_of_both_phases_are_wanted(fresh: Upstream) -> None:
    assert call("/keyed", x_route_key="of-the-route").status == 200
    assert call("/keyed").status == 401
    assert call("/keyed", x_key="of-the-gateway", x_route_key="of-the-route").status == 401
    # The refused one of the gateway phase cost no call, nor did that of the route.
    assert [one.target for one in fresh.take()] == ["/early", "/listener", "/early"]


@pytest.mark.parametrize(
    "level", ["early", "gateway", "gateway-too", "listener", "target", "route", "backend"]
)
def test_rules_of_all_levels_hold_together(level: str, fresh: Upstream, up: Upstream) -> None:
    answer = call("/added-up", x_level=level)
    assert answer.status == 403
    assert up.take() == []
    fresh.take()
    assert call("/added-up").status == 200
