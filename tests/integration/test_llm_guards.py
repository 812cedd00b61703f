"""Prompt guards through the gateway: prompts, whole answers, streams.

Source: spec/llm.md section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import JSON
from tests.support.parrot import last_error, parrot, said, streamed
from tests.support.upstream import Answer, Seen, Upstream

PORT, LLM = free_ports(2)
SSN = "123-45-6789"
LONG = "word " * 300


def judge(seen: Seen) -> Answer:
    """A webhook: masks `blue`, refuses `bad`, fails at `crash`."""
    body = orjson.loads(seen.body)["body"]
    texts = body.get("messages") or [choice["message"] for choice in body["choices"]]
    said = " ".join(text["content"] for text in texts)
    action: dict[str, Any] = {"reason": "fine"}
    if "crash" in said:
        return Answer(500)
    if "bad" in said:
        action = {"body": "not here", "status_code": 451}
    elif "blue" in said:
        masked = [{**text, "content": text["content"].replace("blue", "***")} for text in texts]
        choices = {"choices": [{"message": text} for text in masked]}
        action = {"body": {"messages": masked} if seen.target == "/request" else choices}
    return Answer(200, JSON, orjson.dumps({"action": action}))


@pytest.fixture(scope="module")
def model() -> Iterator[Upstream]:
    with Upstream(parrot) as made:
        yield made


@pytest.fixture(scope="module")
def webhook() -> Iterator[Upstream]:
    with Upstream(judge) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(model: Upstream, webhook: Upstream) -> Iterator[GatewayProcess]:
    def route(name: str, guard: dict[str, Any]) -> dict[str, Any]:
        types = {"/v1/messages": "messages", "*": "completions"}
        return {
            "name": name,
            "matches": [{"path": {"pathPrefix": f"/{name}/"}}],
            "policies": {"ai": {"promptGuard": guard, "routes": types}},
            "backends": [
                {
                    "ai": {
                        "name": name,
                        "provider": {"openAI": {}},
                        "hostOverride": model.address,
                        "pathPrefix": "/v1",
                    }
                }
            ],
        }

    mask = {"regex": {"rules": [{"builtin": "ssn"}, {"builtin": "email"}]}}
    rejection = {
        "status": 400,
        "body": '{"error": "no"}',
        "headers": {"set": {"x-guard": "regex"}},
    }
    reject = {
        "regex": {"action": "reject", "rules": [{"pattern": "(?i)secret"}]},
        "rejection": rejection,
    }
    hook = {
        "target": {"host": webhook.address},
        "headers": {"x-user": "request.headers['x-name']"},
        "forwardHeaderMatches": [{"name": "x-team", "value": {"regex": "a.*"}}],
    }
    config = {
        "binds": [
            {
                "port": PORT,
                "listeners": [
                    {
                        "routes": [
                            route("prompt", {"request": [mask, reject]}),
                            route("answer", {"response": [mask, reject]}),
                            route("stream", {"streaming": "Enabled", "response": [mask, reject]}),
                            route(
                                "hook",
                                {
                                    "streaming": "Enabled",
                                    "request": [{"webhook": hook}],
                                    "response": [{"webhook": hook}],
                                },
                            ),
                            route(
                                "open",
                                {"request": [{"webhook": {**hook, "failureMode": "failOpen"}}]},
                            ),
                        ]
                    }
                ],
            }
        ],
        "llm": {
            "port": LLM,
            "policies": {"guardrails": {"request": [mask]}},
            "models": [
                {
                    "name": "*",
                    "provider": "openAI",
                    "params": {"apiKey": "k", "baseUrl": f"http://{model.address}/v1"},
                    "guardrails": {"request": [reject]},
                }
            ],
        },
    }
    with GatewayProcess(config) as made:
        yield made


def ask(route: str, text: str, path: str = "chat/completions", **more: Any) -> Got:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    fields = {"content-type": "application/json", "x-name": "ann", "x-team": "apes"}
    target = f"/{route}/v1/{path}"
    return fetch(PORT, target, "POST", headers=fields, body=orjson.dumps(body))


def test_prompts_are_masked_and_refused(gateway: GatewayProcess, model: Upstream) -> None:
    got = ask("prompt", f"my number is {SSN}, a@b.example")
    assert (got.status, said(got)) == (200, "my number is <SSN>, <EMAIL_ADDRESS>")
    before = len(model.seen)
    got = ask("prompt", "a SECRET")
    assert (got.status, got.body) == (400, b'{"error": "no"}')
    assert got.get("x-guard") == "regex"
    assert len(model.seen) == before
    gateway.wait_metric("agentgateway_guardrail_checks_total", 1, phase="Request", action="Reject")


def test_whole_answers_are_masked_and_refused(gateway: GatewayProcess) -> None:
    assert said(ask("answer", "it is 123#45#6789")) == "it is <SSN>"
    assert ask("answer", "a secret").status == 400
    # As in agentgateway, streams are guarded only where that is asked for.
    assert SSN in streamed(ask("answer", SSN, stream=True))


@pytest.mark.parametrize("text", [SSN, f"{LONG}{SSN} {LONG}", f"long {LONG}{SSN}"])
def test_streams_are_masked_wherever_they_are_cut(gateway: GatewayProcess, text: str) -> None:
    got = ask("stream", text, stream=True)
    assert streamed(got) == text.replace(SSN, "<SSN>")
    assert got.body.endswith(b"data: [DONE]\n\n")


def test_a_refused_stream_ends_in_an_error(gateway: GatewayProcess) -> None:
    got = ask("stream", f"{LONG}the secret {LONG}", stream=True)
    assert "secr" not in streamed(got)
    error = last_error(got)
    assert (error["type"], error["code"]) == ("guardrail_blocked", "guardrail_intervention")
    assert b"[DONE]" not in got.body


def test_a_refused_stream_ends_in_the_clients_format(gateway: GatewayProcess) -> None:
    got = ask("stream", "the secret", "messages", stream=True, max_tokens=9)
    assert b"secret" not in got.body
    assert got.status == 200, got
    frames = got.body.split(b"\n\n")
    assert frames[-2].startswith(b'event: error\ndata: {"type":"error"'), got


def test_a_webhook_judges(gateway: GatewayProcess, webhook: Upstream) -> None:
    got = ask("hook", "so blue")
    assert (got.status, said(got)) == (200, "so ***")
    assert webhook.seen[-2].target == "/request"
    assert webhook.seen[-2].get("x-user") == "ann"
    assert webhook.seen[-2].get("x-team") == "apes"
    assert orjson.loads(webhook.seen[-2].body) == {
        "body": {"messages": [{"role": "user", "content": "so blue"}]}
    }
    got = ask("hook", "bad")
    assert (got.status, got.body) == (451, b"not here")


def test_a_webhook_that_fails(gateway: GatewayProcess) -> None:
    assert ask("hook", "crash").status == 503
    assert said(ask("open", "crash")) == "crash"
    gateway.wait_metric(
        "agentgateway_guardrail_checks_total", 1, phase="Request", action="FailOpen"
    )


def test_guards_of_llm_mode_join(gateway: GatewayProcess) -> None:
    def llm(text: str) -> Got:
        body = {"model": "m", "messages": [{"role": "user", "content": text}]}
        fields = {"content-type": "application/json"}
        path = "/v1/chat/completions"
        return fetch(LLM, path, "POST", headers=fields, body=orjson.dumps(body))

    assert said(llm(SSN)) == "<SSN>"
    assert llm("secret").status == 400
