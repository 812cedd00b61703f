"""Tests of sidecar.llm.chat.passthrough and framing: reading a stream without changing it."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http.sse import encode_event
from sidecar.llm.chat.formats import FORMATS
from sidecar.llm.chat.framing import EventDecoder, framing_of
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.convert.base import StreamEvent
from tests.sidecar.llm.chat.bodies import EVENTS
from tests.support.eventstream import event, frame

STREAMS = {
    name: b"".join(encode_event(orjson.dumps(body), key.encode()) for key, body in events)
    for name, events in EVENTS.items()
    if name not in ("converse", "realtime")
}
CONVERSE = b"".join(event(name, orjson.dumps(body)) for name, body in EVENTS["converse"])


def framing(name: str) -> Literal["sse", "eventstream"]:
    return "eventstream" if name == "converse" else "sse"


def tap(name: str, pieces: list[bytes], *, with_content: bool) -> StreamTap:
    found = StreamTap(FORMATS[name], framing(name), with_content=with_content)
    for piece in pieces:
        found.feed(piece)
    found.finish()
    return found


@pytest.mark.parametrize("with_content", [False, True])
@pytest.mark.parametrize("name", [*STREAMS, "converse"])
def test_split_at_every_byte(name: str, with_content: bool) -> None:
    data = STREAMS.get(name, CONVERSE)
    reader = FORMATS[name].reader(with_content=with_content)
    for key, body in EVENTS[name]:
        reader.feed(key, body)
    expected = reader.usage.as_dict()
    assert expected
    for pieces in ([data], [data[i : i + 1] for i in range(len(data))]):
        assert tap(name, pieces, with_content=with_content).usage.as_dict() == expected
    for cut in range(0, len(data), 7):
        pieces = [data[:cut], data[cut:]]
        assert tap(name, pieces, with_content=with_content).usage.as_dict() == expected


@given(
    st.lists(st.sampled_from(["word", "", "with _tokens", "two\n\nlines"]), max_size=12),
    st.lists(st.integers(0, 1500), max_size=12),
    st.sampled_from([b"\n\n", b"\r\n\r\n"]),
)
def test_how_a_stream_is_cut_changes_nothing(words: list[str], cuts: list[int], end: bytes) -> None:
    frames = [
        b"data: " + orjson.dumps({"choices": [{"delta": {"content": word}}], "usage": None}) + end
        for word in words
    ]
    frames.append(b'data: {"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":9}}' + end)
    data = b"".join(frames)
    places = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    pieces = [data[start:stop] for start, stop in pairwise(places)]
    expected = tap("completions", frames, with_content=False)
    found = tap("completions", pieces, with_content=False)
    assert found.usage.as_dict() == expected.usage.as_dict()
    assert found.usage.output_tokens == 9
    seen = found.produced
    assert (seen.events, seen.tokens) == (expected.produced.events, expected.produced.tokens)


def test_the_first_text_is_told_once() -> None:
    found = StreamTap(FORMATS["completions"], "sse")
    frames = [part + b"\n\n" for part in STREAMS["completions"].split(b"\n\n")]
    assert [found.feed(part) for part in frames].count(True) == 1
    assert not found.is_broken


def test_usage_of_an_event_without_its_blank_line() -> None:
    data = STREAMS["completions"].rstrip(b"\n")
    assert tap("completions", [data], with_content=False).usage.input_tokens == 10


def test_usage_null_is_not_read() -> None:
    found = StreamTap(FORMATS["completions"], "sse")
    found.feed(b'data: {"choices":[{"delta":{"content":"x"}}],"usage":null}\n\n' * 3)
    assert found.usage.as_dict() == {}


def test_usage_may_be_looked_at_in_the_middle() -> None:
    found = StreamTap(FORMATS["generateContent"], "sse")
    head = b'data: {"candidates":[{"content":{"parts":[{"text":"x"}]}}],"usageMetadata":'
    found.feed(head + b'{"promptTokenCount":1}}\n\n')
    found.feed(head + b'{"promptTokenCount":2}}\n\n')
    assert found.usage.input_tokens == 2
    found.feed(head + b'{"promptTokenCount":3}}\n\n' + b'data: {"candidates":[]}')
    found.finish()
    assert found.usage.input_tokens == 3


BROKEN = {
    "not JSON": b"data: ha\n\n",
    "not an object": b"data: [1]\n\n",
    "not a stream": b"<html>",
    "half an event": b'data: {"usage":',
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_does_not_stop_the_reading(name: str) -> None:
    data = b"data: {}\n\n" + BROKEN[name] + b"\n\n" + STREAMS["completions"]
    assert tap("completions", [data], with_content=False).usage.input_tokens == 10


def test_an_event_above_the_limit_only_ends_the_reading() -> None:
    found = StreamTap(FORMATS["completions"], "sse", limit_bytes=100)
    found.feed(b"data: " + b"x" * 200)
    assert found.is_broken
    assert not found.feed(STREAMS["completions"])
    found.finish()
    assert found.usage.as_dict() == {}


def test_damaged_frames_only_end_the_reading() -> None:
    found = StreamTap(FORMATS["converse"], "eventstream")
    found.feed(CONVERSE)
    found.feed(b"\0" * 20)
    assert found.is_broken
    assert found.usage.input_tokens == 5


def test_a_frame_that_is_not_json_is_left_out() -> None:
    found = StreamTap(FORMATS["converse"], "eventstream")
    found.feed(event("chunk", b"\x00") + CONVERSE)
    assert found.usage.input_tokens == 5


@given(st.binary(), st.sampled_from(sorted(FORMATS)), st.sampled_from(["sse", "eventstream"]))
def test_any_bytes(data: bytes, name: str, kind: Literal["sse", "eventstream"]) -> None:
    found = StreamTap(FORMATS[name], kind, with_content=True)
    found.feed(data)
    found.finish()
    orjson.dumps(found.usage.as_dict())


# --- framing --------------------------------------------------------------------------------


def test_framing_by_media_type() -> None:
    assert framing_of(b"Application/vnd.amazon.eventstream; x=1") == "eventstream"
    assert framing_of(b"text/event-stream") == "sse"
    assert framing_of(b"") == "sse"


def test_events_of_sse() -> None:
    decoder = EventDecoder("sse")
    data = b'event: x\ndata: {"a":1}\n\ndata: [DONE]\n\n'
    assert decoder.feed(data) == [StreamEvent("x", {"a": 1}), StreamEvent("", None)]
    assert decoder.finish() == []


@pytest.mark.parametrize("data", [b"data: ha\n\n", b"data: [1]\n\n", b"data: \xff\n\n"])
def test_events_that_are_no_objects(data: bytes) -> None:
    with pytest.raises(UpstreamError) as caught:
        EventDecoder("sse").feed(data)
    assert (caught.value.status, caught.value.code) == (502, "UpstreamFailure")


def test_events_of_frames() -> None:
    decoder = EventDecoder("eventstream")
    data = event("a", b'{"x":1}')
    data += frame(b"{}", {":message-type": "exception", ":exception-type": "throttlingException"})
    data += frame(b"", {":message-type": "error", ":error-code": "bad", ":error-message": "why"})
    assert decoder.feed(data) == [
        StreamEvent("a", {"x": 1}),
        StreamEvent("throttlingException", {"message": "throttlingException"}),
        StreamEvent("bad", {"message": "why"}),
    ]
    assert decoder.finish() == []


def test_frames_that_end_early() -> None:
    decoder = EventDecoder("eventstream")
    decoder.feed(CONVERSE[:-3])
    with pytest.raises(SidecarError, match="inside a frame"):
        decoder.finish()
