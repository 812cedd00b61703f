"""The simulated MCP server, by the official SDK client of both eras and by its refusals."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp_types import TextContent

from sidecar.http.message import read_all
from sidecar.simulator.tools import MAX_BODY_BYTES, ToolServer, respond
from tests.support.messages import request


@pytest.mark.parametrize("mode", ["legacy", "2026-07-28", "auto"])
async def test_sdk_client(mode: str) -> None:
    server = ToolServer(asyncio.get_running_loop())
    server.start(0)
    try:
        async with Client(f"http://127.0.0.1:{server.port}/mcp", mode=mode) as client:
            assert [tool.name for tool in (await client.list_tools()).tools] == ["echo", "add"]
            added = await client.call_tool("add", {"a": 2, "b": 0.5})
            assert isinstance(added.content[0], TextContent)
            assert added.content[0].text == "2.5"
            echoed = await client.call_tool("echo", {"text": "hi"})
            assert isinstance(echoed.content[0], TextContent)
            assert echoed.content[0].text == "hi"
            assert (await client.call_tool("add", {"a": True, "b": "x"})).is_error
            with pytest.raises(MCPError, match="Unknown tool"):
                await client.call_tool("nope")
    finally:
        await server.stop()


async def asked(method: str, path: str, body: bytes) -> tuple[int, Any]:
    headers = [("content-type", "application/json")]
    response = await respond(request(method, path, headers, body=body))
    raw = await read_all(response.body, 10_000) if response.status != 202 else b"null"
    is_json = raw.startswith((b"{", b"null"))
    return response.status, json.loads(raw) if is_json else raw


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/mcp", b"", 405),
        ("POST", "/other", b"{}", 404),
        ("POST", "/mcp", b" " * (MAX_BODY_BYTES + 1), 413),
        ("POST", "/mcp", b"{", 400),
        ("POST", "/mcp", b"[]", 400),
        ("POST", "/mcp", b'{"jsonrpc":"2.0","method":"notifications/initialized"}', 202),
    ],
)
async def test_status(method: str, path: str, body: bytes, status: int) -> None:
    assert (await asked(method, path, body))[0] == status


async def test_an_unknown_method_is_answered_by_its_id() -> None:
    body = b'{"jsonrpc":"2.0","id":"7","method":"nope"}'
    status, answer = await asked("POST", "/mcp", body)
    assert (status, answer["id"], answer["error"]["code"]) == (200, "7", -32601)
