"""Estimates of prompts."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.llm.tokens import (
    count_messages_request,
    count_prompt,
    count_texts,
    encoding_of,
    prepare,
)


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("openai/gpt-4", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("gpt-4o", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-5", "o200k_base"),
        ("claude-sonnet-4-5", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_encodings(model: str, encoding: str) -> None:
    assert encoding_of(model) == encoding


def test_known_counts() -> None:
    prepare(("cl100k_base", "o200k_base"))
    assert count_texts(["hello world"], "cl100k_base") == 2
    assert count_texts(["hello world", "how many tokens is this?"], "o200k_base") == 8
    assert count_texts([], "cl100k_base") == 0


def test_special_tokens_of_a_client_are_text() -> None:
    assert count_texts(["<|endoftext|>"], "cl100k_base") == 7


def test_half_a_surrogate_pair_is_counted() -> None:
    assert count_texts(["a\ud800"], "o200k_base") > 0


def test_a_prompt_costs_four_a_message_and_three() -> None:
    prompt = [{"role": "system", "content": "hello world"}, {"role": "user", "content": ""}]
    assert count_prompt(prompt, "gpt-4") == 2 + 8 + 3
    assert count_prompt([], "gpt-4") == 3


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        ({"messages": [{"role": "user", "content": "hello world"}]}, 2 + 4 + 3),
        (
            {
                "system": [{"type": "text", "text": "hello world"}],
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "hello world"}]},
                    {
                        "role": "user",
                        "content": [{"type": "image", "source": {"data": "A" * 99999}}],
                    },
                ],
            },
            2 + 2 + 85 + 8 + 3,
        ),
        ({}, 3),
        ({"messages": "no list", "system": 5, "tools": None}, 4),
        ({"messages": [None, 3, {"content": None}]}, 12 + 3),
    ],
)
def test_requests_to_count(body: dict[str, Any], tokens: int) -> None:
    assert count_messages_request(body, "gpt-4") == tokens


def test_tools_are_counted_with_their_schema() -> None:
    tool = {"name": "get_weather", "input_schema": {"properties": {"city": {"type": "string"}}}}
    assert count_messages_request({"tools": [tool]}, "m") > 10


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(("type", "text", "content", "source", "role", "x")), inner, max_size=4
        )
    ),
    max_leaves=20,
)


@given(st.fixed_dictionaries({}, optional={"system": json, "messages": json, "tools": json}))
def test_any_json_has_a_count(body: dict[str, Any]) -> None:
    assert count_messages_request(body, "m") >= 3


def test_nesting_as_deep_as_a_client_likes() -> None:
    deep: Any = "x"
    for _ in range(50_000):
        deep = [deep]
    assert count_messages_request({"system": deep}, "m") == 1 + 3
