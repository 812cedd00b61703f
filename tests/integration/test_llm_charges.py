"""What limits and budgets are charged for calls of models, before, during and after them.

Source: spec/llm.md sections 4.5, 4.6 and 5.3; spec/hardening.md case 50.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.models import EVENTS, JSON, MESSAGE_STREAM, chunk, event
from tests.support.upstream import Answer, Seen, Upstream

Json = dict[str, Any]
PORT, PASSING = free_ports(2)
WAIT_SECONDS = 20.0
LIMIT = 30
"""Of a user's budget and bucket, in tokens."""
PROMPT = "hello you"
ESTIMATE = 9
"""Two tokens of text, four a message and three: OpenAI's count."""
VECTOR = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
ANSWERS: dict[str, Json] = {
    "embed": {
        "object": "list",
        "model": "embed-1",
        "data": [VECTOR],
        "usage": {"prompt_tokens": 7, "total_tokens": 7},
    },
    "rank": {
        "id": "r",
        "results": [{"index": 0, "relevance_score": 0.5}],
        "meta": {"tokens": {"input_tokens": 11}},
    },
    "rank-voyage": {"object": "list", "results": [], "usage": {"total_tokens": 5}},
    "count": {"input_tokens": 13},
    "three": {
        "object": "chat.completion",
        "model": "three",
        "choices": [],
        "usage": {"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 3},
    },
    "unsaid": {"object": "chat.completion", "model": "unsaid", "choices": []},
    "silent": {
        "object": "chat.completion",
        "model": "silent",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "z" * 21}}],
    },
    # What it thought is in the total alone, as in answers of Google's and xAI's.
    "thinker": {
        "object": "chat.completion",
        "model": "thinker",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 1,
            "total_tokens": 11,
            "completion_tokens_details": {"reasoning_tokens": 8},
        },
    },
    # What it heard is in the total alone, as in answers of Mistral's, and no output.
    "hearer": {
        "object": "chat.completion",
        "model": "hearer",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}],
        "usage": {
            "prompt_tokens": 2,
            "completion_tokens": 1,
            "total_tokens": 11,
            "prompt_audio_seconds": 3,
        },
    },
    "summed": {
        "object": "chat.completion",
        "model": "summed",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "ok"}}],
        "usage": {"total_tokens": 20},
    },
}


@dataclass
class Gate:
    """Where the provider of one test waits."""

    asked: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


gates: dict[str, Gate] = {}


def provider(seen: Seen) -> Answer:
    """Does what the model's name says; `held-…` waits for the test first."""
    body = orjson.loads(seen.body)
    model = str(body.get("model") or "gem")
    inner = body.get("metadata") or body.get("labels") or {}
    gate = gates.get(str(body.get("user") or inner.get("user_id")))
    is_streaming = body.get("stream") or "stream" in seen.target
    if gate is not None and not is_streaming:
        gate.asked.set()
        gate.go.wait(WAIT_SECONDS)
    if model.startswith("fail-"):
        status = int(model.removeprefix("fail-"))
        return Answer(status, JSON, b'{"error":{"message":"no","type":"x"}}')
    if model == "sized":
        return Answer(200, EVENTS, b"".join(STREAMS["mute"]))
    if is_streaming:
        return Answer(200, EVENTS, _streamed(model, gate))
    return Answer(200, JSON, orjson.dumps(ANSWERS[model]))


def _streamed(model: str, gate: Gate | None) -> Iterator[bytes]:
    yield from STREAMS[model]
    if gate is not None:
        gate.asked.set()
        # The gateway closes the connection, which a write finds out sooner or later.
        while not gate.go.wait(0.01):
            yield b": still here\n\n"


def delta(text: str) -> bytes:
    """A piece of Anthropic's text."""
    inner = {"type": "text_delta", "text": text}
    return event({"type": "content_block_delta", "index": 0, "delta": inner})


def said(text: str) -> bytes:
    """A piece of text of OpenAI's responses."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    return event({"type": "response.output_text.delta", "delta": text, **place})


def generated(text: str, **usage: int) -> bytes:
    """A piece of Gemini's text."""
    content = {"role": "model", "parts": [{"text": text}]}
    body = {"candidates": [{"content": content}], "usageMetadata": usage}
    return b"data: " + orjson.dumps(body) + b"\n\n"


