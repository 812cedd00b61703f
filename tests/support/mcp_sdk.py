"""A server on the official Python SDK, over any transport. Run as a module: `TRANSPORT [PORT]`.

Tools: echo, progress, ask (elicitation), poll (ends its stream before it answers), die.
"""

from __future__ import annotations

import os
import sys

import uvicorn
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore
from mcp.types import JSONRPCMessage
from pydantic import BaseModel

server = MCPServer("sdk")


class Name(BaseModel):
    """What the client is asked for."""

    name: str


class Kept(EventStore):
    """The events of all streams, in order."""

    def __init__(self) -> None:
        self._events: list[tuple[str, JSONRPCMessage | None]] = []

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        self._events.append((stream_id, message))
        return str(len(self._events))

    async def replay_events_after(self, last_event_id: str, send: EventCallback) -> str | None:
        at = int(last_event_id)
        stream, _ = self._events[at - 1]
        for number, (of, message) in enumerate(self._events[at:], at + 1):
            if of == stream and message is not None:
                await send(EventMessage(message, str(number)))
        return stream


@server.tool(description="Says the text.")
async def echo(text: str) -> str:
    return text


@server.tool(description="Reports progress.")
async def progress(ctx: Context) -> str:
    for done in range(3):
        await ctx.report_progress(done, 2)
    return "done"


@server.tool(description="Asks for a name.")
async def ask(ctx: Context) -> str:
    answer = await ctx.elicit("who?", Name)
    return answer.data.name if answer.action == "accept" else answer.action


@server.tool(description="Ends its stream before it answers.")
async def poll(ctx: Context) -> str:
    # Behind a message of its own, for a stream that ends before its first event has no id.
    await ctx.report_progress(0, 1)
    await ctx.close_sse_stream()
    return "polled"


@server.tool(description="Ends the server.")
async def die() -> str:
    os._exit(9)


def main(transport: str, port: int) -> None:
    if transport == "stdio":
        server.run("stdio")
        return
    if transport == "sse":
        app = server.sse_app()
    else:
        is_json = transport == "json"
        app = server.streamable_http_app(
            json_response=is_json, event_store=None if is_json else Kept(), retry_interval=10
        )
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 0)
