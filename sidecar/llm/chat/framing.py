"""A provider's bytes as stream events, whichever framing it uses.

Source: spec llm sections 2.10, 2.14 and 2.16; SSE and AWS event-stream framing.
"""

from __future__ import annotations

from typing import Final, Literal, final

import orjson

from sidecar.errors import UpstreamError
from sidecar.http.eventstream import EventStreamDecoder, Frame
from sidecar.http.sse import MAX_EVENT_BYTES, SseDecoder
from sidecar.llm.convert.base import StreamEvent
from sidecar.llm.shape import nests_too_deeply

Framing = Literal["sse", "eventstream"]
DONE: Final = b"[DONE]"
_EVENT_STREAM: Final = b"application/vnd.amazon.eventstream"


def framing_of(content_type: bytes) -> Framing:
    """By the answer's media type; what is not AWS's is read as SSE."""
    media_type = content_type.partition(b";")[0].strip().lower()
    return "eventstream" if media_type == _EVENT_STREAM else "sse"


@final
class EventDecoder:
    """Feed bytes, take `StreamEvent`s: for conversions, which need every event to be whole.

    An `exception` or `error` frame becomes an event of that name with a `message`.
    """

    __slots__ = ("_frames", "_sse")

    def __init__(self, framing: Framing, limit_bytes: int = MAX_EVENT_BYTES) -> None:
        self._sse = SseDecoder(limit_bytes) if framing == "sse" else None
        self._frames = EventStreamDecoder(limit_bytes)

    def feed(self, data: bytes) -> list[StreamEvent]:
        """The events that these bytes completed.

        Raises: UpstreamError 502 for an event that is no JSON object, BodyTooLarge,
        EventStreamError.
        """
        if self._sse is None:
            return [frame_event(frame) for frame in self._frames.feed(data)]
        return [_event(event.event, event.data) for event in self._sse.feed(data)]

    def finish(self) -> list[StreamEvent]:
        """The end of the stream: an event that lacked only its blank line.

        Raises: as `feed`.
        """
        if self._sse is None:
            self._frames.finish()
            return []
        return [_event(event.event, event.data) for event in self._sse.finish()]


def _event(name: bytes, data: bytes) -> StreamEvent:
    if data == DONE:
        return StreamEvent(name.decode(errors="replace"), None)
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise UpstreamError(502, "UpstreamFailure", "a stream event is not JSON") from exc
    if not isinstance(value, dict):
        raise UpstreamError(502, "UpstreamFailure", "a stream event is not a JSON object")
    if nests_too_deeply(data, value):
        raise UpstreamError(502, "UpstreamFailure", "a stream event is nested too deeply")
    return StreamEvent(name.decode(errors="replace"), value)


def frame_event(frame: Frame) -> StreamEvent:
    """A frame's event. Raises: UpstreamError 502 when an event's payload is no JSON object."""
    if frame.kind == "event":
        return _event(frame.name.encode(), frame.payload)
    try:
        value = orjson.loads(frame.payload)
    except orjson.JSONDecodeError:
        value = None
    data = dict(value) if isinstance(value, dict) else {}
    data.setdefault("message", frame.message or frame.name)
    return StreamEvent(frame.name or frame.kind, data)
