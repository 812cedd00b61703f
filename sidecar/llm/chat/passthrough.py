"""A same-format stream goes by untouched; this reads from its bytes what telemetry needs.

Source: spec llm section 2.16.
"""

from __future__ import annotations

import re
from typing import Final, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.eventstream import EventStreamDecoder
from sidecar.http.sse import MAX_EVENT_BYTES, SseDecoder, SseEvent
from sidecar.llm.chat.base import UsageReader, WireFormat
from sidecar.llm.chat.ending import is_end
from sidecar.llm.chat.framing import Framing, frame_event
from sidecar.llm.chat.produced import Produced
from sidecar.llm.shape import parse_object
from sidecar.llm.usage import Usage

_USAGE: Final = re.compile(rb'"usage"\s*:\s*\{')
"""Not `"usage":null`, which OpenAI puts into every chunk but the last."""
_USAGE_MARKS: Final = {
    "completions": _USAGE,
    "messages": re.compile(rb'"usage"\s*:\s*\{|"message_start"'),
    "responses": _USAGE,
    "generateContent": re.compile(rb'"usageMetadata"'),
    "detect": re.compile(
        rb'"usage"\s*:\s*\{|"usageMetadata"|TokenCount"|_token_count"|"tokens"|"bytes"'
    ),
}
"""What is in every event that a reader needs for usage. Formats not here are read whole."""
_PLAIN: Final = b"data: "
_END: Final = b"\n\n"
_BETWEEN: Final = _END + _PLAIN
_NOWHERE: Final = len(_END) - 1
_LEARNT_FROM: Final = 3
"""Events. The first may only name the role, and two with text say what is around it."""
_COUNTS: Final = b"_tokens"
"""Is in each usage object of `_COUNTED` formats: looked for ten times as fast as a mark."""
_COUNTED: Final = frozenset(("completions", "messages", "responses"))
_SEARCHED: Final = b'"webSearchQueries"'
"""Not repeated in later events."""
_CUMULATIVE: Final = "generateContent"
"""Each event repeats the usage so far, so that only the last one is worth decoding."""


def _end_of_first(data: bytes) -> int:
    """Where the first events end; 0 when there are not so many."""
    end = 0
    for _ in range(_LEARNT_FROM):
        end = data.find(_END, end) + len(_END)
        if end < len(_END):
            return 0
    return end


