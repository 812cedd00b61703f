"""An OpenAI response as an Anthropic message, whole and streamed.

Source: spec llm section 2.7; Anthropic API reference (messages, streaming); OpenAI API reference
(responses, streaming events).
"""

from __future__ import annotations

from typing import Any, Final, final

import orjson

from sidecar.llm.convert import messages_events as events
from sidecar.llm.convert import provider_error
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.shape import to_count, to_object, to_objects, to_optional_count, to_text


def usage_of(usage: Json, service_tier: object = None) -> Json:
    """OpenAI's usage in Anthropic's terms: cached tokens are counted apart from the others."""
    details = to_object(usage.get("input_tokens_details"), "usage.input_tokens_details")
    read = to_optional_count(details.get("cached_tokens"), "usage.cached_tokens") or 0
    written = to_optional_count(details.get("cache_write_tokens"), "usage.cache_write_tokens") or 0
    sent = to_count(usage.get("input_tokens"), "usage.input_tokens")
    out: Json = {
        "input_tokens": max(sent - read - written, 0),
        "output_tokens": to_count(usage.get("output_tokens"), "usage.output_tokens"),
    }
    if written:
        out["cache_creation_input_tokens"] = written
    if read:
        out["cache_read_input_tokens"] = read
    if service_tier is not None:
        out["service_tier"] = service_tier
    return out


def stop_reason(body: Json, *, has_call: bool, has_refusal: bool) -> str:
    """Anthropic's reason for the end of this response."""
    if body.get("status") == "incomplete":
        details = to_object(body.get("incomplete_details"), "incomplete_details")
        reason = to_text(details.get("reason"), "incomplete_details.reason")
        if reason == "content_filter":
            return "refusal"
        return "model_context_window_exceeded" if "context" in reason else "max_tokens"
    if has_call:
        return "tool_use"
    return "refusal" if has_refusal else "end_turn"


