"""Small stand-ins for model providers, for tests of the gateway; they record what they were asked.

Answers are what OpenAI's and Anthropic's API references show; numbers are fixed.
"""

from __future__ import annotations

from typing import Any

import orjson

from tests.support.upstream import Answer, Seen

Json = dict[str, Any]
EVENTS = [("content-type", "text/event-stream")]
JSON = [("content-type", "application/json")]

COMPLETION: Json = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1,
    "model": "gpt-test-0125",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
    ],
    "usage": {"prompt_tokens": 17, "completion_tokens": 23, "total_tokens": 40},
}
MESSAGE: Json = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-test",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 17, "output_tokens": 23},
}


def chunk(delta: Json, finish: str | None = None, usage: Json | None = None) -> bytes:
    """One event of a streamed completion."""
    body: Json = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": "gpt-test-0125",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    if usage is not None:
        body["usage"] = usage
        body["choices"] = []
    return b"data: " + orjson.dumps(body) + b"\n\n"


COMPLETION_STREAM = [
    chunk({"role": "assistant", "content": "he"}),
    chunk({"content": "llo"}),
    chunk({}, "stop"),
    chunk({}, usage=COMPLETION["usage"]),
    b"data: [DONE]\n\n",
]


def event(body: Json) -> bytes:
    """One named event, as Anthropic sends them."""
    return b"event: " + body["type"].encode() + b"\ndata: " + orjson.dumps(body) + b"\n\n"


MESSAGE_STREAM = [
    event(
        {
            "type": "message_start",
            "message": {
                **MESSAGE,
                "content": [],
                "stop_reason": None,
                "usage": {"input_tokens": 17, "output_tokens": 1},
            },
        }
    ),
    event(
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    ),
    event(
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "hello"},
        }
    ),
    event({"type": "content_block_stop", "index": 0}),
    event(
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 23},
        }
    ),
    event({"type": "message_stop"}),
]


def openai(seen: Seen) -> Answer:
    """Chat completions; `fail-<status>` as the model answers with that status."""
    body = orjson.loads(seen.body) if seen.body.startswith(b"{") else {}
    model = str(body.get("model", ""))
    if model.startswith("fail-"):
        status = int(model.removeprefix("fail-"))
        error = {"error": {"message": "failed", "type": "server_error", "code": None}}
        return Answer(status, JSON, orjson.dumps(error))
    if body.get("stream"):
        return Answer(200, EVENTS, iter(COMPLETION_STREAM))
    return Answer(200, JSON, orjson.dumps(COMPLETION))


def anthropic(seen: Seen) -> Answer:
    """Messages."""
    body = orjson.loads(seen.body) if seen.body else {}
    if body.get("stream"):
        return Answer(200, EVENTS, iter(MESSAGE_STREAM))
    return Answer(200, JSON, orjson.dumps(MESSAGE))


def texts(sse: bytes) -> str:
    """The text of a streamed answer in either format."""
    found = []
    for block in sse.decode().split("\n\n"):
        for line in block.split("\n"):
            if not line.startswith("data: {"):
                continue
            data = orjson.loads(line.removeprefix("data: "))
            found += [one["delta"].get("content") or "" for one in data.get("choices", ())]
            found.append(data.get("delta", {}).get("text", "") if "delta" in data else "")
    return "".join(found)
