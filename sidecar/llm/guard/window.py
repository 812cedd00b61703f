"""Streamed events held until guards have seen their texts, so that masks reach over event borders.

Source: spec/llm.md section 4.2 (windows of 1,024 bytes, 256 of overlap).

A channel is one run of text: a choice's content, its reasoning. Its text is judged when WINDOW new
bytes are there, together with CONTEXT characters that were released before and all that is held.
The arguments of a tool call are judged when all of them are there, for they must stay JSON.

1. An event is released when all its text, and all events before it, are released.
2. The last CONTEXT characters of a channel stay held until more text, or the end, is there: a match
   that begins in them may go on. So a match of up to CONTEXT characters is seen whole.
3. No release ends inside a match; unless that held for 16 windows, then what is there is masked.
4. The events of a call are released together: the first has its arguments, the others nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, final

import orjson

from sidecar.http.sse import SseEvent, encode_event
from sidecar.llm.chat import loose
from sidecar.llm.chat.base import Json
from sidecar.llm.guard.echoes import without_logprobs
from sidecar.llm.guard.masked import Span
from sidecar.llm.guard.stream_texts import Channel as Key
from sidecar.llm.guard.stream_texts import StreamEnd, StreamText, StreamTexts

WINDOW: Final = 1024
CONTEXT: Final = 256
MAX_HELD_BYTES: Final = 4 * 1024 * 1024
_MAX_CHANNELS: Final = 1024
_MAX_STALLED: Final = 16


@final
@dataclass(slots=True)
class _Piece:
    """The text of one field of one event: `[start, end)` of its channel's text."""

    holder: Json
    key: str
    start: int
    end: int
    frame: _Frame


@final
@dataclass(slots=True)
class _Frame:
    event: SseEvent
    data: Json | None
    waits: int = 0
    """Pieces that are not released."""
    is_edited: bool = False

    def encoded(self, encode: Encode) -> bytes:
        data = orjson.dumps(self.data) if self.is_edited else self.event.data
        return encode(self.event, data)


Encode = Callable[[SseEvent, bytes], bytes]
"""An event as it is sent, with the data it has now."""


def as_sse(event: SseEvent, data: bytes) -> bytes:
    """As an event of server-sent events."""
    return encode_event(data, event.event, event.id)


@final
@dataclass(slots=True)
class Channel:
    """Text under way. Positions count from the start of `text`."""

    is_whole: bool = False
    """Nothing will follow."""
    is_call: bool = False
    """To be settled by `settle_call`."""
    text: str = ""
    """What was released last, for context, and what is held."""
    released: int = 0
    new_bytes: int = 0
    """Not judged yet."""
    _pieces: deque[_Piece] = field(default_factory=deque)
    _stalled: int = 0

    def add(self, holder: Json, key: str, frame: _Frame) -> None:
        """A field of a new event."""
        value = holder[key]
        text = value if isinstance(value, str) else orjson.dumps(value).decode()
        if not text:
            return
        start = len(self.text)
        self.text += text
        self.new_bytes += len(text.encode(errors="surrogatepass"))
        self._pieces.append(_Piece(holder, key, start, len(self.text), frame))
        frame.waits += 1

    @property
    def is_due(self) -> bool:
        """Whether it is to be judged before more is read."""
        if self.is_whole:
            return bool(self._pieces)
        return self.new_bytes >= WINDOW and not self.is_call

    def settle_call(self, text: str) -> None:
        """All arguments were judged; `text`: what they are now."""
        is_edited = text != self.text
        for number, piece in enumerate(self._pieces):
            piece.frame.waits -= 1
            if is_edited:
                is_value = isinstance(piece.holder[piece.key], dict)
                rest = "" if number else text
                piece.holder[piece.key] = _object(text) if is_value else rest
                piece.frame.is_edited = True
        self._pieces.clear()
        self.text, self.released, self.new_bytes = "", 0, 0

    def settle(self, spans: list[Span], *, is_last: bool) -> None:
        """It was judged: mask these spans of `text`, and release what can be."""
        self.new_bytes = 0
        # What began in text that is gone already can be masked from here on only.
        done = self.released
        spans = [(max(low, done), high, mask) for low, high, mask in spans if high > done]
        end = len(self.text)
        if not (is_last or self.is_whole):
            end = self._border(end - CONTEXT, spans)
            self._stalled = 0 if end > self.released else self._stalled + 1
            if self._stalled > _MAX_STALLED:
                self._stalled, end = 0, len(self.text)
        self._release(end, [span for span in spans if span[1] <= end])

    def _border(self, limit: int, spans: list[Span]) -> int:
        """The last end of a piece up to `limit` that is inside no span."""
        for piece in reversed(self._pieces):
            if piece.end <= limit and not any(low < piece.end < high for low, high, _ in spans):
                return piece.end
        return self.released

    def _release(self, end: int, spans: list[Span]) -> None:
        while self._pieces and self._pieces[0].end <= end:
            piece = self._pieces.popleft()
            piece.frame.waits -= 1
            _mask(piece, self.text, [s for s in spans if s[0] < piece.end and s[1] > piece.start])
        drop = max(end - CONTEXT, 0)
        self.text = self.text[drop:]
        self.released = end - drop
        for piece in self._pieces:
            piece.start -= drop
            piece.end -= drop


