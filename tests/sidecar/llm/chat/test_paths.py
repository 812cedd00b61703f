"""Tests of sidecar.llm.chat.paths."""

from __future__ import annotations

import pytest

from sidecar.llm.chat.paths import (
    LLM_MODE,
    RouteTypes,
    is_sse_query,
    is_stream,
    model_of,
    model_of_query,
    query_with_model,
    with_model,
)

BASE = "/v1/projects/p/locations/l/publishers"

RESOLVED = {
    "/v1/chat/completions": "completions",
    "/openai/v1/chat/completions": "completions",
    "/v1/messages": "messages",
    "/v1/messages/count_tokens": "anthropicTokenCount",
    f"{BASE}/anthropic/models/claude-x:rawPredict": "messages",
    f"{BASE}/anthropic/models/claude-x:streamRawPredict": "messages",
    "/v1beta/models/gemini-x:generateContent": "generateContent",
    "/v1beta/models/gemini-x:streamGenerateContent": "generateContent",
    "/v1beta/models/gemini-x:countTokens": "geminiCountTokens",
    "/v1/responses": "responses",
    "/v1/responses/compact": "detect",
    "/v1/images/edits": "detect",
    "/v1/embeddings": "embeddings",
    "/v1/rerank": "rerank",
    "/v2/rerank": "rerank",
    "/v1/audio/speech": "passthrough",
    "/": "passthrough",
}


@pytest.mark.parametrize("path", RESOLVED)
def test_llm_mode(path: str) -> None:
    assert RouteTypes(LLM_MODE).resolve(path) == RESOLVED[path]


def test_without_a_map_all_is_completions() -> None:
    assert RouteTypes({}).resolve("/v1/messages") == "completions"


def test_the_longest_suffix_wins_whatever_the_order() -> None:
    routes = {"/b": "messages", "/a/b": "responses", "*": "detect"}
    assert RouteTypes(routes).resolve("/x/a/b") == "responses"
    assert RouteTypes(routes).resolve("/x/b") == "messages"
    assert RouteTypes(routes).resolve("/x") == "detect"


MODELS = {
    "/v1beta/models/gemini-2.5-pro:generateContent": "gemini-2.5-pro",
    "/v1beta/tunedModels/mine:countTokens": "mine",
    f"{BASE}/anthropic/models/claude-x@20250101:rawPredict": "claude-x@20250101",
    "/model/anthropic.claude-x-v2%3A0/converse": "anthropic.claude-x-v2:0",
    "/model/a%2Fb/invoke-with-response-stream": "a/b",
    "/model/x/other": None,
    "/v1/chat/completions": None,
    "/model/%2E%2E%2Fadmin/invoke": None,
    "/model/a%0Ab/invoke": None,
    "/model/%3Fx/invoke": None,
    f"/model/{'m' * 300}/invoke": None,
}


@pytest.mark.parametrize("path", MODELS)
def test_model_of(path: str) -> None:
    assert model_of(path) == MODELS[path]


def test_with_model() -> None:
    assert with_model("/v1beta/models/a:countTokens", "b") == "/v1beta/models/b:countTokens"
    assert with_model("/model/a/converse", "b/c%d") == "/model/b%2Fc%25d/converse"
    assert with_model("/v1/messages", "b") == "/v1/messages"


def test_streams() -> None:
    assert is_stream("/v1beta/models/x:streamGenerateContent")
    assert is_stream("/model/x/converse-stream")
    assert not is_stream("/v1beta/models/x:generateContent")
    assert is_sse_query("key=1&alt=sse")
    assert not is_sse_query("alt=json&balt=sse")


@pytest.mark.parametrize(
    ("query", "model", "changed"),
    [
        ("", "", "model=a%20b"),
        ("model=", "", "model=a%20b"),
        ("model=x", "x", "model=a%20b"),
        ("a=b&model=x%2Fy&model=z&c", "x/y", "a=b&c&model=a%20b"),
        ("mod%65l=x", "x", "model=a%20b"),
        ("models=x", "", "models=x&model=a%20b"),
    ],
)
def test_the_model_of_a_query(query: str, model: str, changed: str) -> None:
    assert model_of_query(query) == model
    assert query_with_model(query, "a b") == changed
    assert model_of_query(changed) == "a b"
    # As it came, where it is the model's already.
    assert query_with_model(changed, "a b") == changed
    assert query_with_model("model=b+c&d", "b c") == "model=b+c&d"
    assert query_with_model("model=b&model=c", "b") == "model=b"
