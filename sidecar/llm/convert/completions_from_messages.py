"""An Anthropic message as an OpenAI chat completion, whole and streamed.

Source: spec llm section 2.4; OpenAI API reference (chat); Anthropic API reference (messages,
streaming).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.http.sse import encode_event
from sidecar.llm.convert import provider_error
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.shape import to_count, to_object, to_objects, to_optional_count, to_text

_DONE: Final = encode_event(b"[DONE]")
_FINISH: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


def usage_of(usage: Json) -> Json:
    """Anthropic's usage in OpenAI's terms. `prompt_tokens` leaves cached tokens out, as theirs."""
    sent = to_count(usage.get("input_tokens"), "usage.input_tokens")
    received = to_count(usage.get("output_tokens"), "usage.output_tokens")
    out: Json = {
        "prompt_tokens": sent,
        "completion_tokens": received,
        "total_tokens": sent + received,
    }
    read = to_optional_count(usage.get("cache_read_input_tokens"), "usage.cache_read_input_tokens")
    written = to_optional_count(
        usage.get("cache_creation_input_tokens"), "usage.cache_creation_input_tokens"
    )
    details: Json = {}
    if read is not None:
        details["cached_tokens"] = out["cache_read_input_tokens"] = read
    if written is not None:
        details["cache_write_tokens"] = out["cache_creation_input_tokens"] = written
    if details:
        out["prompt_tokens_details"] = details
    return out


def response_of(body: Json, context: Context) -> Json:
    """The completion. Raises: UpstreamError 502 for an answer that is no message."""
    if body.get("type") == "error" or "content" not in body:
        raise UpstreamError(502, "UpstreamFailure", "the provider's answer is not a message")
    message = _answer(to_objects(body.get("content"), "content"))
    usage = to_object(body.get("usage"), "usage")
    out: Json = {
        "id": body.get("id"),
        "object": "chat.completion",
        "created": context.now_seconds,
        "model": body.get("model"),
        "choices": [
            {
                "index": 0,
                "message": message,
                "finish_reason": _FINISH.get(str(body.get("stop_reason")), "stop"),
            }
        ],
        "usage": usage_of(usage),
    }
    if usage.get("service_tier") is not None:
        out["service_tier"] = usage["service_tier"]
    return out


def _answer(content: list[Json]) -> Json:
    message: Json = {"role": "assistant"}
    texts: list[str] = []
    calls: list[Json] = []
    for block in content:
        kind = block.get("type")
        if kind == "text":
            texts.append(to_text(block.get("text"), "content.text"))
        elif kind in ("tool_use", "server_tool_use"):
            arguments = orjson.dumps(block.get("input") or {}).decode()
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "thinking":
            message["reasoning_content"] = to_text(block.get("thinking"), "content.thinking")
    if texts:
        message["content"] = "".join(texts)
    if calls:
        message["tool_calls"] = calls
    return message


# --- stream ---------------------------------------------------------------------------------


@final
class CompletionStream:
    """Frames of `chat.completion.chunk`.

    States: before message_start → open (blocks come and go) → finished (message_delta sent the
    finish reason) → closed (message_stop sent `[DONE]`). An error event goes to closed from
    anywhere, and so does an end of the upstream before message_stop, which is an error.
    """

    __slots__ = ("_calls", "_closed", "_context", "_has_role", "_head", "_inputs", "_usage")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._head: Json = {"id": None, "model": None, "service_tier": None}
        self._usage: Json = {}
        self._has_role = False
        self._closed = False
        self._calls: dict[int, int] = {}
        """Block index of a tool call → its index among the calls."""
        self._inputs: dict[int, object] = {}
        """Blocks whose arguments have not begun, and the input that they began with: Anthropic's
        is empty, others' may be whole."""

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data = event.data
        if data is None or self._closed:
            return []
        kind = data.get("type")
        if kind == "content_block_delta":
            return self._delta(data)
        if kind == "content_block_start":
            return self._start(data)
        if kind == "content_block_stop":
            return self._stop(data)
        if kind == "message_delta":
            return self._finish(data)
        if kind == "message_start":
            self._open(to_object(data.get("message"), "message"))
        elif kind == "message_stop":
            self._closed = True
            return [_DONE]
        elif kind == "error":
            self._closed = True
            error = provider_error.of_json(data)
            body = provider_error.as_openai(provider_error.stream_status(error), error)
            return [encode_event(orjson.dumps(body))]
        return []

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._closed:
            return []
        self._closed = True
        error = provider_error.ProviderError(provider_error.EARLY_END)
        return [encode_event(orjson.dumps(provider_error.as_openai(502, error)))]

    def _open(self, message: Json) -> None:
        usage = to_object(message.get("usage"), "message.usage")
        self._usage.update(usage)
        self._head = {
            "id": message.get("id"),
            "model": message.get("model"),
            "service_tier": usage.get("service_tier"),
        }

    def _chunk(self, delta: Json, finish: str | None = None, usage: Json | None = None) -> bytes:
        head = self._head
        full: Json = {"content": None} | delta
        if not self._has_role:
            self._has_role = True
            full["role"] = "assistant"
        choice: Json = {"index": 0, "delta": full}
        if finish is not None:
            choice["finish_reason"] = finish
        return encode_event(
            orjson.dumps(
                {
                    "id": head["id"],
                    "choices": [choice],
                    "created": self._context.now_seconds,
                    "model": head["model"],
                    "service_tier": head["service_tier"],
                    "system_fingerprint": None,
                    "object": "chat.completion.chunk",
                    "usage": usage,
                }
            )
        )

    def _delta(self, data: Json) -> list[bytes]:
        delta = to_object(data.get("delta"), "delta")
        kind = delta.get("type")
        if kind == "text_delta":
            return [self._chunk({"content": delta.get("text")})]
        if kind == "thinking_delta":
            return [self._chunk({"reasoning_content": delta.get("thinking")})]
        if kind == "input_json_delta":
            text = to_text(delta.get("partial_json"), "delta.partial_json")
            block = to_count(data.get("index"), "index")
            if text and block in self._calls:
                self._inputs.pop(block, None)
                return [self._argument_chunk(block, text)]
        return []

    def _argument_chunk(self, block: int, text: str) -> bytes:
        call = {
            "index": self._calls[block],
            "id": None,
            "type": None,
            "function": {"arguments": text},
        }
        return self._chunk({"tool_calls": [call]})

    def _start(self, data: Json) -> list[bytes]:
        block = to_object(data.get("content_block"), "content_block")
        if block.get("type") not in ("tool_use", "server_tool_use"):
            return []
        index = to_count(data.get("index"), "index")
        number = self._calls[index] = len(self._calls)
        self._inputs[index] = block.get("input")
        function = {"name": block.get("name")}
        call = {"index": number, "id": block.get("id"), "type": "function", "function": function}
        return [self._chunk({"tool_calls": [call]})]

    def _stop(self, data: Json) -> list[bytes]:
        block = to_count(data.get("index"), "index")
        if block in self._inputs:
            given = self._inputs.pop(block) or {}
            return [self._argument_chunk(block, orjson.dumps(given).decode())]
        return []

    def _finish(self, data: Json) -> list[bytes]:
        delta = to_object(data.get("delta"), "delta")
        usage = to_object(data.get("usage"), "usage")
        self._usage.update((key, value) for key, value in usage.items() if value is not None)
        reason = _FINISH.get(str(delta.get("stop_reason")), "stop")
        return [self._chunk({}, reason, usage_of(self._usage))]
