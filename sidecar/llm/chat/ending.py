"""Whether a stream's event says that the answer is complete, in whichever format it is.

Source: spec llm section 2.16; the providers' API references.
"""

from __future__ import annotations

from typing import Final

from sidecar.llm.chat.base import Json

_LAST: Final = frozenset(("message_stop", "response.completed", "response.incomplete"))


def is_end(data: Json | None) -> bool:
    """`data` as in convert.base.StreamEvent. An error is no end: what it cuts off is not whole."""
    if data is None:
        return True
    kind = data.get("type")
    if kind == "message_delta":
        return _says(data.get("delta"), "stop_reason")
    if isinstance(kind, str):
        return kind in _LAST
    choices = data.get("choices")
    if isinstance(choices, list):
        # OpenAI's last event before [DONE] has the usage and nothing else.
        if not choices:
            return isinstance(data.get("usage"), dict)
        return any(_says(one, "finish_reason") for one in choices)
    candidates = data.get("candidates")
    if isinstance(candidates, list) and any(_says(one, "finishReason") for one in candidates):
        return True
    return "stopReason" in data or "metrics" in data or "promptFeedback" in data


def _says(value: object, key: str) -> bool:
    return isinstance(value, dict) and bool(value.get(key))
