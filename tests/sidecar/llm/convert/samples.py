"""Bodies and streams of three formats with everything in them that the conversions read."""

from __future__ import annotations

from typing import Any, Final

Json = dict[str, Any]

PNG: Final = "data:image/png;base64,iVBORw0KGgo="
PDF: Final = "data:application/pdf;base64,JVBERi0="
SCHEMA: Final = {"type": "object", "properties": {"city": {"type": "string"}}}

COMPLETIONS_REQUEST: Final[Json] = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "Be kind."}]},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}},
                {"type": "image_url", "image_url": {"url": PNG, "detail": "low"}},
                {"type": "file", "file": {"filename": "a.pdf", "file_data": PDF}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
            ],
        },
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Hm"}, {"type": "refusal", "refusal": "No"}],
            "reasoning_content": "thought",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                },
                {"id": "call_2", "type": "custom", "custom": {"name": "run", "input": "ls"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "a.txt"}]},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [
        {
            "type": "function",
            "function": {"name": "weather", "description": "Weather", "parameters": SCHEMA},
        },
        {
            "type": "custom",
            "custom": {
                "name": "run",
                "format": {
                    "type": "grammar",
                    "grammar": {"syntax": "lark", "definition": "start: WORD"},
                },
            },
        },
    ],
    "tool_choice": {"type": "function", "function": {"name": "weather"}},
    "parallel_tool_calls": False,
    "max_completion_tokens": 3000,
    "temperature": 0.5,
    "top_p": 0.5,
    "stop": ["END"],
    "n": 2,
    "seed": 7,
    "logprobs": True,
    "top_logprobs": 2,
    "user": "u-1",
    "metadata": {"team": "blue"},
    "reasoning_effort": "medium",
    "verbosity": "low",
    "stream": True,
    "stream_options": {"include_usage": True},
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    },
}

MESSAGES_REQUEST: Final[Json] = {
    "model": "m",
    "max_tokens": 3000,
    "system": [
        {"type": "text", "text": "Be brief."},
        {"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}},
    ],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look", "cache_control": {"type": "ephemeral"}},
                {
                    "type": "image",
                    "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
                },
                {"type": "image", "source": {"type": "url", "url": "https://a.test/b.png"}},
                {
                    "type": "document",
                    "title": "a.pdf",
                    "source": {
                        "type": "base64",
                        "media_type": "application/pdf",
                        "data": "JVBERi0=",
                    },
                },
                {
                    "type": "document",
                    "citations": {"enabled": True},
                    "source": {"type": "text", "media_type": "text/plain", "data": "notes"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "sig"},
                {"type": "text", "text": "Let me see."},
                {"type": "tool_use", "id": "tu_1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "tu_2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "tu_1", "content": "sunny"},
                {
                    "type": "tool_result",
                    "tool_use_id": "tu_2",
                    "is_error": True,
                    "content": [
                        {"type": "text", "text": "no city"},
                        {
                            "type": "image",
                            "source": {"type": "base64", "media_type": "image/png", "data": "AA=="},
                        },
                    ],
                },
                {"type": "text", "text": "And now?"},
            ],
        },
        {"role": "system", "content": "Stay brief."},
    ],
    "tools": [
        {"name": "weather", "description": "Weather", "input_schema": SCHEMA},
        {"type": "web_search_20250305", "name": "web_search"},
    ],
    "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 3,
    "stop_sequences": ["END"],
    "metadata": {"user_id": "u-1"},
    "thinking": {"type": "enabled", "budget_tokens": 2048},
    "output_config": {
        "effort": "high",
        "format": {"type": "json_schema", "schema": SCHEMA},
    },
    "stream": True,
}

