"""Each `deploy/examples/mcp-*` as it stands, with small servers of our own behind it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_server import McpClient, McpServer, messages
from tests.support.upstream import Upstream

FOLDER = ROOT / "deploy/examples"
ELSEWHERE = {"mcp-openapi", "mcp-authentication", "mcp-guardrails"}
"""Run by test_mcp_openapi.py, test_mcp_authentication.py and test_mcp_guardrails.py."""
EXAMPLES = sorted(path for path in FOLDER.glob("mcp-*.yaml") if path.stem not in ELSEWHERE)
TOOLS = {
    "everything": ("echo", "stream"),
    "search": ("find",),
    "tickets": ("create_ticket_v2", "delete_all"),
    "shop": ("search", "refund", "internal_reset"),
}

Servers = dict[str, McpServer]


def tools(client: McpClient) -> list[str]:
    return [tool["name"] for tool in client.result("tools/list")["tools"]]


def basic(client: McpClient, servers: Servers) -> None:
    assert tools(client) == ["echo", "stream"]
    assert client.text("echo", a=1) == 'everything: echo {"a": 1}'
    asked = {"origin": "http://localhost:6274"}
    got = McpClient(client.port, headers=asked).post(
        {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": _greeting()}
    )
    assert got.get("access-control-allow-origin") == asked["origin"]
    assert got.get("access-control-expose-headers") == "mcp-session-id"


def federation(client: McpClient, servers: Servers) -> None:
    # The third server is down: nobody misses it.
    assert tools(client) == ["search_find", "tickets_open"]
    assert client.text("search_find", a=1) == 'search: find {"a": 1}'
    opened = client.text("tickets_open", title="broken")
    assert opened == 'tickets: create_ticket_v2 {"queue": "support", "title": "broken"}'
    (found,) = (t for t in client.result("tools/list")["tools"] if t["name"] == "tickets_open")
    assert found["description"] == "Open a ticket for the support team."
    refused = messages(client.request("tools/call", name="tickets_delete_all", arguments={}))
    assert refused[0]["error"]["message"] == "Unknown tool: tickets_delete_all"
    contents = client.result("resources/read", uri="tickets+ticket://7")["contents"]
    assert contents == [{"uri": "tickets+ticket://7", "text": "tickets has ticket://7"}]


def stdio(client: McpClient, servers: Servers) -> None:
    assert "echo" in tools(client)
    assert client.text("echo", text="hello") == "hello"


def authorization(client: McpClient, servers: Servers) -> None:
    assert McpClient(client.port).request("tools/list").status == 401
    assert tools(client) == ["search"]
    assert client.text("search", a=1) == 'shop: search {"a": 1}'
    assert client.request("tools/call", name="refund", arguments={}).status == 400
    admin = McpClient(client.port, headers={"authorization": "Bearer admin-key"})
    admin.initialize()
    assert tools(admin) == ["search", "refund"]
    assert admin.text("refund") == "shop: refund {}"


CHECKS: dict[str, tuple[Callable[[McpClient, Servers], None], dict[str, str]]] = {
    "mcp-basic": (basic, {}),
    "mcp-federation": (federation, {}),
    "mcp-stdio": (stdio, {}),
    "mcp-authorization": (authorization, {"authorization": "Bearer support-key"}),
}


def _greeting() -> dict[str, Any]:
    info = {"name": "browser", "version": "1"}
    return {"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": info}


def placed(path: Path, port: int, stack: ExitStack) -> tuple[dict[str, Any], Servers]:
    """The example, but that it is at that port, and its servers are ours."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    servers: Servers = {}
    if "port" in config.get("mcp", {}):
        config["mcp"]["port"] = port
    else:
        config["gateways"]["default"]["port"] = port
    backends = [config["mcp"]] if "mcp" in config else []
    for route in config.get("routes", []):
        backends += [backend["mcp"] for backend in route["backends"]]
    for target in (target for backend in backends for target in backend["targets"]):
        name = target["name"]
        if "stdio" in target:
            arguments = ["-m", "tests.support.mcp_sdk", "stdio"]
            env = {**target["stdio"]["env"], "PYTHONPATH": str(ROOT)}
            target["stdio"] = {"cmd": sys.executable, "args": arguments, "env": env}
        elif name in TOOLS:
            servers[name] = McpServer(name, tools=TOOLS[name])
            address = stack.enter_context(Upstream(servers[name])).address
            target["mcp"]["host"] = f"http://{address}/mcp"
        else:
            target["sse"]["host"] = f"http://127.0.0.1:{free_ports(1)[0]}/sse"
    return config, servers


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path) -> None:
    check, headers = CHECKS[path.stem]
    (port,) = free_ports(1)
    with ExitStack() as stack:
        config, servers = placed(path, port, stack)
        stack.enter_context(GatewayProcess(config, workers=2))
        client = McpClient(port, headers=headers)
        client.initialize()
        check(client, servers)
