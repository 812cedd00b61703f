"""Chat completions over an Anthropic provider."""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

import orjson
import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.llm.convert.completions_to_messages import CONVERSION
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert import samples
from tests.sidecar.llm.convert.calls import context, stream

Json = dict[str, Any]
CACHED: Final = {"type": "ephemeral"}


def request(body: Json, **fields: Any) -> Json:
    base = {"messages": [{"role": "user", "content": "Hi"}]}
    return CONVERSION.request(base | body, context(**fields))


def user(*content: Json) -> Json:
    return {"messages": [{"role": "user", "content": list(content)}]}


TOOL: Final[Json] = {"type": "function", "function": {"name": "f"}}
FIELDS: Final[dict[str, tuple[Json, str, Any]]] = {
    "default limit": ({}, "max_tokens", 4096),
    "old limit": ({"max_tokens": 5}, "max_tokens", 5),
    "new limit wins": ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", 6),
    "one stop": ({"stop": "A"}, "stop_sequences", ["A"]),
    "stops": ({"stop": ["A", "B"]}, "stop_sequences", ["A", "B"]),
    "user": ({"user": "u"}, "metadata", {"user_id": "u"}),
    "no stream": ({"stream": False}, "stream", None),
    "stream": ({"stream": True}, "stream", True),
    "effort": (
        {"reasoning_effort": "high", "max_tokens": 9000},
        "thinking",
        {"type": "enabled", "budget_tokens": 4096},
    ),
    "effort below the limit": (
        {"reasoning_effort": "high", "max_tokens": 2000},
        "thinking",
        {"type": "enabled", "budget_tokens": 1999},
    ),
    "no room to think": ({"reasoning_effort": "low", "max_tokens": 1024}, "thinking", None),
    "effort none": ({"reasoning_effort": "none"}, "thinking", None),
    "json object": (
        {"response_format": {"type": "json_object"}},
        "output_config",
        {
            "format": {
                "type": "json_schema",
                "schema": {"type": "object", "additionalProperties": True},
            }
        },
    ),
    "text format": ({"response_format": {"type": "text"}}, "output_config", None),
    "choice auto": ({"tool_choice": "auto", "tools": [TOOL]}, "tool_choice", {"type": "auto"}),
    "choice required": (
        {"tool_choice": "required", "tools": [TOOL]},
        "tool_choice",
        {"type": "any"},
    ),
    "choice none": ({"tool_choice": "none", "tools": [TOOL]}, "tool_choice", {"type": "none"}),
    "choice without tools": ({"tool_choice": "auto"}, "tool_choice", None),
    "choice of no tools": (
        {"tool_choice": "required", "tools": [], "parallel_tool_calls": False},
        "tool_choice",
        None,
    ),
    "one of some": (
        {
            "tools": [TOOL],
            "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "required"}},
        },
        "tool_choice",
        {"type": "any"},
    ),
    "hotter than Anthropic's scale": ({"temperature": 1.7}, "temperature", 1),
    "schema unsaid": (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        "output_config",
        {
            "format": {
                "type": "json_schema",
                "schema": {"type": "object", "additionalProperties": True},
            }
        },
    ),
    "none of one call at a time": (
        {"parallel_tool_calls": False, "tools": [TOOL], "tool_choice": "none"},
        "tool_choice",
        {"type": "none"},
    ),
    "one call at a time": (
        {
            "parallel_tool_calls": False,
            "tools": [{"type": "function", "function": {"name": "f"}}],
        },
        "tool_choice",
        {"type": "auto", "disable_parallel_tool_use": True},
    ),
    "tool without parameters": (
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        "tools",
        [{"name": "f", "input_schema": {"type": "object"}}],
    ),
    "cached tool": (
        {
            "tools": [
                {"type": "function", "function": {"name": "f"}, "cache_control": CACHED},
            ]
        },
        "tools",
        [{"name": "f", "input_schema": {"type": "object"}, "cache_control": CACHED}],
    ),
}


