"""Where the calls of each provider go: hosts, paths and queries."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import RequestError
from sidecar.llm.providers.base import Call
from sidecar.llm.providers.vertex import vertex_model
from tests.sidecar.llm.providers.calls import (
    ANTHROPIC,
    AZURE,
    BEDROCK,
    CLAUDE,
    COPILOT,
    FOUNDRY,
    GEMINI,
    GLOBAL,
    OPENAI,
    VERTEX,
    V,
    dated,
    provider,
    target,
)


@pytest.mark.parametrize(
    ("config", "format", "model", "streaming", "host", "path"),
    [
        (OPENAI, "completions", "gpt", False, "api.openai.com", "/v1/chat/completions"),
        (OPENAI, "responses", "gpt", True, "api.openai.com", "/v1/responses"),
        (OPENAI, "embeddings", "e", False, "api.openai.com", "/v1/embeddings"),
        (OPENAI, "rerank", "r", False, "api.openai.com", "/v1/rerank"),
        (OPENAI, "realtime", "r", False, "api.openai.com", "/v1/realtime"),
        (ANTHROPIC, "messages", CLAUDE, True, "api.anthropic.com", "/v1/messages"),
        (
            ANTHROPIC,
            "anthropicTokenCount",
            CLAUDE,
            False,
            "api.anthropic.com",
            "/v1/messages/count_tokens",
        ),
        (
            GEMINI,
            "generateContent",
            "gemini-2.5-pro",
            False,
            "generativelanguage.googleapis.com",
            "/v1beta/models/gemini-2.5-pro:generateContent",
        ),
        (
            GEMINI,
            "generateContent",
            "models/gemini-2.5-pro",
            True,
            "generativelanguage.googleapis.com",
            "/v1beta/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        ),
        (
            GEMINI,
            "geminiCountTokens",
            "tunedModels/mine",
            False,
            "generativelanguage.googleapis.com",
            "/v1beta/tunedModels/mine:countTokens",
        ),
        (
            GEMINI,
            "completions",
            "gemini",
            True,
            "generativelanguage.googleapis.com",
            "/v1beta/openai/chat/completions",
        ),
        (
            GEMINI,
            "embeddings",
            "e",
            False,
            "generativelanguage.googleapis.com",
            "/v1beta/openai/embeddings",
        ),
        (
            VERTEX,
            "messages",
            CLAUDE,
            False,
            "us-central1-aiplatform.googleapis.com",
            f"{V}/publishers/anthropic/models/claude-sonnet-4-5@20250929:rawPredict",
        ),
        (
            VERTEX,
            "messages",
            "anthropic/claude-sonnet-4-5",
            True,
            "us-central1-aiplatform.googleapis.com",
            f"{V}/publishers/anthropic/models/claude-sonnet-4-5:streamRawPredict",
        ),
        (
            VERTEX,
            "anthropicTokenCount",
            CLAUDE,
            False,
            "us-central1-aiplatform.googleapis.com",
            f"{V}/publishers/anthropic/models/count-tokens:rawPredict",
        ),
        (
            VERTEX,
            "generateContent",
            "google/gemini-2.5-pro",
            True,
            "us-central1-aiplatform.googleapis.com",
            f"{V}/publishers/google/models/gemini-2.5-pro:streamGenerateContent?alt=sse",
        ),
        (
            VERTEX,
            "completions",
            "meta/llama",
            False,
            "us-central1-aiplatform.googleapis.com",
            f"{V}/endpoints/openapi/chat/completions",
        ),
        (
            VERTEX,
            "embeddings",
            "text-embedding-004",
            False,
            "us-central1-aiplatform.googleapis.com",
            f"{V}/publishers/google/models/text-embedding-004:predict",
        ),
        (
            GLOBAL,
            "rerank",
            "semantic-ranker-default@latest",
            False,
            "discoveryengine.googleapis.com",
            "/v1/projects/p1/locations/global/rankingConfigs/default_ranking_config:rank",
        ),
        (
            BEDROCK,
            "converse",
            "anthropic.claude-3-5-sonnet-20241022-v2:0",
            True,
            "bedrock-runtime.us-west-2.amazonaws.com",
            "/model/anthropic.claude-3-5-sonnet-20241022-v2:0/converse-stream",
        ),
        (
            BEDROCK,
            "converse",
            "arn:aws:bedrock:us-west-2:1:inference-profile/x%",
            False,
            "bedrock-runtime.us-west-2.amazonaws.com",
            "/model/arn:aws:bedrock:us-west-2:1:inference-profile%2Fx%25/converse",
        ),
        (
            BEDROCK,
            "embeddings",
            "amazon.titan",
            False,
            "bedrock-runtime.us-west-2.amazonaws.com",
            "/model/amazon.titan/invoke",
        ),
        (
            BEDROCK,
            "anthropicTokenCount",
            "anthropic.claude-x",
            False,
            "bedrock-runtime.us-west-2.amazonaws.com",
            "/model/anthropic.claude-x/count-tokens",
        ),
        (
            BEDROCK,
            "rerank",
            "cohere.rerank",
            False,
            "bedrock-agent-runtime.us-west-2.amazonaws.com",
            "/rerank",
        ),
        (AZURE, "completions", "g", False, "res.openai.azure.com", "/openai/v1/chat/completions"),
        (
            dated("preview"),
            "responses",
            "g",
            False,
            "res.openai.azure.com",
            "/openai/v1/responses?api-version=preview",
        ),
        (
            dated("2024-10-21"),
            "completions",
            "g",
            False,
            "res.openai.azure.com",
            "/openai/deployments/g/chat/completions?api-version=2024-10-21",
        ),
        (
            dated("2024-10-21"),
            "responses",
            "g",
            False,
            "res.openai.azure.com",
            "/openai/responses?api-version=2024-10-21",
        ),
        (
            FOUNDRY,
            "completions",
            "g",
            False,
            "res.services.ai.azure.com",
            "/api/projects/res/openai/v1/chat/completions",
        ),
        (
            FOUNDRY,
            "messages",
            "claude-x",
            False,
            "res.services.ai.azure.com",
            "/anthropic/v1/messages",
        ),
        (COPILOT, "messages", "claude-x", False, "api.githubcopilot.com", "/v1/messages"),
        (COPILOT, "responses", "gpt-5", False, "api.githubcopilot.com", "/responses"),
        (COPILOT, "models", "", False, "api.githubcopilot.com", "/v1/x"),
    ],
)
def test_targets(
    config: dict[str, Any], format: str, model: str, streaming: bool, host: str, path: str
) -> None:
    made = target(config, format, model, streaming=streaming)
    assert (made.authority.host, made.authority.port, made.authority.tls) == (host, 443, True)
    assert made.path == path.encode()
    assert made.authority in provider(config).authorities()


@pytest.mark.parametrize(
    ("region", "host"),
    [
        (None, "aiplatform.googleapis.com"),
        ("us", "aiplatform.us.rep.googleapis.com"),
        ("europe-west4", "europe-west4-aiplatform.googleapis.com"),
    ],
)
def test_vertex_hosts(region: str | None, host: str) -> None:
    made = provider({"vertex": {"projectId": "p", "region": region}})
    assert made.authorities()[0].host == host


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("publishers/anthropic/models/claude-x-20250101", ("claude", "claude-x@20250101")),
        ("claude-x@20250101", ("claude", "claude-x@20250101")),
        ("models/gemini-2.5-pro", ("gemini", "gemini-2.5-pro")),
        ("gemini-embedding-001", ("other", "gemini-embedding-001")),
        ("gemini-../../x", ("other", "gemini-../../x")),
        ("meta/llama-4", ("other", "meta/llama-4")),
    ],
)
def test_vertex_models(model: str, expected: tuple[str, str]) -> None:
    assert vertex_model(model) == expected


@pytest.mark.parametrize(
    ("config", "format", "model"),
    [
        (OPENAI, "messages", "m"),
        (OPENAI, "generateContent", "m"),
        (ANTHROPIC, "completions", "m"),
        (GEMINI, "messages", "m"),
        (VERTEX, "completions", CLAUDE),
        (VERTEX, "messages", "gemini-2"),
        (BEDROCK, "messages", "m"),
        (BEDROCK, "anthropicTokenCount", "amazon.nova"),
        (AZURE, "messages", "claude-x"),
        (FOUNDRY, "completions", "claude-x"),
        (COPILOT, "realtime", "m"),
        (GEMINI, "generateContent", ".."),
        (BEDROCK, "converse", ""),
    ],
)
def test_calls_that_are_refused(config: dict[str, Any], format: str, model: str) -> None:
    with pytest.raises(RequestError) as caught:
        target(config, format, model)
    assert caught.value.status == 400


def test_clients_paths_are_kept_where_nothing_is_converted() -> None:
    for config in (OPENAI, ANTHROPIC, GEMINI, VERTEX, BEDROCK, AZURE, COPILOT):
        made = target(config, "passthrough", "", path="/v1/files", query="a=b")
        assert made.path == b"/v1/files?a=b"


def test_the_clients_alt_parameter_is_the_gateways() -> None:
    made = target(GEMINI, "generateContent", "g", query="alt=sse&x=1", client="generateContent")
    assert made.path == b"/v1beta/models/g:generateContent?x=1"


@pytest.mark.parametrize(
    ("config", "format"),
    [
        (GEMINI, "completions"),
        (GEMINI, "generateContent"),
        (VERTEX, "completions"),
        (VERTEX, "messages"),
        (VERTEX, "generateContent"),
        (VERTEX, "rerank"),
    ],
)
def test_google_gets_no_parameters_of_other_apis(config: dict[str, Any], format: str) -> None:
    model = CLAUDE if format == "messages" else "gemini-2.5-pro"
    made = target(config, format, model, query="beta=true", client="messages")
    assert b"?" not in made.path


def test_azures_version_is_configured() -> None:
    query = "api-version=2024-10-21&x=1"
    assert target(AZURE, "completions", query=query).path == b"/openai/v1/chat/completions?x=1"


def test_ids_that_gemini_signed_are_plain_at_anthropic() -> None:
    def body(mark: str) -> dict[str, Any]:
        use = {"type": "tool_use", "id": f"a.1{mark}", "name": "f", "input": {}}
        result = {"type": "tool_result", "tool_use_id": f"a.1{mark}", "content": "x"}
        odd = {"type": [], "id": 7}
        return {"messages": [{"content": [use, odd]}, {"content": [result]}, {"content": "t"}, 1]}

    call = Call("messages", "messages", "m", is_streaming=False, path="/v1/messages")
    sent = body("__thought__S+/=")
    provider(ANTHROPIC).edit(sent, call)
    assert [one["content"][0].get("id") for one in sent["messages"][:1]] == ["a_1"]
    assert sent["messages"][1]["content"][0]["tool_use_id"] == "a_1"
    # Others may want them: a gateway behind that address, say.
    for config, more in ((ANTHROPIC, {"hostOverride": "llm.internal:8443"}), (OPENAI, {})):
        kept = body("__thought__S+/=")
        provider(config, **more).edit(kept, call)
        assert kept == body("__thought__S+/=")
    unsigned = body("")
    provider(ANTHROPIC).edit(unsigned, call)
    assert unsigned == body("")
