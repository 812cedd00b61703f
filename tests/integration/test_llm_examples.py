"""Each `deploy/examples/llm-*` as it stands, with the simulator in place of the providers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.providers import ENV
from tests.support.simulator import Models

FOLDER = Path(__file__).resolve().parents[2] / "deploy/examples"
ELSEWHERE = {"llm-virtual-keys", "llm-guards-clouds"}
"""Run by test_api_keys.py and test_llm_cloud_guards.py."""
EXAMPLES = sorted(path for path in FOLDER.glob("llm-*.yaml") if path.stem not in ELSEWHERE)
TEXT = "You said: hello"
(PORT,) = free_ports(1)


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with Models() as made:
        yield made


def ask(model: str, path: str = "/v1/chat/completions", **more: Any) -> Got:
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    return fetch(PORT, path, "POST", headers=headers, body=orjson.dumps(body))


def said(got: Got) -> str:
    assert got.status == 200, got.body
    return str(orjson.loads(got.body)["choices"][0]["message"]["content"])


def openai_to_anthropic(models: Models) -> None:
    assert said(ask("smart")) == TEXT
    (seen,) = models.take()
    sent = orjson.loads(seen.body)
    assert (seen.target, sent["model"]) == ("/v1/messages", "claude-sonnet-4-5")
    assert (sent["max_tokens"], seen.headers["x-api-key"]) == (1024, "sk-simulated")


def failover(models: Models) -> None:
    assert said(ask("reliable")) == TEXT
    assert [seen.target for seen in models.take()] == ["/v1/chat/completions", "/v1/messages"]
    assert ask("first").status == 404


def budget(_: Models) -> None:
    team = {"x-team": "a"}
    assert [ask("gpt-4o-mini", headers=team).status for _ in range(2)] == [200, 429]
    assert ask("gpt-4o-mini").status >= 400


def bedrock(models: Models) -> None:
    assert said(ask("claude")) == TEXT
    (seen,) = models.take()
    assert seen.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=AKIA")
    assert ask("titan-embed", "/v1/embeddings", input="hello").status == 200


def gemini(models: Models) -> None:
    assert said(ask("gemini-2.5-flash")) == TEXT
    (seen,) = models.take()
    assert seen.target == "/v1beta/models/gemini-2.5-flash:generateContent"
    assert seen.headers["x-goog-api-key"] == "AIza-simulated"


def azure(models: Models) -> None:
    assert said(ask("gpt-4o-mini")) == TEXT
    (seen,) = models.take()
    assert (seen.target, seen.headers["api-key"]) == (
        "/openai/v1/chat/completions",
        "sk-simulated",
    )


def routing_mode(models: Models) -> None:
    assert said(ask("fast", "/team-a/v1/chat/completions")) == TEXT
    (seen,) = models.take()
    sent = orjson.loads(seen.body)
    assert (sent["model"], sent["messages"][0]["role"]) == ("gpt-4o-mini", "system")
    fault = {"x-simulate": "fail-503"}
    assert ask("fast", "/team-a/v1/chat/completions", headers=fault).status == 503
    assert [one.target for one in models.take()] == ["/v1/chat/completions", "/v1/messages"]


CHECKS: dict[str, Callable[[Models], None]] = {
    "llm-azure": azure,
    "llm-bedrock": bedrock,
    "llm-budget": budget,
    "llm-failover": failover,
    "llm-gemini": gemini,
    "llm-openai-to-anthropic": openai_to_anthropic,
    "llm-routing-mode": routing_mode,
}


def simulated(path: Path, address: str) -> dict[str, Any]:
    """The example, but that its providers are at another address."""
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    for model in config.get("llm", {}).get("models", []):
        model.setdefault("params", {})["baseUrl"] = f"http://{address}"
    for route in config.get("routes", []):
        for backend in route["backends"]:
            for group in backend["ai"]["groups"]:
                for provider in group["providers"]:
                    provider |= {"hostOverride": address, "pathPrefix": "/v1"}
    return config


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(path: Path, models: Models) -> None:
    kinds = ("OPENAI", "ANTHROPIC", "GEMINI", "AZURE", "BEDROCK")
    env = {
        **ENV,
        **{f"{kind}_API_KEY": "sk-simulated" for kind in kinds},
        "GEMINI_API_KEY": "AIza-simulated",
        "FIRST_MODEL": "gpt-4o-mini-fail-503",
        "TEAM_USD": "0.000001",
        "LLM_PORT": str(PORT),
    }
    models.take()
    with GatewayProcess(simulated(path, models.address), env=env):
        CHECKS[path.stem](models)
