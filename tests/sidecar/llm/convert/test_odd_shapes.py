"""Shapes that clients and providers send now and then, in the pairs where they once went wrong."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import UpstreamError
from sidecar.llm.convert import (
    completions_to_converse,
    completions_to_gemini,
    completions_to_messages,
    completions_to_responses,
    messages_to_converse,
    messages_to_responses,
)
from sidecar.llm.convert.base import Conversion
from tests.sidecar.llm.convert.calls import context, stream

Json = dict[str, Any]
HEAD: Json = {"id": "r", "model": "m", "status": "in_progress", "output": []}


def call_item(arguments: str, number: int, **more: Any) -> Json:
    head = {"type": "function_call", "id": f"fc{number}", "call_id": f"c{number}", "name": "f"}
    return {**head, "arguments": arguments, **more}


def added(index: int, item: Json) -> Json:
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index: int, item: Json) -> Json:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def test_arguments_that_come_with_the_end_of_a_call() -> None:
    """Not every server of responses streams them."""
    custom = {"type": "custom_tool_call", "id": "x", "call_id": "c4", "name": "raw", "input": ""}
    events: list[Json] = [
        {"type": "response.created", "response": HEAD},
        # In deltas, and repeated at the end.
        added(0, call_item("", 0)),
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": '{"a":'},
        {"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "1}"},
        done(0, call_item('{"a":1}', 0)),
        # At the beginning, at the end, and without a beginning.
        added(1, call_item('{"b":1}', 1)),
        done(1, call_item('{"b":1}', 1)),
        added(2, call_item("", 2)),
        done(2, call_item('{"c":1}', 2)),
        done(3, call_item('{"d":1}', 3)),
        added(4, custom),
        done(4, {**custom, "input": "text"}),
        {"type": "response.completed", "response": {**HEAD, "status": "completed"}},
    ]
    seen: dict[int, str] = {}
    for _, frame in stream(completions_to_responses.CONVERSION, events):
        for choice in (frame or {}).get("choices", ()):
            for call in choice["delta"].get("tool_calls", ()):
                function = call.get("function") or call.get("custom")
                text = function.get("arguments") or function.get("input") or ""
                seen[call["index"]] = seen.get(call["index"], "") + text
    assert seen == {0: '{"a":1}', 1: '{"b":1}', 2: '{"c":1}', 3: '{"d":1}', 4: "text"}


def test_pictures_of_gemini() -> None:
    data = {"mimeType": "image/png", "data": "aGk="}
    parts = [{"text": "Here: "}, {"inlineData": data}, {"inlineData": data, "thought": True}]
    body = {"candidates": [{"index": 0, "content": {"parts": parts}, "finishReason": "STOP"}]}
    url = {"url": "data:image/png;base64,aGk="}
    wanted = [{"index": 0, "type": "image_url", "image_url": url}]
    answer = completions_to_gemini.CONVERSION.response(body, context())
    message = answer["choices"][0]["message"]
    assert message == {"role": "assistant", "content": "Here: ", "images": wanted}
    (_, frame), *_ = stream(completions_to_gemini.CONVERSION, [body])
    assert frame is not None
    assert frame["choices"][0]["delta"]["images"] == wanted
    # Each in an event of its own: clients put deltas together by their index.
    first = {"candidates": [{"content": {"parts": [parts[1]]}}]}
    frames = [frame for _, frame in stream(completions_to_gemini.CONVERSION, [first, body])]
    drawn = [frame["choices"][0]["delta"]["images"] for frame in frames[:2] if frame]
    assert drawn == [wanted, [{**wanted[0], "index": 1}]]


@pytest.mark.parametrize("made", [completions_to_responses, messages_to_responses])
def test_a_response_that_failed_says_why(made: Any) -> None:
    body = {**HEAD, "status": "failed", "error": {"code": "server_error", "message": "Too hot."}}
    with pytest.raises(UpstreamError, match=r"Too hot\.") as caught:
        made.CONVERSION.response(body, context())
    assert caught.value.status == 502
    with pytest.raises(UpstreamError, match="no complete response"):
        made.CONVERSION.response(HEAD, context())


@pytest.mark.parametrize("made", [completions_to_converse, messages_to_converse])
def test_a_model_that_failed_is_no_fault_of_the_client(made: Any) -> None:
    """Bedrock answers 424 then."""
    assert made.CONVERSION.error(424, b'{"message":"x"}', context())["error"]["type"] == "api_error"
    exception = {"type": "modelStreamErrorException", "message": "x"}
    (_, frame), *_ = stream(made.CONVERSION, [exception])
    assert frame is not None
    assert frame["error"]["type"] == "api_error"


@pytest.mark.parametrize(
    ("made", "key"),
    [
        (completions_to_messages, "tool_choice"),
        (completions_to_converse, "toolConfig"),
        (completions_to_gemini, "toolConfig"),
    ],
)
@pytest.mark.parametrize("tools", [None, []])
def test_a_choice_among_no_tools(made: Any, key: str, tools: list[Json] | None) -> None:
    """Providers refuse it, where OpenAI's own client libraries send it."""
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "tools": tools,
        "tool_choice": "auto",
        "parallel_tool_calls": False,
    }
    assert key not in made.CONVERSION.request(body, context())


UNTOLD: dict[str, Conversion] = {
    "messages": completions_to_messages.CONVERSION,
    "converse": completions_to_converse.CONVERSION,
    "gemini": completions_to_gemini.CONVERSION,
}


@pytest.mark.parametrize("pair", UNTOLD)
def test_what_is_left_out_of_chat_completions_is_told_alike(pair: str) -> None:
    body = {
        "messages": [{"role": "user", "content": "x"}],
        "metadata": {"a": "b"},
        "store": True,
        "verbosity": "low",
        "logprobs": True,
    }
    call = context()
    UNTOLD[pair].request(body, call)
    assert {"metadata", "store", "verbosity", "logprobs"} <= set(call.dropped)
    call = context()
    UNTOLD[pair].request({**body, **dict.fromkeys(list(body)[1:])}, call)
    assert call.dropped == []
