"""A chat completion as an OpenAI response, whole and streamed.

Source: spec llm section 2.8; OpenAI API reference (responses, streaming events, chat).
"""

from __future__ import annotations

from typing import Final, final

from sidecar.errors import UpstreamError
from sidecar.llm.convert import provider_error
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.convert.completion_chunks import is_another_call
from sidecar.llm.convert.custom_tools import unpack
from sidecar.llm.convert.responses_events import ResponsesWriter
from sidecar.llm.convert.responses_output import (
    call_item,
    message_item,
    refusal_part,
    text_part,
    usage_of_completions,
)
from sidecar.llm.convert.thought_signatures import signature_of, signed_id
from sidecar.llm.shape import joined_text, to_count, to_object, to_objects, to_text

_INCOMPLETE: Final = {"length": "max_tokens", "content_filter": "content_filter"}
"""Finish reasons of answers that are not whole. OpenAI's own word is `max_output_tokens`."""


def response_of(body: Json, context: Context) -> Json:
    """The response. Raises: UpstreamError 502 for an answer without a choice."""
    choices = to_objects(body.get("choices"), "choices")
    if not choices:
        raise UpstreamError(502, "UpstreamFailure", "the provider's answer holds no choice")
    reason = _INCOMPLETE.get(str(choices[0].get("finish_reason")))
    status = "completed" if reason is None else "incomplete"
    message = to_object(choices[0].get("message"), "choices[0].message")
    out: Json = {
        "id": context.new_id("resp_"),
        "object": "response",
        "created_at": context.now_seconds,
        "status": status,
        "model": context.requested_model,
        "output": _output(message, status, context),
    }
    if reason is not None:
        out["incomplete_details"] = {"reason": reason}
    if body.get("usage") is not None:
        out["usage"] = usage_of_completions(to_object(body["usage"], "usage"))
    return out


def _output(message: Json, status: str, context: Context) -> list[Json]:
    text = joined_text(message.get("content"), "message.content")
    refusal = to_text(message.get("refusal"), "message.refusal")
    parts = [text_part(text)] if text else []
    parts += [refusal_part(refusal)] if refusal else []
    output = [message_item(context.new_id("msg_"), status, parts)] if parts else []
    for index, call in enumerate(to_objects(message.get("tool_calls"), "message.tool_calls")):
        output.append(_call(call, f"tool_calls[{index}]", status, context))
    return output


def _call(call: Json, where: str, status: str, context: Context) -> Json:
    function = to_object(call.get("function"), f"{where}.function")
    name = to_text(function.get("name"), f"{where}.function.name")
    name = context.tool_names.get(name, name)
    text = to_text(function.get("arguments"), f"{where}.function.arguments") or "{}"
    call_id = to_text(call.get("id"), f"{where}.id") or context.new_id("call_")
    call_id = signed_id(call_id, signature_of(call))
    if name in context.custom_tools:
        identity = context.new_id("ctc_")
        return call_item(identity, call_id, name, unpack(text), status, is_custom=True)
    return call_item(context.new_id("fc_"), call_id, name, text, status, is_custom=False)


@final
class ResponseStream:
    """Responses events out of chunks.

    States: before the first chunk → started → ended. It ends when the finish reason and the usage
    are both known, or at `[DONE]`, or at the end of the upstream if the finish reason is known.
    """

    __slots__ = ("_context", "_finish", "_ids", "_usage", "_writer")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._writer = ResponsesWriter(context)
        self._finish = ""
        self._ids: dict[int, object] = {}
        """Number of a call → the provider's id of it."""
        self._usage: Json | None = None

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data = event.data
        if self._writer.is_ended:
            return []
        if data is None:
            return self.finish()
        if data.get("error"):
            error = provider_error.of_json(data)
            message = error.message or "the provider reported an error"
            return self._writer.fail(message, error.code or error.kind or "server_error")
        frames = [] if self._writer.is_started else self._writer.start(data.get("model"))
        for choice in to_objects(data.get("choices"), "choices"):
            if to_count(choice.get("index"), "choices.index") == 0:
                frames += self._choice(choice)
        if data.get("usage"):
            self._usage = usage_of_completions(to_object(data["usage"], "usage"))
            self._usage["input_tokens_details"].setdefault("cache_write_tokens", None)
        if self._finish and self._usage is not None:
            frames += self._end()
        return frames

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._writer.is_ended:
            return []
        return self._end() if self._finish else self._writer.fail(provider_error.EARLY_END)

    def _end(self) -> list[bytes]:
        return self._writer.finish(_INCOMPLETE.get(self._finish), self._usage)

    def _choice(self, choice: Json) -> list[bytes]:
        delta = to_object(choice.get("delta"), "delta")
        frames: list[bytes] = []
        content = delta.get("content")
        if content is not None:
            frames += self._writer.text(joined_text(content, "delta.content"))
        refusal = to_text(delta.get("refusal"), "delta.refusal")
        if refusal:
            frames += self._writer.refusal(refusal)
        for call in to_objects(delta.get("tool_calls"), "delta.tool_calls"):
            frames += self._call(call)
        if choice.get("finish_reason"):
            self._finish = to_text(choice["finish_reason"], "finish_reason")
        return frames

    def _call(self, call: Json) -> list[bytes]:
        number = to_count(call.get("index"), "tool_calls.index")
        function = to_object(call.get("function"), "tool_calls.function")
        frames: list[bytes] = []
        has_call = self._writer.has_call(number)
        if has_call and is_another_call(call, function, self._ids[number]):
            frames = self._writer.close_call(number)
            has_call = False
        if not has_call:
            # The provider's id is kept: some refuse others when they come back in the history.
            identity = to_text(call.get("id"), "tool_calls.id") or self._context.new_id("call_")
            name = to_text(function.get("name"), "tool_calls.function.name")
            self._ids[number] = call.get("id")
            frames += self._writer.call(number, signed_id(identity, signature_of(call)), name)
        arguments = to_text(function.get("arguments"), "tool_calls.function.arguments")
        if arguments:
            frames += self._writer.arguments(number, arguments)
        return frames
