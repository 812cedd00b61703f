"""Bodies and streams of Bedrock and Google with everything in them that the conversions read."""

from __future__ import annotations

import copy
from typing import Any, Final

from sidecar.llm.convert.base import StreamEvent
from tests.sidecar.llm.convert import samples

Json = dict[str, Any]

COMPLETIONS_REQUEST: Final[Json] = copy.deepcopy(samples.COMPLETIONS_REQUEST)
COMPLETIONS_REQUEST["messages"][3]["reasoning_signature"] = "sig"
MESSAGES_REQUEST: Final[Json] = copy.deepcopy(samples.MESSAGES_REQUEST)
# Bedrock fetches no images.
del MESSAGES_REQUEST["messages"][0]["content"][2]
MESSAGES_REQUEST["messages"][1]["content"].append({"type": "redacted_thinking", "data": "c2VjcmV0"})
MESSAGES_REQUEST["tools"].append(
    {"name": "b.c", "input_schema": samples.SCHEMA, "cache_control": {"type": "ephemeral"}}
)
RESPONSES_REQUEST: Final[Json] = samples.RESPONSES_REQUEST

TOKENS: Final[Json] = {
    "inputTokens": 60,
    "outputTokens": 20,
    "totalTokens": 120,
    "cacheReadInputTokens": 30,
    "cacheWriteInputTokens": 10,
}
CONVERSE: Final[Json] = {
    "output": {
        "message": {
            "role": "assistant",
            "content": [
                {"reasoningContent": {"reasoningText": {"text": "hm", "signature": "sig"}}},
                {"reasoningContent": {"redactedContent": "c2VjcmV0"}},
                {"text": "Let me see."},
                {"citationsContent": {"content": [{"text": "As said."}], "citations": []}},
                {
                    "toolUse": {
                        "toolUseId": "tu_1",
                        "name": "weather",
                        "input": {"city": "Rome"},
                    }
                },
            ],
        }
    },
    "stopReason": "tool_use",
    "usage": TOKENS,
}


def delta(block: int, **fields: Any) -> tuple[str, Json]:
    """A contentBlockDelta."""
    return "contentBlockDelta", {"contentBlockIndex": block, "delta": fields}


def stop(block: int) -> tuple[str, Json]:
    """A contentBlockStop."""
    return "contentBlockStop", {"contentBlockIndex": block}


def call_start(block: int, identity: str, name: str) -> tuple[str, Json]:
    """A contentBlockStart of a call."""
    use = {"toolUseId": identity, "name": name}
    return "contentBlockStart", {"contentBlockIndex": block, "start": {"toolUse": use}}


CONVERSE_EVENTS: Final[list[tuple[str, Json]]] = [
    ("messageStart", {"role": "assistant"}),
    delta(0, reasoningContent={"text": "hm"}),
    delta(0, reasoningContent={"signature": "sig"}),
    stop(0),
    delta(1, reasoningContent={"redactedContent": "c2VjcmV0"}),
    stop(1),
    delta(2, text="Let me "),
    delta(2, text="see."),
    stop(2),
    call_start(3, "tu_1", "weather"),
    delta(3, toolUse={"input": '{"city":'}),
    delta(3, toolUse={"input": '"Rome"}'}),
    stop(3),
    call_start(4, "tu_2", "run"),
    stop(4),
    ("messageStop", {"stopReason": "tool_use"}),
    ("metadata", {"usage": TOKENS, "metrics": {"latencyMs": 1}}),
]

GOOGLE_USAGE: Final[Json] = {
    "promptTokenCount": 90,
    "toolUsePromptTokenCount": 10,
    "candidatesTokenCount": 15,
    "thoughtsTokenCount": 5,
    "cachedContentTokenCount": 30,
    "totalTokenCount": 120,
}
CALL_PART: Final[Json] = {
    "functionCall": {"name": "weather", "args": {"city": "Rome"}},
    "thoughtSignature": "sig==",
}
GEMINI: Final[Json] = {
    "responseId": "r-1",
    "modelVersion": "gemini-x",
    "candidates": [
        {
            "index": 0,
            "content": {
                "role": "model",
                "parts": [{"text": "hm", "thought": True}, {"text": "Let me see."}, CALL_PART],
            },
            "finishReason": "STOP",
        },
        {"index": 1, "content": {"parts": [{"text": "Or"}]}, "finishReason": "MAX_TOKENS"},
    ],
    "usageMetadata": GOOGLE_USAGE,
}


def gemini_chunk(*parts: Json, **fields: Any) -> tuple[str, Json]:
    """A chunk of streamGenerateContent."""
    candidate = {"index": 0, "content": {"role": "model", "parts": list(parts)}}
    head: Json = {"responseId": "r-1", "modelVersion": "gemini-x"}
    return "", head | {"candidates": [candidate | fields], "usageMetadata": {"promptTokenCount": 9}}


GEMINI_EVENTS: Final[list[tuple[str, Json]]] = [
    gemini_chunk({"text": "hm", "thought": True}),
    gemini_chunk({"text": "Let me "}),
    gemini_chunk({"text": "see."}),
    gemini_chunk(CALL_PART),
    gemini_chunk({"text": ""}, finishReason="STOP"),
    ("", {"usageMetadata": GOOGLE_USAGE}),
]


def events(pairs: list[tuple[str, Json]]) -> list[StreamEvent]:
    """As conversions take them."""
    return [StreamEvent(name, data) for name, data in pairs]


EMBEDDINGS_REQUEST: Final[Json] = {
    "model": "m",
    "input": ["one"],
    "dimensions": 4,
    "encoding_format": "base64",
    "task_type": "CLUSTERING",
    "title": "t",
    "auto_truncate": True,
    "input_type": "classification",
    "truncate": "END",
    "normalize": True,
}
RERANK_REQUEST: Final[Json] = {
    "model": "m",
    "query": "q",
    "documents": ["a", {"text": "b"}, {"title": "c"}],
    "top_n": 2,
    "return_documents": True,
    "max_tokens_per_doc": 9,
}
COUNT_REQUEST: Final[Json] = {
    "model": "m",
    "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "scope": "x"}}],
    "messages": [{"role": "user", "content": "Hi"}],
}
UNARY_ANSWERS: Final[dict[str, Json]] = {
    "embeddings_to_vertex": {
        "predictions": [
            {"embeddings": {"values": [0.5, 1], "statistics": {"token_count": 3}}},
        ]
    },
    "embeddings_to_bedrock": {"embedding": [0.5, 1], "inputTextTokenCount": 3},
    "rerank_to_bedrock": {"results": [{"index": 1, "relevanceScore": 0.5}]},
    "rerank_to_vertex": {"records": [{"id": "1", "score": 0.5}]},
    "count_tokens_to_bedrock": {"inputTokens": 7},
    "count_tokens_to_vertex": {"input_tokens": 7},
}
