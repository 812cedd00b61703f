"""OpenAI responses over Bedrock."""

from __future__ import annotations

from typing import Any, Final

import pytest

from sidecar.llm.convert.responses_to_converse import CONVERSION
from tests.sidecar.llm.convert import cloud_samples as samples
from tests.sidecar.llm.convert.calls import Frame, context, decoded, of_type

Json = dict[str, Any]


def request(body: Json, **fields: Any) -> Json:
    return CONVERSION.request({"input": "Hi"} | body, context(**fields))


def test_everything() -> None:
    call = context("anthropic.claude-x")
    out = CONVERSION.request(samples.RESPONSES_REQUEST, call)
    assert out["system"] == [{"text": "Be brief."}, {"text": "Be kind."}]
    assert [message["role"] for message in out["messages"]] == ["user", "assistant", "user"]
    kinds = [next(iter(block)) for message in out["messages"] for block in message["content"]]
    assert kinds == [
        "text",
        "image",
        "document",
        "reasoningContent",
        "text",
        "toolUse",
        "toolUse",
        "toolResult",
        "toolResult",
        "text",
    ]
    uses = [b["toolUse"] for b in out["messages"][1]["content"] if "toolUse" in b]
    assert [use["input"] for use in uses] == [{"city": "Rome"}, {"input": "ls"}]
    assert out["toolConfig"]["toolChoice"] == {"tool": {"name": "weather"}}
    assert "reasoning effort in a tool round" in call.dropped
    assert [tool["toolSpec"]["name"] for tool in out["toolConfig"]["tools"]] == ["weather", "run"]
    assert call.custom_tools == {"run"}


BUDGETS: Final[dict[str, tuple[Json, int | None]]] = {
    "effort": ({"reasoning": {"effort": "low"}}, 1024),
    "vendor's budget": ({"vendor_extensions": {"thinking_budget_tokens": 3000}}, 3000),
    "both": (
        {"reasoning": {"effort": "low"}, "vendor_extensions": {"thinking_budget_tokens": 3000}},
        3000,
    ),
    "neither": ({}, None),
}


@pytest.mark.parametrize(("body", "budget"), BUDGETS.values(), ids=BUDGETS)
def test_thinking(body: Json, budget: int | None) -> None:
    thinking = request(body).get("additionalModelRequestFields", {}).get("thinking", {})
    assert thinking.get("budget_tokens") == budget


def test_reasoning_of_another_provider_is_left_out() -> None:
    item = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    assert request({"input": [item]})["messages"] == []


def test_reasoning_comes_back_as_it_went() -> None:
    out = CONVERSION.response(samples.CONVERSE, context())
    reasoning = [item for item in out["output"] if item["type"] == "reasoning"]
    content = request({"input": reasoning})["messages"][0]["content"]
    assert content == samples.CONVERSE["output"]["message"]["content"][:2]


def test_answer() -> None:
    out = CONVERSION.response(samples.CONVERSE, context("m-1"))
    assert [item["type"] for item in out["output"]] == [
        "reasoning",
        "reasoning",
        "message",
        "function_call",
    ]
    assert [part["text"] for part in out["output"][2]["content"]] == ["Let me see.", "As said."]
    assert out["usage"]["input_tokens_details"] == {"cached_tokens": 30, "cache_write_tokens": 10}
    assert out["usage"]["total_tokens"] == 120


def test_a_free_form_call_is_unpacked() -> None:
    use = {"toolUse": {"toolUseId": "t", "name": "run", "input": {"input": "ls"}}}
    body = {"output": {"message": {"content": [use]}}}
    out = CONVERSION.response(body, context(custom_tools=frozenset({"run"})))
    assert out["output"][0]["type"] == "custom_tool_call"
    assert out["output"][0]["input"] == "ls"


STATUS: Final = {
    "end_turn": ("completed", None),
    "max_tokens": ("incomplete", "max_tokens"),
    "guardrail_intervened": ("incomplete", "content_filter"),
}


@pytest.mark.parametrize(("reason", "wanted"), STATUS.items())
def test_status(reason: str, wanted: tuple[str, str | None]) -> None:
    body = {"output": {"message": {"content": [{"text": "a"}]}}, "stopReason": reason}
    out = CONVERSION.response(body, context())
    assert (out["status"], out.get("incomplete_details", {}).get("reason")) == wanted
    last = run([samples.delta(0, text="a"), ("messageStop", {"stopReason": reason})])[-1][1]
    assert last["type"] == f"response.{wanted[0]}"
    assert last["response"].get("incomplete_details", {}).get("reason") == wanted[1]


def run(events: list[tuple[str, Json]]) -> list[Frame]:
    converter = CONVERSION.stream(context())
    frames = [frame for event in samples.events(events) for frame in converter.feed(event)]
    return decoded(frames + converter.finish())


def test_stream_ends_with_what_a_buffered_answer_says() -> None:
    frames = run(samples.CONVERSE_EVENTS)
    output = frames[-1][1]["response"]["output"]
    assert [item["type"] for item in output] == [
        "reasoning",
        "reasoning",
        "message",
        "function_call",
        "function_call",
    ]
    assert output[0]["encrypted_content"] == "anthropic-signature:sig"
    assert output[1]["encrypted_content"] == "anthropic-redacted:c2VjcmV0"
    assert output[2]["content"][0]["text"] == "Let me see."
    assert [item["arguments"] for item in output[3:]] == ['{"city":"Rome"}', "{}"]
    added = [item["output_index"] for item in of_type(frames, "response.output_item.added")]
    done = [item["output_index"] for item in of_type(frames, "response.output_item.done")]
    assert added == done == [0, 1, 2, 3, 4]
    numbers = [data["sequence_number"] for _, data in frames]
    assert numbers == list(range(1, len(frames) + 1))
