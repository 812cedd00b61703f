"""Tests of sidecar.llm.chat.completions."""

from __future__ import annotations

import copy

import pytest

from sidecar.llm.chat.completions import FORMAT, touch_up
from tests.sidecar.llm.chat.bodies import COMPLETIONS, COMPLETIONS_ANSWER, Json

TOUCHED: dict[str, tuple[Json, bool, bool, Json]] = {
    "a stream asks for usage": (
        {"stream": True},
        False,
        False,
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    "no stream": ({"stream": False}, True, True, {"stream": False}),
    "other options stay": (
        {"stream": True, "stream_options": {"x": 1}},
        False,
        False,
        {"stream": True, "stream_options": {"x": 1, "include_usage": True}},
    ),
    "the client may refuse usage": (
        {"stream": True, "stream_options": {"include_usage": False}},
        False,
        False,
        {"stream": True, "stream_options": {"include_usage": False}},
    ),
    "but not where tokens are counted": (
        {"stream": True, "stream_options": {"include_usage": False}},
        False,
        True,
        {"stream": True, "stream_options": {"include_usage": True}},
    ),
    "OpenAI's name of the limit": (
        {"model": "gpt-5", "max_tokens": 5},
        True,
        False,
        {"model": "gpt-5", "max_completion_tokens": 5},
    ),
    "both names": (
        {"model": "gpt-5", "max_tokens": 5, "max_completion_tokens": 6},
        True,
        False,
        {"model": "gpt-5", "max_completion_tokens": 6},
    ),
    "another model": (
        {"model": "o3", "max_tokens": 5},
        True,
        False,
        {"model": "o3", "max_tokens": 5},
    ),
    "another provider": (
        {"model": "gpt-5", "max_tokens": 5},
        False,
        False,
        {"model": "gpt-5", "max_tokens": 5},
    ),
}


@pytest.mark.parametrize("name", TOUCHED)
def test_touch_up(name: str) -> None:
    body, is_openai, needs_usage, expected = copy.deepcopy(TOUCHED[name])
    touch_up(body, is_openai=is_openai, needs_usage=needs_usage)
    assert body == expected


def test_what_a_request_says() -> None:
    assert FORMAT.model(COMPLETIONS) == "gpt-x"
    assert FORMAT.is_streaming(COMPLETIONS)
    assert FORMAT.params(COMPLETIONS) == {"temperature": 0.5, "max_tokens": 9, "seed": 1}
    assert FORMAT.prompt(COMPLETIONS) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": ""},
        {"role": "tool", "content": "42"},
    ]


def test_texts_of_a_request() -> None:
    assert [(p.role, p.kind, p.text) for p in FORMAT.request_texts(COMPLETIONS)] == [
        ("system", "systemPrompt", "be kind"),
        ("user", "messages", "look"),
        ("assistant", "messages", "no"),
        ("assistant", "messages", "hm"),
        ("assistant", "toolInput", '{"a":1}'),
        ("assistant", "toolInput", "free"),
        ("tool", "toolOutput", "42"),
    ]


def test_texts_of_an_answer_hold_reasoning_and_every_choice() -> None:
    assert [p.text for p in FORMAT.response_texts(COMPLETIONS_ANSWER)] == ["one", "why"]


def test_usage() -> None:
    usage = FORMAT.usage(COMPLETIONS_ANSWER, with_content=True).as_dict()
    assert usage.pop("output_messages") == [
        {
            "role": "assistant",
            "content": [
                {"type": "tool_call", "id": "c1", "name": "f", "arguments": {"a": 1}},
                {"type": "tool_call", "id": "c2", "name": "g", "arguments": "free"},
            ],
            "finish_reason": "tool_calls",
        }
    ]
    assert usage == {
        "input_tokens": 10,
        "input_audio_tokens": 1,
        "output_tokens": 5,
        "total_tokens": 15,
        "reasoning_tokens": 2,
        "cached_input_tokens": 4,
        "service_tier": "default",
        "provider_model": "gpt-x-1",
        "completion": ["one", ""],
    }


def test_cached_tokens_by_deepseeks_name() -> None:
    body = {"usage": {"prompt_tokens": 9, "prompt_cache_hit_tokens": 8}}
    assert FORMAT.usage(body).cached_input_tokens == 8


def test_choices_of_a_stream_are_kept_apart() -> None:
    reader = FORMAT.reader(with_content=True)
    for index, text in ((0, "a"), (1, "x"), (0, "b"), (1, "y")):
        reader.feed("", {"choices": [{"index": index, "delta": {"content": text}}]})
    assert reader.usage.completion == ["ab", "xy"]


def test_enrichment_keeps_its_order() -> None:
    body: Json = {"messages": [{"role": "user", "content": "x"}]}
    FORMAT.enrich(body, [{"role": "user", "content": "a"}], [{"role": "system", "content": "b"}])
    assert [message["content"] for message in body["messages"]] == ["a", "x", "b"]
