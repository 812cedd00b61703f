"""JSON-RPC 2.0 as MCP and A2A use it: bytes in, checked messages out. No I/O.

Source: JSON-RPC 2.0; spec/mcp_a2a.md sections 1.2 to 1.4; hardening.md cases 41 to 46.

A message is a plain dict as orjson made it, for it is passed on and edited in place. `kind_of` says
which of the four kinds it is; what is none of them raises.
"""

from __future__ import annotations

from typing import Any, Final, Literal, final

import orjson

Json = dict[str, Any]
Id = str | int
Kind = Literal["request", "notification", "result", "error"]

PARSE_ERROR: Final = -32700
INVALID_REQUEST: Final = -32600
METHOD_NOT_FOUND: Final = -32601
INVALID_PARAMS: Final = -32602
INTERNAL_ERROR: Final = -32603

MAX_DEPTH: Final = 128
"""Nesting of a message; deeper ones are refused before they are parsed."""


@final
class JsonRpcError(Exception):
    """What a message is refused with: `code`, `message` and `data` of the error object.

    `status` is the HTTP status that carries it. `identity`: the id of the request it answers, None
    when that could not be read.
    """

    def __init__(
        self,
        code: int,
        message: str,
        *,
        status: int = 400,
        identity: Id | None = None,
        data: object = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.status = status
        self.identity = identity
        self.data = data


def parse(raw: bytes) -> Json | list[Any]:
    """A document: one message, or a batch that is neither empty nor checked yet.

    Raises: JsonRpcError -32700 for what is not JSON or nested deeper than MAX_DEPTH; -32600 for
    what is neither object nor list, and for an empty list.
    """
    if is_deep(raw):
        raise JsonRpcError(PARSE_ERROR, "Parse error: nested too deep")
    try:
        document = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise JsonRpcError(PARSE_ERROR, "Parse error") from error
    if isinstance(document, dict) or (isinstance(document, list) and document):
        return document
    raise JsonRpcError(INVALID_REQUEST, "Invalid request: not a message")


def kind_of(message: object) -> Kind:
    """Which kind of message it is. Raises: JsonRpcError -32600."""
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise JsonRpcError(INVALID_REQUEST, "Invalid request: jsonrpc must be 2.0")
    identity = message.get("id")
    method = message.get("method")
    if method is not None:
        if not isinstance(method, str) or "result" in message or "error" in message:
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: method")
        if not isinstance(message.get("params", {}), dict):
            raise JsonRpcError(
                INVALID_PARAMS, "Invalid params: not an object", identity=id_of(message)
            )
        if "id" not in message:
            return "notification"
        if id_of(message) is None:
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: id")
        return "request"
    if "error" in message:
        if "result" in message or not isinstance(message["error"], dict):
            raise JsonRpcError(INVALID_REQUEST, "Invalid request: error")
        return "error"
    if "result" not in message or id_of(message) is None or identity is None:
        raise JsonRpcError(INVALID_REQUEST, "Invalid request: neither call nor answer")
    return "result"


def id_of(message: Json) -> Id | None:
    """The id when it is a string or an integer, else None."""
    identity = message.get("id")
    if isinstance(identity, str) or (isinstance(identity, int) and not isinstance(identity, bool)):
        return identity
    return None


def result(identity: Id, value: Json) -> Json:
    """An answer."""
    return {"jsonrpc": "2.0", "id": identity, "result": value}


def error(identity: Id | None, code: int, message: str, data: object = None) -> Json:
    """An answer that says what went wrong."""
    problem: Json = {"code": code, "message": message}
    if data is not None:
        problem["data"] = data
    return {"jsonrpc": "2.0", "id": identity, "error": problem}


def is_deep(raw: bytes) -> bool:
    """Whether JSON is nested deeper than MAX_DEPTH."""
    # Fast path: fewer brackets in all than the depth allowed, which is nearly every message.
    if raw.count(b"{") + raw.count(b"[") <= MAX_DEPTH:
        return False
    depth = deepest = 0
    in_string = escaped = False
    for octet in raw:
        if in_string:
            if escaped:
                escaped = False
            elif octet == 0x5C:
                escaped = True
            elif octet == 0x22:
                in_string = False
        elif octet == 0x22:
            in_string = True
        elif octet in (0x7B, 0x5B):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                return True
        elif octet in (0x7D, 0x5D):
            depth -= 1
    return False
