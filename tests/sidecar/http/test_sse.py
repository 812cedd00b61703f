"""Tests of sidecar.http.sse: bytes in, events out, whole and split anywhere."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import BodyTooLarge
from sidecar.http.sse import SseDecoder, SseEvent, encode_event

STREAMS: dict[str, tuple[bytes, list[SseEvent]]] = {
    "one event": (b"data: a\n\n", [SseEvent(b"a")]),
    "no space": (b"data:a\n\n", [SseEvent(b"a")]),
    "one space is taken": (b"data:  a\n\n", [SseEvent(b" a")]),
    "several lines": (b"data: a\ndata: b\n\n", [SseEvent(b"a\nb")]),
    "named": (b"event: x\ndata: a\n\n", [SseEvent(b"a", b"x")]),
    "id and retry": (b"id: 7\nretry: 30\ndata: a\n\n", [SseEvent(b"a", id=b"7", retry_ms=30)]),
    "retry that is no number": (b"retry: soon\ndata: a\n\n", [SseEvent(b"a")]),
    "an id with NUL is ignored": (b"id: \0\ndata: a\n\n", [SseEvent(b"a")]),
    "comments are left out": (b": hello\n\ndata: a\n\n: bye\n\n", [SseEvent(b"a")]),
    "no data, no event": (b"event: ping\n\ndata: a\n\n", [SseEvent(b"a")]),
    "empty data": (b"data\n\n", [SseEvent(b"")]),
    "CRLF": (b"event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", [SseEvent(b"a", b"x"), SseEvent(b"b")]),
    "CR": (b"data: a\r\rdata: b\r\r", [SseEvent(b"a"), SseEvent(b"b")]),
    "mixed": (b"data: a\r\n\ndata: b\n\r\ndata: c\n\n", [SseEvent(x) for x in (b"a", b"b", b"c")]),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [SseEvent(b"a")]),
    "many blank lines": (b"\n\n\ndata: a\n\n\n\ndata: b\n\n", [SseEvent(b"a"), SseEvent(b"b")]),
    "cut short": (b"data: a\n\ndata: b\n", [SseEvent(b"a")]),
}


def read(pieces: list[bytes]) -> list[SseEvent]:
    decoder = SseDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    return events + decoder.finish()


@pytest.mark.parametrize("name", STREAMS)
def test_events(name: str) -> None:
    data, expected = STREAMS[name]
    assert read([data]) == expected


@pytest.mark.parametrize("name", STREAMS)
def test_split_at_every_byte(name: str) -> None:
    data, expected = STREAMS[name]
    assert read([data[i : i + 1] for i in range(len(data))]) == expected
    for cut in range(len(data)):
        assert read([data[:cut], data[cut:]]) == expected


@given(st.binary(), st.lists(st.integers(0, 40)))
def test_how_it_was_split_does_not_matter(data: bytes, cuts: list[int]) -> None:
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(data[start : start + cut])
        start += cut
    assert read([*pieces, data[start:]]) == read([data])


ALPHABET = st.sampled_from([b"data: x", b"event: y", b"\n", b"\r", b"\r\n", b":", b"\n\n", b"id"])


@given(st.lists(ALPHABET), st.integers(1, 5))
def test_line_ends_split_anywhere(parts: list[bytes], step: int) -> None:
    data = b"".join(parts)
    assert read([data[i : i + step] for i in range(0, len(data), step)]) == read([data])


def test_pending() -> None:
    decoder = SseDecoder()
    decoder.feed(b"data: a\n\ndata: b")
    assert decoder.pending == b"data: b"


def test_an_event_above_the_limit() -> None:
    decoder = SseDecoder(limit_bytes=64)
    assert decoder.feed(b"data: a\n\n" + b"x" * 60) == [SseEvent(b"a")]
    with pytest.raises(BodyTooLarge):
        decoder.feed(b"x" * 60)


def test_events_before_one_above_the_limit_are_given() -> None:
    decoder = SseDecoder(limit_bytes=16)
    assert decoder.feed(b"data: a\n\n" + b"x" * 60) == [SseEvent(b"a")]
    with pytest.raises(BodyTooLarge):
        decoder.feed(b"x")


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ((b"a",), b"data: a\n\n"),
        ((b"a", b"x"), b"event: x\ndata: a\n\n"),
        ((b"a", b"x", b"1"), b"event: x\nid: 1\ndata: a\n\n"),
        ((b"a\nb\r\nc",), b"data: a\ndata: b\ndata: c\n\n"),
        ((b"", b"", b"1", 50), b"retry: 50\nid: 1\ndata: \n\n"),
    ],
    ids=["plain", "named", "with an id", "lines", "with a time to wait"],
)
def test_encode(event: tuple[Any, ...], expected: bytes) -> None:
    assert encode_event(*event) == expected


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1))
def test_what_was_encoded_is_decoded(text: str) -> None:
    assert read([encode_event(text.encode(), b"x")]) == [SseEvent(text.encode(), b"x")]


def test_events_without_data_that_a_resumption_needs() -> None:
    decoder = SseDecoder(keeps_bare=True)
    events = decoder.feed(b"id: 7\n\nretry: 30\n\nevent: x\n\n: comment\n\ndata: a\n\n")
    assert events == [SseEvent(b"", id=b"7"), SseEvent(b"", retry_ms=30), SseEvent(b"a")]
