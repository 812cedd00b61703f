"""Anthropic messages.

Source: Anthropic API reference (messages, streaming, errors); spec llm sections 4.1 and 5.2.
"""

from __future__ import annotations

from typing import Final, final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, TextPart, WireFormat
from sidecar.llm.chat.errors import anthropic_error, frame
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.pieces import WEB_SEARCH
from sidecar.llm.usage import Usage

_PARAMS: Final = {
    "temperature": "temperature",
    "top_p": "top_p",
    "max_tokens": "max_tokens",
}
_CALLS: Final = frozenset(("tool_use", "server_tool_use", "mcp_tool_use"))
_TEXT_DELTAS: Final = frozenset(("text_delta", "thinking_delta", "input_json_delta"))


# --- requests -------------------------------------------------------------------------------


def _texts(content: object) -> list[str]:
    if isinstance(content, str):
        return [content]
    blocks = loose.objects(content)
    return [loose.text(block.get("text")) for block in blocks if block.get("type") == "text"]


def check(body: Json) -> None:
    """Raises: RequestError 400 when `messages` or `system` has a wrong shape."""
    loose.check_model(body)
    loose.check_stream(body)
    loose.check_objects(body.get("messages"), "messages")
    if not isinstance(body.get("system"), str):
        loose.check_objects(body.get("system"), "system", is_required=False)


def system_blocks(texts: list[str]) -> list[Json]:
    """Texts as blocks of `system`."""
    return [{"type": "text", "text": text} for text in texts]


def _enrich_system(body: Json, first: list[str], last: list[str]) -> None:
    if not first and not last:
        return
    system = body.get("system")
    own = system_blocks([system]) if isinstance(system, str) else loose.items(system)
    body["system"] = [*system_blocks(first), *own, *system_blocks(last)]


def text_fields(holder: Json, key: str, role: str, kind: str) -> list[TextPart]:
    """A content, a string or blocks, as texts; nested contents of tool results included."""
    content = holder.get(key)
    if isinstance(content, str):
        return [loose.Field(role, kind, holder, key)]
    parts: list[TextPart] = []
    for block in loose.objects(content):
        block_kind = loose.text(block.get("type"))
        if block_kind in _CALLS:
            if isinstance(block.get("input"), dict):
                parts.append(loose.JsonField(role, "toolInput", block, "input"))
        elif block_kind.endswith("tool_result"):
            parts += text_fields(block, "content", role, "toolOutput")
        elif block_kind == "document":
            parts += _document(block, role, kind)
        elif block_kind == "search_result":
            parts += text_fields(block, "content", role, kind)
        elif isinstance(block.get("text"), str):
            parts.append(loose.Field(role, kind, block, "text"))
        elif isinstance(block.get("thinking"), str):
            parts.append(loose.Field(role, kind, block, "thinking"))
    return parts


def _document(block: Json, role: str, kind: str) -> list[TextPart]:
    source = loose.obj(block.get("source"))
    if source.get("type") == "text" and isinstance(source.get("data"), str):
        return [loose.Field(role, kind, source, "data")]
    return text_fields(source, "content", role, kind) if source.get("type") == "content" else []


# --- usage ----------------------------------------------------------------------------------


def read_usage(usage: Json, into: Usage) -> None:
    """Anthropic's usage object; cached tokens are not in its `input_tokens`.

    Only what is there is taken: a stream's last word need not repeat what the first one said.
    """
    for source, target in (
        ("input_tokens", "input_tokens"),
        ("output_tokens", "output_tokens"),
        ("cache_creation_input_tokens", "cache_creation_input_tokens"),
        ("cache_read_input_tokens", "cached_input_tokens"),
    ):
        value = loose.count(usage.get(source))
        if value is not None:
            setattr(into, target, value)
    kept = loose.obj(usage.get("cache_creation"))
    if kept:
        long = loose.count(kept.get("ephemeral_1h_input_tokens"))
        into.long_cache_creation_input_tokens = long or None
    asked = usage.get("server_tool_use")
    if asked is not None:
        into.piece(WEB_SEARCH, loose.obj(asked).get("web_search_requests"))
    into.total_tokens = loose.total(into.input_tokens, into.output_tokens)
    into.service_tier = loose.name(usage.get("service_tier")) or into.service_tier


