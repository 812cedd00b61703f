"""Each preset with the simulator in its place: where its chats go, as whom, and what comes back.

Source: spec/llm.md sections 1.3 and 1.4.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest

from sidecar.llm.providers.custom import PRESETS
from sidecar.llm.providers.table import model_provider
from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.simulator import Models

Json = dict[str, Any]
(PORT,) = free_ports(1)
SAID = "You said: hello there"


class Paths(NamedTuple):
    """Where the provider of a preset is asked, by the format that the client speaks."""

    completions: str
    messages: str
    host: str


def _openai(base: str, host: str) -> Paths:
    """A provider that has chat completions alone: clients of messages are converted to them."""
    return Paths(f"{base}/chat/completions", f"{base}/chat/completions", host)


def _both(base: str, host: str, messages: str = "") -> Paths:
    return Paths(f"{base}/chat/completions", messages or f"{base}/messages", host)


COHERE = "/compatibility/v1/chat/completions"
EXPECTED = {
    "cohere": Paths(COHERE, COHERE, "api.cohere.ai"),
    "ollama": _openai("/v1", "localhost:11434"),
    "baseten": _both("/v1", "inference.baseten.co"),
    "cerebras": _openai("/v1", "api.cerebras.ai"),
    "deepinfra": _both("/v1/openai", "api.deepinfra.com", "/anthropic/v1/messages"),
    "deepseek": _both("/v1", "api.deepseek.com", "/anthropic/v1/messages"),
    "groq": _openai("/openai/v1", "api.groq.com"),
    "huggingface": _openai("/v1", "router.huggingface.co"),
    "mistral": _openai("/v1", "api.mistral.ai"),
    "openrouter": _both("/api/v1", "openrouter.ai"),
    "togetherai": _openai("/v1", "api.together.xyz"),
    "xai": _openai("/v1", "api.x.ai"),
    "fireworks": _both("/inference/v1", "api.fireworks.ai"),
}
"""What the providers' own references say."""


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with Models() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(models: Models) -> Iterator[GatewayProcess]:
    def model(name: str) -> Json:
        params = {"hostOverride": models.address, "apiKey": f"sk-{name}", "model": f"{name}-model"}
        return {"name": name, "provider": name, "params": params}

    with GatewayProcess({"llm": {"port": PORT, "models": [model(name) for name in PRESETS]}}) as it:
        yield it


def ask(client: str, preset: str, *, stream: bool = False, simulate: str = "") -> Got:
    """A chat in one of two formats."""
    path = {"completions": "/v1/chat/completions", "messages": "/v1/messages"}[client]
    turns = [{"role": "user", "content": "hello there"}]
    body = {"model": preset, "messages": turns, "max_tokens": 50, "stream": stream}
    headers = {
        "content-type": "application/json",
        "authorization": "Bearer the-clients",
        "x-simulate": simulate,
    }
    return fetch(PORT, path, "POST", headers=headers, body=orjson.dumps(body))


def test_every_preset_is_here() -> None:
    assert EXPECTED.keys() == PRESETS.keys()


@pytest.mark.parametrize("preset", EXPECTED)
@pytest.mark.parametrize("client", ["completions", "messages"])
def test_a_chat(gateway: GatewayProcess, models: Models, client: str, preset: str) -> None:
    models.take()
    got = ask(client, preset)
    assert got.status == 200, got.body
    answer = orjson.loads(got.body)
    if client == "completions":
        assert answer["choices"][0]["message"]["content"] == SAID
    else:
        assert answer["content"][0]["text"] == SAID
    (seen,) = models.take()
    assert seen.target == getattr(EXPECTED[preset], client)
    assert seen.authority == models.address
    assert orjson.loads(seen.body)["model"] == f"{preset}-model"
    keys = [seen.headers.get(name) for name in ("authorization", "x-api-key", "api-key")]
    assert [key for key in keys if key] == [f"Bearer sk-{preset}"]


@pytest.mark.parametrize("preset", EXPECTED)
@pytest.mark.parametrize("client", ["completions", "messages"])
def test_a_stream(gateway: GatewayProcess, client: str, preset: str) -> None:
    got = ask(client, preset, stream=True)
    assert (got.status, got.get("content-type")) == (200, "text/event-stream"), got.body
    events = [
        orjson.loads(line[6:]) for line in got.body.split(b"\n") if line.startswith(b"data: {")
    ]
    if client == "completions":
        assert got.body.endswith(b"data: [DONE]\n\n")
        deltas = [one["choices"][0]["delta"] for one in events if one["choices"]]
        assert "".join(one.get("content") or "" for one in deltas) == SAID
    else:
        assert events[-1]["type"] == "message_stop"
        assert "".join(one["delta"].get("text", "") for one in events if "delta" in one) == SAID


@pytest.mark.parametrize("preset", EXPECTED)
@pytest.mark.parametrize("client", ["completions", "messages"])
def test_an_error(gateway: GatewayProcess, client: str, preset: str) -> None:
    got = ask(client, preset, simulate="fail-429")
    assert (got.status, got.get("content-type")) == (429, "application/json")
    error = orjson.loads(got.body)
    assert "simulated failure 429" in error["error"]["message"]
    assert (error.get("type") == "error") == (client == "messages")


@pytest.mark.parametrize("preset", EXPECTED)
def test_its_own_host(preset: str) -> None:
    """Nobody is asked there: what the preset says is what a call would go to."""
    (authority,) = model_provider(preset, {}).authorities()
    expected = EXPECTED[preset].host
    assert authority.host_header == expected
    assert authority.tls == (preset != "ollama")
