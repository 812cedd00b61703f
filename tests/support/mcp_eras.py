"""Servers of each era of MCP behind one gateway, and clients of each."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.support.client import Got
from tests.support.gateway import ROOT, GatewayProcess, free_ports
from tests.support.mcp_server import MODERN, McpClient, McpServer, mcp_config, messages
from tests.support.upstream import Upstream

SCRIPT = str(ROOT / "tests" / "support" / "mcp_stdio.py")
TOOLS = ("echo", "stream", "ask", "fail", "hang", "region")


class Setting(NamedTuple):
    """`ports`: of the gateway, by the servers behind it."""

    ports: dict[str, int]
    old: McpServer
    new: McpServer
    gateway: GatewayProcess


@contextmanager
def eras() -> Iterator[Setting]:
    """All of it, running."""
    old = McpServer("old", modern=False, tools=TOOLS)
    new = McpServer("new", legacy=False, tools=TOOLS)
    names = ("old", "new", "both", "stdio")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    with Upstream(old) as one, Upstream(new) as two:
        stdio = {"name": "local", "stdio": {"cmd": sys.executable, "args": [SCRIPT, "legacy"]}}
        configs = (
            mcp_config(ports["old"], ("old", one.address)),
            mcp_config(ports["new"], ("new", two.address)),
            mcp_config(ports["both"], ("old", one.address), ("new", two.address)),
            mcp_config(ports["stdio"], stdio),
        )
        binds = [bind for config in configs for bind in config["binds"]]
        with GatewayProcess({"binds": binds}, workers=3) as gateway:
            yield Setting(ports, old, new, gateway)
            for server in (old, new):
                server.released.set()
                for listener in server.listeners:
                    listener.put(None)


def modern(
    port: int,
    method: str,
    *,
    capabilities: Any = None,
    level: str = "",
    token: Any = None,
    **params: Any,
) -> Got:
    """A request of a modern client."""
    client = McpClient(port)
    meta: dict[str, Any] = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": capabilities or {},
        "io.modelcontextprotocol/clientInfo": {"name": "modern", "version": "1"},
    }
    if level:
        meta["io.modelcontextprotocol/logLevel"] = level
    if token is not None:
        meta["progressToken"] = token
    message = {"jsonrpc": "2.0", "id": "m1", "method": method, "params": {**params, "_meta": meta}}
    headers = {"mcp_protocol_version": MODERN, "mcp_method": method}
    named = params.get("name", params.get("taskId"))
    if named is not None:
        headers["mcp_name"] = named
    return client.post(message, **headers)


def result(got: Got) -> dict[str, Any]:
    """What a modern client was answered."""
    assert got.status == 200, got
    found = messages(got)[-1]
    assert found["id"] == "m1"
    return found["result"]  # type: ignore[no-any-return]


def text(result: dict[str, Any]) -> str:
    """What a tool said to a modern client."""
    assert result["resultType"] == "complete"
    return str(result["content"][0]["text"])


def session(port: int) -> McpClient:
    """A legacy client."""
    client = McpClient(port)
    client.initialize()
    return client
