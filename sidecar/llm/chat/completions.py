"""OpenAI chat completions.

Source: OpenAI API reference (chat); spec llm sections 0 (step 7), 4.1 and 5.2.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart, WireFormat
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.pieces import AUDIO_SECOND, WEB_SEARCH
from sidecar.llm.usage import Usage

_PARAMS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
}
_KINDS: Final = {
    "system": "systemPrompt",
    "developer": "systemPrompt",
    "tool": "toolOutput",
    "function": "toolOutput",
}
_TEXT_KEYS: Final = ("text", "refusal")
_REASONING_KEYS: Final = ("reasoning_content", "reasoning")
_RENAMED: Final = "gpt-"
_SEARCHES: Final = "-search-"
"""In the names of models that search: `gpt-4o-search-preview`, `gpt-5-search-api`."""


# --- requests -------------------------------------------------------------------------------


def texts_of(content: object) -> list[str]:
    """The texts of a message's content, whether it is a string or parts."""
    if isinstance(content, str):
        return [content]
    return [loose.text(part["text"]) for part in loose.objects(content) if "text" in part]


def touch_up(body: Json, *, is_openai: bool, needs_usage: bool = False) -> None:
    """Edit what goes to a chat completions provider (spec step 7).

    `is_openai`: OpenAI, Azure or Copilot, whose `gpt-` models refuse `max_tokens`. `needs_usage`:
    somebody counts tokens, so the client must not switch the stream's usage off.
    """
    if body.get("stream") is True:
        options = body.get("stream_options")
        if not isinstance(options, dict):
            body["stream_options"] = {"include_usage": True}
        elif needs_usage or "include_usage" not in options:
            body["stream_options"] = {**options, "include_usage": True}
    if is_openai and "max_tokens" in body and loose.text(body.get("model")).startswith(_RENAMED):
        limit = body.pop("max_tokens")
        body.setdefault("max_completion_tokens", limit)


def _content_parts(holder: Json, role: str, kind: str) -> list[TextPart]:
    """The texts under `content`."""
    content = holder.get("content")
    if isinstance(content, str):
        return [loose.Field(role, kind, holder, "content")]
    return [
        loose.Field(role, kind, part, key)
        for part in loose.objects(content)
        for key in _TEXT_KEYS
        if isinstance(part.get(key), str)
    ]


def _message_parts(message: Json) -> list[TextPart]:
    role = loose.text(message.get("role"))
    kind = _KINDS.get(role, "messages")
    parts = _content_parts(message, role, kind)
    parts += [
        loose.Field(role, kind, message, key)
        for key in ("refusal", *_REASONING_KEYS)
        if isinstance(message.get(key), str)
    ]
    calls = loose.objects(message.get("tool_calls"))
    called = [(call.get("function"), "arguments") for call in calls]
    called += [(call.get("custom"), "input") for call in calls]
    called.append((message.get("function_call"), "arguments"))
    parts += [
        loose.Field(role, "toolInput", holder, key)
        for holder, key in called
        if isinstance(holder, dict) and isinstance(holder.get(key), str)
    ]
    return parts


# --- usage ----------------------------------------------------------------------------------

_COMMON: Final = frozenset(
    (
        *("prompt_tokens", "completion_tokens", "total_tokens"),
        *("prompt_tokens_details", "completion_tokens_details"),
    )
)


def read_usage(usage: Json, into: Usage) -> None:
    """OpenAI's usage object; cached tokens are counted in its `prompt_tokens`."""
    count, said = loose.count, usage.get
    sent = loose.counts(said("prompt_tokens_details")).get
    received = loose.counts(said("completion_tokens_details")).get
    into.input_tokens = count(said("prompt_tokens"))
    into.input_text_tokens = sent("text_tokens")
    into.input_image_tokens = sent("image_tokens")
    into.input_audio_tokens = sent("audio_tokens")
    into.output_tokens = count(said("completion_tokens"))
    into.output_text_tokens = received("text_tokens")
    into.output_image_tokens = received("image_tokens")
    into.output_audio_tokens = received("audio_tokens")
    into.total_tokens = count(said("total_tokens"))
    into.reasoning_tokens = received("reasoning_tokens")
    into.cache_creation_input_tokens = sent("cache_write_tokens")
    into.cached_input_tokens = sent("cached_tokens")
    # Fast path: OpenAI's own words, and nobody else's.
    if not usage.keys() <= _COMMON or _SEARCHES in (into.provider_model or ""):
        _read_others(usage, into)


def _read_others(usage: Json, into: Usage) -> None:
    """What only some providers say."""
    said = usage.get
    hit = said("prompt_cache_hit_tokens")  # DeepSeek's name
    if into.cached_input_tokens is None and hit is not None:
        into.cached_input_tokens = loose.count(hit)
    # Perplexity's and OpenRouter's names. OpenAI says nothing: its search models search each time.
    searches = said("num_search_queries")
    if searches is None and (asked := said("server_tool_use")) is not None:
        searches = loose.obj(asked).get("web_search_requests")
    if searches is None and _SEARCHES in (into.provider_model or ""):
        searches = 1
    if searches is not None:
        into.piece(WEB_SEARCH, searches)
    heard = said("prompt_audio_seconds")  # Mistral's
    if heard is not None:
        into.piece(AUDIO_SECOND, heard)


