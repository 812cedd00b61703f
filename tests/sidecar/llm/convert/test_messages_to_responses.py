"""Anthropic messages over an OpenAI responses provider."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import UpstreamError
from sidecar.llm.convert.messages_to_responses import CONVERSION
from tests.sidecar.llm.convert import samples
from tests.sidecar.llm.convert.calls import context, of_type, stream

Json = dict[str, Any]


TOOLS: Final = [{"name": "f", "input_schema": {}}]


def request(body: Json, model: str = "model-1") -> Json:
    base = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return CONVERSION.request(base | body, context(model))


def test_thinking_of_a_model_that_does_not_reason() -> None:
    assert "reasoning" not in request({"thinking": {"type": "adaptive"}}, "gpt-4o")


FIELDS: Final[dict[str, tuple[Json, str, Any]]] = {
    "limit": ({"max_tokens": 17}, "max_output_tokens", 17),
    "limit below OpenAI's least": ({}, "max_output_tokens", 16),
    "instructions": ({"system": "A"}, "instructions", "A"),
    "instruction blocks": (
        {"system": [{"type": "text", "text": "A"}, {"type": "text", "text": "B"}]},
        "instructions",
        "A\nB",
    ),
    "metadata whole": ({"metadata": {"a": "b"}}, "metadata", {"a": "b"}),
    "adaptive": ({"thinking": {"type": "adaptive"}}, "reasoning", {"effort": "high"}),
    "budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 2048}},
        "reasoning",
        {"effort": "medium"},
    ),
    "effort": (
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        "reasoning",
        {"effort": "low"},
    ),
    "any": ({"tools": TOOLS, "tool_choice": {"type": "any"}}, "tool_choice", "required"),
    "named": (
        {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "f"}},
        "tool_choice",
        {"type": "function", "name": "f"},
    ),
    "tools are not strict unless they say so": (
        {"tools": [{"name": "f", "input_schema": {}}]},
        "tools",
        [{"type": "function", "name": "f", "parameters": {}, "strict": False}],
    ),
    "schema": (
        {"output_config": {"format": {"type": "json_schema", "schema": {}}}},
        "text",
        {"format": {"type": "json_schema", "name": "structured_output", "schema": {}}},
    ),
}


@pytest.mark.parametrize(("body", "name", "wanted"), FIELDS.values(), ids=FIELDS)
def test_field(body: Json, name: str, wanted: Any) -> None:
    assert request(body).get(name) == wanted


def test_cached_system_becomes_an_item_where_marks_are_known() -> None:
    system = [{"type": "text", "text": "A", "cache_control": {"type": "ephemeral"}}]
    assert request({"system": system})["instructions"] == "A"
    out = request({"system": system}, "gpt-5.6")
    part = {"type": "input_text", "text": "A", "prompt_cache_breakpoint": {"mode": "explicit"}}
    assert out["input"][0] == {"type": "message", "role": "system", "content": [part]}
    assert "instructions" not in out


def test_whole_conversation() -> None:
    call = context()
    items = CONVERSION.request(samples.MESSAGES_REQUEST, call)["input"]
    assert [item["type"] for item in items] == [
        "message",
        "message",
        "function_call",
        "function_call",
        "function_call_output",
        "function_call_output",
        "message",
        "message",
    ]
    kinds = [part["type"] for part in items[0]["content"]]
    assert kinds == ["input_text", "input_image", "input_image", "input_file", "input_text"]
    assert items[2] == {
        "type": "function_call",
        "call_id": "tu_1",
        "name": "weather",
        "arguments": '{"city":"Rome"}',
    }
    assert items[4]["output"] == "sunny"
    assert [part["type"] for part in items[5]["output"]] == ["input_text", "input_image"]
    assert items[5]["status"] == "incomplete"
    assert call.dropped == [
        "citations",
        "content block thinking",
        "stop_sequences",
        "top_k",
        "tool web_search_20250305",
    ]


ENDS: Final[dict[str, tuple[Json, str]]] = {
    "tool": ({}, "tool_use"),
    "refusal": ({"output": samples.RESPONSE["output"][:2]}, "refusal"),
    "text": ({"output": samples.RESPONSE["output"][:1]}, "end_turn"),
    "limit": (
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        "max_tokens",
    ),
    "window": (
        {"status": "incomplete", "incomplete_details": {"reason": "context_length"}},
        "model_context_window_exceeded",
    ),
    "filter": (
        {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
        "refusal",
    ),
}


@pytest.mark.parametrize(("fields", "wanted"), ENDS.values(), ids=ENDS)
def test_stop_reason(fields: Json, wanted: str) -> None:
    answer = CONVERSION.response(samples.RESPONSE | fields, context())
    assert answer["stop_reason"] == wanted


def test_answer() -> None:
    answer = CONVERSION.response(samples.RESPONSE, context())
    assert answer["content"] == [
        {"type": "text", "text": "Let me see."},
        {"type": "text", "text": "No."},
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "call_2", "name": "run", "input": {"input": "ls"}},
    ]
    assert answer["usage"]["input_tokens"] == 60


@pytest.mark.parametrize("status", ["failed", "in_progress", "queued", "cancelled"])
def test_answer_that_is_none(status: str) -> None:
    with pytest.raises(UpstreamError):
        CONVERSION.response(samples.RESPONSE | {"status": status}, context())


def test_stream() -> None:
    frames = stream(CONVERSION, samples.RESPONSE_EVENTS)
    assert [name for name, _ in frames] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    ended = of_type(frames, "message_delta")[0]
    assert ended["delta"]["stop_reason"] == "tool_use"
    assert ended["usage"]["cache_read_input_tokens"] == 30


def test_items_told_only_at_their_end() -> None:
    kinds = ("response.created", "response.output_item.done", "response.completed")
    events = [e for e in samples.RESPONSE_EVENTS if e is not None and e["type"] in kinds]
    deltas = of_type(stream(CONVERSION, events), "content_block_delta")
    assert [delta["delta"] for delta in deltas] == [
        {"type": "text_delta", "text": "Let me see."},
        {"type": "input_json_delta", "partial_json": '{"city":"Rome"}'},
    ]


def test_failed_stream_is_an_error_and_no_end() -> None:
    failed = {"error": {"code": "rate_limit_exceeded", "message": "slow"}, "status": "failed"}
    events = [*samples.RESPONSE_EVENTS[:9], {"type": "response.failed", "response": failed}]
    frames = stream(CONVERSION, events)
    assert frames[-1] == (
        "error",
        {"type": "error", "error": {"type": "rate_limit_error", "message": "slow"}},
    )
    assert not of_type(frames, "message_stop")
