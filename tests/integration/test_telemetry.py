"""What an operator sees of requests: log lines, metrics, traces, levels, dump, readiness.

Source: spec/config.md sections 8.3, 8.4 and 9.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.sidecar.telemetry.collectors import GrpcCollector, HttpCollector
from tests.support.client import fetch
from tests.support.gateway import START_SECONDS, GatewayProcess, free_ports
from tests.support.octets import TcpUpstream, read_all
from tests.support.upstream import Answer, Seen, Upstream

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
TRACE = "0af7651916cd43dd8448eb211c80319c"


def script(seen: Seen) -> Answer:
    return Answer(int(seen.get("x-status") or 200), [("x-up", "1")], b"hello")


@pytest.fixture(scope="module")
def up() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


def config_of(port: int, up: Upstream, **more: Any) -> dict[str, Any]:
    routes = [
        {
            "name": "shop",
            "ruleName": "r1",
            "matches": [{"path": {"pathPrefix": "/shop"}}],
            "policies": {"timeout": {"requestTimeout": "10s"}},
            "backends": [{"host": up.address}],
        },
        {
            "name": "moved",
            "matches": [{"path": {"pathPrefix": "/moved"}}],
            "policies": {
                "urlRewrite": {"authority": {"full": "inner.test"}, "path": {"prefix": "/in"}}
            },
            "backends": [{"host": up.address}],
        },
        {
            "name": "closed",
            "matches": [{"path": {"pathPrefix": "/closed"}}],
            "policies": {"authorization": {"rules": ["false"]}},
            "backends": [{"host": up.address}],
        },
        {
            "name": "direct",
            "matches": [{"path": {"exact": "/direct"}}],
            "policies": {"directResponse": {"status": 200, "body": "direct"}},
        },
    ]
    return {"binds": [{"port": port, "listeners": [{"name": "web", "routes": routes}]}], **more}


def wait_lines(gateway: GatewayProcess, has: Callable[[str], bool], count: int = 1) -> list[str]:
    """The lines of the log that meet a condition, once there are so many."""
    until = time.monotonic() + START_SECONDS
    while True:
        found = [line for line in gateway.log().splitlines() if has(line)]
        if len(found) >= count:
            return found
        assert time.monotonic() < until, gateway.log()
        time.sleep(0.01)


def test_text_access_log(up: Upstream) -> None:
    port = free_ports(1)[0]
    policy = {
        "add": {
            "who": 'request.headers["x-who"]',
            "took": "proxy.upstreamDuration > duration('0s')",
        },
        "remove": ["http.version"],
        "filter": 'request.path != "/shop/quiet"',
    }
    config = config_of(port, up, frontendPolicies={"accessLog": policy})
    with GatewayProcess(config) as gateway:
        fetch(port, "/shop/quiet")
        fetch(port, "/shop/a?b=1", host="shop.test", headers={"x-who": 'two "words"\n'.strip()})
        fetch(port, "/direct")
        fetch(port, "/none")
        lines = wait_lines(gateway, lambda line: "\trequest " in line, 3)
    assert len(lines) == 3
    shop, direct, none = lines
    expected = (
        r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z\tinfo\trequest gateway=default/default listener=web"
        rf" route_rule=r1 route=default/shop endpoint={re.escape(up.address)}"
        r" src\.addr=127\.0\.0\.1:\d+"
        r" http\.method=GET http\.host=shop\.test http\.path=/shop/a\S* http\.status=200"
        r" trace\.id=[0-9a-f]{32} span\.id=[0-9a-f]{16} protocol=http"
        r' duration=\S+ who="two \\"words\\"" took=true'
    )
    assert re.fullmatch(expected, shop), shop
    assert "reason=DirectResponse" in direct
    assert "endpoint=" not in direct
    assert "http.status=404" in none
    assert 'error="route not found" reason=NotFound' in none


def test_json_access_log_and_refused_requests(up: Upstream) -> None:
    port = free_ports(1)[0]
    config = config_of(port, up, config={"logging": {"format": "json"}})
    with GatewayProcess(config) as gateway:
        fetch(port, "/shop", headers={"x-status": "503"})
        with TcpConnection(port) as answer:
            assert answer(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n").startswith(
                b"HTTP/1.1 400 "
            )
        lines = wait_lines(gateway, lambda line: '"scope":"request"' in line, 2)
    shop, refused = map(orjson.loads, lines)
    assert shop["level"] == "info"
    assert (shop["http.status"], shop["route"], shop["http.version"]) == (
        503,
        "default/shop",
        "HTTP/1.1",
    )
    assert (refused["http.status"], refused["src.addr"].split(":")[0]) == (400, "127.0.0.1")


class TcpConnection:
    """Send octets as they are, read to the end."""

    def __init__(self, port: int) -> None:
        self._sock = socket.create_connection(("127.0.0.1", port), 20)

    def __enter__(self) -> Callable[[bytes], bytes]:
        def ask(data: bytes) -> bytes:
            self._sock.sendall(data)
            return read_all(self._sock)

        return ask

    def __exit__(self, *_: object) -> None:
        self._sock.close()


def test_tcp_connections_are_logged() -> None:
    port = free_ports(1)[0]
    with TcpUpstream(lambda sock: sock.sendall(b"bye")) as up:
        route = {"name": "raw", "backends": [{"host": up.address}]}
        config = {
            "binds": [{"port": port, "listeners": [{"protocol": "TCP", "tcpRoutes": [route]}]}]
        }
        with GatewayProcess(config) as gateway:
            with TcpConnection(port) as ask:
                assert ask(b"hello") == b"bye"
            line = wait_lines(gateway, lambda line: "protocol=tcp" in line)[0]
    assert "route=default/raw" in line
    assert f"endpoint={up.address}" in line
    assert "http.status" not in line


def test_metrics(up: Upstream) -> None:
    port = free_ports(1)[0]
    static = {"metrics": {"fields": {"add": {"tier": 'request.headers["x-tier"]'}}}}
    with GatewayProcess(config_of(port, up, config=static), workers=2) as gateway:
        for status in ("200", "200", "503"):
            fetch(port, "/shop", headers={"x-status": status, "x-tier": "gold"})
        fetch(port, "/direct")
        fetch(port, "/none", "PUT")
        shop = {
            "backend": up.address,
            "protocol": "http",
            "method": "GET",
            "bind": f"bind/{port}",
            "gateway": "default/default",
            "listener": "web",
            "route": "default/shop",
            "route_rule": "r1",
            "tier": "gold",
        }
        total = "agentgateway_requests_total"
        gateway.wait_metric(total, 3, **shop)
        gateway.wait_metric(total, 1, status="503", reason="Upstream", **shop)
        gateway.wait_metric(total, 1, reason="DirectResponse", backend="unknown")
        lost = {"status": "404", "reason": "NotFound", "route": "unknown", "method": "PUT"}
        gateway.wait_metric(total, 1, **lost)
        gateway.wait_metric("agentgateway_response_bytes_total", 15, **shop)
        gateway.wait_metric("agentgateway_request_duration_seconds_count", 3, **shop)
        assert (
            gateway.metric("agentgateway_request_duration_seconds_bucket", le="+Inf", **shop) == 3
        )
        assert (
            gateway.metric("agentgateway_upstream_call_duration_seconds_count", kind="Primary") == 3
        )
        assert gateway.metric("agentgateway_upstream_connect_duration_seconds_count") >= 1
        gateway.wait_metric("agentgateway_downstream_connections_total", 5, protocol="http")
        gateway.wait_metric("agentgateway_build_info", 1)
        gateway.wait_metric("agentgateway_config_synchronized", 1)
        text = gateway.metrics()
    assert "# TYPE agentgateway_requests_total counter" in text
    assert "# TYPE agentgateway_request_duration_seconds histogram" in text


def test_host_and_path_of_the_log_are_the_clients(up: Upstream) -> None:
    port = free_ports(1)[0]
    with GatewayProcess(config_of(port, up, frontendPolicies={"accessLog": {}})) as gateway:
        fetch(port, "/moved/a?b=1", host="outer.test")
        (line,) = wait_lines(gateway, lambda line: "route=default/moved" in line)
    assert (up.seen[-1].target, up.seen[-1].get("host")) == ("/in/a?b=1", "inner.test")
    assert " http.host=outer.test http.path=/moved/a http.version" in line


def test_a_request_refused_before_a_backend_was_chosen_has_none(up: Upstream) -> None:
    port = free_ports(1)[0]
    with GatewayProcess(config_of(port, up)) as gateway:
        # The first goes the long way; then a connection is kept, and the short way is open.
        assert fetch(port, "/closed").status == 403
        fetch(port, "/shop")
        assert fetch(port, "/closed").status == 403
        gateway.wait_metric(
            "agentgateway_requests_total", 2, route="default/closed", backend="unknown"
        )


def test_removed_metrics(up: Upstream) -> None:
    port = free_ports(1)[0]
    static = {"metrics": {"remove": ["request_duration", "agentgateway_requests_total"]}}
    with GatewayProcess(config_of(port, up, config=static)) as gateway:
        fetch(port, "/shop")
        gateway.wait_metric("agentgateway_response_bytes_total", 5)
        text = gateway.metrics()
    assert "agentgateway_requests_total" not in text
    assert "agentgateway_request_duration" not in text


def test_trace_context_without_tracing(up: Upstream) -> None:
    """It passes through untouched, and its trace names the log line."""
    port = free_ports(1)[0]
    with GatewayProcess(config_of(port, up)) as gateway:
        up.take()
        fetch(port, "/shop", headers={"traceparent": PARENT, "tracestate": "a=1"})
        fetch(port, "/shop")
        with_parent, without = up.wait(2)
        line = wait_lines(gateway, lambda line: f"trace.id={TRACE}" in line)[0]
    assert (with_parent.get("traceparent"), with_parent.get("tracestate")) == (PARENT, "a=1")
    assert without.get("traceparent") is None
    assert "route=default/shop" in line


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_spans_reach_a_collector(protocol: str, up: Upstream) -> None:
    port = free_ports(1)[0]
    collector: GrpcCollector | HttpCollector
    collector = GrpcCollector() if protocol == "grpc" else HttpCollector()
    try:
        policy = {
            "host": collector.address,
            "protocol": protocol,
            "randomSampling": 'request.path == "/shop/sampled"',
            "attributes": {"team": '"blue"'},
            "resources": {"deployment": '"test"'},
        }
        config = config_of(port, up, frontendPolicies={"tracing": policy})
        with GatewayProcess(config, env={"OTEL_SERVICE_NAME": "edge"}) as gateway:
            up.take()
            fetch(port, "/shop/other")
            fetch(port, "/shop/sampled", headers={"x-status": "503"})
            fetch(port, "/shop/x", headers={"traceparent": PARENT, "tracestate": "a=1"})
            assert gateway.stop() == 0
        other, sampled, continued = up.take()
        spans: list[Any] = []
        resource: dict[str, str] = {}
        while not collector.received.empty():
            request, _ = collector.received.get()
            for one in request.resource_spans:
                resource = {item.key: item.value.string_value for item in one.resource.attributes}
                spans += [span for scope in one.scope_spans for span in scope.spans]
    finally:
        collector.close()
    assert other.get("traceparent") is None
    assert (resource["service.name"], resource["deployment"]) == ("edge", "test")
    assert len(spans) == 4
    servers = {bool(span.parent_span_id): span for span in spans if span.kind == 2}
    calls = {span.parent_span_id: span for span in spans if span.kind == 3}
    for is_continued, seen in ((False, sampled), (True, continued)):
        server = servers[is_continued]
        call = calls[server.span_id]
        assert server.name == "GET /shop/*"
        assert call.name == f"GET {up.address}"
        # The upstream is told of the call's span, which is a child of the request's.
        parent = f"00-{server.trace_id.hex()}-{call.span_id.hex()}-01"
        assert seen.get("traceparent") == parent
        attributes = {item.key: item.value for item in server.attributes}
        assert attributes["http.status"].int_value == (200 if is_continued else 503)
        assert attributes["team"].string_value == "blue"
        assert attributes["url.scheme"].string_value == "http"
        outbound = {item.key: item.value.string_value for item in call.attributes}
        assert outbound["agentgateway.outbound.kind"] == "Primary"
        assert outbound["agentgateway.outbound.subtype"] == "Http"
        assert server.start_time_unix_nano <= call.start_time_unix_nano
        assert call.end_time_unix_nano <= server.end_time_unix_nano
    assert servers[True].trace_id.hex() == TRACE
    assert servers[True].parent_span_id.hex() == PARENT.split("-")[2]
    assert continued.get("tracestate") == "a=1"
    assert servers[False].status.code == 2


def test_levels_change_in_the_workers(up: Upstream) -> None:
    port = free_ports(1)[0]
    config = config_of(port, up, config={"logging": {"level": "info,request=warn"}})
    with GatewayProcess(config, workers=2) as gateway:
        revision = gateway.dump()["revision"]
        fetch(port, "/shop/before")
        changed = fetch(gateway.admin_port, "/logging?level=info", "POST", host="localhost")
        assert changed.status == 200
        gateway.wait_applied(revision + 1)
        fetch(port, "/shop/after")
        wait_lines(gateway, lambda line: "/shop/after" in line)
        assert "/shop/before" not in gateway.log()
        bad = fetch(gateway.admin_port, "/logging?level=a=nonsense", "POST", host="localhost")
        assert bad.status == 400
        fetch(gateway.admin_port, "/logging?reset", "POST", host="localhost")
        gateway.wait_applied(revision + 2)
        fetch(port, "/shop/reset")
        gateway.wait_metric("agentgateway_requests_total", 3)
        # What is written goes out in order: a line of the second kind would stand before this.
        assert (
            fetch(gateway.admin_port, "/logging?level=info", "POST", host="localhost").status == 200
        )
        gateway.wait_applied(revision + 3)
        for _ in range(8):
            fetch(port, "/shop/last")
        wait_lines(gateway, lambda line: "/shop/last" in line, 8)
        assert "/shop/reset" not in gateway.log()


def test_config_dump_hides_secrets(up: Upstream) -> None:
    port = free_ports(1)[0]
    config = config_of(port, up)
    config["binds"][0]["listeners"][0]["routes"][0]["policies"]["requestHeaderModifier"] = {
        "set": {"authorization": "Bearer tell-nobody"}
    }
    with GatewayProcess(config) as gateway:
        up.take()
        fetch(port, "/shop")
        assert up.take()[0].get("authorization") == "Bearer tell-nobody"
        dump = orjson.dumps(gateway.dump()).decode()
    assert "default/shop" in dump or '"shop"' in dump
    assert "tell-nobody" not in dump


def test_readiness(up: Upstream) -> None:
    port = free_ports(1)[0]
    with GatewayProcess(config_of(port, up)) as gateway:
        ready = fetch(gateway.readiness_port, "/healthz/ready")
        assert (ready.status, ready.text) == (200, "ready\n")
        assert fetch(gateway.readiness_port, "/other").status == 404
        assert fetch(gateway.readiness_port, "/healthz/ready", "POST", body=b"").status == 405
        metrics = fetch(gateway.stats_port, "/stats/prometheus")
        assert (metrics.get("content-type") or "").startswith("text/plain")


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_log_records_reach_a_collector(protocol: str, up: Upstream) -> None:
    port = free_ports(1)[0]
    collector: GrpcCollector | HttpCollector
    collector = GrpcCollector() if protocol == "grpc" else HttpCollector()
    try:
        otlp = {"host": collector.address, "protocol": protocol, "filter": "response.code == 503"}
        config = config_of(port, up, frontendPolicies={"accessLog": {"otlp": otlp}})
        with GatewayProcess(config) as gateway:
            fetch(port, "/shop/a")
            fetch(port, "/shop/b", headers={"x-status": "503", "traceparent": PARENT})
            assert gateway.stop() == 0
        request, _ = collector.logs.get(timeout=20)
    finally:
        collector.close()
    (resource,) = request.resource_logs
    (record,) = resource.scope_logs[0].log_records
    fields = {item.key: item.value for item in record.attributes}
    assert (fields["http.path"].string_value, fields["http.status"].int_value) == ("/shop/b", 503)
    assert record.trace_id.hex() == TRACE
