"""Spans of MCP calls, and what servers are told of the trace. Source: spec/mcp_a2a.md 2.13."""

from __future__ import annotations

from tests.sidecar.telemetry.collectors import GrpcCollector
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_server import McpClient, McpServer, mcp_config
from tests.support.upstream import Upstream

Attributes = dict[str, str]
NAMES = {
    *("initialize one", "initialize two"),
    *("notifications/initialized one", "notifications/initialized two"),
    *("tools/list one", "tools/list two"),
    "tools/call two_echo",
}


def calls(collector: GrpcCollector, count: int) -> dict[str, Attributes]:
    """The next calls out of the gateway, by the names of their spans."""
    found: dict[str, Attributes] = {}
    while len(found) < count:
        request, _ = collector.received.get(timeout=30)
        for resource in request.resource_spans:
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                if span.kind == span.SPAN_KIND_CLIENT:
                    found[span.name] = {a.key: a.value.string_value for a in span.attributes}
    return found


def test_calls_are_named_by_what_is_called() -> None:
    servers = (McpServer("one"), McpServer("two"))
    (port,) = free_ports(1)
    collector = GrpcCollector()
    try:
        with Upstream(servers[0]) as one, Upstream(servers[1]) as two:
            config = mcp_config(port, ("one", one.address), ("two", two.address))
            tracing = {"host": collector.address, "protocol": "grpc", "randomSampling": True}
            config["frontendPolicies"] = {"tracing": tracing}
            with GatewayProcess(config):
                client = McpClient(port)
                client.initialize()
                client.result("tools/list")
                assert client.text("two_echo", x=1) == 'two: echo {"x": 1}'
            found = calls(collector, len(NAMES))
    finally:
        collector.close()
    assert set(found) == NAMES
    call = found["tools/call two_echo"]
    assert call["agentgateway.outbound.subtype"] == "Mcp"
    assert call["mcp.method.name"] == "tools/call"
    assert call["mcp.target"] == "two"
    assert call["gen_ai.tool.name"] == "echo"
    told = next(one for one in servers[1].calls if one["method"] == "tools/call")
    assert told["params"]["_meta"]["traceparent"].endswith("-01")
