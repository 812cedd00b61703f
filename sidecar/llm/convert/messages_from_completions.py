"""An OpenAI chat completion as an Anthropic message, whole and streamed.

Source: spec llm section 2.6; Anthropic API reference (messages, streaming); OpenAI API reference
(chat).
"""

from __future__ import annotations

from typing import Any, Final, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.llm.convert import messages_events as events
from sidecar.llm.convert import provider_error
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.convert.completion_chunks import is_another_call
from sidecar.llm.convert.thought_signatures import signature_of, signed_id
from sidecar.llm.shape import (
    joined_text,
    to_count,
    to_object,
    to_objects,
    to_optional_count,
    to_text,
)

_STOP: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}


def stop_reason(finish: object, *, has_calls: bool, has_refusal: bool) -> str:
    """Why it ended. OpenAI says `stop` for a forced call, others for any; Anthropic's clients run
    tools for `tool_use` alone. A refusal ends with `stop` there."""
    reason = _STOP.get(str(finish), "end_turn")
    if reason != "end_turn":
        return reason
    if has_calls:
        return "tool_use"
    return "refusal" if has_refusal else reason


def usage_of(usage: Json, service_tier: object = None) -> Json:
    """OpenAI's usage in Anthropic's terms: cached tokens are counted apart from the others."""
    details = to_object(usage.get("prompt_tokens_details"), "usage.prompt_tokens_details")
    read = to_optional_count(details.get("cached_tokens"), "usage.cached_tokens")
    written = to_optional_count(details.get("cache_write_tokens"), "usage.cache_write_tokens")
    sent = to_count(usage.get("prompt_tokens"), "usage.prompt_tokens")
    out: Json = {
        "input_tokens": max(sent - (read or 0) - (written or 0), 0),
        "output_tokens": to_count(usage.get("completion_tokens"), "usage.completion_tokens"),
    }
    if written is not None:
        out["cache_creation_input_tokens"] = written
    if read is not None:
        out["cache_read_input_tokens"] = read
    if service_tier is not None:
        out["service_tier"] = service_tier
    return out


def response_of(body: Json, context: Context) -> Json:
    """The message. Raises: UpstreamError 502 for an answer without a choice."""
    choices = to_objects(body.get("choices"), "choices")
    if not choices:
        raise UpstreamError(502, "UpstreamFailure", "the provider's answer holds no choice")
    message = to_object(choices[0].get("message"), "choices[0].message")
    content: list[Json] = []
    refusal = to_text(message.get("refusal"), "message.refusal")
    text = joined_text(message.get("content"), "message.content") or refusal
    if text:
        content.append({"type": "text", "text": text})
    calls = to_objects(message.get("tool_calls"), "message.tool_calls")
    finish = choices[0].get("finish_reason")
    for index, call in enumerate(calls):
        function = to_object(call.get("function"), f"tool_calls[{index}].function")
        name = to_text(function.get("name"), f"tool_calls[{index}].function.name")
        arguments = to_text(function.get("arguments"), f"tool_calls[{index}].function.arguments")
        content.append(
            {
                "type": "tool_use",
                "id": _identity(call, index),
                "name": context.tool_names.get(name, name),
                "input": _input(arguments),
            }
        )
    return {
        "id": body.get("id") or context.new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "content": content,
        "model": body.get("model") or context.model,
        "stop_reason": stop_reason(finish, has_calls=bool(calls), has_refusal=bool(refusal)),
        "stop_sequence": None,
        "usage": usage_of(to_object(body.get("usage"), "usage"), body.get("service_tier")),
    }


def _identity(call: Json, number: int) -> str:
    """The id that the client sends back, with the signature that Gemini wants beside it."""
    identity = to_text(call.get("id"), "tool_calls.id") or f"tool_call_{number}"
    return signed_id(identity, signature_of(call))


def _input(arguments: str) -> Any:
    """Arguments as Anthropic has them; what was cut off in the middle stays a string."""
    if not arguments.strip():
        return {}
    try:
        return orjson.loads(arguments)
    except orjson.JSONDecodeError:
        return arguments


# --- stream ---------------------------------------------------------------------------------


