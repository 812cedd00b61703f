"""OpenAI responses over an Anthropic provider."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.llm.convert.responses_to_messages import CONVERSION
from tests.sidecar.llm.convert import samples
from tests.sidecar.llm.convert.calls import context, of_type, stream, text_of

Json = dict[str, Any]
TOOL: Final = {"type": "function", "name": "f"}
SENT: Final = {"name": "f", "input_schema": {"type": "object"}}


def request(body: Json) -> Json:
    return CONVERSION.request({"input": "Hi"} | body, context())


FIELDS: Final[dict[str, tuple[Json, str, Any]]] = {
    "text": ({}, "messages", [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]),
    "system": ({"instructions": "A"}, "system", "A"),
    "default limit": ({}, "max_tokens", 4096),
    "limit": ({"max_output_tokens": 5}, "max_tokens", 5),
    "room for the answer after thinking": (
        {"reasoning": {"effort": "high"}},
        "max_tokens",
        8192,
    ),
    "thinking": (
        {"reasoning": {"effort": "high"}},
        "thinking",
        {"type": "enabled", "budget_tokens": 4096},
    ),
    "no stream": ({"stream": False}, "stream", None),
    "stream": ({"stream": True}, "stream", True),
    "user": ({"user": "u"}, "metadata", {"user_id": "u"}),
    "safety identifier": (
        {"user": "u", "safety_identifier": "s"},
        "metadata",
        {"user_id": "s"},
    ),
    "tool": ({"tools": [TOOL]}, "tools", [SENT]),
    "required": ({"tools": [TOOL], "tool_choice": "required"}, "tool_choice", {"type": "any"}),
    "named": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "f"}},
        "tool_choice",
        {"type": "tool", "name": "f"},
    ),
    "choice without tools": ({"tool_choice": "required"}, "tool_choice", None),
    "one call": (
        {"tools": [TOOL], "parallel_tool_calls": False},
        "tool_choice",
        {"type": "auto", "disable_parallel_tool_use": True},
    ),
    "schema": (
        {"text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}}},
        "output_config",
        {"format": {"type": "json_schema", "schema": {"type": "object"}}},
    ),
}


@pytest.mark.parametrize(("body", "name", "wanted"), FIELDS.values(), ids=FIELDS)
def test_field(body: Json, name: str, wanted: Any) -> None:
    assert request(body).get(name) == wanted


def test_whole_conversation() -> None:
    call = context()
    out = CONVERSION.request(samples.RESPONSES_REQUEST, call)
    assert out["system"] == "Be brief.\nBe kind."
    asked, said, results = out["messages"]
    assert [block["type"] for block in asked["content"]] == ["text", "image", "document"]
    assert asked["content"][0]["cache_control"] == {"type": "ephemeral"}
    assert [block["type"] for block in said["content"]] == [
        "thinking",
        "text",
        "tool_use",
        "tool_use",
    ]
    assert said["content"][0] == {"type": "thinking", "thinking": "hm", "signature": "sig"}
    assert said["content"][3]["input"] == {"input": "ls"}
    # The results of one round and what the user says then are one message.
    kinds = [block["type"] for block in results["content"]]
    assert kinds == ["tool_result", "tool_result", "text"]
    assert results["content"][1]["content"][1]["type"] == "image"
    assert "item_reference" in text_of(call.dropped)


def test_thinking_of_another_provider_is_not_sent() -> None:
    call = context()
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    asked = {"role": "user", "content": "Hi"}
    out = CONVERSION.request({"input": [asked, item]}, call)
    assert len(out["messages"]) == 1
    assert call.dropped == ["reasoning of another provider"]


def test_thinking_survives_a_conversation() -> None:
    """What the answer carries is what the next request gives back to Anthropic."""
    answer = CONVERSION.response(samples.MESSAGE, context())
    streamed = stream(CONVERSION, samples.MESSAGE_EVENTS)[-1][1]["response"]
    wanted = [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "see."},
        {"type": "tool_use", "id": "tu_1", "name": "weather", "input": {"city": "Rome"}},
    ]
    result = {"type": "function_call_output", "call_id": "tu_1", "output": "sunny"}
    for output, text_blocks in ((answer["output"], 2), (streamed["output"], 1)):
        body = {"input": [*output, result], "reasoning": {"effort": "low"}}
        out = request(body)
        said = out["messages"][0]["content"]
        assert said[:2] == wanted[:2]
        assert "".join(block["text"] for block in said[2 : 2 + text_blocks]) == "Let me see."
        assert said[-1] == wanted[-1]
        assert "thinking" in out


def test_round_without_its_thinking_is_not_thought_about() -> None:
    call_item = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{"}
    result = {"type": "function_call_output", "call_id": "c", "output": "x"}
    out = request({"input": [call_item, result], "reasoning": {"effort": "low"}})
    assert "thinking" not in out
    assert out["messages"][0]["content"][0]["input"] == {"input": "{"}


def test_four_cache_marks_at_most() -> None:
    part = {"type": "input_text", "text": "a", "prompt_cache_breakpoint": {"mode": "explicit"}}
    out = request({"input": [{"role": "user", "content": [part] * 6}]})
    blocks = out["messages"][0]["content"]
    assert ["cache_control" in block for block in blocks] == [True] * 4 + [False] * 2


STOPS: Final[dict[str, tuple[str, str, Json | None]]] = {
    "end": ("end_turn", "completed", None),
    "tool": ("tool_use", "completed", None),
    "limit": ("max_tokens", "incomplete", {"reason": "max_output_tokens"}),
    "refusal": ("refusal", "incomplete", {"reason": "content_filter"}),
}


@pytest.mark.parametrize(("stop", "status", "details"), STOPS.values(), ids=STOPS)
def test_status(stop: str, status: str, details: Json | None) -> None:
    answer = CONVERSION.response(samples.MESSAGE | {"stop_reason": stop}, context())
    events = [
        event | {"delta": {"stop_reason": stop}}
        if event is not None and event["type"] == "message_delta"
        else event
        for event in samples.MESSAGE_EVENTS
    ]
    name, last = stream(CONVERSION, events)[-1]
    assert name == f"response.{status}"
    for response in (answer, last["response"]):
        assert response["status"] == status
        assert response.get("incomplete_details") == details


def test_usage_includes_cached_tokens() -> None:
    usage = CONVERSION.response(samples.MESSAGE, context())["usage"]
    assert usage == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": 120,
    }
    assert stream(CONVERSION, samples.MESSAGE_EVENTS)[-1][1]["response"]["usage"] == usage


def test_stream_events_agree_with_each_other() -> None:
    frames = stream(CONVERSION, samples.MESSAGE_EVENTS)
    assert all(name == data["type"] for name, data in frames)
    done = [event["item"] for event in of_type(frames, "response.output_item.done")]
    assert frames[-1][1]["response"]["output"] == done
    kinds = [item["type"] for item in done]
    assert kinds == ["reasoning", "reasoning", "message", "function_call"]


def test_free_form_tool_comes_back_as_one() -> None:
    call = context()
    CONVERSION.request(samples.RESPONSES_REQUEST, call)
    block = {"type": "tool_use", "id": "t", "name": "run", "input": {"input": "ls"}}
    item = CONVERSION.response(samples.MESSAGE | {"content": [block]}, call)["output"][0]
    assert (item["type"], item["input"], item["call_id"]) == ("custom_tool_call", "ls", "t")


def test_answer_that_is_an_error() -> None:
    with pytest.raises(UpstreamError):
        CONVERSION.response({"type": "error", "error": {}}, context())


def test_hints_are_left_out_without_a_word() -> None:
    call = context(rejects_loss=True)
    hints = {
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "k",
        "store": False,
        "stream_options": {"include_obfuscation": False},
    }
    assert CONVERSION.request({"input": "Hi"} | hints, call)["messages"]
    with pytest.raises(RequestError):
        CONVERSION.request({"input": "Hi", "include": ["file_search_call.results"]}, call)
