"""OpenAI responses.

Source: OpenAI API reference (responses, streaming events); spec llm sections 4.1 and 5.2.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart, WireFormat
from sidecar.llm.chat.errors import frame, openai_error
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.pieces import FILE_SEARCH, IMAGE, WEB_SEARCH
from sidecar.llm.usage import Usage

_PARAMS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_output_tokens": "max_tokens",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
}
_TEXT_PARTS: Final = frozenset(("input_text", "output_text", "text"))
_TEXT_KEYS: Final = ("text", "refusal")
_ENDS: Final = frozenset(("response.completed", "response.incomplete", "response.failed"))
_TEXT_EVENTS: Final = frozenset(
    (
        "response.output_text.delta",
        "response.refusal.delta",
        "response.reasoning_text.delta",
        "response.reasoning_summary_text.delta",
        "response.function_call_arguments.delta",
        "response.custom_tool_call_input.delta",
        "response.audio.delta",
        "response.image_generation_call.partial_image",
    )
)


# --- requests -------------------------------------------------------------------------------


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    parts = loose.objects(content)
    return [
        loose.text(part.get("text"))
        for part in parts
        if loose.text(part.get("type")) in _TEXT_PARTS
    ]


def _is_message(item: Json) -> bool:
    return bool(item.get("type", "message") == "message")


def _item(message: Json) -> Json:
    """An enrichment message as an item. An assistant's text stays plain: parts would be output."""
    if message["role"] == "assistant":
        return {"type": "message", "role": "assistant", "content": message["content"]}
    part = {"type": "input_text", "text": message["content"]}
    return {"type": "message", "role": message["role"], "content": [part]}


def _fields(holder: Json, key: str, role: str, kind: str) -> list[TextPart]:
    content = holder.get(key)
    if isinstance(content, str):
        return [loose.Field(role, kind, holder, key)]
    return [
        loose.Field(role, kind, part, name)
        for part in loose.objects(content)
        for name in _TEXT_KEYS
        if isinstance(part.get(name), str)
    ]


def _item_fields(item: Json) -> list[TextPart]:
    kind = item.get("type", "message")
    if kind == "message":
        role = loose.text(item.get("role"))
        is_system = role in ("system", "developer")
        return _fields(item, "content", role, "systemPrompt" if is_system else "messages")
    if kind == "reasoning":
        parts = _fields(item, "summary", "assistant", "messages")
        return parts + _fields(item, "content", "assistant", "messages")
    if isinstance(item.get("output"), str | list):
        return _fields(item, "output", "tool", "toolOutput")
    key = "input" if kind == "custom_tool_call" else "arguments"
    if isinstance(item.get(key), str):
        return [loose.Field("assistant", "toolInput", item, key)]
    return []


# --- usage ----------------------------------------------------------------------------------


def read_usage(usage: Json, into: Usage) -> None:
    """The usage object of responses (and of images); cached tokens are in its `input_tokens`."""
    sent = loose.obj(usage.get("input_tokens_details"))
    received = loose.obj(usage.get("output_tokens_details"))
    into.input_tokens = loose.count(usage.get("input_tokens"))
    into.input_text_tokens = loose.count(sent.get("text_tokens"))
    into.input_image_tokens = loose.count(sent.get("image_tokens"))
    into.input_audio_tokens = loose.count(sent.get("audio_tokens"))
    into.output_tokens = loose.count(usage.get("output_tokens"))
    into.output_text_tokens = loose.count(received.get("text_tokens"))
    into.output_image_tokens = loose.count(received.get("image_tokens"))
    into.output_audio_tokens = loose.count(received.get("audio_tokens"))
    into.total_tokens = loose.count(usage.get("total_tokens"))
    into.reasoning_tokens = loose.count(received.get("reasoning_tokens"))
    into.cache_creation_input_tokens = loose.count(sent.get("cache_write_tokens"))
    into.cached_input_tokens = loose.count(sent.get("cached_tokens"))


def count_pieces(output: object, into: Usage) -> None:
    """What OpenAI's own tools did, by the items of an answer; opening a page found is no search."""
    searched = looked_up = drawn = 0
    for item in loose.objects(output):
        kind = item.get("type")
        if kind == "web_search_call":
            searched += loose.obj(item.get("action")).get("type", "search") == "search"
        elif kind == "file_search_call":
            looked_up += 1
        elif kind == "image_generation_call":
            drawn += bool(item.get("result"))
    if searched or looked_up or drawn:
        into.piece(WEB_SEARCH, searched)
        into.piece(FILE_SEARCH, looked_up)
        into.piece(IMAGE, drawn)


def _call(item: Json, arguments: str = "") -> Json | None:
    """An output item as a call; None for another item. `arguments`: what deltas brought."""
    if item.get("type") == "function_call":
        given = loose.text(item.get("arguments")) or arguments
        return loose.tool_call(item.get("call_id"), item.get("name"), given)
    if item.get("type") == "custom_tool_call":
        given = loose.text(item.get("input")) or arguments
        return loose.custom_call(item.get("call_id"), item.get("name"), given)
    return None


def _output_texts(output: object) -> str:
    messages = (item for item in loose.objects(output) if item.get("type") == "message")
    return "".join(text for item in messages for text in _texts(item.get("content")))


