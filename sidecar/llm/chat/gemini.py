"""Google's generateContent, the native format of Gemini and Vertex.

Source: Gemini API reference (generateContent, streamGenerateContent); spec llm sections 0, 2.12,
4.1 and 5.2. The model and whether it streams are in the path (`chat.paths`), not in the body.
"""

from __future__ import annotations

import re
from typing import Any, Final, final

from sidecar.errors import RequestError
from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart, WireFormat
from sidecar.llm.chat.errors import frame, google_error
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.pieces import WEB_SEARCH
from sidecar.llm.usage import Usage

_PARAMS: Final = {
    "temperature": "temperature",
    "topP": "top_p",
    "top_p": "top_p",
    "maxOutputTokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "frequencyPenalty": "frequency_penalty",
    "frequency_penalty": "frequency_penalty",
    "presencePenalty": "presence_penalty",
    "presence_penalty": "presence_penalty",
    "seed": "seed",
}
_OPAQUE: Final = frozenset(
    ("args", "response", "labels", "parametersJsonSchema", "responseJsonSchema", "default")
)
"""Keys whose values are the user's own JSON."""
_NAMED: Final = frozenset(("properties", "defs"))
"""Keys whose values are maps by names of the user's."""
_MAX_DEPTH: Final = 100
_GENERATION: Final = re.compile(r"gemini-(\d{1,3})\b")
_SNAKE: Final = re.compile(r"_([a-z0-9])")


# --- requests -------------------------------------------------------------------------------


def normalise(body: Json) -> Json:
    """The body as Google's REST endpoint documents it: camelCase keys, no `model`.

    protobuf's JSON takes both spellings, so clients send both; where both are there, camelCase
    stays. What the user named (arguments, labels, properties) is left alone.

    Raises: RequestError 400 for more levels than protobuf's JSON takes.
    """
    out: Json = _camel(body, 0)
    out.pop("model", None)
    return out


