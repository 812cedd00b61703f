"""A server that runs as a process, as its target knows it: `async with server(*flags) as it:`."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sidecar.jsonrpc import Json
from sidecar.mcp.upstream.base import Messages, Scope
from sidecar.mcp.upstream.children import ChildLimits, Children
from sidecar.mcp.upstream.process import ProcessLimits, Spawner, StdioSpec
from sidecar.mcp.upstream.stdio import StdioTarget
from tests.support import mcp_http
from tests.support.mcp_http import drained, outbound

SERVER = str(Path(mcp_http.__file__).with_name("mcp_stdio.py"))
SESSION = Scope("session", b"s1", 0)
POOL = Scope("principal", b"p1", 0)
MODERN: Any = {"era": "modern", "version": "2026-07-28", "scope": POOL}


class Server:
    """A target and the table behind it."""

    def __init__(self, target: StdioTarget, children: Children) -> None:
        self.target = target
        self.children = children

    async def greet(self, scope: Scope = SESSION) -> Json:
        asking = outbound("initialize", {"protocolVersion": "2025-11-25"}, scope=scope)
        answered = await self.target.request(asking)
        message = (await drained(answered.messages))[-1]
        await self.target.send(outbound("notifications/initialized", id=None, scope=scope))
        return message

    async def open(self, tool: str, *, id: str | int = 1, token: Any = None, **given: Any) -> Any:
        """`given` may hold `era`, `version` and `scope` besides the arguments."""
        how = {key: given.pop(key) for key in ("era", "version", "scope") if key in given}
        params: Json = {"name": tool, "arguments": given}
        if token is not None:
            params["_meta"] = {"progressToken": token}
        answered = await self.target.request(outbound(params=params, id=id, **how))
        return answered.messages

    async def call(self, tool: str, **given: Any) -> str:
        """The text of the last message."""
        return said((await drained(await self.open(tool, **given)))[-1])

    async def pid(self, **how: Any) -> int:
        return int(await self.call("pid", **how))


def said(message: Json) -> str:
    text = message["result"]["content"][0]["text"]
    assert isinstance(text, str)
    return text


@asynccontextmanager
async def server(
    *flags: str,
    limits: ChildLimits | None = None,
    process: ProcessLimits | None = None,
    **spec: Any,
) -> AsyncIterator[Server]:
    children = Children(limits, Spawner(process or ProcessLimits(grace_seconds=0.5)))
    argv = (sys.executable, "-I", "-S", SERVER, *flags)
    try:
        yield Server(StdioTarget("t", "t1", StdioSpec(argv, **spec), children), children)
    finally:
        await children.close()


async def next_of(messages: Messages | None) -> Json:
    assert messages is not None
    async with asyncio.timeout(20):
        inbound = await messages.next()
    assert inbound is not None
    return inbound.message