def response_of(body: Json, context: Context) -> Json:
    """The message. Raises: UpstreamError 502 for a response that failed or is under way."""
    status = body.get("status", "completed")
    if status not in ("completed", "incomplete") or "output" not in body:
        raise provider_error.incomplete(body)
    content: list[Json] = []
    has_refusal = False
    for index, item in enumerate(to_objects(body.get("output"), "output")):
        kind = item.get("type")
        if kind == "message":
            for part in to_objects(item.get("content"), f"output[{index}].content"):
                is_refusal = part.get("type") == "refusal"
                has_refusal = has_refusal or is_refusal
                text = to_text(part.get("refusal" if is_refusal else "text"), "part.text")
                if text:
                    content.append({"type": "text", "text": text})
        elif kind in ("function_call", "custom_tool_call"):
            content.append(_tool_use(item, index, context))
    has_call = any(block["type"] == "tool_use" for block in content)
    return {
        "id": body.get("id"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": body.get("model"),
        "stop_reason": stop_reason(body, has_call=has_call, has_refusal=has_refusal),
        "stop_sequence": None,
        "usage": usage_of(to_object(body.get("usage"), "usage"), body.get("service_tier")),
    }


def _tool_use(item: Json, index: int, context: Context) -> Json:
    return tool_block(item, index, context) | {"input": _input(item, f"output[{index}]")}


def tool_block(item: Json, index: int, context: Context) -> Json:
    """The tool_use block of a call, its input still empty."""
    name = to_text(item.get("name"), f"output[{index}].name")
    return {
        "type": "tool_use",
        "id": item.get("call_id") or f"tool_call_{index}",
        "name": context.tool_names.get(name, name),
        "input": {},
    }


def _input(item: Json, where: str) -> Any:
    """Arguments as Anthropic has them; what was cut off in the middle stays a string."""
    if item.get("type") == "custom_tool_call":
        return {"input": to_text(item.get("input"), f"{where}.input")}
    arguments = to_text(item.get("arguments"), f"{where}.arguments")
    if not arguments.strip():
        return {}
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


# --- stream ---------------------------------------------------------------------------------


@final
class MessageStream:
    """Anthropic's events out of responses events.

    States: before the first event → started → ended. A block is opened by its item or its first
    delta and closed by its `done`, or at the end. Blocks are known by output and content index.
    """

    __slots__ = (
        "_blocks",
        "_context",
        "_ended",
        "_has_call",
        "_has_refusal",
        "_next",
        "_started",
        "_told",
    )

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started = False
        self._ended = False
        self._has_call = False
        self._has_refusal = False
        self._next = 0
        self._blocks: dict[tuple[int, int], tuple[int, bool]] = {}
        """(output index, content index, -1 for a call) → (index of the open block, has input)."""
        self._told: set[int] = set()
        """Output indexes of messages whose text was streamed."""

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data = event.data
        if data is None or self._ended:
            return []
        kind = to_text(data.get("type"), "type") or event.name
        frames: list[bytes] = []
        if kind == "error" or data.get("error"):
            return self._fail(data)
        if not self._started:
            self._started = True
            response = to_object(data.get("response"), "response")
            frames.append(events.message_start(response.get("id"), response.get("model")))
        handler = _HANDLERS.get(kind)
        return frames if handler is None else frames + handler(self, data)

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._ended:
            return []
        return self._fail({"error": {"message": provider_error.EARLY_END}})

    def _fail(self, data: Json) -> list[bytes]:
        self._ended = True
        error = provider_error.of_json(data)
        status = provider_error.stream_status(error)
        return [events.frame(provider_error.as_anthropic(status, error))]

    def _text(self, data: Json) -> list[bytes]:
        delta = to_text(data.get("delta"), "delta")
        place = _place(data)
        if data.get("type") == "response.refusal.delta":
            self._has_refusal = True
        if not delta:
            return []
        self._told.add(place[0])
        frames = self._open(place, {"type": "text", "text": ""})
        return [*frames, events.text_delta(self._blocks[place][0], delta)]

    def _part_done(self, data: Json) -> list[bytes]:
        return self._close(_place(data))

    def _item_added(self, data: Json) -> list[bytes]:
        item = to_object(data.get("item"), "item")
        if item.get("type") not in ("function_call", "custom_tool_call"):
            return []
        self._has_call = True
        output = to_count(data.get("output_index"), "output_index")
        return self._open((output, -1), tool_block(item, output, self._context))

    def _arguments(self, data: Json) -> list[bytes]:
        place = (to_count(data.get("output_index"), "output_index"), -1)
        delta = to_text(data.get("delta"), "delta")
        if not delta or place not in self._blocks:
            return []
        index = self._blocks[place][0]
        self._blocks[place] = (index, True)
        return [events.input_delta(index, delta)]

    def _item_done(self, data: Json) -> list[bytes]:
        """An item whose texts or arguments were never streamed is told whole."""
        output = to_count(data.get("output_index"), "output_index")
        item = to_object(data.get("item"), "item")
        if item.get("type") == "message" and output not in self._told:
            return self._whole_message(item, output)
        frames = self._item_added(data) if (output, -1) not in self._blocks else []
        block = self._blocks.get((output, -1))
        if block is not None and not block[1]:
            arguments = item.get("arguments")
            if item.get("type") == "custom_tool_call":
                arguments = orjson.dumps(_input(item, "item")).decode()
            text = to_text(arguments, "item.arguments")
            if text:
                frames.append(events.input_delta(block[0], text))
        for place in [place for place in self._blocks if place[0] == output]:
            frames += self._close(place)
        return frames

    def _whole_message(self, item: Json, output: int) -> list[bytes]:
        frames: list[bytes] = []
        for index, part in enumerate(to_objects(item.get("content"), "item.content")):
            key = "refusal" if part.get("type") == "refusal" else "text"
            place: Json = {"output_index": output, "content_index": index}
            kind = f"response.{'refusal' if key == 'refusal' else 'output_text'}.delta"
            frames += self._text(place | {"type": kind, "delta": part.get(key)})
            frames += self._close((output, index))
        return frames

    def _end(self, data: Json) -> list[bytes]:
        self._ended = True
        body = to_object(data.get("response"), "response")
        frames: list[bytes] = []
        for place in list(self._blocks):
            frames += self._close(place)
        reason = stop_reason(body, has_call=self._has_call, has_refusal=self._has_refusal)
        usage = usage_of(to_object(body.get("usage"), "usage"))
        return frames + events.message_end(reason, usage)

    def _failed(self, data: Json) -> list[bytes]:
        return self._fail(to_object(data.get("response"), "response"))

    def _open(self, place: tuple[int, int], block: Json) -> list[bytes]:
        if place in self._blocks:
            return []
        index, self._next = self._next, self._next + 1
        self._blocks[place] = (index, False)
        return [events.block_start(index, block)]

    def _close(self, place: tuple[int, int]) -> list[bytes]:
        block = self._blocks.pop(place, None)
        if block is None:
            return []
        return [events.block_stop(block[0])]


_HANDLERS: Final = {
    "response.output_text.delta": MessageStream._text,
    "response.refusal.delta": MessageStream._text,
    "response.output_text.done": MessageStream._part_done,
    "response.refusal.done": MessageStream._part_done,
    "response.content_part.done": MessageStream._part_done,
    "response.output_item.added": MessageStream._item_added,
    "response.function_call_arguments.delta": MessageStream._arguments,
    "response.output_item.done": MessageStream._item_done,
    "response.completed": MessageStream._end,
    "response.incomplete": MessageStream._end,
    "response.failed": MessageStream._failed,
}


def _place(data: Json) -> tuple[int, int]:
    output = to_count(data.get("output_index"), "output_index")
    return output, to_count(data.get("content_index"), "content_index")