RESPONSES_REQUEST: Final[Json] = {
    "model": "m",
    "instructions": "Be brief.",
    "input": [
        {"role": "system", "content": "Be kind."},
        {
            "type": "message",
            "role": "user",
            "content": [
                {
                    "type": "input_text",
                    "text": "Look",
                    "prompt_cache_breakpoint": {"mode": "explicit"},
                },
                {"type": "input_image", "image_url": PNG, "detail": "low"},
                {"type": "input_image", "file_id": "file_1"},
                {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
            ],
        },
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
            "encrypted_content": "anthropic-signature:sig",
        },
        {
            "type": "message",
            "role": "assistant",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city":"Rome"}',
        },
        {"type": "custom_tool_call", "call_id": "call_2", "name": "run", "input": "ls"},
        {"type": "function_call_output", "call_id": "call_1", "output": "sunny"},
        {
            "type": "custom_tool_call_output",
            "call_id": "call_2",
            "output": [
                {"type": "input_text", "text": "a.txt"},
                {"type": "input_image", "image_url": PNG},
            ],
        },
        {"type": "item_reference", "id": "msg_9"},
        {"role": "user", "content": "And now?"},
    ],
    "tools": [
        {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True},
        {
            "type": "custom",
            "name": "run",
            "description": "Runs",
            "format": {"type": "grammar", "syntax": "lark", "definition": "start: WORD"},
        },
        {"type": "web_search"},
    ],
    "tool_choice": {"type": "function", "name": "weather"},
    "parallel_tool_calls": False,
    "max_output_tokens": 3000,
    "temperature": 0.5,
    "top_p": 0.5,
    "user": "u-1",
    "metadata": {"team": "blue"},
    "previous_response_id": "resp_0",
    "store": True,
    "include": ["reasoning.encrypted_content"],
    "truncation": "auto",
    "reasoning": {"effort": "medium", "summary": "auto"},
    "text": {
        "verbosity": "low",
        "format": {"type": "json_schema", "name": "answer", "schema": SCHEMA, "strict": True},
    },
    "stream": True,
}

COMPLETION: Final[Json] = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-x",
    "service_tier": "default",
    "choices": [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "message": {
                "role": "assistant",
                "content": "Let me see.",
                "refusal": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "weather", "arguments": '{"city":"Rome"}'},
                    }
                ],
            },
        }
    ],
    "usage": {
        "prompt_tokens": 100,
        "completion_tokens": 20,
        "total_tokens": 120,
        "prompt_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
        "completion_tokens_details": {"reasoning_tokens": 5},
    },
}

MESSAGE: Final[Json] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-x",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "sig"},
        {"type": "redacted_thinking", "data": "secret"},
        {"type": "text", "text": "Let me "},
        {"type": "text", "text": "see."},
        {"type": "tool_use", "id": "tu_1", "name": "weather", "input": {"city": "Rome"}},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {
        "input_tokens": 60,
        "output_tokens": 20,
        "cache_read_input_tokens": 30,
        "cache_creation_input_tokens": 10,
        "service_tier": "standard",
    },
}

RESPONSE: Final[Json] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "status": "completed",
    "model": "gpt-x",
    "service_tier": "default",
    "error": None,
    "incomplete_details": None,
    "output": [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": "hm"}],
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {
                    "type": "output_text",
                    "text": "Let me see.",
                    "annotations": [],
                    "logprobs": [{"token": "Let", "logprob": -0.1}],
                },
                {"type": "refusal", "refusal": "No."},
            ],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city":"Rome"}',
            "status": "completed",
        },
        {"type": "custom_tool_call", "call_id": "call_2", "name": "run", "input": "ls"},
    ],
    "usage": {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 30, "cache_write_tokens": 10},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 120,
    },
}


def chunk(delta: Json | None, finish: str | None = None, **more: Any) -> Json:
    """A chat.completion.chunk; no delta: no choice."""
    choices = [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish}]
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-x"}
    return {**head, "choices": choices, **more}


def call_delta(number: int, **fields: Any) -> Json:
    """A delta of one tool call."""
    return {"tool_calls": [{"index": number, **fields}]}


COMPLETION_CHUNKS: Final[list[Json | None]] = [
    chunk({"role": "assistant", "content": ""}),
    chunk({"content": "Let me "}),
    chunk({"content": "see."}),
    chunk(
        call_delta(0, id="call_1", type="function", function={"name": "weather", "arguments": ""})
    ),
    chunk(call_delta(0, function={"arguments": '{"city":'})),
    chunk(call_delta(1, id="call_2", type="function", function={"name": "weather"})),
    chunk(call_delta(0, function={"arguments": '"Rome"}'})),
    chunk(call_delta(1, function={"arguments": "{}"})),
    chunk({}, "tool_calls"),
    chunk(None, usage=COMPLETION["usage"]),
    None,
]

