"""Streams to the client: split anywhere, cut, silent, malformed; always an end that says why."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from sidecar.errors import UpstreamError
from sidecar.gateway.llm_stream import ConvertedStream, PassedStream, first_chunk
from sidecar.http.headers import Headers
from sidecar.http.message import Response
from sidecar.llm.chat.formats import FORMATS
from sidecar.llm.chat.framing import EventDecoder
from sidecar.llm.chat.passthrough import StreamTap
from sidecar.llm.chat.produced import Produced
from sidecar.llm.convert import messages_to_completions
from sidecar.llm.convert.base import Context
from tests.support.models import COMPLETION_STREAM, MESSAGE_STREAM, event

WHOLE = b"".join(COMPLETION_STREAM)
COMPLETIONS, MESSAGES = FORMATS["completions"], FORMATS["messages"]


class Source:
    """Gives its pieces one by one, and then an end or a failure."""

    length: int | None = None
    trailers: Headers | None = None

    def __init__(self, pieces: list[bytes], failure: UpstreamError | None = None) -> None:
        self._pieces = pieces
        self._failure = failure
        self.closed = False

    def read_nowait(self) -> bytes | None:
        return None

    async def read(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._failure is not None:
            raise self._failure
        return b""

    def close(self) -> None:
        self.closed = True


class Watch:
    count = 0

    def first_text(self) -> None:
        self.count += 1


def passed(source: Source, watch: Watch, first: bytes = b"") -> PassedStream:
    tap = StreamTap(COMPLETIONS, "sse")
    return PassedStream(source, first, 5.0, COMPLETIONS, watch, tap)


def converted(source: Source, watch: Watch) -> ConvertedStream:
    context = Context("m", "m", is_streaming=True, now_seconds=1, new_id=lambda p: p + "1")
    return ConvertedStream(
        source,
        b"",
        5.0,
        MESSAGES,
        watch,
        EventDecoder("sse"),
        COMPLETIONS.reader(),
        messages_to_completions.CONVERSION.stream(context),
        Produced(),
    )


async def drained(body: PassedStream | ConvertedStream) -> bytes:
    parts = []
    while data := await body.read():
        parts.append(data)
    assert await body.read() == b""
    return b"".join(parts)


def split(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
async def test_a_passed_stream_is_untouched(size: int) -> None:
    watch = Watch()
    pieces = split(WHOLE, size)
    body = passed(Source(pieces[1:]), watch, pieces[0])
    assert await drained(body) == WHOLE
    assert watch.count == 1


@pytest.mark.parametrize("size", [1, 3, 50, 10_000])
async def test_a_converted_stream_does_not_depend_on_its_split(size: int) -> None:
    watch = Watch()
    whole = await drained(converted(Source([WHOLE]), Watch()))
    assert await drained(converted(Source(split(WHOLE, size)), watch)) == whole
    assert watch.count == 1
    assert whole.count(b"message_stop") >= 1


@pytest.mark.parametrize("at", range(1, len(WHOLE), 97))
async def test_a_failure_ends_with_an_error(at: int) -> None:
    failure = UpstreamError(502, "UpstreamFailure", "cut off")
    for make, name in ((passed, COMPLETIONS), (converted, MESSAGES)):
        source = Source([WHOLE[:at]], failure)
        body = make(source, Watch())
        body.response = Response(200)
        got = await drained(body)
        last = got.rstrip().rpartition(b"data: ")[2]
        assert orjson.loads(last)["error"]["message"] == "cut off", name
        assert source.closed
        assert body.response.error == "cut off"


async def test_an_event_that_is_no_json_ends_a_converted_stream() -> None:
    source = Source([COMPLETION_STREAM[0], b"data: <html>\n\n"])
    got = await drained(converted(source, Watch()))
    assert got.rpartition(b"event: ")[2].startswith(b"error")
    assert source.closed


async def test_first_chunk() -> None:
    def is_whole(data: bytes) -> bool:
        return b"\n\n" in data

    assert await first_chunk(Source([b"a", b"b\n\nc", b"d"]), is_whole, 100) == b"ab\n\nc"
    assert await first_chunk(Source([b"a"]), is_whole, 100) == b"a"
    with pytest.raises(UpstreamError):
        await first_chunk(Source([]), is_whole, 100)
    with pytest.raises(UpstreamError):
        await first_chunk(Source([b"a" * 60, b"b" * 60]), is_whole, 100)


class Silent(Source):
    async def read(self) -> bytes:
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_stream_that_does_not_begin() -> None:
    with pytest.raises(UpstreamError) as caught:
        await first_chunk(Silent([]), lambda data: True, 100, 0.01)
    assert (caught.value.status, caught.value.retryable) == (504, True)


def test_who_leaves_closes_the_source() -> None:
    source = Source([b"x"])
    passed(source, Watch()).close()
    assert source.closed


@pytest.mark.parametrize(
    ("pieces", "is_cut"),
    [
        ([WHOLE], False),
        ([WHOLE.removesuffix(b"\n\n")], False),
        ([WHOLE[:-1]], False),
        ([bytes((octet,)) for octet in WHOLE.removesuffix(b"\n\n")], False),
        ([WHOLE[:-5]], True),
        ([WHOLE[:30]], True),
    ],
)
async def test_a_passed_stream_that_ends_within_a_line_says_so(
    pieces: list[bytes], is_cut: bool
) -> None:
    sent = b"".join(pieces)
    body = passed(Source(pieces), Watch())
    got = b""
    while data := await body.read():
        got += data
    assert got.startswith(sent)
    assert (b"ended early" in got) == is_cut
    assert (got == sent) != is_cut


FAILED = b'data: {"error":{"message":"no","type":"x"}}\n\n'
MESSAGE = b"".join(MESSAGE_STREAM)
LONG_LAST = b'data: {"choices":[{"finish_reason":"stop"}],"citations":["%b"]}\n\n' % (b"x" * 3000)
RESPONSE = event({"type": "response.created", "response": {"id": "r", "error": None}})
RESPONSE_END = event({"type": "response.completed", "response": {"error": None}})


@pytest.mark.parametrize(
    ("format_name", "sent", "is_cut", "is_whole"),
    [
        ("completions", WHOLE, False, True),
        # Neither the usage nor [DONE] must come.
        ("completions", b"".join(COMPLETION_STREAM[:3]), False, True),
        ("completions", b"".join(COMPLETION_STREAM[:2]), True, False),
        # Whoever was told so once need not be told twice.
        ("completions", COMPLETION_STREAM[0] + FAILED, False, False),
        ("messages", MESSAGE, False, True),
        ("messages", b"".join(MESSAGE_STREAM[:3]), True, False),
        ("messages", MESSAGE_STREAM[0] + b"event: error\n" + FAILED, False, False),
        ("responses", RESPONSE + RESPONSE_END, False, True),
        ("responses", RESPONSE, True, False),
        # Longer than what is kept of a stream: nobody can tell what it began with.
        ("completions", b"".join((*COMPLETION_STREAM[:2], LONG_LAST)), False, False),
        # Nothing says that this one is over.
        ("generateContent", b'data: {"candidates":[{"content":{}}]}\n\n', False, False),
    ],
)
async def test_a_passed_stream_that_ends_between_events(
    format_name: str, sent: bytes, is_cut: bool, is_whole: bool
) -> None:
    wire_format = FORMATS[format_name]
    tap = StreamTap(wire_format, "sse")
    body = PassedStream(Source([sent]), b"", 5.0, wire_format, Watch(), tap)
    got = await drained(body)
    assert got == sent or (is_cut and got.startswith(sent))
    assert (b"ended early" in got) == is_cut
    assert tap.produced.is_whole == is_whole


@pytest.mark.parametrize("size", [1, 700, 1500, 10_000])
async def test_the_end_is_found_however_it_comes(size: int) -> None:
    sent = COMPLETION_STREAM[0] + COMPLETION_STREAM[1] * 40 + b"".join(COMPLETION_STREAM[2:])
    for whole, text in ((True, sent), (False, sent.partition(COMPLETION_STREAM[2])[0])):
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        tap = StreamTap(FORMATS["completions"], "sse")
        body = PassedStream(Source(pieces), b"", 5.0, FORMATS["completions"], Watch(), tap)
        got = await drained(body)
        assert got == text if whole else got.startswith(text)
        assert ((b"ended early" in got), tap.produced.is_whole) == (not whole, whole)


async def test_a_converted_stream_is_whole_when_it_says_so() -> None:
    for pieces, is_whole in (([WHOLE], True), (COMPLETION_STREAM[:2], False)):
        body = converted(Source(list(pieces)), Watch())
        assert (b"ended early" in await drained(body)) != is_whole
        assert body.produced.is_whole == is_whole
