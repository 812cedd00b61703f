"""The texts in the events of a streamed answer, in each format that clients speak.

Source: spec/llm.md sections 2.14, 2.16 and 4.2; the providers' API references (streaming events).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json
from sidecar.llm.guard.echoes import block_echoes, candidate_echoes


@final
@dataclass(frozen=True, slots=True)
class StreamText:
    """A text at `holder[key]`, which continues what its channel brought before.

    `channel` None: it stands for itself, as the repetition of a whole text does.
    """

    channel: Channel | None
    holder: Json
    key: str
    is_call: bool = False
    """Arguments of a tool call, judged when all are there: JSON as text, or a whole value."""


@final
@dataclass(frozen=True, slots=True)
class StreamEnd:
    """No more comes on the channels that begin with this."""

    channel: Channel


Channel = tuple[Hashable, ...]
StreamTexts = Callable[[Json], Iterator[StreamText | StreamEnd]]
_DELTA_KEYS: Final = ("content", "refusal", "reasoning_content", "reasoning")
_DETAIL_KEYS: Final = ("text", "summary")
_BLOCK_KEYS: Final = ("text", "thinking")
_DONE_KEYS: Final = ("text", "refusal", "transcript")
_TEXT_DELTAS: Final = frozenset(
    (
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
    )
)
_CALLED: Final = (
    "response.function_call_arguments",
    "response.custom_tool_call_input",
    "response.mcp_call_arguments",
)
_CALL_DELTAS: Final = frozenset(f"{name}.delta" for name in _CALLED)
_CALL_DONE: Final = frozenset(f"{name}.done" for name in _CALLED)


def held(channel: Channel | None, holder: Json, keys: tuple[str, ...]) -> Iterator[StreamText]:
    """The texts under these keys."""
    for key in keys:
        if isinstance(holder.get(key), str):
            yield StreamText(None if channel is None else (*channel, key), holder, key)


def called(channel: Channel | None, holder: Json, keys: tuple[str, ...]) -> Iterator[StreamText]:
    """The arguments under these keys."""
    for key in keys:
        value = holder.get(key)
        if isinstance(value, str) or (isinstance(value, dict) and value):
            # A value is never a piece of one.
            whole = channel is None or isinstance(value, dict)
            yield StreamText(None if whole else channel, holder, key, is_call=True)


def _completions(data: Json) -> Iterator[StreamText | StreamEnd]:
    for choice in loose.objects(data.get("choices")):
        delta = loose.obj(choice.get("delta"))
        index = loose.count(choice.get("index")) or 0
        yield from held((index,), delta, _DELTA_KEYS)
        for number, detail in enumerate(loose.objects(delta.get("reasoning_details"))):
            given = loose.count(detail.get("index"))
            at = number if given is None else given
            yield from held((index, "details", at), detail, _DETAIL_KEYS)
        yield from held((index, "audio"), loose.obj(delta.get("audio")), ("transcript",))
        for part in loose.objects(delta.get("content")):
            yield from held((index, "content"), part, ("text",))
        for call in loose.objects(delta.get("tool_calls")):
            place = ("call", index, loose.count(call.get("index")) or 0)
            yield from called(place, loose.obj(call.get("function")), ("arguments",))
            yield from called(place, loose.obj(call.get("custom")), ("input",))
        function = loose.obj(delta.get("function_call"))
        yield from called(("call", index, "function"), function, ("arguments",))
        if choice.get("finish_reason"):
            yield StreamEnd(("call", index))


def _messages(data: Json) -> Iterator[StreamText | StreamEnd]:
    index = loose.count(data.get("index")) or 0
    block = loose.obj(data.get("content_block"))
    yield from held((index,), loose.obj(data.get("delta")), _BLOCK_KEYS)
    yield from held((index,), block, _BLOCK_KEYS)
    for holder, key in block_echoes(loose.obj(data.get("delta"))):
        yield StreamText(None, holder, key)
    yield from called(("call", index), loose.obj(data.get("delta")), ("partial_json",))
    yield from called(None, block, ("input",))
    if data.get("type") == "content_block_stop":
        yield StreamEnd(("call", index))


def _responses(data: Json) -> Iterator[StreamText | StreamEnd]:
    kind = loose.text(data.get("type"))
    if kind in _TEXT_DELTAS:
        place = [
            loose.count(data.get(key)) for key in ("output_index", "content_index", "summary_index")
        ]
        yield from held((kind, *place), data, ("delta",))
        return
    index = loose.count(data.get("output_index"))
    if kind in _CALL_DELTAS:
        yield from called(("call", index), data, ("delta",))
        return
    if kind in _CALL_DONE:
        yield StreamEnd(("call", index))
        yield from called(None, data, ("arguments", "input"))
    yield from held(None, data, _DONE_KEYS)
    yield from held(None, loose.obj(data.get("part")), _DONE_KEYS)
    items = [data["item"]] if isinstance(data.get("item"), dict) else []
    items += loose.objects(loose.obj(data.get("response")).get("output"))
    for item in items:
        yield from item_texts(item)


def item_texts(item: Json) -> Iterator[StreamText]:
    """The texts of an output item that is repeated whole."""
    for key in ("content", "summary"):
        for part in loose.objects(item.get(key)):
            yield from held(None, part, _DONE_KEYS)
    if loose.text(item.get("type")).endswith("_call"):
        yield from called(None, item, ("arguments", "input", "action"))


def _gemini(data: Json) -> Iterator[StreamText | StreamEnd]:
    for at, candidate in enumerate(loose.objects(data.get("candidates"))):
        given = loose.count(candidate.get("index"))
        index = at if given is None else given
        for holder, key in candidate_echoes(candidate):
            yield StreamText(None, holder, key)
        for part in loose.objects(loose.obj(candidate.get("content")).get("parts")):
            yield from held((index, part.get("thought") is True), part, ("text",))
            call = loose.obj(part.get("functionCall", part.get("function_call")))
            yield from called(None, call, ("args",))
            for partial in loose.objects(call.get("partialArgs")):
                place = (index, "call", loose.text(partial.get("jsonPath")))
                yield from held(place, partial, ("stringValue",))


STREAM_TEXTS: Final[Mapping[str, StreamTexts]] = {
    "completions": _completions,
    "messages": _messages,
    "responses": _responses,
    "generateContent": _gemini,
}
"""By route type."""
