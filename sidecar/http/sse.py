"""Server-sent events: bytes in, events out, however the stream was split. No I/O.

Source: WHATWG HTML, section 9.2 (event stream interpretation).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, final

from sidecar.errors import BodyTooLarge

MAX_EVENT_BYTES: Final = 1024 * 1024
_BLANK: Final = re.compile(rb"\r\n\r\n|\n\n|\r\r|\n\r\n|\r\n\n|\n\r|\r\n\r(?!\n)")
_LINE_END: Final = re.compile(rb"\r\n|\n|\r")
_BOM: Final = b"\xef\xbb\xbf"


class SseEvent(NamedTuple):
    """One event as it was dispatched. `event` is b"" when unnamed; `data` joins its lines by LF."""

    data: bytes
    event: bytes = b""
    id: bytes = b""
    retry_ms: int | None = None


@final
class SseDecoder:
    """Feed bytes, take events. Fields of one connection: make one a stream.

    Comments and events without a data line are left out; with `keeps_bare` those that set an id or
    a retry are given, without data: who resumes a stream needs them. What has no blank line behind
    it at the end of the stream is not an event, as the standard says; `pending` shows whether there
    was any.
    """

    __slots__ = ("_buffer", "_is_first", "_keeps_bare", "_limit", "_searched")

    def __init__(self, limit_bytes: int = MAX_EVENT_BYTES, *, keeps_bare: bool = False) -> None:
        self._keeps_bare = keeps_bare
        self._buffer = bytearray()
        self._searched = 0
        self._is_first = True
        self._limit = limit_bytes

    def feed(self, data: bytes) -> list[SseEvent]:
        """The events that these bytes completed.

        Raises: BodyTooLarge when one event passes the limit.
        """
        # Fast path: a read that holds whole events, LF only, which is nearly every read.
        if not (self._buffer or self._is_first) and b"\r" not in data and data.endswith(b"\n\n"):
            events = [_parse(block, self._keeps_bare) for block in data[:-2].split(b"\n\n")]
            return [event for event in events if event is not None]
        self._buffer += data
        if self._is_first and not self._begin():
            return []
        return self._take()

    def _begin(self) -> bool:
        """Drop a byte order mark; False while it may still be one."""
        if len(self._buffer) < len(_BOM) and _BOM.startswith(self._buffer):
            return False
        if self._buffer.startswith(_BOM):
            del self._buffer[: len(_BOM)]
        self._is_first = False
        return True

    def _take(self) -> list[SseEvent]:
        # Growing in place and searching only what is new: an event that drips in byte by byte
        # costs its length, not the square of it.
        buffer = self._buffer
        events: list[SseEvent] = []
        start = 0
        search = self._searched
        # A CR at the very end may be half of a CRLF: it is looked at again with what follows.
        end = len(buffer) - 1 if buffer.endswith(b"\r") else len(buffer)
        while (found := _BLANK.search(buffer, max(search, start), end)) is not None:
            event = _parse(bytes(buffer[start : found.start()]), self._keeps_bare)
            if event is not None:
                events.append(event)
            start = found.end()
        del buffer[:start]
        self._searched = max(len(buffer) - 3, 0)
        # Events found in the same read go out first; what is too long is so at the next one too.
        if len(buffer) > self._limit and not events:
            raise BodyTooLarge(self._limit)
        return events

    def finish(self) -> list[SseEvent]:
        """The end of the stream: the event that only lacked the second half of its blank line."""
        rest = bytes(self._buffer)
        if not rest.endswith((b"\n\r", b"\r\r")):
            return []
        self._buffer.clear()
        event = _parse(rest, self._keeps_bare)
        return [] if event is None else [event]

    @property
    def is_within(self) -> bool:
        """Whether an event has begun that is not complete."""
        return len(self._buffer) > 0

    @property
    def pending(self) -> bytes:
        """Bytes of an event that is not complete."""
        return bytes(self._buffer)


def _parse(block: bytes, keeps_bare: bool) -> SseEvent | None:
    # Fast path: one data line, which is nearly every event of a model's stream.
    if block.startswith(b"data:") and b"\n" not in block and b"\r" not in block:
        return SseEvent(block[6:] if block[5:6] == b" " else block[5:])
    name = identity = b""
    data: list[bytes] = []
    retry = None
    for line in _LINE_END.split(block):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
        elif field == b"id" and b"\0" not in value:
            identity = value
        elif field == b"retry" and value.isdigit() and len(value) < 10:
            retry = int(value)
    if not data and not (keeps_bare and (identity or retry is not None)):
        return None
    return SseEvent(b"\n".join(data), name, identity, retry)


def encode_event(
    data: bytes, event: bytes = b"", identity: bytes = b"", retry_ms: int | None = None
) -> bytes:
    """An event's bytes. Neither a name nor an id may hold a line end."""
    head = b"" if retry_ms is None else b"retry: %d\n" % retry_ms
    if event:
        head += b"event: " + event + b"\n"
    if identity:
        head += b"id: " + identity + b"\n"
    # Fast path: JSON holds no raw line end.
    if b"\n" not in data and b"\r" not in data:
        return head + b"data: " + data + b"\n\n"
    return head + b"".join(b"data: " + line + b"\n" for line in _LINE_END.split(data)) + b"\n"
