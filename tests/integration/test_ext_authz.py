"""extAuthz through a real gateway and real services: grpcio's for Envoy's protocol, plain ones.

Source: spec/config.md sections 3.2, 3.8, 9.1 and 11.
"""

from __future__ import annotations

import socket
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest
import yaml

from tests.support.authority import Authority
from tests.support.client import fetch
from tests.support.ext_authz import Answer, AuthorizationServer, Question
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.upstream import Answer as Page
from tests.support.upstream import Seen, Upstream

PORT, GATED, NOBODY = free_ports(3)
SECONDS = 20.0
FAILED = "external authorization failed"
Policies = dict[str, Any]


def decide(question: Question) -> Answer:
    """By the path."""
    path = question.request.http.path
    if path.startswith("/words"):
        return Answer(False, told=[("x-why", "plan")], denied_status=402, body="pay first")
    if path.startswith(("/hangs", "/waits")):
        return Answer(hang=True)
    if path.startswith("/lies"):
        return Answer(raw=b"\xff\xff")
    if path.startswith("/evil"):
        return Answer(set=[("host", "evil.example")])
    if path.startswith("/no"):
        return Answer(False)
    return Answer(
        set=[("x-user", "ann"), ("x-path", "/moved")],
        remove=["authorization"],
        told=[("x-told", "yes")],
        metadata={"plan": "gold"},
    )


def unsigned(subject: str) -> str:
    """A token that nobody signed, good for an hour."""
    parts = ({"alg": "none"}, {"sub": subject, "exp": int(time.time()) + 3600})
    return (
        ".".join(urlsafe_b64encode(orjson.dumps(one)).decode().rstrip("=") for one in parts) + "."
    )


def door(seen: Seen) -> Page:
    """A plain service: who has the cookie may pass."""
    if seen.target == "/token":
        subject = parse_qs(seen.body.decode())["subject_token"][0]
        return Page(200, body=orjson.dumps({"access_token": unsigned(f"{subject} of x")}))
    if seen.target.startswith("/whois?addr="):
        who = {"addr": seen.target.partition("=")[2], "host": seen.get("host")}
        return Page(200, body=orjson.dumps({"Node": {"Name": who}}))
    if seen.target == "/body":
        return Page(200, [("x-body", seen.body.decode())])
    if seen.get("cookie") == "s=1":
        return Page(200, [("x-auth-request-user", "ann"), ("x-host", seen.get("host") or "")])
    return Page(401, [("www-authenticate", "Cookie"), ("set-cookie", "a=1")], b"who are you?")


def page(seen: Seen) -> Page:
    names = ("x-user", "x-auth-request-user", "authorization", "host", "x-host", "x-body")
    return Page(200, [(f"saw-{name}", seen.get(name) or "-") for name in names], b"served")


@pytest.fixture(scope="module")
def service() -> Iterator[AuthorizationServer]:
    with AuthorizationServer(decide) as made:
        yield made