def _camel(value: Any, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise RequestError(400, "InvalidRequest", "the body is nested too deeply")
    if isinstance(value, list):
        return [_camel(item, depth + 1) for item in value]
    if not isinstance(value, dict):
        return value
    out: Json = {}
    for key, item in value.items():
        name = _SNAKE.sub(lambda found: found[1].upper(), key) if "_" in key else key
        if name != key and name in value:
            continue
        if name in _NAMED and isinstance(item, dict):
            out[name] = {own: _camel(schema, depth + 2) for own, schema in item.items()}
        else:
            out[name] = item if name in _OPAQUE else _camel(item, depth + 1)
    return out


def _system(body: Json) -> Json:
    return loose.obj(body.get("systemInstruction", body.get("system_instruction")))


def _texts(content: Json) -> list[str]:
    parts = loose.objects(content.get("parts"))
    return [
        loose.text(part["text"]) for part in parts if "text" in part and not part.get("thought")
    ]


def _role(content: Json) -> str:
    role = loose.text(content.get("role")) or "user"
    return "assistant" if role == "model" else role


def _content(message: Json) -> Json:
    role = "model" if message["role"] == "assistant" else message["role"]
    return {"role": role, "parts": [{"text": message["content"]}]}


def _enrich_system(body: Json, first: list[Json], last: list[Json]) -> None:
    if not first and not last:
        return
    own = _system(body)
    body.pop("system_instruction", None)
    parts = [*_system_parts(first), *loose.items(own.get("parts")), *_system_parts(last)]
    body["systemInstruction"] = {**own, "parts": parts}


def _system_parts(messages: list[Json]) -> list[Json]:
    return [{"text": message["content"]} for message in messages if message["role"] == "system"]


def _fields(content: Json, role: str, kind: str) -> list[TextPart]:
    parts: list[TextPart] = []
    for part in loose.objects(content.get("parts")):
        call = part.get("functionCall", part.get("function_call"))
        answer = part.get("functionResponse", part.get("function_response"))
        if isinstance(part.get("text"), str):
            parts.append(loose.Field(role, kind, part, "text"))
        elif isinstance(call, dict) and isinstance(call.get("args"), dict):
            parts.append(loose.JsonField(role, "toolInput", call, "args"))
        elif isinstance(answer, dict) and isinstance(answer.get("response"), dict):
            parts.append(loose.JsonField(role, "toolOutput", answer, "response"))
    return parts


# --- usage ----------------------------------------------------------------------------------


def _modality(details: object, modality: str) -> int | None:
    entries = loose.objects(details)
    counts = (loose.count(e.get("tokenCount")) for e in entries if e.get("modality") == modality)
    return loose.total(*counts)


def read_usage(usage: Json, into: Usage) -> None:
    """Google's usageMetadata: cached tokens are in the prompt's, thoughts beside the answer's."""
    sent, received = usage.get("promptTokensDetails"), usage.get("candidatesTokensDetails")
    thoughts = loose.count(usage.get("thoughtsTokenCount"))
    # Results of Google's own tools are billed as input, but counted beside the prompt.
    into.input_tokens = loose.total(
        loose.count(usage.get("promptTokenCount")),
        loose.count(usage.get("toolUsePromptTokenCount")),
    )
    into.input_text_tokens = _modality(sent, "TEXT")
    into.input_image_tokens = _modality(sent, "IMAGE")
    into.input_audio_tokens = _modality(sent, "AUDIO")
    into.output_tokens = loose.total(loose.count(usage.get("candidatesTokenCount")), thoughts)
    into.output_text_tokens = _modality(received, "TEXT")
    into.output_image_tokens = _modality(received, "IMAGE")
    into.output_audio_tokens = _modality(received, "AUDIO")
    into.total_tokens = loose.count(usage.get("totalTokenCount"))
    into.reasoning_tokens = thoughts
    into.cached_input_tokens = loose.count(usage.get("cachedContentTokenCount"))


def count_searches(body: Json, into: Usage) -> None:
    """Searches that an answer, or a part of one, is grounded on: Gemini 3 is charged for each, the
    models before it for each answer with any."""
    grounds = [loose.obj(one.get("groundingMetadata")) for one in loose.objects(body["candidates"])]
    asked = [
        query for one in grounds for query in loose.items(one.get("webSearchQueries")) if query
    ]
    if asked:
        found = _GENERATION.search(into.provider_model or "")
        into.piece(WEB_SEARCH, len(asked) if found is not None and int(found[1]) >= 3 else 1)


def _calls(content: Json) -> list[Json]:
    calls = (loose.obj(part.get("functionCall")) for part in loose.objects(content.get("parts")))
    return [
        loose.tool_call(call.get("id"), call["name"], call.get("args"))
        for call in calls
        if "name" in call
    ]


@final
class _Reader:
    """Reads chunks; each repeats the usage so far, so the last one is read when it is asked for."""

    __slots__ = ("_calls", "_finish", "_metadata", "_texts", "_usage", "_with_content")

    def __init__(self, with_content: bool) -> None:
        self._usage = Usage()
        self._metadata: Json | None = None
        self._with_content = with_content
        self._texts: dict[int, loose.Capture] = {}
        """By index of the candidate."""
        self._calls: dict[int, list[Json]] = {}
        self._finish: dict[int, object] = {}

    @property
    def usage(self) -> Usage:
        if self._metadata is not None:
            read_usage(self._metadata, self._usage)
        if self._with_content:
            indexes = sorted(self._texts) or [0]
            self._usage.completion = [
                self._texts[index].joined() if index in self._texts else "" for index in indexes
            ]
            self._usage.output_messages = []
            for index in sorted(self._calls):
                loose.add_calls(self._usage, self._calls[index], self._finish.get(index))
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        if data is None:
            return False
        model = loose.name(data.get("modelVersion"))
        self._usage.provider_model = model or self._usage.provider_model
        if isinstance(data.get("usageMetadata"), dict):
            self._metadata = data["usageMetadata"]
        has_text = False
        for candidate in loose.objects(data.get("candidates")):
            if "groundingMetadata" in candidate:
                count_searches(data, self._usage)
            content = loose.obj(candidate.get("content"))
            has_text = has_text or bool(loose.items(content.get("parts")))
            if self._with_content:
                self._candidate(loose.count(candidate.get("index")) or 0, candidate, content)
        return has_text

    def _candidate(self, index: int, candidate: Json, content: Json) -> None:
        if index >= loose.MAX_CALLS:
            return
        for text in _texts(content):
            self._texts.setdefault(index, loose.Capture()).add(text)
        if calls := _calls(content):
            self._calls.setdefault(index, []).extend(calls)
            del self._calls[index][loose.MAX_CALLS :]
        if candidate.get("finishReason"):
            self._finish[index] = candidate["finishReason"]


@final
class _Gemini(PlainFormat):
    """G."""

    name = "generateContent"

    def check(self, body: Json) -> None:
        super().check(body)
        loose.check_objects(body.get("contents"), "contents")

    def is_streaming(self, body: Json) -> bool:
        return False

    def params(self, body: Json) -> Json:
        config = body.get("generationConfig", body.get("generation_config"))
        return loose.pick(loose.obj(config), _PARAMS)

    def prompt(self, body: Json) -> list[dict[str, str]]:
        system = "\n".join(_texts(_system(body)))
        out = [{"role": "system", "content": system}] if system else []
        contents = loose.objects(body.get("contents"))
        out += [{"role": _role(item), "content": "\n".join(_texts(item))} for item in contents]
        return out

    def enrich(self, body: Json, prepend: list[Json], append: list[Json]) -> None:
        _enrich_system(
            body,
            [item for item in prepend if item["role"] == "system"],
            [item for item in append if item["role"] == "system"],
        )
        body["contents"] = [
            *(_content(item) for item in prepend if item["role"] != "system"),
            *loose.items(body.get("contents")),
            *(_content(item) for item in append if item["role"] != "system"),
        ]

    def request_texts(self, body: Json) -> list[TextPart]:
        parts = _fields(_system(body), "system", "systemPrompt")
        for content in loose.objects(body.get("contents")):
            parts += _fields(content, _role(content), "messages")
        return parts

    def response_texts(self, body: Json) -> list[TextPart]:
        parts: list[TextPart] = []
        for candidate in loose.objects(body.get("candidates")):
            parts += _fields(loose.obj(candidate.get("content")), "assistant", "completion")
        return [part for part in parts if part.kind == "completion"]

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        usage = Usage(provider_model=loose.name(body.get("modelVersion")))
        if isinstance(body.get("usageMetadata"), dict):
            read_usage(body["usageMetadata"], usage)
        if isinstance(body.get("candidates"), list):
            count_searches(body, usage)
        if with_content:
            for candidate in loose.objects(body.get("candidates")):
                content = loose.obj(candidate.get("content"))
                usage.completion.append("".join(_texts(content)))
                loose.add_calls(usage, _calls(content), candidate.get("finishReason"))
        return usage

    def reader(self, *, with_content: bool = False) -> _Reader:
        return _Reader(with_content)

    def error(self, status: int, message: str, kind: str = "", code: str = "") -> Json:
        return google_error(status, message, kind, code)

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        return frame(google_error(status, message, kind, code))


FORMAT: WireFormat = _Gemini()
