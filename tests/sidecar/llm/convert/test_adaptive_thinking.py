"""Models of Claude's that take no budget think as much as they like; the others get a budget."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.llm.convert import (
    completions_to_converse,
    completions_to_messages,
    messages_to_converse,
    responses_to_converse,
    responses_to_messages,
)
from sidecar.llm.convert.base import Context, Conversion
from sidecar.llm.convert.claude_models import is_adaptive_only

Json = dict[str, Any]
ADAPTIVE = (
    "claude-opus-4-7",
    "claude-opus-4-7@20260416",
    "anthropic/claude-opus-4.7",
    "us.anthropic.claude-opus-4-8-v1:0",
    "claude-opus-5",
    "claude-sonnet-5-20270101",
    "claude-haiku-4-10",
    "anthropic.claude-mythos-preview",
    "claude-fable-5",
)
BUDGETED = (
    "claude-opus-4-6",
    "claude-sonnet-4-5-20250929",
    "claude-opus-4-20250514",
    "claude-sonnet-4@20250514",
    "anthropic.claude-3-7-sonnet-20250219-v1:0",
    "claude-3-5-haiku-latest",
    "claude-2.1",
    "gpt-5",
    "my-claude",
)
TOOL = {"type": "function", "function": {"name": "get", "parameters": {"type": "object"}}}
FORCED = {"tools": [TOOL], "tool_choice": "required"}
ROUND = [
    {"role": "user", "content": "x"},
    {
        "role": "assistant",
        "tool_calls": [
            {"id": "c", "type": "function", "function": {"name": "get", "arguments": "{}"}}
        ],
    },
    {"role": "tool", "tool_call_id": "c", "content": "y"},
]


def sent(conversion: Conversion, model: str, body: Json) -> tuple[Json, Context]:
    """What goes to the provider."""
    context = Context(model, model, is_streaming=False, now_seconds=1, new_id=lambda p: p + "1")
    return conversion.request(body, context), context


def chat(**more: Any) -> Json:
    return {"model": "m", "messages": [{"role": "user", "content": "x"}], **more}


@pytest.mark.parametrize("model", ADAPTIVE)
def test_a_model_that_decides_itself(model: str) -> None:
    assert is_adaptive_only(model)


@pytest.mark.parametrize("model", BUDGETED)
def test_a_model_that_takes_a_budget(model: str) -> None:
    assert not is_adaptive_only(model)


@pytest.mark.parametrize(
    ("effort", "wanted"),
    [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("high", "high"), ("max", "max")],
)
def test_efforts(effort: str, wanted: str) -> None:
    body = chat(reasoning_effort=effort, max_tokens=50, temperature=0.2)
    made, context = sent(completions_to_messages.CONVERSION, "claude-opus-4-7", body)
    assert made["thinking"] == {"type": "adaptive", "display": "summarized"}
    assert made["output_config"] == {"effort": wanted}
    assert made["max_tokens"] == 50
    assert "temperature" not in made
    assert context.dropped == ["temperature"]


def test_no_effort_is_no_thinking() -> None:
    for more in ({}, {"reasoning_effort": "none"}):
        made, _ = sent(completions_to_messages.CONVERSION, "claude-opus-4-7", chat(**more))
        assert not {"thinking", "output_config"} & made.keys()


def test_a_forced_tool_is_not_thought_about() -> None:
    body = chat(reasoning_effort="high", **FORCED)
    made, context = sent(completions_to_messages.CONVERSION, "claude-opus-4-7", body)
    assert not {"thinking", "output_config"} & made.keys()
    assert context.dropped == ["reasoning effort in a tool round"]


@pytest.mark.parametrize(
    "conversion", [completions_to_messages.CONVERSION, completions_to_converse.CONVERSION]
)
def test_a_tool_round_without_thinking_goes_on_thinking(conversion: Conversion) -> None:
    body = chat(reasoning_effort="high", tools=[TOOL]) | {"messages": ROUND}
    made, context = sent(conversion, "anthropic.claude-opus-4-7", body)
    fields = made.get("additionalModelRequestFields", made)
    assert fields["thinking"]["type"] == "adaptive"
    assert context.dropped == []
    made, context = sent(conversion, "anthropic.claude-opus-4-6", body)
    assert "thinking" not in made.get("additionalModelRequestFields", made)
    assert context.dropped == ["reasoning effort in a tool round"]


def test_a_schema_and_an_effort_stand_side_by_side() -> None:
    form = {"type": "json_schema", "name": "n", "schema": {"type": "object"}}
    body = {
        "model": "m",
        "input": "x",
        "reasoning": {"effort": "xhigh"},
        "text": {"format": form},
    }
    made, _ = sent(responses_to_messages.CONVERSION, "claude-opus-4-7", body)
    assert made["output_config"]["effort"] == "xhigh"
    assert made["output_config"]["format"]["type"] == "json_schema"


@pytest.mark.parametrize(
    ("conversion", "body"),
    [
        (completions_to_converse.CONVERSION, chat(reasoning_effort="xhigh", top_p=0.3)),
        (
            responses_to_converse.CONVERSION,
            {"model": "m", "input": "x", "reasoning": {"effort": "xhigh"}, "top_p": 0.3},
        ),
    ],
)
def test_bedrock(conversion: Conversion, body: Json) -> None:
    made, context = sent(conversion, "anthropic.claude-opus-4-7", body)
    fields = made["additionalModelRequestFields"]
    assert fields == {"thinking": {"type": "adaptive"}, "output_config": {"effort": "xhigh"}}
    # Thinking counts as output, so there is room for both.
    assert made["inferenceConfig"] == {"maxTokens": 8192 + 4096}
    assert context.dropped == ["top_p"]


@pytest.mark.parametrize(
    ("conversion", "body"),
    [
        (completions_to_messages.CONVERSION, chat()),
        (completions_to_converse.CONVERSION, chat()),
        (messages_to_converse.CONVERSION, chat(max_tokens=9, top_k=3)),
        (responses_to_messages.CONVERSION, {"model": "m", "input": "x"}),
        (responses_to_converse.CONVERSION, {"model": "m", "input": "x"}),
    ],
    ids=("cm", "cc", "mc", "rm", "rc"),
)
@pytest.mark.parametrize(
    ("model", "given", "kept", "dropped"),
    [
        ("claude-opus-4-7", {"temperature": 0.2, "top_p": 0.3}, {}, ["temperature", "top_p"]),
        ("claude-opus-4-7", {"temperature": 1}, {}, []),
        (
            "claude-sonnet-4-5",
            {"temperature": 0.2, "top_p": 0.3},
            {"temperature": 0.2},
            ["top_p with temperature"],
        ),
        ("claude-sonnet-4-5", {"temperature": 1, "top_p": 0.3}, {"top_p": 0.3}, []),
        ("claude-sonnet-4-5", {"top_p": 0.3}, {"top_p": 0.3}, []),
        (
            "claude-sonnet-4-20250514",
            {"temperature": 0.2, "top_p": 0.3},
            {"temperature": 0.2, "top_p": 0.3},
            [],
        ),
    ],
)
def test_sampling(
    conversion: Conversion, body: Json, model: str, given: Json, kept: Json, dropped: list[str]
) -> None:
    made, context = sent(conversion, f"anthropic.{model}", body | given)
    fields = {**made, **made.get("inferenceConfig", {})}
    fields["top_p"] = fields.get("top_p", fields.get("topP"))
    assert {key: fields.get(key) for key in ("temperature", "top_p")} == {
        "temperature": None,
        "top_p": None,
    } | kept
    extra = ["top_k"] if "top_k" in body and model == "claude-opus-4-7" else []
    assert context.dropped == dropped + extra
