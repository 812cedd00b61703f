"""A canned MCP server: `python -m tests.bench.mcp_upstream PORT`.

Each path is a server of its own with a hundred tools; it speaks both eras, and its answers are
ready but for the id. It keeps nothing: every session id is as good as another.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import Final, cast, final

import orjson
import uvloop

TOOLS: Final = 100
VERSION: Final = "2025-11-25"
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ID: Final = re.compile(rb'"id": ?("[^"]*"|\d+)')
_METHOD: Final = re.compile(rb'"method": ?"([^"]*)"')
_MODERN: Final = b"io.modelcontextprotocol/protocolVersion"
_SAID: Final = "A fixed answer of some length, so that there is something to be read. " * 3


def tool(number: int) -> dict[str, object]:
    """As a server describes it: some 600 octets."""
    properties = {f"argument_{n}": {"type": "string", "description": "text"} for n in range(5)}
    return {
        "name": f"tool_{number}",
        "description": "Does something with some arguments. " * 4,
        "inputSchema": {"type": "object", "properties": properties, "required": ["argument_0"]},
    }


_INFO: Final = {"name": "canned", "version": "1"}
_CAPABILITIES: Final = {"tools": {"listChanged": True}}
_RESULTS: Final[dict[bytes, dict[str, object]]] = {
    b"initialize": {
        "protocolVersion": VERSION,
        "capabilities": _CAPABILITIES,
        "serverInfo": _INFO,
    },
    b"server/discover": {
        "resultType": "complete",
        "supportedVersions": ["2026-07-28"],
        "capabilities": _CAPABILITIES,
        "_meta": {"io.modelcontextprotocol/serverInfo": _INFO},
    },
    b"ping": {},
    b"tools/list": {"tools": [tool(number) for number in range(TOOLS)]},
    b"tools/call": {"content": [{"type": "text", "text": _SAID}]},
}
_EMPTY: Final = {b"prompts/list": "prompts", b"resources/list": "resources"}


def _answer(result: dict[str, object], more: dict[str, object]) -> tuple[bytes, bytes]:
    """What stands before and behind the id."""
    rest = orjson.dumps({**result, **more})
    return b'{"jsonrpc":"2.0","id":', b',"result":%b}' % rest


_LEGACY: Final = {method: _answer(result, {}) for method, result in _RESULTS.items()}
_HINTS: Final = {"resultType": "complete", "ttlMs": 60_000, "cacheScope": "public"}
_OF_2026: Final = {method: _answer(result, _HINTS) for method, result in _RESULTS.items()}


@final
class Server(asyncio.Protocol):
    """One connection; requests come one after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        size = int(length[1]) if length is not None else 0
        if found and len(body) >= size:
            self._buffer = body[size:]
            self._transport.write(self._answered(head, body[:size]))

    def _answered(self, head: bytes, body: bytes) -> bytes:
        if not head.startswith(b"POST "):
            status = b"204 No Content" if head.startswith(b"DELETE ") else b"405 Not Allowed"
            return b"HTTP/1.1 %b\r\ncontent-length: 0\r\n\r\n" % status
        identity, method = _ID.search(body), _METHOD.search(body)
        if identity is None or method is None:
            return b"HTTP/1.1 202 Accepted\r\ncontent-length: 0\r\n\r\n"
        known = (_OF_2026 if _MODERN in body else _LEGACY).get(method[1])
        if known is None:
            key = _EMPTY.get(method[1])
            text = b'"error":{"code":-32601,"message":"Method not found"}'
            if key is not None:
                text = b'"result":{"%b":[]}' % key.encode()
            known = b'{"jsonrpc":"2.0","id":', b",%b}" % text
        before, behind = known
        whole = b"%b%b%b" % (before, identity[1], behind)
        session = b"mcp-session-id: canned\r\n" if method[1] == b"initialize" else b""
        return (
            b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n%b"
        ) % (session, len(whole), whole)


async def _serve(port: int) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Server, "127.0.0.1", port, backlog=8192)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
