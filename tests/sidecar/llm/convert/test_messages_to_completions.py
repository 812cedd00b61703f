"""Anthropic messages over an OpenAI chat completions provider."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import UpstreamError
from sidecar.llm.convert.messages_to_completions import CONVERSION, takes_breakpoints
from tests.sidecar.llm.convert import samples
from tests.sidecar.llm.convert.calls import context, of_type, stream

Json = dict[str, Any]
CACHED: Final = {"type": "ephemeral"}
TOOLS: Final = [{"name": "f", "input_schema": {}}]
SEARCH: Final = {"type": "web_search_20250305", "name": "web_search"}


def request(body: Json, model: str = "model-1") -> Json:
    base = {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    return CONVERSION.request(base | body, context(model))


FIELDS: Final[dict[str, tuple[Json, str, Any]]] = {
    "limit": ({}, "max_completion_tokens", 9),
    "no stream": ({}, "stream", False),
    "stream": ({"stream": True}, "stream_options", {"include_usage": True}),
    "stops": ({"stop_sequences": ["A"]}, "stop", ["A"]),
    "user": ({"metadata": {"user_id": "u", "x": "y"}}, "user", "u"),
    "adaptive": ({"thinking": {"type": "adaptive"}}, "reasoning_effort", "high"),
    "adaptive with effort": (
        {"thinking": {"type": "adaptive"}, "output_config": {"effort": "low"}},
        "reasoning_effort",
        "low",
    ),
    "small budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 1024}},
        "reasoning_effort",
        "low",
    ),
    "budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 5000}},
        "reasoning_effort",
        "high",
    ),
    "big budget": (
        {"thinking": {"type": "enabled", "budget_tokens": 31999}},
        "reasoning_effort",
        "high",
    ),
    "disabled": ({"thinking": {"type": "disabled"}}, "reasoning_effort", None),
    "any": ({"tools": TOOLS, "tool_choice": {"type": "any"}}, "tool_choice", "required"),
    "none": ({"tools": TOOLS, "tool_choice": {"type": "none"}}, "tool_choice", "none"),
    "named": (
        {"tools": TOOLS, "tool_choice": {"type": "tool", "name": "f"}},
        "tool_choice",
        {"type": "function", "function": {"name": "f"}},
    ),
    "named server tool": (
        {"tools": [SEARCH], "tool_choice": {"type": "tool", "name": "web_search"}},
        "tool_choice",
        None,
    ),
    "named server tool beside others": (
        {"tools": [SEARCH, *TOOLS], "tool_choice": {"type": "tool", "name": "web_search"}},
        "tool_choice",
        "auto",
    ),
    "one call": (
        {"tools": TOOLS, "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "parallel_tool_calls",
        False,
    ),
    "one call of no tools": (
        {"tools": [SEARCH], "tool_choice": {"type": "auto", "disable_parallel_tool_use": True}},
        "parallel_tool_calls",
        None,
    ),
    "server tool": ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools", None),
}


@pytest.mark.parametrize(("body", "name", "wanted"), FIELDS.values(), ids=FIELDS)
def test_field(body: Json, name: str, wanted: Any) -> None:
    assert request(body).get(name) == wanted


NO_REASONING: Final = {
    "gpt-3.5-turbo": False,
    "gpt-4o": False,
    "gpt-4.1-mini": False,
    "gpt-5": False,
    "gpt-5-mini": False,
    "gpt-5.1": False,
    "gpt-5.2-codex": False,
    "gpt-5.3": True,
    "gpt-6-luna": True,
    "claude-x": False,
}
"""Models before the fifth know no effort at all, and refuse one."""


@pytest.mark.parametrize(("model", "is_off"), NO_REASONING.items(), ids=NO_REASONING)
def test_models_that_want_no_reasoning_beside_tools(model: str, is_off: bool) -> None:
    out = request({"tools": [{"name": "f", "input_schema": {}}]}, model)
    assert (out.get("reasoning_effort") == "none") is is_off


@pytest.mark.parametrize("kind", ["adaptive", "enabled"])
@pytest.mark.parametrize(("model", "is_kept"), [("gpt-4o", False), ("o3", True), ("gpt-5", True)])
def test_thinking_of_models_that_do_not_reason(kind: str, model: str, is_kept: bool) -> None:
    call = context(model)
    thinking = {"type": kind, "budget_tokens": 2048}
    messages = [{"role": "user", "content": "Hi"}]
    body = {"max_tokens": 9, "messages": messages, "thinking": thinking}
    out = CONVERSION.request(body, call)
    assert ("reasoning_effort" in out) is is_kept
    assert call.dropped == ([] if is_kept else ["thinking"])


BREAKPOINTS: Final = {
    "gpt-5.5": False,
    "gpt-5.6": True,
    "gpt-5.6-terra": True,
    "openai/gpt-6": True,
    "gpt-5.10": True,
    "gpt-" + "9" * 60: False,
    "claude-x": False,
}


@pytest.mark.parametrize(("model", "wanted"), BREAKPOINTS.items())
def test_cache_marks(model: str, wanted: bool) -> None:
    assert takes_breakpoints(model) is wanted
    system = [{"type": "text", "text": "A", "cache_control": CACHED}]
    part = request({"system": system}, model)["messages"][0]["content"][0]
    assert ("prompt_cache_breakpoint" in part) is wanted


def test_results_go_before_what_the_user_says() -> None:
    out = CONVERSION.request(samples.MESSAGES_REQUEST, context())
    assert [message["role"] for message in out["messages"]] == [
        "system",
        "user",
        "assistant",
        "tool",
        "tool",
        "user",
        "system",
    ]
    kinds = [part["type"] for part in out["messages"][1]["content"]]
    assert kinds == ["text", "image_url", "image_url", "file", "text"]


def test_image_of_the_provider_file_store() -> None:
    call = context()
    image = {"type": "image", "source": {"type": "file", "file_id": "f"}}
    body = {"messages": [{"role": "user", "content": [image]}]}
    assert CONVERSION.request(body, call)["messages"] == []
    assert call.dropped == ["image source file"]


FINISHES: Final = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
    "news": "end_turn",
}


@pytest.mark.parametrize(("given", "wanted"), FINISHES.items(), ids=FINISHES)
def test_stop_reason_is_the_same_whole_and_streamed(given: str, wanted: str) -> None:
    message = {"role": "assistant", "content": "a"}
    choice = {"index": 0, "message": message, "finish_reason": given}
    answer = CONVERSION.response(samples.COMPLETION | {"choices": [choice]}, context())
    assert answer["stop_reason"] == wanted
    frames = stream(CONVERSION, [samples.chunk({"content": "a"}), samples.chunk({}, given), None])
    assert of_type(frames, "message_delta")[0]["delta"]["stop_reason"] == wanted


@pytest.mark.parametrize(
    ("given", "wanted"),
    [("stop", "tool_use"), ("news", "tool_use"), ("length", "max_tokens")],
)
def test_a_call_is_a_reason_to_stop(given: str, wanted: str) -> None:
    """A forced call ends with `stop` at OpenAI."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    choice = {"index": 0, "message": {"tool_calls": [call]}, "finish_reason": given}
    answer = CONVERSION.response({"choices": [choice]}, context())
    assert answer["stop_reason"] == wanted
    # What it does not say of itself is known.
    assert answer["model"] == "model-1"
    assert answer["id"].startswith("msg_")
    chunks = [samples.chunk({"tool_calls": [{"index": 0} | call]}), samples.chunk({}, given), None]
    frames = stream(CONVERSION, chunks)
    assert of_type(frames, "message_delta")[0]["delta"]["stop_reason"] == wanted


