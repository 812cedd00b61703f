"""The gateway's own errors in the shapes that clients of each API family expect.

Source: OpenAI, Anthropic and Google API references (errors).
"""

from __future__ import annotations

from typing import Any, Final

import orjson

from sidecar.http.sse import encode_event

Json = dict[str, Any]

_OPENAI: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    424: "api_error",  # Bedrock's, for a model that failed
    429: "rate_limit_error",
}
ANTHROPIC: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    424: "api_error",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
GOOGLE: Final = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    409: "ABORTED",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}


def _by_class(status: int, client: str, server: str) -> str:
    return client if status < 500 else server


def openai_error(status: int, message: str, kind: str = "", code: str = "") -> Json:
    """`{"error": {message, type, param, code}}`."""
    kind = kind or _OPENAI.get(status) or _by_class(status, "invalid_request_error", "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": code or None}}


def anthropic_error(status: int, message: str, kind: str = "") -> Json:
    """`{"type": "error", "error": {type, message}}`; there is no place for a code."""
    kind = kind or ANTHROPIC.get(status) or _by_class(status, "invalid_request_error", "api_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def google_error(status: int, message: str, kind: str = "", code: str = "") -> Json:
    """`{"error": {code, message, status}}`; the code, when there is one, as ErrorInfo's reason."""
    kind = kind or GOOGLE.get(status) or _by_class(status, "INVALID_ARGUMENT", "INTERNAL")
    error: Json = {"code": status, "message": message, "status": kind}
    if code:
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code}
        error["details"] = [info]
    return {"error": error}


def frame(body: Json, event: bytes = b"") -> bytes:
    """A body as an SSE event."""
    return encode_event(orjson.dumps(body), event)
