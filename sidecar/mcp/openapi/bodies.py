"""The body argument of a call as octets: JSON, forms, text, and what base64 stands for.

Source: OpenAPI 3.1.1 sections 4.8.13 to 4.8.15; RFC 7578 (multipart/form-data); the URL standard
(application/x-www-form-urlencoded).
"""

from __future__ import annotations

import binascii
import os
import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, final
from urllib.parse import quote_plus

import orjson

from sidecar.mcp.openapi.parameters import BadArgumentsError, Parameter, query_pairs, text_of

BodyKind = Literal["json", "form", "multipart", "text", "binary"]
_JSON: Final = re.compile(r"application/(?:json|[\w.!#$&^+-]+\+json)|[\w-]+/[\w.!#$&^+-]+\+json")
_LINE: Final = re.compile(r"[\x00-\x1f\x7f\"]")
_JSON_TYPE: Final = "application/json"
_BINARY_TYPE: Final = "application/octet-stream"


@final
@dataclass(frozen=True, slots=True)
class Encoding:
    """How a property of a form is written."""

    content_type: str = ""
    style: str = ""
    explode: bool | None = None
    allow_reserved: bool = False
    is_binary: bool = False
    """The argument is base64 of what is sent."""


@final
@dataclass(frozen=True, slots=True)
class BodySpec:
    """What body an operation takes."""

    media_type: str
    """As the document writes it."""
    kind: BodyKind
    is_required: bool = False
    encodings: Mapping[str, Encoding] = field(default_factory=dict)


def kind_of(media_type: str) -> BodyKind:
    """How a body of this type is made of an argument."""
    bare = media_type.partition(";")[0].strip().lower()
    if _JSON.fullmatch(bare):
        return "json"
    if bare == "application/x-www-form-urlencoded":
        return "form"
    if bare.startswith("multipart/"):
        return "multipart"
    return "text" if bare.startswith("text/") or bare.endswith(("/xml", "+xml")) else "binary"


def _new_boundary() -> str:
    return f"agw-{os.urandom(18).hex()}"


def encode(
    spec: BodySpec, value: Any, boundary: Callable[[], str] = _new_boundary
) -> tuple[str, bytes]:
    """Content type and octets. Raises: BadArgumentsError."""
    media_type = spec.media_type
    if "*" in media_type:
        media_type = _BINARY_TYPE
    if spec.kind == "json":
        return media_type, orjson.dumps(value)
    if spec.kind == "text":
        return media_type, text_of(value).encode("utf-8", "replace")
    if spec.kind == "binary":
        return media_type, binary(value, "body")
    if not isinstance(value, dict):
        raise BadArgumentsError("`body` is not an object")
    if spec.kind == "form":
        return media_type, _form(spec, value)
    mark = boundary()
    bare = media_type.partition(";")[0].strip()
    return f"{bare}; boundary={mark}", _multipart(spec, value, mark)


def binary(value: Any, what: str) -> bytes:
    """What base64 stands for. Raises: BadArgumentsError."""
    try:
        return b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError) as error:
        raise BadArgumentsError(f"`{what}` is not base64") from error


def _form(spec: BodySpec, value: Mapping[str, Any]) -> bytes:
    pairs: list[str] = []
    for name, one in value.items():
        how = spec.encodings.get(name) or Encoding()
        if how.style or how.allow_reserved:
            parameter = Parameter(
                name, "query", False, how.style, how.explode, how.allow_reserved
            )  # fmt: skip
            pairs += [f"{key}={text}" for key, text in query_pairs(parameter, one)]
        elif isinstance(one, list) and how.explode is not False:
            pairs += [_pair(name, item) for item in one]
        elif isinstance(one, list):
            pairs.append(_pair(name, ",".join(text_of(item) for item in one)))
        elif one is not None:
            pairs.append(_pair(name, one))
    return "&".join(pairs).encode()


def _pair(name: str, value: Any) -> str:
    return f"{quote_plus(name, errors='replace')}={quote_plus(text_of(value), errors='replace')}"


# --- multipart ----------------------------------------------------------------------------------


def _multipart(spec: BodySpec, value: Mapping[str, Any], boundary: str) -> bytes:
    parts: list[bytes] = []
    for name, one in value.items():
        how = spec.encodings.get(name) or Encoding()
        for item in one if isinstance(one, list) else (one,):
            if item is not None:
                head, data = _part(name, item, how)
                parts.append(f"--{boundary}\r\n{head}\r\n\r\n".encode("utf-8", "replace"))
                parts.append(data + b"\r\n")
    return b"".join((*parts, f"--{boundary}--\r\n".encode()))


def _part(name: str, value: Any, how: Encoding) -> tuple[str, bytes]:
    safe = _LINE.sub(lambda found: f"%{ord(found[0]):02X}", name)
    disposition = f'Content-Disposition: form-data; name="{safe}"'
    if how.is_binary:
        kind = how.content_type or _BINARY_TYPE
        head = f'{disposition}; filename="{safe}"\r\nContent-Type: {kind}'
        return head, binary(value, name)
    if isinstance(value, dict | list):
        head = f"{disposition}\r\nContent-Type: {how.content_type or _JSON_TYPE}"
        return head, orjson.dumps(value)
    kind = f"\r\nContent-Type: {how.content_type}" if how.content_type else ""
    return disposition + kind, text_of(value).encode("utf-8", "replace")
