"""A Converse answer as an OpenAI response, whole and streamed.

Source: spec llm section 2.10; OpenAI API reference (responses); Amazon Bedrock API
reference (Converse, ConverseStream).
"""

from __future__ import annotations

from typing import Final, final

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
from sidecar.llm.convert.custom_tools import unpack
from sidecar.llm.convert.provider_error import EARLY_END
from sidecar.llm.convert.responses_events import ResponsesWriter
from sidecar.llm.convert.responses_output import (
    call_item,
    message_item,
    reasoning_item,
    responses_usage,
    text_part,
)
from sidecar.llm.convert.signatures import of_redacted, of_signature
from sidecar.llm.shape import to_count

_INCOMPLETE: Final = {
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "max_tokens",
} | dict.fromkeys(FILTERED, "content_filter")
"""Stop reasons of answers that are not whole. OpenAI's own word is `max_output_tokens`."""


def _usage(tokens: Tokens) -> Json:
    """Cached tokens stand beside `input_tokens`, and are in the total."""
    return responses_usage(
        tokens.sent, tokens.received, tokens.total, tokens.read or 0, tokens.written, 0
    )


def response_of(body: Json, context: Context) -> Json:
    """The answer. Raises: UpstreamError 502 for what is no answer, ShapeError."""
    reason = _INCOMPLETE.get(str(body.get("stopReason")))
    status = "completed" if reason is None else "incomplete"
    out: Json = {
        "id": context.new_id("resp_"),
        "object": "response",
        "created_at": context.now_seconds,
        "status": status,
        "model": context.model,
        "output": _output(blocks_of(body), status, context),
    }
    if reason is not None:
        out["incomplete_details"] = {"reason": reason}
    if body.get("usage") is not None:
        out["usage"] = _usage(tokens_of(body["usage"]))
    return out


def _output(blocks: list[Json], status: str, context: Context) -> list[Json]:
    output: list[Json] = []
    parts: list[Json] = []
    for block in blocks:
        if "toolUse" in block:
            output.append(_call_item(tool_use_of(block["toolUse"], context), status, context))
        elif "reasoningContent" in block:
            text, signature, redacted = reasoning_of(block)
            encrypted = of_redacted(redacted) or of_signature(signature)
            if text or encrypted:
                output.append(reasoning_item(context.new_id("rs_"), text, encrypted))
        elif text_of(block):
            if not parts:
                output.append(message_item(context.new_id("msg_"), status, parts))
            parts.append(text_part(text_of(block)))
    return output


def _call_item(use: ToolUse, status: str, context: Context) -> Json:
    is_custom = use.name in context.custom_tools
    text = unpack(use.arguments()) if is_custom else use.arguments()
    identity = context.new_id("ctc_" if is_custom else "fc_")
    return call_item(identity, use.id, use.name, text, status, is_custom=is_custom)


# --- stream ---------------------------------------------------------------------------------


@final
class ConverseStream:
    """Responses events out of ConverseStream.

    States: before the first event → started → stopped (messageStop told why) → ended (metadata
    brought the usage, or the upstream ended). An exception ends it from anywhere.
    """

    __slots__ = ("_context", "_encrypted", "_is_stopped", "_reason", "_writer")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._writer = ResponsesWriter(context)
        self._is_stopped = False
        self._reason: str | None = None
        self._encrypted = ""
        """What the client has to bring back of the open reasoning."""

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data, name = event.data, event.name
        if self._writer.is_ended or data is None:
            return []
        error = bedrock_stream_error(event)
        if error is not None:
            status, told = error
            code = "rate_limit_exceeded" if status == 429 else "server_error"
            return self._writer.fail(told.message, code)
        frames = [] if self._writer.is_started else self._writer.start(self._context.model)
        if name == "contentBlockDelta":
            frames += self._delta(data)
        elif name == "contentBlockStart":
            frames += self._start(data)
        elif name == "contentBlockStop":
            frames += self._stop(to_count(data.get("contentBlockIndex"), "contentBlockIndex"))
        elif name == "messageStop":
            self._is_stopped = True
            self._reason = _INCOMPLETE.get(str(data.get("stopReason")))
        elif name == "metadata" and self._is_stopped:
            frames += self._end(_usage(tokens_of(data.get("usage"))))
        return frames

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._writer.is_ended:
            return []
        return self._end(None) if self._is_stopped else self._writer.fail(EARLY_END)

    def _end(self, usage: Json | None) -> list[bytes]:
        return self._close_reasoning() + self._writer.finish(self._reason, usage)

    def _start(self, data: Json) -> list[bytes]:
        index, use = start_of(data, self._context)
        if use is None or self._writer.has_call(index):
            return []
        frames = self._close_reasoning() + self._writer.close_message()
        return frames + self._writer.call(index, use.id, use.name)

    def _delta(self, data: Json) -> list[bytes]:
        index, kind, text = delta_of(data)
        if kind == "text":
            return self._close_reasoning() + self._writer.text(text) if text else []
        if kind == "input":
            return self._writer.arguments(index, text) if self._writer.has_call(index) else []
        if kind == "reasoning":
            return self._writer.close_message() + self._writer.reasoning(text)
        if kind == "signature":
            self._encrypted = of_signature(text)
        elif kind == "redacted":
            frames = self._close_reasoning() + self._writer.close_message()
            self._encrypted = of_redacted(text)
            return frames + self._writer.reasoning("")
        return []

    def _stop(self, index: int) -> list[bytes]:
        if self._writer.has_call(index):
            return self._writer.close_call(index)
        return self._close_reasoning()

    def _close_reasoning(self) -> list[bytes]:
        encrypted, self._encrypted = self._encrypted, ""
        return self._writer.close_reasoning(encrypted)
