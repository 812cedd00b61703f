"""What Bedrock's Converse answers, read for any client format.

Source: Amazon Bedrock API reference (Converse, ConverseStream); spec llm section 2.10.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from sidecar.errors import UpstreamError
from sidecar.llm.convert.base import Context, Json
from sidecar.llm.shape import to_count, to_object, to_objects, to_optional_count, to_text

FILTERED: Final = frozenset(("content_filtered", "guardrail_intervened"))
"""Stop reasons of answers that a filter cut."""


class Tokens(NamedTuple):
    """Token counts. `sent` leaves out what was read from or written to a cache."""

    sent: int
    received: int
    total: int
    read: int | None
    written: int | None


def tokens_of(usage: object) -> Tokens:
    """Bedrock's usage object. Raises: ShapeError."""
    usage = to_object(usage, "usage")
    sent = to_count(usage.get("inputTokens"), "usage.inputTokens")
    received = to_count(usage.get("outputTokens"), "usage.outputTokens")
    read = to_optional_count(usage.get("cacheReadInputTokens"), "usage.cacheReadInputTokens")
    written = to_optional_count(usage.get("cacheWriteInputTokens"), "usage.cacheWriteInputTokens")
    total = to_optional_count(usage.get("totalTokens"), "usage.totalTokens")
    if total is None:
        total = sent + received + (read or 0) + (written or 0)
    return Tokens(sent, received, total, read, written)


def blocks_of(body: Json) -> list[Json]:
    """The content of an answer. Raises: UpstreamError 502 for what is no answer, ShapeError."""
    if not isinstance(body.get("output"), dict):
        raise UpstreamError(502, "UpstreamFailure", "the provider's answer holds no output")
    message = to_object(body["output"].get("message"), "output.message")
    return to_objects(message.get("content"), "output.message.content")


def text_of(block: Json) -> str:
    """The text of a block, plain or with citations; "" for a block of another kind."""
    if "text" in block:
        return to_text(block["text"], "content.text")
    if "citationsContent" not in block:
        return ""
    cited = to_object(block["citationsContent"], "content.citationsContent")
    parts = to_objects(cited.get("content"), "content.citationsContent.content")
    return "".join(to_text(part.get("text"), "content.citationsContent.text") for part in parts)


class Reasoning(NamedTuple):
    """What a model thought. `redacted`: encrypted, for the provider only."""

    text: str
    signature: str
    redacted: str


def reasoning_of(block: Json) -> Reasoning:
    """A reasoning block. Raises: ShapeError."""
    content = to_object(block.get("reasoningContent"), "content.reasoningContent")
    text = to_object(content.get("reasoningText"), "content.reasoningText")
    return Reasoning(
        to_text(text.get("text"), "content.reasoningText.text"),
        to_text(text.get("signature"), "content.reasoningText.signature"),
        to_text(content.get("redactedContent"), "content.redactedContent"),
    )


class ToolUse(NamedTuple):
    """A call. `name` is the client's; `input` any JSON."""

    id: str
    name: str
    input: object

    def arguments(self) -> str:
        """The input as JSON text."""
        return orjson.dumps({} if self.input is None else self.input).decode()


def tool_use_of(value: object, context: Context) -> ToolUse:
    """A toolUse object, of an answer or of a block's start. Raises: ShapeError."""
    use = to_object(value, "toolUse")
    name = to_text(use.get("name"), "toolUse.name")
    identity = to_text(use.get("toolUseId"), "toolUse.toolUseId")
    return ToolUse(identity, context.tool_names.get(name, name), use.get("input"))


class Delta(NamedTuple):
    """A piece of a block. `kind`: text, reasoning, signature, redacted, input; "" for others."""

    block: int
    """Its index."""
    kind: str
    text: str


def delta_of(data: Json) -> Delta:
    """A contentBlockDelta. Raises: ShapeError."""
    index = to_count(data.get("contentBlockIndex"), "contentBlockIndex")
    delta = to_object(data.get("delta"), "delta")
    # Fast path: text, which is nearly every delta.
    if "text" in delta:
        return Delta(index, "text", to_text(delta["text"], "delta.text"))
    if "toolUse" in delta:
        use = to_object(delta["toolUse"], "delta.toolUse")
        return Delta(index, "input", to_text(use.get("input"), "delta.toolUse.input"))
    reasoning = to_object(delta.get("reasoningContent"), "delta.reasoningContent")
    for key, kind in _REASONING:
        if key in reasoning:
            return Delta(index, kind, to_text(reasoning[key], f"delta.reasoningContent.{key}"))
    return Delta(index, "", "")


_REASONING: Final = (
    ("text", "reasoning"),
    ("signature", "signature"),
    ("redactedContent", "redacted"),
)


def start_of(data: Json, context: Context) -> tuple[int, ToolUse | None]:
    """A contentBlockStart: the block's index, and the call that begins. Raises: ShapeError."""
    index = to_count(data.get("contentBlockIndex"), "contentBlockIndex")
    start = to_object(data.get("start"), "start")
    return index, tool_use_of(start["toolUse"], context) if "toolUse" in start else None
