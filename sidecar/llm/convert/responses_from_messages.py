"""An Anthropic message as an OpenAI response, whole and streamed.

Source: OpenAI API reference (responses, streaming events); Anthropic API reference (messages,
streaming, extended thinking).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.llm.convert import provider_error, signatures
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.convert.custom_tools import unpack
from sidecar.llm.convert.responses_events import ResponsesWriter
from sidecar.llm.convert.responses_output import (
    call_item,
    message_item,
    reasoning_item,
    text_part,
    usage_of_messages,
)
from sidecar.llm.shape import to_count, to_object, to_objects, to_text

_INCOMPLETE: Final = {
    "max_tokens": "max_output_tokens",
    "model_context_window_exceeded": "max_output_tokens",
    "refusal": "content_filter",
}
"""Stop reasons of answers that are not whole."""


def response_of(body: Json, context: Context) -> Json:
    """The response. Raises: UpstreamError 502 for an answer that is no message."""
    if body.get("type") == "error" or "content" not in body:
        raise UpstreamError(502, "UpstreamFailure", "the provider's answer is not a message")
    reason = _INCOMPLETE.get(str(body.get("stop_reason")))
    status = "completed" if reason is None else "incomplete"
    out: Json = {
        "id": context.new_id("resp_"),
        "object": "response",
        "created_at": context.now_seconds,
        "status": status,
        "model": body.get("model") or context.requested_model,
        "output": _output(to_objects(body["content"], "content"), status, context),
    }
    if reason is not None:
        out["incomplete_details"] = {"reason": reason}
    usage = to_object(body.get("usage"), "usage")
    out["usage"] = usage_of_messages(usage)
    if usage.get("service_tier") is not None:
        out["service_tier"] = usage["service_tier"]
    return out


def _output(content: list[Json], status: str, context: Context) -> list[Json]:
    """Texts in a row are parts of one message."""
    output: list[Json] = []
    for block in content:
        kind = block.get("type")
        if kind == "text":
            part = text_part(to_text(block.get("text"), "content.text"))
            if output and output[-1]["type"] == "message":
                output[-1]["content"].append(part)
            else:
                output.append(message_item(context.new_id("msg_"), status, [part]))
        elif kind == "thinking":
            text = to_text(block.get("thinking"), "content.thinking")
            proof = signatures.of_signature(to_text(block.get("signature"), "content.signature"))
            output.append(reasoning_item(context.new_id("rs_"), text, proof))
        elif kind == "redacted_thinking":
            proof = signatures.of_redacted(to_text(block.get("data"), "content.data"))
            output.append(reasoning_item(context.new_id("rs_"), "", proof))
        elif kind == "tool_use":
            output.append(_call(block, status, context))
    return output


def _call(block: Json, status: str, context: Context) -> Json:
    name = to_text(block.get("name"), "content.name")
    name = context.tool_names.get(name, name)
    call_id = to_text(block.get("id"), "content.id")
    text = orjson.dumps(block.get("input") or {}).decode()
    if name in context.custom_tools:
        identity = context.new_id("ctc_")
        return call_item(identity, call_id, name, unpack(text), status, is_custom=True)
    return call_item(context.new_id("fc_"), call_id, name, text, status, is_custom=False)


@final
class ResponseStream:
    """Responses events out of Anthropic's.

    States: before message_start → open (blocks come and go) → ended at message_stop, at an error
    event, or at an end of the upstream that came too early. Blocks do not overlap.
    """

    __slots__ = ("_inputs", "_kind", "_proof", "_reason", "_usage", "_writer")

    def __init__(self, context: Context) -> None:
        self._writer = ResponsesWriter(context)
        self._usage: Json = {}
        self._reason: str | None = None
        self._kind = ""
        """The open block's type."""
        self._proof = ""
        """The open thinking block's encrypted content."""
        self._inputs: dict[int, object] = {}
        """Calls whose arguments have not begun, and the input that they began with: Anthropic's is
        empty, others' may be whole."""

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data = event.data
        if data is None or self._writer.is_ended:
            return []
        kind = data.get("type")
        if kind == "error" or data.get("error"):
            error = provider_error.of_json(data)
            why = error.message or "the provider reported an error"
            return self._writer.fail(why, error.kind or "server_error")
        frames: list[bytes] = []
        if not self._writer.is_started:
            message = to_object(data.get("message"), "message")
            self._usage.update(to_object(message.get("usage"), "message.usage"))
            frames = self._writer.start(message.get("model"))
        if kind == "content_block_delta":
            return frames + self._delta(data)
        if kind == "content_block_start":
            return frames + self._start(data)
        if kind == "content_block_stop":
            return frames + self._stop(data)
        if kind == "message_delta":
            self._finish(data)
        elif kind == "message_stop":
            frames += self._writer.close_message()
            for number in list(self._inputs):
                frames += self._close_call(number)
            frames += self._writer.finish(self._reason, usage_of_messages(self._usage))
        return frames

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        return [] if self._writer.is_ended else self._writer.fail(provider_error.EARLY_END)

    def _start(self, data: Json) -> list[bytes]:
        block = to_object(data.get("content_block"), "content_block")
        self._kind = to_text(block.get("type"), "content_block.type")
        self._proof = ""
        if self._kind == "text":
            text = to_text(block.get("text"), "content_block.text")
            return self._writer.text(text) if text else []
        # Anything else ends the message: what follows is an item of its own.
        frames = self._writer.close_message()
        if self._kind == "tool_use":
            number = to_count(data.get("index"), "index")
            if self._writer.has_call(number):
                frames += self._close_call(number)
            identity = to_text(block.get("id"), "content_block.id")
            name = to_text(block.get("name"), "content_block.name")
            if block.get("input"):
                self._inputs[number] = block["input"]
            return frames + self._writer.call(number, identity, name)
        if self._kind == "redacted_thinking":
            data_text = to_text(block.get("data"), "content_block.data")
            self._proof = signatures.of_redacted(data_text)
            return frames + self._writer.reasoning("")
        if self._kind == "thinking":
            return frames + self._writer.reasoning("")
        return frames

    def _delta(self, data: Json) -> list[bytes]:
        delta = to_object(data.get("delta"), "delta")
        kind = delta.get("type")
        if kind == "text_delta":
            text = to_text(delta.get("text"), "delta.text")
            return self._writer.text(text) if text else []
        if kind == "thinking_delta":
            text = to_text(delta.get("thinking"), "delta.thinking")
            return self._writer.reasoning(text) if text else []
        if kind == "signature_delta":
            signature = to_text(delta.get("signature"), "delta.signature")
            self._proof = signatures.of_signature(signature)
        elif kind == "input_json_delta":
            number = to_count(data.get("index"), "index")
            text = to_text(delta.get("partial_json"), "delta.partial_json")
            if text and self._writer.has_call(number):
                self._inputs.pop(number, None)
                return self._writer.arguments(number, text)
        return []

    def _stop(self, data: Json) -> list[bytes]:
        number = to_count(data.get("index"), "index")
        if self._kind in ("thinking", "redacted_thinking"):
            return self._writer.close_reasoning(self._proof)
        return self._close_call(number) if self._writer.has_call(number) else []

    def _close_call(self, number: int) -> list[bytes]:
        given = self._inputs.pop(number, None)
        frames: list[bytes] = []
        if given:
            frames = self._writer.arguments(number, orjson.dumps(given).decode())
        return frames + self._writer.close_call(number)

    def _finish(self, data: Json) -> None:
        delta = to_object(data.get("delta"), "delta")
        usage = to_object(data.get("usage"), "usage")
        self._usage.update((key, value) for key, value in usage.items() if value is not None)
        self._reason = _INCOMPLETE.get(str(delta.get("stop_reason")))
