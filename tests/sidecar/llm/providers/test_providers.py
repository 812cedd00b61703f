"""Every provider: formats, keys, headers, and what its bodies mean."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.http.headers import Headers
from sidecar.llm.providers.base import Call, KeyPlace
from sidecar.llm.providers.table import backend_provider
from tests.sidecar.llm.providers.calls import (
    ANTHROPIC,
    AZURE,
    BEDROCK,
    CLAUDE,
    COPILOT,
    FOUNDRY,
    GEMINI,
    OPENAI,
    VERTEX,
    provider,
    target,
)


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


def test_googles_imitation_of_openai_names_the_publisher() -> None:
    for model, wanted in (
        ("gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("publishers/google/models/gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("google/gemini-2.5-pro", "google/gemini-2.5-pro"),
        ("meta/llama-4", "meta/llama-4"),
    ):
        body: dict[str, Any] = {"model": model}
        provider(VERTEX).edit(
            body, Call("messages", "completions", model, is_streaming=False, path="/")
        )
        assert body == {"model": wanted}


def test_vertex_is_stricter_with_schemas_than_gemini() -> None:
    assert provider(VERTEX).settings("gemini-2.5-pro") == {"strictSchemas": True}
    assert provider({"gemini": {}}).settings("gemini-2.5-pro") == {}


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
        (GEMINI, "generateContent", b"AQ.Ab1", (b"x-goog-api-key", b"AQ.Ab1")),
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


@pytest.mark.parametrize("config", [OPENAI, AZURE, COPILOT])
def test_openais_schemas_list_their_properties(config: dict[str, Any]) -> None:
    own = {"type": "object", "title": "T"}
    schemas: list[Any] = [own, None, {"properties": {"a": {}}}, {"type": "string"}]
    wanted = [
        {"type": "object", "title": "T", "properties": {}},
        {"type": "object", "properties": {}},
        {"type": "object", "properties": {"a": {}}},
        {"type": "string"},
    ]
    for format in ("completions", "responses"):
        functions = [{"name": "f", "parameters": schema} for schema in schemas]
        is_flat = format == "responses"
        tools: list[Any] = [
            {"type": "function", **(one if is_flat else {"function": one})} for one in functions
        ]
        tools.append({"type": "custom", "name": "c"})
        call = Call("messages", format, "gpt-5", is_streaming=False, path="/")
        provider(config).edit({"tools": tools}, call)
        inner = [tool if is_flat else tool["function"] for tool in tools[:-1]]
        assert [function["parameters"] for function in inner] == wanted
    assert own == {"type": "object", "title": "T"}
    same = {"tools": [{"type": "function", "function": {"name": "f"}}]}
    provider(config).edit(
        same, Call("completions", "completions", "m", is_streaming=False, path="")
    )
    assert "parameters" not in same["tools"][0]["function"]
