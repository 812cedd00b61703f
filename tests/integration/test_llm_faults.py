"""Bad input and faults on the way to models: each client gets its format's error, and pays once.

Source: issue of the LLM gateway, "Bad input and faults"; spec/hardening.md cases 46 to 50.
"""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import urllib.request
import zlib
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from sidecar.simulator import frames
from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import COMPLETION, EVENTS, JSON, anthropic, chunk, openai
from tests.support.simulator import Models
from tests.support.upstream import Answer, Seen, Upstream

Json = dict[str, Any]
(PORT,) = free_ports(1)
LIMIT = 64 * 1024
WAIT_SECONDS = 20.0
CHAT = "/v1/chat/completions"
PATHS = {
    "completions": CHAT,
    "messages": "/v1/messages",
    "responses": "/v1/responses",
    "gemini": "/v1beta/models/google:generateContent",
}
released = threading.Event()


def hostile(seen: Seen) -> Answer:
    """A provider that does what the model's name says."""
    if seen.target.endswith("/converse-stream"):
        whole, harmed = text_frame("unharmed"), text_frame("harmed!")
        harmed = harmed[:-1] + bytes((harmed[-1] ^ 1,))
        kind = "application/vnd.amazon.eventstream"
        return Answer(200, [("content-type", kind)], [whole, harmed])
    body = orjson.loads(seen.body)
    model = str(body.get("model"))
    if model in STREAMS:
        return Answer(200, EVENTS, iter(STREAMS[model]))
    if model in WHOLE:
        return WHOLE[model]
    if seen.target == "/v1/other":
        return Answer(200, EVENTS, _broken())
    if model == "listed":
        return Answer(400, JSON, b'[{"error":{"code":400,"message":"too long"}}]')
    if model == "drop":
        return Answer(drop=True)
    if model == "forged":
        usage = body["metadata"]["usage"].encode()
        counts = b'{"prompt_tokens":%b,"completion_tokens":%b}' % (usage, usage)
        return Answer(200, JSON, orjson.dumps(COMPLETION)[:-1] + b',"usage":%b}' % counts)
    if model == "slow":
        return Answer(200, EVENTS, _endless())
    return openai(seen)


def text_frame(text: str) -> bytes:
    """A piece of an answer in AWS's framing."""
    return frames.aws("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": text}})


def _broken() -> Iterator[bytes]:
    yield FIRST
    raise ConnectionAbortedError  # which ends the connection


def _endless() -> Iterator[bytes]:
    yield chunk({"role": "assistant", "content": "he"})
    yield chunk({}, usage=COMPLETION["usage"])
    while not released.is_set():
        # The provider's own pace; nothing is decided by it.
        time.sleep(0.005)
        yield chunk({"content": "x"})


BOMB = gzip.compress(b" " * 30_000_000)
DEEP = b'{"choices":' + b"[" * 20_000 + b"]" * 20_000 + b"}"
WHOLE = {
    "empty": Answer(200, JSON, b""),
    "list": Answer(200, JSON, b"[]"),
    "number": Answer(200, JSON, b'{"choices":[],"x":1e999'),
    "deep": Answer(200, JSON, DEEP),
    "html": Answer(200, [("content-type", "text/html")], b"<html>no</html>"),
    "error": Answer(200, JSON, b'{"error":{"message":"out of order","code":502}}'),
    "bomb": Answer(200, [*JSON, ("content-encoding", "gzip")], BOMB),
    "coding": Answer(200, [*JSON, ("content-encoding", "lzma")], b"{}"),
    "damaged": Answer(200, [*JSON, ("content-encoding", "gzip")], b"\x1f\x8b broken"),
    "large": Answer(200, JSON, b'{"x":"' + b"a" * (LIMIT + 1) + b'"}'),
    "html-502": Answer(502, [("content-type", "text/html")], b"<html>no</html>"),
}
AFTER = ("fail-500", "fail-429", "drop", "html", "error", "late-error", "nonsense", "bomb")
"""Before a provider that serves."""
FIRST = chunk({"role": "assistant", "content": "he"})
STREAMS = {
    "no-json": [FIRST, b"data: {nonsense\n\n"],
    "no-object": [FIRST, b"data: 17\n\n"],
    "wrong-shape": [FIRST, b'data: {"choices":{"a":1}}\n\n'],
    "cut": [FIRST, b'data: {"choices":[{"del'],
    "no-done": [FIRST],
    "late-error": [FIRST + b'data: {"error":{"message":"out of order"}}\n\n'],
    "nonsense": [b"data: {nonsense\n\n"],
    "huge-event": [FIRST, b"data: " + b"a" * 17_000_000],
}


