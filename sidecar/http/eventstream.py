"""AWS event-stream frames: bytes in, messages out, however the stream was split. No I/O.

Framing (lengths, limit, prelude check) is read here, so that no more is held than one frame of
bounded size; headers, payload and the message's check sum are botocore's.

Source: AWS SDK design, "Amazon Event Stream Encoding"; botocore.eventstream.
"""

from __future__ import annotations

import binascii
import struct
from dataclasses import dataclass
from typing import Final, final

from botocore.eventstream import EventStreamBuffer, ParserError

from sidecar.errors import BodyTooLarge, SidecarError

MAX_FRAME_BYTES: Final = 1024 * 1024
_PRELUDE: Final = struct.Struct(">III")
"""Total length, length of the headers, CRC-32 of these eight bytes."""
_MIN_FRAME: Final = _PRELUDE.size + 4
_CHECKED_BYTES: Final = 8


class EventStreamError(SidecarError):
    """Bytes that are no event stream, or a damaged one. Nothing behind them can be read."""


@final
@dataclass(frozen=True, slots=True)
class Frame:
    """One message. `kind`: `event`, `exception` or `error` (`event` where it is not said)."""

    kind: str
    name: str
    """`:event-type`, `:exception-type` or `:error-code`; "" when there is none."""
    payload: bytes
    message: str = ""
    """`:error-message`."""


@final
class EventStreamDecoder:
    """Feed bytes, take frames. Make one a stream; after an error it only repeats it."""

    __slots__ = ("_buffer", "_error", "_limit")

    def __init__(self, limit_bytes: int = MAX_FRAME_BYTES) -> None:
        self._buffer = bytearray()
        self._limit = limit_bytes
        self._error: SidecarError | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that these bytes completed.

        Raises: EventStreamError for a damaged frame, BodyTooLarge for one above the limit; where
        whole frames stand before it, they are given first and the next call raises.
        """
        if self._error is not None:
            raise self._error
        self._buffer += data
        frames: list[Frame] = []
        start = 0
        try:
            while (length := self._length(start)) and len(self._buffer) - start >= length:
                frames.append(_decode(bytes(self._buffer[start : start + length])))
                start += length
        except SidecarError as exc:
            self._error = exc
            start = len(self._buffer)
            if not frames:
                raise
        finally:
            del self._buffer[:start]
        return frames

    def finish(self) -> None:
        """The end of the stream. Raises: EventStreamError when it is inside a frame."""
        if self._error is not None:
            raise self._error
        if self._buffer:
            raise EventStreamError("the event stream ended inside a frame")

    def _length(self, start: int) -> int:
        """Length of the frame at `start`; 0 while its prelude is not whole."""
        if len(self._buffer) - start < _PRELUDE.size:
            return 0
        total, headers, check = _PRELUDE.unpack_from(self._buffer, start)
        # The length is believed only after its check sum: a damaged one would wait for ever.
        if binascii.crc32(self._buffer[start : start + _CHECKED_BYTES]) != check:
            raise EventStreamError("the event stream's prelude has a wrong check sum")
        if total < _MIN_FRAME or headers > total - _MIN_FRAME:
            raise EventStreamError("the event stream's prelude has impossible lengths")
        if total > self._limit:
            raise BodyTooLarge(self._limit)
        return int(total)


def _decode(frame: bytes) -> Frame:
    buffer = EventStreamBuffer()
    buffer.add_data(frame)
    try:
        message = next(iter(buffer)).to_response_dict()
    # botocore reads headers with struct and dictionaries: damaged ones that pass the check sum
    # come out as one of these.
    except (ParserError, struct.error, KeyError, ValueError, IndexError) as exc:
        raise EventStreamError("the event stream has a damaged frame") from exc
    headers = message["headers"]
    kind = str(headers.get(":message-type", "event"))
    key = {"exception": ":exception-type", "error": ":error-code"}.get(kind, ":event-type")
    name, text = str(headers.get(key, "")), str(headers.get(":error-message", ""))
    return Frame(kind, name, message["body"], text)
