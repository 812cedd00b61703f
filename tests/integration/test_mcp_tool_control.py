"""What an operator decides of tools: choice, names, arguments, approval, limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sidecar.cli import main
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mcp_federation import federation, names
from tests.support.mcp_server import Events, McpClient, McpServer, mcp_config, messages
from tests.support.upstream import Upstream


def test_tools_as_the_operator_wants_them() -> None:
    with Upstream(McpServer("one")) as up:
        (port,) = free_ports(1)
        target = {
            "name": "one",
            "mcp": {"host": f"http://{up.address}/mcp"},
            "tools": {
                "allow": ["e*", "stream"],
                "deny": ["stream"],
                "rename": {"echo": "say"},
                "override": {"echo": {"description": "Says it.", "arguments": {"b": 2}}},
            },
        }
        with GatewayProcess(mcp_config(port, target)):
            client = McpClient(port)
            client.initialize()
            (tool,) = client.result("tools/list")["tools"]
            assert (tool["name"], tool["description"]) == ("say", "Says it.")
            assert set(tool["inputSchema"]["properties"]) == {"a"}
            assert client.text("say", a=1) == 'one: echo {"a": 1, "b": 2}'
            assert client.request("tools/call", name="say", arguments={"b": 3}).status == 400
            assert client.request("tools/call", name="echo").status == 400


def test_fixed_arguments_are_repeated_in_headers() -> None:
    with Upstream(McpServer("one", legacy=False, tools=("region",))) as up:
        (port,) = free_ports(1)
        target = {
            "name": "one",
            "mcp": {"host": f"http://{up.address}/mcp"},
            "tools": {"override": {"region": {"arguments": {"region": "eu"}}}},
        }
        with GatewayProcess(mcp_config(port, target)):
            got = McpClient(port).modern("tools/call", "region", name="region", arguments={"a": 1})
            said = messages(got)[0]["result"]["content"][0]["text"]
            assert said == 'one: region {"a": 1, "region": "eu"}'


@pytest.mark.parametrize("reaction", ["hide", "refuse"])
def test_44_a_tool_that_changes_is_kept_from_clients(tmp_path: Path, reaction: str) -> None:
    server = McpServer("one", tools=("echo", "read"), descriptions={"read": "Reads."})
    with Upstream(server) as up:
        (port,) = free_ports(1)
        target = {
            "name": "one",
            "mcp": {"host": f"http://{up.address}/mcp"},
            "pin": {"file": str(tmp_path / "pins.json"), "onChange": reaction},
        }
        config = mcp_config(port, target)
        with GatewayProcess(config) as gateway:
            client = McpClient(port)
            client.initialize()
            # Nobody has seen a list yet.
            assert client.text("read") == "one: read {}"
            server.descriptions["read"] = "Reads, and tells others."
            for _ in range(8):
                assert names(client.result("tools/list")) == ["echo"]
            got = client.request("tools/call", name="read")
            text = messages(got)[0]["error"]["message"]
            assert text == (
                "Unknown tool: read"
                if reaction == "hide"
                else "Tool read is not available: its definition changed and is not approved yet"
            )
            assert client.text("echo") == "one: echo {}"
            gateway.wait_line("tool read is kept from clients")
            found = {"server": "one", "state": "changed"}
            gateway.wait_metric("agentgateway_mcp_unapproved_tools_total", 1, **found)
        with GatewayProcess(config):
            client = McpClient(port)
            client.initialize()
            assert names(client.result("tools/list")) == ["echo"]
            server.descriptions["read"] = "Reads."
            assert names(client.result("tools/list")) == ["echo", "read"]
            assert client.text("read") == "one: read {}"


def test_definitions_that_are_written_down() -> None:
    server = McpServer("one", tools=("echo", "read"))
    with Upstream(server) as up:
        (port,) = free_ports(1)
        target = {
            "name": "one",
            "mcp": {"host": f"http://{up.address}/mcp"},
            "pin": {"definitions": {"echo": "0" * 64}},
        }
        with GatewayProcess(mcp_config(port, target)):
            client = McpClient(port)
            client.initialize()
            assert client.result("tools/list")["tools"] == []
            for name in ("echo", "read"):
                assert client.request("tools/call", name=name).status == 400


def test_limits_of_tools_and_methods() -> None:
    """On the tables that all workers share; a tool is known by its server's own name."""
    each = {"tokensPerFill": 1, "fillInterval": "1h", "onMissingKey": "skip"}
    limits = [
        {**each, "maxTokens": 3, "key": ["mcp.tool.target", "mcp.tool.name"]},
        {**each, "maxTokens": 2, "key": 'mcp.methodName == "prompts/list" ? "all" : null'},
    ]
    one, two = McpServer("one"), McpServer("two")
    with federation(one, two, rateLimits=limits) as (client, _, gateway):
        client.initialize()
        for n in range(3):
            assert client.text("one_echo", n=n)
        got = client.request("tools/call", name="one_echo")
        assert (got.status, got.get("retry-after") is not None) == (429, True)
        found = messages(got)[0]
        assert found["error"] == {"code": -32003, "message": "rate limit exceeded"}
        assert found["id"] == client.number
        calls = len(one.calls)
        got = client.modern("tools/call", "one_echo", name="one_echo", arguments={})
        assert got.status == 429
        assert len(one.calls) == calls
        assert client.text("two_echo") == "two: echo {}"
        assert client.text("one_auth")
        assert [client.request("prompts/list").status for _ in range(3)] == [200, 200, 429]
        assert client.request("tools/list").status == 200
        with Events(McpClient(client.port, path="/sse")) as stream:
            endpoint = stream.next()
            old = McpClient(client.port, path=endpoint)
            greeting = {"protocolVersion": "2024-11-05", "capabilities": {}}
            call = {"name": "one_echo", "arguments": {}}
            for method, params in (("initialize", greeting), ("tools/call", call)):
                message = {"jsonrpc": "2.0", "id": method, "method": method, "params": params}
                assert old.post(message).status == 202
                said = stream.next()
            assert said["error"]["code"] == -32003
        gateway.wait_line("rate limit exceeded")