STREAMS = {
    "short": [chunk({"role": "assistant", "content": "he"}), chunk({"content": "llo"})],
    "long": [chunk({"role": "assistant", "content": "x"}), chunk({"content": "y" * 80})],
    "mute": [chunk({"role": "assistant", "content": ""})],
    "whole": [chunk({"content": "he"}), chunk({"content": "llo"}), b"data: [DONE]\n\n"],
    "thinker": [
        chunk({"content": "ok"}),
        chunk({}, usage={"prompt_tokens": 2, "completion_tokens": 1, "total_tokens": 11}),
        b"data: [DONE]\n\n",
    ],
    "half": [
        *(chunk({"content": text}) for text in ("he", "llo")),
        chunk({}, usage={"completion_tokens": 5}),
        b"data: [DONE]\n\n",
    ],
    # Says 17 tokens of input, and one of output to begin with.
    "claude": [*MESSAGE_STREAM[:2], delta("one"), delta("two"), delta("three")],
    "spoken": [
        event({"type": "response.created", "response": {"id": "r", "model": "spoken"}}),
        *map(said, ("one", "two", "three")),
    ],
    # Each event repeats what was used so far.
    "gem": [
        generated("one", promptTokenCount=4, candidatesTokenCount=1),
        generated("two", promptTokenCount=4, candidatesTokenCount=5),
    ],
}


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(provider) as made:
        yield made


@pytest.fixture(scope="module")
def gateway(upstream: Upstream) -> Iterator[GatewayProcess]:
    def model(name: str, kind: str = "openAI", **params: Any) -> Json:
        base = {"baseUrl": f"http://{upstream.address}/v1", "apiKey": "sk-own"}
        return {"name": name, "provider": kind, "params": {**base, **params}}

    budget = {
        "name": "used",
        "limit": {"unit": "Tokens", "amount": LIMIT},
        "window": {"rolling": "36500d"},
        "key": 'request.headers["x-user"]',
        "onMissingKey": "skip",
    }
    spent = {**budget, "name": "spent", "key": 'request.headers["x-payer"]'}
    spent["limit"] = {"unit": "USD", "amount": 0.0001}
    bucket = {
        "maxTokens": LIMIT,
        "tokensPerFill": 1,
        "fillInterval": "24h",
        "type": "tokens",
        "key": 'request.headers["x-client"]',
        "onMissingKey": "skip",
    }
    catalogue = {"providers": {"openai": {"models": {"three": {"rates": {"input": "10"}}}}}}
    catalogue["providers"]["openai"]["models"]["three"]["rates"]["output"] = "10"
    names = (
        *("embed", "unsaid", "silent", "summed", "fail-500"),
        *("short", "long", "mute", "whole", "half", "spoken", "thinker", "hearer"),
    )
    config = {
        "config": {"modelCatalog": [{"inline": catalogue}]},
        "frontendPolicies": {"accessLog": {"add": {"guessed": "llm.estimated"}}},
        "llm": {
            "port": PORT,
            "models": [
                *(model(name) for name in names),
                model("rank", "cohere", baseUrl=f"http://{upstream.address}"),
                model("rank-voyage", "cohere", baseUrl=f"http://{upstream.address}"),
                model("claude", "anthropic"),
                model("count", "anthropic"),
                model("gem", "gemini", baseUrl=f"http://{upstream.address}"),
                model("three", tokenize=True),
                model("counted-unsaid", tokenize=True, model="unsaid"),
                {**model("silent-detected", model="silent"), "passthrough": "detect"},
                {**model("mute-detected", model="mute"), "passthrough": "detect"},
                {**model("sized"), "passthrough": "detect"},
                {**model("claude-detected", "anthropic", model="claude"), "passthrough": "detect"},
                model("counted-fail", tokenize=True, model="fail-500"),
                model("counted-count", "anthropic", tokenize=True, model="count"),
                model("counted-short", tokenize=True, model="short"),
            ],
            "policies": {"budgets": [budget, spent], "localRateLimit": [bucket]},
        },
    }
    with GatewayProcess(config) as made:
        yield made


def ask(model: str, path: str = "/v1/chat/completions", **more: Any) -> Got:
    """A chat; `headers` are the request's own."""
    headers = {"content-type": "application/json", **more.pop("headers", {})}
    return fetch(PORT, path, "POST", headers=headers, body=_body(model, more))


def _body(model: str, more: Json) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": PROMPT}], **more}
    return orjson.dumps(body)


def used(gateway: GatewayProcess, of: str) -> str | None:
    """What a budget's key was charged."""
    url = f"http://127.0.0.1:{gateway.admin_port}/api/budgets/status"
    with urllib.request.urlopen(url, timeout=20) as answer:
        rows = json.load(answer)["budgets"]
    return next((row["usage"]["used"] for row in rows if row["apiKeyName"] == of), None)


