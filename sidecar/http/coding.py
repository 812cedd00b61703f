"""Content codings: what peers compressed, made plain again within bounds. No I/O.

Source: RFC 9110 section 8.4; RFC 1950 to 1952 (deflate, gzip), RFC 7932 (br), RFC 8878 (zstd).

A few hundred octets can stand for gigabytes, so that every step asks for a bounded piece of output
and gives up as soon as there is more than the caller wants to hold, or more than `MAX_RATIO` times
what came in.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final, Protocol, final

import brotli  # type: ignore[import-untyped]  # it ships no types
from backports import zstd

from sidecar.errors import BodyTooLarge, SidecarError

MAX_RATIO: Final = 1000
"""Output to input. Deflate itself ends at about 1,030; text that people write stays below 50."""
_RATIO_FREE_BYTES: Final = 1024 * 1024
"""Below this much output nobody asks for the ratio."""
_PIECE_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 2
_GZIP: Final = b"\x1f\x8b"
_MAX_CODINGS: Final = 2
"""A body compressed more than twice is an attack or a mistake."""


class CodingError(SidecarError):
    """Bytes that are not in the coding they were announced in, or a coding nobody here knows."""


class _Engine(Protocol):
    """One coding's decompressor."""

    eof: bool

    def step(self, data: bytes, limit_bytes: int) -> bytes:
        """Take the input, give up to so much output; call with b"" for what is still held."""


@final
class _Zlib:
    """gzip and zlib by their headers; raw deflate, which some send as `deflate`, by its lack."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=47)
        self._head: bytes | None = b""
        """The first octets, until there are the two that tell the forms apart."""
        self.eof = False

    def step(self, data: bytes, limit_bytes: int) -> bytes:
        """See _Engine."""
        if self._head is not None:
            data = self._head + data
            if len(data) < _HEAD_BYTES:
                self._head = data
                return b""
            self._head = None
            if data[:2] != _GZIP and (data[0] & 15 != 8 or int.from_bytes(data[:2]) % 31):
                self._inner = zlib.decompressobj(wbits=-15)
        inner = self._inner
        try:
            out = inner.decompress(inner.unconsumed_tail + data, limit_bytes)
        except zlib.error as exc:
            raise CodingError("a compressed body is damaged") from exc
        self.eof = inner.eof
        return out


@final
class _Brotli:
    def __init__(self) -> None:
        self._inner = brotli.Decompressor()
        self.eof = False

    def step(self, data: bytes, limit_bytes: int) -> bytes:
        """See _Engine."""
        try:
            out: bytes = self._inner.process(data, output_buffer_limit=limit_bytes)
        except brotli.error as exc:
            raise CodingError("a compressed body is damaged") from exc
        self.eof = self._inner.is_finished()
        return out


@final
class _Zstd:
    def __init__(self) -> None:
        self._inner = zstd.ZstdDecompressor()
        self.eof = False

    def step(self, data: bytes, limit_bytes: int) -> bytes:
        """See _Engine."""
        if self._inner.eof:
            return b""
        try:
            out: bytes = self._inner.decompress(data, limit_bytes)
        except zstd.ZstdError as exc:
            raise CodingError("a compressed body is damaged") from exc
        self.eof = self._inner.eof
        return out


_ENGINES: Final[dict[bytes, Callable[[], _Engine]]] = {
    b"gzip": _Zlib,
    b"x-gzip": _Zlib,
    b"deflate": _Zlib,
    b"br": _Brotli,
    b"zstd": _Zstd,
}


def codings_of(value: bytes | None) -> list[bytes]:
    """The codings of a Content-Encoding field, `identity` left out, in the order applied.

    Raises: CodingError for one that is not known here, or for more than two.
    """
    if not value:
        return []
    names = [name.strip().lower() for name in value.split(b",")]
    found = [name for name in names if name not in (b"", b"identity")]
    if len(found) > _MAX_CODINGS or not _ENGINES.keys() >= set(found):
        raise CodingError(f"content-encoding {value[:64].decode('latin-1')!r} is not supported")
    return found


@final
class Decoder:
    """One body under decompression. `feed` gives all that its input stands for."""

    __slots__ = ("_engines", "_limit", "_received", "_sent")

    def __init__(self, codings: list[bytes], limit_bytes: int | None = None) -> None:
        """`codings`: from `codings_of`. `limit_bytes`: bound of the whole output; None: only the
        ratio bounds it, for streams whose reader bounds each event."""
        self._engines = [_ENGINES[name]() for name in reversed(codings)]
        self._limit = limit_bytes
        self._received = 0
        self._sent = 0

    def feed(self, data: bytes) -> bytes:
        """Raises: CodingError, BodyTooLarge."""
        self._received += len(data)
        for index, engine in enumerate(self._engines):
            data = self._through(engine, data, is_last=index == len(self._engines) - 1)
        self._sent += len(data)
        return data

    def _through(self, engine: _Engine, data: bytes, *, is_last: bool) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            piece = engine.step(data, _PIECE_BYTES)
            data = b""
            if not piece:
                return b"".join(parts)
            parts.append(piece)
            size += len(piece)
            self._check(size, is_last=is_last)

    def _check(self, size: int, *, is_last: bool) -> None:
        if not is_last:
            # What lies between two codings is bounded by the ratio alone, counted from here.
            if size > max(self._received * MAX_RATIO, _RATIO_FREE_BYTES):
                raise BodyTooLarge(size)
            return
        total = self._sent + size
        if self._limit is not None and total > self._limit:
            raise BodyTooLarge(self._limit)
        if total > max(self._received * MAX_RATIO, _RATIO_FREE_BYTES):
            raise BodyTooLarge(total)

    def finish(self) -> None:
        """The input has ended. Raises: CodingError when it ended too early."""
        if self._received and not all(engine.eof for engine in self._engines):
            raise CodingError("a compressed body is cut off")


def decoded(data: bytes, codings: list[bytes], limit_bytes: int) -> bytes:
    """A whole body. Raises: CodingError, BodyTooLarge."""
    if not codings:
        if len(data) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        return data
    decoder = Decoder(codings, limit_bytes)
    plain = decoder.feed(data)
    decoder.finish()
    return plain
