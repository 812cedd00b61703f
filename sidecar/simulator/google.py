"""Google's formats: Gemini's generateContent, embeddings, ranking and the list of models.

Source: Gemini API reference; Vertex AI API reference; Discovery Engine API reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import orjson

from sidecar.simulator import vectors
from sidecar.simulator.ask import Json, as_list, as_object, as_text, texts, tokens
from sidecar.simulator.frames import data
from sidecar.simulator.reply import SIGNATURE, Reply

_FINISH: Final = {"end": "STOP", "cut": "MAX_TOKENS", "call": "STOP"}


def content(model: str, reply: Reply) -> Json:
    """A whole answer."""
    parts = [_thought(reply)] if reply.thought else []
    parts.append(_call(reply) if reply.call else {"text": reply.text})
    return _chunk(model, reply, parts, is_last=True)


def _thought(reply: Reply) -> Json:
    return {"text": reply.thought, "thought": True}


def _call(reply: Reply) -> Json:
    call = reply.call
    if call is None:
        return {}
    part: Json = {"functionCall": {"name": call.name, "args": call.arguments}}
    return part | {"thoughtSignature": SIGNATURE} if reply.thought else part


def _chunk(model: str, reply: Reply, parts: list[Json], *, is_last: bool) -> Json:
    candidate: Json = {"content": {"role": "model", "parts": parts}, "index": 0}
    usage = {
        "promptTokenCount": reply.input_tokens,
        "totalTokenCount": reply.input_tokens,
    }
    if is_last:
        candidate["finishReason"] = _FINISH[reply.finish]
        usage["candidatesTokenCount"] = reply.output_tokens - reply.thought_tokens
        usage["totalTokenCount"] += reply.output_tokens
        if reply.thought:
            usage["thoughtsTokenCount"] = reply.thought_tokens
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": model,
        "responseId": reply.identity,
    }


def content_chunks(model: str, reply: Reply) -> Iterator[Json]:
    """The same in pieces."""
    if reply.thought:
        yield _chunk(model, reply, [_thought(reply)], is_last=False)
    if reply.call:
        yield _chunk(model, reply, [_call(reply)], is_last=True)
        return
    pieces = reply.pieces or [""]
    for index, piece in enumerate(pieces, 1):
        yield _chunk(model, reply, [{"text": piece}], is_last=index == len(pieces))


def content_stream(model: str, reply: Reply, _: Json) -> Iterator[bytes]:
    """As events (`alt=sse`)."""
    return map(data, content_chunks(model, reply))


def content_array(model: str, reply: Reply, _: Json) -> Iterator[bytes]:
    """As an array of JSON that arrives in pieces, which is Google's other way."""
    before = b"["
    for chunk in content_chunks(model, reply):
        yield before + orjson.dumps(chunk)
        before = b",\r\n"
    yield b"]"


def count(body: Json) -> Json:
    """countTokens."""
    given = as_object(body.get("generateContentRequest")) or body
    prompt = " ".join(texts([given.get("systemInstruction"), given.get("contents")]))
    return {"totalTokens": tokens(prompt)}


def embed(body: Json) -> Json:
    """embedContent, or batchEmbedContents. Raises: BadAskError."""
    if "requests" in body:
        rows = [embed(one)["embedding"] for one in map(as_object, as_list(body["requests"]))]
        return {"embeddings": rows}
    text = " ".join(texts(body.get("content")))
    return {"embedding": {"values": vectors.vector(text, body.get("outputDimensionality"))}}


def predict(body: Json) -> Json:
    """Vertex's embeddings. Raises: BadAskError."""
    dimensions = as_object(body.get("parameters")).get("outputDimensionality")
    rows = []
    for instance in map(as_object, as_list(body.get("instances"))):
        text = as_text(instance.get("content"))
        statistics = {"token_count": tokens(text), "truncated": False}
        values = vectors.vector(text, dimensions)
        rows.append({"embeddings": {"values": values, "statistics": statistics}})
    return {"predictions": rows}


def rank(body: Json) -> Json:
    """The ranking service's answer."""
    records = [as_object(record) for record in as_list(body.get("records"))]
    given: list[object] = list(records)
    rows = vectors.ranked(as_text(body.get("query")), given, body.get("topN"))
    return {"records": [{"id": records[i].get("id"), "score": score} for i, score, _ in rows]}


def models(identity: str, names: tuple[str, ...]) -> Json:
    """The list, or the one of that name."""
    rows: list[Json] = [
        {
            "name": f"models/{name}",
            "displayName": name,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }
        for name in ((identity,) if identity else names)
    ]
    return rows[0] if identity else {"models": rows}
