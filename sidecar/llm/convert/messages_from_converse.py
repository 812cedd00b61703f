"""A Converse answer as an Anthropic message, whole and streamed.

Source: spec llm section 2.10; Anthropic API reference (messages, streaming); Amazon Bedrock API
reference (Converse, ConverseStream).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.http.sse import encode_event
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.convert.cloud_error import bedrock_stream_error
from sidecar.llm.convert.converse_answer import (
    FILTERED,
    Tokens,
    ToolUse,
    blocks_of,
    delta_of,
    reasoning_of,
    start_of,
    text_of,
    tokens_of,
    tool_use_of,
)
from sidecar.llm.convert.provider_error import EARLY_END, ProviderError, as_anthropic
from sidecar.llm.shape import to_count, to_text

_KNOWN: Final = frozenset(("text", "citationsContent", "toolUse", "reasoningContent"))
_STOP: Final = {
    "end_turn": "end_turn",
    "stop_sequence": "stop_sequence",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "model_context_window_exceeded",
    "tool_use": "tool_use",
} | dict.fromkeys(FILTERED, "refusal")


def _usage(tokens: Tokens) -> Json:
    out = {"input_tokens": tokens.sent, "output_tokens": tokens.received}
    if tokens.written is not None:
        out["cache_creation_input_tokens"] = tokens.written
    if tokens.read is not None:
        out["cache_read_input_tokens"] = tokens.read
    return out


def response_of(body: Json, context: Context) -> Json:
    """The answer. Raises: UpstreamError 502 for what is no answer, ShapeError."""
    return {
        "id": context.new_id("msg_"),
        "type": "message",
        "role": "assistant",
        "model": context.model,
        "content": [_content(block, context) for block in blocks_of(body) if _KNOWN & block.keys()],
        "stop_reason": _STOP.get(str(body.get("stopReason")), "end_turn"),
        "stop_sequence": None,
        "usage": _usage(tokens_of(body.get("usage"))),
    }


def _content(block: Json, context: Context) -> Json:
    if "toolUse" in block:
        use = tool_use_of(block["toolUse"], context)
        given = {} if use.input is None else use.input
        return {"type": "tool_use", "id": use.id, "name": use.name, "input": given}
    if "reasoningContent" in block:
        text, signature, redacted = reasoning_of(block)
        if redacted:
            return {"type": "redacted_thinking", "data": redacted}
        return {"type": "thinking", "thinking": text, "signature": signature}
    return {"type": "text", "text": text_of(block)}


# --- stream ---------------------------------------------------------------------------------

_OPENING: Final[dict[str, Json]] = {
    "text": {"type": "text", "text": ""},
    "reasoning": {"type": "thinking", "thinking": "", "signature": ""},
    "signature": {"type": "thinking", "thinking": "", "signature": ""},
}
"""The start of a block by the kind of its first delta: Bedrock announces only calls."""
_DELTAS: Final = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "signature": ("signature_delta", "signature"),
    "input": ("input_json_delta", "partial_json"),
}


def _frame(data: Json) -> bytes:
    return encode_event(orjson.dumps(data), data["type"].encode())


@final
class ConverseStream:
    """Anthropic's events out of ConverseStream. Blocks keep Bedrock's indexes.

    States: before the first event → open → stopped (messageStop told why) → ended (metadata
    brought the usage, or the upstream ended). An exception ends it from anywhere.
    """

    __slots__ = ("_context", "_is_ended", "_is_started", "_open", "_reason")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._is_started = False
        self._is_ended = False
        self._reason = ""
        self._open: set[int] = set()

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data, name = event.data, event.name
        if self._is_ended or data is None:
            return []
        if name == "contentBlockDelta":
            return self._begin() + self._delta(data)
        if name == "contentBlockStart":
            index, use = start_of(data, self._context)
            return self._begin() + ([] if use is None else self._start(index, _call(use)))
        if name == "contentBlockStop":
            return self._stop(to_count(data.get("contentBlockIndex"), "contentBlockIndex"))
        if name == "messageStart":
            return self._begin()
        if name == "messageStop":
            self._reason = to_text(data.get("stopReason"), "stopReason") or "end_turn"
            return self._begin()
        if name == "metadata":
            return self._end(tokens_of(data.get("usage"))) if self._reason else []
        error = bedrock_stream_error(event)
        return [] if error is None else self._fail(*error)

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._is_ended:
            return []
        if self._reason:
            return self._end(tokens_of(None))
        return self._fail(502, ProviderError(EARLY_END))

    def _fail(self, status: int, error: ProviderError) -> list[bytes]:
        self._is_ended = True
        return [_frame(as_anthropic(status, error))]

    def _begin(self) -> list[bytes]:
        if self._is_started:
            return []
        self._is_started = True
        message: Json = {
            "id": self._context.request_id or self._context.new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "content": [],
            "model": self._context.model,
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": 0, "output_tokens": 0},
        }
        return [_frame({"type": "message_start", "message": message})]

    def _start(self, index: int, block: Json) -> list[bytes]:
        self._open.add(index)
        data = {"type": "content_block_start", "index": index, "content_block": block}
        return [_frame(data)]

    def _delta(self, data: Json) -> list[bytes]:
        index, kind, text = delta_of(data)
        if kind == "redacted":
            return self._start(index, {"type": "redacted_thinking", "data": text})
        if kind not in _DELTAS or (kind == "input" and index not in self._open):
            return []
        frames = [] if index in self._open else self._start(index, _OPENING[kind])
        name, key = _DELTAS[kind]
        delta = {"type": name, key: text}
        frames.append(_frame({"type": "content_block_delta", "index": index, "delta": delta}))
        return frames

    def _stop(self, index: int) -> list[bytes]:
        if index not in self._open:
            return []
        self._open.discard(index)
        return [_frame({"type": "content_block_stop", "index": index})]

    def _end(self, tokens: Tokens) -> list[bytes]:
        self._is_ended = True
        delta = {"stop_reason": _STOP.get(self._reason, "end_turn"), "stop_sequence": None}
        return [
            _frame({"type": "message_delta", "delta": delta, "usage": _usage(tokens)}),
            _frame({"type": "message_stop"}),
        ]


def _call(use: ToolUse) -> Json:
    return {"type": "tool_use", "id": use.id, "name": use.name, "input": {}}
