"""OpenAI chat completions for the client, Google's generateContent for the provider.

Source: spec llm sections 2.11 and 2.12; OpenAI API reference (chat); Gemini API reference
(generateContent, streamGenerateContent).
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.http.sse import encode_event
from sidecar.llm.convert.base import Context, Conversion, Json, StreamEvent
from sidecar.llm.convert.cloud_error import google_error, google_stream_status
from sidecar.llm.convert.completion_chunks import DONE, ChunkWriter
from sidecar.llm.convert.gemini_request import GeminiRequest
from sidecar.llm.convert.provider_error import EARLY_END, ProviderError, as_openai
from sidecar.llm.convert.thought_signatures import signed_id
from sidecar.llm.shape import (
    to_count,
    to_object,
    to_objects,
    to_optional_count,
    to_text,
)

_FILTERED: Final = frozenset(
    (
        "SAFETY",
        "RECITATION",
        "LANGUAGE",
        "BLOCKLIST",
        "PROHIBITED_CONTENT",
        "SPII",
        "UNEXPECTED_TOOL_CALL",
        "TOO_MANY_TOOL_CALLS",
    )
)
_PREFIX: Final = "vertex-gemini-"


def _finish(reason: object, *, has_calls: bool) -> str:
    if reason == "MAX_TOKENS":
        return "length"
    if isinstance(reason, str) and (reason in _FILTERED or reason.startswith("IMAGE_")):
        return "content_filter"
    return "tool_calls" if has_calls else "stop"


def _is_blocked(body: Json) -> bool:
    """Whether the prompt itself was refused."""
    return bool(to_object(body.get("promptFeedback"), "promptFeedback").get("blockReason"))


def _usage(usage: Json) -> Json:
    """OpenAI counts thoughts among the answer, and results of Google's own tools as prompt."""

    def count(name: str) -> int | None:
        return to_optional_count(usage.get(name), f"usageMetadata.{name}")

    sent = (count("promptTokenCount") or 0) + (count("toolUsePromptTokenCount") or 0)
    thoughts = count("thoughtsTokenCount")
    received = (count("candidatesTokenCount") or 0) + (thoughts or 0)
    total = count("totalTokenCount")
    cached = count("cachedContentTokenCount")
    out: Json = {
        "prompt_tokens": sent,
        "completion_tokens": received,
        "total_tokens": sent + received if total is None else total,
    }
    if thoughts is not None:
        out["completion_tokens_details"] = {"reasoning_tokens": thoughts}
    if cached is not None:
        out["prompt_tokens_details"] = {"cached_tokens": cached}
    return out


@final
class _Parts:
    """What the parts of a candidate say."""

    __slots__ = ("calls", "pictures", "texts", "thoughts")

    def __init__(self, candidate: Json, seed: str, first: int) -> None:
        """`seed`, `first`: for ids of calls that come without one."""
        self.texts: list[str] = []
        self.thoughts: list[str] = []
        self.calls: list[Json] = []
        self.pictures: list[Json] = []
        content = to_object(candidate.get("content"), "candidates.content")
        for part in to_objects(content.get("parts"), "candidates.content.parts"):
            if "functionCall" in part:
                self.calls.append(_call(part, f"call_{seed}_{first + len(self.calls)}"))
            elif "text" in part:
                text = to_text(part["text"], "candidates.content.parts.text")
                (self.thoughts if part.get("thought") else self.texts).append(text)
            elif "inlineData" in part and not part.get("thought"):
                self.pictures.append(_picture(part, len(self.pictures)))


def _picture(part: Json, index: int) -> Json:
    """As OpenRouter and others have them; OpenAI's chat completions have no place for pictures."""
    data = to_object(part["inlineData"], "inlineData")
    kind = to_text(data.get("mimeType"), "inlineData.mimeType")
    url = f"data:{kind};base64,{to_text(data.get('data'), 'inlineData.data')}"
    return {"index": index, "type": "image_url", "image_url": {"url": url}}


def _call(part: Json, default_id: str) -> Json:
    call = to_object(part["functionCall"], "functionCall")
    identity = to_text(call.get("id"), "functionCall.id") or default_id
    signature = to_text(part.get("thoughtSignature"), "thoughtSignature")
    identity = signed_id(identity, signature)
    arguments = orjson.dumps(to_object(call.get("args"), "functionCall.args")).decode()
    function = {"name": to_text(call.get("name"), "functionCall.name"), "arguments": arguments}
    return {"id": identity, "type": "function", "function": function}


# --- response -------------------------------------------------------------------------------


def _response(body: Json, context: Context) -> Json:
    identity = to_text(body.get("responseId"), "responseId") or context.new_id(_PREFIX)
    return {
        "id": identity,
        "object": "chat.completion",
        "created": context.now_seconds,
        "model": to_text(body.get("modelVersion"), "modelVersion") or context.model,
        "choices": _choices(body, identity),
        "usage": _usage(to_object(body.get("usageMetadata"), "usageMetadata")),
    }