@final
class StreamTap:
    """Feed it the bytes as they pass. It never raises and never holds more than one event.

    A stream that cannot be read (`is_broken`) still passes on; it only has no usage from there.
    """

    __slots__ = (
        "_frames",
        "_has_text",
        "_is_cumulative",
        "_last",
        "_mark",
        "_reader",
        "_skips",
        "_sse",
        "is_begun",
        "is_broken",
        "is_ended",
        "produced",
    )

    def __init__(
        self,
        wire_format: WireFormat,
        framing: Framing,
        *,
        with_content: bool = False,
        limit_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self._reader: UsageReader = wire_format.reader(with_content=with_content)
        takes_all = with_content and wire_format.name != "detect"  # which never takes content
        self._mark = None if takes_all else _USAGE_MARKS.get(wire_format.name)
        self._skips = self._mark is not None and wire_format.name in _COUNTED and framing == "sse"
        self._is_cumulative = wire_format.name == _CUMULATIVE
        self._last: bytes | None = None
        """Data of the last event with usage, not decoded yet."""
        self._has_text = False
        self._sse = SseDecoder(limit_bytes) if framing == "sse" else None
        self._frames = EventStreamDecoder(limit_bytes)
        self.is_begun = False
        """Whether it counts from its beginning, as Anthropic's do: what is said then is not all."""
        self.is_broken = False
        self.is_ended = False
        """Whether an event was read that says so. Not all are: see `_USAGE_MARKS`."""
        self.produced = Produced()
        """How much text has come, for a stream that is left before its usage."""

    @property
    def usage(self) -> Usage:
        """What has been seen so far."""
        self._flush()
        return self._reader.usage

    def feed(self, data: bytes) -> bool:
        """True when these bytes brought generated text for the first time."""
        if self.is_broken:
            return False
        had_text = self._has_text
        if self._skips:
            # The first events are learnt from, whatever came with them.
            if not self.produced.is_framed and (end := _end_of_first(data)):
                self._read(data[:end])
                data = data[end:]
            # Fast path: of the many events that only bring text.
            if self.produced.is_framed and data:
                data = self._unread(data)
        if data:
            self._read(data)
        return self._has_text and not had_text

    def _unread(self, data: bytes) -> bytes:
        """Pass by what is whole events of one line each, without names and counts; the rest."""
        sse = self._sse
        assert sse is not None
        is_within = sse.is_within
        # Fast path: one event a read, as most providers write them.
        lines = data.count(b"\n")
        if (
            lines == len(_END)
            and data.endswith(_END)
            and data.startswith(_PLAIN)
            and not is_within
            and _COUNTS not in data
            and b"\r" not in data
        ):
            self.produced.pass_by(len(data) - len(_PLAIN) - len(_END))
            return b""
        # A read may begin within an event, and end within another.
        first = data.find(_END) + len(_END) if is_within else 0
        last = data.rfind(_END) + len(_END)
        if first == _NOWHERE or first >= last:
            return data
        plain = data[first:last]
        counts = plain.find(_COUNTS)
        if counts >= 0:
            # Up to the event that counts.
            plain = plain[: plain.rfind(_END, 0, counts) + len(_END)]
            last = first + len(plain)
        if not plain.startswith(_PLAIN) or not plain.endswith(_END) or b"\r" in data:
            return data
        events = plain[len(_PLAIN) : -len(_END)].split(_BETWEEN)
        if (lines if len(plain) == len(data) else plain.count(b"\n")) != 2 * len(events):
            return data
        if first:
            self._read(data[:first])
        for event in events:
            self.produced.pass_by(len(event))
        return data[last:]

    def _read(self, data: bytes) -> None:
        try:
            if self._sse is None:
                self._read_frames(data)
                return
            for event in self._sse.feed(data):
                # Fast path: after the first texts only events with usage are decoded.
                if self._mark is not None and self.produced.is_framed:
                    self._skim(event)
                else:
                    self._read_event(event.event, event.data)
        except SidecarError:
            self.is_broken = True

    def finish(self) -> None:
        """The end of the stream. An event without its blank line is no event to a client, but the
        provider charges for what it says, so it is read."""
        if self._sse is None or self.is_broken:
            return
        self._flush()
        rest = self._sse.finish() + SseDecoder().feed(self._sse.pending + b"\n\n")
        for event in rest:
            self._read_event(event.event, event.data)

    def _flush(self) -> None:
        if self._last is not None:
            self._read_event(b"", self._last, is_counted=True)
            self._last = None

    def _skim(self, event: SseEvent) -> None:
        is_marked = self._mark is not None and self._mark.search(event.data) is not None
        is_read = _SEARCHED in event.data if self._is_cumulative else is_marked
        if is_marked:
            # What is read now is not to be overwritten by an earlier event later.
            self._last = None if is_read else event.data
        if is_read:
            self._read_event(event.event, event.data)
            return
        # Responses repeat each text in `….done`.
        if not event.event.endswith(b".done"):
            self.produced.pass_by(len(event.data))

    def _read_event(self, name: bytes, data: bytes, *, is_counted: bool = False) -> None:
        value = parse_object(data)
        if value is None:
            return
        self.is_ended = self.is_ended or is_end(value)
        self.is_begun = self.is_begun or value.get("type") == "message_start"
        if self._reader.feed(name.decode(errors="replace"), value):
            if is_counted:
                return
            self._has_text = True
            if self.produced.is_framed:
                self.produced.add(value)
            else:
                self.produced.learn(value, len(data))

    def _read_frames(self, data: bytes) -> None:
        for frame in self._frames.feed(data):
            try:
                event = frame_event(frame)
            except UpstreamError:
                continue  # a payload that is not JSON has no usage
            if self._reader.feed(event.name, event.data):
                self._has_text = True
                self.produced.add(event.data)
