"""What an HTTP API answered, as the result of a tool.

Source: spec/mcp_a2a.md sections 2.12 and 5.2 row 17; MCP 2025-11-25, tools (results).

Any refusal is a result with `isError`, with the API's own words: the model can mend its call. So is
an answer that is not what the document says, for clients check it and would show nothing of it.
"""

from __future__ import annotations

from base64 import b64encode
from http import HTTPStatus
from typing import Any, Final

import orjson

from sidecar.http.headers import Headers
from sidecar.jsonrpc import Json, is_deep
from sidecar.mcp.openapi.bodies import kind_of
from sidecar.mcp.openapi.checking import TooMuchError, problem
from sidecar.mcp.openapi.toolbox import Tool

BODY_BYTES: Final = 4 * 1024 * 1024
"""Of an answer, decompressed."""
BLOB_BYTES: Final = 1024 * 1024
"""Of one that is no text: base64 in a message costs a third more, and models little use."""
_CHECK_STEPS: Final = 20_000
_HEADER_MAX: Final = 512
_FORM_TEXT: Final = frozenset(
    ("application/javascript", "application/x-yaml", "application/yaml", "application/xml")
)


def failed(text: str) -> Json:
    """A call that could not be made, or that failed."""
    return {"content": [_text(text)], "isError": True}


def result(tool: Tool, target: str, status: int, headers: Headers, raw: bytes) -> Json:
    """The result of a call. `target`: name of the server; `raw`: without a coding."""
    content_type = _header(headers, b"content-type")
    if not 200 <= status < 300:
        return _refused(status, headers, raw)
    bare = content_type.partition(";")[0].strip().lower()
    made: Json
    if not raw:
        where = _header(headers, b"location")
        made = {"content": [_text(f"HTTP {_status(status)}{where and f', at {where}'}")]}
    elif kind_of(bare) == "json":
        made = _of_json(raw, content_type, status)
    elif _is_text(bare):
        made = {"content": [_text(_decoded(raw, content_type))]}
    else:
        made = _blob(raw, bare or "application/octet-stream", f"openapi://{target}/{tool.name}")
    if made.get("isError") or tool.output_schema is None:
        return made
    return _as_promised(tool.output_schema, made, status)


def _refused(status: int, headers: Headers, raw: bytes) -> Json:
    content_type = _header(headers, b"content-type")
    what = f"HTTP {_status(status)}"
    wait = _header(headers, b"retry-after")
    if wait:
        what = f"{what}, try again after {wait}"
    if 300 <= status < 400:
        what = f"{what}: the API redirects, which is not followed"
    made = failed(what)
    if raw:
        bare = content_type.partition(";")[0].strip().lower()
        if _is_text(bare) or kind_of(bare) == "json":
            made["content"].append(_text(_decoded(raw, content_type)))
        else:
            made["content"].append(_text(f"({len(raw)} bytes of {bare or 'an unknown type'})"))
    return made


def _of_json(raw: bytes, content_type: str, status: int) -> Json:
    try:
        found: Any = orjson.loads(raw)
    except orjson.JSONDecodeError:
        made = failed(f"HTTP {_status(status)}, but the body is no JSON as its type says:")
        made["content"].append(_text(_decoded(raw, content_type)))
        return made
    made = {"content": [_text(raw.decode())]}
    if is_deep(raw):
        # It could not be written as part of a message.
        return made
    if isinstance(found, dict):
        made["structuredContent"] = found
    elif found is not None:
        made["structuredContent"] = {"data": found}
    return made


def _as_promised(schema: Json, made: Json, status: int) -> Json:
    structured = made.get("structuredContent")
    wrong: str | None = "there is no JSON object in it"
    if structured is not None:
        try:
            wrong = problem(schema, structured, _CHECK_STEPS)
        except TooMuchError:
            # A large answer is good as it is: only arguments have to be known to fit.
            wrong = None
    if wrong is None:
        return made
    text = (
        f"The API did it (HTTP {_status(status)}); do not call again. "
        f"But the answer is not what the API's document promises: {wrong}."
    )
    return {"content": [_text(text), *made["content"]], "isError": True}


def _blob(raw: bytes, media_type: str, uri: str) -> Json:
    if len(raw) > BLOB_BYTES:
        text = "The API did it; do not call again. But its answer cannot be shown: "
        return failed(f"{text}{len(raw)} bytes of {media_type}, more than {BLOB_BYTES}")
    data = b64encode(raw).decode()
    kind = media_type.partition("/")[0]
    if kind in ("image", "audio"):
        return {"content": [{"type": kind, "data": data, "mimeType": media_type}]}
    resource = {"uri": uri, "mimeType": media_type, "blob": data}
    return {"content": [{"type": "resource", "resource": resource}]}


def _is_text(media_type: str) -> bool:
    return (
        media_type in _FORM_TEXT
        or kind_of(media_type) in ("text", "form")
        or media_type.endswith("+yaml")
    )


def _header(headers: Headers, name: bytes) -> str:
    return (headers.get(name) or b"").decode("latin-1")[:_HEADER_MAX]


def _decoded(raw: bytes, content_type: str) -> str:
    charset = "utf-8"
    for parameter in content_type.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            charset = value.strip().strip('"').lower()
    try:
        return raw.decode("latin-1" if charset in ("latin-1", "iso-8859-1") else "utf-8", "replace")
    except LookupError:
        return raw.decode("utf-8", "replace")


def _status(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _text(text: str) -> Json:
    return {"type": "text", "text": text}
