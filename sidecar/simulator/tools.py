"""A simulator of an MCP server: two tools over Streamable HTTP, for clients of both eras.

Source: spec/mcp_a2a.md sections 1.3 and 1.4. It keeps no session, asks its clients for nothing and
answers each request with one document, as the protocol leaves a server free to do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Final, final

import orjson

from sidecar import jsonrpc
from sidecar.echo import EchoServer
from sidecar.errors import BodyTooLarge, ClientDisconnected, RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, read_all, text_response
from sidecar.jsonrpc import INVALID_PARAMS, Json, JsonRpcError
from sidecar.mcp import era
from sidecar.mcp.era import Modern, era_of
from sidecar.version import package_version

PATH: Final = "/mcp"
MAX_BODY_BYTES: Final = 1024 * 1024
_REASON: Final = "Simulated"
_LIST_SECONDS: Final = 60
"""How long a client may keep the list of tools."""


def _tool(name: str, description: str, kind: str, *arguments: str) -> Json:
    properties = {argument: {"type": kind} for argument in arguments}
    schema = {"type": "object", "properties": properties, "required": [*arguments]}
    return {"name": name, "description": description, "inputSchema": schema}


TOOLS: Final = (
    _tool("echo", "Says the text.", "string", "text"),
    _tool("add", "Adds two numbers.", "number", "a", "b"),
)


@final
class ToolServer:
    """The server on one loopback port."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._server = EchoServer(loop, respond)

    @property
    def port(self) -> int:
        """The real one once started."""
        return self._server.port

    def start(self, port: int) -> None:
        """Listen on 127.0.0.1; 0 takes any free port. Raises: OSError."""
        self._server.start(port)

    async def stop(self) -> None:
        """Stop listening, and give what is under way two seconds to end."""
        await self._server.stop()


async def respond(request: Request) -> Response:
    """The Handler (sidecar.http.message): never raises but for CancelledError."""
    if request.path != PATH:
        return text_response(404, f"the simulated MCP server is at {PATH}\n", reason=_REASON)
    if request.method != "POST":
        response = text_response(405, "POST only\n", reason=_REASON)
        response.headers.append((b"allow", b"POST"))
        return response
    try:
        raw = await read_all(request.body, MAX_BODY_BYTES)
    except BodyTooLarge as error:
        request.body.close()
        return text_response(413, f"{error}\n", reason=_REASON)
    except (ClientDisconnected, RequestError) as error:
        return text_response(400, f"{error}\n", reason=_REASON)
    try:
        return _answered(request.headers, jsonrpc.parse(raw))
    except JsonRpcError as error:
        answer = jsonrpc.error(error.identity, error.code, error.message, error.data)
        return _json(answer, error.status)


def _answered(headers: Headers, message: object) -> Response:
    """Raises: JsonRpcError."""
    kind = jsonrpc.kind_of(message)
    assert isinstance(message, dict)
    spoken = era_of(headers, message, kind, is_strict=False)
    if kind != "request":
        return Response(202)
    try:
        result = _result(message["method"], message.get("params") or {})
        if result is None:
            status = 404 if isinstance(spoken, Modern) else 200
            raise era.unknown_method(message["method"], status)
    except JsonRpcError as error:
        error.identity = message["id"]
        raise
    if isinstance(spoken, Modern):
        info = {"io.modelcontextprotocol/serverInfo": _info()}
        result = {"resultType": "complete", "_meta": info, **result}
        if message["method"] == "tools/list":
            result |= {"ttlMs": _LIST_SECONDS * 1000, "cacheScope": "public"}
    return _json(jsonrpc.result(message["id"], result))


def _result(method: str, params: Mapping[str, Any]) -> Json | None:
    """None for a method there is not. Raises: JsonRpcError."""
    if method == "initialize":
        version = era.negotiated(str(params.get("protocolVersion")))
        told = {"protocolVersion": version, "capabilities": {"tools": {}}}
        return {**told, "serverInfo": _info()}
    if method == "server/discover":
        return {"supportedVersions": [era.MODERN], "capabilities": {"tools": {}}}
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": [*TOOLS]}
    if method == "tools/call":
        return _called(params.get("name"), params.get("arguments") or {})
    return None


def _called(name: object, arguments: Mapping[str, Any]) -> Json:
    """Raises: JsonRpcError for a tool there is not."""
    if name == "echo" and isinstance(text := arguments.get("text"), str):
        return _said(text)
    if name == "add":
        numbers = [arguments.get(one) for one in ("a", "b")]
        if all(isinstance(one, int | float) and not isinstance(one, bool) for one in numbers):
            return _said(str(sum(one for one in numbers if one is not None)))
    if name not in ("echo", "add"):
        raise JsonRpcError(INVALID_PARAMS, f"Unknown tool: {name}", status=200)
    return {**_said("the arguments do not fit the schema"), "isError": True}


def _said(text: str) -> Json:
    return {"content": [{"type": "text", "text": text}]}


def _info() -> Json:
    return {"name": "simulator", "version": package_version()}


def _json(message: Json, status: int = 200) -> Response:
    headers = Headers([(b"content-type", b"application/json")])
    return Response(status, headers, FixedBody(orjson.dumps(message)), reason=_REASON)
