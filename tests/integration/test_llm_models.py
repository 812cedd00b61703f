"""`llm` mode through the gateway: models, virtual models, failover within a request, lists.

Source: spec/llm.md sections 0 (error codes), 3.3 to 3.5 and 5; spec/config.md sections 5.2 and 5.3.
"""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import (
    COMPLETION_STREAM,
    EVENTS,
    anthropic,
    chunk,
    event,
    openai,
    texts,
)
from tests.support.upstream import Answer, Seen, Upstream

PORT, NOBODY = free_ports(2)
held = threading.Event()


def flaky(seen: Seen) -> Answer:
    """Does what the model's name says."""
    model = orjson.loads(seen.body)["model"]
    if model == "refused-stream":
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
        return Answer(200, EVENTS, iter([event(error)]))
    if model == "html":
        return Answer(200, [("content-type", "text/html")], b"<html>")
    if model == "hang":
        held.wait(20)
        return Answer(drop=True)
    if model == "cut":
        return Answer(200, EVENTS, _cut())
    if model == "silent":
        return Answer(200, EVENTS, _silent())
    return openai(seen)


def _cut() -> Iterator[bytes]:
    yield chunk({"content": "he"})
    yield b'data: {"choices":[{"del'
    raise OSError("gone")


def _silent() -> Iterator[bytes]:
    yield chunk({"content": "he"})
    held.wait(20)


@pytest.fixture(scope="module")
def bad() -> Iterator[Upstream]:
    with Upstream(flaky) as made:
        yield made
        held.set()


@pytest.fixture(scope="module")
def open_ai() -> Iterator[Upstream]:
    with Upstream(openai) as made:
        yield made


@pytest.fixture(scope="module")
def claude() -> Iterator[Upstream]:
    with Upstream(anthropic) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(bad: Upstream, open_ai: Upstream, claude: Upstream) -> Iterator[GatewayProcess]:
    def model(name: str, provider: Any, address: str, **more: Any) -> dict[str, Any]:
        params = {"baseUrl": f"http://{address}/v1", "apiKey": "sk-own", **more.pop("params", {})}
        return {"name": name, "provider": provider, "params": params, **more}

    def failover(name: str, *targets: str) -> dict[str, Any]:
        ranked = [{"model": one, "priority": rank} for rank, one in enumerate(targets)]
        return {"name": name, "routing": {"failover": {"targets": ranked}}}

    bads = ("fail-429", "fail-503", "fail-400", "refused-stream", "html", "hang", "cut", "silent")
    models = [
        model("gpt-test", "openAI", open_ai.address, params={"model": "gpt-real"}),
        model(
            "anthropic/*",
            "anthropic",
            claude.address,
            transformation={"model": 'llmRequest.model.stripPrefix("anthropic/")'},
        ),
        model("hidden", "openAI", open_ai.address, visibility="internal"),
        model("nobody", "openAI", f"127.0.0.1:{NOBODY}"),
        model(
            "ruled",
            "openAI",
            open_ai.address,
            authorization={"rules": ['request.headers["x-team"] == "a"']},
        ),
        {
            "name": "shared",
            "provider": {"reference": "one"},
            "params": {"model": "from-reference"},
        },
        *(model(name, "openAI", bad.address) for name in bads),
    ]
    config = {
        "llm": {
            "port": PORT,
            "providers": [
                {
                    "name": "one",
                    "provider": {"custom": {"formats": [{"type": "completions"}]}},
                    "params": {"baseUrl": f"http://{open_ai.address}/base"},
                    "defaults": {"overrides": {"seed": 3}},
                }
            ],
            "models": models,
            "virtualModels": [
                *(failover(f"over-{name}", name, "anthropic/haiku") for name in (*bads, "nobody")),
                {
                    "name": "smart",
                    "routing": {
                        "conditional": {
                            "targets": [
                                {"when": "llmRequest.max_tokens > 10", "model": "gpt-test"},
                                {"model": "anthropic/haiku"},
                            ]
                        }
                    },
                },
                {
                    "name": "shares",
                    "routing": {
                        "weighted": {
                            "targets": [
                                {"model": "hidden", "weight": 1},
                                {"model": "nobody", "weight": 0},
                            ]
                        }
                    },
                },
            ],
            "failover": {"attemptTimeout": "2s"},
            "streamIdleTimeout": "1s",
        },
    }
    with GatewayProcess(config) as made:
        yield made


