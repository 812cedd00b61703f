"""Which era of MCP a message speaks, and whether it says so as its era demands.

Source: spec/mcp_a2a.md sections 1.3, 1.4 and 2.4 (errors), 5.2 rows 3, 15 and 18.

Told per request, from the body first: a modern request carries its version in `_meta`, and a header
that must agree. `initialize` is legacy whatever the header says, for it is how a legacy client
learns the version. What the reference refuses and the specification does not (a session id beside
a modern request, a version from the future in `initialize`) passes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from sidecar.http.headers import Headers
from sidecar.jsonrpc import INVALID_PARAMS, METHOD_NOT_FOUND, Json, JsonRpcError, Kind, id_of
from sidecar.mcp import mirrored

MODERN: Final = "2026-07-28"
LEGACY: Final = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
"""Newest first."""
ASSUMED: Final = "2025-03-26"
"""Of a legacy client that names none."""
_DATE: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
BATCHES: Final = ASSUMED
"""The only version in which several messages may share a body."""

HEADER_MISMATCH: Final = -32020
CAPABILITY_MISSING: Final = -32021
UNSUPPORTED_VERSION: Final = -32022

VERSION_HEADER: Final = b"mcp-protocol-version"
VERSION_META: Final = "io.modelcontextprotocol/protocolVersion"
CAPABILITIES_META: Final = "io.modelcontextprotocol/clientCapabilities"
CLIENT_META: Final = "io.modelcontextprotocol/clientInfo"

MODERN_METHODS: Final = frozenset(
    (
        *("server/discover", "subscriptions/listen", "completion/complete"),
        *("tools/list", "tools/call", "prompts/list", "prompts/get"),
        *("resources/list", "resources/templates/list", "resources/read"),
        *("tasks/get", "tasks/update", "tasks/cancel"),
    )
)
LEGACY_METHODS: Final = frozenset(
    (
        *("initialize", "ping", "logging/setLevel", "completion/complete"),
        *("tools/list", "tools/call", "prompts/list", "prompts/get"),
        *("resources/list", "resources/templates/list", "resources/read"),
        *("resources/subscribe", "resources/unsubscribe"),
        *("tasks/get", "tasks/result", "tasks/list", "tasks/cancel"),
    )
)


@final
@dataclass(frozen=True, slots=True)
class Legacy:
    """A message of a session. `version`: what its header names; "" when it has none."""

    version: str = ""


@final
@dataclass(frozen=True, slots=True)
class Modern:
    """A message that stands for itself. `meta`: its `_meta`, empty in a notification without."""

    version: str
    meta: Mapping[str, Any]


def version_of(headers: Headers) -> str:
    """What the header names; "" without one. Raises: JsonRpcError for two that differ."""
    values = {value.strip() for value in headers.get_all(VERSION_HEADER)}
    if len(values) > 1:
        raise JsonRpcError(HEADER_MISMATCH, "MCP-Protocol-Version is there more than once")
    return values.pop().decode("latin-1") if values else ""


def era_of(
    headers: Headers, message: Json, kind: Kind, *, is_strict: bool = True
) -> Legacy | Modern:
    """The era of one message, checked by `jsonrpc.kind_of`.

    `is_strict`: whether the mirrored headers of a modern request must be there and agree.
    Raises: JsonRpcError with the HTTP status, and the id of the request.
    """
    try:
        return _era_of(headers, message, kind, is_strict=is_strict)
    except JsonRpcError as problem:
        problem.identity = id_of(message)
        raise


def _era_of(headers: Headers, message: Json, kind: Kind, *, is_strict: bool) -> Legacy | Modern:
    header = version_of(headers)
    params = message.get("params")
    meta = params.get("_meta") if params is not None else None
    if meta is not None and not isinstance(meta, dict):
        raise JsonRpcError(INVALID_PARAMS, "Invalid params: _meta is not an object")
    named = meta.get(VERSION_META) if meta is not None else None
    if named is None and (message.get("method") == "initialize" or header != MODERN):
        _check_legacy(header, message)
        return Legacy(header if header in LEGACY else "")
    if kind == "notification" and named is None:
        return Modern(MODERN, {})
    if kind not in ("request", "notification"):
        raise JsonRpcError(INVALID_PARAMS, f"Invalid request: {MODERN} has no answers of clients")
    _check_version(header, named, is_strict=is_strict)
    assert meta is not None
    if kind == "request":
        _check_request(headers, message, meta, is_strict=is_strict)
    return Modern(MODERN, meta)


def _check_legacy(header: str, message: Json) -> None:
    if header and header not in LEGACY and message.get("method") != "initialize":
        raise unsupported(header, (MODERN, *LEGACY))


def _check_version(header: str, named: object, *, is_strict: bool) -> None:
    if not isinstance(named, str):
        raise JsonRpcError(INVALID_PARAMS, f"Invalid params: _meta lacks {VERSION_META}")
    if header != named and (is_strict or header):
        said = f"`{header}`" if header else "not there"
        text = f"MCP-Protocol-Version is {said}, and the body says `{named}`"
        raise JsonRpcError(HEADER_MISMATCH, text)
    if named != MODERN:
        raise unsupported(named, (MODERN,))


def _check_request(
    headers: Headers, message: Json, meta: Mapping[str, Any], *, is_strict: bool
) -> None:
    if not isinstance(meta.get(CAPABILITIES_META), dict):
        raise JsonRpcError(INVALID_PARAMS, f"Invalid params: _meta lacks {CAPABILITIES_META}")
    if not isinstance(meta.get(CLIENT_META, {}), dict):
        raise JsonRpcError(INVALID_PARAMS, f"Invalid params: {CLIENT_META} is not an object")
    method = message["method"]
    if is_strict:
        mirrored.check(headers, method, message["params"])
    if method not in MODERN_METHODS:
        raise unknown_method(method)


def unsupported(version: str, known: tuple[str, ...]) -> JsonRpcError:
    """For a version that is not spoken here."""
    data = {"supported": list(known), "requested": version}
    return JsonRpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", data=data)


def unknown_method(method: str, status: int = 404) -> JsonRpcError:
    """For a method that there is not, in that era."""
    return JsonRpcError(METHOD_NOT_FOUND, f"Method not found: {method[:128]}", status=status)


def negotiated(asked: object) -> str:
    """The version that `initialize` is answered with: the one asked for, or the newest."""
    return asked if isinstance(asked, str) and asked in LEGACY else LEGACY[0]


def greeting_version(asked: str) -> str:
    """The version that servers are asked for in `initialize`: the client's own, but for one that
    has no `initialize`, or is not known yet. A session could not go on in such a one."""
    is_later = _DATE.fullmatch(asked) is not None and asked > LEGACY[0]
    return LEGACY[0] if is_later else asked
