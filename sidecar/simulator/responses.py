"""OpenAI's responses format.

Source: OpenAI API reference (responses, streaming events).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from sidecar.simulator.ask import Json
from sidecar.simulator.frames import named
from sidecar.simulator.reply import CREATED, Reply

_CUT: Final = {"reason": "max_output_tokens"}


def response(model: str, reply: Reply) -> Json:
    """A whole answer."""
    status = "incomplete" if reply.is_cut else "completed"
    return {
        **_shell(model, reply, status),
        "incomplete_details": _CUT if reply.is_cut else None,
        "output": [_item(reply)],
        "usage": {
            "input_tokens": reply.input_tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": reply.output_tokens,
            "output_tokens_details": {"reasoning_tokens": reply.thought_tokens},
            "total_tokens": reply.input_tokens + reply.output_tokens,
        },
    }


def _shell(model: str, reply: Reply, status: str) -> Json:
    return {
        "id": f"resp_{reply.identity}",
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "model": model,
        "output": [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": None,
    }


def _item(reply: Reply, *, is_started: bool = False) -> Json:
    """The output item; `is_started`: as it is before anything is in it."""
    status = "in_progress" if is_started else "incomplete" if reply.is_cut else "completed"
    if reply.call:
        return {
            "type": "function_call",
            "id": f"fc_{reply.identity}",
            "call_id": f"call_{reply.identity}",
            "name": reply.call.name,
            "arguments": "" if is_started else reply.call.text,
            "status": status,
        }
    return {
        "type": "message",
        "id": f"msg_{reply.identity}",
        "role": "assistant",
        "status": status,
        "content": [] if is_started else [_part(reply.text)],
    }


def _part(text: str) -> Json:
    return {"type": "output_text", "text": text, "annotations": []}


def response_stream(model: str, reply: Reply, _: Json) -> Iterator[bytes]:
    """The same as events."""
    shell = _shell(model, reply, "in_progress")
    whole = response(model, reply)
    item = {"output_index": 0, "item_id": _item(reply)["id"]}
    events: list[Json] = [
        {"type": "response.created", "response": shell},
        {"type": "response.in_progress", "response": shell},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": _item(reply, is_started=True),
        },
        *(_call_events(reply, item) if reply.call else _text_events(reply, item)),
        {"type": "response.output_item.done", "output_index": 0, "item": _item(reply)},
        {"type": f"response.{whole['status']}", "response": whole},
    ]
    for number, event in enumerate(events):
        yield named(event | {"sequence_number": number})


def _call_events(reply: Reply, item: Json) -> list[Json]:
    call = reply.call
    if call is None:
        return []
    kind = "response.function_call_arguments"
    deltas = [{"type": f"{kind}.delta", **item, "delta": half} for half in call.halves()]
    done = {"type": f"{kind}.done", **item, "name": call.name, "arguments": call.text}
    return [*deltas, done]


def _text_events(reply: Reply, item: Json) -> list[Json]:
    place = item | {"content_index": 0}
    return [
        {"type": "response.content_part.added", **place, "part": _part("")},
        *(
            {"type": "response.output_text.delta", **place, "delta": piece, "logprobs": []}
            for piece in reply.pieces
        ),
        {"type": "response.output_text.done", **place, "text": reply.text, "logprobs": []},
        {"type": "response.content_part.done", **place, "part": _part(reply.text)},
    ]