@pytest.mark.parametrize(("body", "name", "wanted"), FIELDS.values(), ids=FIELDS)
def test_field(body: Json, name: str, wanted: Any) -> None:
    assert request(body).get(name) == wanted


PARTS: Final[dict[str, tuple[Json, list[Json]]]] = {
    "jpg": (
        {"type": "image_url", "image_url": {"url": "data:image/jpg;base64,AA=="}},
        [
            {
                "type": "image",
                "source": {"type": "base64", "media_type": "image/jpeg", "data": "AA=="},
            }
        ],
    ),
    "blank text": ({"type": "text", "text": " \n"}, []),
    "remote image": (
        {"type": "image_url", "image_url": {"url": "https://a.test/b"}},
        [{"type": "image", "source": {"type": "url", "url": "https://a.test/b"}}],
    ),
    "cached text": (
        {"type": "text", "text": "a", "cache_control": CACHED},
        [{"type": "text", "text": "a", "cache_control": CACHED}],
    ),
    "pdf": (
        {"type": "file", "file": {"filename": "a.pdf", "file_data": samples.PDF}},
        [
            {
                "type": "document",
                "title": "a.pdf",
                "source": {
                    "type": "base64",
                    "media_type": "application/pdf",
                    "data": "JVBERi0=",
                },
            }
        ],
    ),
    "text file": (
        {
            "type": "file",
            "file": {"file_data": "data:text/plain;base64," + b64encode(b"hello").decode()},
        },
        [
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "hello"},
            }
        ],
    ),
    "file by id": ({"type": "file", "file": {"file_id": "file_1"}}, []),
    "audio": ({"type": "input_audio", "input_audio": {}}, []),
}


@pytest.mark.parametrize(("part", "blocks"), PARTS.values(), ids=PARTS)
def test_content_part(part: Json, blocks: list[Json]) -> None:
    sent = request(user(part, {"type": "text", "text": "x"}))["messages"][0]["content"]
    assert sent == [*blocks, {"type": "text", "text": "x"}]


def test_base64_that_is_none() -> None:
    file = {"file_data": "data:text/plain;base64,a"}
    with pytest.raises(ShapeError):
        request(user({"type": "file", "file": file}))


def test_system_keeps_blocks_only_for_cache_marks() -> None:
    plain = {"role": "system", "content": [{"type": "text", "text": "A"}]}
    marked = {
        "role": "developer",
        "content": [{"type": "text", "text": "B", "cache_control": CACHED}],
    }
    assert request({"messages": [plain, plain]})["system"] == "A\nA"
    assert request({"messages": [plain, marked]})["system"] == [
        {"type": "text", "text": "A"},
        {"type": "text", "text": "B", "cache_control": CACHED},
    ]


def test_whole_conversation() -> None:
    call = context("claude")
    out = CONVERSION.request(samples.COMPLETIONS_REQUEST, call)
    assert [message["role"] for message in out["messages"]] == [
        "user",
        "assistant",
        "user",
        "user",
        "user",
    ]
    said = out["messages"][1]["content"]
    assert said[-2:] == [
        {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Rome"}},
        {"type": "tool_use", "id": "call_2", "name": "run", "input": {"input": "ls"}},
    ]
    assert "n" in call.dropped
    assert "replayed reasoning" in call.dropped


THOUGHT_ABOUT: Final[dict[str, tuple[Json, bool]]] = {
    "plain": ({}, True),
    "forced tool": ({"tool_choice": "required", "tools": [TOOL]}, False),
    "tool round without its thinking": (
        {"messages": samples.COMPLETIONS_REQUEST["messages"][:-1]},
        False,
    ),
    "tool round that is over": ({"messages": samples.COMPLETIONS_REQUEST["messages"]}, True),
}


@pytest.mark.parametrize(("body", "is_on"), THOUGHT_ABOUT.values(), ids=THOUGHT_ABOUT)
def test_thinking_that_anthropic_would_refuse(body: Json, is_on: bool) -> None:
    assert ("thinking" in request({"reasoning_effort": "low", **body})) is is_on


def test_sampling_beside_thinking() -> None:
    body = {"temperature": 0.5, "top_p": 0.5}
    thinking = request(body | {"reasoning_effort": "low"})
    assert "temperature" not in thinking
    assert "top_p" not in thinking
    assert request(body)["temperature"] == 0.5
    with pytest.raises(RequestError):
        request(body | {"reasoning_effort": "low"}, rejects_loss=True)


def test_dropped_names_fit_a_header() -> None:
    call = context()
    CONVERSION.request(user(*[{"type": f"a\r\nb: {n}" + "x" * 500} for n in range(50)]), call)
    assert len(call.dropped) == 20
    assert all(len(name) <= 80 and name.isprintable() for name in call.dropped)


STOPS: Final = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
    "news": "stop",
}


