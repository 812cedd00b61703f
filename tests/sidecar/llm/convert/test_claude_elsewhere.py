"""Claude's own format where another cloud serves it: Vertex, and counting on both."""

from __future__ import annotations

import base64
import copy
from typing import Any, Final

import orjson
import pytest

from sidecar.llm.convert import count_tokens_to_bedrock, count_tokens_to_vertex, vertex_claude
from sidecar.llm.convert.base import StreamEvent
from sidecar.llm.convert.vertex_claude import adjusted
from sidecar.llm.shape import ShapeError
from tests.sidecar.llm.convert.calls import context, decoded

Json = dict[str, Any]
SCOPED: Final = {"type": "ephemeral", "ttl": "1h", "scope": "global"}
CACHED: Final = {"type": "ephemeral", "ttl": "1h"}


def body(control: Json) -> Json:
    text = {"type": "text", "text": "a", "cache_control": control}
    result = {"type": "tool_result", "tool_use_id": "1", "content": [text]}
    return {
        "system": [text],
        "messages": [{"role": "user", "content": [text, result]}],
        "tools": [{"name": "f", "input_schema": {}, "cache_control": control}],
        "cache_control": control,
        "max_tokens": 9,
    }


def test_vertex_body() -> None:
    given = body(SCOPED) | {"model": "m", "output_format": {}, "output_config": {"effort": "low"}}
    before = copy.deepcopy(given)
    wanted = body(CACHED) | {
        "output_config": {"effort": "low"},
        "anthropic_version": "vertex-2023-10-16",
    }
    assert adjusted(given) == wanted
    assert given == before


def test_what_has_no_scope_is_not_copied() -> None:
    given = body(CACHED)
    assert adjusted(given)["messages"] is given["messages"]


def test_user_data_named_scope_stays() -> None:
    use = {"type": "tool_use", "id": "1", "name": "f", "input": {"cache_control": SCOPED}}
    given = {"messages": [{"role": "assistant", "content": [use]}]}
    assert adjusted(given)["messages"][0]["content"][0] == use


def test_vertex_stream_goes_by() -> None:
    stream = vertex_claude.CONVERSION.stream(context())
    events: list[Json] = [{"type": "message_start", "message": {}}, {"type": "message_stop"}]
    for event in events:
        assert decoded(stream.feed(StreamEvent(event["type"], event))) == [(event["type"], event)]
    assert stream.finish() == []
    cut = vertex_claude.CONVERSION.stream(context())
    assert decoded(cut.finish())[0][0] == "error"


def test_vertex_error_of_google() -> None:
    told = b'[{"error":{"code":429,"message":"quota","status":"RESOURCE_EXHAUSTED"}}]'
    error = vertex_claude.CONVERSION.error(429, told, context())["error"]
    assert error == {"type": "rate_limit_error", "message": "quota"}


COUNT: Final[Json] = {
    "model": "m",
    "system": "s",
    "messages": [{"role": "user", "content": "Hi"}],
    "tools": [{"name": "f"}],
}


def test_bedrock_count() -> None:
    conversion = count_tokens_to_bedrock.CONVERSION
    out = conversion.request(COUNT, context())
    inner = orjson.loads(base64.b64decode(out["input"]["invokeModel"]["body"]))
    assert inner == {
        "messages": COUNT["messages"],
        "system": "s",
        "tools": [{"name": "f"}],
        "max_tokens": 1,
        "anthropic_version": "bedrock-2023-05-31",
    }
    assert conversion.response({"inputTokens": 7}, context()) == {"input_tokens": 7}
    error = conversion.error(400, b'{"message":"no"}', context())
    assert error == {"type": "error", "error": {"type": "invalid_request_error", "message": "no"}}


def test_bedrock_counts_with_a_limit_above_the_thinking() -> None:
    thinking = {"type": "enabled", "budget_tokens": 2048}
    body = {"messages": [{"role": "user", "content": "Hi"}], "thinking": thinking}
    out = count_tokens_to_bedrock.CONVERSION.request(body, context())
    sent = base64.b64decode(out["input"]["invokeModel"]["body"])
    assert orjson.loads(sent)["max_tokens"] == 2049


def test_vertex_count() -> None:
    conversion = count_tokens_to_vertex.CONVERSION
    out = conversion.request(COUNT, context("claude-x"))
    assert out == COUNT | {"model": "claude-x", "anthropic_version": "vertex-2023-10-16"}
    assert conversion.response({"input_tokens": 7}, context()) == {"input_tokens": 7}


@pytest.mark.parametrize("conversion", [count_tokens_to_bedrock, count_tokens_to_vertex])
def test_an_answer_without_a_count(conversion: Any) -> None:
    with pytest.raises(ShapeError):
        conversion.CONVERSION.response({"message": "no"}, context())
