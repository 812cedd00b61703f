"""Tests of sidecar.llm.chat.detect: usage wherever a provider may have put it."""

from __future__ import annotations

import base64

import orjson
import pytest

from sidecar.llm.chat.detect import FORMAT, usage_of_bytes
from tests.sidecar.llm.chat.bodies import (
    COMPLETIONS_ANSWER,
    CONVERSE_ANSWER,
    GEMINI_ANSWER,
    MESSAGES_ANSWER,
    RESPONSES_ANSWER,
    Json,
)

ANSWERS: dict[str, tuple[Json, int, int, int | None]] = {
    "completions": (COMPLETIONS_ANSWER, 10, 5, 4),
    "messages": (MESSAGES_ANSWER, 7, 3, 2),
    "responses": (RESPONSES_ANSWER, 10, 5, 4),
    "gemini": (GEMINI_ANSWER, 11, 7, 4),
    "converse": (CONVERSE_ANSWER, 5, 3, 2),
    "Cloud Code's envelope": ({"response": GEMINI_ANSWER}, 11, 7, 4),
    "Titan": ({"inputTextTokenCount": 4, "results": [{"tokenCount": 6}]}, 4, 6, None),
    "Llama": ({"prompt_token_count": 4, "generation_token_count": 6}, 4, 6, None),
    "Cohere": ({"meta": {"tokens": {"input_tokens": 4.0, "output_tokens": 6.0}}}, 4, 6, None),
    "invocation metrics": (
        {
            "amazon-bedrock-invocationMetrics": {
                "inputTokenCount": 4,
                "outputTokenCount": 6,
                "cacheReadInputTokenCount": 2,
            }
        },
        4,
        6,
        2,
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_usage(name: str) -> None:
    body, sent, received, cached = ANSWERS[name]
    usage = usage_of_bytes(orjson.dumps(body))
    assert (usage.input_tokens, usage.output_tokens) == (sent, received)
    assert usage.cached_input_tokens == cached
    assert usage.total_tokens
    assert usage.as_dict() == FORMAT.usage(body).as_dict()


@pytest.mark.parametrize("data", [b"", b"{", b"[1]", b"null", b"\xff", b"data: {}\n\n"])
def test_what_is_no_object_reports_nothing(data: bytes) -> None:
    assert usage_of_bytes(data).as_dict() == {}


def wrapped(body: Json) -> Json:
    return {"bytes": base64.b64encode(orjson.dumps(body)).decode(), "p": "padding"}


def test_frames_of_invoke() -> None:
    reader = FORMAT.reader()
    head = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3}}}
    assert not reader.feed("chunk", wrapped(head))
    assert reader.feed("chunk", wrapped({"contentBlockDelta": {"delta": {"text": "x"}}}))
    reader.feed("chunk", wrapped({"type": "message_delta", "usage": {"output_tokens": 4}}))
    assert reader.usage.as_dict() == {
        "input_tokens": 3,
        "output_tokens": 4,
        "total_tokens": 7,
        "provider_model": "m",
    }


@pytest.mark.parametrize("inner", ["!!!", "", "AAAA"])
def test_frames_that_are_not_what_they_seem(inner: str) -> None:
    reader = FORMAT.reader()
    assert not reader.feed("chunk", {"bytes": inner})
    assert reader.usage.as_dict() == {}


PARAMS: dict[str, tuple[Json, Json]] = {
    "OpenAI": ({"temperature": 1, "max_completion_tokens": 5}, {"temperature": 1, "max_tokens": 5}),
    "Gemini": (
        {"generationConfig": {"topP": 1, "maxOutputTokens": 5}},
        {"top_p": 1, "max_tokens": 5},
    ),
    "Cloud Code": ({"request": {"generationConfig": {"seed": 5}}}, {"seed": 5}),
    "Converse": ({"inferenceConfig": {"maxTokens": 5}}, {"max_tokens": 5}),
    "Titan": ({"textGenerationConfig": {"maxTokenCount": 5}}, {"max_tokens": 5}),
    "images": ({"prompt": "a cat", "n": 1}, {}),
}


@pytest.mark.parametrize("name", PARAMS)
def test_params(name: str) -> None:
    body, expected = PARAMS[name]
    assert FORMAT.params(body) == expected


def test_nothing_is_refused() -> None:
    FORMAT.check({"model": 5, "stream": "x", "messages": 7})