@final
class _Reader:
    """Reads deltas and the last event, which repeats the whole answer."""

    __slots__ = ("_arguments", "_items", "_status", "_text", "_usage", "_with_content")

    def __init__(self, with_content: bool) -> None:
        self._usage = Usage()
        self._with_content = with_content
        self._text = loose.Capture()
        self._items: dict[int, Json] = {}
        """Output items as last seen, by index."""
        self._arguments: dict[int, loose.Capture] = {}
        self._status: object = None

    @property
    def usage(self) -> Usage:
        if self._with_content:
            self._usage.completion = [self._text.joined()]
            self._usage.output_messages = []
            calls = [
                _call(item, self._arguments[index].joined() if index in self._arguments else "")
                for index, item in sorted(self._items.items(), key=lambda entry: entry[0])
            ]
            loose.add_calls(self._usage, [call for call in calls if call], self._status)
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        if data is None:
            return False
        kind = loose.text(data.get("type"))
        if kind in _TEXT_EVENTS:
            if self._with_content:
                self._delta(kind, data)
            return True
        if kind in ("response.output_item.added", "response.output_item.done"):
            item = loose.obj(data.get("item"))
            index = loose.count(data.get("output_index")) or 0
            if self._with_content and index < loose.MAX_CALLS and _call(item):
                self._items[index] = item
            return str(item.get("type")).endswith("_call")
        if kind in _ENDS or kind in ("response.created", "response.in_progress"):
            self._response(loose.obj(data.get("response")))
        return False

    def _delta(self, kind: str, data: Json) -> None:
        text = loose.text(data.get("delta"))
        if kind in ("response.output_text.delta", "response.refusal.delta"):
            self._text.add(text)
        elif kind in (
            "response.function_call_arguments.delta",
            "response.custom_tool_call_input.delta",
        ):
            index = loose.count(data.get("output_index")) or 0
            if index in self._items:
                arguments = self._arguments.get(index)
                if arguments is None:
                    arguments = self._arguments[index] = loose.Capture(loose.MAX_ARGUMENT_CHARS)
                arguments.add(text)

    def _response(self, response: Json) -> None:
        usage = self._usage
        usage.provider_model = loose.name(response.get("model")) or usage.provider_model
        usage.service_tier = loose.name(response.get("service_tier")) or usage.service_tier
        self._status = response.get("status")
        if isinstance(response.get("usage"), dict):
            read_usage(response["usage"], usage)
            count_pieces(response.get("output"), usage)


@final
class _Responses(PlainFormat):
    """R."""

    name = "responses"

    def check(self, body: Json) -> None:
        super().check(body)
        if not isinstance(body.get("input"), str):
            loose.check_objects(body.get("input"), "input", is_required=False)
        if not isinstance(body.get("instructions"), str | list | None):
            raise loose.refuse("instructions", "a string")

    def params(self, body: Json) -> Json:
        return loose.pick(body, _PARAMS)

    def prompt(self, body: Json) -> list[dict[str, str]]:
        out: list[dict[str, str]] = []
        if isinstance(body.get("instructions"), str) and body["instructions"]:
            out.append({"role": "system", "content": body["instructions"]})
        if isinstance(body.get("input"), str):
            out.append({"role": "user", "content": body["input"]})
        for item in loose.objects(body.get("input")):
            if _is_message(item):
                content = "\n".join(_texts(item.get("content")))
                out.append({"role": loose.text(item.get("role")), "content": content})
        return out

    def enrich(self, body: Json, prepend: list[Json], append: list[Json]) -> None:
        own = body.get("input")
        if isinstance(own, str):
            own = [_item({"role": "user", "content": own})]
        first, last = map(_item, prepend), map(_item, append)
        body["input"] = [*first, *loose.items(own), *last]

    def request_texts(self, body: Json) -> list[TextPart]:
        parts: list[TextPart] = _fields(body, "instructions", "system", "systemPrompt")
        if isinstance(body.get("input"), str):
            parts.append(loose.Field("user", "messages", body, "input"))
        for item in loose.objects(body.get("input")):
            parts += _item_fields(item)
        return parts

    def response_texts(self, body: Json) -> list[TextPart]:
        parts: list[TextPart] = []
        for item in loose.objects(body.get("output")):
            if item.get("type") in ("message", "reasoning"):
                parts += _fields(item, "content", "assistant", "completion")
                parts += _fields(item, "summary", "assistant", "completion")
        return parts

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        usage = Usage(
            provider_model=loose.name(body.get("model")),
            service_tier=loose.name(body.get("service_tier")),
        )
        if isinstance(body.get("usage"), dict):
            read_usage(body["usage"], usage)
        count_pieces(body.get("output"), usage)
        if with_content:
            usage.completion = [_output_texts(body.get("output"))]
            calls = map(_call, loose.objects(body.get("output")))
            loose.add_calls(usage, [call for call in calls if call], body.get("status"))
        return usage

    def reader(self, *, with_content: bool = False) -> _Reader:
        return _Reader(with_content)

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        """The `error` event, with OpenAI's error object beside it, which its SDKs raise on."""
        error = openai_error(status, message, kind, code)
        event = {"type": "error", "code": code or None, "message": message, "param": None}
        return frame(event | error, b"error")


FORMAT: WireFormat = _Responses()
