"""OpenAI's formats: chat completions, embeddings, models, moderations; and Cohere's rerank.

Source: OpenAI API reference; Cohere API reference (rerank v2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sidecar.simulator import vectors
from sidecar.simulator.ask import Json, as_list, as_object, as_text
from sidecar.simulator.frames import DONE, data
from sidecar.simulator.reply import CREATED, Reply

MODELS: Final = ("gpt-4o-mini", "claude-sonnet-4-5", "gemini-2.5-flash")
_FINISH: Final = {"end": "stop", "cut": "length", "call": "tool_calls"}


def completion(model: str, reply: Reply) -> Json:
    """A whole answer."""
    message: Json = {"role": "assistant", "content": reply.text, "refusal": None}
    if reply.call:
        function = {"name": reply.call.name, "arguments": reply.call.text}
        call = {"id": f"call_{reply.identity}", "type": "function", "function": function}
        message |= {"content": None, "tool_calls": [call]}
    choice = {"index": 0, "message": message, "logprobs": None}
    return {
        "id": f"chatcmpl-{reply.identity}",
        "object": "chat.completion",
        "created": CREATED,
        "model": model,
        "choices": [choice | {"finish_reason": _FINISH[reply.finish]}],
        "usage": usage(reply),
        "system_fingerprint": "fp_simulator",
    }


def usage(reply: Reply) -> Json:
    """Of a chat completion."""
    return {
        "prompt_tokens": reply.input_tokens,
        "completion_tokens": reply.output_tokens,
        "total_tokens": reply.input_tokens + reply.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": reply.thought_tokens},
    }


def completion_stream(model: str, reply: Reply, body: Json) -> Iterator[bytes]:
    """The same as events."""
    shared = {
        "id": f"chatcmpl-{reply.identity}",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": model,
        "system_fingerprint": "fp_simulator",
    }

    def chunk(delta: Json, finish: str | None = None) -> bytes:
        return data(shared | {"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})

    yield chunk({"role": "assistant", "content": None if reply.call else ""})
    for piece in reply.pieces:
        yield chunk({"content": piece})
    if reply.call:
        function = {"name": reply.call.name, "arguments": ""}
        start = {"index": 0, "id": f"call_{reply.identity}", "type": "function"}
        yield chunk({"tool_calls": [start | {"function": function}]})
        for half in reply.call.halves():
            yield chunk({"tool_calls": [{"index": 0, "function": {"arguments": half}}]})
    yield chunk({}, _FINISH[reply.finish])
    if as_object(body.get("stream_options")).get("include_usage") is True:
        yield data(shared | {"choices": [], "usage": usage(reply)})
    yield DONE


def embeddings(model: str, body: Json) -> Json:
    """Vectors, as numbers or in base64. Raises: BadAskError."""
    given = vectors.inputs(body.get("input"))
    is_packed = body.get("encoding_format") == "base64"
    rows: list[Json] = []
    for index, text in enumerate(given):
        made: Any = vectors.vector(text, body.get("dimensions"))
        made = vectors.packed(made) if is_packed else made
        rows.append({"object": "embedding", "index": index, "embedding": made})
    return {"object": "list", "data": rows, "model": model, "usage": vectors.usage(given)}


def rerank(model: str, body: Json) -> Json:
    """Cohere's answer."""
    documents = as_list(body.get("documents"))
    rows = vectors.ranked(as_text(body.get("query")), documents, body.get("top_n"))
    results: list[Json] = [{"index": index, "relevance_score": score} for index, score, _ in rows]
    if body.get("return_documents") is True:
        for result, (_, _, text) in zip(results, rows, strict=True):
            result["document"] = {"text": text}
    meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
    return {"id": f"simulated-{model}", "results": results, "meta": meta}


def moderation(body: Json) -> Json:
    """Flagged when a text says so."""
    results = []
    for text in vectors.inputs(body.get("input")):
        is_flagged = "flag-me" in text
        scores = {"violence": 0.99 if is_flagged else 0.01}
        categories = {"violence": is_flagged}
        results.append({"flagged": is_flagged, "categories": categories, "category_scores": scores})
    return {"id": "modr-simulated", "model": "omni-moderation-latest", "results": results}


def models(identity: str) -> Json:
    """The list, or the one of that name."""
    rows = [
        {"id": name, "object": "model", "created": CREATED, "owned_by": "simulator"}
        for name in ((identity,) if identity else MODELS)
    ]
    return rows[0] if identity else {"object": "list", "data": rows}
