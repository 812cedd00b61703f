"""Every provider through the gateway, asked in every chat format: whole, streamed, tools, errors.

Source: spec/llm.md sections 1, 2 and 6.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson
import pytest

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.simulator import Models

Json = dict[str, Any]
(PORT,) = free_ports(1)
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}
SAID = "You said: hello there"
CALLED = {"city": "simulated"}
AWS = {"aws": {"accessKeyId": "AKIDEXAMPLE", "secretAccessKey": "not-a-secret"}}


class Provider(NamedTuple):
    """One model: its configuration, the model at the provider, and what must go out."""

    kind: Any
    model: str
    params: Json
    auth: Any
    path: str
    """How the path of a whole chat begins."""
    key: tuple[str, str]
    """A header that authenticates, and how its value begins."""


BEARER = ("authorization", "Bearer sk-own")
PROVIDERS = {
    "openai": Provider("openAI", "gpt-4o", {}, None, "/v1/", BEARER),
    "anthropic": Provider(
        "anthropic", "claude-sonnet-4-5", {}, None, "/v1/messages", ("x-api-key", "sk-own")
    ),
    "gemini": Provider(
        "gemini",
        "gemini-2.5-flash",
        {"apiKey": "AIza-own"},
        None,
        "/v1beta/",
        ("x-goog-api-key", "AIza-own"),
    ),
    "vertex-gemini": Provider(
        "vertex",
        "gemini-2.5-pro",
        {"vertexProject": "p1", "vertexRegion": "us-east1", "apiKey": "AIza-own"},
        None,
        "/v1/projects/p1/locations/us-east1/",
        ("x-goog-api-key", "AIza-own"),
    ),
    "vertex-claude": Provider(
        "vertex",
        "claude-sonnet-4-5-20250929",
        {"vertexProject": "p1"},
        None,
        "/v1/projects/p1/locations/global/publishers/anthropic/models/claude-sonnet-4-5",
        BEARER,
    ),
    "bedrock": Provider(
        "bedrock",
        "anthropic.claude-sonnet-4-5-v1:0",
        {"awsRegion": "us-west-2"},
        AWS,
        "/model/anthropic.claude-sonnet-4-5-v1:0/converse",
        ("authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/"),
    ),
    "azure": Provider(
        "azure",
        "gpt-4o",
        {"azureResourceName": "r1", "azureResourceType": "openAI"},
        None,
        "/openai/v1/",
        ("api-key", "sk-own"),
    ),
    "azure-dated": Provider(
        "azure",
        "gpt-4o",
        {
            "azureResourceName": "r1",
            "azureResourceType": "openAI",
            "azureApiVersion": "2024-10-21",
        },
        None,
        "/openai/",
        ("api-key", "sk-own"),
    ),
    "azure-claude": Provider(
        "azure",
        "claude-sonnet-4-5",
        {"azureResourceName": "r1", "azureResourceType": "foundry"},
        None,
        "/anthropic/v1/messages",
        ("x-api-key", "sk-own"),
    ),
    "copilot": Provider("copilot", "gpt-4o", {}, None, "/chat/completions", BEARER),
    "copilot-claude": Provider("copilot", "claude-sonnet-4", {}, None, "/", BEARER),
    "copilot-gpt5": Provider("copilot", "gpt-5", {}, None, "/responses", BEARER),
    "custom": Provider(
        {"custom": {"formats": [{"type": "completions", "path": "/x/v3/chat/completions"}]}},
        "m1",
        {},
        None,
        "/x/v3/chat/completions",
        BEARER,
    ),
    "cohere": Provider(
        "cohere", "command-a", {}, None, "/compatibility/v1/chat/completions", BEARER
    ),
    "groq": Provider("groq", "llama-4", {}, None, "/openai/v1/", BEARER),
    "deepseek": Provider("deepseek", "deepseek-chat", {}, None, "/", BEARER),
    "mistral": Provider("mistral", "mistral-large", {}, None, "/v1/chat/completions", BEARER),
}
EMBEDDERS = {
    "vertex-embed": PROVIDERS["vertex-gemini"]._replace(model="text-embedding-005"),
    "titan": PROVIDERS["bedrock"]._replace(model="amazon.titan-embed-text-v2:0"),
    "nova": PROVIDERS["bedrock"]._replace(model="amazon.nova-2-multimodal-embeddings-v1:0"),
    "cohere-embed": PROVIDERS["bedrock"]._replace(model="cohere.embed-english-v3"),
}


class Client(NamedTuple):
    """One client format."""

    path: str
    stream_path: str
    body: Json
    tool: Json
    forced: Json


TURNS = [{"role": "user", "content": "hello there"}]
CLIENTS = {
    "completions": Client(
        "/v1/chat/completions",
        "",
        {"messages": TURNS},
        {"tools": [{"type": "function", "function": {"name": "get", "parameters": SCHEMA}}]},
        {"tool_choice": {"type": "function", "function": {"name": "get"}}},
    ),
    "messages": Client(
        "/v1/messages",
        "",
        {"messages": TURNS, "max_tokens": 100},
        {"tools": [{"name": "get", "input_schema": SCHEMA}]},
        {"tool_choice": {"type": "tool", "name": "get"}},
    ),
    "responses": Client(
        "/v1/responses",
        "",
        {"input": "hello there"},
        {"tools": [{"type": "function", "name": "get", "parameters": SCHEMA}]},
        {"tool_choice": {"type": "function", "name": "get"}},
    ),
    "gemini": Client(
        "/v1beta/models/%s:generateContent",
        "/v1beta/models/%s:streamGenerateContent?alt=sse",
        {"contents": [{"role": "user", "parts": [{"text": "hello there"}]}]},
        {"tools": [{"functionDeclarations": [{"name": "get", "parameters": SCHEMA}]}]},
        {},
    ),
}
GOOGLE = ("gemini", "vertex-gemini")
PAIRS = [
    (client, provider)
    for client in CLIENTS
    for provider in PROVIDERS
    # Gemini's format is served by Google's models alone.
    if client != "gemini" or provider in GOOGLE
]


@pytest.fixture(scope="module")
def models() -> Iterator[Models]:
    with Models() as made:
        yield made


@pytest.fixture(scope="module")
def gateway(models: Models) -> Iterator[GatewayProcess]:
    def model(name: str, one: Provider) -> Json:
        url = f"http://{models.address}"
        # A base URL stands for the whole base of OpenAI's formats.
        url += {"openai": "/v1", "mistral": "/v1", "groq": "/openai/v1"}.get(name, "")
        params = {"baseUrl": url, "model": one.model, **one.params}
        made: Json = {"name": name, "provider": one.kind, "params": params}
        if one.auth is None:
            params.setdefault("apiKey", "sk-own")
        else:
            made["auth"] = one.auth
        return made

    config = {
        "llm": {
            "port": PORT,
            "streamIdleTimeout": "30s",
            "models": [model(name, one) for name, one in (PROVIDERS | EMBEDDERS).items()],
        }
    }
    with GatewayProcess(config) as made:
        yield made


def ask(client: str, provider: str, *, stream: bool = False, **more: Any) -> Got:
    """A chat in a client's format."""
    form = CLIENTS[client]
    headers = {"content-type": "application/json", "x-simulate": more.pop("simulate", "")}
    body = {**form.body, **more}
    path = form.path
    if client == "gemini":
        path = (form.stream_path if stream else form.path) % provider
    else:
        body["model"] = provider
        if stream:
            body["stream"] = True
    return fetch(PORT, path, "POST", headers=headers, body=orjson.dumps(body))


