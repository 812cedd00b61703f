"""remoteRateLimit through a real gateway and a real service of Envoy's protocol.

Source: spec/config.md sections 3.2, 3.10, 9.1, 9.3 and 11; spec/llm.md section 4.6.
"""

from __future__ import annotations

import http.client
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.sidecar.telemetry.collectors import HttpCollector
from tests.support.authority import Authority
from tests.support.client import fetch
from tests.support.gateway import ROOT, GatewayProcess, free_ports, proxy_config
from tests.support.models import openai
from tests.support.octets import TcpUpstream
from tests.support.rls import OVER, Answer, Asked, Limit, Question, RateLimitServer
from tests.support.upstream import Answer as UpstreamAnswer
from tests.support.upstream import Seen, Upstream

PORT, NOBODY = free_ports(2)
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECONDS = 20.0
Route = dict[str, Any]


class Upstreams:
    """What answers behind the gateway: `x-cost` as asked; `/tokens/endless` never ends."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def __call__(self, seen: Seen) -> UpstreamAnswer:
        told = [("x-cost", seen.get("x-cost") or "0"), ("x-tier", seen.get("x-tier") or "")]
        if seen.target == "/tokens/endless":
            return UpstreamAnswer(headers=told, body=self._endless())
        return UpstreamAnswer(headers=told, body=b"served")

    def _endless(self) -> Iterator[bytes]:
        while not self.release.is_set():
            yield b"x" * 16384


class Scripts:
    """One service for all routes: what it says depends on the domain it is asked in."""

    def __init__(self) -> None:
        self.limits: dict[str, Limit] = {}

    def __call__(self, question: Question) -> Answer:
        domain = question.domain
        if domain in self.limits:
            return self.limits[domain](question)
        if domain == "over":
            told: list[tuple[str, str | bytes]] = [("x-why", "plan"), ("content-type", "text/x")]
            return Answer(OVER, [(7, 0, 30)], told, body=b"in its words")
        if domain == "tier":
            return Answer(request_headers=[("x-tier", "free")])
        if domain == "lies":
            return Answer(raw=b"\xff\xff")
        if domain == "hangs":
            return Answer(hang=True)
        return Answer()


@pytest.fixture(scope="module")
def scripts() -> Scripts:
    return Scripts()


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture(scope="module")
def rls(scripts: Scripts) -> Iterator[RateLimitServer]:
    with RateLimitServer(scripts) as made:
        yield made


@pytest.fixture(scope="module")
def secured(authority: Authority) -> Iterator[RateLimitServer]:
    with RateLimitServer(tls=authority.issue(["rls.test"])) as made:
        yield made


@pytest.fixture(scope="module")
def upstreams() -> Upstreams:
    return Upstreams()


@pytest.fixture(scope="module")
def up(upstreams: Upstreams) -> Iterator[Upstream]:
    with Upstream(upstreams) as made:
        yield made
        upstreams.release.set()


def by(key: str, value: str, **more: Any) -> dict[str, Any]:
    return {"entries": [{"key": key, "value": value}], **more}


def limited(address: str, domain: str, *descriptors: dict[str, Any], **more: Any) -> Route:
    default = [by("path", "request.path")]
    return {
        "domain": domain,
        "host": address,
        "descriptors": [*descriptors] or default,
        # The default is 2 s, which a busy machine may take.
        "policies": {"http": {"requestTimeout": "20s"}},
        **more,
    }


def alone(port: int, policy: Route, up: Upstream, **more: Any) -> dict[str, Any]:
    """A gateway of one route."""
    return {**proxy_config(port, up.address, policies={"remoteRateLimit": policy}), **more}


@pytest.fixture(scope="module")
def pem(authority: Authority, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `root`, `cert` and `key`."""
    folder = tmp_path_factory.mktemp("pem")
    pair = authority.issue(["client.test"])
    for name, text in (("root", authority.root), ("cert", pair.cert), ("key", pair.key)):
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def gateway(
    rls: RateLimitServer, secured: RateLimitServer, up: Upstream, pem: Path
) -> Iterator[GatewayProcess]:
    def route(path: str, policy: Route, **policies: Any) -> Route:
        return {
            "name": path.strip("/").replace("/", "-"),
            "matches": [{"path": {"pathPrefix": path}}],
            "policies": {"remoteRateLimit": policy, **policies},
            "backends": [{"host": up.address}],
        }

    with TcpUpstream(_reset) as resets:
        failing: dict[str, tuple[str, dict[str, Any]]] = {
            "down": (f"127.0.0.1:{NOBODY}", {}),
            "hangs": (rls.address, {"policies": {"http": {"requestTimeout": "200ms"}}}),
            "resets": (resets.address, {}),
            "lies": (rls.address, {}),
        }
        routes = [
            route(f"/{kind}/{mode}", limited(address, kind, failureMode=mode, **more))
            for kind, (address, more) in failing.items()
            for mode in ("failClosed", "failOpen")
        ]
        user = by("user", "request.headers['x-user']")
        tokens = by("user", "request.headers['x-user']", type="tokens")
        tls = {"backendTLS": {"root": str(pem / "root"), "hostname": "rls.test"}}
        named = limited("", "named")
        named["backend"] = "limits"
        del named["host"]
        alternatives = [
            {**limited(rls.address, "put"), "condition": "request.method == 'PUT'"},
            limited(rls.address, "rest"),
        ]
        routes += [
            route("/shared", limited(rls.address, "shared", user)),
            route("/over", limited(rls.address, "over"), cors={"allowOrigins": ["*"]}),
            route("/tier", limited(rls.address, "tier")),
            route("/denied", limited(rls.address, "denied"), authorization={"rules": ["false"]}),
            route(
                "/both",
                limited(rls.address, "both"),
                localRateLimit=[{"maxTokens": 2, "tokensPerFill": 1, "fillInterval": "1h"}],
            ),
            route("/conditional", {"conditional": alternatives}),
            route(
                "/waits", limited(rls.address, "hangs", policies={"http": {"requestTimeout": "1m"}})
            ),
            route(
                "/retried", limited(rls.address, "retried"), retry={"attempts": 2, "codes": [200]}
            ),
            route("/named", named),
            route("/tls", limited(secured.address, "tls", policies=tls)),
            route(
                "/tokens",
                limited(
                    rls.address, "tokens", {**tokens, "cost": "int(response.headers['x-cost'])"}
                ),
                responseHeaderModifier={"remove": ["x-cost"]},
            ),
        ]
        config = {
            "binds": [{"port": PORT, "listeners": [{"routes": routes}]}],
            "backends": [{"name": "limits", "host": rls.address}],
        }
        with GatewayProcess(config, workers=2) as made:
            yield made


