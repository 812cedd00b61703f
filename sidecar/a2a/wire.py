"""Protocol buffers as octets: the few fields a gateway reads or replaces, without a schema.

Source: Protocol Buffers, Encoding; a2a.proto of versions 0.3 (`a2a.v1`) and 1.0 (`lf.a2a.v1`).

What is not asked for stays as it was, octet for octet, fields unknown here included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

_VARINT: Final = 0
_FIXED64: Final = 1
LENGTH: Final = 2
_FIXED32: Final = 5
_MAX_VARINT_BYTES: Final = 10
_MORE: Final = 0x80

Edit = Callable[[int, bytes], bytes | None]
"""`edit(number, value)` of a field with a length: its new value, or None to leave the field out."""


class WireError(ValueError):
    """Octets that are no message."""


def fields(data: bytes) -> Iterator[tuple[int, int, bytes | int, int, int]]:
    """`(number, wire type, value, start, end)` of each field in order; numbers as int, the rest
    as octets. Raises: WireError."""
    at, size = 0, len(data)
    while at < size:
        start = at
        key, at = _varint(data, at)
        number, kind = key >> 3, key & 7
        if not number:
            raise WireError("field 0")
        value: bytes | int
        if kind == _VARINT:
            value, at = _varint(data, at)
        elif kind in (_FIXED32, _FIXED64, LENGTH):
            length = 4 if kind == _FIXED32 else 8
            if kind == LENGTH:
                length, at = _varint(data, at)
            value = data[at : at + length]
            at += length
            if at > size:
                raise WireError("cut off")
        else:
            # Groups were never used by these messages, and nest without a length.
            raise WireError(f"wire type {kind}")
        yield number, kind, value, start, at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for index, octet in enumerate(data[at : at + _MAX_VARINT_BYTES]):
        value |= (octet & 0x7F) << (7 * index)
        if octet < _MORE:
            return value, at + index + 1
    raise WireError("a number without an end")


def varint(value: int) -> bytes:
    """A number that is not negative."""
    out = bytearray()
    while value >= _MORE:
        out.append(value & 0x7F | _MORE)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, value: bytes) -> bytes:
    """A field with a length."""
    return varint(number << 3 | LENGTH) + varint(len(value)) + value


def every(data: bytes, *path: int) -> list[bytes]:
    """The values of all fields with a length that stand at a path of field numbers.

    A message that occurs twice counts twice: readers merge them. Raises: WireError.
    """
    found = [data]
    for wanted in path:
        found = [
            value
            for message in found
            for number, kind, value, _, _ in fields(message)
            if number == wanted and kind == LENGTH and isinstance(value, bytes)
        ]
    return found


def text(data: bytes, *path: int) -> str:
    """The last text at a path; "" when there is none. Raises: WireError."""
    found = every(data, *path)
    return found[-1].decode("utf-8", "replace") if found else ""


def number(data: bytes, last: int, *path: int) -> int | None:
    """The last number of field `last` in the messages at a path. Raises: WireError."""
    found: int | None = None
    for message in every(data, *path):
        for name, kind, value, _, _ in fields(message):
            if name == last and kind == _VARINT and isinstance(value, int):
                found = value
    return found


def edited(data: bytes, edit: Edit, numbers: frozenset[int]) -> bytes:
    """The message with its fields of these numbers as `edit` gives them. Raises: WireError."""
    parts: list[bytes] = []
    for name, kind, value, start, end in fields(data):
        if name in numbers and kind == LENGTH and isinstance(value, bytes):
            made = edit(name, value)
            if made is not None:
                parts.append(field(name, made))
        else:
            parts.append(data[start:end])
    return b"".join(parts)
