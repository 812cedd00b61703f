"""Chunked bodies of HTTP/1.1: strict decoding, and encoding. Bytes in, values out.

Source: RFC 9112 section 7.1, RFC 9110 section 6.5; spec hardening section 4.3 A.
"""

from __future__ import annotations

import re
from typing import Final, final

from sidecar.http.h1 import CRUMBS_BYTES, FIELDS, LONE_CR_OR_LF, HeadLimits, is_crumb
from sidecar.http.headers import Headers

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})(?:[ \t]*+;[\t\x20-\x7e\x80-\xff]*+)?\r\n")
_CHUNK_LINE_BYTES: Final = 4096
_TRAILERS = re.compile(FIELDS)
_FIELD = re.compile(rb"([^:]++):[\t ]*+([^\r]*+)\r\n")

FORBIDDEN_TRAILERS: Final = frozenset(
    (
        b"authorization", b"cache-control", b"connection", b"content-encoding", b"content-length",
        b"content-range", b"content-type", b"cookie", b"expect", b"host", b"keep-alive",
        b"max-forwards", b"pragma", b"proxy-authenticate", b"proxy-authorization",
        b"proxy-connection", b"range", b"set-cookie", b"te", b"trailer", b"transfer-encoding",
        b"upgrade", b"www-authenticate", b"x-forwarded-client-cert", b"x-forwarded-for",
        b"x-forwarded-host", b"x-forwarded-proto",
    )
)  # fmt: skip
"""Fields that frame, route or authenticate: they may not follow the body (RFC 9110 6.5.1)."""


@final
class FramingError(Exception):
    """A chunked body that breaks the grammar; the edge maps it to the party at fault."""


_SIZE, _DATA, _DATA_END, _TRAILER, _DONE = range(5)


@final
class ChunkedDecoder:
    """Decodes a chunked body however its octets are cut.

    `feed` gives the data octets; `done` tells the end, then `trailers` and `rest` (what follows
    the body) are valid. Raises FramingError.
    """

    __slots__ = (
        "_drops_underscores",
        "_limits",
        "_need",
        "_pending",
        "_state",
        "done",
        "rest",
        "trailers",
    )

    def __init__(self, limits: HeadLimits, *, drops_underscores: bool = False) -> None:
        """`drops_underscores`: of trailer fields too, as of a request's head (case 38)."""
        self._limits = limits
        self._drops_underscores = drops_underscores
        self._pending = b""
        self._need = 0
        self._state = _SIZE
        self.done = False
        self.rest = b""
        self.trailers: Headers | None = None

    def feed(  # noqa: C901 - one pass, one branch a state; a call each would cost more
        self, data: bytes
    ) -> bytes:
        """The data octets in `data`, b"" when there are none yet."""
        if self._pending and not (data := self._whole(data)):
            return b""
        parts: list[bytes] = []
        offset = 0
        end = len(data)
        while not self.done:
            if self._state == _SIZE:
                match = _CHUNK_LINE.match(data, offset, offset + _CHUNK_LINE_BYTES)
                if match is None:
                    self._keep_line(data[offset:])
                    break
                need = int(match[1], 16)
                offset = match.end()
                after = offset + need
                # Fast path: all of the chunk is here.
                if need and data[after : after + 2] == b"\r\n":
                    parts.append(data[offset:after])
                    offset = after + 2
                    continue
                self._need = need
                self._state = _DATA if need else _TRAILER
            elif self._state == _DATA:
                if offset == end:
                    break
                part = data[offset : offset + self._need]
                parts.append(part)
                offset += len(part)
                self._need -= len(part)
                if not self._need:
                    self._state = _DATA_END
            elif self._state == _DATA_END:
                tail = data[offset : offset + 2]
                if tail != b"\r\n"[: len(tail)]:
                    raise FramingError("chunk data is not followed by CRLF")
                if len(tail) < 2:
                    self._pending = tail
                    break
                offset += 2
                self._state = _SIZE
            elif not self._end(data, offset):
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _whole(self, data: bytes) -> bytes:
        """What was kept and `data`; b"" when that says no more than what was kept did."""
        whole, self._pending = self._pending + data, b""
        if len(whole) > len(data) + CRUMBS_BYTES and is_crumb(data, len(whole), self._limits):
            self._pending = whole
            return b""
        return whole

    def _keep_line(self, rest: bytes) -> None:
        if len(rest) >= _CHUNK_LINE_BYTES or b"\n" in rest:
            raise FramingError("malformed chunk size line")
        if rest and not _PARTIAL_CHUNK_LINE.fullmatch(rest):
            raise FramingError("malformed chunk size line")
        self._pending = rest

    def _end(self, data: bytes, offset: int) -> bool:
        match = _TRAILERS.match(data, offset)
        if match is None:
            rest = data[offset:]
            if len(rest) > self._limits.block_bytes or b"\r\n\r\n" in rest:
                raise FramingError("malformed trailer section")
            if LONE_CR_OR_LF.search(rest):
                raise FramingError("malformed trailer section")
            self._pending = rest
            return False
        if match.end() - offset > self._limits.block_bytes:
            raise FramingError("trailer section too large")
        pairs = _FIELD.findall(match[1])
        if len(pairs) > self._limits.count:
            raise FramingError("too many trailer fields")
        named = [(name.lower(), value.rstrip(b" \t")) for name, value in pairs]
        self.trailers = Headers(
            pair
            for pair in named
            if pair[0] not in FORBIDDEN_TRAILERS
            and not (self._drops_underscores and b"_" in pair[0])
        )
        self.rest = data[match.end() :]
        self._state = _DONE
        self.done = True
        return True


_PARTIAL_CHUNK_LINE = re.compile(rb"[0-9A-Fa-f]{1,16}(?:[ \t]*+(?:;[\t\x20-\x7e\x80-\xff]*+)?)?\r?")


def encode_chunk(data: bytes) -> bytes:
    """One chunk; `data` is not empty."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def encode_last_chunk(trailers: Headers | None) -> bytes:
    """The end of a chunked body with its trailer fields."""
    if not trailers:
        return b"0\r\n\r\n"
    lines = [b"%b: %b\r\n" % field for field in trailers if field[0] not in FORBIDDEN_TRAILERS]
    return b"0\r\n%b\r\n" % b"".join(lines)