def wait_until(found: Callable[[], object], wanted: object, gateway: GatewayProcess) -> None:
    """What another process writes comes a moment later."""
    until = time.monotonic() + WAIT_SECONDS
    while (value := found()) != wanted:
        assert time.monotonic() < until, (value, wanted, gateway.log())
        time.sleep(0.01)


def wait_used(gateway: GatewayProcess, of: str, value: int | str) -> None:
    wait_until(lambda: used(gateway, of), str(value), gateway)


def left(gateway: GatewayProcess, client: str) -> int:
    """What a client's bucket holds."""
    got = ask("fail-500", headers={"x-client": client})
    return int(got.get("x-ratelimit-remaining") or "0")


# --- calls that are no chats ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "path", "body", "tokens"),
    [
        ("embed", "/v1/embeddings", {"input": "some words"}, 7),
        ("rank", "/v2/rerank", {"query": "a", "documents": ["b"]}, 11),
        ("rank-voyage", "/v2/rerank", {"query": "a", "documents": ["b"]}, 5),
        ("count", "/v1/messages/count_tokens", {}, 0),
        ("counted-count", "/v1/messages/count_tokens", {}, 0),
    ],
)
def test_input_without_output_is_counted_and_charged(
    gateway: GatewayProcess, model: str, path: str, body: Json, tokens: int
) -> None:
    name = "agentgateway_gen_ai_client_token_usage_sum"
    labels = {"gen_ai_token_type": "input", "gen_ai_request_model": model}
    headers = {"x-user": f"u-{model}", "x-client": f"u-{model}"}
    assert ask(model, path, headers=headers, **body).status == 200
    wait_used(gateway, f"u-{model}", tokens)
    gateway.wait_metric(name, tokens, **labels)
    assert gateway.metric(name, **{**labels, "gen_ai_token_type": "output"}) == 0
    assert left(gateway, f"u-{model}") == LIMIT - tokens


# --- beforehand -------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["x-user", "x-client"])
def test_an_estimate_is_held_until_the_answer_says_how_much(
    gateway: GatewayProcess, upstream: Upstream, header: str
) -> None:
    name = f"held-{header}"
    gate = gates[name] = Gate()
    headers = {header: name}
    # Three of these fit at once, and no fourth.
    threads = [
        threading.Thread(target=ask, args=("three",), kwargs={"headers": headers, "user": name})
        for _ in range(3)
    ]
    upstream.take()
    for thread in threads:
        thread.start()
    wait_until(lambda: len(upstream.seen), 3, gateway)
    refused = ask("three", headers=headers)
    assert (refused.status, len(upstream.seen)) == (429, 3)
    gate.go.set()
    for thread in threads:
        thread.join()
    # Each has used three: what was held too much is there again.
    if header == "x-user":
        wait_used(gateway, name, 9)
    else:
        wait_until(lambda: left(gateway, name), LIMIT - 9, gateway)
    assert ask("three", headers=headers).status == 200


def test_the_cost_of_an_estimate_is_held(gateway: GatewayProcess, upstream: Upstream) -> None:
    gate = gates["payer"] = Gate()
    headers = {"x-payer": "payer"}
    thread = threading.Thread(
        target=ask, args=("three",), kwargs={"headers": headers, "user": "payer"}
    )
    thread.start()
    assert gate.asked.wait(WAIT_SECONDS)
    upstream.take()
    # 90 micro-USD of 100 are held for nine tokens.
    assert ask("three", headers=headers).status == 429
    assert upstream.take() == []
    gate.go.set()
    thread.join()
    wait_used(gateway, "payer", "0.00003")


def test_a_refusal_counts_nowhere(gateway: GatewayProcess, upstream: Upstream) -> None:
    name = "agentgateway_gen_ai_server_request_duration_count"
    labels = {"gen_ai_request_model": "three", "gen_ai_response_model": "unknown"}
    words: Json = {"messages": [{"role": "user", "content": "word " * (LIMIT + 1)}]}
    upstream.take()
    for name_of_key in ("x-user", "x-client", "x-payer"):
        assert ask("three", headers={name_of_key: "wordy"}, **words).status == 429
    assert upstream.take() == []
    assert left(gateway, "wordy") == LIMIT
    assert gateway.metric(name, **labels) == 0


def test_what_came_of_nothing_is_given_back(gateway: GatewayProcess) -> None:
    headers = {"x-user": "failed", "x-client": "failed"}
    for _ in range(5):
        assert ask("counted-fail", headers=headers).status == 500
    wait_used(gateway, "failed", 0)
    assert left(gateway, "failed") == LIMIT


