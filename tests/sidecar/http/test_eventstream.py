"""Tests of sidecar.http.eventstream: frames in, messages out, whole, split and damaged."""

from __future__ import annotations

import binascii
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import BodyTooLarge, SidecarError
from sidecar.http.eventstream import EventStreamDecoder, EventStreamError, Frame
from tests.support.eventstream import event, frame

STREAM = (
    event("messageStart", b'{"role":"assistant"}')
    + event("contentBlockDelta", b'{"delta":{"text":"Hi"}}')
    + frame(b'{"message":"slow down"}', {":message-type": "exception", ":exception-type": "t"})
    + frame(b"", {":message-type": "error", ":error-code": "500", ":error-message": "no"})
    + frame(b"bare")
)
FRAMES = [
    Frame("event", "messageStart", b'{"role":"assistant"}'),
    Frame("event", "contentBlockDelta", b'{"delta":{"text":"Hi"}}'),
    Frame("exception", "t", b'{"message":"slow down"}'),
    Frame("error", "500", b"", "no"),
    Frame("event", "", b"bare"),
]


def read(pieces: list[bytes]) -> tuple[list[Frame], str]:
    """Frames, and the error that ended the stream."""
    decoder = EventStreamDecoder()
    frames: list[Frame] = []
    try:
        for piece in pieces:
            frames += decoder.feed(piece)
        decoder.finish()
    except SidecarError as exc:
        return frames, str(exc)
    return frames, ""


def split(data: bytes, step: int) -> list[bytes]:
    return [data[i : i + step] for i in range(0, len(data), step)]


def test_frames() -> None:
    assert read([STREAM]) == (FRAMES, "")


@pytest.mark.parametrize("step", [1, 2, 3, 11, 12, 13, 64])
def test_split(step: int) -> None:
    assert read(split(STREAM, step)) == (FRAMES, "")


@given(st.integers(0, len(STREAM) - 1), st.integers(1, 255), st.integers(1, 50))
def test_any_damaged_byte_is_seen(place: int, change: int, step: int) -> None:
    damaged = bytearray(STREAM)
    damaged[place] ^= change
    frames, error = read([bytes(damaged)])
    assert error
    assert frames == FRAMES[: len(frames)]
    assert read(split(bytes(damaged), step)) == (frames, error)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    frames, error = read([data])
    assert (frames, error) == read(split(data, 1))


def test_an_end_inside_a_frame() -> None:
    assert read([STREAM[:-1]]) == (FRAMES[:-1], "the event stream ended inside a frame")


def test_frames_before_a_damaged_one_are_given() -> None:
    decoder = EventStreamDecoder()
    assert decoder.feed(event("a", b"{}") + b"\0" * 16) == [Frame("event", "a", b"{}")]
    for _ in range(2):
        with pytest.raises(EventStreamError):
            decoder.feed(b"")


def test_a_frame_above_the_limit_is_refused_by_its_prelude() -> None:
    prelude = struct.pack(">II", 5_000_000, 0)
    decoder = EventStreamDecoder()
    with pytest.raises(BodyTooLarge):
        decoder.feed(prelude + struct.pack(">I", binascii.crc32(prelude)))


@pytest.mark.parametrize(("total", "headers"), [(15, 0), (16, 1), (0, 0), (100, 85)])
def test_impossible_lengths(total: int, headers: int) -> None:
    prelude = struct.pack(">II", total, headers)
    with pytest.raises(EventStreamError, match="impossible"):
        EventStreamDecoder().feed(prelude + struct.pack(">I", binascii.crc32(prelude)))


@pytest.mark.parametrize("block", [b"\x01a\x63", b"\x02\xff\xfe\x07\x00\x00", b"\x05ab", b"\x01"])
def test_damaged_headers_with_right_check_sums(block: bytes) -> None:
    prelude = struct.pack(">II", 16 + len(block), len(block))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    body = prelude + block
    with pytest.raises(EventStreamError, match="damaged frame"):
        EventStreamDecoder().feed(body + struct.pack(">I", binascii.crc32(body)))


@given(st.binary(max_size=40))
def test_any_header_bytes_with_right_check_sums(block: bytes) -> None:
    prelude = struct.pack(">II", 16 + len(block), len(block))
    prelude += struct.pack(">I", binascii.crc32(prelude))
    body = prelude + block
    frames, error = read([body + struct.pack(">I", binascii.crc32(body))])
    assert frames or error
