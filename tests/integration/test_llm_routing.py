"""`ai` backends through the gateway: same format and converted, whole and streamed.

Source: spec/llm.md sections 0, 1.4, 2.16, 4.1 and 5.
"""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import COMPLETION, COMPLETION_STREAM, anthropic, openai, texts
from tests.support.upstream import Upstream

(PORT,) = free_ports(1)
ROUTES = {
    "/v1/chat/completions": "completions",
    "/v1/messages": "messages",
    "/v1/models": "models",
    "/v1/raw": "passthrough",
    "/v1/sniff": "detect",
}


def ai(name: str, kind: str, address: str, **more: Any) -> dict[str, Any]:
    """An `ai` backend whose own paths are used."""
    provider = {kind: more.pop("provider", {})}
    return {
        "ai": {
            "name": name,
            "provider": provider,
            "hostOverride": address,
            "pathPrefix": "/v1",
            **more,
        }
    }


def ask(path: str, body: object, **headers: str) -> Got:
    """A request of the gateway."""
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    fields = {"content-type": "application/json", **headers}
    return fetch(PORT, path, "POST", headers=fields, body=data)


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "gpt-test", "messages": [{"role": "user", "content": "hello"}], **more}


def message(**more: Any) -> dict[str, Any]:
    return {**chat(model="claude-test"), "max_tokens": 100, **more}


@pytest.fixture(scope="module")
def open_ai() -> Iterator[Upstream]:
    with Upstream(openai) as made:
        yield made


@pytest.fixture(scope="module")
def claude() -> Iterator[Upstream]:
    with Upstream(anthropic) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(open_ai: Upstream, claude: Upstream) -> Iterator[GatewayProcess]:
    def route(path: str, backend: dict[str, Any], **policies: Any) -> dict[str, Any]:
        return {
            "name": path.strip("/"),
            "matches": [{"path": {"pathPrefix": path}}],
            "policies": {"ai": {"routes": ROUTES, **policies.pop("ai", {})}, **policies},
            "backends": [backend],
        }

    key = {"backendAuth": {"key": "sk-provider"}}
    config = {
        "frontendPolicies": {"accessLog": {"add": {"llm.total": "llm.totalTokens"}}},
        "binds": [
            {
                "port": PORT,
                "listeners": [
                    {
                        "routes": [
                            route("/openai", ai("openai", "openAI", open_ai.address, policies=key)),
                            route("/claude", ai("claude", "anthropic", claude.address), **key),
                            route(
                                "/edited",
                                ai("edited", "openAI", open_ai.address),
                                ai={
                                    "defaults": {"temperature": 0.5, "top_p": 0.1},
                                    "overrides": {"seed": 7},
                                    "transformations": {
                                        "user": "llmRequest.model + '-user'",
                                        "top_k": "null",
                                    },
                                    "finalTransformations": {"metadata": "{'m': llmRequest.model}"},
                                    "modelAliases": {"gpt-*": "gpt-real"},
                                    "prompts": {
                                        "prepend": [{"role": "system", "content": "be kind"}]
                                    },
                                },
                            ),
                            {
                                "name": "default",
                                "matches": [{"path": {"pathPrefix": "/v1"}}],
                                "policies": {
                                    "localRateLimit": [
                                        {
                                            "maxTokens": 100,
                                            "tokensPerFill": 1,
                                            "fillInterval": "1h",
                                            "type": "tokens",
                                        }
                                    ],
                                },
                                "backends": [ai("limited", "openAI", open_ai.address)],
                            },
                        ]
                    }
                ],
            }
        ],
    }
    with GatewayProcess(config) as made:
        yield made


