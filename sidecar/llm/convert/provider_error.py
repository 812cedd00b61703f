"""What a provider said went wrong, whatever shape it chose, as OpenAI or Anthropic would say it.

The status is what counts; a body that cannot be read costs only the message. Nothing here raises.

Source: OpenAI, Anthropic and Google API references (errors); spec llm sections 2.4 and 2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.llm.chat.errors import ANTHROPIC, anthropic_error, openai_error

Json = dict[str, Any]

MAX_MESSAGE_CHARS: Final = 4096
EARLY_END: Final = "the provider's stream ended early"
_ANTHROPIC_TYPES: Final = frozenset(
    (
        "invalid_request_error",
        "authentication_error",
        "billing_error",
        "permission_error",
        "not_found_error",
        "request_too_large",
        "rate_limit_error",
        "timeout_error",
        "api_error",
        "overloaded_error",
    )
)
_STREAM_STATUS: Final = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "overloaded_error": 529,
}
"""Errors inside a stream carry no status of their own."""


@final
@dataclass(frozen=True, slots=True)
class ProviderError:
    """`message`, `kind` and `code` are "" where the provider did not say."""

    message: str = ""
    kind: str = ""
    code: str = ""
    param: str = ""


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def _detail(value: object) -> str:
    """Text, or FastAPI's list of what is wrong where, also in an object (Mistral)."""
    if isinstance(value, dict):
        value = value.get("detail")
    if not isinstance(value, list):
        return _text(value)
    found = [item for item in value if isinstance(item, dict)]
    return "; ".join(_text(item.get("msg")) for item in found if _text(item.get("msg")))


def of_json(value: object) -> ProviderError:
    """Out of decoded JSON: `{"error": {…}}`, `{"error": "…"}`, `{"message": …}`, a list of one."""
    if isinstance(value, list):  # Google's OpenAI-compatible endpoint answers `[{"error": …}]`
        value = value[0] if value else None
    if not isinstance(value, dict):
        return ProviderError()
    error = value.get("error", value)
    if isinstance(error, str):
        return ProviderError(error[:MAX_MESSAGE_CHARS])
    if not isinstance(error, dict):
        error = value
    message = _detail(error.get("message")) or _detail(error.get("detail"))
    code = error.get("code")
    return ProviderError(
        message[:MAX_MESSAGE_CHARS],
        _text(error.get("type")),
        str(code) if isinstance(code, str | int) else "",
        _text(error.get("param")),
    )


def of_body(body: bytes) -> ProviderError:
    """Out of an answer's bytes; HTML and the like say nothing that is worth passing on."""
    try:
        return of_json(orjson.loads(body))
    except orjson.JSONDecodeError:
        return ProviderError()


def _message(error: ProviderError, status: int) -> str:
    return error.message or f"the provider answered with status {status}"


def as_openai(status: int, error: ProviderError) -> Json:
    """For clients of OpenAI's formats: the provider's own type stays."""
    # `error` is what Anthropic's envelope calls itself, not a type.
    kind = "" if error.kind == "error" else error.kind
    out = openai_error(status, _message(error, status), kind, error.code)
    if error.param:
        out["error"]["param"] = error.param
    return out


def as_anthropic(status: int, error: ProviderError) -> Json:
    """For clients of Anthropic's format: a type unknown there is replaced by the status's own."""
    kind = error.kind if error.kind in _ANTHROPIC_TYPES else ""
    if kind == "invalid_request_error":
        # OpenAI says so of a wrong key and an unknown model as well.
        kind = ANTHROPIC.get(status, kind)
    return anthropic_error(status, _message(error, status), kind)


def stream_status(error: ProviderError) -> int:
    """The status that an error inside a stream would have had."""
    return _STREAM_STATUS.get(error.kind) or _STREAM_STATUS.get(error.code) or 500


def incomplete(body: Json) -> UpstreamError:
    """What a response of OpenAI's that failed, or is under way, is to a client; why, if it says."""
    said = of_json(body).message if body.get("error") else ""
    why = said or "the provider's answer is no complete response"
    return UpstreamError(502, "UpstreamFailure", why)
