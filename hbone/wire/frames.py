"""Cuts a connection's octets into control frames, whole, and tunnel data, as it comes.

Source: RFC 9113 sections 3.4, 4.1 and 6.1.

Design note. What waits here is never more than one control frame (16 KiB; a header block up to its
own limit): a DATA frame of 1 MiB is given out piece by piece as its octets arrive.

    state          meaning                                         left when
    _preface       what of the client's preface is still to come   it came
    _left > 0      inside the octets of a DATA frame               they came
    _dropped > 0   inside padding or a payload nobody needs        it came
    _held          the beginning of a header or control frame      `_need` octets are there

1. The guard sees each frame's header once, before anything of the frame is given out; its size, as
   soon as the header is there.
2. PRIORITY and unknown kinds are dropped after they were counted: they say nothing about tunnels.
3. Padding is given out as size without octets, ahead of the octets it follows on the wire.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple, final

from h2.errors import ErrorCodes

from hbone.errors import WireError
from hbone.wire.guard import CONTINUATION, DATA, END_STREAM, PADDED, PRIORITY, Guard

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER: Final = 9


class Data(NamedTuple):
    """`size`: what it takes of the windows, the octets and their padding. `is_last`: END_STREAM."""

    stream_id: int
    data: bytes
    size: int
    is_last: bool


@final
class FrameReader:
    """See the design note. Of no more use after WireError."""

    __slots__ = (
        "_dropped",
        "_guard",
        "_held",
        "_is_last",
        "_left",
        "_need",
        "_preface",
        "_stream_id",
    )

    def __init__(self, guard: Guard, *, is_server: bool) -> None:
        self._guard = guard
        self._preface = PREFACE if is_server else b""
        self._held = bytearray()
        self._need = _HEADER
        self._left = 0
        self._dropped = 0
        self._stream_id = 0
        self._is_last = False

    def feed(self, data: bytes) -> Iterator[bytes | Data]:
        """Gives what became complete: a control frame with its header, or data. Raises: WireError.

        To be exhausted before it is fed again.
        """
        if self._preface:
            data = self._skip_preface(data)
        if self._held:
            # Appended, not joined: a peer that sends octet by octet costs no more than their sum.
            self._held += data
            if len(self._held) < self._need:
                return
            data = bytes(self._held)
            self._held.clear()
        position, end = 0, len(data)
        while position < end:
            if self._left:
                taken = min(self._left, end - position)
                self._left -= taken
                is_last = self._is_last and not self._left
                yield Data(self._stream_id, data[position : position + taken], taken, is_last)
                position += taken
            elif self._dropped:
                taken = min(self._dropped, end - position)
                self._dropped -= taken
                position += taken
            else:
                begun = self._begin(data, position, end)
                if begun is None:
                    self._held += data[position:]
                    return
                position, item = begun
                if item is not None:
                    yield item

    def _skip_preface(self, data: bytes) -> bytes:
        size = min(len(self._preface), len(data))
        if data[:size] != self._preface[:size]:
            raise WireError(ErrorCodes.PROTOCOL_ERROR, "no HTTP/2 preface")
        self._preface = self._preface[size:]
        return data[size:]

    def _begin(
        self, data: bytes, position: int, end: int
    ) -> tuple[int, bytes | Data | None] | None:
        """Where to go on and what to give out; None when more octets are needed."""
        self._need = _HEADER
        if end - position < _HEADER:
            return None
        length = int.from_bytes(data[position : position + 3])
        kind, flags = data[position + 3], data[position + 4]
        self._guard.check_size(kind, length)
        is_dropped = kind == PRIORITY or kind > CONTINUATION
        if kind == DATA:
            self._need += bool(flags & PADDED)
        elif not is_dropped:
            self._need += length
        if end - position < self._need:
            return None
        stream_id = int.from_bytes(data[position + 5 : position + 9]) & 0x7FFFFFFF
        self._guard.check(kind, flags, stream_id, length)
        following = position + self._need
        if is_dropped:
            self._dropped = length
            return following, None
        if kind != DATA:
            return following, data[position:following]
        padding = data[position + _HEADER] if flags & PADDED else -1
        return following, self._begin_data(stream_id, flags, length, padding)

    def _begin_data(self, stream_id: int, flags: int, length: int, padding: int) -> Data | None:
        if padding >= length:
            raise WireError(ErrorCodes.PROTOCOL_ERROR, "padding longer than its frame")
        self._stream_id = stream_id
        self._is_last = bool(flags & END_STREAM)
        self._left = length - padding - 1
        self._dropped = max(0, padding)
        if self._left and padding < 0:
            return None
        return Data(stream_id, b"", padding + 1, self._is_last and not self._left)
