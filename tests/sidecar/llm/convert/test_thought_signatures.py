"""Gemini behind Google's imitation of OpenAI: thought signatures, calls that share a number,
efforts."""

from __future__ import annotations

from typing import Any, Final

import orjson
import pytest

from sidecar.llm.convert import (
    completions_to_converse,
    completions_to_gemini,
    completions_to_messages,
    completions_to_responses,
    messages_to_completions,
    messages_to_converse,
    messages_to_responses,
    responses_to_completions,
    responses_to_converse,
    responses_to_messages,
)
from sidecar.llm.convert.base import Conversion
from tests.sidecar.llm.convert.calls import context, of_type, stream, text_of

Json = dict[str, Any]
GOOGLE: Final = {"google": {"thought_signature": "S+/="}}
SIGNED: Final = "c1__thought__S+/="
BODIES: Final[dict[str, Json]] = {
    "completions": {
        "messages": [
            {
                "role": "assistant",
                "tool_calls": [
                    {"id": SIGNED, "type": "function", "function": {"name": "f", "arguments": ""}}
                ],
            },
            {"role": "tool", "tool_call_id": SIGNED, "content": "x"},
        ]
    },
    "messages": {
        "max_tokens": 99,
        "messages": [
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": SIGNED, "name": "f", "input": {}}],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": SIGNED, "content": "x"}],
            },
        ],
    },
    "responses": {
        "input": [
            {"type": "function_call", "call_id": SIGNED, "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": SIGNED, "output": "x"},
        ]
    },
}
"""One call and its result, as each client returns what Gemini called."""
ELSEWHERE: Final[dict[str, tuple[str, Conversion]]] = {
    "C-M": ("completions", completions_to_messages.CONVERSION),
    "C-Conv": ("completions", completions_to_converse.CONVERSION),
    "C-R": ("completions", completions_to_responses.CONVERSION),
    "M-C": ("messages", messages_to_completions.CONVERSION),
    "M-R": ("messages", messages_to_responses.CONVERSION),
    "M-Conv": ("messages", messages_to_converse.CONVERSION),
    "R-C": ("responses", responses_to_completions.CONVERSION),
    "R-M": ("responses", responses_to_messages.CONVERSION),
    "R-Conv": ("responses", responses_to_converse.CONVERSION),
}
IMITATED: Final = {
    "messages": messages_to_completions.CONVERSION,
    "responses": responses_to_completions.CONVERSION,
}
"""The pairs that reach Gemini through Google's imitation of OpenAI."""


