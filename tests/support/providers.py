"""A gateway before the simulator of model providers: one model for each provider."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.support.gateway import GatewayProcess
from tests.support.simulator import Models

Json = dict[str, Any]

ENV = {
    "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
    "AWS_SECRET_ACCESS_KEY": "not-a-real-secret",
    "AWS_REGION": "us-east-1",
}
KEY: Json = {"apiKey": "sk-simulated"}
VERTEX: Json = {"vertexProject": "p1", "vertexRegion": "us-central1", **KEY}
AZURE: Json = {"azureResourceName": "r1", **KEY}
BEDROCK: Json = {"awsRegion": "us-east-1"}

PROVIDERS: dict[str, tuple[Any, str, Json]] = {
    "openai": ("openAI", "gpt-4o-mini", KEY),
    "anthropic": ("anthropic", "claude-sonnet-4-5", KEY),
    "gemini": ("gemini", "gemini-2.5-flash", KEY),
    "vertex-gemini": ("vertex", "gemini-2.5-flash", VERTEX),
    "vertex-claude": ("vertex", "claude-sonnet-4-5@20250929", VERTEX),
    "bedrock": ("bedrock", "anthropic.claude-sonnet-4-5-20250929-v1:0", BEDROCK),
    "azure": ("azure", "gpt-4o-mini", {"azureResourceType": "openAI", **AZURE}),
    "foundry-claude": ("azure", "claude-sonnet-4-5", {"azureResourceType": "foundry", **AZURE}),
    "copilot": ("copilot", "gpt-4o-mini", KEY),
    "groq": ("groq", "llama-3.3-70b", KEY),
    "custom": ({"custom": {"formats": [{"type": "responses"}]}}, "own-model", KEY),
}
"""Name of the model at the gateway: provider, the provider's name of it, parameters."""

EMBEDDERS: dict[str, tuple[Any, str, Json]] = {
    "embed-openai": ("openAI", "text-embedding-3-small", KEY),
    "embed-gemini": ("gemini", "gemini-embedding-001", KEY),
    "embed-vertex": ("vertex", "text-embedding-005", VERTEX),
    "embed-titan": ("bedrock", "amazon.titan-embed-text-v2:0", BEDROCK),
    "embed-azure": ("azure", "text-embedding-3-small", {"azureResourceType": "openAI", **AZURE}),
}


def model(name: str, address: str, provider: Any, own_name: str, params: Json) -> Json:
    """An entry of `llm.models`."""
    base = {"baseUrl": f"http://{address}", "model": own_name}
    return {"name": name, "provider": provider, "params": base | params}


@contextmanager
def simulated(port: int) -> Iterator[tuple[GatewayProcess, Models]]:
    """The gateway on that port; each model has a twin `…-fail-429` whose provider has no room."""
    with Models() as models:
        given = PROVIDERS | EMBEDDERS
        entries = [model(name, models.address, *one) for name, one in given.items()]
        for name, (provider, _, params) in PROVIDERS.items():
            failing = (provider, f"{PROVIDERS[name][1]}-fail-429", params)
            entries.append(model(f"{name}-fail-429", models.address, *failing))
        config = {"llm": {"port": port, "models": entries}}
        with GatewayProcess(config, env=ENV) as gateway:
            yield gateway, models
