"""WebSocket frames: messages out of octets, whole and split anywhere, and what breaks the rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.websocket import (
    BINARY,
    CLOSE,
    TEXT,
    Decoder,
    Message,
    WebSocketError,
    close,
    encode,
    masked,
)

MASK = b"\x01\x02\x03\x04"
PING = 9


def decoded(data: bytes, *, is_masked: bool = False, limit: int = 1000) -> list[Message]:
    return Decoder(limit, is_masked=is_masked).feed(data)


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 125, 126, 127, 65_535, 65_536, 70_001])
@pytest.mark.parametrize("mask", [b"", MASK])
def test_there_and_back(size: int, mask: bytes) -> None:
    data = bytes(number % 251 for number in range(size))
    frame = encode(TEXT, data, mask)
    assert decoded(frame, is_masked=bool(mask), limit=100_000) == [Message(TEXT, data)]


def test_the_example_of_the_rfc() -> None:
    frame = bytes.fromhex("818537fa213d7f9f4d5158")
    assert decoded(frame, is_masked=True) == [Message(TEXT, b"Hello")]
    assert encode(TEXT, b"Hello", bytes.fromhex("37fa213d")) == frame
    assert masked(masked(b"Hello", MASK), MASK) == b"Hello"


def test_pieces_with_a_ping_between_them() -> None:
    first = b"\x01\x03abc"
    last = b"\x80\x02de"
    data = first + encode(PING, b"?") + b"\x00\x00" + last + encode(BINARY, b"x")
    wanted = [Message(PING, b"?"), Message(TEXT, b"abcde"), Message(BINARY, b"x")]
    assert decoded(data) == wanted


@given(st.lists(st.binary(max_size=300), max_size=4), st.data())
def test_any_split_gives_the_same(texts: list[bytes], data: st.DataObject) -> None:
    whole = b"".join(encode(TEXT, text, MASK) for text in texts)
    borders = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    decoder = Decoder(1000, is_masked=True)
    found: list[Message] = []
    for low, high in zip([0, *borders], [*borders, len(whole)], strict=True):
        found += decoder.feed(whole[low:high])
    assert found == [Message(TEXT, text) for text in texts]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\xc1\x00", 1002),  # compressed
        (b"\x83\x00", 1002),  # an opcode that means nothing
        (b"\x81\x80" + MASK, 1002),  # masked by a server
        (b"\x80\x00", 1002),  # a piece of nothing
        (b"\x01\x00\x81\x00", 1002),  # a message within a message
        (b"\x09\x00", 1002),  # a ping in pieces
        (b"\x89\x7e\x00\x7e", 1002),  # a long ping
        (b"\x81\x7e\x03\xe9", 1009),  # announced to be larger than the limit
        (b"\x01\x7e\x03\xe8" + b"x" * 1000 + b"\x00\x01", 1009),  # grown larger
        (b"\x81\x7f" + b"\xff" * 8, 1009),
    ],
)
def test_broken_rules(data: bytes, code: int) -> None:
    with pytest.raises(WebSocketError) as caught:
        decoded(data)
    assert caught.value.code == code


def test_a_client_without_a_mask() -> None:
    with pytest.raises(WebSocketError):
        decoded(encode(TEXT, b"a"), is_masked=True)


def test_close() -> None:
    ((opcode, data),) = decoded(close(1008, "no" * 100))
    assert (opcode, data[:2], len(data)) == (CLOSE, b"\x03\xf0", 125)
