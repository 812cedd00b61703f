"""Realtime models through the gateway, with the `websockets` client and server; credentials that
are found once and kept over new configurations.

Source: spec/llm.md sections 1.5 and 2.15.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.sync.server import Server, ServerConnection, serve
from websockets.typing import Subprotocol

from tests.support.client import fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import openai
from tests.support.upstream import Upstream

PORT, LLM, NOBODY, COPILOT = free_ports(4)


def session(connection: ServerConnection) -> None:
    """Say how the session was asked for, then answer each event with its own."""
    assert connection.request is not None
    headers = connection.request.headers
    shown = {"path": connection.request.path, "key": headers.get("authorization")}
    if connection.subprotocol:
        shown["protocols"] = headers.get("sec-websocket-protocol")
    with contextlib.suppress(ConnectionClosed):
        connection.send(json.dumps({"type": "session.created", **shown}))
        for message in connection:
            connection.send(message)


def chosen(connection: ServerConnection, offered: Sequence[Subprotocol]) -> Subprotocol | None:
    """`realtime`, where it is offered."""
    return next((one for one in offered if one == "realtime"), None)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(session, "127.0.0.1", 0, compression=None, select_subprotocol=chosen) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def gateway(server: Server) -> Iterator[GatewayProcess]:
    address = f"127.0.0.1:{server.socket.getsockname()[1]}"
    backend = {
        "ai": {
            "name": "live",
            "provider": {"openAI": {}},
            "hostOverride": address,
            "pathPrefix": "/v1",
            "policies": {"backendAuth": {"key": "sk-provider"}},
        }
    }
    routes = {"/v1/realtime": "realtime"}
    budget = {
        "name": "used",
        "limit": {"unit": "Tokens", "amount": 40},
        "window": {"rolling": "36500d"},
        "key": 'request.headers["x-user"]',
        "onMissingKey": "skip",
    }
    route = {"policies": {"ai": {"routes": routes}, "budgets": [budget]}, "backends": [backend]}
    rules = {"regex": {"rules": [{"builtin": "ssn"}]}}
    refused = {"regex": {"action": "reject", "rules": [{"pattern": "secret"}]}}
    guards = {"streaming": "Enabled", "request": [rules, refused], "response": [rules, refused]}
    guarded = {
        "matches": [{"path": {"pathPrefix": "/guarded"}}],
        "policies": {
            "ai": {"routes": {**routes, "/v1/realtime": "realtime"}, "promptGuard": guards},
            "budgets": [budget],
        },
        "backends": [backend],
    }
    added = {"guessed": "llm.estimated", "payer": 'request.headers["x-user"]'}
    config = {
        "binds": [{"port": PORT, "listeners": [{"routes": [guarded, route]}]}],
        "llm": models(address, budget, {"request": [rules, refused], "response": [rules, refused]}),
        "frontendPolicies": {"accessLog": {"add": added}},
    }
    with GatewayProcess(config) as made:
        yield made


def models(address: str, budget: dict[str, Any], guards: dict[str, Any]) -> dict[str, Any]:
    """The `llm` block: a model with two names, guards, and a provider without sessions."""

    def model(name: str, at: str, provider: str = "openAI", **more: Any) -> dict[str, Any]:
        params = {"model": "gpt-live", "apiKey": "sk-provider", "baseUrl": f"http://{at}/v1"}
        return {"name": name, "provider": provider, "params": params, **more}

    targets = [{"model": "absent", "priority": 0}, {"model": "live", "priority": 1}]
    keys = [
        {"key": "sk-all"},
        {"key": "sk-some", "allowedModels": ["other"]},
        {"key": "sk-live", "allowedModels": ["live"]},
    ]
    return {
        "port": LLM,
        "models": [
            model("live", address),
            model("judged", address, guardrails=guards),
            model("absent", f"127.0.0.1:{NOBODY}"),
            model("claude", address, "anthropic"),
        ],
        "virtualModels": [{"name": "voice", "routing": {"failover": {"targets": targets}}}],
        "policies": {"apiKey": {"keys": keys, "mode": "strict"}, "budgets": [budget]},
    }


def test_realtime(gateway: GatewayProcess) -> None:
    url = f"ws://127.0.0.1:{PORT}/v1/realtime?model=gpt-realtime"
    mine = {"authorization": "Bearer mine"}
    with connect(url, additional_headers=mine, compression=None) as client:
        created = json.loads(client.recv(timeout=20))
        assert created == {
            "type": "session.created",
            "path": "/v1/realtime?model=gpt-realtime",
            "key": "Bearer sk-provider",
        }
        for size in (10, 200_000):
            event = json.dumps({"type": "input_audio_buffer.append", "audio": "A" * size})
            client.send(event)
            assert client.recv(timeout=20) == event


def turn(sent: int, received: int, cached: int = 0) -> dict[str, Any]:
    """What ends a turn."""
    usage = {
        "input_tokens": sent,
        "output_tokens": received,
        "total_tokens": sent + received,
        "input_token_details": {"text_tokens": 1, "audio_tokens": 2, "cached_tokens": cached},
        "output_token_details": {"text_tokens": 1, "audio_tokens": 2},
    }
    return {"type": "response.done", "response": {"id": "r", "usage": usage}}


@pytest.mark.parametrize("prefix", ["", "/guarded"])
def test_a_session_costs_the_sum_of_its_turns(gateway: GatewayProcess, prefix: str) -> None:
    url = f"ws://127.0.0.1:{PORT}{prefix}/v1/realtime?model=gpt-realtime"
    payer = f"payer{prefix.replace('/', '-')}"
    # The client offers compression, which nobody could look into.
    with connect(url, additional_headers={"x-user": payer}) as client:
        client.recv(timeout=20)
        spoken = {"type": "response.output_audio_transcript.delta", "delta": "abc"}
        model = {"type": "session.updated", "session": {"model": "gpt-realtime-2025-08-28"}}
        for event in (spoken, turn(10, 5, cached=4), model, turn(20, 6)):
            client.send(json.dumps(event))
        seen = [json.loads(client.recv(timeout=20)) for _ in range(4)]
        assert seen == [spoken, turn(10, 5, cached=4), model, turn(20, 6)]
        # A turn that never ends: nine characters are three tokens, and there were three events.
        # Guards would hold what they have not judged yet.
        for _ in range(0 if prefix else 3):
            client.send(json.dumps(spoken))
            assert json.loads(client.recv(timeout=20)) == spoken
    line = gateway.wait_line(f"payer={payer}")
    output = 11 if prefix else 14
    assert "gen_ai.usage.input_tokens=30" in line
    assert f"gen_ai.usage.output_tokens={output}" in line
    assert "gen_ai.response.model=gpt-realtime-2025-08-28" in line
    assert ("guessed=true" in line) is not bool(prefix)
    assert "agw.ai.usage.cost.total=" in line
    until = time.monotonic() + 20
    while used(gateway, payer) != str(30 + output):
        assert time.monotonic() < until, gateway.log()
        time.sleep(0.01)
    with pytest.raises(InvalidStatus) as refused:
        connect(url, additional_headers={"x-user": payer})
    assert refused.value.response.status_code == 429


def calling(query: str, key: str = "sk-all", **headers: str) -> Any:
    """A session in `llm` mode, which is asked for in clear."""
    url = f"ws://127.0.0.1:{LLM}/v1/realtime{query}"
    fields = {"authorization": f"Bearer {key}", **headers}
    return connect(url, additional_headers=fields)


@pytest.mark.parametrize("name", ["live", "voice"])
def test_a_model_by_its_name(gateway: GatewayProcess, name: str) -> None:
    payer = f"llm-{name}"
    fields = {"x-user": payer}
    # A second name is nobody's: the provider might believe that one.
    with calling(f"?a=b&model={name}&model=gpt-other", **fields) as client:
        created = json.loads(client.recv(timeout=20))
        assert created["path"] == "/v1/realtime?a=b&model=gpt-live"
        assert created["key"] == "Bearer sk-provider"
        client.send(json.dumps(turn(30, 11)))
        assert json.loads(client.recv(timeout=20)) == turn(30, 11)
    line = gateway.wait_line(f"payer={payer}")
    assert "gen_ai.usage.input_tokens=30" in line
    assert "gen_ai.request.model=gpt-live" in line
    until = time.monotonic() + 20
    while used(gateway, payer) != "41":
        assert time.monotonic() < until, gateway.log()
        time.sleep(0.01)
    with pytest.raises(InvalidStatus) as refused:
        calling(f"?model={name}", **fields)
    assert error_of(refused.value)[:2] == (429, "budget_exceeded")


def error_of(problem: InvalidStatus) -> tuple[int, str, str]:
    """Status, code and message of a refusal in OpenAI's shape."""
    response = problem.response
    error = json.loads(response.body or b"")["error"]
    return response.status_code, error["code"], error["message"]


