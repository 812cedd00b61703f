"""Compilation: what a changed snapshot keeps, replaces and refuses."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.config.problems import InvalidConfigError
from sidecar.errors import ConfigError
from sidecar.http.headers import Headers
from sidecar.policies.chain import EMPTY, Chain
from tests.support.compiled import InProcess, ask_for, snapshot_data

BIND = "bind/8080"


def config(*routes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"binds": [{"port": 8080, "listeners": [{"routes": list(routes)}]}], **more}


def says(name: str, text: str | None = None) -> dict[str, Any]:
    return {
        "name": name,
        "matches": [{"path": {"exact": f"/{name}"}}],
        "policies": {"directResponse": {"status": 200, "body": text or name}},
    }


def proxied(name: str, **policies: Any) -> dict[str, Any]:
    return {
        "name": name,
        "matches": [{"path": {"exact": f"/{name}"}}],
        "backends": [{"host": "127.0.0.1:9"}],
        "policies": policies,
    }


async def test_only_what_changed_is_made_again() -> None:
    async with InProcess(config(says("a"), says("b"))) as gateway:
        before = gateway.gateway
        first = before.binds[BIND].listener_of(ask_for())
        after = gateway.apply(config(says("a"), says("b", "new")))
        second = after.binds[BIND].listener_of(ask_for())
        assert second.labels is first.labels
        assert second.chain is first.chain
        assert after.binds[BIND].plan is before.binds[BIND].plan
        assert await gateway.text(ask_for("/b")) == (200, "new")
        assert await gateway.text(ask_for("/a")) == (200, "a")


async def test_routes_come_and_go() -> None:
    async with InProcess(config(says("a"))) as gateway:
        gateway.apply(config(says("a"), says("b")))
        assert await gateway.text(ask_for("/b")) == (200, "b")
        gateway.apply(config(says("b")))
        assert (await gateway.text(ask_for("/a")))[0] == 404
        assert await gateway.text(ask_for("/b")) == (200, "b")


async def test_a_request_goes_on_with_the_snapshot_it_began_with() -> None:
    async with InProcess(config(says("a"))) as gateway:
        response = await gateway.ask(ask_for("/a"))
        gateway.apply(config())
        assert await response.body.read() == b"a"
        assert response.on_done is not None
        response.on_done(1, "")
        assert gateway.count("agentgateway_requests_total") == 1
        assert gateway.in_flight == 0


async def test_a_targeted_policy_changes_every_route() -> None:
    document = config(says("a"), says("b"))
    async with InProcess(document) as gateway:
        policy = {
            "name": {"name": "p", "namespace": "default"},
            "target": {"gateway": {"gatewayName": "default", "gatewayNamespace": "default"}},
            "policy": {"responseHeaderModifier": {"set": {"x-p": "1"}}},
        }
        gateway.apply({**document, "policies": [policy]})
        for target in ("/a", "/b"):
            response = await gateway.ask(ask_for(target))
            assert response.headers.get(b"x-p") == b"1"
            assert response.on_done is not None
            response.on_done(0, "")
        gateway.apply(document)
        assert not (await gateway.ask(ask_for("/a"))).headers.has(b"x-p")


async def test_pools_outlive_a_reload_that_leaves_their_backend() -> None:
    async with InProcess(config(proxied("a"))) as gateway:
        route = gateway.gateway.binds[BIND].listener_of(ask_for())

        def pool(of: Any) -> Any:
            found = of.routes.match("h", "/a", "GET", [], "", scheme="http", authority="h")
            backend = found[0].payload.backends[0]
            return backend.upstream.pick_nowait(ask_for()).pool

        before = pool(route)
        buffered = {"http": {"maxBufferSize": 1000}}
        gateway.apply(config(proxied("a"), frontendPolicies=buffered))
        assert pool(gateway.gateway.binds[BIND].listener_of(ask_for())) is before
        assert gateway.gateway.max_buffer_bytes == 1000
        gateway.apply(config(says("b"), frontendPolicies=buffered))
        gateway.apply(config(says("b")))
        assert before.closed


async def test_a_snapshot_that_cannot_be_compiled_changes_nothing() -> None:
    async with InProcess(config(says("a"))) as gateway:
        running = gateway.gateway
        data = snapshot_data(config(proxied("b")))
        key = next(key for key in data if key.startswith("route/"))
        data[key]["policies"] = {"directResponse": {"status": 200, "bodyExpression": "1 +"}}
        steps = gateway.compiler.compile(2, {key: data[key]}, ())
        with pytest.raises(ConfigError) as caught:
            list(steps)
        assert caught.value.path.startswith(key)
        assert gateway.gateway is running
        assert gateway.apply(config(says("c"))) is not running
        assert await gateway.text(ask_for("/c")) == (200, "c")


@pytest.mark.parametrize(
    "policies",
    [
        {"transformations": {"request": {"set": {"x": "1 +"}}}},
        {"requestHeaderModifier": {"set": {"bad name": "x"}}},
        {"retry": {"attempts": 1, "codes": [503], "condition": "nope("}},
    ],
)
def test_what_cannot_be_compiled_is_refused_before(policies: dict[str, Any]) -> None:
    with pytest.raises(InvalidConfigError) as caught:
        snapshot_data(config(proxied("a", **policies)))
    assert "binds[0].listeners[0].routes[0].policies" in str(caught.value)


async def test_settings_of_the_bind() -> None:
    frontend = {
        "http": {"http1IdleTimeout": "30s", "http1MaxHeaders": 10, "http2WindowSize": 100_000},
        "proxyProtocol": {"version": "all", "mode": "optional"},
        "tcp": {"keepalives": {"enabled": True, "time": "1m", "interval": "5s", "retries": 3}},
    }
    async with InProcess(config(says("a"), frontendPolicies=frontend)) as gateway:
        plan = gateway.gateway.binds[BIND].plan
    assert (plan.settings.idle_seconds, plan.settings.header_count) == (30.0, 10)
    assert plan.settings.h2_stream_window_bytes == 100_000
    assert (plan.proxy_versions, plan.proxy_optional) == ((1, 2), True)
    assert plan.keepalive == (60, 5, 3)


async def test_a_route_without_policies_has_no_hooks() -> None:
    async with InProcess(config(proxied("a"), proxied("b", cors={}))) as gateway:
        listener = gateway.gateway.binds[BIND].listener_of(ask_for())
        chains = []
        for path in ("/a", "/b"):
            found = listener.routes.match("", path, "GET", Headers())
            assert found is not None
            chains.append(found[0].payload.chain)
        assert chains[0] is EMPTY
        assert chains[1].request_hooks


LOGIN = {
    "issuer": "https://idp.example",
    "authorizationEndpoint": "https://idp.example/authorize",
    "tokenEndpoint": "https://idp.example/token",
    "jwks": {"keys": []},
    "clientId": "web",
    "clientSecret": "s",
    "redirectURI": "https://shop.example/callback",
}


async def test_the_first_login_takes_its_cookies_from_every_route() -> None:
    def chain_of(gateway: InProcess) -> Chain:
        routes = gateway.gateway.binds[BIND].listener_of(ask_for()).routes
        found = routes.match("", "/a", "GET", Headers())
        assert found is not None
        return found[0].payload.chain

    async with InProcess(config(proxied("a"))) as gateway:
        assert chain_of(gateway) is EMPTY
        gateway.apply(config(proxied("a"), proxied("b", oidc=LOGIN)))
        asked = ask_for("/a")
        asked.headers.append((b"cookie", b"agw_oidc_s_0123=x; own=1"))
        for hook, _ in chain_of(gateway).request_hooks:
            hook(asked)
        assert asked.headers.get_all(b"cookie") == [b"own=1"]
