"""WebSocket messages out of octets and back, without extensions.

    HEAD    waiting for a frame's head         → PAYLOAD when it is there
    PAYLOAD waiting for the frame's octets     → HEAD, with a message when the frame ended one

1. A control frame (ping, pong, close) stands between the frames of another message, whole.
2. Everything of a client is masked, nothing of a server.
3. What breaks a rule ends the decoder: no octet behind it is looked at.

Source: RFC 6455 sections 5.2 to 5.5.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, final

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
_CONTINUATION: Final = 0
_KNOWN: Final = frozenset((0, 1, 2, 8, 9, 10))
_CONTROL_MAX: Final = 125
_SHORT: Final = struct.Struct(">H")
_LONG: Final = struct.Struct(">Q")


class WebSocketError(ValueError):
    """The peer broke the protocol, or sent too much. `code`: of the close frame that says so."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Message(NamedTuple):
    """One message, put together, or a control frame."""

    opcode: int
    data: bytes


@final
class Decoder:
    """Octets of one side in, messages out."""

    __slots__ = ("_buffer", "_is_masked", "_limit", "_opcode", "_parts", "_size")

    def __init__(self, limit_bytes: int, *, is_masked: bool) -> None:
        """`limit_bytes`: of one message. `is_masked`: these are the octets of a client."""
        self._buffer = bytearray()
        self._limit = limit_bytes
        self._is_masked = is_masked
        self._opcode = 0
        self._parts: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that end in these octets. Raises: WebSocketError."""
        self._buffer += data
        found: list[Message] = []
        at = 0
        while True:
            end, frame = self._frame(at)
            if frame is None:
                break
            at = end
            message = self._joined(*frame)
            if message is not None:
                found.append(message)
        del self._buffer[:at]
        return found

    def _frame(self, at: int) -> tuple[int, tuple[bool, int, bytes] | None]:
        """Where the frame at this position ends, with `(is final, opcode, payload)`."""
        buffer = self._buffer
        if len(buffer) < at + 2:
            return at, None
        first, second = buffer[at], buffer[at + 1]
        opcode = first & 0x0F
        if first & 0x70 or opcode not in _KNOWN:
            raise WebSocketError(1002, "a frame with an extension or opcode that was not agreed on")
        if bool(second & 0x80) != self._is_masked:
            raise WebSocketError(1002, "a frame's mask is missing, or there is one too many")
        size, start = second & 0x7F, at + 2
        if opcode >= CLOSE and (size > _CONTROL_MAX or not first & 0x80):
            raise WebSocketError(1002, "a control frame in pieces, or too long")
        if size > _CONTROL_MAX:
            extended = _SHORT if size == 126 else _LONG
            if len(buffer) < start + extended.size:
                return at, None
            (size,) = extended.unpack_from(buffer, start)
            start += extended.size
        if self._size + size > self._limit:
            raise WebSocketError(1009, f"a message of more than {self._limit} bytes")
        body = start + 4 * self._is_masked
        if len(buffer) < body + size:
            return at, None
        payload = bytes(buffer[body : body + size])
        if self._is_masked:
            payload = masked(payload, bytes(buffer[start:body]))
        return body + size, (bool(first & 0x80), opcode, payload)

    def _joined(self, is_final: bool, opcode: int, payload: bytes) -> Message | None:
        if opcode >= CLOSE:
            return Message(opcode, payload)
        if (opcode == _CONTINUATION) != bool(self._opcode):
            raise WebSocketError(1002, "a message within another, or a piece of none")
        self._opcode = opcode or self._opcode
        if payload:
            self._parts.append(payload)
        self._size += len(payload)
        if not is_final:
            return None
        message = Message(self._opcode, b"".join(self._parts))
        self._opcode, self._size = 0, 0
        self._parts.clear()
        return message


def encode(opcode: int, data: bytes, mask: bytes = b"") -> bytes:
    """A message in one frame. `mask`: four octets nobody can foretell, for a client's frame."""
    size = len(data)
    bit = 0x80 if mask else 0
    if size <= _CONTROL_MAX:
        head = bytes((0x80 | opcode, bit | size))
    elif size < 1 << 16:
        head = bytes((0x80 | opcode, bit | 126)) + _SHORT.pack(size)
    else:
        head = bytes((0x80 | opcode, bit | 127)) + _LONG.pack(size)
    return head + mask + (masked(data, mask) if mask else data)


def close(code: int, reason: str, mask: bytes = b"") -> bytes:
    """A close frame."""
    return encode(CLOSE, _SHORT.pack(code) + reason.encode()[: _CONTROL_MAX - 2], mask)


def masked(data: bytes, mask: bytes) -> bytes:
    """The octets under a mask of four, or without it."""
    size = len(data)
    # As one number each: a loop over the octets would take a hundred times as long.
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


__all__ = [
    "BINARY",
    "CLOSE",
    "TEXT",
    "Decoder",
    "Message",
    "WebSocketError",
    "close",
    "encode",
    "masked",
]
