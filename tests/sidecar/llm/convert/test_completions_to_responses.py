"""Chat completions over an OpenAI responses provider."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from sidecar.errors import UpstreamError
from sidecar.llm.convert.completions_to_responses import CONVERSION
from tests.sidecar.llm.convert import samples
from tests.sidecar.llm.convert.calls import context, stream

Json = dict[str, Any]


def request(body: Json) -> Json:
    base = {"messages": [{"role": "user", "content": "Hi"}]}
    return CONVERSION.request(base | body, context())


FIELDS: Final[dict[str, tuple[Json, str, Any]]] = {
    "text": ({}, "input", [{"type": "message", "role": "user", "content": "Hi"}]),
    "nothing is stored": ({}, "store", False),
    "unless asked for": ({"store": True}, "store", True),
    "limit": ({"max_tokens": 5}, "max_output_tokens", 16),
    "effort": ({"reasoning_effort": "low"}, "reasoning", {"effort": "low"}),
    "verbosity": ({"verbosity": "low"}, "text", {"verbosity": "low"}),
    "json object": (
        {"response_format": {"type": "json_object"}},
        "text",
        {"format": {"type": "json_object"}},
    ),
    "schema is not strict unless it says so": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {}}}},
        "text",
        {"format": {"type": "json_schema", "strict": False, "name": "n", "schema": {}}},
    ),
    "tool": (
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        "tools",
        [{"type": "function", "name": "f", "parameters": None, "strict": True}],
    ),
    "choice": ({"tool_choice": "required"}, "tool_choice", "required"),
    "named": (
        {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        "tool_choice",
        {"type": "function", "name": "f"},
    ),
    "free-form": (
        {"tool_choice": {"type": "custom", "custom": {"name": "f"}}},
        "tool_choice",
        {"type": "custom", "name": "f"},
    ),
    "allowed": (
        {
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {
                    "mode": "required",
                    "tools": [{"type": "function", "function": {"name": "f"}}],
                },
            }
        },
        "tool_choice",
        {
            "type": "allowed_tools",
            "mode": "required",
            "tools": [{"type": "function", "name": "f"}],
        },
    ),
    "log probabilities": ({"logprobs": True, "top_logprobs": 2}, "top_logprobs", 2),
}


@pytest.mark.parametrize(("body", "name", "wanted"), FIELDS.values(), ids=FIELDS)
def test_field(body: Json, name: str, wanted: Any) -> None:
    assert request(body).get(name) == wanted


def test_whole_conversation() -> None:
    call = context()
    out = CONVERSION.request(samples.COMPLETIONS_REQUEST, call)
    assert [item["type"] for item in out["input"]] == [
        "message",
        "message",
        "message",
        "message",
        "function_call",
        "custom_tool_call",
        "function_call_output",
        "custom_tool_call_output",
        "message",
    ]
    kinds = [part["type"] for part in out["input"][2]["content"]]
    assert kinds == ["input_text", "input_image", "input_file"]
    assert [part["type"] for part in out["input"][3]["content"]] == ["output_text", "refusal"]
    assert [tool["type"] for tool in out["tools"]] == ["function", "custom"]
    assert out["tools"][1]["format"] == {
        "type": "grammar",
        "syntax": "lark",
        "definition": "start: WORD",
    }
    for name in ("n", "seed", "stop", "replayed reasoning", "content part input_audio"):
        assert name in call.dropped


ENDS: Final[dict[str, tuple[Json, str]]] = {
    "tool": ({}, "tool_calls"),
    "text": ({"output": samples.RESPONSE["output"][:2]}, "stop"),
    "limit": (
        {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}},
        "length",
    ),
    "filter": (
        {"status": "incomplete", "incomplete_details": {"reason": "content_filter"}},
        "content_filter",
    ),
}


@pytest.mark.parametrize(("fields", "wanted"), ENDS.values(), ids=ENDS)
def test_finish_reason(fields: Json, wanted: str) -> None:
    answer = CONVERSION.response(samples.RESPONSE | fields, context())
    assert answer["choices"][0]["finish_reason"] == wanted


def test_answer() -> None:
    answer = CONVERSION.response(samples.RESPONSE, context())
    message = answer["choices"][0]["message"]
    assert (message["content"], message["refusal"]) == ("Let me see.", "No.")
    assert message["reasoning_content"] == "hm"
    assert [call["type"] for call in message["tool_calls"]] == ["function", "custom"]
    assert answer["choices"][0]["logprobs"]["content"] == [{"token": "Let", "logprob": -0.1}]
    assert answer["usage"] == samples.COMPLETION["usage"]


def test_stream_says_what_the_answer_says() -> None:
    frames = stream(CONVERSION, samples.RESPONSE_EVENTS)
    assert frames[-1] == ("", None)
    chunks = [data for _, data in frames[:-1]]
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == samples.COMPLETION["usage"]
    choices = [chunk["choices"][0] for chunk in chunks[:-1]]
    assert choices[-1]["finish_reason"] == "tool_calls"
    deltas = [choice["delta"] for choice in choices]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta.get("content", "") for delta in deltas) == "Let me see."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert {call["index"] for call in calls} == {0}
    assert calls[0]["id"] == "call_1"
    arguments = "".join(call["function"]["arguments"] for call in calls)
    assert orjson.loads(arguments) == {"city": "Rome"}


@pytest.mark.parametrize("status", ["failed", "in_progress", "cancelled"])
def test_answer_that_is_none(status: str) -> None:
    with pytest.raises(UpstreamError):
        CONVERSION.response(samples.RESPONSE | {"status": status}, context())
