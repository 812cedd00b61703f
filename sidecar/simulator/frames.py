"""Framing of streamed answers: server-sent events and AWS event-stream messages.

Source: WHATWG HTML, section 9.2; AWS SDK design, "Amazon Event Stream Encoding".
"""

from __future__ import annotations

import binascii
import struct
from typing import Final

import orjson

from sidecar.simulator.ask import Json

DONE: Final = b"data: [DONE]\n\n"
_STRING: Final = 7
"""The type of a header's value."""


def data(body: Json) -> bytes:
    """An event without a name."""
    return b"data: %b\n\n" % orjson.dumps(body)


def named(body: Json) -> bytes:
    """An event that has the name of its `type`."""
    return b"event: %b\ndata: %b\n\n" % (str(body["type"]).encode(), orjson.dumps(body))


def aws(name: str, body: Json, kind: str = "event") -> bytes:
    """One event-stream message. `kind`: `event` or `exception`."""
    headers = {
        f":{kind}-type": name,
        ":content-type": "application/json",
        ":message-type": kind,
    }
    block = b"".join(_header(key.encode(), value.encode()) for key, value in headers.items())
    payload = orjson.dumps(body)
    prelude = struct.pack(">II", 16 + len(block) + len(payload), len(block))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    message = prelude + block + payload
    return message + struct.pack(">I", binascii.crc32(message))


def _header(key: bytes, value: bytes) -> bytes:
    return bytes((len(key),)) + key + bytes((_STRING,)) + struct.pack(">H", len(value)) + value