@pytest.mark.parametrize(("client", "conversion"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_other_providers_get_the_id_alone(client: str, conversion: Conversion) -> None:
    text = text_of(conversion.request(BODIES[client], context("other")))
    assert text.count('"c1"') == 2
    assert "S+/=" not in text


@pytest.mark.parametrize("pair", ["C-M", "C-Conv", "R-M", "R-Conv", "M-Conv"])
def test_claude_gets_ids_of_its_own_alphabet(pair: str) -> None:
    client, conversion = ELSEWHERE[pair]
    body = orjson.loads(text_of(BODIES[client]).replace(SIGNED, "functions.f:0"))
    assert text_of(conversion.request(body, context("other"))).count('"functions_f_0"') == 2


@pytest.mark.parametrize("client", IMITATED)
def test_the_imitation_of_openai_gets_it_beside_the_call(client: str) -> None:
    body = IMITATED[client].request(BODIES[client], context("google/gemini-3-pro"))
    call = body["messages"][0]["tool_calls"][0]
    assert (call["id"], call["extra_content"]) == ("c1", GOOGLE)
    assert body["messages"][1]["tool_call_id"] == "c1"


def test_a_call_that_another_model_made() -> None:
    for model, is_told in (("gemini-2.5-pro", False), ("gemini-3-pro", True)):
        made = BODIES["completions"]["messages"][0]["tool_calls"][0] | {"id": "c1"}
        message = {"role": "assistant", "tool_calls": [made, made | {"id": "c2"}]}
        out = completions_to_gemini.CONVERSION.request({"messages": [message]}, context(model))
        parts = out["contents"][0]["parts"]
        assert ["thoughtSignature" in part for part in parts] == [is_told, False]


def test_a_signature_beside_the_clients_call() -> None:
    made = BODIES["completions"]["messages"][0]["tool_calls"][0]
    message = {"role": "assistant", "tool_calls": [made | {"id": "c1", "extra_content": GOOGLE}]}
    out = completions_to_gemini.CONVERSION.request({"messages": [message]}, context("gemini-3"))
    assert out["contents"][0]["parts"][0]["thoughtSignature"] == "S+/="


def _call(identity: str, arguments: str, **fields: Any) -> Json:
    function = {"name": "f", "arguments": arguments}
    return {"id": identity, "type": "function", "function": function, **fields}


def _answer(calls: list[Json]) -> Json:
    message = {"role": "assistant", "tool_calls": calls}
    return {"id": "a", "model": "m", "choices": [{"message": message, "finish_reason": "stop"}]}


def test_answers_carry_it_in_the_id() -> None:
    body = _answer([_call("c1", "{}", extra_content=GOOGLE), _call("c2", "{}")])
    message = IMITATED["messages"].response(body, context())
    assert [block["id"] for block in message["content"]] == [SIGNED, "c2"]
    response = IMITATED["responses"].response(body, context())
    assert [item["call_id"] for item in response["output"]] == [SIGNED, "c2"]


CHUNKS: Final[list[Json | None]] = [
    {
        "id": "a",
        "model": "m",
        "choices": [{"index": 0, "delta": {"tool_calls": [call | {"index": 0}]}}],
    }
    for call in (_call("c1", '{"a":1}', extra_content=GOOGLE), _call("c2", '{"a":2}'))
]
END: Final[list[Json | None]] = [
    {"id": "a", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {}},
    None,
]


def test_calls_that_share_a_number_are_two_blocks() -> None:
    frames = stream(IMITATED["messages"], CHUNKS + END)
    starts = of_type(frames, "content_block_start")
    assert [(s["index"], s["content_block"]["id"]) for s in starts] == [(0, SIGNED), (1, "c2")]
    deltas = of_type(frames, "content_block_delta")
    told = [(d["index"], d["delta"]["partial_json"]) for d in deltas]
    assert told == [(0, '{"a":1}'), (1, '{"a":2}')]
    assert [s["index"] for s in of_type(frames, "content_block_stop")] == [0, 1]


def test_calls_that_share_a_number_are_two_items() -> None:
    frames = stream(IMITATED["responses"], CHUNKS + END)
    output = of_type(frames, "response.completed")[0]["response"]["output"]
    told = [(item["call_id"], item["arguments"]) for item in output]
    assert told == [(SIGNED, '{"a":1}'), ("c2", '{"a":2}')]


def test_an_id_that_is_repeated_is_the_same_call() -> None:
    chunks: list[Json | None] = [CHUNKS[0], CHUNKS[0]]
    frames = stream(IMITATED["messages"], chunks + END)
    assert len(of_type(frames, "content_block_start")) == 1


EFFORTS: Final = {
    ("gemini-2.5-pro", "max"): "high",
    ("google/gemini-3-pro", "none"): "minimal",
    ("gemini-2.5-flash", "none"): "none",
    ("gemini-2.5-flash", "low"): "low",
    ("gpt-5.2", "max"): "max",
}


@pytest.mark.parametrize(("model", "effort"), EFFORTS)
def test_efforts_are_those_that_gemini_knows(model: str, effort: str) -> None:
    body = {"input": "Hi", "reasoning": {"effort": effort}}
    out = IMITATED["responses"].request(body, context(model))
    assert out["reasoning_effort"] == EFFORTS[model, effort]


@pytest.mark.parametrize(
    "extra", [[], "x", {"google": []}, {"google": {"thought_signature": 5}}, {"other": 1}]
)
def test_extra_content_of_others(extra: object) -> None:
    function = {"name": "f", "arguments": "{}"}
    call = {"id": "a", "type": "function", "function": function, "extra_content": extra}
    choice = {"index": 0, "finish_reason": "tool_calls", "message": {"tool_calls": [call]}}
    answer = messages_to_completions.CONVERSION.response(
        {"id": "x", "choices": [choice]}, context()
    )
    assert answer["content"][0]["id"] == "a"
