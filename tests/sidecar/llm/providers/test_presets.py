"""Providers by name alone, custom ones, and what the parameters of a model make of them."""

from __future__ import annotations

from typing import Any

import pytest

from sidecar.errors import ConfigError, RequestError
from sidecar.llm.providers.base import Call
from sidecar.llm.providers.custom import PRESETS
from sidecar.llm.providers.table import backend_provider, model_provider
from tests.sidecar.llm.providers.calls import provider

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


@pytest.mark.parametrize(
    ("preset", "client", "kept"),
    [
        ("mistral", "messages", {"max_tokens"}),
        ("deepseek", "responses", {"max_tokens", "user"}),
        ("groq", "messages", {"max_completion_tokens", "user"}),
        ("mistral", "completions", {"max_completion_tokens", "user"}),
    ],
)
def test_presets_that_know_other_fields(preset: str, client: str, kept: set[str]) -> None:
    messages = [{"role": "developer", "content": "a"}, {"role": "user", "content": "b"}]
    body: dict[str, Any] = {"messages": messages, "max_completion_tokens": 9, "user": "u"}
    call = Call(client, "completions", "m", is_streaming=False, path="/")
    provider({preset: {}}).edit(body, call)
    assert body.keys() == kept | {"messages"}
    role = "developer" if client == "completions" else "system"
    assert [message["role"] for message in messages] == [role, "user"]


@pytest.mark.parametrize("config", [{"mistral": {}}, {"openAI": {}}])
@pytest.mark.parametrize("odd", [None, 1, "x", ["x", {}, None], {"a": 1}])
def test_bodies_that_a_transformation_spoilt(config: dict[str, Any], odd: object) -> None:
    """`finalTransformations` come before the provider's edit."""
    call = Call("messages", "completions", "m", is_streaming=False, path="/")
    body = {"messages": odd, "tools": odd}
    provider(config).edit(body, call)
    assert body == {"messages": odd, "tools": odd}
    provider(config).edit({}, call)