@pytest.fixture(scope="module")
def plain() -> Iterator[Upstream]:
    with Upstream(door) as made:
        yield made


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(page) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(
    service: AuthorizationServer,
    plain: Upstream,
    up: Upstream,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[GatewayProcess]:
    folder = tmp_path_factory.mktemp("authz")
    authority = Authority()
    (folder / "root").write_text(authority.root)
    grpc_path, http_path = str(folder / "grpc.sock"), str(folder / "http.sock")
    tls = {"backendTLS": {"root": str(folder / "root"), "hostname": "authz.test"}}
    # The default is 2 s, which a busy machine may take.
    patience = {"policies": {"http": {"requestTimeout": "20s"}}}
    by_grpc: Policies = {"host": service.address, **patience}
    by_http: Policies = {
        "host": plain.address,
        **patience,
        "includeRequestHeaders": ["cookie"],
        "protocol": {"http": {"includeResponseHeaders": ["x-auth-request-user", "x-host"]}},
    }
    short = {"policies": {"http": {"requestTimeout": "200ms"}}}

    def route(path: str, policy: Policies, **more: Any) -> dict[str, Any]:
        policies = {"extAuthz": policy, **more.pop("policies", {})}
        return {
            "name": path.strip("/").replace("/", "-"),
            "matches": [{"path": {"pathPrefix": path}}],
            "policies": policies,
            "backends": [{"host": up.address, **more}],
        }

    failing = {
        "down": {"host": f"127.0.0.1:{NOBODY}"},
        "hangs": {**by_grpc, **short},
        "lies": by_grpc,
    }
    modes = {"deny": "deny", "status": {"denyWithStatus": 503}, "allow": "allow"}
    routes = [
        route(f"/{kind}/{name}", {**policy, "failureMode": mode})
        for kind, policy in failing.items()
        for name, mode in modes.items()
    ]
    routes += [
        route("/grpc", by_grpc),
        route("/words", by_grpc, policies={"cors": {"allowOrigins": ["*"]}}),
        route("/evil", {**by_grpc, "failureMode": "allow"}),
        route("/no", by_grpc, policies={"authorization": {"rules": ["false"]}}),
        route("/waits", {**by_grpc, "policies": {"http": {"requestTimeout": "1m"}}}),
        route("/http", by_http),
        route("/named", {**by_http, "host": None, "backend": "door"}),
        route(
            "/asked-as",
            {
                **by_http,
                "protocol": {
                    "http": {
                        "addRequestHeaders": {":authority": "'door.example'"},
                        "includeResponseHeaders": ["x-host"],
                    }
                },
            },
        ),
        route(
            "/body",
            {
                **by_http,
                "includeRequestBody": {"maxRequestBytes": 8},
                "protocol": {"http": {"path": "'/body'", "includeResponseHeaders": ["x-body"]}},
            },
        ),
        route(
            "/tls",
            {"host": "127.0.0.1:0", "policies": tls},
        ),
        route(
            "/exchange",
            {
                "host": plain.address,
                "protocol": {
                    "http": {
                        "path": "'/token'",
                        "addRequestHeaders": {
                            ":method": "'POST'",
                            "content-type": "'application/x-www-form-urlencoded'",
                            "authorization": "'Basic ' + base64.encode('me:secret')",
                        },
                        "body": 'form.encode({"subject_token":'
                        ' request.headers["authorization"].split(" ")[1]})',
                        "metadata": {
                            "token": "json(response.body).access_token",
                            "expires": "unvalidatedJwtPayload(json(response.body).access_token)"
                            ".exp",
                        },
                    }
                },
                "cache": {
                    "key": ['request.headers["authorization"]'],
                    "ttl": "extauthz.expires - 5",
                    "maxEntries": 1024,
                },
            },
            policies={
                "transformations": {
                    "request": {"set": {"authorization": '"Bearer " + extauthz.token'}}
                }
            },
        ),
        route(
            "/whois",
            {
                "host": f"unix:{http_path}",
                "protocol": {
                    "http": {
                        "path": '"/whois?addr=" + source.address',
                        "addRequestHeaders": {":authority": '"local-sock.test"'},
                        "metadata": {"node": "json(response.body).Node.Name"},
                    }
                },
            },
            policies={
                "transformations": {
                    "request": {"set": {"x-user": "extauthz.node.addr + extauthz.node.host"}}
                }
            },
        ),
        route("/unix-grpc", {"host": f"unix:{grpc_path}"}),
        route("/unix-http", {**by_http, "host": f"unix:{http_path}"}),
        {
            "name": "backend",
            "matches": [{"path": {"pathPrefix": "/backend"}}],
            "backends": [{"host": up.address, "policies": {"extAuthz": by_grpc}}],
        },
    ]
    pair = authority.issue(["authz.test"])
    with (
        AuthorizationServer(decide, tls=pair) as secured,
        AuthorizationServer(decide, path=grpc_path),
        Upstream(door, unix=http_path),
    ):
        next(one for one in routes if one["name"] == "tls")["policies"]["extAuthz"]["host"] = (
            secured.address
        )
        for one in routes:
            policy = one.get("policies", {}).get("extAuthz", {})
            if policy.get("host", "") is None:
                del policy["host"]
        moved = {"set": {":path": "request.headers['x-path']"}}
        config = {
            "binds": [
                {"port": PORT, "listeners": [{"routes": routes}]},
                {
                    "port": GATED,
                    "listeners": [
                        {
                            "policies": {
                                "extAuthz": by_grpc,
                                "transformations": {"request": moved},
                            },
                            "routes": [
                                {
                                    "name": "moved",
                                    "matches": [{"path": {"exact": "/moved"}}],
                                    "backends": [{"host": up.address}],
                                }
                            ],
                        }
                    ],
                },
            ],
            "backends": [{"name": "door", "host": plain.address}],
            "frontendPolicies": {"accessLog": {"add": {"plan": "extauthz.plan"}}},
        }
        with GatewayProcess(config, workers=2) as made:
            yield made


def test_allowed_as_the_service_says(gateway: GatewayProcess, service: AuthorizationServer) -> None:
    service.take()
    sent = {"authorization": "Bearer t", "x-user": "evil", "x_user": "evil"}
    got = fetch(PORT, "/grpc/a?b", "POST", headers=sent, body=b"abc")
    assert (got.status, got.text, got.get("x-told")) == (200, "served", "yes")
    assert (got.get("saw-x-user"), got.get("saw-authorization")) == ("ann", "-")
    (asked,) = service.take()
    assert asked.request.http.headers["authorization"] == "Bearer t"
    assert (asked.request.http.path, asked.request.http.size) == ("/grpc/a?b", 3)
    assert "plan=gold" in gateway.wait_line("/grpc/a")


def test_denied_in_the_services_words(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/words", headers={"origin": "https://a.test"})
    assert (got.status, got.text, got.get("x-why")) == (402, "pay first", "plan")
    assert got.get("access-control-allow-origin") == "*" or got.get(
        "access-control-allow-origin"
    ) == ("https://a.test")
    grpc = fetch(PORT, "/words", "POST", headers={"content-type": "application/grpc"})
    assert (grpc.status, grpc.get("grpc-status"), grpc.body) == (200, "2", b"")
    assert "reason=ExtAuth" in gateway.wait_line("/words")


def test_an_answer_that_names_another_host_is_none(gateway: GatewayProcess, up: Upstream) -> None:
    up.take()
    got = fetch(PORT, "/evil")
    assert (got.status, got.text) == (403, FAILED)
    assert up.take() == []
    assert "is refused" in gateway.wait_line("the answer of")


def test_it_is_asked_before_the_rules(
    gateway: GatewayProcess, service: AuthorizationServer
) -> None:
    service.take()
    got = fetch(PORT, "/no")
    assert (got.status, got.text) == (403, FAILED)
    assert len(service.take()) == 1


@pytest.mark.parametrize("path", ["/tls", "/unix-grpc", "/backend"])
def test_ways_to_a_service_by_grpc(path: str, gateway: GatewayProcess) -> None:
    got = fetch(PORT, path, headers={"x-user": "evil"})
    assert (got.status, got.get("saw-x-user")) == (200, "ann")


@pytest.mark.parametrize("path", ["/http", "/named", "/unix-http"])
def test_ways_to_a_plain_service(path: str, gateway: GatewayProcess) -> None:
    got = fetch(PORT, path, headers={"cookie": "s=1", "x-auth-request-user": "evil"})
    assert (got.status, got.get("saw-x-auth-request-user")) == (200, "ann")
    assert got.get("saw-x-host") == "h.test"
    got = fetch(PORT, path)
    assert (got.status, got.text) == (401, "who are you?")
    assert (got.get("www-authenticate"), got.get("set-cookie")) == ("Cookie", "a=1")


def test_a_token_is_exchanged_and_kept(gateway: GatewayProcess, plain: Upstream) -> None:
    plain.take()
    first = fetch(PORT, "/exchange", headers={"authorization": "Bearer ann"})
    token = first.get("saw-authorization") or ""
    payload = token.split(".")[1]
    assert orjson.loads(urlsafe_b64decode(payload + "=="))["sub"] == "ann of x"
    (asked,) = plain.take()
    assert (asked.method, asked.target, asked.body) == ("POST", "/token", b"subject_token=ann")
    assert (asked.get("authorization") or "").startswith("Basic ")
    for _ in range(10):
        fetch(PORT, "/exchange", headers={"authorization": "Bearer ann"})
    # Each of the two workers keeps its own.
    assert len(plain.take()) <= 1
    got = fetch(PORT, "/exchange")
    assert (got.status, got.text) == (403, FAILED)


def test_who_connected_can_be_asked_for_at_a_socket(gateway: GatewayProcess) -> None:
    assert fetch(PORT, "/whois").get("saw-x-user") == "127.0.0.1local-sock.test"


def test_a_plain_service_can_be_called_by_a_name(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/asked-as", headers={"cookie": "s=1"})
    assert (got.status, got.get("saw-x-host"), got.get("saw-host")) == (
        200,
        "door.example",
        "h.test",
    )


def test_a_body_is_told_and_still_sent(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/body", "POST", body=b"12345678")
    assert (got.status, got.get("saw-x-body")) == (200, "12345678")
    chunked = [("transfer-encoding", "chunked")]
    got = fetch(PORT, "/body", "POST", headers=chunked, body=b"3\r\nabc\r\n0\r\n\r\n")
    assert (got.status, got.get("saw-x-body")) == (200, "abc")
    got = fetch(PORT, "/body", "POST", body=b"123456789")
    assert (got.status, got.body) == (413, b"")


def test_before_a_route_is_chosen_it_may_choose(gateway: GatewayProcess) -> None:
    got = fetch(GATED, "/anywhere")
    assert (got.status, got.get("saw-x-user"), got.get("x-told")) == (200, "ann", "yes")
    assert fetch(GATED, "/no").status == 403


@pytest.mark.parametrize("kind", ["down", "hangs", "lies"])
def test_a_service_that_fails(kind: str, gateway: GatewayProcess) -> None:
    with ThreadPoolExecutor(3) as pool:
        names = ("deny", "status", "allow")
        found = list(pool.map(lambda name: fetch(PORT, f"/{kind}/{name}"), names))
    assert [(one.status, one.text) for one in found] == [
        (403, FAILED),
        (503, FAILED),
        (200, "served"),
    ]


def test_a_client_that_leaves_ends_the_call(
    gateway: GatewayProcess, service: AuthorizationServer
) -> None:
    service.take()
    service.cancelled.clear()
    with socket.create_connection(("127.0.0.1", PORT), SECONDS) as sock:
        sock.sendall(b"GET /waits HTTP/1.1\r\nhost: h.test\r\n\r\n")
        service.wait(1)
    assert service.cancelled.wait(SECONDS)


def test_calls_are_measured(gateway: GatewayProcess) -> None:
    name = "agentgateway_upstream_call_duration_seconds_count"
    labels = {"kind": "Policy", "subtype": "ExtAuthz"}
    before = gateway.metric(name, **labels)
    fetch(PORT, "/grpc")
    fetch(PORT, "/http")
    gateway.wait_metric(name, before + 2, **labels)


def test_the_example_asks_both_services(
    service: AuthorizationServer, plain: Upstream, up: Upstream, tmp_path: Path
) -> None:
    (port,) = free_ports(1)
    config = yaml.safe_load((ROOT / "deploy/examples/traffic-ext-authz.yaml").read_text())
    config["gateways"]["default"]["port"] = port
    api, pages = config["routes"]
    api["policies"]["extAuthz"]["host"] = service.address
    pages["policies"]["extAuthz"]["host"] = plain.address
    for one in (api, pages):
        one["backends"] = [{"host": up.address}]
    with GatewayProcess(config) as gateway:
        service.take()
        assert fetch(port, "/api/x", "POST", body=b"q" * 9000).status == 200
        (asked,) = service.take()
        assert len(asked.request.http.body) == 8192
        assert dict(asked.context_extensions) == {"route": "api"}
        got = fetch(port, "/a/b")
        assert (got.status, got.get("location")) == (302, "/oauth2/start?rd=%2Fa%2Fb")
        plain.take()
        for _ in range(3):
            got = fetch(port, "/a/b", headers={"cookie": "s=1"})
            assert (got.status, got.get("saw-x-auth-request-user")) == (200, "ann")
        (asked_once,) = plain.take()
        assert (asked_once.target, asked_once.get("x-forwarded-host")) == ("/oauth2/auth", "h.test")
        assert "user=ann" in gateway.wait_line("user=ann")


def test_nothing_went_wrong_inside(gateway: GatewayProcess) -> None:
    """Last, so that it has seen what all of the above did."""
    log = gateway.log()
    assert "Traceback" not in log
    assert "never retrieved" not in log
    assert "failed inside the gateway" not in log
