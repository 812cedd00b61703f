"""A server that runs as a child process and speaks over its standard streams.

Source: MCP, transports (stdio); spec/mcp_a2a.md sections 1.4 and 2.5.

Used in the worker that owns the scope; `peers.OwnedTarget` brings the messages of others there. A
modern message starts the server when there is none. A legacy one does so with `initialize` alone:
to any other the answer is 404, as of an HTTP server that forgot the session, and the federation
greets it anew.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, final

from sidecar import jsonrpc
from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.mcp.upstream.base import Answered, Inbound, Messages, Outbound, Refused
from sidecar.mcp.upstream.children import Child, Children
from sidecar.mcp.upstream.inbox import Whole
from sidecar.mcp.upstream.outgoing import stamped
from sidecar.mcp.upstream.process import StdioSpec

INITIALIZED: Final = "notifications/initialized"
_BEFORE_GREETING: Final = 64
_GREETINGS: Final = 3


@final
class StdioTarget:
    """See base.Target."""

    __slots__ = ("_children", "_spec", "key", "name")

    def __init__(self, name: str, key: str, spec: StdioSpec, children: Children) -> None:
        """`key`: names the target and the state of its configuration, the same in all workers."""
        self.name = name
        self.key = key
        self._spec = spec
        self._children = children

    async def request(self, outbound: Outbound) -> Answered:
        """See base.Target."""
        message = stamped(outbound.message, outbound.of)
        if message["method"] == "initialize":
            return await self._greeted(outbound)
        if outbound.era == "modern":
            child = await self._get(outbound)
        else:
            child = self._known(outbound)
        return Answered(await child.call(message, outbound.era), outbound.held)

    async def send(self, outbound: Outbound) -> None:
        """See base.Target."""
        child = self._known(outbound)
        if outbound.message.get("method") == INITIALIZED:
            # Requests that share a server greet it each; it hears of that once.
            if child.is_announced:
                return
            child.is_announced = True
        await child.send(stamped(outbound.message, outbound.of))

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """See base.Target. There are no event ids."""
        return self._known(outbound).dialogue.listen()

    async def end(self, outbound: Outbound) -> None:
        """See base.Target. A pooled server ends when it is idle."""
        if outbound.scope.kind == "session":
            await self._children.end(self.key, outbound.scope)

    async def _get(self, outbound: Outbound) -> Child:
        return await self._children.get(self.key, self.name, self._spec, outbound.scope)

    def _known(self, outbound: Outbound) -> Child:
        """The server that knows the client. Raises: Refused."""
        child = self._children.find(self.key, outbound.scope)
        if child is None or (outbound.era == "legacy" and child.greeting is None):
            raise Refused(404, Headers(), b"")
        return child

    async def _greeted(self, outbound: Outbound) -> Answered:
        """The answer to `initialize`: the server's, or what it said when it was asked before."""
        identity = outbound.message["id"]
        for _ in range(_GREETINGS):
            child = await self._get(outbound)
            async with child.greeting_lock:
                if child.is_stopped:
                    # Whoever greeted it before us gave up, and it with that.
                    continue
                if child.greeting is not None:
                    taken = [Inbound(jsonrpc.result(identity, child.greeting))]
                    return _answered(outbound, taken)
                taken = await self._greet(child, outbound)
                result = taken[-1].message.get("result")
                child.greeting = result if isinstance(result, dict) else None
            if child.greeting is None and outbound.scope.kind == "session":
                await self._children.end(self.key, outbound.scope)
            return _answered(outbound, taken)
        text = f"MCP target {self.name} was given up while it was asked to initialize"
        raise UpstreamError(503, "UpstreamFailure", text)

    async def _greet(self, child: Child, outbound: Outbound) -> list[Inbound]:
        """All messages up to the answer. A server that does not give it is ended.

        Raises: UpstreamError.
        """
        seconds = self._children.limits.greeting_seconds
        taken: list[Inbound] = []
        inbox = await child.call(stamped(outbound.message, outbound.of), outbound.era)
        try:
            async with asyncio.timeout(seconds):
                while (inbound := await inbox.next()) is not None:
                    taken = [*taken[-_BEFORE_GREETING:], inbound]
        except TimeoutError as error:
            self._children.stop(child)
            text = f"MCP target {self.name} did not answer initialize in {seconds:g} s"
            raise UpstreamError(504, "Timeout", text) from error
        except BaseException:
            self._children.stop(child)
            raise
        if not taken:
            self._children.stop(child)
            raise UpstreamError(502, "UpstreamFailure", f"MCP target {self.name} was given up")
        return taken


def _answered(outbound: Outbound, taken: list[Inbound]) -> Answered:
    result = taken[-1].message.get("result")
    version = result.get("protocolVersion") if isinstance(result, dict) else None
    held = outbound.held
    if isinstance(version, str):
        held = replace(held, version=version)
    return Answered(Whole(taken, is_json=len(taken) == 1), held)
