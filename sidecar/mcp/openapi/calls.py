"""A call of a tool as an HTTP request.

Source: spec/mcp_a2a.md sections 2.12 and 5.2 row 17; RFC 9110; RFC 9112 section 3.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import unquote

from sidecar.http.headers import Field
from sidecar.mcp.openapi import bodies
from sidecar.mcp.openapi.checking import TooMuchError, problem
from sidecar.mcp.openapi.parameters import (
    BadArgumentsError,
    cookie_pair,
    header_value,
    is_dots,
    path_value,
    query_pairs,
)
from sidecar.mcp.openapi.toolbox import Tool

_TARGET_MAX: Final = 8 * 1024
_HEADERS_MAX: Final = 16 * 1024
_NOTHING: Final[Mapping[str, Any]] = {}


class Call(NamedTuple):
    """What is sent. The host is not the call's to choose."""

    method: str
    target: str
    """Path and query."""
    headers: tuple[Field, ...]
    body: bytes


def call(tool: Tool, arguments: Mapping[str, Any]) -> Call:
    """Raises: BadArgumentsError, whose text is for the model."""
    try:
        found = problem(tool.input_schema, arguments)
    except TooMuchError as error:
        raise BadArgumentsError("they are too large or too deep to be checked") from error
    if found is not None:
        raise BadArgumentsError(found)
    headers: list[Field] = [(b"accept", tool.accept), *_headers(tool, arguments)]
    cookies = _cookies(tool, arguments)
    if cookies:
        headers.append((b"cookie", cookies))
    if sum(len(name) + len(value) for name, value in headers) > _HEADERS_MAX:
        raise BadArgumentsError(f"headers are larger than {_HEADERS_MAX} bytes")
    body = b""
    if tool.body is not None and "body" in arguments:
        media_type, body = bodies.encode(tool.body, arguments["body"])
        headers.append((b"content-type", media_type.encode("latin-1")))
    return Call(tool.method, _target(tool, arguments), tuple(headers), body)


def _target(tool: Tool, arguments: Mapping[str, Any]) -> str:
    given = arguments.get("path", _NOTHING)
    by_name = {one.name: one for one in tool.parameters if one.place == "path"}
    parts = [
        path_value(by_name[text], given[text]) if is_name else text for text, is_name in tool.path
    ]
    path = tool.prefix + "".join(parts)
    if any(is_dots(unquote(step)) for step in path.split("/")):
        raise BadArgumentsError("path parameters make a `.` or `..` segment")
    query = "&".join(
        f"{key}={value}"
        for one in tool.parameters
        if one.place == "query" and one.name in arguments.get("query", _NOTHING)
        for key, value in query_pairs(one, arguments["query"][one.name])
    )
    target = f"{path}?{query}" if query else path
    if len(target) > _TARGET_MAX:
        raise BadArgumentsError(f"the URL is longer than {_TARGET_MAX} characters")
    return target


def _headers(tool: Tool, arguments: Mapping[str, Any]) -> list[Field]:
    given = arguments.get("header", _NOTHING)
    return [
        (one.name.lower().encode(), header_value(one, given[one.name]))
        for one in tool.parameters
        if one.place == "header" and given.get(one.name) is not None
    ]


def _cookies(tool: Tool, arguments: Mapping[str, Any]) -> bytes:
    given = arguments.get("cookie", _NOTHING)
    return "; ".join(
        cookie_pair(one, given[one.name])
        for one in tool.parameters
        if one.place == "cookie" and given.get(one.name) is not None
    ).encode()
