"""The official Python SDK's server behind every transport, in both eras."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Literal

import pytest

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import Json
from sidecar.mcp.upstream.base import Held, Messages, Scope, Target
from sidecar.mcp.upstream.children import Children
from sidecar.mcp.upstream.process import StdioSpec
from sidecar.mcp.upstream.sse import SseTarget
from sidecar.mcp.upstream.sse_connection import SseConnections
from sidecar.mcp.upstream.stdio import StdioTarget
from sidecar.mcp.upstream.streamable import Lingerers, StreamableTarget
from tests.support.gateway import free_ports
from tests.support.mcp_http import drained, outbound, sender_to

pytest.importorskip("mcp", reason="the official SDK is not installed")
ROOT = Path(__file__).parents[4]
Transport = Literal["stdio", "streamable", "json", "sse"]
MODERN: list[Transport] = ["stdio", "streamable", "json"]
LEGACY: list[Transport] = [*MODERN, "sse"]
META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
}


class Client:
    """One client's session with a target, or none when it is modern."""

    def __init__(self, target: Target, era: Literal["legacy", "modern"]) -> None:
        self.target = target
        self.era = era
        self.scope = Scope("session" if era == "legacy" else "principal", b"x", 0)
        self.held = Held()

    def how(self) -> dict[str, Any]:
        version = "2026-07-28" if self.era == "modern" else self.held.version
        return {"era": self.era, "version": version, "scope": self.scope, "held": self.held}

    async def greet(self) -> Json:
        asking = outbound(
            "initialize",
            {
                "protocolVersion": "2025-11-25",
                "capabilities": {"elicitation": {}},
                "clientInfo": {"name": "test", "version": "1"},
            },
            **self.how(),
        )
        answered = await self.target.request(asking)
        self.held = answered.held
        await self.target.send(outbound("notifications/initialized", id=None, **self.how()))
        return (await drained(answered.messages))[-1]

    async def ask(self, method: str, token: Any = None, **params: Any) -> Messages:
        meta: Json = {**META} if self.era == "modern" else {}
        if token is not None:
            meta["progressToken"] = token
        if meta:
            params["_meta"] = meta
        return (await self.target.request(outbound(method, params, id="i", **self.how()))).messages

    async def call(self, tool: str, token: Any = None, **given: Any) -> list[Json]:
        return await drained(await self.ask("tools/call", token, name=tool, arguments=given))

    async def say(self, message: Json) -> None:
        await self.target.send(outbound(message=message, **self.how()))


def said(messages: list[Json]) -> str:
    answer = messages[-1]
    assert answer["id"] == "i"
    text = answer["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


@contextmanager
def listening(transport: Transport) -> Iterator[int]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "tests.support.mcp_sdk", transport, str(port)]
    with subprocess.Popen(command, cwd=ROOT) as process:
        try:
            yield port
        finally:
            process.kill()


@asynccontextmanager
async def served(transport: Transport) -> AsyncIterator[Target]:
    if transport == "stdio":
        children = Children()
        argv = (sys.executable, "-m", "tests.support.mcp_sdk", "stdio")
        try:
            yield StdioTarget("t", "t", StdioSpec(argv, cwd=str(ROOT)), children)
        finally:
            await children.close()
        return
    with listening(transport) as port:
        connections, lingerers = SseConnections(), Lingerers()
        async with sender_to(port) as sender:
            await wait_port(port)
            if transport == "sse":
                base = f"http://127.0.0.1:{port}/sse"
                yield SseTarget("t", "t", sender, base, connections, lingerers)
            else:
                yield StreamableTarget("t", sender, f"127.0.0.1:{port}", "/mcp", lingerers)
            await connections.close()
            await lingerers.close()


