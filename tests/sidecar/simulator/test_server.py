from __future__ import annotations

import asyncio
import base64
import struct
from typing import Any

import orjson
import pytest

from sidecar.errors import UpstreamError
from sidecar.http.eventstream import EventStreamDecoder
from sidecar.http.message import Response, read_all
from sidecar.http.sse import SseDecoder
from sidecar.simulator.server import Simulator
from tests.support.messages import request

PROMPT = {"messages": [{"role": "user", "content": "hi there"}]}
GOOGLE = {"contents": [{"role": "user", "parts": [{"text": "hi there"}]}]}
TEXT = "You said: hi there"
VERTEX = "/v1/projects/p/locations/l/publishers"
CHATS: dict[str, tuple[str, dict[str, Any]]] = {
    "completions": ("/v1/chat/completions", PROMPT),
    "deployment": ("/openai/deployments/m/chat/completions", PROMPT),
    "responses": ("/v1/responses", {"input": "hi there"}),
    "messages": ("/v1/messages", PROMPT),
    "claude on vertex": (f"{VERTEX}/anthropic/models/c@1:rawPredict", PROMPT),
    "claude on vertex, streamed": (f"{VERTEX}/anthropic/models/c:streamRawPredict", PROMPT),
    "gemini": ("/v1beta/models/g:generateContent", GOOGLE),
    "gemini, streamed": ("/v1beta/models/g:streamGenerateContent?alt=sse", GOOGLE),
    "gemini, array": ("/v1beta/models/g:streamGenerateContent", GOOGLE),
    "gemini on vertex": (f"{VERTEX}/google/models/g:generateContent", GOOGLE),
    "converse": ("/model/a.b%2Fc/converse", PROMPT),
    "converse, streamed": ("/model/a.b/converse-stream", PROMPT),
}
WHOLE = {name: chat for name, chat in CHATS.items() if "stream" not in chat[0].lower()}
STREAMS = {
    name: (path, body | {"stream": True})
    for name, (path, body) in CHATS.items()
    if name not in ("claude on vertex", "gemini", "gemini on vertex", "converse")
}
ERRORS = {
    "completions": {
        "error": {
            "message": "simulated failure 429",
            "type": "requests",
            "param": None,
            "code": "rate_limit_exceeded",
        }
    },
    "messages": {
        "type": "error",
        "error": {"type": "rate_limit_error", "message": "simulated failure 429"},
    },
    "gemini": {
        "error": {
            "code": 429,
            "message": "simulated failure 429",
            "status": "RESOURCE_EXHAUSTED",
        }
    },
    "converse": {"message": "simulated failure 429"},
}


async def post(path: str, body: object, fault: str = "") -> Response:
    simulator = Simulator(asyncio.get_running_loop())
    data = body if isinstance(body, bytes) else orjson.dumps(body)
    return await simulator.respond(request("POST", path, [("x-simulate", fault)], body=data))


async def ask(path: str, body: dict[str, Any], fault: str = "") -> dict[str, Any]:
    response = await post(path, {"model": "m"} | body, fault)
    assert response.status == 200
    return dict(orjson.loads(await read_all(response.body, 1 << 20)))


def deltas(media_type: bytes, data: bytes) -> str:
    """The text of a stream of any format."""
    if media_type == b"application/json":
        rows = orjson.loads(data)
    elif media_type == b"text/event-stream":
        given = [event.data for event in SseDecoder().feed(data)]
        rows = [orjson.loads(one) for one in given if one != b"[DONE]"]
    else:
        frames = EventStreamDecoder().feed(data)
        assert [f.name for f in frames[:1] + frames[-2:]] == [
            "messageStart",
            "messageStop",
            "metadata",
        ]
        rows = [orjson.loads(frame.payload) for frame in frames]
    return "".join(map(delta, rows))


def delta(row: dict[str, Any]) -> str:
    if row.get("choices"):
        return str(row["choices"][0]["delta"].get("content") or "")
    if "candidates" in row:
        return "".join(part["text"] for part in row["candidates"][0]["content"]["parts"])
    given = row.get("delta", "")
    return str(given.get("text", "")) if isinstance(given, dict) else str(given)


@pytest.mark.parametrize(("path", "body"), WHOLE.values(), ids=WHOLE)
async def test_chat(path: str, body: dict[str, Any]) -> None:
    assert TEXT in orjson.dumps(await ask(path, body)).decode()


@pytest.mark.parametrize(("path", "body"), STREAMS.values(), ids=STREAMS)
async def test_stream(path: str, body: dict[str, Any]) -> None:
    response = await post(path, {"model": "m"} | body)
    media_type = response.headers.get(b"content-type") or b""
    assert deltas(media_type, await read_all(response.body, 1 << 20)) == TEXT


