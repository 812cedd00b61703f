"""Errors of Amazon Bedrock and of Google, read for clients of other formats. Nothing here raises.

Source: Amazon Bedrock API reference (common errors, ConverseStream); Google API design guide
(errors, google.rpc.Code); spec llm section 2.12.
"""

from __future__ import annotations

from typing import Final

import orjson

from sidecar.llm.convert.base import Json, StreamEvent
from sidecar.llm.convert.provider_error import MAX_MESSAGE_CHARS, ProviderError, of_body

_BEDROCK_STATUS: Final = {
    "accessdeniedexception": 403,
    "modelerrorexception": 424,
    "modelnotreadyexception": 429,
    "modelstreamerrorexception": 424,
    "modeltimeoutexception": 408,
    "resourcenotfoundexception": 404,
    "servicequotaexceededexception": 400,
    "serviceunavailableexception": 503,
    "throttlingexception": 429,
    "validationexception": 400,
}
_GOOGLE_KINDS: Final = {
    "INVALID_ARGUMENT": "invalid_request_error",
    "FAILED_PRECONDITION": "invalid_request_error",
    "NOT_FOUND": "not_found_error",
    "PERMISSION_DENIED": "authentication_error",
    "UNAUTHENTICATED": "authentication_error",
    "RESOURCE_EXHAUSTED": "rate_limit_error",
}
_EVENTS: Final = frozenset(
    (
        "messageStart",
        "contentBlockStart",
        "contentBlockDelta",
        "contentBlockStop",
        "messageStop",
        "metadata",
    )
)


def bedrock_error(body: bytes) -> ProviderError:
    """`{"message": …}`, or `{"Message": …}` of what stands before Bedrock."""
    try:
        given = orjson.loads(body)
    except orjson.JSONDecodeError:
        return ProviderError()
    if not isinstance(given, dict):
        return ProviderError()
    for key in ("message", "Message"):
        if isinstance(given.get(key), str):
            return ProviderError(given[key][:MAX_MESSAGE_CHARS])
    return ProviderError()


def bedrock_stream_error(event: StreamEvent) -> tuple[int, ProviderError] | None:
    """Status and error of an exception inside a stream; None for any other event."""
    if event.name in _EVENTS or event.data is None or "message" not in event.data:
        return None
    message = event.data["message"]
    text = message[:MAX_MESSAGE_CHARS] if isinstance(message, str) else ""
    return _BEDROCK_STATUS.get(event.name.lower(), 500), ProviderError(text or event.name)


def google_error(body: bytes | Json) -> ProviderError:
    """`{"error": {code, message, status}}`, also in a list of one. `code` is Google's status."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    error = of_body(data)
    status = _google_status(data)
    if not status:
        return error
    return ProviderError(error.message, _GOOGLE_KINDS.get(status, "api_error"), status)


def _google_status(data: bytes) -> str:
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError:
        return ""
    if isinstance(value, list):
        value = value[0] if value else None
    error = value.get("error") if isinstance(value, dict) else None
    status = error.get("status") if isinstance(error, dict) else None
    return status if isinstance(status, str) else ""


def google_stream_status(error: Json) -> int:
    """The HTTP status that an error inside a stream tells of itself."""
    code = error.get("code")
    is_status = isinstance(code, int) and not isinstance(code, bool) and 400 <= code <= 599
    return int(code) if is_status and code is not None else 500
