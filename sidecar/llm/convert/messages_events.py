"""Frames of an Anthropic message stream, whatever provider the answer comes from.

Source: Anthropic API reference (streaming).
"""

from __future__ import annotations

import orjson

from sidecar.http.sse import encode_event
from sidecar.llm.convert.base import Json


def frame(data: Json) -> bytes:
    """An event, named by its type."""
    return encode_event(orjson.dumps(data), data["type"].encode())


def message_start(identity: object, model: object) -> bytes:
    """The beginning; what was used is told at the end, by `message_end`."""
    message: Json = {
        "id": identity,
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": model,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 0, "output_tokens": 0},
    }
    return frame({"type": "message_start", "message": message})


def block_start(index: int, block: Json) -> bytes:
    """A block, empty."""
    return frame({"type": "content_block_start", "index": index, "content_block": block})


def block_delta(index: int, delta: Json) -> bytes:
    """More of an open block."""
    return frame({"type": "content_block_delta", "index": index, "delta": delta})


def text_delta(index: int, text: str) -> bytes:
    """More of an open text block."""
    return block_delta(index, {"type": "text_delta", "text": text})


def input_delta(index: int, partial_json: str) -> bytes:
    """More of an open tool_use block's input."""
    return block_delta(index, {"type": "input_json_delta", "partial_json": partial_json})


def block_stop(index: int) -> bytes:
    """The end of a block."""
    return frame({"type": "content_block_stop", "index": index})


def message_end(stop_reason: str, usage: Json) -> list[bytes]:
    """The last two events."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [
        frame({"type": "message_delta", "delta": delta, "usage": usage}),
        frame({"type": "message_stop"}),
    ]
