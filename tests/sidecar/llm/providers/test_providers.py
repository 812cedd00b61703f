"""Every provider: hosts, paths, headers, formats and what its answers mean."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.http.headers import Headers
from sidecar.llm.providers.base import Call, KeyPlace, Provider, Target
from sidecar.llm.providers.custom import PRESETS
from sidecar.llm.providers.table import backend_provider, model_provider
from sidecar.llm.providers.vertex import vertex_model

OPENAI: dict[str, Any] = {"openAI": {}}
ANTHROPIC: dict[str, Any] = {"anthropic": {}}
GEMINI: dict[str, Any] = {"gemini": {}}
VERTEX: dict[str, Any] = {"vertex": {"projectId": "p1", "region": "us-central1"}}
GLOBAL: dict[str, Any] = {"vertex": {"projectId": "p1"}}
BEDROCK: dict[str, Any] = {"bedrock": {"region": "us-west-2"}}
AZURE: dict[str, Any] = {"azure": {"resourceName": "res", "resourceType": "openAI"}}
FOUNDRY: dict[str, Any] = {"azure": {"resourceName": "res", "resourceType": "foundry"}}
COPILOT: dict[str, Any] = {"copilot": {}}


def dated(version: str) -> dict[str, Any]:
    return {"azure": {**AZURE["azure"], "apiVersion": version}}


def provider(config: dict[str, Any], **keys: str) -> Provider:
    return backend_provider({"provider": config, **keys})


def target(
    config: dict[str, Any],
    format: str,
    model: str = "m",
    *,
    streaming: bool = False,
    path: str = "/v1/x",
    query: str = "",
    client: str = "completions",
) -> Target:
    call = Call(client, format, model, is_streaming=streaming, path=path, query=query)
    return provider(config).target(call)


CLAUDE = "claude-sonnet-4-5-20250929"
V = "/v1/projects/p1/locations/us-central1"


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
    ("config", "model", "chat"),
    [
        (OPENAI, "gpt", {"completions", "responses"}),
        (ANTHROPIC, "c", {"messages"}),
        (GEMINI, "g", {"generateContent", "completions"}),
        (VERTEX, CLAUDE, {"messages"}),
        (VERTEX, "gemini-2.5-pro", {"generateContent", "completions"}),
        (VERTEX, "llama", {"completions"}),
        (BEDROCK, "x", {"converse"}),
        (AZURE, "claude-x", {"completions", "responses"}),
        (FOUNDRY, "claude-x", {"messages"}),
        (COPILOT, "Claude-sonnet", {"messages", "completions"}),
        (COPILOT, "grok-4", {"responses"}),
        (COPILOT, "gemini-3", {"completions"}),
        (COPILOT, "gpt-4o", {"completions"}),
        (COPILOT, "gpt-5.4", {"completions", "responses"}),
        (COPILOT, "gpt-5-mini", {"completions", "responses"}),
        (COPILOT, "gpt-5", {"responses"}),
        (COPILOT, "other", {"completions"}),
    ],
)
def test_chat_formats(config: dict[str, Any], model: str, chat: set[str]) -> None:
    known = {"completions", "messages", "responses", "generateContent", "converse"}
    assert provider(config).formats(model) & known == chat


def test_copilot_follows_the_tags_of_the_catalogue() -> None:
    tags = {("copilot", "gpt-5"): frozenset(("anthropic_messages", "vision"))}
    made = backend_provider({"provider": COPILOT}, tags=lambda *key: tags.get(key, frozenset()))
    assert "messages" in made.formats("GPT-5")
    assert "responses" not in made.formats("GPT-5")
    assert "completions" in made.formats("gpt-4o")


@pytest.mark.parametrize(
    ("model", "tagged", "is_claude", "settings"),
    [
        ("claude-opus-4-5", (), True, {}),
        ("team-a_Claude", (), True, {}),
        ("claudette", (), False, {}),
        ("prod-chat", (), False, {}),
        ("prod-chat", ("anthropic_messages", "vision"), True, {}),
        ("prod-chat", ("claude-opus-4-7",), True, {"knownAs": "claude-opus-4-7"}),
        ("like-claude", ("openai_responses",), False, {}),
        ("like-claude", ("vision",), True, {}),
    ],
)
def test_deployments_of_foundry_have_any_name(
    model: str, tagged: tuple[str, ...], is_claude: bool, settings: dict[str, str]
) -> None:
    tags = {("azure", model): frozenset(tagged)}
    made = backend_provider({"provider": FOUNDRY}, tags=lambda *key: tags[key])
    assert ("messages" in made.formats(model)) is is_claude
    assert ("completions" in made.formats(model)) is not is_claude
    assert made.settings(model) == settings
    assert made.excludes_cache("messages", model) is is_claude
    # Other resources have no Claude, whatever is said of them.
    other = backend_provider({"provider": AZURE}, tags=lambda *key: tags[key])
    assert "messages" not in other.formats(model)
    assert other.settings(model) == {}


@pytest.mark.parametrize(
    ("config", "format", "model", "dialect", "family", "excludes"),
    [
        (OPENAI, "completions", "g", "", "openai", False),
        (ANTHROPIC, "messages", "c", "", "anthropic", True),
        (ANTHROPIC, "detect", "c", "", "anthropic", True),
        (GEMINI, "completions", "g", "", "google", False),
        (VERTEX, "messages", CLAUDE, "vertex", "anthropic", True),
        (VERTEX, "generateContent", "gemini-2", "", "google", False),
        (VERTEX, "embeddings", "e", "vertex", "google", False),
        (VERTEX, "rerank", "r", "vertex", "google", False),
        (BEDROCK, "converse", "m", "", "bedrock", True),
        (BEDROCK, "embeddings", "m", "bedrock", "bedrock", True),
        (FOUNDRY, "messages", "claude-x", "", "anthropic", True),
        (AZURE, "completions", "g", "", "openai", False),
        (COPILOT, "messages", "claude-x", "", "anthropic", True),
        (COPILOT, "completions", "claude-x", "", "openai", False),
    ],
)
def test_what_bodies_mean(
    config: dict[str, Any], format: str, model: str, dialect: str, family: str, excludes: bool
) -> None:
    made = provider(config)
    assert made.dialect(format, model) == dialect
    assert made.error_family(format, model) == family
    assert made.excludes_cache(format, model) is excludes


@pytest.mark.parametrize(
    ("config", "name", "auth"),
    [
        (OPENAI, "openai", ""),
        (ANTHROPIC, "anthropic", ""),
        (GEMINI, "gcp.gemini", ""),
        (VERTEX, "gcp.vertex_ai", "gcp"),
        (BEDROCK, "aws.bedrock", "aws"),
        (AZURE, "azure", "azure"),
        (COPILOT, "copilot", "copilot"),
    ],
)
def test_names_and_default_credentials(config: dict[str, Any], name: str, auth: str) -> None:
    made = provider(config)
    assert (made.name, made.auth.kind, made.kind) == (name, auth, next(iter(config)).lower())


def test_scopes_and_regions_of_default_credentials() -> None:
    assert provider(AZURE).auth.scope == "https://cognitiveservices.azure.com/.default"
    assert provider(FOUNDRY).auth.scope == "https://ai.azure.com/.default"
    assert (provider(BEDROCK).auth.region, provider(BEDROCK).auth.service) == (
        "us-west-2",
        "bedrock",
    )


def test_openai_moderation_takes_the_place_of_the_clients() -> None:
    made = provider({"openAI": {"moderation": {"policy": {"input": {"mode": "block"}}}}})
    body: dict[str, Any] = {"moderation": "off"}
    made.edit(body, Call("messages", "completions", "m", is_streaming=False, path="/"))
    assert body["moderation"] == {
        "model": "omni-moderation-latest",
        "policy": {"input": {"mode": "block"}},
    }
    body = {}
    made.edit(body, Call("embeddings", "embeddings", "m", is_streaming=False, path="/"))
    assert body == {}


def test_bedrock_guardrails_are_settings_of_conversions() -> None:
    config = {"region": "eu-west-1", "guardrailIdentifier": "g", "guardrailVersion": "1"}
    assert provider({"bedrock": config}).settings("m")["guardrailConfig"] == {
        "guardrailIdentifier": "g",
        "guardrailVersion": "1",
        "trace": "enabled",
    }
    assert "guardrailConfig" not in provider(BEDROCK).settings("m")


def test_header_changes() -> None:
    made = target(ANTHROPIC, "messages")
    assert (b"anthropic-version", b"2023-06-01") in made.headers_set
    assert {b"origin", b"sec-fetch-mode"} <= made.headers_remove
    made = target(BEDROCK, "converse", client="responses")
    assert made.headers_remove == {b"conversation_id", b"session_id"}
    assert not target(BEDROCK, "converse").headers_remove
    assert (b"x-initiator", b"agent") in target(COPILOT, "completions").headers_set


@pytest.mark.parametrize(
    ("config", "format", "key", "expected"),
    [
        (OPENAI, "completions", b"sk-1", (b"authorization", b"Bearer sk-1")),
        (ANTHROPIC, "messages", b"sk-ant-1", (b"x-api-key", b"sk-ant-1")),
        (ANTHROPIC, "messages", b"sk-ant-oat01", (b"authorization", b"Bearer sk-ant-oat01")),
        (GEMINI, "generateContent", b"AIza1", (b"x-goog-api-key", b"AIza1")),
        (GEMINI, "generateContent", b"ya29.x", (b"authorization", b"Bearer ya29.x")),
        (GEMINI, "completions", b"AIza1", (b"authorization", b"Bearer AIza1")),
        (AZURE, "completions", b"0f0f", (b"api-key", b"0f0f")),
        (AZURE, "completions", b"eyJ0.e.s", (b"authorization", b"Bearer eyJ0.e.s")),
    ],
)
def test_keys_go_where_the_provider_wants_them(
    config: dict[str, Any], format: str, key: bytes, expected: tuple[bytes, bytes]
) -> None:
    headers = Headers([(b"authorization", b"Bearer " + key)])
    target(config, format).key_place.move(headers)
    assert headers == [expected]


def test_a_key_replaces_the_clients_own_and_other_schemes_stay() -> None:
    headers = Headers([(b"x-api-key", b"client"), (b"authorization", b"bearer sk-1")])
    KeyPlace(b"x-api-key").move(headers)
    assert headers == [(b"x-api-key", b"sk-1")]
    headers = Headers([(b"authorization", b"Basic eHg=")])
    KeyPlace(b"x-api-key").move(headers)
    assert headers == [(b"authorization", b"Basic eHg=")]
    headers = Headers([(b"x-api-key", b"client"), (b"authorization", b"Bearer sk-ant-oat1")])
    target(ANTHROPIC, "messages").key_place.move(headers)
    assert headers == [(b"authorization", b"Bearer sk-ant-oat1")]


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
    made = target(GEMINI, "generateContent", "g", query="alt=sse&x=1")
    assert made.path == b"/v1beta/models/g:generateContent?x=1"


PRESET_PATHS = {
    "cohere": ("api.cohere.ai", "/compatibility/v1/chat/completions"),
    "ollama": ("localhost", "/v1/chat/completions"),
    "baseten": ("inference.baseten.co", "/v1/chat/completions"),
    "cerebras": ("api.cerebras.ai", "/v1/chat/completions"),
    "deepinfra": ("api.deepinfra.com", "/v1/openai/chat/completions"),
    "deepseek": ("api.deepseek.com", "/v1/chat/completions"),
    "groq": ("api.groq.com", "/openai/v1/chat/completions"),
    "huggingface": ("router.huggingface.co", "/v1/chat/completions"),
    "mistral": ("api.mistral.ai", "/v1/chat/completions"),
    "openrouter": ("openrouter.ai", "/api/v1/chat/completions"),
    "togetherai": ("api.together.xyz", "/v1/chat/completions"),
    "xai": ("api.x.ai", "/v1/chat/completions"),
    "fireworks": ("api.fireworks.ai", "/inference/v1/chat/completions"),
}


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_presets(name: str) -> None:
    made = model_provider(name, {})
    call = Call("completions", "completions", "m", is_streaming=False, path="/v1/chat/completions")
    found = made.target(call)
    assert (found.authority.host, found.path.decode()) == PRESET_PATHS[name]
    assert found.authority.tls is (name != "ollama")
    assert (made.kind, made.name) == ("custom", name)


def test_a_preset_elsewhere() -> None:
    made = model_provider("deepinfra", {"baseUrl": "http://proxy:9/x"})
    call = Call("messages", "messages", "m", is_streaming=False, path="/v1/messages")
    assert made.target(call).authority.host == "proxy"
    assert made.target(call).path == b"/anthropic/v1/messages"
    call = Call("completions", "completions", "m", is_streaming=False, path="/v1/messages")
    assert made.target(call).path == b"/x/chat/completions"


def test_custom_providers() -> None:
    formats = [
        {"type": "completions", "path": "/exact"},
        {"type": "messages"},
        {"type": "generateContent"},
    ]
    made = backend_provider(
        {
            "provider": {"custom": {"formats": formats, "providerOverride": "mine"}},
            "hostOverride": "h:1",
        }
    )
    assert made.name == "mine"
    assert made.formats("m") == {"completions", "messages", "generateContent"}

    def path(format: str, *, streaming: bool = False) -> bytes:
        call = Call("x", format, "m", is_streaming=streaming, path="/client")
        return made.target(call).path

    assert path("completions") == b"/exact"
    assert path("messages") == b"/v1/messages"
    assert path("generateContent", streaming=True) == (
        b"/v1beta/models/m:streamGenerateContent?alt=sse"
    )
    assert [made.error_family(name, "m") for name in ("completions", "messages")] == [
        "openai",
        "anthropic",
    ]
    assert made.excludes_cache("messages", "m")
    with pytest.raises(RequestError):
        path("responses")


def test_params_of_a_model_become_settings() -> None:
    params = {
        "model": "gpt-x",
        "azureResourceName": "res",
        "azureResourceType": "foundry",
        "azureProjectName": "proj",
    }
    made = model_provider("azure", params)
    assert made.model == "gpt-x"
    call = Call("completions", "completions", "m", is_streaming=False, path="/")
    assert made.target(call).path == b"/api/projects/proj/openai/v1/chat/completions"
    assert model_provider("bedrock", {"awsRegion": "cn-north-1"}).authorities()[0].host == (
        "bedrock-runtime.cn-north-1.amazonaws.com.cn"
    )
    assert model_provider("openai", {}).kind == "openai"


@pytest.mark.parametrize(
    ("provider", "params", "path", "word"),
    [
        ("vertex", {}, "m.params", "vertexProject"),
        ("bedrock", {}, "m.params", "awsRegion"),
        ("azure", {"azureResourceType": "openAI"}, "m.params", "azureResourceName"),
        ("azure", {"azureResourceName": "r"}, "m.params", "azureResourceType"),
        ("bedrock", {"awsRegion": "evil.example/"}, "m.params", "awsRegion"),
        ({"custom": {"formats": [{"type": "completions"}]}}, {}, "m.params", "baseUrl"),
        ({"custom": {"formats": []}}, {"baseUrl": "http://h"}, "m.params", "format"),
        ("nobody", {}, "m.params", "nobody"),
        (
            "openai",
            {"baseUrl": "http://h", "hostOverride": "h:1"},
            "m.params.baseUrl",
            "hostOverride",
        ),
    ],
)
def test_configuration_that_is_refused(
    provider: str | dict[str, Any], params: dict[str, str], path: str, word: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        model_provider(provider, params, place="m")
    assert caught.value.path == path
    assert word in caught.value.message
