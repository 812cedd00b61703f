"""API keys of a real gateway: who comes in, what goes upstream, which models, how much.

Source: spec/config.md section 3.6; spec/llm.md sections 4.4 and 4.5.
"""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports, proxy_config, run_until_exit
from tests.support.models import openai
from tests.support.simulator import Models
from tests.support.upstream import Answer, Upstream

WAIT_SECONDS = 20.0
EXAMPLE = Path(__file__).resolve().parents[2] / "deploy/examples/llm-virtual-keys.yaml"
ADA = {"key": "k-ada", "metadata": {"name": "ada"}}
INVALID = b"api key authentication failure: invalid credentials"
DAY = {"name": "day", "limit": {"unit": "Tokens", "amount": 40}, "window": {"rolling": "36500d"}}


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def admin(gateway: GatewayProcess, path: str) -> Any:
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.admin_port}{path}", timeout=20) as got:
        return json.load(got)


def test_a_route_with_keys() -> None:
    (port,) = free_ports(1)
    policies = {
        "apiKey": {"keys": [ADA], "mode": "strict"},
        "authorization": {"rules": ['apiKey.name == "ada"']},
    }
    upstream = Upstream(lambda seen: Answer(200, [], b"ok"))
    with upstream, GatewayProcess(proxy_config(port, upstream.address, policies=policies)) as made:
        assert fetch(port, headers=bearer("k-ada")).status == 200
        assert upstream.take()[0].get("authorization") is None
        got = fetch(port)
        assert (got.status, got.body) == (
            401,
            b"api key authentication failure: no API Key found",
        )
        assert fetch(port, headers=bearer("k-bob")).body == INVALID
        assert upstream.take() == []
        made.wait_metric("agentgateway_requests_total", 2, status="401", reason="APIKeyAuth")
        made.wait_line("agw.api_key.name=ada")
        shown = json.dumps(admin(made, "/config_dump"))
        assert "ada" in shown
        assert "k-ada" not in shown
        assert "k-ada" not in made.log()


def test_the_direct_way_and_the_long_way_agree() -> None:
    """A kept connection makes the second request a direct one; a route is chosen by the header."""
    (port,) = free_ports(1)
    upstream = Upstream(lambda seen: Answer(200, [], b"ok"))
    config = proxy_config(port, upstream.address, policies={"apiKey": {"keys": [ADA]}})
    with upstream, GatewayProcess(config, workers=1):
        for _ in range(5):
            assert fetch(port, headers={**bearer("k-ada"), "x": "1"}).status == 200
            assert fetch(port, headers=bearer("wrong")).body == INVALID
            assert fetch(port, headers={"x": "1"}).status == 200
        seen = upstream.take()
        assert len(seen) == 10
        assert all(one.get("authorization") is None and one.get("x") == "1" for one in seen)


