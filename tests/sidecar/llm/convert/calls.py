"""One call through a conversion, for the tests of all pairs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import orjson

from sidecar.http.sse import SseDecoder, encode_event
from sidecar.llm.chat.framing import EventDecoder
from sidecar.llm.convert.base import Context, Conversion, StreamEvent

Json = dict[str, Any]
Frame = tuple[str, Any]
"""(event name, decoded data); the data of `[DONE]` is None."""


def context(model: str = "model-1", **fields: Any) -> Context:
    """A context whose ids count: `msg_1`, `resp_2`, …."""
    numbers = itertools.count(1)
    values: Json = {
        "requested_model": "asked",
        "is_streaming": False,
        "now_seconds": 1700000000,
        "new_id": lambda prefix: f"{prefix}{next(numbers)}",
    }
    return Context(model=model, **values | fields)


def decoded(frames: Sequence[bytes]) -> list[Frame]:
    """Frames as a client reads them; each must be whole events."""
    out: list[Frame] = []
    for frame in frames:
        decoder = SseDecoder()
        events = decoder.feed(frame)
        assert events
        assert decoder.pending == b""
        for event in events:
            data = None if event.data == b"[DONE]" else orjson.loads(event.data)
            out.append((event.event.decode(), data))
    return out


def stream(
    conversion: Conversion, events: Sequence[Json | None], call: Context | None = None
) -> list[Frame]:
    """What a client gets of a provider's events; None is `[DONE]`."""
    converter = conversion.stream(call or context(is_streaming=True))
    frames: list[bytes] = []
    for event in events:
        name = "" if event is None else str(event.get("type", ""))
        frames += converter.feed(StreamEvent(name, event))
    return decoded(frames + converter.finish())


def as_bytes(events: Sequence[Json | None]) -> bytes:
    """Events as a provider sends them."""
    return b"".join(
        encode_event(b"[DONE]")
        if event is None
        else encode_event(orjson.dumps(event), str(event.get("type", "")).encode())
        for event in events
    )


def stream_in_pieces(conversion: Conversion, data: bytes, size: int) -> bytes:
    """The client's bytes when the provider's come in pieces of `size`."""
    decoder = EventDecoder("sse")
    converter = conversion.stream(context(is_streaming=True))
    out: list[bytes] = []
    for start in range(0, len(data), size):
        for event in decoder.feed(data[start : start + size]):
            out += converter.feed(event)
    for event in decoder.finish():
        out += converter.feed(event)
    return b"".join(out + converter.finish())


def of_type(frames: Sequence[Frame], kind: str) -> list[Json]:
    """The data of the events of one type."""
    return [data for _, data in frames if data is not None and data.get("type") == kind]


def text_of(value: Any) -> str:
    """JSON as text, to look whether a word is anywhere in it."""
    return orjson.dumps(value).decode()
