"""Amazon Bedrock's formats: Converse, ConverseStream, embeddings, rerank and token counts.

Source: Amazon Bedrock API reference.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from typing import Final

import orjson

from sidecar.simulator import vectors
from sidecar.simulator.ask import (
    BadAskError,
    Json,
    as_list,
    as_object,
    as_text,
    texts,
    tokens,
)
from sidecar.simulator.frames import aws
from sidecar.simulator.reply import SIGNATURE, Reply

_FINISH: Final = {"end": "end_turn", "cut": "max_tokens", "call": "tool_use"}


def converse(_: str, reply: Reply) -> Json:
    """A whole answer."""
    blocks: list[Json] = []
    if reply.thought:
        text = {"text": reply.thought, "signature": SIGNATURE}
        blocks.append({"reasoningContent": {"reasoningText": text}})
    if reply.call:
        use = {"toolUseId": f"tooluse_{reply.identity}", "name": reply.call.name}
        blocks.append({"toolUse": use | {"input": reply.call.arguments}})
    else:
        blocks.append({"text": reply.text})
    message = {"role": "assistant", "content": blocks}
    return {
        "output": {"message": message},
        "stopReason": _FINISH[reply.finish],
        **_usage(reply),
    }


def _usage(reply: Reply) -> Json:
    usage = {
        "inputTokens": reply.input_tokens,
        "outputTokens": reply.output_tokens,
        "totalTokens": reply.input_tokens + reply.output_tokens,
    }
    return {"usage": usage, "metrics": {"latencyMs": 1}}


def converse_stream(_: str, reply: Reply, body: Json) -> Iterator[bytes]:
    """The same as event-stream messages."""
    yield aws("messageStart", {"role": "assistant"})
    index = 0
    if reply.thought:
        for part in ({"text": reply.thought}, {"signature": SIGNATURE}):
            yield _delta(index, {"reasoningContent": part})
        yield aws("contentBlockStop", {"contentBlockIndex": index})
        index += 1
    if reply.call:
        use = {"toolUseId": f"tooluse_{reply.identity}", "name": reply.call.name}
        start = {"start": {"toolUse": use}, "contentBlockIndex": index}
        yield aws("contentBlockStart", start)
        for half in reply.call.halves():
            yield _delta(index, {"toolUse": {"input": half}})
    else:
        for piece in reply.pieces:
            yield _delta(index, {"text": piece})
    yield aws("contentBlockStop", {"contentBlockIndex": index})
    yield aws("messageStop", {"stopReason": _FINISH[reply.finish]})
    yield aws("metadata", _usage(reply))


def _delta(index: int, delta: Json) -> bytes:
    return aws("contentBlockDelta", {"contentBlockIndex": index, "delta": delta})


def embed(model: str, body: Json) -> tuple[Json, int]:
    """InvokeModel of an embedding model, by its maker: `(answer, tokens)`. Raises: BadAskError."""
    if "nova" in model:
        params = as_object(body.get("singleEmbeddingParams"))
        text = as_text(as_object(params.get("text")).get("value"))
        values = vectors.vector(text, params.get("embeddingDimension"))
        row = {"embeddingType": "TEXT", "embedding": values}
        return {"embeddings": [row]}, tokens(text)
    if "cohere" in model:
        given = [as_text(text) for text in as_list(body.get("texts"))]
        rows = [vectors.vector(text, body.get("output_dimension")) for text in given]
        return {"id": "simulated", "embeddings": rows, "texts": given}, sum(map(tokens, given))
    text = as_text(body.get("inputText"))
    values = vectors.vector(text, body.get("dimensions"))
    return {"embedding": values, "inputTextTokenCount": tokens(text)}, tokens(text)


def rerank(body: Json) -> Json:
    """The agent runtime's answer."""
    queries = [as_object(item.get("textQuery")) for item in as_list(body.get("queries"))]
    query = " ".join(as_text(item.get("text")) for item in queries)
    documents: list[object] = [
        as_object(as_object(source).get("inlineDocumentSource")).get("textDocument")
        for source in as_list(body.get("sources"))
    ]
    config = as_object(body.get("rerankingConfiguration")).get("bedrockRerankingConfiguration")
    rows = vectors.ranked(query, documents, as_object(config).get("numberOfResults"))
    return {"results": [{"index": index, "relevanceScore": score} for index, score, _ in rows]}


def count(body: Json) -> Json:
    """CountTokens of what InvokeModel or Converse would get. Raises: BadAskError."""
    given = as_object(body.get("input"))
    invoked = as_text(as_object(given.get("invokeModel")).get("body"))
    try:
        inner = orjson.loads(base64.b64decode(invoked)) if invoked else given.get("converse")
    except (binascii.Error, orjson.JSONDecodeError) as exc:
        raise BadAskError("input.invokeModel.body: expected JSON in base64") from exc
    asked = as_object(inner)
    return {"inputTokens": tokens(" ".join(texts([asked.get("system"), asked.get("messages")])))}
