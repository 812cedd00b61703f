"""Content codings: whole, split anywhere, cut, damaged, and far larger than they look."""

from __future__ import annotations

import gzip
import zlib

import brotli
import pytest
from backports import zstd

from sidecar.errors import BodyTooLarge
from sidecar.http.coding import CodingError, Decoder, codings_of, decoded

PLAIN = b'{"model": "m", "text": "' + b"hello " * 2000 + b'"}'


def raw_deflate(data: bytes) -> bytes:
    made = zlib.compressobj(wbits=-15)
    return made.compress(data) + made.flush()


CASES = {
    "gzip": (b"gzip", gzip.compress(PLAIN)),
    "zlib": (b"deflate", zlib.compress(PLAIN)),
    "raw deflate": (b"deflate", raw_deflate(PLAIN)),
    "br": (b"br", brotli.compress(PLAIN)),
    "zstd": (b"zstd", zstd.compress(PLAIN)),
    "twice": (b"gzip, br", brotli.compress(gzip.compress(PLAIN))),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_and_split(case: str) -> None:
    name, data = CASES[case]
    codings = codings_of(name)
    assert decoded(data, codings, len(PLAIN)) == PLAIN
    for size in (1, 7, 1000):
        decoder = Decoder(codings)
        parts = [decoder.feed(data[at : at + size]) for at in range(0, len(data), size)]
        decoder.finish()
        assert b"".join(parts) == PLAIN


@pytest.mark.parametrize("case", CASES)
def test_bounds(case: str) -> None:
    name, data = CASES[case]
    codings = codings_of(name)
    with pytest.raises(BodyTooLarge):
        decoded(data, codings, len(PLAIN) - 1)
    with pytest.raises(CodingError):
        decoded(data[:-5], codings, len(PLAIN))


@pytest.mark.parametrize("name", [b"gzip", b"br", b"zstd"])
def test_what_is_no_such_coding(name: bytes) -> None:
    with pytest.raises(CodingError):
        decoded(b"\x01\x02 no compressed body at all", [name], 1000)


def test_a_bomb_ends_long_before_it_is_unpacked() -> None:
    bomb = gzip.compress(gzip.compress(bytes(50_000_000)))
    with pytest.raises(BodyTooLarge):
        decoded(bomb, [b"gzip", b"gzip"], 10**9)


@pytest.mark.parametrize("name", [None, b"", b"identity", b" Identity "])
def test_nothing_to_do(name: bytes | None) -> None:
    assert codings_of(name) == []


@pytest.mark.parametrize("name", [b"lzma", b"gzip, gzip, gzip", b"gzip, compress"])
def test_what_is_refused(name: bytes) -> None:
    with pytest.raises(CodingError):
        codings_of(name)