@pytest.fixture(scope="module")
def provider() -> Iterator[Upstream]:
    with Upstream(hostile) as made:
        yield made
        released.set()


@pytest.fixture(scope="module")
def claude() -> Iterator[Upstream]:
    with Upstream(anthropic) as made:
        yield made


@pytest.fixture(scope="module")
def simulated() -> Iterator[Models]:
    with Models() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(provider: Upstream, claude: Upstream, simulated: Models) -> Iterator[GatewayProcess]:
    def model(name: str, kind: str, address: str, **params: Any) -> Json:
        params = {"baseUrl": f"http://{address}/v1", "apiKey": "sk-own", **params}
        return {"name": name, "provider": kind, "params": params}

    def failover(name: str, *targets: str) -> Json:
        ranked = [{"model": one, "priority": rank} for rank, one in enumerate(targets)]
        return {"name": name, "routing": {"failover": {"targets": ranked}}}

    simulator = f"http://{simulated.address}"

    def bedrock(name: str, url: str) -> Json:
        made = model(name, "bedrock", "", baseUrl=url, awsRegion="us-west-2")
        made["params"].pop("apiKey")
        made["auth"] = {"aws": {"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "not-a-secret"}}
        return made

    config = {
        "frontendPolicies": {"http": {"maxBufferSize": LIMIT}},
        "llm": {
            "port": PORT,
            "streamIdleTimeout": "2s",
            "failover": {"maxAttempts": 2, "attemptTimeout": "3s"},
            "policies": {
                "budgets": [
                    {
                        "name": "spent",
                        "limit": {"unit": "Tokens", "amount": 1_000_000},
                        "window": {"rolling": "36500d"},
                        "key": 'request.headers["x-user"]',
                        "estimate": 500,
                    }
                ]
            },
            "models": [
                *(
                    model(name, "openAI", provider.address)
                    for name in ("plain", "slow", "drop", "forged", "listed")
                ),
                *(model(name, "openAI", provider.address) for name in (*WHOLE, *STREAMS)),
                *(model(f"fail-{n}", "openAI", provider.address) for n in (429, 500, 529)),
                {**model("seen", "openAI", provider.address), "passthrough": "detect"},
                model("unseen", "openAI", provider.address),
                model("claude", "anthropic", claude.address),
                model("google", "gemini", "", baseUrl=simulator),
                model("sim", "openAI", simulated.address, model="gpt-4o"),
                bedrock("bedrock", simulator),
                bedrock("damaged-frames", f"http://{provider.address}"),
            ],
            "virtualModels": [failover(f"after-{name}", name, "claude") for name in AFTER],
        },
    }
    with GatewayProcess(config) as made:
        yield made


def ask(model: str, client: str = "completions", user: str = "", **more: Any) -> Got:
    """A chat; `headers` and `raw` among `more` are the request's own."""
    fields = {"content-type": "application/json", **more.pop("headers", {})}
    if user:
        fields["x-user"] = user
    turns = [{"role": "user", "content": "hello"}]
    body: Json = {"model": model, "messages": turns, "max_tokens": 50, **more}
    if client == "responses":
        body = {"model": model, "input": "hello", **more}
    return post(PATHS[client], orjson.dumps(body), fields)


def post(path: str, raw: bytes, headers: dict[str, str] | None = None) -> Got:
    fields = headers or {"content-type": "application/json"}
    return fetch(PORT, path, "POST", headers=fields, body=raw)


def assert_error(client: str, got: Got, status: int) -> None:
    """The client format's error object."""
    assert got.status == status, got.body
    assert got.get("content-type") == "application/json"
    found = orjson.loads(got.body)
    assert found["error"]["message"]
    assert (found.get("type") == "error") == (client == "messages")
    assert (found["error"].get("code") == status) == (client == "gemini")


def used(gateway: GatewayProcess, user: str) -> str | None:
    """What a user's budget says."""
    url = f"http://127.0.0.1:{gateway.admin_port}/api/budgets/status"
    with urllib.request.urlopen(url, timeout=20) as answer:
        rows = json.load(answer)["budgets"]
    return next((row["usage"]["used"] for row in rows if row["apiKeyName"] == user), None)


def wait_used(gateway: GatewayProcess, user: str, value: str) -> None:
    """A charge comes right after the answer's last octet."""
    until = time.monotonic() + WAIT_SECONDS
    while (found := used(gateway, user)) != value:
        assert time.monotonic() < until, (found, value, gateway.log())
        time.sleep(0.01)


# --- requests ---------------------------------------------------------------------------------

BAD = {
    "empty": b"",
    "cut": b'{"model":"plain","mess',
    "list": b"[]",
    "batch": b'[{"model":"plain","messages":[]}]',
    "number": b"17",
    "deep": b'{"model":"plain","messages":' + b"[" * 10_000 + b"]" * 10_000 + b"}",
    "huge number": b'{"model":"plain","messages":[],"input":1e999,"max_tokens":1e999',
    "lone surrogate": b'{"model":"plain","messages":[{"role":"user","content":"\\ud800"}]}',
    "not UTF-8": b'{"model":"plain","messages":"\xff"}',
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("client", PATHS)
def test_bodies_that_are_no_json_objects(
    gateway: GatewayProcess, provider: Upstream, client: str, bad: str
) -> None:
    provider.take()
    assert_error(client, post(PATHS[client], BAD[bad]), 400)
    assert provider.take() == []


@pytest.mark.parametrize("value", [None, 1, "x", {}, [1], [None], [{"role": 1}]])
@pytest.mark.parametrize(
    ("client", "model"),
    [
        # What nobody converts is the provider's to judge.
        ("completions", "claude"),
        ("completions", "bedrock"),
        ("messages", "bedrock"),
        ("responses", "bedrock"),
    ],
)
def test_wrong_types(gateway: GatewayProcess, client: str, model: str, value: object) -> None:
    key = "input" if client == "responses" else "messages"
    if client == "responses" and value in (None, "x"):
        value = 1.5  # those two are allowed there
    more: dict[str, Any] = {key: value}
    assert_error(client, ask(model, client, **more), 400)


@pytest.mark.parametrize("client", ["completions", "messages", "responses"])
def test_without_a_model(gateway: GatewayProcess, client: str) -> None:
    for name, status in ((None, 400), ("", 400), (7, 400), ("no such", 404)):
        assert_error(client, ask(name, client), status)  # type: ignore[arg-type]


@pytest.mark.parametrize("client", PATHS)
def test_bodies_that_are_too_large(gateway: GatewayProcess, client: str) -> None:
    assert_error(client, post(PATHS[client], b'{"x":"' + b"a" * LIMIT + b'"}'), 413)
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    assert_error(client, post(PATHS[client], BOMB, headers), 413)
    deflated = {**headers, "content-encoding": "deflate"}
    assert_error(client, post(PATHS[client], zlib.compress(b" " * 10_000_000), deflated), 413)


@pytest.mark.parametrize("client", PATHS)
def test_codings(gateway: GatewayProcess, client: str) -> None:
    headers = {"content-type": "application/json", "content-encoding": "lzma"}
    assert_error(client, post(PATHS[client], b"{}", headers), 415)
    headers["content-encoding"] = "gzip"
    assert_error(client, post(PATHS[client], b"\x1f\x8b broken", headers), 400)
    assert_error(client, post(PATHS[client], gzip.compress(b"{}" * 99)[:-9], headers), 400)


# --- answers ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", WHOLE)
@pytest.mark.parametrize("client", ["completions", "messages", "responses"])
def test_answers_that_are_none(gateway: GatewayProcess, client: str, fault: str) -> None:
    user = f"{client}-{fault}"
    assert_error(client, ask(fault, client, user), 502)
    wait_used(gateway, user, "0")


@pytest.mark.parametrize("status", [429, 500, 529])
@pytest.mark.parametrize("client", ["completions", "messages", "responses"])
def test_refusals_are_not_charged(gateway: GatewayProcess, client: str, status: int) -> None:
    user = f"{client}-{status}"
    assert_error(client, ask(f"fail-{status}", client, user), status)
    wait_used(gateway, user, "0")


@pytest.mark.parametrize("client", ["completions", "messages"])
def test_an_error_in_a_list(gateway: GatewayProcess, client: str) -> None:
    got = ask("listed", client)
    assert_error(client, got, 400)
    assert b"too long" in got.body


@pytest.mark.parametrize("client", ["completions", "messages", "responses"])
def test_a_provider_that_drops_the_connection(gateway: GatewayProcess, client: str) -> None:
    got = ask("drop", client, f"{client}-drop")
    assert_error(client, got, got.status)
    assert got.status in (502, 503)
    wait_used(gateway, f"{client}-drop", "0")


@pytest.mark.parametrize("client", ["completions", "messages", "responses"])
def test_a_provider_that_hangs(gateway: GatewayProcess, client: str) -> None:
    got = ask("sim", client, f"{client}-hang", headers={"x-simulate": "hang"})
    assert_error(client, got, 504)
    wait_used(gateway, f"{client}-hang", "0")


# --- streams ----------------------------------------------------------------------------------


def last_event(got: Got) -> Json:
    """The data of a stream's last event."""
    blocks = [one for one in got.body.replace(b"\r\n", b"\n").split(b"\n\n") if one.strip()]
    (line,) = [one for one in blocks[-1].split(b"\n") if one.startswith(b"data:")]
    return dict(orjson.loads(line[5:]))


def is_error(event: Json) -> bool:
    """Whether an event says that the stream failed, in any client's format."""
    return "error" in event or event.get("type") in ("error", "response.failed")


@pytest.mark.parametrize(
    ("client", "fault"),
    [*(("messages", fault) for fault in STREAMS), ("completions", "cut"), ("responses", "cut")],
)
def test_streams_that_make_no_sense(gateway: GatewayProcess, client: str, fault: str) -> None:
    got = ask(fault, client, stream=True)
    assert got.status == 200, got.body
    assert is_error(last_event(got)), got.body[-500:]


@pytest.mark.parametrize("model", ["sim", "bedrock"])
@pytest.mark.parametrize("fault", ["cut-stream", "silent-stream", "error-stream"])
@pytest.mark.parametrize("client", ["completions", "messages", "responses"])
def test_streams_that_break_off(
    gateway: GatewayProcess, client: str, fault: str, model: str
) -> None:
    headers = {"x-simulate": f"{fault}, words-20"}
    got = ask(model, client, stream=True, headers=headers)
    assert (got.status, got.get("content-type")) == (200, "text/event-stream")
    assert is_error(last_event(got)), got.body[-500:]


@pytest.mark.parametrize("model", ["seen", "unseen"])
def test_a_stream_that_nobody_converts_breaks_off(gateway: GatewayProcess, model: str) -> None:
    got = post("/v1/other", orjson.dumps({"model": model, "stream": True}))
    assert got.body.startswith(FIRST)
    assert is_error(last_event(got)), got.body


@pytest.mark.parametrize("client", ["completions", "messages"])
def test_an_event_stream_with_a_wrong_checksum(gateway: GatewayProcess, client: str) -> None:
    got = ask("damaged-frames", client, stream=True)
    assert got.status == 200
    assert is_error(last_event(got))
    assert "unharmed" in got.text
    assert "harmed!" not in got.text


@pytest.mark.parametrize("usage", [-5, 10**30, 1.5, "9", None, [], True])
def test_usage_that_makes_no_sense_is_estimated(gateway: GatewayProcess, usage: object) -> None:
    user = f"forger-{type(usage).__name__}-{usage}"[:40]
    got = ask("forged", user=user, metadata={"usage": json.dumps(usage)})
    assert got.status == 200
    # Five characters of prompt, two of answer.
    wait_used(gateway, user, "3")


def test_a_client_that_leaves_ends_the_provider_and_is_charged_once(
    gateway: GatewayProcess, simulated: Models
) -> None:
    before = simulated.closed_streams
    body = {"model": "sim", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    raw = orjson.dumps(body)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nx-user: leaver\r\n"
        f"x-simulate: words-5000, pace-20\r\ncontent-length: {len(raw)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", PORT), timeout=WAIT_SECONDS) as client:
        client.sendall(head.encode() + raw)
        got = b""
        while got.count(b'"content"') < 5:
            data = client.recv(4096)
            assert data
            got += data
    until = time.monotonic() + WAIT_SECONDS
    while simulated.closed_streams == before:
        assert time.monotonic() < until, gateway.log()
        time.sleep(0.01)
    # No usage was reported, but text was: it is paid for, and the rest is given back.
    while (found := int(used(gateway, "leaver") or 0)) == 0:
        assert time.monotonic() < until, gateway.log()
        time.sleep(0.01)
    assert 3 < found < 500


def test_a_client_that_leaves_pays_for_what_was_reported(gateway: GatewayProcess) -> None:
    body = {"model": "slow", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
    raw = orjson.dumps(body)
    head = (
        f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\nx-user: payer\r\n"
        f"content-length: {len(raw)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", PORT), timeout=WAIT_SECONDS) as client:
        client.sendall(head.encode() + raw)
        got = b""
        while b'"usage"' not in got:
            got += client.recv(4096)
    wait_used(gateway, "payer", "40")


# --- failover ---------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", AFTER)
@pytest.mark.parametrize("stream", [False, True])
def test_failover_is_charged_once(gateway: GatewayProcess, fault: str, stream: bool) -> None:
    user = f"after-{fault}-{stream}"
    got = ask(f"after-{fault}", user=user, stream=stream)
    assert got.status == 200, got.body
    wait_used(gateway, user, "40")


def test_calls_of_models_are_told_from_others(gateway: GatewayProcess) -> None:
    before = gateway.metric("agentgateway_upstream_call_duration_seconds_count", subtype="Llm")
    assert ask("plain").status == 200
    name = "agentgateway_upstream_call_duration_seconds_count"
    gateway.wait_metric(name, before + 1, kind="Primary", subtype="Llm")
    assert gateway.metric(name, subtype="Http") == 0
