"""Tests of sidecar.llm.chat.{embeddings,rerank,realtime,converse}."""

from __future__ import annotations

import pytest

from sidecar.errors import RequestError
from sidecar.llm.chat import converse, embeddings, realtime, rerank
from tests.sidecar.llm.chat.bodies import (
    CONVERSE_ANSWER,
    EMBEDDINGS,
    EMBEDDINGS_ANSWER,
    REALTIME,
    REALTIME_ANSWER,
    RERANK_ANSWER,
    Json,
)


def test_embeddings() -> None:
    form = embeddings.FORMAT
    assert form.params(EMBEDDINGS) == {"dimensions": 3, "encoding_format": "float"}
    assert form.usage(EMBEDDINGS_ANSWER).as_dict() == {
        "input_tokens": 2,
        "total_tokens": 2,
        "provider_model": "e-1",
    }
    with pytest.raises(RequestError, match=r"^input: "):
        form.check({"model": "m"})


@pytest.mark.parametrize(
    ("body", "tokens"),
    [(RERANK_ANSWER, 214), ({"usage": {"total_tokens": 7}}, 7), ({"results": []}, None)],
    ids=["Cohere", "Voyage and Jina", "not said"],
)
def test_rerank(body: Json, tokens: int | None) -> None:
    usage = rerank.FORMAT.usage(body)
    assert (usage.input_tokens, usage.total_tokens, usage.output_tokens) == (tokens, tokens, None)


@pytest.mark.parametrize(
    ("body", "where"),
    [({"query": 5, "documents": []}, "query"), ({"query": "q", "documents": "a"}, "documents")],
)
def test_rerank_of_wrong_shape(body: Json, where: str) -> None:
    with pytest.raises(RequestError, match=f"^{where}: "):
        rerank.FORMAT.check(body)


def test_realtime_turns_add_up() -> None:
    reader = realtime.FORMAT.reader()
    for _ in range(3):
        reader.feed("", REALTIME_ANSWER)
    assert reader.usage.as_dict() == {
        "input_tokens": 15,
        "input_audio_tokens": 6,
        "output_tokens": 9,
        "output_audio_tokens": 9,
        "total_tokens": 24,
        "cached_input_tokens": 3,
    }


REALTIME_TEXTS: dict[str, tuple[Json, list[tuple[str, str]]]] = {
    "an item": (REALTIME, [("messages", "hi")]),
    "instructions": (
        {"type": "session.update", "session": {"instructions": "be kind"}},
        [("systemPrompt", "be kind")],
    ),
    "a turn of its own": (
        {
            "type": "response.create",
            "response": {"instructions": "be brief", "input": [REALTIME["item"]]},
        },
        [("systemPrompt", "be brief"), ("messages", "hi")],
    ),
    "what a tool answered": (
        {
            "type": "conversation.item.create",
            "item": {"type": "function_call_output", "output": "42"},
        },
        [("toolOutput", "42")],
    ),
    "audio": ({"type": "input_audio_buffer.append", "audio": "AAAA"}, []),
}


@pytest.mark.parametrize("name", REALTIME_TEXTS)
def test_realtime_texts(name: str) -> None:
    body, expected = REALTIME_TEXTS[name]
    assert [(p.kind, p.text) for p in realtime.FORMAT.request_texts(body)] == expected


def test_realtime_answers() -> None:
    body: Json = {"type": "response.output_text.delta", "delta": "done"}
    (part,) = realtime.FORMAT.response_texts(body)
    part.replace("masked")
    assert body["delta"] == "masked"


def test_converse() -> None:
    assert converse.FORMAT.usage(CONVERSE_ANSWER, with_content=True).as_dict() == {
        "input_tokens": 5,
        "output_tokens": 3,
        "total_tokens": 8,
        "cache_creation_input_tokens": 1,
        "cached_input_tokens": 2,
        "completion": ["done"],
        "output_messages": [
            {
                "role": "assistant",
                "content": [{"type": "tool_call", "id": "u", "name": "f", "arguments": {"a": 1}}],
                "finish_reason": "tool_use",
            }
        ],
    }


def test_cache_writes_of_an_hour_at_bedrock() -> None:
    details = [{"ttl": "5m", "inputTokens": 3}, {"ttl": "1h", "inputTokens": 4}, {"ttl": "1h"}]
    answer = {"usage": {"cacheWriteInputTokens": 7, "cacheDetails": details}}
    usage = converse.FORMAT.usage(answer)
    assert usage.cache_creation_input_tokens == 7
    assert usage.long_cache_creation_input_tokens == 4