def ask(model: str, path: str = "/v1/chat/completions", **more: Any) -> Got:
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    body = {"model": model, "messages": [{"role": "user", "content": "hello"}], **more}
    return fetch(PORT, path, "POST", headers=headers, body=orjson.dumps(body))


def test_a_model_goes_to_its_provider(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    assert ask("gpt-test").status == 200
    (seen,) = open_ai.take()
    assert orjson.loads(seen.body)["model"] == "gpt-real"
    assert (seen.target, seen.get("authorization")) == ("/v1/chat/completions", "Bearer sk-own")


def test_a_pattern_and_a_transformation(gateway: GatewayProcess, claude: Upstream) -> None:
    claude.take()
    got = ask("anthropic/opus", stream=True)
    assert (got.status, texts(got.body)) == (200, "hello")
    (seen,) = claude.take()
    assert orjson.loads(seen.body)["model"] == "opus"
    assert seen.get("x-api-key") == "sk-own"


def test_a_referred_provider(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    assert ask("shared").status == 200
    (seen,) = open_ai.take()
    assert seen.target == "/base/chat/completions"
    sent = orjson.loads(seen.body)
    assert (sent["model"], sent["seed"]) == ("from-reference", 3)


@pytest.mark.parametrize(
    ("model", "status", "code"),
    [
        ("unknown", 404, "model_not_found"),
        ("hidden", 404, "model_not_found"),
        ("ruled", 403, "model_authorization_denied"),
        ("", 400, "missing_model"),
    ],
)
def test_refusals(gateway: GatewayProcess, model: str, status: int, code: str) -> None:
    got = ask(model)
    error = orjson.loads(got.body)["error"]
    assert (got.status, error["code"], error["type"]) == (status, code, "invalid_request_error")


def test_refusals_in_the_clients_format(gateway: GatewayProcess) -> None:
    got = ask("unknown", "/v1/messages", max_tokens=5)
    assert (got.status, orjson.loads(got.body)["error"]["type"]) == (404, "not_found_error")
    path = "/v1beta/models/unknown:generateContent"
    got = fetch(PORT, path, "POST", body=b'{"contents":[]}')
    assert (got.status, orjson.loads(got.body)["error"]["status"]) == (404, "NOT_FOUND")


def test_rules_of_a_model(gateway: GatewayProcess) -> None:
    assert ask("ruled", headers={"x-team": "a"}).status == 200


def test_models(gateway: GatewayProcess) -> None:
    listed = orjson.loads(fetch(PORT, "/v1/models").body)
    names = [one["id"] for one in listed["data"]]
    assert {"gpt-test", "anthropic/*", "smart"} <= set(names)
    assert not {"hidden", "ruled"} & set(names)
    assert listed["data"][0]["object"] == "model"
    one = orjson.loads(fetch(PORT, "/v1/models/gpt-test").body)
    assert one["id"] == "gpt-test"
    assert fetch(PORT, "/v1/models/hidden").status == 404


def test_conditional_and_weighted(
    gateway: GatewayProcess, open_ai: Upstream, claude: Upstream
) -> None:
    open_ai.take()
    claude.take()
    assert ask("smart", max_tokens=100).status == 200
    assert ask("smart", max_tokens=5).status == 200
    assert orjson.loads(open_ai.take()[0].body)["model"] == "gpt-real"
    assert orjson.loads(claude.take()[0].body)["model"] == "haiku"
    assert ask("shares").status == 200
    assert orjson.loads(open_ai.take()[0].body)["model"] == "hidden"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("first", ["fail-429", "fail-503", "nobody", "html", "hang"])
def test_failover_in_the_same_request(
    gateway: GatewayProcess, claude: Upstream, first: str, stream: bool
) -> None:
    claude.take()
    got = ask(f"over-{first}", stream=stream)
    assert got.status == 200
    text = texts(got.body) if stream else orjson.loads(got.body)["choices"][0]["message"]["content"]
    assert text == ("hello" if stream else "hi")
    assert orjson.loads(claude.take()[0].body)["model"] == "haiku"


def test_a_stream_that_begins_with_an_error_is_no_answer(
    gateway: GatewayProcess, claude: Upstream
) -> None:
    claude.take()
    got = ask("over-refused-stream", stream=True)
    assert texts(got.body) == "hello"
    assert len(claude.take()) == 1


def test_the_clients_own_fault_is_not_tried_elsewhere(
    gateway: GatewayProcess, claude: Upstream
) -> None:
    claude.take()
    assert ask("over-fail-400").status == 400
    assert claude.take() == []


def test_without_a_second_provider_the_error_is_the_clients(gateway: GatewayProcess) -> None:
    assert ask("fail-429").status == 429
    got = ask("nobody", "/v1/messages", max_tokens=5)
    assert (got.status, orjson.loads(got.body)["type"]) == (503, "error")
    assert ask("html").status == 502


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("cut", "/v1/chat/completions"),
        ("silent", "/v1/chat/completions"),
        ("cut", "/v1/messages"),
        ("silent", "/v1/messages"),
    ],
)
def test_a_stream_that_fails_ends_with_an_error(
    gateway: GatewayProcess, model: str, path: str
) -> None:
    got = ask(model, path, stream=True, max_tokens=5)
    assert got.status == 200
    last = got.body.rstrip().rpartition(b"\n\n")[2]
    data = orjson.loads(last.rpartition(b"data: ")[2])
    assert "error" in data
    assert b"[DONE]" not in got.body
    if path.endswith("messages"):
        assert last.startswith(b"event: error\n")


