"""gRPC over HTTP/2 as octets and fields: message frames, the status of a call, the timeout field.

Source: gRPC over HTTP2 (PROTOCOL-HTTP2.md): Length-Prefixed-Message, Status, Timeout, and the
mapping of HTTP status codes (http-grpc-status-mapping.md).
"""

from __future__ import annotations

import math
import re
from typing import Final, final

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
DEADLINE_EXCEEDED: Final = 4
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
UNAUTHENTICATED: Final = 16

_NAMES: Final = (
    *("OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND"),
    *("ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION"),
    *("ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS"),
    "UNAUTHENTICATED",
)
_OF_HTTP: Final = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: UNIMPLEMENTED,
    429: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: UNAVAILABLE,
}
_PREFIX_BYTES: Final = 5
_MESSAGE_CHARS: Final = 1024
_ESCAPED: Final = re.compile(rb"%([0-9A-Fa-f]{2})")
_TIMEOUT_UNITS: Final = ((1_000_000_000, b"n"), (1_000_000, b"u"), (1_000, b"m"), (1, b"S"))
_TIMEOUT_MAX: Final = 99_999_999
"""The field's number has eight digits at most."""


def code_name(code: int) -> str:
    """`UNAVAILABLE` for 14; `code 99` for one that gRPC does not know."""
    return _NAMES[code] if 0 <= code < len(_NAMES) else f"code {code}"


@final
class GrpcError(UpstreamError):
    """A call that did not end with OK.

    `grpc_status`: the code, the peer's or the one that stands for what went wrong. `detail`: the
    peer's own words, at most 1,024 characters; they are not in the message, for nobody knows what
    they hold. `sent` is false when the peer has certainly not acted.
    """

    def __init__(
        self, grpc_status: int, message: str, *, detail: str = "", sent: bool = True
    ) -> None:
        super().__init__(
            504 if grpc_status == DEADLINE_EXCEEDED else 503,
            "Timeout" if grpc_status == DEADLINE_EXCEEDED else "UpstreamFailure",
            message,
            retryable=not sent,
            sent=sent,
        )
        self.grpc_status = grpc_status
        self.detail = detail


def frame(message: bytes) -> bytes:
    """A message as it goes on the wire, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


@final
class Frames:
    """Messages out of a stream of octets that may be cut anywhere.

    `limit_bytes` bounds one message, and so what is held. After GrpcError it must not be used.
    """

    __slots__ = ("_buffer", "_limit_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that are complete now. Raises: GrpcError."""
        buffer = self._buffer
        buffer += data
        found: list[bytes] = []
        start = 0
        while len(buffer) - start >= _PREFIX_BYTES:
            if buffer[start]:
                raise GrpcError(INTERNAL, "a compressed gRPC message, which was not asked for")
            size = int.from_bytes(buffer[start + 1 : start + _PREFIX_BYTES], "big")
            if size > self._limit_bytes:
                text = f"a gRPC message of {size} bytes, more than {self._limit_bytes}"
                raise GrpcError(RESOURCE_EXHAUSTED, text)
            end = start + _PREFIX_BYTES + size
            if len(buffer) < end:
                break
            found.append(bytes(buffer[start + _PREFIX_BYTES : end]))
            start = end
        del buffer[:start]
        return found

    @property
    def is_between(self) -> bool:
        """Whether no message is begun: a stream may end here and nowhere else."""
        return not self._buffer


def unary(body: bytes, limit_bytes: int) -> bytes:
    """The one message of a whole body. Raises: GrpcError for none, several or half a message."""
    frames = Frames(limit_bytes)
    found = frames.feed(body)
    if len(found) != 1 or not frames.is_between:
        raise GrpcError(INTERNAL, "the answer is not one gRPC message")
    return found[0]


def check(status: int, headers: Headers, trailers: Headers | None) -> None:
    """Whether a call ended with OK. Raises: GrpcError.

    `status` and `headers` are of the response's head, where a call that failed at once has its
    status; else it is in the trailers.
    """
    if status != 200:
        text = f"the gRPC call was answered with HTTP status {status}"
        raise GrpcError(_OF_HTTP.get(status, UNKNOWN), text)
    kind = headers.get(b"content-type") or b""
    # The subtype (`+proto`) does not matter; `application/grpc-web` is another protocol.
    if not kind.startswith(b"application/grpc") or kind[16:17] not in (b"", b"+", b";"):
        raise GrpcError(UNKNOWN, "the answer to a gRPC call is not gRPC")
    fields = headers if headers.has(b"grpc-status") else trailers
    value = None if fields is None else fields.get(b"grpc-status")
    if fields is None or value is None:
        raise GrpcError(INTERNAL, "a gRPC call ended without a status")
    # Ten digits hold every code; int() of longer ones would cost by their square.
    code = int(value) if value.isdigit() and len(value) <= 10 else UNKNOWN
    if code != OK:
        detail = message_text(fields.get(b"grpc-message") or b"")
        raise GrpcError(code, f"the gRPC call failed: {code_name(code)}", detail=detail)


def message_text(value: bytes) -> str:
    """`grpc-message` decoded; whatever is not valid stays as it is, since a status must be told."""
    raw = _ESCAPED.sub(lambda found: bytes((int(found[1], 16),)), value)
    return raw.decode("utf-8", "replace")[:_MESSAGE_CHARS]


def timeout_value(seconds: float) -> bytes:
    """`grpc-timeout` in the finest unit whose number has at most eight digits, rounded up."""
    for per_second, unit in _TIMEOUT_UNITS:
        number = math.ceil(max(seconds, 0.0) * per_second)
        if number <= _TIMEOUT_MAX:
            return b"%d%b" % (number, unit)
    return b"%dS" % _TIMEOUT_MAX
