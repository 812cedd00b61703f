"""Estimates of what a stream has brought: by events, or by characters where those tell more."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from sidecar.llm.chat.formats import FORMATS
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.chat.produced import extra_chars, text_chars, tokens_of_chars
from tests.support.models import COMPLETION_STREAM, MESSAGE_STREAM, chunk

Json = dict[str, Any]
LONG = "y" * 400
EVENTS: dict[str, tuple[Json, int]] = {
    "completions": ({"choices": [{"delta": {"content": "abc", "role": "assistant"}}]}, 3),
    "reasoning": ({"choices": [{"delta": {"reasoning_content": "abcd"}}]}, 4),
    "call": ({"choices": [{"delta": {"tool_calls": [{"function": {"arguments": "{}"}}]}}]}, 2),
    "messages": ({"type": "content_block_delta", "delta": {"type": "x", "text": "ab"}}, 2),
    "json": ({"delta": {"partial_json": "{"}}, 1),
    "responses": ({"type": "response.output_text.delta", "delta": "abcde"}, 5),
    "gemini": ({"candidates": [{"content": {"parts": [{"text": "ab"}, {"text": "c"}]}}]}, 3),
    "converse": ({"contentBlockIndex": 0, "delta": {"toolUse": {"input": "abc"}}}, 3),
    "no text": ({"type": "ping"}, 0),
    "wrong types": ({"choices": {"delta": [1, None, "x"]}, "delta": 7, "candidates": "x"}, 0),
}


@pytest.mark.parametrize("name", EVENTS)
def test_characters(name: str) -> None:
    event, chars = EVENTS[name]
    assert text_chars(event) == chars


def test_what_is_none() -> None:
    assert text_chars(None) == 0
    deep: Json = {}
    for _ in range(20_000):
        deep = {"delta": [deep]}
    assert text_chars(deep) == 0
    assert [tokens_of_chars(count) for count in (0, 1, 4, 5)] == [0, 1, 1, 2]


def _tokens(format_name: str, data: bytes, step: int, *, with_content: bool = False) -> int:
    tap = StreamTap(FORMATS[format_name], "sse", with_content=with_content)
    for at in range(0, len(data), step):
        tap.feed(data[at : at + step])
    return tap.produced.tokens


@pytest.mark.parametrize("with_content", [False, True])
@pytest.mark.parametrize("step", [1, 7, 100_000])
@pytest.mark.parametrize(
    ("name", "events", "tokens"),
    [
        ("completions", COMPLETION_STREAM[:2], 2),
        ("completions", [*COMPLETION_STREAM[:2], *[chunk({"content": "z"})] * 50], 52),
        ("completions", [*COMPLETION_STREAM[:2], chunk({"content": LONG})], 102),
        ("messages", MESSAGE_STREAM, 2),
    ],
)
def test_a_stream_however_it_is_cut(
    name: str, events: list[bytes], tokens: int, step: int, with_content: bool
) -> None:
    assert _tokens(name, b"".join(events), step, with_content=with_content) == tokens


def test_texts_that_are_repeated_count_once() -> None:
    def event(kind: str, **more: Any) -> bytes:
        data = orjson.dumps({"type": kind, "item_id": "i", "output_index": 0, **more})
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"

    deltas = [event("response.output_text.delta", delta="ab") for _ in range(6)]
    done = event("response.output_text.done", text="ab" * 2000)
    assert _tokens("responses", b"".join([*deltas, done]), 10_000) == 6


def test_a_schema_may_have_any_type() -> None:
    schema = {"type": ["object", "null"], "properties": {"type": {"type": "string"}}}
    picture = {"type": "image_url", "image_url": {"url": "https://a/b"}}
    assert extra_chars({"response_format": {"schema": schema}, "messages": [picture]}) == 4 * 85
