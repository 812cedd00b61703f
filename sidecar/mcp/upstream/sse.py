"""A server over the older HTTP+SSE transport (2024-11-05): one stream down, POSTs up.

Source: spec/mcp_a2a.md sections 1.2 and 1.3.

The answers to all POSTs come on the one stream, so a connection lives in one worker and is held by
the owner of its scope, as a child process is. `peers.OwnedTarget` brings the messages of others
there. It is opened by `initialize`; to anything else without one the answer is 404, as of a server
that forgot the session, and the federation greets it anew. There is no modern era here.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Final, final
from urllib.parse import urlsplit

from sidecar import jsonrpc
from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.jsonrpc import Json
from sidecar.mcp.upstream.base import (
    Answered,
    Inbound,
    Messages,
    Outbound,
    Refused,
    SendHttp,
)
from sidecar.mcp.upstream.events import broken
from sidecar.mcp.upstream.inbox import Inbox, Whole
from sidecar.mcp.upstream.outgoing import asked, posted
from sidecar.mcp.upstream.sse_connection import ENDPOINT_SECONDS, SseConnection, SseConnections
from sidecar.mcp.upstream.streamable import (
    DEFAULT_LIMITS,
    Limits,
    Lingerers,
    content_type,
    greeting_held,
    plain,
    refused,
)

_BEFORE_GREETING: Final = 64


@final
class SseTarget:
    """See base.Target."""

    __slots__ = (
        "_authority",
        "_base",
        "_connections",
        "_limits",
        "_lingerers",
        "_path",
        "_send",
        "key",
        "name",
    )

    def __init__(
        self,
        name: str,
        key: str,
        send: SendHttp,
        base: str,
        connections: SseConnections,
        lingerers: Lingerers,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """`base`: URL of the stream, whose origin the endpoint must share. `key`: as stdio's."""
        parts = urlsplit(base)
        self.name = name
        self.key = key
        self._send = send
        self._base = base
        self._authority = parts.netloc
        self._path = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
        self._connections = connections
        self._lingerers = lingerers
        self._limits = limits

    async def request(self, outbound: Outbound) -> Answered:
        """See base.Target."""
        if outbound.message["method"] == "initialize":
            return await self._greeted(outbound)
        connection = self._known(outbound)
        return Answered(await self._call(connection, outbound), outbound.held)

    async def send(self, outbound: Outbound) -> None:
        """See base.Target."""
        connection = self._known(outbound)
        if outbound.message.get("method") == "notifications/initialized":
            if connection.is_announced:
                return
            connection.is_announced = True
        wire = connection.dialogue.outgoing(outbound.message)
        if wire is not None:
            await self._post(connection, replace(outbound, message=wire))

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """See base.Target. There are no event ids."""
        return self._known(outbound).dialogue.listen()

    async def end(self, outbound: Outbound) -> None:
        """See base.Target."""
        self._connections.end(self.key, outbound.scope)

    def _known(self, outbound: Outbound) -> SseConnection:
        """The open connection. Raises: Refused when the server does not know the client."""
        connection = self._connections.find(self.key, outbound.scope)
        if connection is None or connection.greeting is None:
            raise Refused(404, Headers(), b"")
        return connection

    async def _greeted(self, outbound: Outbound) -> Answered:
        """The answer to `initialize`: the server's, or what it said when it was asked before."""
        async with self._connections.lock(self.key, outbound.scope):
            connection = self._connections.find(self.key, outbound.scope)
            if connection is None:
                connection = await self._open(outbound)
            if connection.greeting is None:
                taken = await self._greet(connection, outbound)
            else:
                greeting = connection.greeting
                taken = [Inbound(jsonrpc.result(outbound.message["id"], greeting))]
        return Answered(Whole(taken, is_json=len(taken) == 1), greeting_held(outbound.held, taken))

    async def _greet(self, connection: SseConnection, outbound: Outbound) -> list[Inbound]:
        taken: list[Inbound] = []
        try:
            inbox = await self._call(connection, outbound)
            while (inbound := await inbox.next()) is not None:
                taken = [*taken[-_BEFORE_GREETING:], inbound]
            if not taken:
                text = f"MCP target {self.name} was given up"
                raise UpstreamError(502, "UpstreamFailure", text)
        except BaseException:
            self._connections.end(self.key, outbound.scope)
            raise
        result = taken[-1].message.get("result")
        if isinstance(result, dict):
            connection.greeting = result
        else:
            self._connections.end(self.key, outbound.scope)
        return taken

    async def _open(self, outbound: Outbound) -> SseConnection:
        """Open the stream and wait for its endpoint. Raises: UpstreamError, Refused."""
        request = asked("GET", outbound, self._authority, self._path)
        response, pin = await self._send(request, self._limits.head_seconds, outbound.held.pin)
        plain(response, self.name)
        if response.status != 200:
            raise await refused(response, self._limits.idle_seconds)
        try:
            if content_type(response.headers) != b"text/event-stream":
                raise broken(self.name, "answered GET with what is no event stream")
            connection = SseConnection(
                self.name,
                response.body,
                pin,
                self._limits,
                is_anyones=outbound.scope.is_anyones,
            )

            async def post(message: Json) -> None:
                await self._post(connection, replace(outbound, message=message))

            self._connections.add(self.key, outbound.scope, connection, self._base, post)
        except BaseException:
            response.body.close()
            raise
        try:
            async with asyncio.timeout(ENDPOINT_SECONDS):
                await asyncio.shield(connection.post_to)
        except TimeoutError as error:
            self._connections.end(self.key, outbound.scope)
            text = f"MCP target {self.name} did not tell its endpoint"
            raise UpstreamError(504, "Timeout", text) from error
        return connection

    async def _call(self, connection: SseConnection, outbound: Outbound) -> Inbox:
        wire, inbox = connection.dialogue.call(outbound.message, outbound.era)
        try:
            await self._post(connection, replace(outbound, message=wire))
        except BaseException:
            connection.dialogue.forget(inbox)
            raise
        return inbox

    async def _post(self, connection: SseConnection, outbound: Outbound) -> None:
        target = await asyncio.shield(connection.post_to)
        request = posted(outbound, self._authority, target)
        response, _ = await self._send(request, self._limits.head_seconds, connection.pin)
        plain(response, self.name)
        if not 200 <= response.status < 300:
            raise await refused(response, self._limits.idle_seconds)
        self._lingerers.add(response.body)