def _calls(message: Json) -> list[Json]:
    calls: list[Json] = []
    for call in loose.objects(message.get("tool_calls")):
        if call.get("type") == "custom":
            custom = loose.obj(call.get("custom"))
            calls.append(loose.custom_call(call.get("id"), custom.get("name"), custom.get("input")))
        else:
            function = loose.obj(call.get("function"))
            calls.append(
                loose.tool_call(call.get("id"), function.get("name"), function.get("arguments"))
            )
    return calls


@final
class _Reader:
    """Reads chunks: usage is in the last one, unless the provider repeats it in all."""

    __slots__ = ("_calls", "_finish", "_texts", "_usage", "_with_content")

    def __init__(self, with_content: bool) -> None:
        self._usage = Usage()
        self._with_content = with_content
        self._texts: dict[int, loose.Capture] = {}
        """By index of the choice."""
        self._calls: dict[tuple[int, int], tuple[Json, loose.Capture]] = {}
        """By indexes of choice and call."""
        self._finish: dict[int, object] = {}

    @property
    def usage(self) -> Usage:
        if self._with_content:
            indexes = sorted(self._texts) or [0]
            self._usage.completion = [
                self._texts[index].joined() if index in self._texts else "" for index in indexes
            ]
            self._usage.output_messages = []
            for choice in sorted({key[0] for key in self._calls}):
                calls = [
                    loose.tool_call(call.get("id"), call.get("name"), arguments.joined())
                    for key, (call, arguments) in sorted(self._calls.items(), key=lambda i: i[0])
                    if key[0] == choice
                ]
                loose.add_calls(self._usage, calls, self._finish.get(choice))
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        if data is None:
            return False
        usage = self._usage
        usage.provider_model = loose.name(data.get("model")) or usage.provider_model
        usage.service_tier = loose.name(data.get("service_tier")) or usage.service_tier
        if isinstance(data.get("usage"), dict):
            read_usage(data["usage"], usage)
        has_text = False
        for choice in loose.objects(data.get("choices")):
            delta = loose.obj(choice.get("delta"))
            has_text = self._delta(loose.count(choice.get("index")) or 0, delta) or has_text
            if choice.get("finish_reason"):
                self._finish[loose.count(choice.get("index")) or 0] = choice["finish_reason"]
        return has_text

    def _delta(self, index: int, delta: Json) -> bool:
        content = loose.text(delta.get("content")) or loose.text(delta.get("refusal"))
        calls = loose.objects(delta.get("tool_calls"))
        if self._with_content:
            if content and index < loose.MAX_CALLS:
                self._texts.setdefault(index, loose.Capture()).add(content)
            for call in calls:
                self._call(index, call)
        return bool(content or calls or any(delta.get(key) for key in _REASONING_KEYS))

    def _call(self, choice: int, call: Json) -> None:
        key = (choice, loose.count(call.get("index")) or 0)
        if key not in self._calls:
            if len(self._calls) >= loose.MAX_CALLS:
                return
            self._calls[key] = ({}, loose.Capture(loose.MAX_ARGUMENT_CHARS))
        head, arguments = self._calls[key]
        function = loose.obj(call.get("function")) or loose.obj(call.get("custom"))
        if call.get("id"):
            head["id"] = call["id"]
        if function.get("name"):
            head["name"] = function["name"]
        arguments.add(loose.text(function.get("arguments")) or loose.text(function.get("input")))


@final
class _Completions(PlainFormat):
    """C."""

    name = "completions"

    def check(self, body: Json) -> None:
        loose.check_call(body)
        loose.check_objects(body.get("messages"), "messages")

    def params(self, body: Json) -> Json:
        return loose.pick(body, _PARAMS)

    def prompt(self, body: Json) -> list[dict[str, str]]:
        return [
            {
                "role": loose.text(message.get("role")),
                "content": " ".join(texts_of(message.get("content"))),
            }
            for message in loose.objects(body.get("messages"))
        ]

    def enrich(self, body: Json, prepend: list[Json], append: list[Json]) -> None:
        body["messages"] = [*prepend, *loose.items(body.get("messages")), *append]

    def request_texts(self, body: Json) -> list[TextPart]:
        messages = loose.objects(body.get("messages"))
        return [part for message in messages for part in _message_parts(message)]

    def response_texts(self, body: Json) -> list[TextPart]:
        parts: list[TextPart] = []
        for choice in loose.objects(body.get("choices")):
            message = loose.obj(choice.get("message"))
            parts += _content_parts(message, "assistant", "completion")
            parts += [
                loose.Field("assistant", "completion", message, key)
                for key in ("refusal", *_REASONING_KEYS)
                if isinstance(message.get(key), str)
            ]
        return parts

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        usage = Usage()
        # Each whole answer comes through here; a call of `loose.name` costs more than the look-up.
        if type(model := body.get("model")) is str:
            usage.provider_model = model or None
        if type(tier := body.get("service_tier")) is str:
            usage.service_tier = tier or None
        said = body.get("usage")
        if isinstance(said, dict):
            read_usage(said, usage)
        if with_content:
            for choice in loose.objects(body.get("choices")):
                message = loose.obj(choice.get("message"))
                usage.completion.append("".join(texts_of(message.get("content"))))
                loose.add_calls(usage, _calls(message), choice.get("finish_reason"))
        return usage

    def reader(self, *, with_content: bool = False) -> _Reader:
        return _Reader(with_content)


FORMAT: WireFormat = _Completions()