def events(sse: bytes) -> list[Json]:
    """The data of a stream's events; every event is JSON but the last of OpenAI's."""
    found = []
    for block in sse.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
        if lines and lines != [b"[DONE]"]:
            found.append(orjson.loads(b"\n".join(lines)))
    return found


def said(client: str, answer: Json) -> str:
    """The text of a whole answer."""
    if client == "completions":
        return str(answer["choices"][0]["message"]["content"])
    if client == "messages":
        return "".join(part.get("text", "") for part in answer["content"])
    if client == "responses":
        parts = [part for item in answer["output"] for part in item.get("content") or ()]
        return "".join(part["text"] for part in parts)
    return "".join(part["text"] for part in answer["candidates"][0]["content"]["parts"])


def streamed(client: str, sse: bytes) -> str:
    """The text of a stream, checked for its proper end."""
    found = events(sse)
    if client == "completions":
        assert sse.endswith(b"data: [DONE]\n\n")
        choices = [one["choices"][0] for one in found if one["choices"]]
        assert [one["finish_reason"] for one in choices if one.get("finish_reason")] == ["stop"]
        return "".join(one["delta"].get("content") or "" for one in choices)
    if client == "messages":
        assert found[-1]["type"] == "message_stop"
        return "".join(one["delta"].get("text", "") for one in found if "delta" in one)
    if client == "responses":
        assert found[-1]["type"] == "response.completed"
        deltas = [one for one in found if one["type"] == "response.output_text.delta"]
        return "".join(one["delta"] for one in deltas)
    assert found[-1]["candidates"][0]["finishReason"] == "STOP"
    return "".join(said(client, one) for one in found)