def test_same_format_whole(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    got = ask("/openai/v1/chat/completions", chat(unknown={"kept": 1}), authorization="Bearer mine")
    assert (got.status, orjson.loads(got.body)) == (200, COMPLETION)
    (seen,) = open_ai.take()
    assert seen.target == "/v1/chat/completions"
    assert seen.get("authorization") == "Bearer sk-provider"
    assert seen.get("host") == open_ai.address
    assert orjson.loads(seen.body) == chat(unknown={"kept": 1})


def test_same_format_streamed(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    got = ask("/openai/v1/chat/completions", chat(stream=True))
    assert got.status == 200
    assert got.get("content-type") == "text/event-stream"
    assert got.body == b"".join(COMPLETION_STREAM)
    assert orjson.loads(open_ai.take()[0].body)["stream_options"] == {"include_usage": True}


def test_messages_client_of_openai(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    got = ask("/openai/v1/messages", message())
    answer = orjson.loads(got.body)
    assert (got.status, answer["type"], answer["content"][0]["text"]) == (200, "message", "hi")
    assert answer["usage"]["output_tokens"] == 23
    assert open_ai.take()[0].target == "/v1/chat/completions"


def test_messages_client_of_openai_streamed(gateway: GatewayProcess) -> None:
    got = ask("/openai/v1/messages", message(stream=True))
    assert (got.status, got.get("content-type")) == (200, "text/event-stream")
    assert texts(got.body) == "hello"
    assert b"event: message_stop" in got.body


def test_completions_client_of_anthropic(gateway: GatewayProcess, claude: Upstream) -> None:
    claude.take()
    got = ask("/claude/v1/chat/completions", chat(model="claude-test"))
    answer = orjson.loads(got.body)
    assert (got.status, answer["choices"][0]["message"]["content"]) == (200, "hi")
    (seen,) = claude.take()
    assert seen.target == "/v1/messages"
    assert seen.get("x-api-key") == "sk-provider"
    assert seen.get("authorization") is None
    assert seen.get("anthropic-version") == "2023-06-01"


def test_completions_client_of_anthropic_streamed(gateway: GatewayProcess) -> None:
    got = ask("/claude/v1/chat/completions", chat(model="claude-test", stream=True))
    assert texts(got.body) == "hello"
    assert got.body.endswith(b"data: [DONE]\n\n")


def test_edits(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    ask("/edited/v1/chat/completions", chat(top_p=1, top_k=3, seed=1, max_tokens=5))
    sent = orjson.loads(open_ai.take()[0].body)
    assert sent == {
        "model": "gpt-real",
        "messages": [
            {"role": "system", "content": "be kind"},
            {"role": "user", "content": "hello"},
        ],
        "top_p": 1,
        "temperature": 0.5,
        "seed": 7,
        "user": "gpt-test-user",
        "max_completion_tokens": 5,
        "metadata": {"m": "gpt-real"},
    }


@pytest.mark.parametrize(
    ("path", "body", "status", "kind"),
    [
        ("/openai/v1/chat/completions", b"{", 400, "invalid_request_error"),
        ("/openai/v1/chat/completions", b"[]", 400, "invalid_request_error"),
        ("/openai/v1/chat/completions", b'{"messages":[]}', 400, "invalid_request_error"),
        ("/openai/v1/chat/completions", b'{"model":1,"messages":[]}', 400, "invalid_request_error"),
        ("/openai/v1/messages", b"{", 400, "invalid_request_error"),
    ],
)
def test_bad_requests(
    gateway: GatewayProcess, path: str, body: bytes, status: int, kind: str
) -> None:
    got = ask(path, body)
    error = orjson.loads(got.body)
    assert got.status == status
    assert ("type" in error) == path.endswith("messages")
    assert error["error"]["type"] == kind


def test_compressed_requests(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    body = gzip.compress(orjson.dumps(chat()))
    got = ask("/openai/v1/chat/completions", body, **{"content-encoding": "gzip"})
    assert got.status == 200
    (seen,) = open_ai.take()
    assert seen.get("content-encoding") is None
    assert orjson.loads(seen.body) == chat()
    refused = ask("/openai/v1/chat/completions", body, **{"content-encoding": "lzma"})
    assert (refused.status, orjson.loads(refused.body)["error"]["type"]) == (
        415,
        "invalid_request_error",
    )
    bomb = gzip.compress(b"0" * 50_000_000)
    huge = ask("/openai/v1/messages", bomb, **{"content-encoding": "gzip"})
    assert (huge.status, orjson.loads(huge.body)["error"]["type"]) == (413, "request_too_large")


def test_provider_errors_keep_their_shape(gateway: GatewayProcess) -> None:
    own = ask("/openai/v1/chat/completions", chat(model="fail-400"))
    assert (own.status, orjson.loads(own.body)["error"]["message"]) == (400, "failed")
    converted = ask("/openai/v1/messages", message(model="fail-429"))
    error = orjson.loads(converted.body)
    assert (converted.status, error["type"], error["error"]["message"]) == (429, "error", "failed")


def test_models_are_not_listed_here(gateway: GatewayProcess) -> None:
    got = fetch(PORT, "/openai/v1/models")
    assert got.status == 501
    assert orjson.loads(got.body) == {"error": "Route 'Models' not implemented"}


def test_passthrough_and_detect(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    raw = b'{ "model": "gpt-test",  "odd": [1.0] }'
    assert ask("/openai/v1/raw", raw).status == 200
    assert ask("/openai/v1/sniff", raw).status == 200
    assert [seen.body for seen in open_ai.take()] == [raw, raw]


def test_token_limit_is_settled_after_the_stream(gateway: GatewayProcess) -> None:
    statuses = [ask("/v1/chat/completions", chat(stream=True)).status for _ in range(4)]
    # 40 tokens each: the third still finds some left.
    assert statuses == [200, 200, 200, 429]
    refused = ask("/v1/chat/completions", chat())
    assert orjson.loads(refused.body)["error"]["type"] == "rate_limit_error"


def test_telemetry(gateway: GatewayProcess) -> None:
    labels = {"gen_ai_request_model": "gpt-counted", "gen_ai_response_model": "gpt-test-0125"}
    ask("/openai/v1/chat/completions", chat(model="gpt-counted", stream=True, temperature=0.3))
    name = "agentgateway_gen_ai_client_token_usage_sum"
    gateway.wait_metric(name, 17, gen_ai_token_type="input", **labels)
    gateway.wait_metric(name, 23, gen_ai_token_type="output", **labels)
    gateway.wait_metric(
        "agentgateway_gen_ai_server_time_to_first_token_count", 1, gen_ai_system="openai", **labels
    )
    line = gateway.wait_line("gpt-counted")
    for field in (
        "gen_ai.operation.name=chat",
        "gen_ai.provider.name=openai",
        "gen_ai.response.model=gpt-test-0125",
        "gen_ai.usage.input_tokens=17",
        "gen_ai.usage.output_tokens=23",
        "gen_ai.request.temperature=0.3",
        "protocol=llm",
        "llm.total=40",
    ):
        assert field in line
