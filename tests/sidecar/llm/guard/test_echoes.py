"""Texts that stand in an answer a second time."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from sidecar.llm.guard.echoes import answer_echoes, without_logprobs

Json = dict[str, Any]
TOKENS = [{"token": "a", "logprob": 0.0}]
ITEM = {"content": [{"type": "output_text", "text": "a", "logprobs": TOKENS}]}


@pytest.mark.parametrize(
    "body",
    [
        {"choices": [{"message": {}, "logprobs": {"content": TOKENS}}]},
        {"candidates": [{"logprobsResult": {"chosenCandidates": TOKENS}}]},
        {"output": [ITEM]},
        {"type": "response.output_text.delta", "delta": "a", "logprobs": TOKENS},
        {"type": "response.content_part.done", "part": ITEM["content"][0]},
        {"type": "response.output_item.done", "item": ITEM},
        {"type": "response.completed", "response": {"output": [ITEM]}},
    ],
)
def test_tokens_go(body: Json) -> None:
    made = copy.deepcopy(body)  # cases share their parts
    assert without_logprobs(made)
    assert "token" not in str(made)
    assert not without_logprobs(made)


@pytest.mark.parametrize(
    "body",
    [{}, {"choices": [{"logprobs": None}]}, {"choices": 7}, {"output": ["x"]}, {"part": []}],
)
def test_where_there_are_none(body: Json) -> None:
    before = str(body)
    assert not without_logprobs(body)
    assert str(body) == before


def test_texts_of_whole_answers() -> None:
    details = [{"type": "reasoning.text", "text": "a"}, {"type": "x", "summary": "b"}, {"text": 7}]
    message = {"reasoning_details": details, "audio": {"transcript": "c"}}
    support = {"segment": {"text": "d"}}
    body = {
        "choices": [{"message": message}],
        "candidates": [{"groundingMetadata": {"groundingSupports": [support]}}],
        "content": [{"type": "text", "text": "e", "citations": [{"cited_text": "f"}]}],
    }
    parts = answer_echoes(body)
    assert [part.text for part in parts] == ["a", "b", "c", "d", "f"]
    for part in parts:
        part.replace("masked")
    assert support == {"segment": {"text": "masked"}}