def called(client: str, answer: Json) -> tuple[str, Any]:
    """Name and arguments of the tool that a whole answer calls."""
    if client == "completions":
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        return call["function"]["name"], orjson.loads(call["function"]["arguments"])
    if client == "messages":
        (part,) = [part for part in answer["content"] if part["type"] == "tool_use"]
        return part["name"], part["input"]
    if client == "responses":
        (item,) = [item for item in answer["output"] if item["type"] == "function_call"]
        return item["name"], orjson.loads(item["arguments"])
    call = answer["candidates"][0]["content"]["parts"][0]["functionCall"]
    return call["name"], call["args"]


def called_in_stream(client: str, sse: bytes) -> tuple[str, Any]:
    """The same of a stream."""
    found = events(sse)
    if client == "completions":
        calls = [
            call["function"]
            for one in found
            for choice in one["choices"]
            for call in choice["delta"].get("tool_calls") or ()
        ]
        names = "".join(call.get("name") or "" for call in calls)
        return names, orjson.loads("".join(call.get("arguments") or "" for call in calls))
    if client == "messages":
        starts = [one["content_block"] for one in found if one["type"] == "content_block_start"]
        (start,) = [block for block in starts if block["type"] == "tool_use"]
        text = "".join(one["delta"].get("partial_json", "") for one in found if "delta" in one)
        return start["name"], orjson.loads(text)
    if client == "responses":
        return called(client, found[-1]["response"])
    return called(client, found[0])


def tokens(client: str, answer: Json) -> tuple[int, int]:
    """Input and output tokens of a whole answer."""
    if client == "gemini":
        usage = answer["usageMetadata"]
        return usage["promptTokenCount"], usage["candidatesTokenCount"]
    usage = answer["usage"]
    if client == "completions":
        return usage["prompt_tokens"], usage["completion_tokens"]
    return usage["input_tokens"], usage["output_tokens"]


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_whole(gateway: GatewayProcess, models: Models, client: str, provider: str) -> None:
    models.take()
    got = ask(client, provider)
    answer = orjson.loads(got.body)
    assert (got.status, got.get("content-type")) == (200, "application/json"), got.body
    assert said(client, answer) == SAID
    assert tokens(client, answer) == (2, 4)
    (seen,) = models.take()
    one = PROVIDERS[provider]
    assert seen.target.startswith(one.path)
    name, value = one.key
    if "/v1beta/openai/" in seen.target:
        # Google's imitation of OpenAI wants keys as OpenAI does.
        name, value = "authorization", f"Bearer {value}"
    assert seen.headers[name].startswith(value)
    assert sum(name in seen.headers for name in ("authorization", "x-api-key", "api-key")) <= 1


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_streamed(gateway: GatewayProcess, client: str, provider: str) -> None:
    got = ask(client, provider, stream=True)
    assert (got.status, got.get("content-type")) == (200, "text/event-stream"), got.body
    assert streamed(client, got.body) == SAID