def _reset(sock: socket.socket) -> None:
    sock.recv(1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    sock.close()


def statuses(count: int, target: str, **headers: str) -> Counter[int]:
    def one(_: int) -> int:
        return fetch(PORT, target, headers=headers).status

    with ThreadPoolExecutor(50) as pool:
        return Counter(pool.map(one, range(count)))


# --- limits -------------------------------------------------------------------------------


def test_a_limit_holds_for_all_workers_under_load(
    gateway: GatewayProcess, rls: RateLimitServer, scripts: Scripts, up: Upstream
) -> None:
    scripts.limits["shared"] = Limit(120)
    rls.take()
    up.take()
    found = statuses(200, "/shared/a", **{"x-user": "ann"})
    assert found == {200: 120, 429: 80}
    # Each was asked for exactly once, and who was refused did not reach the backend.
    assert len(rls.take()) == 200
    assert len(up.take()) == 120
    assert statuses(5, "/shared/a", **{"x-user": "bob"}) == {200: 5}
    # Without the header there is nothing to count by.
    rls.take()
    assert fetch(PORT, "/shared/a").status == 200
    assert rls.take() == []


def test_the_client_is_told(gateway: GatewayProcess, scripts: Scripts) -> None:
    scripts.limits["shared"] = Limit(2)
    headers = {"x-user": "cy"}
    first, second, third = (fetch(PORT, "/shared/b", headers=headers) for _ in range(3))
    assert [one.status for one in (first, second, third)] == [200, 200, 429]
    assert (first.get("x-ratelimit-limit"), first.get("x-ratelimit-remaining")) == ("2", "1")
    assert (second.get("x-ratelimit-remaining"), second.get("x-ratelimit-reset")) == ("0", "30")
    assert (third.text, third.get("content-type")) == ("rate limit exceeded", "text/plain")
    assert (third.get("retry-after"), third.get("x-ratelimit-remaining")) == ("30", "0")


def test_the_services_words_reach_the_client(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/over", headers={"origin": "https://a.test"})
    assert (got.status, got.text) == (429, "in its words")
    assert (got.get("x-why"), got.get_all("content-type")) == ("plan", ["text/x"])
    assert got.get("access-control-allow-origin") == "https://a.test"
    assert fetch(PORT, "/over", "OPTIONS", headers={"origin": "https://a.test"}).status == 200
    grpc = fetch(PORT, "/over", "POST", headers={"content-type": "application/grpc"})
    assert (grpc.status, grpc.get("grpc-status"), grpc.body) == (200, "14", b"")


def test_headers_for_the_backend_take_the_place_of_the_clients(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/tier", headers={"x-tier": "gold"})
    assert got.get("x-tier") == "free"


def test_the_first_alternative_that_applies(gateway: GatewayProcess, rls: RateLimitServer) -> None:
    rls.take()
    for method in ("PUT", "GET"):
        fetch(PORT, "/conditional", method)
    assert [one.domain for one in rls.take()] == ["put", "rest"]


@pytest.mark.parametrize("path", ["/named", "/tls"])
def test_ways_to_the_service(
    path: str, gateway: GatewayProcess, rls: RateLimitServer, secured: RateLimitServer
) -> None:
    server = secured if path == "/tls" else rls
    server.take()
    assert fetch(PORT, path).status == 200
    (asked,) = server.take()
    assert asked == Question(path[1:], (Asked((("path", path),)),), asked.metadata)


# --- order --------------------------------------------------------------------------------


def test_whom_a_local_limit_refuses_costs_no_call(
    gateway: GatewayProcess, rls: RateLimitServer
) -> None:
    rls.take()
    assert [fetch(PORT, "/both").status for _ in range(4)] == [200, 200, 429, 429]
    assert len(rls.take()) == 2


def test_whom_authorization_refuses_costs_no_call(
    gateway: GatewayProcess, rls: RateLimitServer
) -> None:
    rls.take()
    assert fetch(PORT, "/denied").status == 403
    assert rls.take() == []


def test_attempts_are_one_request(
    gateway: GatewayProcess, rls: RateLimitServer, up: Upstream
) -> None:
    rls.take()
    up.take()
    assert fetch(PORT, "/retried").status == 200
    assert len(up.take()) == 3
    assert len(rls.take()) == 1


# --- failures -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["down", "hangs", "resets", "lies"])
@pytest.mark.parametrize("mode", ["failClosed", "failOpen"])
def test_a_service_that_fails(kind: str, mode: str, gateway: GatewayProcess) -> None:
    with ThreadPoolExecutor(10) as pool:
        found = list(pool.map(lambda _: fetch(PORT, f"/{kind}/{mode}"), range(10)))
    if mode == "failClosed":
        assert {(one.status, one.text) for one in found} == {(500, "rate limit failed")}
    else:
        assert {(one.status, one.text) for one in found} == {(200, "served")}
    closed = [line for line in gateway.log().splitlines() if f"/{kind}/failClosed" in line]
    assert all("reason=RateLimit" in line for line in closed)


def test_a_client_that_leaves_ends_the_call(gateway: GatewayProcess, rls: RateLimitServer) -> None:
    rls.take()
    rls.cancelled.clear()
    with socket.create_connection(("127.0.0.1", PORT), SECONDS) as sock:
        sock.sendall(b"GET /waits HTTP/1.1\r\nhost: h.test\r\n\r\n")
        rls.wait(1)
    assert rls.cancelled.wait(SECONDS)


def test_a_service_that_is_replaced_is_found_again(up: Upstream) -> None:
    (port,) = free_ports(1)
    first = RateLimitServer()
    config = alone(port, limited(first.address, "d"), up)
    with GatewayProcess(config) as gateway:
        with first:
            assert fetch(port).status == 200
        got = fetch(port)
        assert (got.status, got.text) == (500, "rate limit failed")
        with RateLimitServer(port=first.port) as second:
            assert fetch(port).status == 200
            assert len(second.take()) == 1
        assert gateway.stop() == 0
        warnings = [one for one in gateway.log().splitlines() if "rate limit service" in one]
    assert len(warnings) == 1
    assert first.address in warnings[0]


# --- tokens -------------------------------------------------------------------------------


def amended(rls: RateLimitServer, user: str) -> list[int | None]:
    """The hits of a user, in order, once there are two calls."""
    hits: list[int | None] = []
    while len(hits) < 2:
        for question in rls.wait(1):
            hits += [one.hits for one in question.descriptors if one.entries == (("user", user),)]
    return hits


def test_tokens_are_asked_for_and_then_told(gateway: GatewayProcess, rls: RateLimitServer) -> None:
    rls.take()
    got = fetch(PORT, "/tokens", headers={"x-user": "ann", "x-cost": "23017"})
    # The cost was read before the client's view of the response was made.
    assert (got.status, got.get("x-cost")) == (200, None)
    assert amended(rls, "ann") == [0, 23017]
    fetch(PORT, "/tokens", headers={"x-user": "none"})
    fetch(PORT, "/tokens", headers={"x-user": "bea", "x-cost": "5"})
    assert amended(rls, "bea") == [0, 5]


def test_tokens_are_told_when_the_client_leaves(
    gateway: GatewayProcess, rls: RateLimitServer
) -> None:
    rls.take()
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=SECONDS)
    connection.request("GET", "/tokens/endless", headers={"x-user": "eve", "x-cost": "77"})
    answer = connection.getresponse()
    assert len(answer.read(100_000)) == 100_000
    answer.close()
    connection.close()
    assert amended(rls, "eve") == [0, 77]


def test_tokens_of_models_are_told() -> None:
    (port,) = free_ports(1)
    with Upstream(openai) as models, RateLimitServer(lambda question: Answer()) as rls:
        tokens = by("user", 'request.headers["x-user"]', type="tokens")
        backend = {"provider": {"openAI": {}}, "hostOverride": models.address, "pathPrefix": "/v1"}
        kinds = {"/v1/chat/completions": "completions", "/v1/messages": "messages"}
        route = {
            "policies": {
                "remoteRateLimit": limited(rls.address, "d", tokens),
                "ai": {"routes": kinds},
            },
            "backends": [{"ai": {"name": "m", **backend}}],
        }
        with GatewayProcess({"binds": [{"port": port, "listeners": [{"routes": [route]}]}]}):
            for user, path, is_streamed in (
                ("ann", "/v1/chat/completions", False),
                ("bea", "/v1/messages", True),
            ):
                asked = {
                    "model": "gpt-test",
                    "max_tokens": 9,
                    "stream": is_streamed,
                    "messages": [{"role": "user", "content": "hi"}],
                }
                got = fetch(
                    port,
                    path,
                    "POST",
                    headers={"x-user": user, "content-type": "application/json"},
                    body=orjson.dumps(asked),
                )
                assert got.status == 200
                assert amended(rls, user)[-1] == 40


def test_tokens_under_way_are_told_before_the_gateway_ends(up: Upstream) -> None:
    (port,) = free_ports(1)
    arrived, go_on = threading.Event(), threading.Event()

    def slow(question: Question) -> Answer:
        if question.descriptors[0].hits:
            arrived.set()
            go_on.wait(SECONDS)
        return Answer()

    tokens = by("a", "'b'", type="tokens", cost="3")
    with RateLimitServer(slow) as rls:
        config = alone(port, limited(rls.address, "d", tokens), up)
        with GatewayProcess(config) as gateway:
            assert fetch(port).status == 200
            assert arrived.wait(SECONDS)
            with ThreadPoolExecutor(1) as pool:
                stopped = pool.submit(gateway.stop)
                gateway.wait_not_ready()
                go_on.set()
                assert stopped.result(SECONDS) == 0
        assert not rls.cancelled.is_set()
        assert [one.descriptors[0].hits for one in rls.take()] == [0, 3]
        assert "in the background failed" not in gateway.log()


# --- the example ---------------------------------------------------------------------------


def test_the_example_limits_by_method_and_user(up: Upstream) -> None:
    (port,) = free_ports(1)
    config = yaml.safe_load((ROOT / "deploy/examples/traffic-ratelimiting-global.yaml").read_text())
    service = RateLimitServer(Limit(3))
    config["gateways"]["default"]["port"] = port
    (route,) = config["routes"]
    route["policies"]["remoteRateLimit"]["host"] = service.address
    route["backends"] = [{"host": up.address}]
    with GatewayProcess(config):
        with service:
            asked = [fetch(port, headers={"x-user": "ann"}).status for _ in range(4)]
            assert asked == [200, 200, 200, 429]
            assert fetch(port, method="PUT", headers={"x-user": "bob"}).status == 200
            assert fetch(port, method="GET").status == 429
        # Fails open, as the example says.
        assert fetch(port, headers={"x-user": "ann"}).status == 200


# --- what an operator sees ----------------------------------------------------------------


def test_calls_are_measured(gateway: GatewayProcess) -> None:
    name = "agentgateway_upstream_call_duration_seconds_count"
    before = gateway.metric(name, kind="Policy", subtype="RateLimit")
    fetch(PORT, "/tier")
    gateway.wait_metric(name, before + 1, kind="Policy", subtype="RateLimit")
    refused = gateway.metric("agentgateway_requests_total", reason="RateLimit")
    fetch(PORT, "/over")
    gateway.wait_metric("agentgateway_requests_total", refused + 1, reason="RateLimit")


def test_calls_are_spans_of_the_clients_trace(up: Upstream) -> None:
    (port,) = free_ports(1)
    collector = HttpCollector()
    try:
        with RateLimitServer() as rls:
            tracing = {"tracing": {"host": collector.address, "protocol": "http"}}
            policy = limited(rls.address, "d")
            config = alone(port, policy, up, frontendPolicies=tracing)
            with GatewayProcess(config) as gateway:
                fetch(port, headers={"traceparent": PARENT})
                assert gateway.stop() == 0
            (asked,) = rls.take()
        spans: list[Any] = []
        while not collector.received.empty():
            request, _ = collector.received.get()
            for one in request.resource_spans:
                spans += [span for scope in one.scope_spans for span in scope.spans]
    finally:
        collector.close()
    found = {}
    for span in spans:
        attributes = {item.key: item.value for item in span.attributes}
        if "agentgateway.outbound.subtype" in attributes:
            found[attributes["agentgateway.outbound.subtype"].string_value] = span, attributes
    span, attributes = found["RateLimit"]
    assert span.name == f"POST {rls.address}"
    assert attributes["agentgateway.outbound.kind"].string_value == "Policy"
    assert attributes["http.path"].string_value.endswith("/ShouldRateLimit")
    assert span.parent_span_id == found["Http"][0].parent_span_id
    assert re.fullmatch(f"00-{PARENT[3:35]}-{span.span_id.hex()}-01", asked.metadata["traceparent"])


def test_the_dump_hides_the_key(up: Upstream, pem: Path) -> None:
    (port,) = free_ports(1)
    tls = {"backendTLS": {name: str(pem / name) for name in ("root", "cert", "key")}}
    policy = limited("127.0.0.1:1", "d", policies=tls)
    with GatewayProcess(alone(port, policy, up)) as gateway:
        dump = str(gateway.dump())
        assert "remoteRateLimit" in dump
        assert "PRIVATE KEY" not in dump + gateway.log()
