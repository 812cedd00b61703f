"""Configurations of providers, and the calls that tests make of them."""

from __future__ import annotations

from typing import Any

from sidecar.llm.providers.base import Call, Provider, Target
from sidecar.llm.providers.table import backend_provider

OPENAI: dict[str, Any] = {"openAI": {}}
ANTHROPIC: dict[str, Any] = {"anthropic": {}}
GEMINI: dict[str, Any] = {"gemini": {}}
VERTEX: dict[str, Any] = {"vertex": {"projectId": "p1", "region": "us-central1"}}
GLOBAL: dict[str, Any] = {"vertex": {"projectId": "p1"}}
BEDROCK: dict[str, Any] = {"bedrock": {"region": "us-west-2"}}
AZURE: dict[str, Any] = {"azure": {"resourceName": "res", "resourceType": "openAI"}}
FOUNDRY: dict[str, Any] = {"azure": {"resourceName": "res", "resourceType": "foundry"}}
COPILOT: dict[str, Any] = {"copilot": {}}
CLAUDE = "claude-sonnet-4-5-20250929"
V = "/v1/projects/p1/locations/us-central1"


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
