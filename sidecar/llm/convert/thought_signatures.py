"""Gemini's thought signatures, which come with a call and have to go back with it.

A client returns nothing of a call but its id, so the signature travels there, behind a mark. Google
has it in a part of generateContent (`thoughtSignature`), and in `extra_content` of a call where it
imitates OpenAI. Other providers refuse ids of that length: they get the id alone.

Source: Gemini API reference (thought signatures; OpenAI compatibility); spec llm section 2.11.
"""

from __future__ import annotations

import re
from typing import Final

from sidecar.llm.convert.base import Json

SIGNATURE_MARK: Final = "__thought__"
"""Between a call's id and the thought signature that goes with it, in the id clients see."""
UNCHECKED: Final = "skip_thought_signature_validator"
"""What Google takes in the place of a signature of a call that Gemini did not make."""
_FOREIGN: Final = re.compile(r"[^A-Za-z0-9_-]")
_EXTRA: Final = "extra_content"
_GEMINI: Final = re.compile(r"(?:.*/)?gemini-")
_DEMANDING: Final = re.compile(r"(?:.*/)?gemini-(?:[3-9]|\d\d)")


def split_call_id(identity: str) -> tuple[str, str]:
    """A call's id and its thought signature, "" when it carries none."""
    own, _, signature = identity.partition(SIGNATURE_MARK)
    return own, signature


def own_id(identity: str) -> str:
    """A call's id without its signature, for providers other than Google."""
    return split_call_id(identity)[0]


def clean_id(identity: str) -> str:
    """The same for Anthropic and Bedrock, which take letters, digits, `_` and `-`: some providers'
    ids hold more (`functions.f:0`)."""
    return _FOREIGN.sub("_", own_id(identity))


def signed_id(identity: str, signature: str) -> str:
    """The id for the client."""
    return identity + SIGNATURE_MARK + signature if signature else identity


def signature_of(call: Json) -> str:
    """The signature of a call in chat completions, "" for none. Others than Google may have
    something else of that name."""
    extra = call.get(_EXTRA)
    google = extra.get("google") if isinstance(extra, dict) else None
    signature = google.get("thought_signature") if isinstance(google, dict) else None
    return signature if isinstance(signature, str) else ""


def demands_signatures(model: str) -> bool:
    """Whether the model refuses a call in the history without one: Gemini 3 and later."""
    return _DEMANDING.match(model) is not None


def sign_calls(calls: list[Json], model: str) -> None:
    """Edit the calls of one assistant's message of chat completions: ids without signatures, which
    stand beside them where the model is Google's. Of calls side by side the first has one."""
    is_gemini = _GEMINI.match(model) is not None
    is_signed = False
    for call in calls:
        call["id"], signature = split_call_id(call["id"])
        if is_gemini and signature:
            is_signed = True
            _sign(call, signature)
    if calls and not is_signed and demands_signatures(model):
        _sign(calls[0], UNCHECKED)


def _sign(call: Json, signature: str) -> None:
    call[_EXTRA] = {"google": {"thought_signature": signature}}
