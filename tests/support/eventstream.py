"""AWS event-stream frames for tests, written from the format's description.

Source: AWS SDK design, "Amazon Event Stream Encoding".
"""

from __future__ import annotations

import binascii
import struct

STRING = 7


def header(name: str, value: str) -> bytes:
    """One header of type string."""
    key, text = name.encode(), value.encode()
    return bytes((len(key),)) + key + bytes((STRING,)) + struct.pack(">H", len(text)) + text


def frame(payload: bytes, headers: dict[str, str] | None = None) -> bytes:
    """A whole frame with both check sums."""
    block = b"".join(header(name, value) for name, value in (headers or {}).items())
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    body = prelude + block + payload
    return body + struct.pack(">I", binascii.crc32(body))


def event(name: str, payload: bytes) -> bytes:
    """An event as Bedrock sends it."""
    return frame(payload, {":message-type": "event", ":event-type": name})
