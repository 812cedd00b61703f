"""An OpenAI response as a chat completion, whole and streamed.

Source: OpenAI API reference (chat; responses, streaming events).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.http.sse import encode_event
from sidecar.llm.convert import provider_error
from sidecar.llm.convert.base import Context, Json, StreamEvent
from sidecar.llm.shape import (
    joined_text,
    to_count,
    to_list,
    to_object,
    to_objects,
    to_optional_count,
    to_text,
)

_DONE: Final = encode_event(b"[DONE]")
_CALLS: Final = ("function_call", "custom_tool_call")


def usage_of(usage: Json) -> Json:
    """A response's usage in chat completions' terms."""
    before = to_object(usage.get("input_tokens_details"), "usage.input_tokens_details")
    after = to_object(usage.get("output_tokens_details"), "usage.output_tokens_details")
    sent = to_count(usage.get("input_tokens"), "usage.input_tokens")
    received = to_count(usage.get("output_tokens"), "usage.output_tokens")
    total = to_optional_count(usage.get("total_tokens"), "usage.total_tokens")
    details: Json = {"cached_tokens": to_count(before.get("cached_tokens"), "usage.cached_tokens")}
    written = to_optional_count(before.get("cache_write_tokens"), "usage.cache_write_tokens")
    if written is not None:
        details["cache_write_tokens"] = written
    reasoning = to_count(after.get("reasoning_tokens"), "usage.reasoning_tokens")
    return {
        "prompt_tokens": sent,
        "completion_tokens": received,
        "total_tokens": sent + received if total is None else total,
        "prompt_tokens_details": details,
        "completion_tokens_details": {"reasoning_tokens": reasoning},
    }


def finish_reason(body: Json, *, has_call: bool) -> str:
    """Why the answer ended."""
    if body.get("status") == "incomplete":
        details = to_object(body.get("incomplete_details"), "incomplete_details")
        return "content_filter" if details.get("reason") == "content_filter" else "length"
    return "tool_calls" if has_call else "stop"


def response_of(body: Json, context: Context) -> Json:
    """The completion. Raises: UpstreamError 502 for a response that failed or is under way."""
    if body.get("status", "completed") not in ("completed", "incomplete") or "output" not in body:
        raise provider_error.incomplete(body)
    message, logprobs = _message(to_objects(body["output"], "output"), context)
    choice: Json = {
        "index": 0,
        "message": message,
        "logprobs": {"content": logprobs, "refusal": None} if logprobs else None,
        "finish_reason": finish_reason(body, has_call="tool_calls" in message),
    }
    out: Json = {
        "id": body.get("id"),
        "object": "chat.completion",
        "created": context.now_seconds,
        "model": body.get("model"),
        "choices": [choice],
    }
    if body.get("usage") is not None:
        out["usage"] = usage_of(to_object(body["usage"], "usage"))
    if body.get("service_tier") is not None:
        out["service_tier"] = body["service_tier"]
    return out


def _message(output: list[Json], context: Context) -> tuple[Json, list[Json]]:
    """The message, and the log probabilities of its tokens."""
    texts: list[str] = []
    refusals: list[str] = []
    thoughts: list[str] = []
    calls: list[Json] = []
    logprobs: list[Json] = []
    for index, item in enumerate(output):
        where = f"output[{index}]"
        kind = item.get("type")
        if kind == "message":
            for part in to_objects(item.get("content"), f"{where}.content"):
                if part.get("type") == "refusal":
                    refusals.append(to_text(part.get("refusal"), f"{where}.refusal"))
                else:
                    texts.append(to_text(part.get("text"), f"{where}.text"))
                    logprobs += to_list(part.get("logprobs"), f"{where}.logprobs")
        elif kind == "reasoning":
            thoughts.append(joined_text(item.get("summary"), f"{where}.summary", "\n\n"))
        elif kind in _CALLS:
            calls.append(_call(item, where, context))
    message: Json = {
        "role": "assistant",
        "content": "".join(texts) if texts else None,
        "refusal": "".join(refusals) if refusals else None,
    }
    if any(thoughts):
        message["reasoning_content"] = "\n\n".join(thought for thought in thoughts if thought)
    if calls:
        message["tool_calls"] = calls
    return message, logprobs


def _call(item: Json, where: str, context: Context) -> Json:
    name = to_text(item.get("name"), f"{where}.name")
    call: Json = {"id": item.get("call_id"), "type": "function"}
    function: Json = {"name": context.tool_names.get(name, name)}
    if item["type"] == "custom_tool_call":
        function["input"] = to_text(item.get("input"), f"{where}.input")
        return call | {"type": "custom", "custom": function}
    function["arguments"] = to_text(item.get("arguments"), f"{where}.arguments")
    return call | {"function": function}


@final
class CompletionStream:
    """Frames of `chat.completion.chunk` out of responses events.

    States: before the first event → started → closed. The final event gives the finish chunk, the
    usage chunk and `[DONE]`; a failure, or an end that came too early, gives an error frame alone.
    """

    __slots__ = ("_calls", "_closed", "_context", "_given", "_has_role", "_head")

    def __init__(self, context: Context) -> None:
        self._context = context
        self._head: Json = {}
        self._has_role = False
        self._closed = False
        self._calls: dict[int, int] = {}
        """Output index of a call → its index among the calls."""
        self._given: set[int] = set()
        """Calls, by their index, of which arguments came."""

    def feed(self, event: StreamEvent) -> list[bytes]:
        """See StreamConversion."""
        data = event.data
        if data is None or self._closed:
            return []
        kind = to_text(data.get("type"), "type") or event.name
        if kind == "error" or data.get("error"):
            return self._fail(data)
        if not self._head:
            self._open(to_object(data.get("response"), "response"))
        handler = _HANDLERS.get(kind)
        return [] if handler is None else handler(self, data)

    def finish(self) -> list[bytes]:
        """See StreamConversion."""
        if self._closed:
            return []
        return self._fail({"error": {"message": provider_error.EARLY_END}})

    def _open(self, response: Json) -> None:
        self._head = {
            "id": response.get("id"),
            "object": "chat.completion.chunk",
            "created": self._context.now_seconds,
            "model": response.get("model") or self._context.requested_model,
            "service_tier": response.get("service_tier"),
            "system_fingerprint": None,
        }

    def _fail(self, data: Json) -> list[bytes]:
        self._closed = True
        error = provider_error.of_json(data)
        body = provider_error.as_openai(provider_error.stream_status(error), error)
        return [encode_event(orjson.dumps(body))]

    def _chunk(self, delta: Json, finish: str | None = None, logprobs: Json | None = None) -> bytes:
        if not self._has_role:
            self._has_role = True
            delta = {"role": "assistant"} | delta
        choice = {"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": finish}
        return encode_event(orjson.dumps(self._head | {"choices": [choice], "usage": None}))

    def _text(self, data: Json) -> list[bytes]:
        found = to_list(data.get("logprobs"), "logprobs")
        logprobs = {"content": found, "refusal": None} if found else None
        text = to_text(data.get("delta"), "delta")
        return [self._chunk({"content": text}, logprobs=logprobs)] if text else []

    def _refusal(self, data: Json) -> list[bytes]:
        return [self._chunk({"refusal": to_text(data.get("delta"), "delta")})]

    def _thought(self, data: Json) -> list[bytes]:
        return [self._chunk({"reasoning_content": to_text(data.get("delta"), "delta")})]

    def _item(self, data: Json) -> list[bytes]:
        item = to_object(data.get("item"), "item")
        if item.get("type") not in _CALLS:
            return []
        call = _call(item, "item", self._context)
        index = to_count(data.get("output_index"), "output_index")
        number = self._calls[index] = self._calls.get(index, len(self._calls))
        if item.get("arguments") or item.get("input"):
            self._given.add(number)
        return [self._chunk({"tool_calls": [{"index": number} | call]})]

    def _item_done(self, data: Json) -> list[bytes]:
        """Some say the arguments of a call at its end alone, and some the whole call."""
        index = to_count(data.get("output_index"), "output_index")
        if index not in self._calls:
            return self._item(data)
        item = to_object(data.get("item"), "item")
        is_custom = item.get("type") == "custom_tool_call"
        kind, key = ("custom", "input") if is_custom else ("function", "arguments")
        if self._calls[index] in self._given:
            return []
        return self._more({"output_index": index, "delta": item.get(key)}, kind, key)

    def _arguments(self, data: Json) -> list[bytes]:
        return self._more(data, "function", "arguments")

    def _input(self, data: Json) -> list[bytes]:
        return self._more(data, "custom", "input")

    def _more(self, data: Json, kind: str, key: str) -> list[bytes]:
        number = self._calls.get(to_count(data.get("output_index"), "output_index"))
        text = to_text(data.get("delta"), "delta")
        if number is None or not text:
            return []
        self._given.add(number)
        return [self._chunk({"tool_calls": [{"index": number, kind: {key: text}}]})]

    def _end(self, data: Json) -> list[bytes]:
        self._closed = True
        body = to_object(data.get("response"), "response")
        frames = [self._chunk({}, finish_reason(body, has_call=bool(self._calls)))]
        if body.get("usage") is not None:
            usage = usage_of(to_object(body["usage"], "usage"))
            frames.append(encode_event(orjson.dumps(self._head | {"choices": [], "usage": usage})))
        return [*frames, _DONE]

    def _failed(self, data: Json) -> list[bytes]:
        return self._fail(to_object(data.get("response"), "response"))


_HANDLERS: Final = {
    "response.output_text.delta": CompletionStream._text,
    "response.refusal.delta": CompletionStream._refusal,
    "response.reasoning_summary_text.delta": CompletionStream._thought,
    "response.output_item.added": CompletionStream._item,
    "response.output_item.done": CompletionStream._item_done,
    "response.function_call_arguments.delta": CompletionStream._arguments,
    "response.custom_tool_call_input.delta": CompletionStream._input,
    "response.completed": CompletionStream._end,
    "response.incomplete": CompletionStream._end,
    "response.failed": CompletionStream._failed,
}
