"""Bedrock's Converse: answers only, since no client of the gateway speaks it.

Source: Amazon Bedrock API reference (Converse, ConverseStream); spec llm section 2.10.
"""

from __future__ import annotations

from typing import final

from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json, WireFormat
from sidecar.llm.chat.plain import PlainFormat
from sidecar.llm.usage import Usage


def read_usage(usage: Json, into: Usage) -> None:
    """Bedrock's usage object; cached tokens are not in its `inputTokens`."""
    into.input_tokens = loose.count(usage.get("inputTokens"))
    into.output_tokens = loose.count(usage.get("outputTokens"))
    into.total_tokens = loose.count(usage.get("totalTokens"))
    into.cache_creation_input_tokens = loose.count(usage.get("cacheWriteInputTokens"))
    into.cached_input_tokens = loose.count(usage.get("cacheReadInputTokens"))
    kept = (one for one in loose.objects(usage.get("cacheDetails")) if one.get("ttl") == "1h")
    long = loose.total(*(loose.count(one.get("inputTokens")) for one in kept))
    into.long_cache_creation_input_tokens = long or None


@final
class _Reader:
    """Reads ConverseStream's events; `metadata` ends it with the usage."""

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
                loose.tool_call(call.get("toolUseId"), call.get("name"), arguments.joined())
                for call, arguments in self._calls.values()
            ]
            loose.add_calls(self._usage, calls, self._finish)
        return self._usage

    def feed(self, name: str, data: Json | None) -> bool:
        if data is None:
            return False
        if name == "contentBlockDelta":
            if self._with_content:
                self._delta(data)
            return True
        if name == "contentBlockStart":
            call = loose.obj(loose.obj(data.get("start")).get("toolUse"))
            if call and self._with_content and len(self._calls) < loose.MAX_CALLS:
                index = loose.count(data.get("contentBlockIndex")) or 0
                self._calls[index] = (call, loose.Capture(loose.MAX_ARGUMENT_CHARS))
            return bool(call)
        if name == "messageStop":
            self._finish = data.get("stopReason")
        elif name == "metadata" and isinstance(data.get("usage"), dict):
            read_usage(data["usage"], self._usage)
        return False

    def _delta(self, data: Json) -> None:
        delta = loose.obj(data.get("delta"))
        self._text.add(loose.text(delta.get("text")))
        call = self._calls.get(loose.count(data.get("contentBlockIndex")) or 0)
        if call is not None:
            call[1].add(loose.text(loose.obj(delta.get("toolUse")).get("input")))


@final
class _Converse(PlainFormat):
    """Conv."""

    name = "converse"

    def usage(self, body: Json, *, with_content: bool = False) -> Usage:
        usage = Usage()
        read_usage(loose.obj(body.get("usage")), usage)
        if with_content:
            message = loose.obj(loose.obj(body.get("output")).get("message"))
            blocks = loose.objects(message.get("content"))
            usage.completion = ["".join(loose.text(block.get("text")) for block in blocks)]
            uses = (loose.obj(block.get("toolUse")) for block in blocks)
            calls = [
                loose.tool_call(use.get("toolUseId"), use["name"], use.get("input"))
                for use in uses
                if "name" in use
            ]
            loose.add_calls(usage, calls, body.get("stopReason"))
        return usage

    def reader(self, *, with_content: bool = False) -> _Reader:
        return _Reader(with_content)


FORMAT: WireFormat = _Converse()