_BUCKET = {"maxTokens": 1, "tokensPerFill": 1, "fillInterval": "1s"}
REFUSED = {
    "tokens": ({"rateLimits": [{**_BUCKET, "type": "tokens"}]}, "messages have no tokens"),
    "key": ({"rateLimits": [{**_BUCKET, "key": "1 +"}]}, "mcp.rateLimits[0].key"),
    "length 1": ({"maxNameLength": 1}, "mcp.maxNameLength: must be 0 or at least 32"),
    "length 31": ({"maxNameLength": 31}, "mcp.maxNameLength: must be 0 or at least 32"),
}


@pytest.mark.parametrize(("more", "text"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_refused_at_load(
    more: dict[str, Any], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = mcp_config(3000, ("one", "127.0.0.1:1"), **more)
    assert main(["-c", json.dumps(config), "--validate-only"]) == 1
    said = capsys.readouterr()
    assert text in said.out + said.err


def test_rules_see_fixed_arguments() -> None:
    rule = {"deny": "mcp.tool.arguments.b != 2", "readsArguments": True}
    with Upstream(McpServer("one")) as up:
        (port,) = free_ports(1)
        target = {
            "name": "one",
            "mcp": {"host": f"http://{up.address}/mcp"},
            "tools": {"override": {"echo": {"arguments": {"b": 2}}}},
        }
        policies = {"mcpAuthorization": {"rules": [rule]}}
        with GatewayProcess(mcp_config(port, target, policies=policies)):
            client = McpClient(port)
            client.initialize()
            assert client.text("echo", a=1) == 'one: echo {"a": 1, "b": 2}'
            # What the client says of it is not what is judged, and refused all the same.
            got = client.request("tools/call", name="echo", arguments={"b": 3})
            assert "unknown argument" in messages(got)[0]["error"]["message"]