@pytest.mark.parametrize(
    ("query", "key", "status", "code"),
    [
        ("", "sk-all", 400, "missing_model"),
        ("?model=", "sk-all", 400, "missing_model"),
        ("?model=nothing", "sk-all", 404, "model_not_found"),
        ("?model=live", "sk-some", 403, "model_not_allowed"),
        ("?model=other&model=live", "sk-some", 403, "model_not_allowed"),
        ("?model=live", "sk-wrong", 401, None),
        ("?model=claude", "sk-all", 400, None),
        ("?model=absent", "sk-all", 503, None),
    ],
)
def test_a_session_that_never_begins(
    gateway: GatewayProcess, query: str, key: str, status: int, code: str | None
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        calling(query, key)
    found = error_of(refused.value)
    assert found[0] == status
    if code is not None:
        assert found[1] == code
    assert found[2]


def test_an_offer_names_allowed_models_alone(gateway: GatewayProcess) -> None:
    def offered(body: bytes) -> int:
        fields = {"authorization": "Bearer sk-live", "content-type": "application/json"}
        target = "/v1/realtime?model=live"
        return fetch(LLM, target, "POST", headers=fields, body=body).status

    assert offered(b'{"model":"claude"}') == 403
    # The test's server takes no POST; what counts is that it was asked.
    assert offered(b'{"model":"live"}') not in (400, 403, 404)
    assert offered(b"v=0") not in (400, 403, 404)


def test_guards_of_a_model(gateway: GatewayProcess) -> None:
    with calling("?model=judged") as client:
        client.recv(timeout=20)
        item = {"role": "user", "content": [{"type": "input_text", "text": "the secret"}]}
        client.send(json.dumps({"type": "conversation.item.create", "item": item}))
        error = json.loads(client.recv(timeout=20))["error"]
        assert error["code"] == "guardrail_intervention"


def test_a_browsers_key_stays_here(gateway: GatewayProcess) -> None:
    key = "openai-insecure-api-key.sk-mine"
    protocols = [Subprotocol(one) for one in ("realtime", key, "openai-beta.realtime-v1")]
    url = f"ws://127.0.0.1:{LLM}/v1/realtime?model=live"
    fields = {"authorization": "Bearer sk-all"}
    with connect(url, additional_headers=fields, subprotocols=protocols) as client:
        created = json.loads(client.recv(timeout=20))
        assert created["protocols"] == "realtime, openai-beta.realtime-v1"
        assert client.subprotocol == "realtime"


def used(gateway: GatewayProcess, of: str) -> str | None:
    """What a budget's key was charged."""
    url = f"http://127.0.0.1:{gateway.admin_port}/api/budgets/status"
    with urllib.request.urlopen(url, timeout=20) as answer:
        rows = json.load(answer)["budgets"]
    return next((row["usage"]["used"] for row in rows if row["apiKeyName"] == of), None)


def test_a_guarded_session(gateway: GatewayProcess) -> None:
    url = f"ws://127.0.0.1:{PORT}/guarded/v1/realtime?model=gpt-realtime"
    # The client offers compression, which nobody could look into.
    with connect(url) as client:
        assert json.loads(client.recv(timeout=20))["type"] == "session.created"

        def said(text: str) -> dict[str, Any]:
            item = {"role": "user", "content": [{"type": "input_text", "text": text}]}
            client.send(json.dumps({"type": "conversation.item.create", "item": item}))
            answer: dict[str, Any] = json.loads(client.recv(timeout=20))
            return answer

        assert said("I am 123-45-6789")["item"]["content"][0]["text"] == "I am <SSN>"
        assert said("the secret")["error"]["code"] == "guardrail_intervention"
        assert json.loads(client.recv(timeout=20)) == {"type": "response.cancel"}
        # What the model says: the server sends the client's events back.
        done = {"type": "response.output_text.done", "text": "call 123-45-6789"}
        client.send(json.dumps(done))
        assert json.loads(client.recv(timeout=20)) == {**done, "text": "call <SSN>"}
        client.send(json.dumps({**done, "text": "the secret"}))
        assert json.loads(client.recv(timeout=20))["error"]["type"] == "guardrail_blocked"
    answer = fetch(PORT, "/guarded/v1/realtime", "POST", body=b"v=0")
    assert (answer.status, b"needs a WebSocket" in answer.body) == (400, True)


def test_credentials_survive_a_new_configuration(tmp_path: Path) -> None:
    hosts = tmp_path / "github-copilot" / "hosts.json"
    hosts.parent.mkdir()
    hosts.write_text(json.dumps({"github.com": {"oauth_token": "gho-first"}}))

    def config(address: str, path: str) -> dict[str, Any]:
        ai = {"name": "pilot", "provider": {"copilot": {}}, "hostOverride": address}
        route = {
            "matches": [{"path": {"pathPrefix": path}}],
            "backends": [{"ai": {**ai, "pathPrefix": ""}}],
        }
        return {"binds": [{"port": COPILOT, "listeners": [{"routes": [route]}]}]}

    environment = {
        "XDG_CONFIG_HOME": str(tmp_path),
        "GH_COPILOT_TOKEN": "",
        "COPILOT_GITHUB_TOKEN": "",
    }
    body = json.dumps({"model": "gpt-4o", "messages": [{"role": "user", "content": "x"}]})
    with (
        Upstream(openai) as upstream,
        GatewayProcess(config(upstream.address, "/"), env=environment) as gateway,
    ):

        def key(path: str) -> str | None:
            headers = {"content-type": "application/json"}
            assert fetch(COPILOT, path, "POST", headers=headers, body=body.encode()).status == 200
            return upstream.take()[0].get("authorization")

        assert key("/chat/completions") == "Bearer gho-first"
        # Were it looked for again, nothing would be found.
        hosts.unlink()
        changed = config(upstream.address, "/v2")
        changed["binds"][0]["listeners"][0]["hostname"] = "h.test"
        gateway.reload(changed)
        assert key("/v2/chat/completions") == "Bearer gho-first"
