"""How the simulator misbehaves on demand, and each provider's shape of an error.

A request asks for it in the header `x-simulate` or in the name of its model, so that a fault can
be had through any gateway: `gpt-4o-mini-fail-429`, or `x-simulate: slow-first-token, pace-50`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, final

from sidecar.simulator.ask import Json

HEADER: Final = b"x-simulate"
SLOW_SECONDS: Final = 1.0
_WORD: Final = re.compile(
    r"(fail|words|pace|slow-first-token)-(\d{1,6})"
    r"|(hang|html|bad-json|cut-stream|silent-stream|error-stream|slow-first-token)"
)


@final
@dataclass(slots=True)
class Faults:
    """What is asked for; nothing by default."""

    status: int = 0
    """`fail-429`: an error of that status."""
    is_hanging: bool = False
    """`hang`: no answer at all."""
    is_html: bool = False
    """`html`: a page in place of JSON, status 200."""
    is_bad_json: bool = False
    """`bad-json`: an answer that breaks off in the middle, though its length is right."""
    is_cut: bool = False
    """`cut-stream`: the connection ends in the middle of an event, halfway through."""
    is_silent: bool = False
    """`silent-stream`: nothing more comes, halfway through."""
    is_failing: bool = False
    """`error-stream`: an error event halfway through, then the end."""
    wait_seconds: float = 0.0
    """`slow-first-token` (a second) or `slow-first-token-250` (milliseconds)."""
    pace_seconds: float | None = None
    """`pace-50`: milliseconds between two events."""
    words: int = 0
    """`words-200`: how long the answer is."""


def read(*sources: str) -> Faults:
    """Of a header's value and a model's name."""
    faults = Faults()
    for kind, number, word in _WORD.findall(" ".join(sources)):
        if kind:
            _set_number(faults, kind, int(number))
        elif word == "slow-first-token":
            faults.wait_seconds = SLOW_SECONDS
        else:
            setattr(faults, _FLAGS[word], True)
    return faults


_FLAGS: Final = {
    "hang": "is_hanging",
    "html": "is_html",
    "bad-json": "is_bad_json",
    "cut-stream": "is_cut",
    "silent-stream": "is_silent",
    "error-stream": "is_failing",
}


def _set_number(faults: Faults, kind: str, number: int) -> None:
    if kind == "fail" and 400 <= number < 600:
        faults.status = number
    elif kind == "words":
        faults.words = min(number, 100_000)
    elif kind == "pace":
        faults.pace_seconds = number / 1000
    elif kind == "slow-first-token":
        faults.wait_seconds = number / 1000


# --- errors ----------------------------------------------------------------------------------

_OPENAI: Final = {
    401: ("invalid_request_error", "invalid_api_key"),
    403: ("invalid_request_error", "permission_denied"),
    404: ("invalid_request_error", "model_not_found"),
    429: ("requests", "rate_limit_exceeded"),
}
_ANTHROPIC: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}
_GOOGLE: Final = {
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_BEDROCK: Final = {
    401: "UnrecognizedClientException",
    403: "AccessDeniedException",
    404: "ResourceNotFoundException",
    429: "ThrottlingException",
    503: "ServiceUnavailableException",
}


def error(family: str, status: int, message: str) -> Json:
    """The body of an error. `family`: `openai`, `anthropic`, `google` or `bedrock`."""
    if family == "anthropic":
        kind = _ANTHROPIC.get(status, "invalid_request_error" if status < 500 else "api_error")
        return {"type": "error", "error": {"type": kind, "message": message}}
    if family == "google":
        name = _GOOGLE.get(status, "INVALID_ARGUMENT" if status < 500 else "INTERNAL")
        return {"error": {"code": status, "message": message, "status": name}}
    if family == "bedrock":
        return {"message": message}
    default = ("invalid_request_error", None) if status < 500 else ("server_error", None)
    kind, code = _OPENAI.get(status, default)
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def bedrock_type(status: int) -> str:
    """`x-amzn-errortype` of an error."""
    default = "ValidationException" if status < 500 else "InternalServerException"
    return _BEDROCK.get(status, default)
