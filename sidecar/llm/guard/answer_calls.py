"""The arguments of the tool calls in whole answers, in each format that clients speak.

Source: spec/llm.md section 4.2; the providers' API references (tool use).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart

_ROLE: Final = "assistant"
_KIND: Final = "toolInput"


def _field(holder: object, key: str) -> Iterator[TextPart]:
    """Arguments, be they text or a value."""
    if not isinstance(holder, dict):
        return
    value = holder.get(key)
    if isinstance(value, str):
        yield loose.Field(_ROLE, _KIND, holder, key)
    elif isinstance(value, dict) and value:
        yield loose.JsonField(_ROLE, _KIND, holder, key)


def _completions(body: Json) -> Iterator[TextPart]:
    for choice in loose.objects(body.get("choices")):
        message = loose.obj(choice.get("message"))
        for call in loose.objects(message.get("tool_calls")):
            yield from _field(call.get("function"), "arguments")
            yield from _field(call.get("custom"), "input")
        yield from _field(message.get("function_call"), "arguments")


def _messages(body: Json) -> Iterator[TextPart]:
    for block in loose.objects(body.get("content")):
        if loose.text(block.get("type")).endswith("tool_use"):
            yield from _field(block, "input")


def _responses(body: Json) -> Iterator[TextPart]:
    for item in loose.objects(body.get("output")):
        yield from item_calls(item)


def item_calls(item: Json) -> Iterator[TextPart]:
    """Of an output item of responses or of a realtime session."""
    if loose.text(item.get("type")).endswith("_call"):
        yield from _field(item, "arguments")
        yield from _field(item, "input")
        yield from _field(item, "action")


def _gemini(body: Json) -> Iterator[TextPart]:
    for candidate in loose.objects(body.get("candidates")):
        for part in loose.objects(loose.obj(candidate.get("content")).get("parts")):
            yield from _field(part.get("functionCall", part.get("function_call")), "args")


ANSWER_CALLS: Final[Mapping[str, Callable[[Json], Iterator[TextPart]]]] = {
    "completions": _completions,
    "messages": _messages,
    "responses": _responses,
    "generateContent": _gemini,
}
"""By route type."""
