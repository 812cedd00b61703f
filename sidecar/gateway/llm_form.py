"""The `model` of a multipart form: audio and image requests name it there.

A provider may read a form otherwise than we do. So what is not plain has no model that could be
told: two fields of that name, two boundaries, more parts than anybody needs.

Source: RFC 7578; RFC 2046 section 5.1; spec/llm.md section 0.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.llm.chat.paths import MAX_MODEL_CHARS

_BOUNDARY: Final = re.compile(rb'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_MODEL: Final = re.compile(
    rb'content-disposition:\s*form-data\s*;[^\r\n]*\bname="?model"?\s*[;\r\n]', re.I
)
_MAX_PARTS: Final = 128
_MAX_HEAD_BYTES: Final = 16 * 1024
_JSON: Final = b"application/json"


def form_model(content_type: bytes | None, body: bytes) -> str | None:
    """The field's text; None when the body is no form, or has no such field; "" where nobody can
    tell what a provider would take it to be."""
    # Fast path: what nearly all requests are.
    if content_type is None or content_type == _JSON:
        return None
    found = _fields(content_type, body)
    if not found:
        return None if found is not None else ""
    return body[found[0]].decode("utf-8", "replace") if len(found) == 1 else ""


def with_form_model(content_type: bytes | None, body: bytes, model: str) -> bytes | None:
    """The form with another model in it; None where `form_model` finds none."""
    found = _fields(content_type or b"", body)
    if not found or len(found) > 1:
        return None
    return body[: found[0].start] + model.encode() + body[found[0].stop :]


def _fields(content_type: bytes, body: bytes) -> list[slice] | None:
    """Where the texts of such fields stand; None for a form that cannot be read."""
    found: list[slice] = []
    if not content_type.lower().startswith(b"multipart/form-data"):
        return found
    boundaries = _BOUNDARY.findall(content_type)
    if len(boundaries) != 1:
        return None
    boundary = b"--" + b"".join(boundaries[0])
    at = body.find(boundary)
    for _ in range(_MAX_PARTS):
        if at < 0:
            return found
        start = at + len(boundary)
        at = body.find(boundary, start)
        end = len(body) if at < 0 else at
        value = body.find(b"\r\n\r\n", start, end) + 4
        if value - start > _MAX_HEAD_BYTES:
            return None
        if value < 4 or not _MODEL.search(body, start, value):
            continue
        if end - value > MAX_MODEL_CHARS + 2:
            return None
        found.append(slice(value, end - 2 if body.startswith(b"\r\n", end - 2) else end))
    return None