def test_a_client_that_leaves_ends_the_providers_stream(gateway: GatewayProcess) -> None:
    gone = threading.Event()

    def script(seen: Seen) -> Answer:
        def body() -> Iterator[bytes]:
            yield COMPLETION_STREAM[0]
            yield chunk({}, usage={"prompt_tokens": 5, "completion_tokens": 6, "total_tokens": 11})
            # Its connection is closed under it, which a write finds out sooner or later.
            try:
                while not gone.wait(0.01):
                    yield b": still here\n\n"
            finally:
                gone.set()

        return Answer(200, EVENTS, body())

    with Upstream(script) as slow:
        (port,) = free_ports(1)
        provider = {"name": "m", "provider": "openAI"}
        params = {"params": {"baseUrl": f"http://{slow.address}/v1"}}
        with GatewayProcess({"llm": {"port": port, "models": [{**provider, **params}]}}) as own:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            body = orjson.dumps({"model": "m", "messages": [], "stream": True})
            connection.request("POST", "/v1/chat/completions", body)
            answer = connection.getresponse()
            # What the provider has said so far has been seen by the gateway.
            seen = b""
            while b'"total_tokens":11' not in seen:
                data = answer.read1()
                assert data
                seen += data
            assert connection.sock is not None
            connection.sock.shutdown(socket.SHUT_RDWR)
            answer.close()
            connection.close()
            assert gone.wait(20)
            name = "agentgateway_gen_ai_client_token_usage_sum"
            own.wait_metric(name, 6, gen_ai_token_type="output")


def test_multipart_forms_name_their_model(gateway: GatewayProcess, open_ai: Upstream) -> None:
    open_ai.take()
    body = (
        b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nhidden-not\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n\x00\r\n--x--\r\n'
    )
    fields = {"content-type": "multipart/form-data; boundary=x"}
    refused = fetch(PORT, "/v1/audio/transcriptions", "POST", headers=fields, body=body)
    assert orjson.loads(refused.body)["error"]["code"] == "model_not_found"
    good = body.replace(b"hidden-not", b"gpt-test")
    answer = fetch(PORT, "/v1/audio/transcriptions", "POST", headers=fields, body=good)
    assert answer.status == 200
    (seen,) = open_ai.take()
    # The configured model, as in JSON.
    assert seen.body == body.replace(b"hidden-not", b"gpt-real")
