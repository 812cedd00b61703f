"""Answers that are a little other than their makers' own."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.llm.convert import (
    completions_to_messages,
    messages_to_completions,
    messages_to_converse,
    provider_error,
    responses_to_messages,
)
from tests.sidecar.llm.convert.calls import context, of_type, stream

Json = dict[str, Any]
STARTED: Final[list[Json | None]] = [
    {"type": "message_start", "message": {"id": "m", "model": "c", "usage": {}}},
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "tool_use", "id": "t", "name": "f", "input": {"a": 1}},
    },
    {"type": "content_block_stop", "index": 0},
    {"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {}},
    {"type": "message_stop"},
]
"""As providers that imitate Anthropic stream a call: its input is whole from the beginning."""


def test_an_input_that_is_whole_from_the_beginning() -> None:
    frames = stream(completions_to_messages.CONVERSION, STARTED)
    choices = [data["choices"][0] for _, data in frames if data is not None]
    calls = [call for choice in choices for call in choice["delta"].get("tool_calls", ())]
    assert "".join(call["function"].get("arguments", "") for call in calls) == '{"a":1}'
    frames = stream(responses_to_messages.CONVERSION, STARTED)
    output = of_type(frames, "response.completed")[0]["response"]["output"]
    assert output[0]["arguments"] == '{"a":1}'


@pytest.mark.parametrize("is_stopped", [True, False])
def test_an_input_that_is_whole_and_comes_again_in_pieces(*, is_stopped: bool) -> None:
    delta = {"type": "input_json_delta", "partial_json": '{"a":1}'}
    pieces: Json = {"type": "content_block_delta", "index": 0, "delta": delta}
    events = [*STARTED[:2], pieces, *STARTED[2 if is_stopped else 3 :]]
    frames = stream(responses_to_messages.CONVERSION, events)
    output = of_type(frames, "response.completed")[0]["response"]["output"]
    assert output[0]["arguments"] == '{"a":1}'
    # The end of the block may lack.
    frames = stream(responses_to_messages.CONVERSION, [*STARTED[:2], *STARTED[3:]])
    output = of_type(frames, "response.completed")[0]["response"]["output"]
    assert output[0]["arguments"] == '{"a":1}'


def test_a_stream_of_nothing_is_no_message() -> None:
    frames = stream(messages_to_completions.CONVERSION, [None])
    assert [name for name, _ in frames] == ["error"]


@pytest.mark.parametrize("finish", ["stop", "content_filter"])
def test_a_refusal_is_told(finish: str) -> None:
    message = {"role": "assistant", "content": None, "refusal": "No."}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    body = {"id": "x", "model": "m", "choices": [choice]}
    assert messages_to_completions.CONVERSION.response(body, context())["stop_reason"] == "refusal"
    chunk = {"id": "x", "choices": [{"index": 0, "delta": {"refusal": "No."}}]}
    end = {"id": "x", "choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
    frames = stream(messages_to_completions.CONVERSION, [chunk, end, None])
    assert of_type(frames, "message_delta")[0]["delta"]["stop_reason"] == "refusal"


def test_blocks_without_a_counterpart_are_left_out() -> None:
    content = [{"image": {}}, {"text": "a"}]
    body = {"output": {"message": {"content": content}}, "stopReason": "end_turn", "usage": {}}
    out = messages_to_converse.CONVERSION.response(body, context())
    assert out["content"] == [{"type": "text", "text": "a"}]


def test_what_is_wrong_is_told_of_lists_too() -> None:
    body = b'{"detail": [{"loc": ["body", "a"], "msg": "Field required"}, {"msg": "b"}, 1]}'
    assert provider_error.of_body(body).message == "Field required; b"
    body = b'{"message": {"detail": [{"msg": "Extra inputs are not permitted"}]}}'
    assert provider_error.of_body(body).message == "Extra inputs are not permitted"
