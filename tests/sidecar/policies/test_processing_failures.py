"""What becomes of a message whose processor fails, leaves, or says what it was not asked.

Source: spec/config.md section 3.9; envoy.service.ext_proc.v3.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sidecar.errors import RequestError, UpstreamError
from tests.support.ext_proc import echo, head, streamed, trailers, whole
from tests.support.messages import request, response
from tests.support.processing import (
    DOWN,
    Coming,
    Exchange,
    Messages,
    Processor,
    Sent,
    post,
    read,
    saying,
)


async def failing(messages: Messages) -> AsyncIterator[Any]:
    """Fails when it has the whole body, before it says anything."""
    async for message in messages:
        if message.request_body.end_of_stream or message.request_headers.end_of_stream:
            raise DOWN
    yield echo(Sent())


@pytest.mark.parametrize(
    ("size", "is_fixed", "passes"),
    [
        (3, True, True),
        (90_000, True, True),
        (3, False, True),
        (100_000, False, True),
        (200_000, True, True),
        (200_000, False, False),
    ],
)
async def test_failing_open_sends_the_body_as_it_came(size, is_fixed, passes):
    data = b"x" * size
    made = post(data if is_fixed else Coming(data, b""))
    exchange = Exchange(Processor(failing), {}, failureMode="failOpen")
    if not passes:
        with pytest.raises(RequestError, match="ext_proc failed: connection reset"):
            await exchange.ask(made)
        return
    assert await exchange.ask(made) is None
    assert await read(made.body) == data
    # Nobody is asked about the response.
    got = await exchange.answer(made, response(200, {"x-a": "1"}, b"fine"))
    assert await read(got.body) == b"fine"
    exchange.end(made)


async def test_failing_open_in_the_midst_of_a_body_is_a_failure():
    async def half(messages: Messages) -> AsyncIterator[Any]:
        yield echo(await anext(messages))
        await anext(messages)
        yield streamed("request_body", b"half")
        raise DOWN

    made = post(Coming(b"abc", b""))
    exchange = Exchange(Processor(half), {}, failureMode="failOpen")
    await exchange.ask(made)
    assert await made.body.read() == b"half"
    for _ in range(2):
        with pytest.raises(RequestError, match="ext_proc failed"):
            await made.body.read()
    exchange.end(made)


async def test_a_response_that_has_begun_fails_as_the_backends():
    async def half(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            if message.HasField("response_body"):
                yield streamed("response_body", b"half")
                raise DOWN
            yield echo(message)

    made, got = request(), response(200, {}, b"whole")
    exchange = Exchange(Processor(half), {})
    await exchange.ask(made)
    await exchange.answer(made, got)
    assert await got.body.read() == b"half"
    with pytest.raises(UpstreamError) as caught:
        await got.body.read()
    assert caught.value.code == "ExtProc"
    exchange.end(made)


async def test_a_processor_that_leaves_after_a_head_lets_the_rest_pass():
    async def leaving(messages: Messages) -> AsyncIterator[Any]:
        yield head("request_headers", [("x-user", "ann")])

    for mode in ("fullDuplexStreamed", "buffered", "none"):
        made = post(Coming(b"abc", b"def", b""))
        exchange = Exchange(Processor(leaving), {"requestBodyMode": mode})
        assert await exchange.ask(made) is None
        assert await read(made.body) == b"abcdef"
        assert made.headers.get(b"x-user") == b"ann"
        got = await exchange.answer(made, response(200, {}, b"fine"))
        assert await read(got.body) == b"fine"
        exchange.end(made)


async def test_a_processor_that_leaves_without_a_word_has_failed():
    async def leaving(messages: Messages) -> AsyncIterator[Any]:
        await anext(messages)
        for nothing in ():
            yield nothing

    with pytest.raises(RequestError, match="ended the stream without an answer"):
        await Exchange(Processor(leaving), {}).ask(request())


@pytest.mark.parametrize(
    "said",
    [
        head("response_headers"),
        streamed("response_body", b"x"),
        trailers("request_trailers"),
        whole("request_body", b"x"),
    ],
    ids=lambda said: said.WhichOneof("response"),
)
async def test_what_was_not_asked_is_a_failure(said):
    with pytest.raises(RequestError, match="ext_proc failed: the processor answered"):
        await Exchange(Processor(saying(said)), {"requestBodyMode": "none"}).ask(post(b"abc"))


async def test_a_body_before_its_head_is_a_failure():
    made = post(Coming(b"abc", b""))
    exchange = Exchange(Processor(saying(streamed("request_body", b"x"))), {})
    with pytest.raises(RequestError, match=r"answered `request_body`"):
        await exchange.ask(made)