@pytest.mark.parametrize(("given", "wanted"), STOPS.items(), ids=STOPS)
def test_finish_reason(given: str, wanted: str) -> None:
    answer = CONVERSION.response(samples.MESSAGE | {"stop_reason": given}, context())
    assert answer["choices"][0]["finish_reason"] == wanted
    events = [
        {"type": "message_delta", "delta": {"stop_reason": given}}
        if event is not None and event["type"] == "message_delta"
        else event
        for event in samples.MESSAGE_EVENTS
    ]
    chunks = [data for _, data in stream(CONVERSION, events) if data is not None]
    assert chunks[-1]["choices"][0]["finish_reason"] == wanted


def test_answer() -> None:
    answer = CONVERSION.response(samples.MESSAGE, context())
    assert answer["choices"][0]["message"] == {
        "role": "assistant",
        "reasoning_content": "hm",
        "content": "Let me see.",
        "tool_calls": [
            {
                "id": "tu_1",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
            }
        ],
    }
    assert answer["usage"]["prompt_tokens"] == 60
    assert answer["usage"]["prompt_tokens_details"] == {
        "cached_tokens": 30,
        "cache_write_tokens": 10,
    }


def test_stream_says_what_the_answer_says() -> None:
    frames = stream(CONVERSION, samples.MESSAGE_EVENTS)
    deltas = [data["choices"][0]["delta"] for _, data in frames if data is not None]
    assert [delta.get("role") for delta in deltas] == ["assistant"] + [None] * (len(deltas) - 1)
    assert "".join(delta["content"] or "" for delta in deltas) == "Let me see."
    calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert calls[0]["function"] == {"name": "weather"}
    arguments = "".join(call["function"].get("arguments", "") for call in calls)
    assert orjson.loads(arguments) == {"city": "Rome"}
    assert frames[-1] == ("", None)
    assert frames[-2][1]["usage"]["completion_tokens"] == 20


def test_answer_that_is_an_error() -> None:
    with pytest.raises(UpstreamError):
        CONVERSION.response({"type": "error", "error": {"message": "x"}}, context())


ERRORS: Final[dict[str, tuple[int, bytes, str, str]]] = {
    "anthropic's": (
        429,
        b'{"type":"error","error":{"type":"rate_limit_error","message":"slow"}}',
        "rate_limit_error",
        "slow",
    ),
    "overloaded": (
        529,
        b'{"type":"error","error":{"type":"overloaded_error","message":"busy"}}',
        "overloaded_error",
        "busy",
    ),
    "html": (502, b"<html>", "api_error", "the provider answered with status 502"),
    "a string": (404, b'{"error":"no such model"}', "not_found_error", "no such model"),
    "google's list": (400, b'[{"error":{"message":"bad"}}]', "invalid_request_error", "bad"),
    "empty": (401, b"", "authentication_error", "the provider answered with status 401"),
}


@pytest.mark.parametrize(("status", "body", "kind", "message"), ERRORS.values(), ids=ERRORS)
def test_error(status: int, body: bytes, kind: str, message: str) -> None:
    error = CONVERSION.error(status, body, context())["error"]
    assert (error["type"], error["message"]) == (kind, message)