def test_budgets_need_a_journal(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    policies = {"apiKey": {"keys": [{**ADA, "budgets": [DAY]}]}}
    path = tmp_path / "gateway.yaml"
    path.write_text(yaml.safe_dump(proxy_config(port, "127.0.0.1:1", policies=policies)))
    ended = run_until_exit(path)
    output = ended.stdout + ended.stderr
    assert ended.returncode != 0
    assert "apiKey.keys[0].budgets" in output
    assert "API key budgets require config.database" in output
    assert "k-ada" not in output


PORT, ROUTED = free_ports(2)


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with Upstream(openai) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(
    provider: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    keys = {
        "mode": "optional",
        "keys": [
            {**ADA, "allowedModels": ["gpt-*", "team"]},
            {"key": "k-none", "allowedModels": []},
            {"key": "k-eve", "metadata": {"name": "eve"}, "budgets": [DAY]},
        ],
    }
    params = {"baseUrl": f"http://{provider.address}/v1", "apiKey": "sk-own"}
    weighted = {"weighted": {"targets": [{"model": "claude-x"}]}}
    routed = {
        **proxy_config(ROUTED, "127.0.0.1:1"),
        "config": {"state": {"journal": str(tmp_path_factory.mktemp("spend") / "spend.db")}},
        "llm": {
            "port": PORT,
            "policies": {"apiKey": keys},
            "models": [
                {"name": name, "provider": "openAI", "params": params}
                for name in ("gpt-one", "claude-x", "*")
            ],
            "virtualModels": [{"name": "team", "routing": weighted}],
        },
    }
    (listener,) = routed["binds"][0]["listeners"]
    listener["routes"][0].update(
        policies={"apiKey": keys, "ai": {"routes": {"/raw": "passthrough", "*": "completions"}}},
        backends=[
            {
                "ai": {
                    "name": "p",
                    "provider": {"openAI": {}},
                    "hostOverride": provider.address,
                    "pathPrefix": "/v1",
                }
            }
        ],
    )
    with GatewayProcess(routed) as made:
        yield made


def ask(port: int, model: str, key: str | None, path: str = "/v1/chat/completions") -> Got:
    headers = {"content-type": "application/json", **(bearer(key) if key else {})}
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
    return fetch(port, path, "POST", headers=headers, body=orjson.dumps(body))


@pytest.mark.parametrize("port", [PORT, ROUTED], ids=["llm", "ai"])
@pytest.mark.parametrize(
    ("model", "key", "path", "is_allowed"),
    [
        ("gpt-one", "k-ada", "/v1/chat/completions", True),
        ("claude-x", "k-ada", "/v1/chat/completions", False),
        ("team", "k-ada", "/v1/chat/completions", True),
        ("gpt-one", "k-none", "/v1/chat/completions", False),
        ("claude-x", None, "/v1/chat/completions", True),
        ("gpt-one", "k-ada", "/v1/chat/completions?model=claude-x", False),
        ("gpt-one", "k-ada", "/v1/chat/completions?%6dodel=claude-x", False),
    ],
)
def test_allowed_models(
    gateway: GatewayProcess, port: int, model: str, key: str | None, path: str, is_allowed: bool
) -> None:
    got = ask(port, model, key, path)
    if is_allowed:
        assert got.status == 200
        return
    error = orjson.loads(got.body)["error"]
    assert (got.status, error["code"]) == (403, "model_not_allowed")


def test_what_passes_unread_is_looked_at(gateway: GatewayProcess, provider: Upstream) -> None:
    assert ask(ROUTED, "gpt-one", "k-ada", "/raw").status == 200
    provider.take()
    assert ask(ROUTED, "claude-x", "k-ada", "/raw").status == 403
    assert ask(ROUTED, "claude-x", "k-ada", "/raw?model=gpt-one").status == 403
    assert fetch(ROUTED, "/raw", "POST", headers=bearer("k-ada"), body=b"x").status == 403
    assert provider.take() == []


def test_the_list_is_the_keys(gateway: GatewayProcess) -> None:
    def names(headers: dict[str, str]) -> list[str]:
        got = fetch(PORT, "/v1/models", headers=headers)
        return [one["id"] for one in orjson.loads(got.body)["data"]]

    assert names({}) == ["gpt-one", "claude-x", "*", "team"]
    assert names(bearer("k-ada")) == ["gpt-one", "team", "gpt-*"]
    assert names(bearer("k-none")) == []
    assert fetch(PORT, "/v1/models/claude-x", headers=bearer("k-ada")).status == 404


def wait_used(gateway: GatewayProcess, key: str, name: str, value: str) -> dict[str, Any]:
    until = time.monotonic() + WAIT_SECONDS
    while True:
        found = admin(gateway, f"/api/budgets/status?apiKeyName={key}")["budgets"]
        for one in found:
            if one["name"] == name and one["usage"]["used"] == value:
                return dict(one)
        assert time.monotonic() < until, (found, gateway.log())
        time.sleep(0.01)


def test_a_budget_is_one_over_all_ports(gateway: GatewayProcess) -> None:
    assert ask(PORT, "gpt-one", "k-eve").status == 200
    one = wait_used(gateway, "eve", "day", "40")
    assert one["apiKeyName"] == "eve"
    assert one["usage"]["exceeded"]
    for port in (PORT, ROUTED):
        got = ask(port, "gpt-one", "k-eve")
        assert (got.status, orjson.loads(got.body)["error"]["code"]) == (429, "budget_exceeded")
    # Anthropic's clients are told so in their own shape.
    body = orjson.dumps({"model": "gpt-one", "messages": []})
    got = fetch(PORT, "/v1/messages", "POST", headers=bearer("k-eve"), body=body)
    told = {"type": "rate_limit_error", "message": "Budget exceeded"}
    assert (got.status, orjson.loads(got.body)) == (429, {"type": "error", "error": told})
    assert ask(PORT, "gpt-one", "k-ada").status == 200


def test_the_example(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    config = yaml.safe_load(EXAMPLE.read_text())
    config["llm"]["port"] = port
    with Models() as models:
        env = {
            "BUDGET_JOURNAL": str(tmp_path / "spend.db"),
            "OPENAI_ADDRESS": models.address,
            "ANTHROPIC_ADDRESS": models.address,
        }
        with GatewayProcess(config, env=env) as made:
            assert ask(port, "gpt-4o", "demo-search").status == 200
            assert ask(port, "claude-x", "demo-search").status == 403
            assert ask(port, "claude-x", "demo-operations").status == 200
            assert ask(port, "gpt-4o", "other").status == 401
            found = admin(made, "/api/budgets/status?apiKeyName=search")["budgets"]
            assert {one["name"] for one in found} == {"daily", "monthly"}
