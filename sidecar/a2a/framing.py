"""The one message of a unary gRPC body, also when the client compressed it.

Source: gRPC over HTTP2 (PROTOCOL-HTTP2.md), Length-Prefixed-Message and Message-Encoding.
"""

from __future__ import annotations

from typing import Final

from sidecar.errors import BodyTooLarge
from sidecar.http.coding import CodingError, codings_of, decoded

_PREFIX_BYTES: Final = 5


class BadFrame(ValueError):
    """A body that is not one message, or in a coding nobody here knows."""


def unframed(body: bytes, coding: bytes | None, limit_bytes: int) -> bytes:
    """The message. `coding`: of the field `grpc-encoding`. Raises: BadFrame."""
    size = int.from_bytes(body[1:_PREFIX_BYTES], "big")
    if len(body) < _PREFIX_BYTES or len(body) != _PREFIX_BYTES + size:
        raise BadFrame("not one gRPC message")
    message = body[_PREFIX_BYTES:]
    if not body[0]:
        return message
    try:
        codings = codings_of(coding)
        if not codings:
            raise BadFrame("a compressed gRPC message without grpc-encoding")
        return decoded(message, codings, limit_bytes)
    except (CodingError, BodyTooLarge) as error:
        raise BadFrame(f"a compressed gRPC message: {error}") from error