@pytest.mark.parametrize(
    ("model", "path", "charged"),
    [
        ("counted-unsaid", "/v1/chat/completions", ESTIMATE),
        # Nine characters are three tokens, 21 are six.
        ("unsaid", "/v1/chat/completions", 3),
        ("silent", "/v1/chat/completions", 3 + 6),
        # Converted, the provider's answer counts.
        ("silent", "/v1/messages", 3 + 6),
        ("silent", "/v1/responses", 3 + 6),
        ("summed", "/v1/chat/completions", 20),
        ("thinker", "/v1/chat/completions", 11),
        ("thinker", "/v1/messages", 11),
        ("hearer", "/v1/chat/completions", 3),
        # Nobody knows where its prompt is: all names and texts of it are 32 characters.
        ("silent-detected", "/v1/other", 8 + 6),
    ],
)
def test_an_answer_without_usage_costs_the_estimate(
    gateway: GatewayProcess, model: str, path: str, charged: int
) -> None:
    name = f"{model}-{len(path)}"
    more: Json = {"input": PROMPT, "seed": 98} if path == "/v1/responses" else {"seed": 98}
    if path == "/v1/other":
        more = {}
    got = ask(model, path, headers={"x-user": name, "x-client": name}, **more)
    assert got.status == 200, got.body
    wait_used(gateway, name, charged)
    assert left(gateway, name) == LIMIT - charged


def test_pictures_and_tools_are_prompt(gateway: GatewayProcess) -> None:
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 9999}}
    turns = [{"role": "user", "content": [{"type": "text", "text": PROMPT}, picture]}]
    tool = {"type": "function", "function": {"name": "f" * 100}}
    headers = {"x-user": "pictures"}
    assert ask("unsaid", headers=headers, messages=turns, tools=[tool]).status == 200
    wait_used(gateway, "pictures", 119)


# --- clients that leave -----------------------------------------------------------------------


def left_alone(model: str, name: str, path: str, *, stream: bool) -> None:
    """Ask, and leave once the provider has done its part."""
    gate = gates[name] = Gate()
    more: Json = {"user": name, "stream": stream}
    if path == "/v1/messages":
        more = {"metadata": {"user_id": name}, "stream": stream, "max_tokens": 9}
    elif path == "/v1/responses":
        more = {**more, "input": PROMPT}
    elif path.startswith("/v1beta"):
        content = {"role": "user", "parts": [{"text": PROMPT}]}
        more = {"labels": {"user_id": name}, "contents": [content]}
    connection = http.client.HTTPConnection("127.0.0.1", PORT, timeout=WAIT_SECONDS)
    fields = {"content-type": "application/json", "x-user": name, "x-client": name}
    connection.request("POST", path, _body(model, more), fields)
    answer = connection.getresponse() if stream else None
    if answer is not None:
        _read_events(answer, _last_word(model))
    assert gate.asked.wait(WAIT_SECONDS)
    assert connection.sock is not None
    connection.sock.shutdown(socket.SHUT_RDWR)
    if answer is not None:
        answer.close()
    connection.close()


def _last_word(model: str) -> bytes:
    """The last text of a stream, or what tells that there is none."""
    found = re.findall(rb'"(?:content|text|delta)":"([^"]+)"', STREAMS[model][-1])
    return found[-1] if found else b"data:"


def _read_events(answer: http.client.HTTPResponse, last: bytes) -> None:
    """Until all that the provider has said is here."""
    seen = b""
    while last not in seen:
        data = answer.read1()
        assert data
        seen += data


@pytest.mark.parametrize(
    ("model", "path", "charged"),
    [
        # Nine characters of prompt are three tokens; two events are two, 81 characters 21.
        ("short", "/v1/chat/completions", 3 + 2),
        ("long", "/v1/chat/completions", 3 + 21),
        # Whoever counts prompts does so with the tokenizer.
        ("counted-short", "/v1/chat/completions", ESTIMATE + 2),
        # Anthropic has said what went in.
        ("claude", "/v1/messages", 17 + 3),
        ("spoken", "/v1/responses", 3 + 3),
        ("gem", "/v1beta/models/gem:streamGenerateContent?alt=sse", 4 + 5),
        # Converted, the provider's events count.
        ("short", "/v1/messages", 3 + 2),
        ("claude", "/v1/chat/completions", 17 + 3),
        ("claude", "/v1/responses", 17 + 3),
        # Of one that brought no text yet the prompt was read.
        ("mute", "/v1/chat/completions", 3),
        ("mute", "/v1/messages", 3),
        # Nobody knows where its prompt is, so all of its JSON but names is.
        ("mute-detected", "/v1/other", 11),
    ],
)
def test_a_stream_that_is_left_costs_what_it_brought(
    gateway: GatewayProcess, model: str, path: str, charged: int
) -> None:
    name = f"left-{model}-{path[:12].replace('/', '-')}"
    STREAMS.setdefault("counted-short", STREAMS["short"])
    STREAMS.setdefault("mute-detected", STREAMS["mute"])
    left_alone(model, name, path, stream=True)
    wait_used(gateway, name, charged)
    assert left(gateway, name) == LIMIT - charged
    gates[name].go.set()


