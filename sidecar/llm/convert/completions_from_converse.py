"""A Converse answer as an OpenAI chat completion, whole and streamed.

Source: spec llm section 2.10; OpenAI API reference (chat); Amazon Bedrock API
reference (Converse, ConverseStream).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.http.sse import encode_event
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.convert.cloud_error import bedrock_stream_error
from sidecar.llm.convert.completion_chunks import DONE, ChunkWriter
from sidecar.llm.convert.converse_answer import (
    FILTERED,
    Tokens,
    blocks_of,
    delta_of,
    reasoning_of,
    start_of,
    text_of,
    tokens_of,
    tool_use_of,
)
from sidecar.llm.convert.provider_error import EARLY_END, ProviderError, as_openai
from sidecar.llm.shape import (
    to_count,
)

_FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
} | dict.fromkeys(FILTERED, "content_filter")
_REDACTED: Final = "[REDACTED]"


def _usage(tokens: Tokens) -> Json:
    """In OpenAI's terms; cached tokens stand beside `prompt_tokens`, and are in the total."""
    out: Json = {
        "prompt_tokens": tokens.sent,
        "completion_tokens": tokens.received,
        "total_tokens": tokens.total,
    }
    details: Json = {}
    if tokens.read is not None:
        details["cached_tokens"] = out["cache_read_input_tokens"] = tokens.read
    if tokens.written is not None:
        details["cache_write_tokens"] = out["cache_creation_input_tokens"] = tokens.written
    if details:
        out["prompt_tokens_details"] = details
    return out


def response_of(body: Json, context: Context) -> Json:
    """The answer. Raises: UpstreamError 502 for what is no answer, ShapeError."""
    message = _answer(blocks_of(body), context)
    finish = _FINISH.get(str(body.get("stopReason")), "stop")
    return {
        "id": context.new_id("bedrock-"),
        "object": "chat.completion",
        "created": context.now_seconds,
        "model": context.model,
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": _usage(tokens_of(body.get("usage"))),
    }


def _answer(blocks: list[Json], context: Context) -> Json:
    message: Json = {"role": "assistant"}
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    for block in blocks:
        if "toolUse" in block:
            use = tool_use_of(block["toolUse"], context)
            function = {"name": use.name, "arguments": use.arguments()}
            calls.append({"id": use.id, "type": "function", "function": function})
        elif "reasoningContent" in block:
            reasoning = reasoning_of(block)
            thoughts.append(reasoning.text)
            if reasoning.signature:
                message["reasoning_signature"] = reasoning.signature
        else:
            texts.append(text_of(block))
    if any(texts):
        message["content"] = "".join(texts)
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return message


# --- stream ---------------------------------------------------------------------------------


@final
class ConverseStream:
    """Chunks out of ConverseStream.

    States: open → stopped (messageStop told why) → closed (metadata brought the usage, or the
    upstream ended). An exception closes it from anywhere, and so does an end before messageStop.
    """

    __slots__ = ("_calls", "_context", "_has_arguments", "_is_closed", "_is_stopped", "_writer")

    def __init__(self, context: Context) -> None:
        self._context = context
        identity = context.request_id or context.new_id("bedrock-")
        self._writer = ChunkWriter(context, identity, context.model)
        self._calls: dict[int, int] = {}
        """Index of a call's open block → the call's number."""
        self._has_arguments: set[int] = set()
        self._is_stopped = False
        self._is_closed = False

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data, name = event.data, event.name
        if self._is_closed or data is None:
            return []
        if name == "contentBlockDelta":
            return self._delta(data)
        if name == "contentBlockStart":
            return self._start(data)
        if name == "contentBlockStop":
            return self._stop(to_count(data.get("contentBlockIndex"), "contentBlockIndex"))
        if name == "messageStart":
            return [self._writer.delta({})]
        if name == "messageStop":
            self._is_stopped = True
            return [self._writer.delta({}, _FINISH.get(str(data.get("stopReason")), "stop"))]
        if name == "metadata":
            return self._metadata(data)
        error = bedrock_stream_error(event)
        return [] if error is None else self._fail(*error)

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._is_closed:
            return []
        if self._is_stopped:
            self._is_closed = True
            return [DONE]
        return self._fail(502, ProviderError(EARLY_END))

    def _fail(self, status: int, error: ProviderError) -> list[bytes]:
        self._is_closed = True
        return [encode_event(orjson.dumps(as_openai(status, error)))]

    def _start(self, data: Json) -> list[bytes]:
        index, use = start_of(data, self._context)
        if use is None:
            return []
        number = len(self._calls)
        self._calls[index] = number
        return [self._writer.call(number, use.id, use.name)]

    def _delta(self, data: Json) -> list[bytes]:
        index, kind, text = delta_of(data)
        if kind == "text":
            return [self._writer.delta({"content": text})] if text else []
        if kind == "input":
            if not text or index not in self._calls:
                return []
            self._has_arguments.add(index)
            return [self._writer.arguments(self._calls[index], text)]
        if kind == "reasoning":
            return [self._writer.delta({"reasoning_content": text})]
        if kind == "signature":
            return [self._writer.delta({"reasoning_signature": text})]
        return [self._writer.delta({"reasoning_content": _REDACTED})] if kind else []

    def _stop(self, index: int) -> list[bytes]:
        # A call without arguments has no delta at all, but clients parse the arguments.
        if index not in self._calls or index in self._has_arguments:
            return []
        self._has_arguments.add(index)
        return [self._writer.arguments(self._calls[index], "{}")]

    def _metadata(self, data: Json) -> list[bytes]:
        frames = [self._writer.usage(_usage(tokens_of(data.get("usage"))))]
        if self._is_stopped:
            self._is_closed = True
            frames.append(DONE)
        return frames