@final
class MessageStream:
    """Anthropic's events out of chunks.

    States: before the first chunk → started → ended (message_delta and message_stop are out). It
    ends when the finish reason and the usage are both known, or at `[DONE]`. The text block is
    closed when a tool begins; tool blocks stay open to the end, since chunks may interleave them.
    """

    __slots__ = (
        "_context",
        "_ended",
        "_finish",
        "_has_refusal",
        "_ids",
        "_next",
        "_started",
        "_text",
        "_tools",
        "_usage",
    )

    def __init__(self, context: Context) -> None:
        self._context = context
        self._started = False
        self._ended = False
        self._finish = ""
        self._has_refusal = False
        self._usage: Json | None = None
        self._next = 0
        """Index of the next block."""
        self._text = -1
        """Index of the open text block."""
        self._tools: dict[int, int] = {}
        """Index of a call → index of its open block."""
        self._ids: dict[int, object] = {}
        """Index of a call → the provider's id of it."""

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data = event.data
        if self._ended:
            return []
        if data is None:
            return self._end() if self._started else self.finish()
        if data.get("error"):
            self._ended = True
            error = provider_error.of_json(data)
            status = provider_error.stream_status(error)
            return [events.frame(provider_error.as_anthropic(status, error))]
        frames: list[bytes] = []
        if not self._started:
            self._started = True
            identity = data.get("id") or self._context.new_id("msg_")
            model = data.get("model") or self._context.model
            frames.append(events.message_start(identity, model))
        for choice in to_objects(data.get("choices"), "choices"):
            if to_count(choice.get("index"), "choices.index") == 0:
                frames += self._choice(choice)
        if data.get("usage"):
            self._usage = to_object(data["usage"], "usage")
        if self._finish and self._usage is not None:
            frames += self._end()
        return frames

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._ended:
            return []
        if self._finish:
            return self._end()
        self._ended = True
        error = provider_error.ProviderError(provider_error.EARLY_END)
        return [events.frame(provider_error.as_anthropic(502, error))]

    def _choice(self, choice: Json) -> list[bytes]:
        delta = to_object(choice.get("delta"), "delta")
        frames: list[bytes] = []
        refusal = to_text(delta.get("refusal"), "delta.refusal")
        self._has_refusal = self._has_refusal or bool(refusal)
        text = joined_text(delta.get("content"), "delta.content") or refusal
        if text:
            frames += self._text_delta(text)
        for call in to_objects(delta.get("tool_calls"), "delta.tool_calls"):
            frames += self._call(call)
        if choice.get("finish_reason"):
            self._finish = to_text(choice["finish_reason"], "finish_reason")
        return frames

    def _text_delta(self, text: str) -> list[bytes]:
        frames: list[bytes] = []
        if self._text < 0:
            self._text = self._next
            self._next += 1
            frames.append(events.block_start(self._text, {"type": "text", "text": ""}))
        frames.append(events.text_delta(self._text, text))
        return frames

    def _call(self, call: Json) -> list[bytes]:
        number = to_count(call.get("index"), "tool_calls.index")
        function = to_object(call.get("function"), "tool_calls.function")
        frames: list[bytes] = []
        if number not in self._tools or is_another_call(call, function, self._ids[number]):
            frames = self._open_call(number, call, function)
        arguments = to_text(function.get("arguments"), "tool_calls.function.arguments")
        if arguments:
            frames.append(events.input_delta(self._tools[number], arguments))
        return frames

    def _open_call(self, number: int, call: Json, function: Json) -> list[bytes]:
        frames = self._close_text()
        if number in self._tools:
            frames.append(events.block_stop(self._tools[number]))
        self._tools[number] = self._next
        self._ids[number] = call.get("id")
        self._next += 1
        name = to_text(function.get("name"), "tool_calls.function.name")
        block: Json = {
            "type": "tool_use",
            "id": _identity(call, number),
            "name": self._context.tool_names.get(name, name),
            "input": {},
        }
        return [*frames, events.block_start(self._tools[number], block)]

    def _close_text(self) -> list[bytes]:
        if self._text < 0:
            return []
        closed, self._text = self._text, -1
        return [events.block_stop(closed)]

    def _end(self) -> list[bytes]:
        self._ended = True
        frames = self._close_text()
        frames += [events.block_stop(block) for block in sorted(self._tools.values())]
        has_calls = bool(self._tools)
        reason = stop_reason(self._finish, has_calls=has_calls, has_refusal=self._has_refusal)
        return frames + events.message_end(reason, usage_of(self._usage or {}))