async def wait_port(port: int) -> None:
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                await writer.wait_closed()
                return
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("transport", LEGACY)
async def test_legacy(transport: Transport) -> None:
    async with served(transport) as target:
        client = Client(target, "legacy")
        greeting = await client.greet()
        assert greeting["result"]["serverInfo"]["name"] == "sdk"
        assert client.held.version == greeting["result"]["protocolVersion"] == "2025-11-25"
        tools = (await drained(await client.ask("tools/list")))[-1]["result"]["tools"]
        assert {tool["name"] for tool in tools} >= {"echo", "progress"}
        for number in range(5):
            assert said(await client.call("echo", text=f"é{number}")) == f"é{number}"
        missing = (await client.call("nothing"))[-1]
        assert "error" in missing or missing["result"]["isError"]
        await client.target.end(outbound(message={}, **client.how()))


@pytest.mark.parametrize("transport", [name for name in LEGACY if name != "json"])
async def test_legacy_progress_and_questions(transport: Transport) -> None:
    async with served(transport) as target:
        client = Client(target, "legacy")
        await client.greet()
        messages = await client.call("progress", token="tok")
        told = [m["params"] for m in messages if m.get("method") == "notifications/progress"]
        assert [(params["progressToken"], params["progress"]) for params in told] == [
            ("tok", 0), ("tok", 1), ("tok", 2),
        ]  # fmt: skip
        stream = await client.ask("tools/call", name="ask", arguments={})
        while (inbound := await stream.next()) is not None:
            question = inbound.message
            if question.get("method") == "elicitation/create":
                break
        answer = {"action": "accept", "content": {"name": "Ada"}}
        await client.say({"jsonrpc": "2.0", "id": question["id"], "result": answer})
        assert said(await drained(stream)) == "Ada"


async def test_a_stream_that_the_server_ends_early_is_taken_up() -> None:
    async with served("streamable") as target:
        client = Client(target, "legacy")
        await client.greet()
        for _ in range(3):
            assert said(await client.call("poll", token="p")) == "polled"


async def test_a_forgotten_session_is_a_refusal() -> None:
    async with served("streamable") as target:
        client = Client(target, "legacy")
        await client.greet()
        listens = await client.target.listen(outbound(message={}, **client.how()))
        assert listens is not None
        await client.target.end(outbound(message={}, **client.how()))
        with pytest.raises(Exception, match="status 404"):
            await client.call("echo", text="x")
        assert await drained(listens) == []


@pytest.mark.parametrize("transport", MODERN)
async def test_modern(transport: Transport) -> None:
    async with served(transport) as target:
        client = Client(target, "modern")
        (found,) = await drained(await client.ask("server/discover"))
        assert "2026-07-28" in found["result"]["supportedVersions"]
        for number in range(5):
            assert said(await client.call("echo", text=f"é{number}")) == f"é{number}"
        answers = await asyncio.gather(*(client.call("echo", text=str(n)) for n in range(20)))
        assert [said(answer) for answer in answers] == [str(n) for n in range(20)]
        if transport != "json":
            messages = await client.call("progress", token=5)
            told = [m["params"] for m in messages if m.get("method") == "notifications/progress"]
            assert [params["progressToken"] for params in told] == [5, 5, 5]


@pytest.mark.parametrize("transport", ["stdio", "streamable"])
async def test_modern_subscriptions(transport: Transport) -> None:
    async with served(transport) as target:
        client = Client(target, "modern")
        asked = {"toolsListChanged": True}
        stream = await client.ask("subscriptions/listen", notifications=asked)
        inbound = await stream.next()
        assert inbound is not None
        assert inbound.message["method"] == "notifications/subscriptions/acknowledged"
        meta = inbound.message["params"]["_meta"]
        assert meta["io.modelcontextprotocol/subscriptionId"] == "i"
        stream.close()
        assert said(await client.call("echo", text="still there")) == "still there"


@pytest.mark.parametrize("transport", LEGACY)
async def test_a_server_that_dies_in_a_call(transport: Transport) -> None:
    async with served(transport) as target:
        client = Client(target, "legacy")
        await client.greet()
        with pytest.raises(UpstreamError):
            await client.call("die")
