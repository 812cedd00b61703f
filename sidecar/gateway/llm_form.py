"""The `model` of a multipart form: audio and image requests name it there.

Source: RFC 7578; RFC 2046 section 5.1; spec/llm.md section 0.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.llm.chat.paths import MAX_MODEL_CHARS

_BOUNDARY: Final = re.compile(rb'boundary=(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_MODEL: Final = re.compile(rb'content-disposition:\s*form-data\s*;[^\r\n]*\bname="model"', re.I)
_MAX_PARTS: Final = 128
_JSON: Final = b"application/json"


def form_model(content_type: bytes | None, body: bytes) -> str | None:
    """The field's text; None when the body is no form, or has no such field."""
    # Fast path: what nearly all requests are.
    if content_type is None or content_type == _JSON:
        return None
    if not content_type.lower().startswith(b"multipart/form-data"):
        return None
    found = _BOUNDARY.search(content_type)
    if found is None:
        return None
    boundary = b"--" + (found[1] or found[2])
    for part in body.split(boundary, _MAX_PARTS)[1:]:
        head, _, value = part.partition(b"\r\n\r\n")
        if _MODEL.search(head) and len(value) <= MAX_MODEL_CHARS + 2:
            return value.removesuffix(b"\r\n").decode("utf-8", "replace") or None
    return None
