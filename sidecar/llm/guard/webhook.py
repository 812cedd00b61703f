"""What a guard webhook is asked, and what its answer means.

Source: spec/llm.md sections 4.2 and 7.1. Variants are known by their shape; what fits none, or is a
mask of other texts than were sent, is an error: a judgement that nobody understood is no pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import orjson

from sidecar.llm.guard.verdict import GuardError, Phase

Text = tuple[str, str]
"""Role and content."""


@final
@dataclass(frozen=True, slots=True)
class Refused:
    """It rejects."""

    body: bytes
    status: int
    """200 to 599."""


class WebhookError(GuardError):
    """The answer cannot be understood."""


def encode(phase: Phase, texts: Sequence[Text]) -> bytes:
    """The body of the call."""
    messages = [{"role": role, "content": content} for role, content in texts]
    if phase == "Request":
        return orjson.dumps({"body": {"messages": messages}})
    return orjson.dumps({"body": {"choices": [{"message": message} for message in messages]}})


def decode(phase: Phase, answer: bytes, count: int) -> list[str] | Refused | None:
    """The masked contents, in the order of the texts sent; a refusal; None: pass.

    Raises: WebhookError.
    """
    try:
        value = orjson.loads(answer)
    except orjson.JSONDecodeError as error:
        raise WebhookError("no JSON") from error
    action = value.get("action") if isinstance(value, dict) else None
    if not isinstance(action, dict):
        raise WebhookError("no `action` object")
    body = action.get("body")
    if isinstance(body, dict):
        return _contents(phase, body, count)
    if isinstance(body, str) and "status_code" in action:
        return Refused(body.encode(), _status(action["status_code"]))
    if action.keys() <= {"reason"}:
        return None
    raise WebhookError("an `action` of no known shape")


def _status(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 200 <= value <= 599:
        return value
    raise WebhookError("a `status_code` that is none")


def _contents(phase: Phase, body: dict[str, Any], count: int) -> list[str]:
    items = body.get("messages") if phase == "Request" else body.get("choices")
    if not isinstance(items, list) or len(items) != count:
        raise WebhookError("a mask of other texts than were sent")
    contents: list[str] = []
    for item in items:
        message = item.get("message") if phase == "Response" and isinstance(item, dict) else item
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(content, str):
            raise WebhookError("a mask without text")
        contents.append(content)
    return contents


__all__ = ["Phase", "Refused", "Text", "WebhookError", "decode", "encode"]
