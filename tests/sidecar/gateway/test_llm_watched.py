"""Answers that pass as they are: silent ones end in time, failed streams say so."""

from __future__ import annotations

import asyncio

import orjson
import pytest

from sidecar.errors import UpstreamError
from sidecar.gateway.llm_watched import bounded, told
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Response

EVENTS = (b"content-type", b"text/event-stream; charset=utf-8")


class Source:
    """Gives its pieces, then fails, or says nothing more."""

    trailers: Headers | None = None

    def __init__(
        self, *pieces: bytes, failure: UpstreamError | None = None, length: int | None = None
    ) -> None:
        self._pieces = list(pieces)
        self._failure = failure
        self.length = length
        self.closed = False

    def read_nowait(self) -> bytes | None:
        return self._pieces.pop(0) if self._pieces else None

    async def read(self) -> bytes:
        if self._pieces:
            return self._pieces.pop(0)
        if self._failure is not None:
            raise self._failure
        await asyncio.Event().wait()
        raise AssertionError

    def close(self) -> None:
        self.closed = True


def answer(source: Source, *fields: tuple[bytes, bytes], seconds: float = 0.01) -> Response:
    made = Response(200, Headers(fields))
    made.body = source
    bounded(made, seconds)
    told(made)
    return made


async def test_a_silent_stream_ends_with_an_error() -> None:
    source = Source(b"data: a")
    made = answer(source, EVENTS)
    assert made.body.read_nowait() == b"data: a"
    assert made.body.read_nowait() is None
    last = await made.body.read()
    assert last.startswith(b"\n\ndata: ")
    assert "sent nothing for" in orjson.loads(last.strip()[6:])["error"]["message"]
    assert await made.body.read() == made.body.read_nowait() == b""
    assert source.closed
    assert "sent nothing for" in made.error


async def test_a_stream_that_breaks_off_says_so() -> None:
    failure = UpstreamError(502, "UpstreamFailure", "cut off")
    made = answer(Source(b"data: a\n\n", failure=failure), EVENTS, seconds=60)
    assert await made.body.read() == b"data: a\n\n"
    assert b"cut off" in await made.body.read()
    assert await made.body.read() == b""
    made.body.close()


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        (((b"content-type", b"application/json"),), None),
        ((EVENTS, (b"content-encoding", b"gzip")), None),
        ((EVENTS,), 100),
    ],
)
async def test_what_takes_no_event_is_cut(
    fields: tuple[tuple[bytes, bytes], ...], length: int | None
) -> None:
    source = Source(length=length)
    made = answer(source, *fields)
    assert made.body.length == length
    with pytest.raises(UpstreamError) as caught:
        await made.body.read()
    assert caught.value.status == 504
    assert source.closed


def test_what_is_at_hand_is_left_alone() -> None:
    made = Response(200, Headers())
    made.body = whole = FixedBody(b"{}")
    bounded(made, 1.0)
    told(made)
    assert made.body is whole
