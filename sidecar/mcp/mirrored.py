"""Headers that repeat what a modern request's body says, so that who sees only headers can route.

Source: spec/mcp_a2a.md section 1.4 (SEP-2243); hardening.md case 41.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any, Final

from sidecar.http.headers import Headers
from sidecar.jsonrpc import JsonRpcError

METHOD: Final = b"mcp-method"
NAME: Final = b"mcp-name"
PARAM: Final = b"mcp-param-"
_MISMATCH: Final = -32020
_PREFIX, _SUFFIX = b"=?base64?", b"?="
_PLAIN: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_NAMED: Final[Mapping[str, str]] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}
"""Methods with a name, and the key of `params` that holds it."""


def encode(value: str | int | bool) -> bytes:
    """A value as it stands in a header: plain where it can, else in base64."""
    text = value if isinstance(value, str) else str(value).lower()
    raw = text.encode("utf-8", "surrogatepass")
    looks_coded = raw.startswith(_PREFIX) and raw.endswith(_SUFFIX)
    if _PLAIN.fullmatch(text) and not looks_coded:
        return raw
    return _PREFIX + b64encode(raw) + _SUFFIX


def decode(raw: bytes) -> str:
    """The value of a header. Raises: ValueError for base64 that is none, or that is no text."""
    raw = raw.strip(b" \t")
    if not (raw.startswith(_PREFIX) and raw.endswith(_SUFFIX)):
        return raw.decode("latin-1")
    try:
        return b64decode(raw[len(_PREFIX) : -len(_SUFFIX)], validate=True).decode()
    except (binascii.Error, UnicodeDecodeError) as error:
        raise ValueError("invalid base64 text") from error


def name_of(method: str, params: Mapping[str, Any]) -> str | None:
    """What `Mcp-Name` repeats; None for a method without a name, or a body without it."""
    key = _NAMED.get(method)
    value = params.get(key) if key is not None else None
    return value if isinstance(value, str) else None


def check(headers: Headers, method: str, params: Mapping[str, Any]) -> None:
    """Whether the headers say what the body says. Raises: JsonRpcError -32020."""
    _compare(headers, METHOD, method)
    if method in _NAMED:
        name = name_of(method, params)
        if name is not None:
            _compare(headers, NAME, name)
    for header, raw in headers:
        if header.startswith(PARAM):
            _decoded(header, raw)


def _compare(headers: Headers, header: bytes, said: str) -> None:
    values = headers.get_all(header)
    if not values:
        raise JsonRpcError(_MISMATCH, f"Header mismatch: {_shown(header)} is missing")
    if any(_decoded(header, raw) != said for raw in values):
        raise JsonRpcError(
            _MISMATCH, f"Header mismatch: {_shown(header)} is not what the body says"
        )


def _decoded(header: bytes, raw: bytes) -> str:
    try:
        return decode(raw)
    except ValueError as error:
        text = f"Header mismatch: {_shown(header)}: {error}"
        raise JsonRpcError(_MISMATCH, text) from error


def _shown(header: bytes) -> str:
    return header.decode("latin-1").title()


def fields(method: str, params: Mapping[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    """`Mcp-Method` and `Mcp-Name` of a request as it goes to a server."""
    name = name_of(method, params)
    if name is None:
        return ((METHOD, encode(method)),)
    return ((METHOD, encode(method)), (NAME, encode(name)))


def regenerated(headers: Headers, method: str, params: Mapping[str, Any]) -> Headers:
    """The client's headers with what is mirrored made anew; `Mcp-Param-*` go on as they are."""
    made = Headers([field for field in headers if field[0] not in (METHOD, NAME)])
    made.extend(fields(method, params))
    return made


def header_arguments(schema: object) -> dict[str, tuple[str, ...]]:
    """`x-mcp-header` names of a tool's `inputSchema`, lower case → the path of the argument.

    Raises: ValueError for annotations that make the tool invalid.
    """
    found: dict[str, tuple[str, ...]] = {}
    _collect(schema, (), found)
    return found


_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_DEEPEST: Final = 16


def _collect(schema: object, path: tuple[str, ...], found: dict[str, tuple[str, ...]]) -> None:
    if not isinstance(schema, dict) or len(path) > _DEEPEST:
        return
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return
    for key, below in properties.items():
        name = below.get("x-mcp-header") if isinstance(below, dict) else None
        if name is not None:
            is_scalar = below.get("type") in ("string", "integer", "boolean")
            if not isinstance(name, str) or not _TOKEN.fullmatch(name) or not is_scalar:
                raise ValueError(f"x-mcp-header of {key} is invalid")
            if name.lower() in found:
                raise ValueError(f"two arguments have the header {name}")
            found[name.lower()] = (*path, key)
        _collect(below, (*path, key), found)


def mirrored_params(
    headers: Headers, arguments: Mapping[str, Any], wanted: Mapping[str, tuple[str, ...]]
) -> Headers:
    """Headers whose `Mcp-Param-*` say what `arguments` say by now.

    `wanted`: see `header_arguments`.
    """
    ours = {PARAM + name.encode() for name in wanted}
    made = Headers([field for field in headers if field[0] not in ours])
    for name, path in wanted.items():
        value: Any = arguments
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if isinstance(value, str | int | bool):
            made.append((PARAM + name.encode(), encode(value)))
    return made