def test_a_stream_that_never_says_what_it_used_is_estimated(gateway: GatewayProcess) -> None:
    got = ask("whole", stream=True, seed=99, headers={"x-user": "whole"})
    assert got.body.endswith(b"data: [DONE]\n\n")
    wait_used(gateway, "whole", 3 + 2)
    assert "guessed=true" in gateway.wait_line("gen_ai.request.seed=99")
    assert ask("thinker", stream=True, headers={"x-user": "thinker"}).status == 200
    wait_used(gateway, "thinker", 11)
    # Half of it is said: that half is taken at its word.
    assert ask("half", stream=True, headers={"x-user": "half"}).status == 200
    wait_used(gateway, "half", 3 + 5)


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/chat/completions", "/v1/other"])
def test_a_count_from_the_beginning_of_a_cut_stream_is_not_the_last(
    gateway: GatewayProcess, path: str
) -> None:
    is_seen = path == "/v1/other"
    user = f"cut{len(path)}"
    model = "claude-detected" if is_seen else "claude"
    got = ask(model, path, stream=True, max_tokens=9, headers={"x-user": user})
    assert (b"ended early" in got.body) != is_seen
    wait_used(gateway, user, 17 + 3)


def test_a_stream_of_known_length_that_came_whole_was_not_left(gateway: GatewayProcess) -> None:
    got = ask("sized", "/v1/other", stream=True, seed=97, headers={"x-user": "sized"})
    assert got.body == STREAMS["mute"][0]
    assert "guessed" not in gateway.wait_line("gen_ai.request.seed=97")
    wait_used(gateway, "sized", 0)


def test_a_client_that_leaves_before_its_answer_pays_nothing(gateway: GatewayProcess) -> None:
    left_alone("three", "left-early", "/v1/chat/completions", stream=False)
    # Nine of thirty were held: with them gone for good, three more would not fit.
    wait_until(lambda: left(gateway, "left-early"), LIMIT, gateway)
    wait_used(gateway, "left-early", 0)
    gates["left-early"].go.set()


# --- calls under way --------------------------------------------------------------------------


def under_way(gateway: GatewayProcess, name: str) -> object:
    """How many calls a provider is busy with."""
    url = f"http://127.0.0.1:{gateway.admin_port}/state/endpoints"
    with urllib.request.urlopen(url, timeout=20) as answer:
        rows = json.load(answer)["rows"]
    return {row["label"].rpartition("|")[2]: row["inFlight"] for row in rows}.get(name)


def test_a_stream_is_under_way_until_its_end(upstream: Upstream) -> None:
    def backend(name: str) -> Json:
        provider: Json = {"openAI": {}}
        return {"ai": {"name": name, "provider": provider, "hostOverride": upstream.address}}

    routes = [
        {
            "matches": [{"path": {"pathPrefix": f"/{kind}"}}],
            "policies": {"ai": {"routes": {f"/{kind}": kind}}},
            "backends": [backend(kind[:1])],
        }
        for kind in ("completions", "detect", "passthrough")
    ]
    config = {"binds": [{"port": PASSING, "listeners": [{"routes": routes}]}]}
    with GatewayProcess(config) as own:
        for kind in ("completions", "detect", "passthrough"):
            gate = gates[kind] = Gate()
            connection = http.client.HTTPConnection("127.0.0.1", PASSING, timeout=WAIT_SECONDS)
            body = _body("short", {"stream": True, "user": kind})
            connection.request("POST", f"/{kind}", body, {"content-type": "application/json"})
            answer = connection.getresponse()
            assert answer.read1()
            assert under_way(own, kind[:1]) == 1
            gate.go.set()
            answer.read()
            answer.close()
            connection.close()
            wait_until(partial(under_way, own, kind[:1]), 0, own)
