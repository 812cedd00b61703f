"""OpenAI responses over a chat completions provider."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.errors import UpstreamError
from sidecar.llm.convert import responses_events
from sidecar.llm.convert.responses_to_completions import CONVERSION
from tests.sidecar.llm.convert import samples
from tests.sidecar.llm.convert.calls import context, of_type, stream

Json = dict[str, Any]


TOOLS: Final = [{"type": "function", "name": "f", "parameters": {}}]


def request(body: Json) -> Json:
    return CONVERSION.request({"input": "Hi"} | body, context())


FIELDS: Final[dict[str, tuple[Json, str, Any]]] = {
    "text": (
        {},
        "messages",
        [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}],
    ),
    "instructions": (
        {"instructions": "A", "input": []},
        "messages",
        [{"role": "developer", "content": "A"}],
    ),
    "typed system stays": (
        {"input": [{"type": "message", "role": "system", "content": "A"}]},
        "messages",
        [{"role": "system", "content": "A"}],
    ),
    "untyped system": (
        {"input": [{"role": "system", "content": "A"}]},
        "messages",
        [{"role": "developer", "content": "A"}],
    ),
    "limit": ({"max_output_tokens": 5}, "max_completion_tokens", 5),
    "effort": ({"reasoning": {"effort": "low"}}, "reasoning_effort", "low"),
    "required": ({"tools": TOOLS, "tool_choice": "required"}, "tool_choice", "required"),
    "choice of no tools": (
        {"tools": [{"type": "web_search"}], "tool_choice": "auto"},
        "tool_choice",
        None,
    ),
    "one call of no tools": ({"parallel_tool_calls": False}, "parallel_tool_calls", None),
    "refusal in the place of a text": (
        {"input": [{"role": "assistant", "content": [{"type": "refusal", "text": "No."}]}]},
        "messages",
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}],
    ),
    "hosted choice": ({"tool_choice": {"type": "web_search"}}, "tool_choice", None),
    "json object": (
        {"text": {"format": {"type": "json_object"}}},
        "response_format",
        {"type": "json_object"},
    ),
    "plain text": ({"text": {"format": {"type": "text"}}}, "response_format", None),
    "state": ({"previous_response_id": "r", "store": True}, "previous_response_id", None),
}


@pytest.mark.parametrize(("body", "name", "wanted"), FIELDS.values(), ids=FIELDS)
def test_field(body: Json, name: str, wanted: Any) -> None:
    assert request(body).get(name) == wanted


def test_whole_conversation() -> None:
    call = context()
    out = CONVERSION.request(samples.RESPONSES_REQUEST, call)
    assert [message["role"] for message in out["messages"]] == [
        "developer",
        "developer",
        "user",
        "assistant",
        "assistant",
        "tool",
        "tool",
        "user",
    ]
    parts = out["messages"][2]["content"]
    assert [part["type"] for part in parts] == ["text", "image_url", "file"]
    assert parts[1]["image_url"] == {"url": samples.PNG, "detail": "low"}
    calls = out["messages"][4]["tool_calls"]
    assert [each["id"] for each in calls] == ["call_1", "call_2"]
    assert calls[1]["function"] == {"name": "run", "arguments": '{"input":"ls"}'}
    assert [tool["function"]["name"] for tool in out["tools"]] == ["weather", "run"]
    assert call.custom_tools == {"run"}
    for name in ("previous_response_id", "store", "input item reasoning", "tool web_search"):
        assert name in call.dropped


def test_stateless_client_loses_nothing_but_hints() -> None:
    call = context()
    CONVERSION.request({"input": "Hi", "store": False, "include": []}, call)
    assert call.dropped == []


ENDS: Final[dict[str, tuple[str, str, Json | None]]] = {
    "stop": ("stop", "completed", None),
    "length": ("length", "incomplete", {"reason": "max_tokens"}),
    "filter": ("content_filter", "incomplete", {"reason": "content_filter"}),
}


@pytest.mark.parametrize(("finish", "status", "details"), ENDS.values(), ids=ENDS)
def test_status_is_the_same_whole_and_streamed(
    finish: str, status: str, details: Json | None
) -> None:
    choice = samples.COMPLETION["choices"][0] | {"finish_reason": finish}
    answer = CONVERSION.response(samples.COMPLETION | {"choices": [choice]}, context())
    frames = stream(CONVERSION, [samples.chunk({"content": "a"}), samples.chunk({}, finish), None])
    name, last = frames[-1]
    assert name == f"response.{status}"
    for response in (answer, last["response"]):
        assert response["status"] == status
        assert response.get("incomplete_details") == details
        assert all(item["status"] == status for item in response["output"])


def test_free_form_tool_comes_back_as_one() -> None:
    message = {
        "tool_calls": [{"id": "c", "function": {"name": "run", "arguments": '{"input":"ls"}'}}]
    }
    body = {"choices": [{"message": message, "finish_reason": "tool_calls"}]}
    call = context(custom_tools=frozenset(("run",)))
    item = CONVERSION.response(body, call)["output"][0]
    assert (item["type"], item["input"], item["call_id"]) == ("custom_tool_call", "ls", "c")
    pieces = ['{"inp', 'ut":"l', 's"}']
    chunks = [
        samples.chunk(samples.call_delta(0, id="c", function={"name": "run", "arguments": piece}))
        for piece in pieces
    ]
    frames = stream(CONVERSION, [*chunks, samples.chunk({}, "tool_calls"), None], call)
    assert [e["delta"] for e in of_type(frames, "response.custom_tool_call_input.delta")] == ["ls"]
    assert of_type(frames, "response.custom_tool_call_input.done")[0]["input"] == "ls"
    assert not of_type(frames, "response.function_call_arguments.delta")
    assert frames[-1][1]["response"]["output"][0]["input"] == "ls"


def test_stream_events_agree_with_each_other() -> None:
    frames = stream(CONVERSION, samples.COMPLETION_CHUNKS)
    assert all(name == data["type"] for name, data in frames)
    assert [data["sequence_number"] for _, data in frames] == list(range(1, len(frames) + 1))
    added = {e["output_index"] for e in of_type(frames, "response.output_item.added")}
    done = {e["output_index"]: e["item"] for e in of_type(frames, "response.output_item.done")}
    assert added == set(done) == {0, 1, 2}
    final = frames[-1][1]["response"]
    assert final["output"] == [done[index] for index in sorted(done)]
    assert final["output"][0]["content"][0]["text"] == "Let me see."
    assert final["output"][1]["arguments"] == '{"city":"Rome"}'
    assert of_type(frames, "response.output_text.done")[0]["text"] == "Let me see."
    assert final["usage"]["input_tokens_details"] == {
        "cached_tokens": 30,
        "cache_write_tokens": 10,
    }


def test_text_and_refusal_are_parts_of_one_message() -> None:
    chunks = [samples.chunk({"content": "A"}), samples.chunk({"refusal": "No"})]
    frames = stream(CONVERSION, [*chunks, samples.chunk({}, "stop"), None])
    (item,) = frames[-1][1]["response"]["output"]
    assert [part["type"] for part in item["content"]] == ["output_text", "refusal"]
    assert [e["content_index"] for e in of_type(frames, "response.content_part.added")] == [0, 1]


def test_calls_without_text_make_no_message() -> None:
    delta = samples.call_delta(0, id="c", function={"name": "f", "arguments": ""})
    chunks = [samples.chunk({"role": "assistant", "content": None} | delta)]
    frames = stream(CONVERSION, [*chunks, samples.chunk({}, "tool_calls"), None])
    (item,) = frames[-1][1]["response"]["output"]
    assert (item["type"], item["arguments"]) == ("function_call", "{}")


def test_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(responses_events, "MAX_ANSWER_CHARS", 10)
    with pytest.raises(UpstreamError):
        stream(CONVERSION, [samples.chunk({"content": "a" * 6})] * 2)


def test_error_keeps_code_and_param() -> None:
    body = b'{"error":{"message":"m","type":"invalid_request_error","code":"c","param":"input"}}'
    assert CONVERSION.error(400, body, context()) == {
        "error": {"message": "m", "type": "invalid_request_error", "code": "c", "param": "input"}
    }
