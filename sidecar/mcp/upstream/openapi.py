"""An HTTP API as an MCP server: tools are listed from its document, calls become HTTP requests.

Source: spec/mcp_a2a.md sections 1.3, 1.4, 2.12 and 5.2 row 17.

All but calls of tools is answered here, in both eras; there is no session, and nothing is ever said
that was not asked. What the API answers is a result, refusals too; an API that cannot be had fails
as every other server does.
"""

from __future__ import annotations

import asyncio
from typing import Final, final

from sidecar import jsonrpc
from sidecar.errors import UpstreamError
from sidecar.http.decoded import plain_body
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, read_up_to
from sidecar.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Json
from sidecar.mcp import era
from sidecar.mcp.merge import SERVER_INFO
from sidecar.mcp.openapi import answers
from sidecar.mcp.openapi.calls import Call, call
from sidecar.mcp.openapi.parameters import BadArgumentsError
from sidecar.mcp.openapi.toolbox import Tool, Toolbox
from sidecar.mcp.upstream.base import Answered, Held, Inbound, Messages, Outbound, SendHttp
from sidecar.mcp.upstream.inbox import Inbox, Whole
from sidecar.mcp.upstream.openapi_source import Source

HEAD_SECONDS: Final = 60.0
"""Until the head of an answer."""
END_SECONDS: Final = 60.0
"""From there until its end."""
_TTL_MS: Final = 300_000
_EMPTY: Final = {
    "prompts/list": "prompts",
    "resources/list": "resources",
    "resources/templates/list": "resourceTemplates",
}
_ACKNOWLEDGED: Final = "notifications/subscriptions/acknowledged"
_SUBSCRIPTION: Final = "io.modelcontextprotocol/subscriptionId"
_NOT_PASSED: Final = frozenset(
    (
        *(b"accept", b"accept-encoding", b"accept-language", b"content-encoding"),
        *(b"content-length", b"content-type", b"cookie", b"expect", b"host", b"origin"),
        *(b"last-event-id", b"referer", b"range", b"if-match", b"if-none-match", b"if-range"),
        *(b"if-modified-since", b"if-unmodified-since", b"cache-control", b"pragma"),
    )
)
"""What of the client's request is about itself, and would change what the API answers."""
_CREDENTIAL: Final = frozenset((b"authorization",))
"""Only there when the target is configured to get the client's own."""
_FETCH_METADATA: Final = (b"sec-", b"mcp-", b"access-control-")


