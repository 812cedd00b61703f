"""OpenAI's realtime events: JSON messages of a WebSocket, each way. The model is in the query.

Every `response.done` has the usage of its own turn, so a session's usage is their sum.

Source: OpenAI API reference (realtime client and server events); spec llm section 2.15.
"""

from __future__ import annotations

from typing import Final, final

import orjson

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart, WireFormat
from sidecar.llm.chat.errors import openai_error
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.usage import Usage

TEXT_DELTAS: Final = frozenset(("response.output_text.delta", "response.text.delta"))
_DELTAS: Final = TEXT_DELTAS | {
    "response.output_audio.delta",
    "response.audio.delta",
    "response.output_audio_transcript.delta",
    "response.audio_transcript.delta",
    "response.function_call_arguments.delta",
}
CANCEL: Final = b'{"type":"response.cancel"}'
"""What makes the provider stop the turn under way."""


def _turn(usage: Json) -> Usage:
    sent = loose.obj(usage.get("input_token_details"))
    received = loose.obj(usage.get("output_token_details"))
    return Usage(
        input_tokens=loose.count(usage.get("input_tokens")),
        input_text_tokens=loose.count(sent.get("text_tokens")),
        input_image_tokens=loose.count(sent.get("image_tokens")),
        input_audio_tokens=loose.count(sent.get("audio_tokens")),
        output_tokens=loose.count(usage.get("output_tokens")),
        output_text_tokens=loose.count(received.get("text_tokens")),
        output_audio_tokens=loose.count(received.get("audio_tokens")),
        total_tokens=loose.count(usage.get("total_tokens")),
        cached_input_tokens=loose.count(sent.get("cached_tokens")),
    )


_SUMMED: Final = (
    "input_tokens",
    "input_text_tokens",
    "input_image_tokens",
    "input_audio_tokens",
    "output_tokens",
    "output_text_tokens",
    "output_audio_tokens",
    "total_tokens",
    "cached_input_tokens",
)


@final
class _Reader:
    """Reads the server's events."""

    __slots__ = ("_capture", "_usage", "_with_content")

    def __init__(self, with_content: bool) -> None:
        self._usage = Usage()
        self._with_content = with_content
        self._capture = loose.Capture()

    @property
    def usage(self) -> Usage:
        if self._with_content:
            self._usage.completion = [self._capture.joined()]
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        if data is None:
            return False
        kind = loose.text(data.get("type"))
        if kind in TEXT_DELTAS and self._with_content:
            self._capture.add(loose.text(data.get("delta")))
        elif kind == "response.done":
            turn = _turn(loose.obj(loose.obj(data.get("response")).get("usage")))
            for field in _SUMMED:
                sum_ = loose.total(getattr(self._usage, field), getattr(turn, field))
                setattr(self._usage, field, sum_)
        elif kind in ("session.created", "session.updated"):
            model = loose.name(loose.obj(data.get("session")).get("model"))
            self._usage.provider_model = model or self._usage.provider_model
        return kind in _DELTAS


@final
class _Realtime(PlainFormat):
    """RT. A "body" is one event."""

    name = "realtime"

    def is_streaming(self, body: Json) -> bool:
        return True

    def request_texts(self, body: Json) -> list[TextPart]:
        """What the user says, what a tool answered, and the instructions of a session or turn."""
        kind = body.get("type")
        if kind == "conversation.item.create":
            return _item_texts(loose.obj(body.get("item")))
        holder = {"session.update": "session", "response.create": "response"}.get(str(kind), "")
        inner = loose.obj(body.get(holder))
        parts: list[TextPart] = []
        if isinstance(inner.get("instructions"), str):
            parts.append(loose.Field("system", "systemPrompt", inner, "instructions"))
        for item in loose.objects(inner.get("input")):
            parts += _item_texts(item)
        return parts

    def response_texts(self, body: Json) -> list[TextPart]:
        if loose.text(body.get("type")) in TEXT_DELTAS and isinstance(body.get("delta"), str):
            return [loose.Field("assistant", "completion", body, "delta")]
        return []

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        reader = _Reader(with_content)
        reader.feed("", body)
        return reader.usage

    def reader(self, *, with_content: bool = False) -> _Reader:
        return _Reader(with_content)

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        """An `error` event as the text of a WebSocket message."""
        return orjson.dumps({"type": "error", **openai_error(status, message, kind, code)})


def _item_texts(item: Json) -> list[TextPart]:
    if isinstance(item.get("output"), str):
        return [loose.Field("tool", "toolOutput", item, "output")]
    role = loose.text(item.get("role"))
    kind = "systemPrompt" if role == "system" else "messages"
    return [
        loose.Field(role, kind, part, "text")
        for part in loose.objects(item.get("content"))
        if isinstance(part.get("text"), str)
    ]


FORMAT: WireFormat = _Realtime()