MESSAGE_EVENTS: Final[list[Json | None]] = [
    {
        "type": "message_start",
        "message": {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "claude-x",
            "content": [],
            "usage": {
                "input_tokens": 60,
                "output_tokens": 1,
                "cache_read_input_tokens": 30,
                "cache_creation_input_tokens": 10,
            },
        },
    },
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "thinking", "thinking": "", "signature": ""},
    },
    {"type": "ping"},
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "thinking_delta", "thinking": "hm"},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "signature_delta", "signature": "sig"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "content_block_start",
        "index": 1,
        "content_block": {"type": "redacted_thinking", "data": "secret"},
    },
    {"type": "content_block_stop", "index": 1},
    {"type": "content_block_start", "index": 2, "content_block": {"type": "text", "text": ""}},
    {
        "type": "content_block_delta",
        "index": 2,
        "delta": {"type": "text_delta", "text": "Let me "},
    },
    {"type": "content_block_delta", "index": 2, "delta": {"type": "text_delta", "text": "see."}},
    {"type": "content_block_stop", "index": 2},
    {
        "type": "content_block_start",
        "index": 3,
        "content_block": {"type": "tool_use", "id": "tu_1", "name": "weather", "input": {}},
    },
    {
        "type": "content_block_delta",
        "index": 3,
        "delta": {"type": "input_json_delta", "partial_json": '{"city":'},
    },
    {
        "type": "content_block_delta",
        "index": 3,
        "delta": {"type": "input_json_delta", "partial_json": '"Rome"}'},
    },
    {"type": "content_block_stop", "index": 3},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "tool_use", "stop_sequence": None},
        "usage": {"output_tokens": 20},
    },
    {"type": "message_stop"},
]

_HEAD: Final = {"id": "resp_1", "object": "response", "model": "gpt-x", "output": []}
RESPONSE_EVENTS: Final[list[Json | None]] = [
    {"type": "response.created", "response": {**_HEAD, "status": "in_progress"}},
    {"type": "response.in_progress", "response": {**_HEAD, "status": "in_progress"}},
    {
        "type": "response.output_item.added",
        "output_index": 0,
        "item": {"type": "reasoning", "id": "rs_1", "summary": []},
    },
    {
        "type": "response.reasoning_summary_text.delta",
        "output_index": 0,
        "summary_index": 0,
        "delta": "hm",
    },
    {
        "type": "response.output_item.done",
        "output_index": 0,
        "item": {"type": "reasoning", "id": "rs_1", "summary": []},
    },
    {
        "type": "response.output_item.added",
        "output_index": 1,
        "item": {"type": "message", "id": "msg_1", "role": "assistant", "content": []},
    },
    {
        "type": "response.content_part.added",
        "output_index": 1,
        "content_index": 0,
        "part": {"type": "output_text", "text": ""},
    },
    {
        "type": "response.output_text.delta",
        "output_index": 1,
        "content_index": 0,
        "delta": "Let me ",
        "logprobs": [{"token": "Let", "logprob": -0.1}],
    },
    {
        "type": "response.output_text.delta",
        "output_index": 1,
        "content_index": 0,
        "delta": "see.",
    },
    {
        "type": "response.output_text.done",
        "output_index": 1,
        "content_index": 0,
        "text": "Let me see.",
    },
    {
        "type": "response.content_part.done",
        "output_index": 1,
        "content_index": 0,
        "part": {"type": "output_text", "text": "Let me see."},
    },
    {
        "type": "response.output_item.done",
        "output_index": 1,
        "item": {
            "type": "message",
            "content": [{"type": "output_text", "text": "Let me see."}],
        },
    },
    {
        "type": "response.output_item.added",
        "output_index": 2,
        "item": {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": ""},
    },
    {
        "type": "response.function_call_arguments.delta",
        "output_index": 2,
        "delta": '{"city":',
    },
    {
        "type": "response.function_call_arguments.delta",
        "output_index": 2,
        "delta": '"Rome"}',
    },
    {
        "type": "response.function_call_arguments.done",
        "output_index": 2,
        "arguments": '{"city":"Rome"}',
    },
    {
        "type": "response.output_item.done",
        "output_index": 2,
        "item": {
            "type": "function_call",
            "call_id": "call_1",
            "name": "weather",
            "arguments": '{"city":"Rome"}',
        },
    },
    {
        "type": "response.completed",
        "response": {**_HEAD, "status": "completed", "usage": RESPONSE["usage"]},
    },
]