@final
class OpenApiTarget:
    """See base.Target."""

    __slots__ = ("_authority", "_send", "_source", "name")

    def __init__(self, name: str, send: SendHttp, authority: str, source: Source) -> None:
        """`authority`: Host of every call."""
        self.name = name
        self._send = send
        self._authority = authority
        self._source = source

    async def request(self, outbound: Outbound) -> Answered:
        """See base.Target."""
        message, identity = outbound.message, outbound.message["id"]
        if message["method"] == "subscriptions/listen":
            return Answered(_silent(self.name, message), outbound.held)
        held = outbound.held
        found = await self._answer(outbound)
        if isinstance(found, tuple):
            answer = jsonrpc.error(identity, *found)
        else:
            if message["method"] == "initialize":
                held = Held("", found["protocolVersion"])
            answer = jsonrpc.result(identity, found)
        return Answered(Whole((Inbound(answer),), is_json=True), held)

    async def send(self, outbound: Outbound) -> None:
        """See base.Target. There is nobody to tell."""

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """See base.Target. It never says anything."""
        return None

    async def end(self, outbound: Outbound) -> None:
        """See base.Target. There is no session."""

    # --- what is answered here ------------------------------------------------------------

    async def _answer(self, outbound: Outbound) -> Json | tuple[int, str]:
        """The result; or code and text of an error. Raises: UpstreamError."""
        message = outbound.message
        method: str = message["method"]
        params: Json = message.get("params") or {}
        is_modern = outbound.era == "modern"
        if method == "ping" and not is_modern:
            return {}
        if method in _EMPTY:
            return _listing({_EMPTY[method]: []}, is_modern=is_modern)
        if method not in ("initialize", "server/discover", "tools/list", "tools/call"):
            if method in ("prompts/get", "resources/read"):
                return INVALID_PARAMS, f"{self.name} has neither prompts nor resources"
            return METHOD_NOT_FOUND, f"Method not found: {method[:128]}"
        tools = await self._source.toolbox()
        if method == "tools/list":
            return _page(tools, params.get("cursor"), is_modern=is_modern)
        if method == "tools/call":
            return await self._called(tools, params, outbound)
        return self._greeting(tools, params) if method == "initialize" else self._discovery(tools)

    def _info(self, tools: Toolbox) -> Json:
        info = {"name": self.name, "version": tools.version or "0"}
        return {**info, "title": tools.title} if tools.title else info

    def _greeting(self, tools: Toolbox, params: Json) -> Json:
        made: Json = {
            "protocolVersion": era.negotiated(params.get("protocolVersion")),
            "capabilities": {"tools": {}},
            "serverInfo": self._info(tools),
        }
        return {**made, "instructions": tools.instructions} if tools.instructions else made

    def _discovery(self, tools: Toolbox) -> Json:
        made = _listing(
            {"supportedVersions": [era.MODERN], "capabilities": {"tools": {}}}, is_modern=True
        )
        made["_meta"] = {SERVER_INFO: self._info(tools)}
        return {**made, "instructions": tools.instructions} if tools.instructions else made

    # --- calls ----------------------------------------------------------------------------

    async def _called(
        self, tools: Toolbox, params: Json, outbound: Outbound
    ) -> Json | tuple[int, str]:
        name, arguments = params.get("name"), params.get("arguments")
        tool = tools.tools.get(name) if isinstance(name, str) else None
        if tool is None:
            return INVALID_PARAMS, f"Unknown tool: {str(name)[:128]}"
        try:
            made = call(tool, {} if arguments is None else arguments)
        except BadArgumentsError as error:
            found = answers.failed(f"The API was not called: {error}")
        else:
            found = await self._result(tool, tools, made, outbound)
        return {"resultType": "complete", **found} if outbound.era == "modern" else found

    async def _result(self, tool: Tool, tools: Toolbox, made: Call, outbound: Outbound) -> Json:
        request = self._request(made, tools, outbound)
        response, _ = await self._send(request, HEAD_SECONDS, "")
        try:
            response.body = plain_body(response, f"MCP target {self.name}")
            raw = await self._whole(response)
        except BaseException:
            response.body.close()
            raise
        if raw is None:
            text = f"HTTP {response.status}, but the answer is larger than {answers.BODY_BYTES}"
            return answers.failed(f"{text} bytes")
        return answers.result(tool, self.name, response.status, response.headers, raw)

    def _request(self, made: Call, tools: Toolbox, outbound: Outbound) -> Request:
        of = outbound.of
        own = {name for name, _ in made.headers}
        unwanted = own | _NOT_PASSED | (tools.hidden_headers - _CREDENTIAL)
        headers = Headers(
            field
            for field in outbound.headers
            if field[0] not in unwanted and not field[0].startswith(_FETCH_METADATA)
        )
        headers += made.headers
        headers.append((b"accept-encoding", b"identity"))
        request = Request(
            made.method,
            "http",
            self._authority,
            made.target,
            "HTTP/1.1",
            headers,
            FixedBody(made.body),
            of.connection,
            of.started_ns,
        )
        request.state = of.state
        request.route = of.route
        request.trace = of.trace
        return request

    async def _whole(self, response: Response) -> bytes | None:
        """The body; None for one that is too large. Raises: UpstreamError."""
        try:
            async with asyncio.timeout(END_SECONDS):
                raw, rest = await read_up_to(response.body, answers.BODY_BYTES)
        except TimeoutError as error:
            text = f"MCP target {self.name} did not end its answer in {END_SECONDS:g} s"
            raise UpstreamError(504, "Timeout", text) from error
        if rest is not None:
            rest.close()
            return None
        return raw


def _page(tools: Toolbox, cursor: object, *, is_modern: bool) -> Json | tuple[int, str]:
    number = 0
    if cursor is not None:
        text = cursor if isinstance(cursor, str) else ""
        is_number = text.isascii() and text.isdigit() and len(text) < 8
        number = int(text) if is_number else 0
        if not 0 < number < len(tools.pages):
            return INVALID_PARAMS, "Invalid params: cursor"
    made: Json = {"tools": list(tools.pages[number])}
    if number + 1 < len(tools.pages):
        made["nextCursor"] = str(number + 1)
    return _listing(made, is_modern=is_modern)


def _listing(made: Json, *, is_modern: bool) -> Json:
    """With what a modern client wants to know: everybody gets the same."""
    if not is_modern:
        return made
    return {"resultType": "complete", **made, "ttlMs": _TTL_MS, "cacheScope": "public"}


def _silent(name: str, message: Json) -> Inbox:
    """A subscription to nothing, which stays open until the client leaves."""
    meta = {_SUBSCRIPTION: message["id"]}
    params = {"notifications": {}, "_meta": meta}
    inbox = Inbox(name, None)
    inbox.put({"jsonrpc": "2.0", "method": _ACKNOWLEDGED, "params": params}, 0)
    return inbox