@final
class _Reader:
    """Reads message_start, the deltas and message_delta."""

    __slots__ = ("_calls", "_finish", "_text", "_usage", "_with_content")

    def __init__(self, with_content: bool) -> None:
        self._usage = Usage()
        self._with_content = with_content
        self._text = loose.Capture()
        self._calls: dict[int, tuple[Json, loose.Capture]] = {}
        """By index of the block."""
        self._finish: object = None

    @property
    def usage(self) -> Usage:
        if self._with_content:
            self._usage.completion = [self._text.joined()]
            self._usage.output_messages = []
            calls = [
                loose.tool_call(
                    block.get("id"), block.get("name"), arguments.joined() or block.get("input")
                )
                for block, arguments in self._calls.values()
            ]
            loose.add_calls(self._usage, calls, self._finish)
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        if data is None:
            return False
        kind = data.get("type")
        if kind == "content_block_delta":
            return self._delta(data)
        if kind == "content_block_start":
            return self._start(data)
        if kind == "message_start":
            message = loose.obj(data.get("message"))
            self._usage.provider_model = loose.name(message.get("model"))
            read_usage(loose.obj(message.get("usage")), self._usage)
        elif kind == "message_delta":
            read_usage(loose.obj(data.get("usage")), self._usage)
            self._finish = loose.obj(data.get("delta")).get("stop_reason")
        return False

    def _start(self, data: Json) -> bool:
        block = loose.obj(data.get("content_block"))
        if loose.text(block.get("type")) not in _CALLS:
            return False
        if self._with_content and len(self._calls) < loose.MAX_CALLS:
            index = loose.count(data.get("index")) or 0
            self._calls[index] = (block, loose.Capture(loose.MAX_ARGUMENT_CHARS))
        return True

    def _delta(self, data: Json) -> bool:
        delta = loose.obj(data.get("delta"))
        kind = loose.text(delta.get("type"))
        if self._with_content:
            if kind == "text_delta":
                self._text.add(loose.text(delta.get("text")))
            elif kind == "input_json_delta":
                call = self._calls.get(loose.count(data.get("index")) or 0)
                if call is not None:
                    call[1].add(loose.text(delta.get("partial_json")))
        return kind in _TEXT_DELTAS


@final
class _Messages(PlainFormat):
    """M."""

    name = "messages"

    def check(self, body: Json) -> None:
        check(body)

    def params(self, body: Json) -> Json:
        return loose.pick(body, _PARAMS)

    def prompt(self, body: Json) -> list[dict[str, str]]:
        system = "\n".join(_texts(body.get("system")))
        out = [{"role": "system", "content": system}] if system else []
        for message in loose.objects(body.get("messages")):
            content = " ".join(_texts(message.get("content")))
            out.append({"role": loose.text(message.get("role")), "content": content})
        return out

    def enrich(self, body: Json, prepend: list[Json], append: list[Json]) -> None:
        first = [item["content"] for item in prepend if item["role"] == "system"]
        last = [item["content"] for item in append if item["role"] == "system"]
        _enrich_system(body, first, last)
        body["messages"] = [
            *(item for item in prepend if item["role"] != "system"),
            *loose.items(body.get("messages")),
            *(item for item in append if item["role"] != "system"),
        ]

    def request_texts(self, body: Json) -> list[TextPart]:
        parts = text_fields(body, "system", "system", "systemPrompt")
        for message in loose.objects(body.get("messages")):
            role = loose.text(message.get("role"))
            kind = "systemPrompt" if role == "system" else "messages"
            parts += text_fields(message, "content", role, kind)
        return parts

    def response_texts(self, body: Json) -> list[TextPart]:
        parts = text_fields(body, "content", "assistant", "completion")
        return [part for part in parts if part.kind == "completion"]

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        usage = Usage(provider_model=loose.name(body.get("model")))
        read_usage(loose.obj(body.get("usage")), usage)
        if with_content:
            usage.completion = ["".join(_texts(body.get("content")))]
            calls = [
                loose.tool_call(block.get("id"), block.get("name"), block.get("input"))
                for block in loose.objects(body.get("content"))
                if loose.text(block.get("type")) in _CALLS
            ]
            loose.add_calls(usage, calls, body.get("stop_reason"))
        return usage

    def reader(self, *, with_content: bool = False) -> _Reader:
        return _Reader(with_content)

    def error(self, status: int, message: str, kind: str = "", code: str = "") -> Json:
        return anthropic_error(status, message, kind)

    def error_frame(self, status: int, message: str, kind: str = "", code: str = "") -> bytes:
        return frame(anthropic_error(status, message, kind), b"error")


FORMAT: WireFormat = _Messages()