def _object(text: str) -> Json:
    value = loose.parse(text)
    return value if isinstance(value, dict) else {"text": text}


def _mask(piece: _Piece, text: str, spans: list[Span]) -> None:
    """Write a piece's text; a mask stands in the piece where its span begins."""
    if not spans:
        return
    parts: list[str] = []
    at = piece.start
    for low, high, replacement in spans:
        parts.append(text[at:low] if low > at else "")
        if low >= piece.start:
            parts.append(replacement)
        at = min(high, piece.end)
    parts.append(text[at : piece.end])
    piece.holder[piece.key] = "".join(parts)
    piece.frame.is_edited = True


@final
class Window:
    """The held events of one stream."""

    __slots__ = ("_channels", "_encode", "_frames", "_held", "_texts", "_wholes")

    def __init__(self, texts: StreamTexts, encode: Encode = as_sse) -> None:
        self._texts = texts
        self._encode = encode
        self._frames: deque[_Frame] = deque()
        self._channels: dict[Key, Channel] = {}
        self._wholes: list[Channel] = []
        self._held = 0

    def add(self, event: SseEvent, data: Json | None) -> None:
        """One more event; `data`: what its data says, None for `[DONE]`."""
        frame = _Frame(event, data, is_edited=data is not None and without_logprobs(data))
        self._frames.append(frame)
        self._held += len(event.data)
        for text in self._texts(data) if data is not None else ():
            if isinstance(text, StreamEnd):
                self._end(text.channel)
            else:
                self._channel(text).add(text.holder, text.key, frame)

    def _channel(self, text: StreamText) -> Channel:
        key = text.channel
        if key is None or (key not in self._channels and len(self._channels) >= _MAX_CHANNELS):
            self._wholes.append(Channel(is_whole=True, is_call=text.is_call))
            return self._wholes[-1]
        if key not in self._channels:
            self._channels[key] = Channel(is_call=text.is_call)
        return self._channels[key]

    def _end(self, begin: Key) -> None:
        for key in [key for key in self._channels if key[: len(begin)] == begin]:
            channel = self._channels.pop(key)
            channel.is_whole = True
            self._wholes.append(channel)

    @property
    def is_full(self) -> bool:
        """Too much is held: all of it must be judged and released."""
        return self._held > MAX_HELD_BYTES

    def due(self, *, is_last: bool) -> Iterator[Channel]:
        """Who is to be judged and settled now; `is_last`: all that hold anything."""
        wholes, self._wholes = self._wholes, []
        yield from wholes
        for channel in self._channels.values():
            if channel.is_due or (is_last and len(channel.text) > channel.released):
                yield channel

    def release(self, *, is_last: bool) -> bytes:
        """The events that are free to go."""
        out: list[bytes] = []
        while self._frames and (is_last or not self._frames[0].waits):
            frame = self._frames.popleft()
            self._held -= len(frame.event.data)
            out.append(frame.encoded(self._encode))
        return b"".join(out)