@pytest.mark.parametrize("name", ERRORS)
async def test_error_of_each_provider(name: str) -> None:
    path, body = CHATS[name]
    response = await post(path, {"model": "m"} | body, "fail-429")
    assert (response.status, response.headers.get(b"retry-after")) == (429, b"1")
    assert orjson.loads(await read_all(response.body, 4096)) == ERRORS[name]


async def test_a_fault_named_by_the_model() -> None:
    response = await post("/v1/chat/completions", PROMPT | {"model": "gpt-fail-500"})
    assert response.status == 500


async def test_html_and_bad_json() -> None:
    path, body = "/v1/messages", {"model": "m", **PROMPT}
    page = await post(path, body, "html")
    assert (page.status, page.headers.get(b"content-type")) == (200, b"text/html")
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(await read_all((await post(path, body, "bad-json")).body, 4096))


@pytest.mark.parametrize(("path", "body"), STREAMS.values(), ids=STREAMS)
async def test_a_stream_that_is_cut(path: str, body: dict[str, Any]) -> None:
    response = await post(path, {"model": "m"} | body, "cut-stream")
    with pytest.raises(UpstreamError):
        await read_all(response.body, 1 << 20)


async def test_a_stream_that_fails() -> None:
    response = await post("/v1/messages", {"model": "m", "stream": True, **PROMPT}, "error-stream")
    events = SseDecoder().feed(await read_all(response.body, 1 << 20))
    assert orjson.loads(events[-1].data)["error"]["type"] == "overloaded_error"


async def test_embeddings() -> None:
    body = {"input": ["a", "b"], "dimensions": 4}
    plain = await ask("/v1/embeddings", body)
    packed = await ask("/v1/embeddings", body | {"encoding_format": "base64"})
    for one, other in zip(plain["data"], packed["data"], strict=True):
        octets = base64.b64decode(other["embedding"])
        assert list(struct.unpack("<4f", octets)) == one["embedding"]
    assert plain["data"][0]["embedding"] != plain["data"][1]["embedding"]


@pytest.mark.parametrize(
    ("path", "body", "expected"),
    [
        ("/v1beta/models/g:countTokens", GOOGLE, {"totalTokens": 2}),
        ("/v1/messages/count_tokens", PROMPT, {"input_tokens": 2}),
        (f"{VERTEX}/anthropic/models/count-tokens:rawPredict", PROMPT, {"input_tokens": 2}),
        (
            "/model/a/count-tokens",
            {"input": {"invokeModel": {"body": base64.b64encode(orjson.dumps(PROMPT)).decode()}}},
            {"inputTokens": 2},
        ),
    ],
)
async def test_counts(path: str, body: dict[str, Any], expected: dict[str, Any]) -> None:
    assert await ask(path, body) == expected


async def test_rerank_of_both_kinds() -> None:
    cohere = {"query": "red fox", "documents": ["a dog", "the red fox"], "top_n": 1}
    assert (await ask("/v2/rerank", cohere))["results"] == [{"index": 1, "relevance_score": 1.0}]
    documents = [{"inlineDocumentSource": {"textDocument": {"text": t}}} for t in ("dog", "fox")]
    queries = [{"type": "TEXT", "textQuery": {"text": "fox"}}]
    body = {"queries": queries, "sources": documents}
    best = (await ask("/rerank", body))["results"][0]
    assert best == {"index": 1, "relevanceScore": 1.0}


@pytest.mark.parametrize(
    ("model", "body"),
    [
        ("amazon.titan-embed", {"inputText": "a b"}),
        ("cohere.embed-v3", {"texts": ["a", "b"]}),
        ("amazon.nova-embed", {"singleEmbeddingParams": {"text": {"value": "a b"}}}),
    ],
)
async def test_embeddings_of_bedrock(model: str, body: dict[str, Any]) -> None:
    response = await post(f"/model/{model}/invoke", body)
    assert response.headers.get(b"x-amzn-bedrock-input-token-count") == b"2"


async def get(path: str, *headers: tuple[str, str]) -> tuple[int, Any]:
    simulator = Simulator(asyncio.get_running_loop())
    response = await simulator.respond(request("GET", path, list(headers)))
    return response.status, orjson.loads(await read_all(response.body, 4096))


async def test_lists_of_models() -> None:
    assert (await get("/v1/models"))[1]["data"][0]["object"] == "model"
    assert (await get("/v1/models/x"))[1]["id"] == "x"
    anthropic = ("anthropic-version", "2023-06-01")
    assert (await get("/v1/models", anthropic))[1]["has_more"] is False
    assert (await get("/v1beta/models"))[1]["models"][0]["name"].startswith("models/")
    assert (await get("/elsewhere"))[0] == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b"{}", b'{"model":"m","messages":[]}'])
async def test_bad_bodies(body: bytes) -> None:
    assert (await post("/v1/chat/completions", body)).status == 400
    assert (await post("/v1/messages", body)).status == 400
