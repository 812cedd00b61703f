"""Tests of sidecar.llm.chat.gemini and gemini_count."""

from __future__ import annotations

import copy

import orjson
import pytest

from sidecar.errors import RequestError
from sidecar.llm.chat import gemini_count
from sidecar.llm.chat.gemini import FORMAT, normalise
from tests.sidecar.llm.chat.bodies import GEMINI, GEMINI_ANSWER, Json


def test_what_a_request_says() -> None:
    assert not FORMAT.is_streaming(GEMINI)
    assert FORMAT.params(GEMINI) == {"top_p": 0.5, "max_tokens": 9}
    assert FORMAT.prompt(GEMINI) == [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": ""},
        {"role": "user", "content": ""},
    ]


def test_texts_of_a_request() -> None:
    assert [(p.role, p.kind, p.text) for p in FORMAT.request_texts(GEMINI)] == [
        ("system", "systemPrompt", "be kind"),
        ("user", "messages", "hi"),
        ("assistant", "toolInput", '{"a_b":1}'),
        ("user", "toolOutput", '{"c_d":2}'),
    ]


def test_texts_of_an_answer() -> None:
    assert [p.text for p in FORMAT.response_texts(GEMINI_ANSWER)] == ["hm", "done"]


def test_usage() -> None:
    usage = FORMAT.usage(GEMINI_ANSWER, with_content=True).as_dict()
    usage.pop("output_messages")
    assert usage == {
        "input_tokens": 11,
        "input_text_tokens": 3,
        "input_audio_tokens": 7,
        "output_tokens": 7,
        "total_tokens": 18,
        "reasoning_tokens": 2,
        "cached_input_tokens": 4,
        "provider_model": "gemini-x",
        "completion": ["done"],
    }


NORMALISED: dict[str, tuple[Json, Json]] = {
    "the model is in the path": ({"model": "x", "contents": []}, {"contents": []}),
    "snake case": (
        {"system_instruction": {"parts": []}, "generation_config": {"max_output_tokens": 1}},
        {"systemInstruction": {"parts": []}, "generationConfig": {"maxOutputTokens": 1}},
    ),
    "camelCase wins": ({"top_k": 1, "topK": 2}, {"topK": 2}),
    "arguments are the user's": (
        {"contents": [{"parts": [{"function_call": {"args": {"a_b": 1}}}]}]},
        {"contents": [{"parts": [{"functionCall": {"args": {"a_b": 1}}}]}]},
    ),
    "names of properties too": (
        {"parameters": {"properties": {"a_b": {"max_items": 1}}, "required": ["a_b"]}},
        {"parameters": {"properties": {"a_b": {"maxItems": 1}}, "required": ["a_b"]}},
    ),
    "and labels": ({"labels": {"cost_center": "x"}}, {"labels": {"cost_center": "x"}}),
}


@pytest.mark.parametrize("name", NORMALISED)
def test_normalise(name: str) -> None:
    body, expected = NORMALISED[name]
    before = copy.deepcopy(body)
    assert normalise(body) == expected
    assert body == before


def test_normalise_refuses_what_is_nested_too_deeply() -> None:
    body: Json = orjson.loads(b'{"a":' * 1000 + b"1" + b"}" * 1000)
    with pytest.raises(RequestError, match="nested too deeply"):
        normalise(body)


def test_params_in_either_spelling() -> None:
    assert FORMAT.params({"generation_config": {"max_output_tokens": 1}}) == {"max_tokens": 1}


def test_enrichment() -> None:
    body: Json = {"system_instruction": {"parts": [{"text": "own"}]}, "contents": []}
    FORMAT.enrich(
        body,
        [{"role": "system", "content": "a"}, {"role": "assistant", "content": "x"}],
        [{"role": "system", "content": "b"}],
    )
    assert body == {
        "systemInstruction": {"parts": [{"text": "a"}, {"text": "own"}, {"text": "b"}]},
        "contents": [{"role": "model", "parts": [{"text": "x"}]}],
    }


def test_enrichment_without_a_system_of_its_own() -> None:
    body: Json = {"contents": []}
    FORMAT.enrich(body, [], [{"role": "system", "content": "b"}])
    assert body["systemInstruction"] == {"parts": [{"text": "b"}]}


def test_a_count() -> None:
    usage = gemini_count.FORMAT.usage({"totalTokens": 12, "cachedContentTokenCount": 3})
    assert usage.as_dict() == {"count_tokens": 12, "cached_input_tokens": 3}
