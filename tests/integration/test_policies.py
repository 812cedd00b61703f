"""Every first policy through the gateway: what it does, in which order, merged from which level.

Source: spec/config.md sections 0.5, 3.2 to 3.7 and 11.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.upstream import Answer, Seen, Upstream

PORT, PHASES = free_ports(2)
Route = dict[str, Any]


def script(seen: Seen) -> Answer:
    """Echo; `x-status` asks for a status, and `x-fail-first` for one on the first attempt alone."""
    first = seen.get("x-fail-first")
    status = int(seen.get("x-status") or 200)
    if first is not None and seen.get("x-retry-attempt") is None:
        if first == "drop":
            return Answer(drop=True)
        status = int(first)
    headers = [("x-up", "1"), ("x-drop", "1"), ("access-control-allow-origin", "upstream")]
    return Answer(status, headers, seen.body or seen.target.encode())


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


@pytest.fixture(scope="module")
def shadow() -> Iterator[Upstream]:
    with Upstream() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(up: Upstream, shadow: Upstream) -> Iterator[GatewayProcess]:
    host = {"host": up.address}

    def route(path: str, **policies: Any) -> Route:
        return {
            "name": path.strip("/"),
            "matches": [{"path": {"pathPrefix": path}}],
            "policies": policies,
            "backends": [host],
        }

    def on_backend(path: str, **policies: Any) -> Route:
        return {**route(path), "backends": [{**host, "policies": policies}]}

    cors = {
        "allowOrigins": ["https://good.test", "https://*.wild.test"],
        "allowMethods": ["GET", "PUT"],
        "allowHeaders": ["x-a"],
        "exposeHeaders": ["x-up"],
        "allowCredentials": True,
        "maxAge": "10m",
    }
    change = {"add": {"x-add": "1"}, "set": {"x-set": "new"}, "remove": ["x-remove"]}
    denied = {"authorization": {"rules": [{"deny": 'request.headers["x-who"] == "evil"'}, "true"]}}
    routes = [
        route("/request-headers", requestHeaderModifier=change),
        route(
            "/response-headers",
            responseHeaderModifier={"set": {"x-set": "r"}, "remove": ["x-drop"]},
        ),
        on_backend(
            "/backend-headers",
            requestHeaderModifier=change,
            responseHeaderModifier={"set": {"x-set": "b"}, "remove": ["x-drop"]},
        ),
        route(
            "/redirect",
            requestRedirect={
                "scheme": "https",
                "authority": {"full": "n.test"},
                "path": {"prefix": "/to"},
                "status": 308,
            },
        ),
        route("/rewrite", urlRewrite={"authority": {"host": "n.test"}, "path": {"prefix": "/to"}}),
        route(
            "/direct",
            directResponse={"status": 418, "body": "tea", "headers": {"x-path": "request.path"}},
        ),
        route(
            "/conditional",
            directResponse={
                "conditional": [
                    {"condition": 'request.headers["x-case"] == "a"', "status": 201, "body": "a"},
                    {"condition": "request.method == 'PUT'", "status": 202, "body": "put"},
                ]
            },
        ),
        route("/cors", cors=cors, **denied),
        route("/csrf", csrf={"additionalOrigins": ["https://app.test"]}),
        route("/authorization", **denied),
        on_backend("/backend-authorization", **denied),
        route("/late", timeout={"requestTimeout": "100ms"}, delay={"duration": "30s"}),
        route("/delay", delay={"duration": "duration(request.headers['x-delay'])"}),
        route("/retry", retry={"attempts": 2, "codes": [503]}),
        route(
            "/retry-if",
            retry={
                "attempts": 1,
                "codes": [599],
                "precondition": "request.method == 'GET'",
                "condition": "response.code == 500",
            },
        ),
        route("/mirror", requestMirror={"backend": {"host": shadow.address}, "percentage": 1.0}),
        route(
            "/mirror-none", requestMirror={"backend": {"host": shadow.address}, "percentage": 0.0}
        ),
        route(
            "/transform",
            transformations={
                "request": {
                    "metadata": {"team": 'request.headers["x-team"]'},
                    "add": {"x-team-2": "metadata.team"},
                    "set": {
                        "x-len": "string(size(request.body))",
                        ":path": "'/moved?from=' + request.path",
                    },
                    "remove": ["x-team"],
                    "body": 'toJson({"was": string(request.body)})',
                },
                "response": {
                    "set": {"x-code": "string(response.code)", ":status": "203"},
                    "body": '"<" + string(response.body) + ">"',
                },
            },
        ),
        route(
            "/transform-if",
            transformations={
                "conditional": [
                    {"condition": "request.method == 'PUT'", "request": {"set": {"x-m": "'put'"}}},
                    {"request": {"set": {"x-m": "'other'"}}},
                ]
            },
        ),
        on_backend(
            "/transform-backend", transformations={"request": {"set": {"x-b": "backend.name"}}}
        ),
        route("/buffer", buffer={"request": {"maxBytes": 10}, "response": {"maxBytes": 20}}),
        route("/buffer-open", buffer={"request": {"maxBytes": 10, "failureMode": "failOpen"}}),
    ]
    listener = {"routes": routes}
    phases = {
        "policies": {
            "authorization": {"rules": [{"deny": 'request.headers["x-level"] == "gateway"'}]},
            "cors": {"allowOrigins": ["https://edge.test"]},
            "transformations": {
                "request": {
                    "set": {":path": '"/b" + request.path.substring(2)', "x-phase": "'gateway'"}
                },
                "response": {"set": {"x-order": 'default(response.headers["x-order"], "") + "g"'}},
            },
        },
        "routes": [
            {
                "name": "a",
                "matches": [{"path": {"pathPrefix": "/a"}}],
                "policies": {"directResponse": {"status": 500}},
            },
            {
                "name": "b",
                "ruleName": "r1",
                "matches": [{"path": {"pathPrefix": "/b"}}],
                "policies": {
                    "authorization": {"rules": [{"deny": 'request.headers["x-level"] == "route"'}]},
                    "responseHeaderModifier": {"set": {"x-level": "inline"}},
                    "transformations": {"response": {"set": {"x-order": '"r"'}}},
                },
                "backends": [
                    {
                        **host,
                        "policies": {
                            "authorization": {
                                "rules": [{"deny": 'request.headers["x-level"] == "backend"'}]
                            },
                            "transformations": {
                                "response": {
                                    "set": {"x-order": 'response.headers["x-order"] + "b"'}
                                }
                            },
                        },
                    }
                ],
            },
        ],
    }

    def targeted(target: dict[str, Any], policy: dict[str, Any]) -> dict[str, Any]:
        return {
            "name": {"name": f"p{len(policies)}", "namespace": "default"},
            "target": target,
            "policy": policy,
        }

    policies: list[dict[str, Any]] = []
    at_port = {"gateway": {"gatewayName": "default", "gatewayNamespace": "default", "port": PHASES}}
    at_route = {"route": {"name": "b", "namespace": "default"}}
    for target, policy in (
        (at_port, {"responseHeaderModifier": {"set": {"x-level": "gateway"}}}),
        (at_port, {"requestHeaderModifier": {"set": {"x-modified": "gateway"}}}),
        (at_port, {"authorization": {"rules": [{"deny": 'request.headers["x-level"] == "port"'}]}}),
        (at_route, {"requestHeaderModifier": {"set": {"x-modified": "route"}}}),
    ):
        policies.append(targeted(target, policy))
    config = {
        "binds": [{"port": PORT, "listeners": [listener]}, {"port": PHASES, "listeners": [phases]}],
        "policies": policies,
    }
    with GatewayProcess(config) as process:
        yield process


@pytest.fixture
def fresh(gateway: GatewayProcess, up: Upstream, shadow: Upstream) -> Upstream:
    """The upstream, with nothing seen yet."""
    up.take()
    shadow.take()
    return up


def call(path: str, method: str = "GET", body: bytes | None = None, **fields: str) -> Got:
    headers = {name.replace("_", "-"): value for name, value in fields.items()}
    return fetch(PORT, path, method, headers=headers, body=body)


@pytest.mark.parametrize("path", ["/request-headers", "/backend-headers"])
def test_request_header_modifier(path: str, fresh: Upstream) -> None:
    call(path, x_set="old", x_remove="1", x_add="0")
    seen = fresh.take()[0]
    assert seen.get_all("x-set") == ["new"]
    assert seen.get("x-remove") is None
    assert seen.get_all("x-add") == ["0", "1"]


@pytest.mark.parametrize(("path", "value"), [("/response-headers", "r"), ("/backend-headers", "b")])
@pytest.mark.usefixtures("fresh")
def test_response_header_modifier(path: str, value: str) -> None:
    answer = call(path)
    assert (answer.get("x-set"), answer.get("x-drop"), answer.get("x-up")) == (value, None, "1")


def test_redirect(fresh: Upstream) -> None:
    answer = call("/redirect/a?q=1")
    assert (answer.status, answer.get("location")) == (308, "https://n.test/to/a?q=1")
    assert fresh.take() == []


def test_url_rewrite(fresh: Upstream) -> None:
    call("/rewrite/a?q=1")
    seen = fresh.take()[0]
    assert (seen.target, seen.get("host")) == ("/to/a?q=1", "n.test")


def test_direct_response(fresh: Upstream) -> None:
    answer = call("/direct/x")
    assert (answer.status, answer.text, answer.get("x-path")) == (418, "tea", "/direct/x")
    assert call("/conditional", x_case="a").text == "a"
    assert call("/conditional", "PUT", b"").status == 202
    assert fresh.take() == []
    # None of the conditions holds (the first fails to evaluate): the policy is skipped.
    assert call("/conditional").text == "/conditional"


@pytest.mark.parametrize(
    ("method", "fields", "status"),
    [
        ("GET", {"sec_fetch_site": "cross-site", "origin": "https://evil.test"}, 200),
        ("POST", {}, 200),
        ("POST", {"sec_fetch_site": "same-origin"}, 200),
        ("POST", {"sec_fetch_site": "cross-site", "origin": "https://app.test"}, 200),
        ("POST", {"sec_fetch_site": "cross-site", "origin": "https://evil.test"}, 403),
        ("POST", {"origin": "null"}, 403),
    ],
)
def test_csrf(method: str, fields: dict[str, str], status: int, fresh: Upstream) -> None:
    got = call("/csrf", method, b"" if method == "POST" else None, **fields)
    assert (got.status, len(fresh.take())) == (status, int(status == 200))
    assert status == 200 or got.text == "CSRF validation failed"


@pytest.mark.usefixtures("fresh")
def test_cors() -> None:
    asked = {"origin": "https://good.test", "access-control-request-method": "PUT"}
    preflight = fetch(PORT, "/cors", "OPTIONS", headers=asked)
    assert (preflight.status, preflight.body) == (200, b"")
    assert preflight.get("access-control-allow-origin") == "https://good.test"
    assert preflight.get("access-control-allow-credentials") == "true"
    assert preflight.get("access-control-max-age") == "600"
    actual = call("/cors", origin="https://a.wild.test")
    assert actual.get_all("access-control-allow-origin") == ["https://a.wild.test"]
    assert actual.get("access-control-expose-headers") == "x-up"
    bad = fetch(PORT, "/cors", "OPTIONS", headers={**asked, "origin": "https://bad.test"})
    assert (bad.status, bad.get("access-control-allow-origin")) == (200, None)
    assert call("/cors").get("access-control-allow-origin") == "upstream"


def test_cors_headers_on_errors(fresh: Upstream) -> None:
    """It runs before authorization, so that a browser may read the refusal."""
    answer = call("/cors", origin="https://good.test", x_who="evil")
    assert (answer.status, answer.text) == (403, "authorization failed")
    assert answer.get("access-control-allow-origin") == "https://good.test"
    failed = call("/cors", origin="https://good.test", x_status="502")
    assert failed.get_all("access-control-allow-origin") == ["https://good.test"]
    assert len(fresh.take()) == 1


@pytest.mark.parametrize("path", ["/authorization", "/backend-authorization"])
def test_authorization(path: str, fresh: Upstream) -> None:
    assert call(path, x_who="good").status == 200
    answer = call(path, x_who="evil")
    assert (answer.status, answer.text) == (403, "authorization failed")
    assert answer.get("content-type") == "text/plain"
    assert len(fresh.take()) == 1


def test_authorization_of_all_levels(fresh: Upstream) -> None:
    for level in ("gateway", "port", "route", "backend"):
        answer = fetch(PHASES, "/a", headers={"x-level": level})
        assert (level, answer.status) == (level, 403)
    assert fetch(PHASES, "/a").status == 200
    assert len(fresh.take()) == 1


def test_gateway_phase_runs_before_routing_and_last_on_the_way_back(fresh: Upstream) -> None:
    answer = fetch(PHASES, "/a/x", headers={"origin": "https://edge.test"})
    assert (answer.status, answer.text) == (200, "/b/x")
    assert answer.get("x-order") == "rbg"
    assert answer.get("access-control-allow-origin") == "https://edge.test"
    seen = fresh.take()[0]
    assert (seen.get("x-phase"), seen.get("x-modified")) == ("gateway", "route")


def test_the_most_specific_level_replaces_the_others(gateway: GatewayProcess) -> None:
    assert fetch(PHASES, "/a").get("x-level") == "inline"
    denied = fetch(PHASES, "/a", headers={"x-level": "gateway"})
    # The response policies of the route have not been reached, those of the gateway have.
    assert (denied.get("x-level"), denied.get("x-order")) == (None, "g")


def test_timeout_and_delay(fresh: Upstream) -> None:
    answer = call("/late")
    assert (answer.status, answer.text) == (504, "request timeout")
    assert fresh.take() == []
    started = time.monotonic()
    assert call("/delay", x_delay="0.2s").status == 200
    assert time.monotonic() - started >= 0.2
    # An expression that fails delays nothing.
    assert call("/delay").status == 200


def test_retry_makes_attempts_plus_one_calls(fresh: Upstream) -> None:
    answer = call("/retry", "POST", b"again", x_status="503")
    assert answer.status == 503
    seen = fresh.take()
    assert [one.get("x-retry-attempt") for one in seen] == [None, "1", "2"]
    assert [one.body for one in seen] == [b"again"] * 3


@pytest.mark.parametrize("failure", ["503", "drop"])
def test_retry_until_it_works(failure: str, fresh: Upstream, gateway: GatewayProcess) -> None:
    before = gateway.metric("agentgateway_retries_total")
    answer = call("/retry", "POST", b"body", x_fail_first=failure)
    assert (answer.status, answer.text) == (200, "body")
    assert len(fresh.take()) == 2
    gateway.wait_metric("agentgateway_retries_total", before + 1)


def test_retry_not_for_other_codes_nor_large_bodies(fresh: Upstream) -> None:
    assert call("/retry", x_status="500").status == 500
    large = bytes(64 * 1024 + 1)
    assert call("/retry", "POST", large, x_fail_first="503").status == 503
    assert [len(one.body) for one in fresh.take()] == [0, len(large)]


def test_retry_condition_and_precondition(fresh: Upstream) -> None:
    assert call("/retry-if", x_fail_first="500").status == 200
    assert call("/retry-if", "POST", b"x", x_fail_first="500").status == 500
    assert call("/retry-if", x_fail_first="501").status == 501
    assert len(fresh.take()) == 4


def test_mirror_sends_the_head_alone(fresh: Upstream, shadow: Upstream) -> None:
    assert call("/mirror?x=1", "POST", b"content", x_a="1").text == "content"
    copy = shadow.wait(1)[0]
    assert (copy.method, copy.target, copy.body) == ("POST", "/mirror?x=1", b"")
    assert (copy.get("x-a"), copy.get("content-length")) in (("1", None), ("1", "0"))
    assert call("/mirror-none").status == 200
    assert [one.target for one in fresh.take()] == ["/mirror?x=1", "/mirror-none"]
    assert shadow.take() == []


def test_transformations(fresh: Upstream) -> None:
    answer = call("/transform", "POST", b"data", x_team="blue")
    seen = fresh.take()[0]
    assert orjson.loads(seen.body) == {"was": "data"}
    assert seen.target == "/moved?from=/transform"
    assert (seen.get("x-team"), seen.get("x-team-2"), seen.get("x-len")) == (None, "blue", "4")
    assert seen.get("content-length") in (None, str(len(seen.body)))
    assert (answer.status, answer.get("x-code")) == (203, "200")
    assert answer.text == f"<{seen.body.decode()}>"


def test_conditional_and_backend_transformations(fresh: Upstream) -> None:
    call("/transform-if", "PUT", b"")
    call("/transform-if")
    call("/transform-backend")
    put, other, backend = fresh.take()
    assert (put.get("x-m"), other.get("x-m")) == ("put", "other")
    assert backend.get("x-b") == fresh.address


def test_buffer(fresh: Upstream) -> None:
    assert call("/buffer", "POST", b"0123456789").status == 200
    assert call("/buffer", "POST", b"0123456789a").status == 413
    answer = call("/buffer/a-path-of-more-than-twenty-octets")
    assert (answer.status, answer.body) == (502, b"")
    assert call("/buffer-open", "POST", bytes(100)).status == 200
    assert len(fresh.take()) == 3


@pytest.mark.parametrize(
    ("path", "fields", "status", "message"),
    [
        ("/authorization", {"x-who": "evil"}, "7", "authorization failed"),
        ("/late", {}, "14", "request timeout"),
        ("/nowhere", {}, "12", "route not found"),
    ],
)
@pytest.mark.usefixtures("fresh")
def test_errors_in_grpc_form(path: str, fields: dict[str, str], status: str, message: str) -> None:
    headers = {"content-type": "application/grpc+proto", **fields}
    answer = fetch(PORT, path, "POST", headers=headers, body=b"")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.get("content-type") == "application/grpc"
    assert (answer.get("grpc-status"), answer.get("grpc-message")) == (status, message)