def _choices(body: Json, identity: str) -> list[Json]:
    candidates = to_objects(body.get("candidates"), "candidates")
    if not candidates:
        is_blocked = _is_blocked(body)
        if not is_blocked and "usageMetadata" not in body:
            raise UpstreamError(502, "UpstreamFailure", "the provider's answer has no candidate")
        message = {"role": "assistant", "content": ""}
        finish = "content_filter" if is_blocked else "stop"
        return [{"index": 0, "message": message, "finish_reason": finish}]
    choices: list[Json] = []
    calls = 0
    for place, candidate in enumerate(candidates):
        index = to_optional_count(candidate.get("index"), "candidates.index")
        parts = _Parts(candidate, identity, calls)
        calls += len(parts.calls)
        finish = _finish(candidate.get("finishReason"), has_calls=bool(parts.calls))
        choices.append(
            {
                "index": place if index is None else index,
                "message": _message(parts),
                "finish_reason": finish,
            }
        )
    return choices


def _message(parts: _Parts) -> Json:
    message: Json = {"role": "assistant"}
    if parts.texts:
        message["content"] = "".join(parts.texts)
    if parts.thoughts:
        message["reasoning_content"] = "".join(parts.thoughts)
    if parts.calls:
        message["tool_calls"] = parts.calls
    if parts.pictures:
        message["images"] = parts.pictures
    return message


# --- stream ---------------------------------------------------------------------------------


@final
class _Stream:
    """Chunks out of streamGenerateContent, of the first candidate.

    States: before the first chunk → open → finished (a finish reason or a block was told) →
    closed at the end of the upstream, which is where `[DONE]` belongs since Gemini has none.
    An error closes it from anywhere, and so does an end before a finish reason.
    """

    __slots__ = (
        "_calls",
        "_context",
        "_identity",
        "_is_closed",
        "_is_finished",
        "_pictures",
        "_usage",
        "_writer",
    )

    def __init__(self, context: Context) -> None:
        self._context = context
        self._writer: ChunkWriter | None = None
        self._identity = ""
        self._calls = 0
        self._pictures = 0
        self._usage: Json | None = None
        """Counts that came after the finish reason."""
        self._is_finished = False
        self._is_closed = False

    def feed(self, event: StreamEvent) -> list[bytes]:
        data = event.data
        if self._is_closed or data is None:
            return []
        if data.get("error"):
            error = to_object(data["error"], "error")
            return self._fail(google_stream_status(error), google_error(data))
        writer = self._writer or self._open(data)
        candidates = to_objects(data.get("candidates"), "candidates")
        usage = to_object(data.get("usageMetadata"), "usageMetadata")
        if self._is_finished:
            self._usage = _usage(usage) if usage else self._usage
            return []
        for candidate in candidates:
            if to_count(candidate.get("index"), "candidates.index") == 0:
                return self._candidate(writer, candidate, usage)
        if _is_blocked(data):
            self._is_finished = True
            return [writer.delta({"content": ""}, "content_filter", _usage(usage))]
        return []

    def finish(self) -> list[bytes]:
        if self._is_closed:
            return []
        if not self._is_finished or self._writer is None:
            return self._fail(502, ProviderError(EARLY_END))
        self._is_closed = True
        last = [] if self._usage is None else [self._writer.usage(self._usage)]
        return [*last, DONE]

    def _fail(self, status: int, error: ProviderError) -> list[bytes]:
        self._is_closed = True
        return [encode_event(orjson.dumps(as_openai(status, error)))]

    def _open(self, data: Json) -> ChunkWriter:
        context = self._context
        identity = to_text(data.get("responseId"), "responseId") or context.new_id(_PREFIX)
        model = to_text(data.get("modelVersion"), "modelVersion") or context.model
        self._identity = identity
        self._writer = ChunkWriter(context, identity, model)
        return self._writer

    def _candidate(self, writer: ChunkWriter, candidate: Json, usage: Json) -> list[bytes]:
        parts = _Parts(candidate, self._identity, self._calls)
        delta: Json = {}
        if parts.texts:
            delta["content"] = "".join(parts.texts)
        if parts.thoughts:
            delta["reasoning_content"] = "".join(parts.thoughts)
        if parts.calls:
            calls = enumerate(parts.calls, self._calls)
            delta["tool_calls"] = [{"index": number} | call for number, call in calls]
            self._calls += len(parts.calls)
        if parts.pictures:
            pictures = enumerate(parts.pictures, self._pictures)
            delta["images"] = [picture | {"index": number} for number, picture in pictures]
            self._pictures += len(parts.pictures)
        reason = candidate.get("finishReason")
        if not reason:
            return [writer.delta(delta)] if delta else []
        self._is_finished = True
        finish = _finish(reason, has_calls=self._calls > 0)
        return [writer.delta(delta, finish, _usage(usage) if usage else None)]


@final
class _CompletionsToGemini:
    """C → G."""

    def request(self, body: Json, context: Context) -> Json:
        return GeminiRequest(body, context).convert()

    def response(self, body: Json, context: Context) -> Json:
        return _response(body, context)

    def stream(self, context: Context) -> _Stream:
        return _Stream(context)

    def error(self, status: int, body: bytes, context: Context) -> Json:
        return as_openai(status, google_error(body))


CONVERSION: Conversion = _CompletionsToGemini()
