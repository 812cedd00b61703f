"""Bodies between a message and its processor: as they come, in time, with all their octets.

Source: spec/config.md section 3.9; envoy.service.ext_proc.v3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody
from sidecar.policies._pb import ext_proc_pb2 as pb
from tests.support.ext_proc import echo, fields, streamed, trailers, whole
from tests.support.messages import request, response
from tests.support.processing import Coming, Exchange, Messages, Processor, post, read


async def test_a_body_is_sent_while_its_head_waits_and_comes_back_as_it_is_read():
    async def late(messages: Messages) -> AsyncIterator[Any]:
        first = await anext(messages)
        pieces = []
        async for message in messages:
            pieces.append(message.request_body.body)
            if message.request_body.end_of_stream:
                break
        yield echo(first)
        for piece in pieces:
            yield streamed("request_body", piece * 2)
        yield streamed("request_body", b"", ends=True)

    processor = Processor(late)
    made = post(Coming(b"one", b"two", b""))
    exchange = Exchange(processor, {})
    assert await exchange.ask(made) is None
    assert not made.headers.has(b"content-length")
    assert await read(made.body) == b"onetwoonetwo"
    assert processor.sent[0].protocol_config.request_body_mode == pb.FULL_DUPLEX_STREAMED
    exchange.end(made)
    assert processor.streams[0].ended == "finished"


QUICK = 0.02
"""Seconds between two looks at the clock that the test holds."""


async def test_nothing_is_read_on_while_nobody_takes_what_comes():
    async def doubling(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            if message.HasField("request_body"):
                yield streamed("request_body", b"x" * 2_000_000)
            else:
                yield echo(message)

    processor = Processor(doubling, seconds=QUICK)
    body = Coming(b"a", b"b", b"c")
    made = post(body)
    exchange = Exchange(processor, {"responseBodyMode": "none"})
    await exchange.ask(made)
    await asyncio.wait_for(body.waits.wait(), 20)
    # Its answers to the request are not taken, so those to the response cannot be found.
    answering = asyncio.create_task(exchange.answer(made, response()))
    await processor.wait_sent("response_headers")
    exchange.clock.pass_seconds(1)
    with pytest.raises(RequestError, match="no answer within"):
        await answering
    exchange.end(made)


async def test_who_reads_slowly_holds_the_processor_back_and_does_not_lose():
    processor = Processor(seconds=QUICK)
    made = post(Coming(b"abc", b""))
    exchange = Exchange(processor, {})
    await exchange.ask(made)
    exchange.clock.pass_seconds(60)
    assert await read(made.body) == b"abc"
    exchange.end(made)


async def test_a_client_that_sends_slowly_is_waited_for():
    processor = Processor(seconds=QUICK)
    body = Coming(b"abc")
    made = post(body)
    exchange = Exchange(processor, {})
    await exchange.ask(made)
    assert await made.body.read() == b"abc"
    reading = asyncio.create_task(read(made.body))
    await asyncio.wait_for(body.waits.wait(), 20)
    exchange.clock.pass_seconds(60)
    await asyncio.sleep(3 * QUICK)
    assert not reading.done()
    body.come(b"")
    assert await reading == b""
    exchange.end(made)


async def test_a_processor_that_is_slow_is_not():
    async def stuck(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            if message.HasField("request_headers"):
                yield echo(message)

    processor = Processor(stuck, seconds=QUICK)
    made = post(Coming(b"abc", b""))
    exchange = Exchange(processor, {})
    await exchange.ask(made)
    reading = asyncio.create_task(read(made.body))
    await processor.wait_sent("request_body")
    exchange.clock.pass_seconds(1)
    with pytest.raises(RequestError, match=r"no answer within 0\.02 s"):
        await reading
    exchange.end(made)


@pytest.mark.parametrize(("passed_seconds", "is_enough"), [(0.03, True), (0.05, False)])
async def test_a_processor_may_ask_for_time(passed_seconds, is_enough):
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(messages: Messages) -> AsyncIterator[Any]:
        first = await anext(messages)
        for _ in range(2):
            # Once an answer: the second is passed by.
            more = pb.ProcessingResponse()
            more.override_message_timeout.FromMilliseconds(40)
            yield more
        asked.set()
        await go_on.wait()
        yield echo(first)

    exchange = Exchange(Processor(slow, seconds=QUICK), {})
    asking = asyncio.create_task(exchange.ask(made := request()))
    await asyncio.wait_for(asked.wait(), 20)
    for _ in range(5):
        await asyncio.sleep(0)
    exchange.clock.pass_seconds(passed_seconds)
    if is_enough:
        go_on.set()
        assert await asking is None
    else:
        with pytest.raises(RequestError, match=r"no answer within 0\.04 s"):
            await asking
    exchange.end(made)


async def test_what_a_client_does_wrong_is_told_as_that():
    made = post(Coming(b"abc", RequestError(400, "InvalidRequest", "bad chunk")))
    exchange = Exchange(Processor(), {})
    await exchange.ask(made)
    with pytest.raises(RequestError, match="bad chunk"):
        await read(made.body)
    exchange.end(made)
    made = post(Coming(RequestError(400, "InvalidRequest", "bad chunk")))
    exchange = Exchange(Processor(whole_only), {})
    with pytest.raises(RequestError, match="bad chunk"):
        await exchange.ask(made)
    exchange.end(made)


async def whole_only(messages: Messages) -> AsyncIterator[Any]:
    """Says nothing before it has everything."""
    kept = [message async for message in messages if not message.request_body.end_of_stream]
    for message in kept:
        yield echo(message)


async def test_the_end_of_an_exchange_ends_the_sending():
    body = Coming(b"abc")
    made = post(body)
    processor = Processor()
    exchange = Exchange(processor, {})
    await exchange.ask(made)
    await asyncio.wait_for(body.waits.wait(), 20)
    exchange.end(made)
    await asyncio.sleep(0)
    body.come(b"def")
    await asyncio.sleep(0)
    assert body.taken == 3


async def test_a_reader_that_gives_up_stops_the_sender():
    body = Coming(b"abc")
    made = post(body)
    exchange = Exchange(Processor(), {})
    await exchange.ask(made)
    made.body.close()
    assert body.is_closed
    got = await exchange.answer(made, response(200, {}, b"fine"))
    assert await read(got.body) == b"fine"
    exchange.end(made)


async def test_trailers_come_back_by_themselves():
    async def both(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            if message.HasField("request_trailers"):
                assert fields(message.request_trailers.trailers) == {"x-sum": "6"}
                yield trailers("request_trailers", [("x-sum", "7"), ("x-own", "1")])
            else:
                yield echo(message)

    body = Coming(b"abc", b"")
    body.trailers = Headers([(b"x-sum", b"6")])
    made = post(body)
    exchange = Exchange(Processor(both), {})
    await exchange.ask(made)
    assert await read(made.body) == b"abc"
    assert made.body.trailers == [(b"x-sum", b"7"), (b"x-own", b"1")]
    exchange.end(made)


@pytest.mark.parametrize("mode", ["none", "buffered"])
@pytest.mark.parametrize("comes", [False, True])
async def test_trailers_of_bodies_that_are_not_streamed(mode, comes):
    async def both(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            kind = str(message.WhichOneof("request"))
            if kind == "request_trailers":
                yield trailers(kind, [("x-sum", "7")])
            else:
                yield whole(kind, None) if kind == "request_body" else echo(message)

    own = Headers([(b"x-sum", b"6")])
    body: Any = Coming(b"abc", b"") if comes else FixedBody(b"abc")
    body.trailers = own
    made = post(body)
    processor = Processor(both)
    exchange = Exchange(processor, {"requestBodyMode": mode})
    await exchange.ask(made)
    assert await read(made.body) == b"abc"
    assert made.body.trailers == [(b"x-sum", b"7")]
    sent = [
        one.request_body.end_of_stream for one in processor.sent if one.HasField("request_body")
    ]
    assert sent == ([False] if mode == "buffered" else [])
    exchange.end(made)


async def passed(pieces: list[bytes], mode: str, later: bool) -> tuple[bytes, bytes]:
    """What is left of a request's and a response's body that a processor passes on."""
    sent: Any = Coming() if later else Coming(*pieces, b"")
    if later:
        loop = asyncio.get_running_loop()
        for piece in (*pieces, b""):
            loop.call_soon(sent.come, piece)
    made, got = post(sent), response(200)
    got.body = Coming(*reversed(pieces), b"")  # type: ignore[assignment]
    options = {"requestBodyMode": mode, "responseBodyMode": mode}
    exchange = Exchange(Processor(), options, limit_bytes=300)
    await exchange.ask(made)
    there = await read(made.body)
    await exchange.answer(made, got)
    back = await read(got.body)
    exchange.end(made)
    return there, back


@settings(max_examples=60)
@given(
    st.lists(st.binary(min_size=1, max_size=200), max_size=5),
    st.sampled_from(["none", "bufferedPartial", "fullDuplexStreamed"]),
    st.booleans(),
)
def test_bodies_pass_whatever_their_pieces(pieces, mode, later):
    data, reverse = b"".join(pieces), b"".join(reversed(pieces))
    assert asyncio.run(passed(pieces, mode, later)) == (data, reverse)
