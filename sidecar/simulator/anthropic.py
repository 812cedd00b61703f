"""Anthropic's formats: messages and the list of models.

Source: Anthropic API reference (messages, streaming, models).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.simulator.ask import Json
from sidecar.simulator.frames import named
from sidecar.simulator.reply import SIGNATURE, Reply

_FINISH: Final = {"end": "end_turn", "cut": "max_tokens", "call": "tool_use"}


def message(model: str, reply: Reply) -> Json:
    """A whole answer."""
    stop = {"stop_reason": _FINISH[reply.finish], "stop_sequence": None}
    return _shell(model, reply) | stop | {"content": _blocks(reply), "usage": _usage(reply)}


def _shell(model: str, reply: Reply) -> Json:
    return {
        "id": f"msg_{reply.identity}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": _usage(reply) | {"output_tokens": 1},
    }


def _usage(reply: Reply) -> Json:
    return {
        "input_tokens": reply.input_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "output_tokens": reply.output_tokens,
    }


def _blocks(reply: Reply) -> list[Json]:
    blocks: list[Json] = []
    if reply.thought:
        blocks.append({"type": "thinking", "thinking": reply.thought, "signature": SIGNATURE})
    if reply.call:
        use = {"type": "tool_use", "id": f"toolu_{reply.identity}", "name": reply.call.name}
        blocks.append(use | {"input": reply.call.arguments})
    else:
        blocks.append({"type": "text", "text": reply.text})
    return blocks


def message_stream(model: str, reply: Reply, _: Json) -> Iterator[bytes]:
    """The same as events."""
    yield named({"type": "message_start", "message": _shell(model, reply)})
    yield named({"type": "ping"})
    for index, block in enumerate(_blocks(reply)):
        start = block | _EMPTY[block["type"]]
        yield named({"type": "content_block_start", "index": index, "content_block": start})
        for delta in _deltas(reply, block["type"]):
            yield named({"type": "content_block_delta", "index": index, "delta": delta})
        yield named({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": _FINISH[reply.finish], "stop_sequence": None}
    usage = {"output_tokens": reply.output_tokens}
    yield named({"type": "message_delta", "delta": stop, "usage": usage})
    yield named({"type": "message_stop"})


_EMPTY: Final[dict[str, Json]] = {
    "thinking": {"thinking": "", "signature": ""},
    "tool_use": {"input": {}},
    "text": {"text": ""},
}
"""What a block is at its start."""


def _deltas(reply: Reply, kind: str) -> list[Json]:
    if kind == "thinking":
        return [
            {"type": "thinking_delta", "thinking": reply.thought},
            {"type": "signature_delta", "signature": SIGNATURE},
        ]
    if reply.call:
        halves = reply.call.halves()
        return [{"type": "input_json_delta", "partial_json": half} for half in halves]
    return [{"type": "text_delta", "text": piece} for piece in reply.pieces]


def models(identity: str, names: tuple[str, ...]) -> Json:
    """The list, or the one of that name."""
    rows: list[Json] = [
        {
            "type": "model",
            "id": name,
            "display_name": name,
            "created_at": "2023-11-14T22:13:20Z",
        }
        for name in ((identity,) if identity else names)
    ]
    if identity:
        return rows[0]
    return {"data": rows, "has_more": False, "first_id": names[0], "last_id": names[-1]}