@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_tools(gateway: GatewayProcess, client: str, provider: str) -> None:
    form = CLIENTS[client]
    got = ask(client, provider, **form.tool, **form.forced)
    assert got.status == 200, got.body
    assert called(client, orjson.loads(got.body)) == ("get", CALLED)
    got = ask(client, provider, stream=True, **form.tool)
    assert got.status == 200, got.body
    assert called_in_stream(client, got.body) == ("get", CALLED)


def assert_error(client: str, got: Got, status: int) -> None:
    """The client format's error object."""
    assert got.status == status, got.body
    assert got.get("content-type") == "application/json"
    error = orjson.loads(got.body)
    if client == "messages":
        assert error["type"] == "error"
        assert error["error"]["type"] == {
            401: "authentication_error",
            429: "rate_limit_error",
            500: "api_error",
            529: "overloaded_error",
        }.get(status, error["error"]["type"])
    elif client == "gemini":
        assert error["error"]["code"] == status
        assert isinstance(error["error"]["status"], str)
    else:
        assert isinstance(error["error"]["type"], str)
        assert "code" in error["error"]
    assert error["error"]["message"]


@pytest.mark.parametrize("status", [401, 429, 500, 529])
@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_errors(gateway: GatewayProcess, client: str, provider: str, status: int) -> None:
    got = ask(client, provider, simulate=f"fail-{status}", stream=status == 500)
    assert_error(client, got, status)
    assert f"simulated failure {status}" in got.text


@pytest.mark.parametrize("fault", ["html", "bad-json"])
@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_answers_that_are_none(
    gateway: GatewayProcess, client: str, provider: str, fault: str
) -> None:
    assert_error(client, ask(client, provider, simulate=fault), 502)


@pytest.mark.parametrize("fault", ["cut-stream", "error-stream"])
@pytest.mark.parametrize(("client", "provider"), PAIRS)
def test_streams_that_break_off(
    gateway: GatewayProcess, client: str, provider: str, fault: str
) -> None:
    got = ask(client, provider, stream=True, simulate=fault)
    if got.status != 200:
        assert_error(client, got, got.status)
        return
    last = events(got.body[got.body.rfind(b"\n\n", 0, -2) :])[-1]
    assert "error" in last or last["type"] in ("response.failed", "error"), got.body
    assert not got.body.endswith(b"[DONE]\n\n")


# --- other than chat --------------------------------------------------------------------------


def post(path: str, body: Json) -> Got:
    """A request that is no chat."""
    headers = {"content-type": "application/json"}
    return fetch(PORT, path, "POST", headers=headers, body=orjson.dumps(body))


@pytest.mark.parametrize(
    "provider", ["openai", "vertex-embed", "titan", "nova", "cohere-embed", "azure-dated"]
)
def test_embeddings_are_counted(gateway: GatewayProcess, provider: str) -> None:
    got = post("/v1/embeddings", {"model": provider, "input": "three small words"})
    answer = orjson.loads(got.body)
    assert got.status == 200, answer
    assert len(answer["data"]) == 1
    assert answer["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("provider", ["vertex-claude", "bedrock", "anthropic", "openai"])
def test_tokens_of_messages_are_counted(gateway: GatewayProcess, provider: str) -> None:
    body = {"model": provider, "messages": TURNS}
    got = post("/v1/messages/count_tokens", body)
    assert got.status == 200, got.body
    counted = orjson.loads(got.body)["input_tokens"]
    # Where nobody but the gateway can count, it counts real tokens and not the simulator's words.
    assert counted == 2 if provider != "openai" else counted > 2


@pytest.mark.parametrize("provider", ["cohere", "bedrock", "vertex-gemini"])
def test_rerank(gateway: GatewayProcess, provider: str) -> None:
    body = {"model": provider, "query": "blue", "documents": ["red paint", "blue paint"]}
    got = post("/v2/rerank", body)
    assert got.status == 200, got.body
    results = orjson.loads(got.body)["results"]
    assert {row["index"] for row in results} == {0, 1}
