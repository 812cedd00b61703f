"""What model calls cost, and what that limits; content for expressions; counts of the gateway's.

Source: spec/llm.md sections 2.1, 4.5, 4.7 and 5.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import COMPLETION, JSON, anthropic, openai
from tests.support.upstream import Answer, Seen, Upstream

PORT, GATED = free_ports(2)
PRICES = {
    "providers": {
        "openai": {
            "models": {
                "gpt-test-0125": {
                    "rates": {"input": "10", "output": "30"},
                    "pieces": {"inputCharacter": "0.000001"},
                }
            }
        },
        "anthropic": {"models": {"claude-test": {"rates": {"input": "1", "output": "2"}}}},
        "azure": {
            "models": {
                "prod-chat": {"rates": {"input": "1", "output": "2"}, "tags": ["claude-opus-4-7"]}
            }
        },
    }
}
USD = (17 * 10 + 23 * 30) / 1e6


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[Upstream, Upstream]]:
    with Upstream(openai) as one, Upstream(anthropic) as two:
        yield one, two


@pytest.fixture(scope="module")
def gateway(upstreams: tuple[Upstream, Upstream]) -> Iterator[GatewayProcess]:
    one, two = upstreams

    def model(name: str, kind: str, up: Upstream) -> dict[str, Any]:
        return {
            "name": name,
            "provider": kind,
            "params": {"baseUrl": f"http://{up.address}/v1", "tokenize": True},
        }

    budget = {
        "name": "team",
        "limit": {"unit": "USD", "amount": USD * 1.5},
        "window": {"rolling": "30d"},
        "key": 'request.headers["x-team"]',
        "onMissingKey": "skip",
    }
    config = {
        "config": {"modelCatalog": [{"inline": PRICES}]},
        "frontendPolicies": {
            "accessLog": {
                "add": {
                    "said": "llm.completion[0]",
                    "asked": "llm.prompt[0].content",
                    "raw": "llmRequest.messages[0].content",
                    "pieces": "string(llm.cost.pieces) + string(llm.pieces.inputCharacter)",
                }
            }
        },
        "llm": {
            "port": PORT,
            "models": [
                model("gpt-test", "openAI", one),
                model("fail-503", "openAI", one),
                {**model("speaker", "openAI", one), "passthrough": "detect"},
                model("claude-test", "anthropic", two),
                {
                    "name": "deployed",
                    "provider": "azure",
                    "params": {
                        "model": "prod-chat",
                        "azureResourceName": "res",
                        "azureResourceType": "foundry",
                        "hostOverride": two.address,
                        "apiKey": "k",
                    },
                },
            ],
            "virtualModels": [
                {
                    "name": "over",
                    "routing": {
                        "failover": {
                            "targets": [
                                {"model": "fail-503", "priority": 0},
                                {"model": "claude-test", "priority": 1},
                            ]
                        }
                    },
                }
            ],
            "policies": {"budgets": [budget]},
        },
    }
    with GatewayProcess(config) as made:
        yield made


def ask(model: str, path: str = "/v1/chat/completions", team: str = "", **more: Any) -> Got:
    headers = {"content-type": "application/json"} | ({"x-team": team} if team else {})
    body = {"model": model, "messages": [{"role": "user", "content": "hello you"}], **more}
    return fetch(PORT, path, "POST", headers=headers, body=orjson.dumps(body))


@pytest.mark.parametrize("stream", [False, True])
def test_costs_are_counted_and_logged(gateway: GatewayProcess, stream: bool) -> None:
    name = "agentgateway_gen_ai_client_cost_usd_total"
    before = gateway.metric(name, gen_ai_system="openai")
    assert ask("gpt-test", stream=stream, seed=int(stream) + 70).status == 200
    gateway.wait_metric(name, before + USD, gen_ai_system="openai")
    line = gateway.wait_line(f"gen_ai.request.seed={int(stream) + 70}")
    assert f"agw.ai.usage.cost.total={USD}" in line
    said = "hello" if stream else "hi"
    for field in (f"said={said}", 'asked="hello you"', 'raw="hello you"'):
        assert field in line


def test_a_budget_is_charged_once_and_then_refuses(gateway: GatewayProcess) -> None:
    assert [ask("gpt-test", team="a").status for _ in range(3)] == [200, 200, 429]
    assert ask("gpt-test", team="b").status == 200


def test_a_failover_costs_what_the_answer_cost(gateway: GatewayProcess) -> None:
    assert ask("over", team="c").status == 200
    name = "agentgateway_gen_ai_client_cost_usd_total"
    gateway.wait_metric(name, (17 + 2 * 23) / 1e6, gen_ai_system="anthropic")
    labels = {"gen_ai_request_model": "fail-503"}
    assert gateway.metric("agentgateway_gen_ai_server_request_duration_count", **labels) == 0


def test_pieces_cost_beside_tokens(gateway: GatewayProcess) -> None:
    assert ask("speaker", "/v1/audio/speech", seed=90, input="hello").status == 200
    line = gateway.wait_line("gen_ai.request.seed=90")
    assert f"agw.ai.usage.cost.total={USD + 5e-6}" in line
    assert "pieces=0.0000055" in line


def test_a_deployment_is_what_the_catalogue_says(
    gateway: GatewayProcess, upstreams: tuple[Upstream, Upstream]
) -> None:
    got = ask("deployed", reasoning_effort="high")
    assert got.status == 200
    assert orjson.loads(got.body)["object"] == "chat.completion"
    seen = upstreams[1].seen[-1]
    assert seen.target == "/anthropic/v1/messages"
    # Of a model that refuses budgets.
    assert orjson.loads(seen.body)["thinking"]["type"] == "adaptive"
    name = "agentgateway_gen_ai_client_cost_usd_total"
    gateway.wait_metric(name, (17 + 2 * 23) / 1e6, gen_ai_system="azure")


def test_a_lookup_tells_whether_there_was_a_price(gateway: GatewayProcess) -> None:
    found = gateway.metric("agentgateway_cost_catalog_lookups_total", status="Exact")
    ask("gpt-test")
    gateway.wait_metric("agentgateway_cost_catalog_lookups_total", found + 1, status="Exact")


def test_tokens_are_counted_here_for_a_provider_that_cannot(gateway: GatewayProcess) -> None:
    got = ask("gpt-test", "/v1/messages/count_tokens")
    assert got.status == 200
    assert 2 <= orjson.loads(got.body)["input_tokens"] <= 20


def test_groups_and_a_provider_that_is_ejected(upstreams: tuple[Upstream, Upstream]) -> None:
    asked: list[str] = []

    def tired(seen: Seen) -> Answer:
        asked.append(seen.target)
        return Answer(429, [("retry-after", "60"), *JSON], b'{"error":{"message":"slow down"}}')

    one, _ = upstreams
    health = {"health": {"unhealthyExpression": "response.code == 429", "eviction": {}}}

    def provider(name: str, address: str, **more: Any) -> dict[str, Any]:
        kind: dict[str, Any] = {"openAI": {}}
        return {
            "name": name,
            "provider": kind,
            "hostOverride": address,
            "pathPrefix": "/v1",
            **more,
        }

    with Upstream(tired) as first:
        groups = [
            {"providers": [provider("first", first.address, policies=health)]},
            {"providers": [provider("second", one.address)]},
        ]
        route = {"backends": [{"ai": {"groups": groups}}]}
        config = {"binds": [{"port": GATED, "listeners": [{"routes": [route]}]}]}
        with GatewayProcess(config):
            body = orjson.dumps({"model": "gpt-test", "messages": []})
            for _ in range(3):
                got = fetch(GATED, "/v1/chat/completions", "POST", body=body)
                assert (got.status, orjson.loads(got.body)) == (200, COMPLETION)
    # The second and third request knew better: Retry-After said a minute.
    assert len(asked) == 1


def test_a_policy_may_read_what_is_asked(upstreams: tuple[Upstream, Upstream]) -> None:
    bucket = {
        "maxTokens": 1,
        "tokensPerFill": 1,
        "fillInterval": "1h",
        "key": "llmRequest.model",
    }
    (port,) = free_ports(1)
    provider = {"name": "*", "provider": "openAI"}
    params = {"params": {"baseUrl": f"http://{upstreams[0].address}/v1"}}
    llm = {
        "port": port,
        "models": [{**provider, **params}],
        "policies": {"localRateLimit": [bucket]},
    }
    with GatewayProcess({"llm": llm}):
        statuses = []
        for model in ("a", "a", "b"):
            body = orjson.dumps({"model": model, "messages": []})
            statuses.append(fetch(port, "/v1/chat/completions", "POST", body=body).status)
    assert statuses == [200, 429, 200]


def test_a_catalogue_file_is_read_again_when_it_changes(
    upstreams: tuple[Upstream, Upstream], tmp_path: Path
) -> None:
    """A file at fault changes nothing."""
    (port,) = free_ports(1)
    file = tmp_path / "prices.json"

    def rates(amount: str) -> bytes:
        models = {"gpt-test-0125": {"rates": {"input": amount, "output": amount}}}
        return orjson.dumps({"providers": {"openai": {"models": models}}})

    def replace_with(text: bytes) -> None:
        other = tmp_path / "new.json"
        other.write_bytes(text)
        other.rename(file)

    def cost() -> float:
        body = orjson.dumps({"model": "m", "messages": []})
        headers = {"content-type": "application/json"}
        before = own.metric(name)
        assert fetch(port, "/v1/chat/completions", "POST", headers=headers, body=body).status == 200
        until = time.monotonic() + 20
        while (after := own.metric(name)) == before:
            assert time.monotonic() < until
        return round((after - before) * 1e6, 6)

    file.write_bytes(rates("10"))
    params = {"baseUrl": f"http://{upstreams[0].address}/v1"}
    model = {"name": "m", "provider": "openAI", "params": params}
    name = "agentgateway_gen_ai_client_cost_usd_total"
    config = {
        "config": {"modelCatalog": [{"file": str(file)}]},
        "llm": {"port": port, "models": [model]},
    }
    with GatewayProcess(config) as own:
        assert cost() == 400
        revision = own.dump()["revision"]
        replace_with(rates("20"))
        own.wait_applied(revision + 1)
        assert cost() == 800
        replace_with(b"{nonsense")
        own.wait_line("prices.json")
        assert cost() == 800
        replace_with(rates("5"))
        own.wait_applied(revision + 2)
        assert cost() == 200


def test_a_catalogue_is_fetched(upstreams: tuple[Upstream, Upstream]) -> None:
    """What is known outlives a changed file, and the process that fetched it."""
    (port,) = free_ports(1)
    models = {"gpt-test-0125": {"rates": {"input": "10", "output": "10"}}}
    prices = orjson.dumps({"providers": {"openai": {"models": models}}})
    held = [Answer(200, [], prices)]
    name = "agentgateway_gen_ai_client_cost_usd_total"
    looks = "agentgateway_cost_catalog_fetches_total"
    params = {"baseUrl": f"http://{upstreams[0].address}/v1"}
    model = {"name": "m", "provider": "openAI", "params": params}
    with Upstream(lambda seen: held[0]) as server:
        source = {"url": f"http://{server.address}/prices.json?token=t0p"}
        config: dict[str, Any] = {
            "config": {"modelCatalog": [{"inline": "{}"}, source]},
            "llm": {"port": port, "models": [model]},
        }
        with GatewayProcess(config) as own:

            def assert_priced(times: int) -> None:
                body = orjson.dumps({"model": "m", "messages": []})
                headers = {"content-type": "application/json"}
                got = fetch(port, "/v1/chat/completions", "POST", headers=headers, body=body)
                assert got.status == 200
                own.wait_metric(name, times * 400e-6)

            own.wait_line("new prices")
            own.wait_metric(looks, 1, result="changed")
            own.wait_applied(own.dump()["revision"])
            assert_priced(1)
            held[:] = [Answer(200, [], b"<html>")]
            own.reload({**config, "frontendPolicies": {"http": {"maxBufferSize": 12345}}})
            assert_priced(2)
            killed = own.control_pid()
            os.kill(killed, signal.SIGKILL)
            own.wait_replaced([killed])
            line = own.wait_line("prices at")
            assert "prices.json: the catalogue: not JSON" in line
            assert "t0p" not in own.log()
            assert_priced(3)