CONTENTS: Final[dict[str, tuple[Json, list[Json]]]] = {
    "nothing": ({}, []),
    "refusal": ({"content": None, "refusal": "No"}, [{"type": "text", "text": "No"}]),
    "parts": (
        {"content": [{"type": "thinking", "thinking": []}, {"type": "text", "text": "A"}]},
        [{"type": "text", "text": "A"}],
    ),
    "call without id": (
        {"tool_calls": [{"function": {"name": "f", "arguments": ""}}]},
        [{"type": "tool_use", "id": "tool_call_0", "name": "f", "input": {}}],
    ),
}


@pytest.mark.parametrize(("message", "content"), CONTENTS.values(), ids=CONTENTS)
def test_content(message: Json, content: list[Json]) -> None:
    body = {"choices": [{"message": message, "finish_reason": "stop"}]}
    assert CONVERSION.response(body, context())["content"] == content


def test_usage_counts_cached_tokens_apart() -> None:
    usage = CONVERSION.response(samples.COMPLETION, context())["usage"]
    assert usage == {
        "input_tokens": 60,
        "output_tokens": 20,
        "cache_creation_input_tokens": 10,
        "cache_read_input_tokens": 30,
        "service_tier": "default",
    }


def test_stream_blocks_open_and_close_once() -> None:
    frames = stream(CONVERSION, samples.COMPLETION_CHUNKS)
    assert all(name == data["type"] for name, data in frames)
    starts = [data["index"] for data in of_type(frames, "content_block_start")]
    stops = [data["index"] for data in of_type(frames, "content_block_stop")]
    assert starts == [0, 1, 2]
    assert stops == [0, 1, 2]
    deltas = of_type(frames, "content_block_delta")
    texts = "".join(d["delta"]["text"] for d in deltas if d["index"] == 0)
    assert texts == "Let me see."
    inputs = "".join(d["delta"]["partial_json"] for d in deltas if d["index"] == 1)
    assert inputs == '{"city":"Rome"}'


def test_stream_without_usage_ends_at_done() -> None:
    chunks = [samples.chunk({"content": "a"}), samples.chunk({}, "stop")]
    assert stream(CONVERSION, [*chunks, None])[-1][0] == "message_stop"
    assert stream(CONVERSION, chunks)[-1][0] == "message_stop"


def test_tool_names_come_back_as_the_client_knows_them() -> None:
    call = context(tool_names={"weather": "the weather"})
    answer = CONVERSION.response(samples.COMPLETION, call)
    assert answer["content"][1]["name"] == "the weather"
    started = of_type(stream(CONVERSION, samples.COMPLETION_CHUNKS, call), "content_block_start")
    assert started[1]["content_block"]["name"] == "the weather"


def test_answer_without_choices() -> None:
    with pytest.raises(UpstreamError):
        CONVERSION.response({"choices": []}, context())


ERRORS: Final[dict[str, tuple[int, bytes, str]]] = {
    "by status": (429, b'{"error":{"type":"tokens","message":"m"}}', "rate_limit_error"),
    "same name": (400, b'{"error":{"type":"invalid_request_error"}}', "invalid_request_error"),
    "server": (500, b'{"error":{"type":"server_error"}}', "api_error"),
    "not json": (503, b"upstream connect error", "api_error"),
    "overloaded": (529, b"", "overloaded_error"),
}


@pytest.mark.parametrize(("status", "body", "kind"), ERRORS.values(), ids=ERRORS)
def test_error(status: int, body: bytes, kind: str) -> None:
    out = CONVERSION.error(status, body, context())
    assert out["type"] == "error"
    assert out["error"]["type"] == kind
