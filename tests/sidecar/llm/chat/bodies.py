"""Valid bodies of every wire format, to be read, enriched, guarded and spoilt by the tests."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

COMPLETIONS: Json = {
    "model": "gpt-x",
    "stream": True,
    "max_completion_tokens": 9,
    "temperature": 0.5,
    "seed": 1,
    "messages": [
        {"role": "system", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "look"}, {"type": "image_url"}]},
        {
            "role": "assistant",
            "content": None,
            "refusal": "no",
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
                {"id": "c2", "type": "custom", "custom": {"name": "g", "input": "free"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "42"},
    ],
}
COMPLETIONS_ANSWER: Json = {
    "id": "1",
    "model": "gpt-x-1",
    "service_tier": "default",
    "choices": [
        {"index": 0, "message": {"content": "one", "reasoning": "why"}, "finish_reason": "stop"},
        {
            "index": 1,
            "message": {
                "content": None,
                "tool_calls": COMPLETIONS["messages"][2]["tool_calls"],
            },
            "finish_reason": "tool_calls",
        },
    ],
    "usage": {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 1},
        "completion_tokens_details": {"reasoning_tokens": 2},
    },
}
MESSAGES: Json = {
    "model": "claude-x",
    "max_tokens": 9,
    "stream": True,
    "temperature": 1,
    "system": [{"type": "text", "text": "be kind"}, {"type": "text", "text": "be brief"}],
    "messages": [
        {"role": "user", "content": "hello"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "text", "text": "I will"},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "42"}],
                },
                {"type": "document", "source": {"type": "text", "data": "a page"}},
                {"type": "text", "text": "and now"},
            ],
        },
    ],
}
MESSAGES_ANSWER: Json = {
    "id": "m",
    "type": "message",
    "model": "claude-x-1",
    "content": [
        {"type": "thinking", "thinking": "hm"},
        {"type": "text", "text": "done"},
        {"type": "tool_use", "id": "t2", "name": "f", "input": {"a": 2}},
    ],
    "stop_reason": "tool_use",
    "usage": {"input_tokens": 7, "output_tokens": 3, "cache_read_input_tokens": 2},
}
RESPONSES: Json = {
    "model": "gpt-x",
    "max_output_tokens": 9,
    "instructions": "be kind",
    "input": [
        {"role": "developer", "content": "be brief"},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
        {"type": "function_call_output", "call_id": "c", "output": "42"},
        {"type": "custom_tool_call", "call_id": "d", "name": "g", "input": "free"},
    ],
}
RESPONSES_ANSWER: Json = {
    "id": "r",
    "model": "gpt-x-1",
    "status": "completed",
    "output": [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "hm"}]},
        {"type": "message", "content": [{"type": "output_text", "text": "done"}]},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
    ],
    "usage": {
        "input_tokens": 10,
        "output_tokens": 5,
        "total_tokens": 15,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens_details": {"reasoning_tokens": 2},
    },
}
GEMINI: Json = {
    "systemInstruction": {"parts": [{"text": "be kind"}]},
    "contents": [
        {"role": "user", "parts": [{"text": "hi"}, {"inlineData": {"mimeType": "image/png"}}]},
        {"role": "model", "parts": [{"functionCall": {"name": "f", "args": {"a_b": 1}}}]},
        {"parts": [{"functionResponse": {"name": "f", "response": {"c_d": 2}}}]},
    ],
    "generationConfig": {"topP": 0.5, "maxOutputTokens": 9},
}
GEMINI_ANSWER: Json = {
    "modelVersion": "gemini-x",
    "candidates": [
        {
            "content": {
                "parts": [
                    {"text": "hm", "thought": True},
                    {"text": "done"},
                    {"functionCall": {"name": "f", "args": {"a": 1}}},
                ]
            },
            "finishReason": "STOP",
        }
    ],
    "usageMetadata": {
        "promptTokenCount": 10,
        "toolUsePromptTokenCount": 1,
        "candidatesTokenCount": 5,
        "thoughtsTokenCount": 2,
        "totalTokenCount": 18,
        "cachedContentTokenCount": 4,
        "promptTokensDetails": [
            {"modality": "TEXT", "tokenCount": 3},
            {"modality": "AUDIO", "tokenCount": 7},
        ],
    },
}
CONVERSE_ANSWER: Json = {
    "output": {
        "message": {
            "content": [
                {"text": "done"},
                {"toolUse": {"toolUseId": "u", "name": "f", "input": {"a": 1}}},
            ]
        }
    },
    "stopReason": "tool_use",
    "usage": {
        "inputTokens": 5,
        "outputTokens": 3,
        "totalTokens": 8,
        "cacheReadInputTokens": 2,
        "cacheWriteInputTokens": 1,
    },
}
EMBEDDINGS: Json = {"model": "e", "input": ["a"], "dimensions": 3, "encoding_format": "float"}
EMBEDDINGS_ANSWER: Json = {"model": "e-1", "usage": {"prompt_tokens": 2, "total_tokens": 2}}
RERANK: Json = {"model": "r", "query": "q", "documents": ["a", {"text": "b"}]}
RERANK_ANSWER: Json = {"id": "x", "meta": {"tokens": {"input_tokens": 214.0}}}
REALTIME: Json = {
    "type": "conversation.item.create",
    "item": {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "hi"}]},
}
REALTIME_ANSWER: Json = {
    "type": "response.done",
    "response": {
        "usage": {
            "total_tokens": 8,
            "input_tokens": 5,
            "output_tokens": 3,
            "input_token_details": {"cached_tokens": 1, "audio_tokens": 2},
            "output_token_details": {"audio_tokens": 3},
        }
    },
}

REQUESTS: dict[str, Json] = {
    "completions": COMPLETIONS,
    "messages": MESSAGES,
    "responses": RESPONSES,
    "generateContent": GEMINI,
    "converse": {},
    "embeddings": EMBEDDINGS,
    "rerank": RERANK,
    "anthropicTokenCount": MESSAGES,
    "geminiCountTokens": {"contents": GEMINI["contents"]},
    "realtime": REALTIME,
    "detect": {"model": "x", "request": {"generationConfig": {"maxOutputTokens": 5}}},
}
ANSWERS: dict[str, Json] = {
    "completions": COMPLETIONS_ANSWER,
    "messages": MESSAGES_ANSWER,
    "responses": RESPONSES_ANSWER,
    "generateContent": GEMINI_ANSWER,
    "converse": CONVERSE_ANSWER,
    "embeddings": EMBEDDINGS_ANSWER,
    "rerank": RERANK_ANSWER,
    "anthropicTokenCount": {"input_tokens": 12},
    "geminiCountTokens": {"totalTokens": 12, "cachedContentTokenCount": 3},
    "realtime": REALTIME_ANSWER,
    "detect": MESSAGES_ANSWER,
}
"""By format; an own copy must be made before editing."""
EVENTS: dict[str, list[tuple[str, Json]]] = {
    "completions": [
        ("", {"model": "gpt-x-1", "choices": [{"index": 0, "delta": {"role": "assistant"}}]}),
        ("", {"choices": [{"index": 0, "delta": {"content": "do"}}], "usage": None}),
        ("", {"choices": [{"index": 0, "delta": {"content": "ne"}}], "usage": None}),
        (
            "",
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {
                            "tool_calls": [
                                {"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}}
                            ]
                        },
                    }
                ]
            },
        ),
        (
            "",
            {
                "choices": [
                    {
                        "index": 0,
                        "delta": {
                            "tool_calls": [{"index": 0, "function": {"arguments": '{"a":1}'}}]
                        },
                    }
                ]
            },
        ),
        ("", {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}),
        ("", {"choices": [], "usage": COMPLETIONS_ANSWER["usage"]}),
    ],
    "messages": [
        (
            "message_start",
            {
                "type": "message_start",
                "message": {
                    "model": "claude-x-1",
                    "usage": {"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 2},
                },
            },
        ),
        ("ping", {"type": "ping"}),
        (
            "content_block_delta",
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "text_delta", "text": "done"},
            },
        ),
        (
            "content_block_start",
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": "c", "name": "f", "input": {}},
            },
        ),
        (
            "content_block_delta",
            {
                "type": "content_block_delta",
                "index": 1,
                "delta": {"type": "input_json_delta", "partial_json": '{"a":1}'},
            },
        ),
        (
            "message_delta",
            {
                "type": "message_delta",
                "delta": {"stop_reason": "tool_use"},
                "usage": {"output_tokens": 3},
            },
        ),
        ("message_stop", {"type": "message_stop"}),
    ],
    "responses": [
        ("response.created", {"type": "response.created", "response": {"model": "gpt-x-1"}}),
        ("x", {"type": "response.output_text.delta", "output_index": 0, "delta": "done"}),
        (
            "x",
            {
                "type": "response.output_item.added",
                "output_index": 1,
                "item": {"type": "function_call", "call_id": "c", "name": "f", "arguments": ""},
            },
        ),
        (
            "x",
            {
                "type": "response.function_call_arguments.delta",
                "output_index": 1,
                "delta": '{"a":1}',
            },
        ),
        ("response.completed", {"type": "response.completed", "response": RESPONSES_ANSWER}),
    ],
    "generateContent": [
        (
            "",
            {
                "modelVersion": "gemini-x",
                "candidates": [{"content": {"parts": [{"text": "done"}]}}],
                "usageMetadata": {"promptTokenCount": 10, "candidatesTokenCount": 1},
            },
        ),
        (
            "",
            {
                "candidates": [
                    {
                        "content": {
                            "parts": [{"functionCall": {"id": "c", "name": "f", "args": {"a": 1}}}]
                        },
                        "finishReason": "STOP",
                    }
                ],
                "usageMetadata": GEMINI_ANSWER["usageMetadata"],
            },
        ),
    ],
    "converse": [
        ("messageStart", {"role": "assistant"}),
        ("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": "done"}}),
        (
            "contentBlockStart",
            {"contentBlockIndex": 1, "start": {"toolUse": {"toolUseId": "c", "name": "f"}}},
        ),
        (
            "contentBlockDelta",
            {"contentBlockIndex": 1, "delta": {"toolUse": {"input": '{"a":1}'}}},
        ),
        ("messageStop", {"stopReason": "tool_use"}),
        ("metadata", {"usage": CONVERSE_ANSWER["usage"]}),
    ],
    "realtime": [
        ("", {"type": "session.created", "session": {"model": "gpt-realtime"}}),
        ("", {"type": "response.output_text.delta", "delta": "done"}),
        ("", REALTIME_ANSWER),
        ("", REALTIME_ANSWER),
    ],
}
"""Streams by format, as `[(event name, data)]`: each says "done" and most call `f({"a": 1})`."""
