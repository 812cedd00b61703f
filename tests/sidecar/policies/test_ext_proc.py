"""The steps of an exchange with a processor, one end in the test: bounds, waits and failures.

Source: spec/config.md section 3.9; envoy.service.ext_proc.v3.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.order import make
from tests.support.callouts import Service
from tests.support.clock import HeldClock
from tests.support.ext_proc import at_once, echo, fields, head, streamed, trailers, whole
from tests.support.messages import request, response, services

DOWN = UpstreamError(503, "UpstreamFailure", "connection reset")
Sent = pb.ProcessingRequest
Messages = AsyncIterator[Any]
Script = Callable[[Messages], AsyncIterator[Any]]


async def passing(messages: Messages) -> AsyncIterator[Any]:
    async for message in messages:
        yield echo(message)


class Processor(Service):
    """A processor that says what a script says."""

    def __init__(self, script: Script = passing, seconds: float = 5.0) -> None:
        super().__init__()
        self.step_seconds = seconds

        async def encoded(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
            async def decoded() -> Messages:
                async for message in messages:
                    yield Sent.FromString(message)

            async for said in script(decoded()):
                yield said.SerializeToString()

        self.script = encoded

    @property
    def kinds(self) -> list[str]:
        """What the one stream was sent."""
        (stream,) = self.streams
        return [str(Sent.FromString(one).WhichOneof("request")) for one in stream.sent]

    async def wait_sent(self, kind: str) -> None:
        """Until a message of that kind was sent, and the sender has gone on."""
        await self.streams[0].wait_sent(lambda one: Sent.FromString(one).HasField(kind))
        for _ in range(5):
            await asyncio.sleep(0)

    @property
    def sent(self) -> list[Any]:
        (stream,) = self.streams
        return [Sent.FromString(one) for one in stream.sent]


class Exchange:
    """A policy over one request and its response. Time passes when the test says."""

    def __init__(
        self,
        processor: Processor,
        options: dict[str, Any],
        *,
        limit_bytes: int = 100_000,
        **more: Any,
    ) -> None:
        payload = {"host": "a:1", "processingOptions": options, **more}
        self.clock = HeldClock()
        around = replace(services(limit_bytes, clock=self.clock), callouts=processor)
        self.policy: Any = make("extProc", payload, around)

    async def ask(self, made: Request) -> Response | None:
        answer = await self.policy.on_request(made)
        assert answer is None or isinstance(answer, Response)
        return answer

    async def answer(self, made: Request, got: Response) -> Response:
        await self.policy.on_response(made, got)
        return got

    @staticmethod
    def end(made: Request) -> None:
        endings, made.endings = made.endings, ()
        for one in endings:
            one(made, None)


class Coming:
    """A body whose pieces come when the test says."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self.length = None
        self.trailers: Headers | None = None
        self.waits = asyncio.Event()
        self.taken = 0
        self.is_closed = False
        self._queue: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        for piece in pieces:
            self.come(piece)

    def come(self, piece: bytes | Exception) -> None:
        self._queue.put_nowait(piece)

    def read_nowait(self) -> bytes | None:
        try:
            return self._given(self._queue.get_nowait())
        except asyncio.QueueEmpty:
            return None

    async def read(self) -> bytes:
        self.waits.set()
        return self._given(await self._queue.get())

    def _given(self, piece: bytes | Exception) -> bytes:
        if isinstance(piece, Exception):
            raise piece
        if not piece:
            self.come(b"")
        self.taken += len(piece)
        return piece

    def close(self) -> None:
        self.is_closed = True


async def read(body: Body) -> bytes:
    data = b""
    while piece := await body.read():
        data += piece
    return data


def post(body: Any) -> Request:
    made = request("POST", "/", {"content-length": "3"})
    made.body = FixedBody(body) if isinstance(body, bytes) else body
    return made


# --- bodies in duplex ---------------------------------------------------------------------------


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
    await asyncio.wait_for(body.waits.wait(), 5)
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
    await asyncio.wait_for(body.waits.wait(), 5)
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
    await asyncio.wait_for(asked.wait(), 5)
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
    await asyncio.wait_for(body.waits.wait(), 5)
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


# --- failures -----------------------------------------------------------------------------------


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


def saying(*said: Any) -> Script:
    async def script(messages: Messages) -> AsyncIterator[Any]:
        await anext(messages)
        for one in said:
            yield one
        async for _ in messages:
            continue

    return script


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


# --- modes --------------------------------------------------------------------------------------


async def test_what_is_skipped_is_not_sent():
    processor = Processor()
    skipped = dict.fromkeys(("requestHeaderMode", "responseHeaderMode"), "skip")
    exchange = Exchange(processor, {**skipped, "requestBodyMode": "none"}, **ATTRIBUTES)
    made, got = post(b"abc"), response(200, {}, b"fine")
    await exchange.ask(made)
    assert processor.streams == []
    await exchange.answer(made, got)
    assert await read(got.body) == b"fine"
    assert processor.kinds == ["response_body"]
    # What goes with the first message goes with this.
    assert dict(processor.sent[0].attributes["envoy.filters.http.ext_proc"]) == {"code": 200}
    assert processor.sent[0].protocol_config.response_body_mode == pb.FULL_DUPLEX_STREAMED
    exchange.end(made)


ATTRIBUTES = {"responseAttributes": {"code": "response.code"}}


async def test_modes_change_only_where_that_is_allowed():
    override = pb.Modes(
        request_body_mode=pb.NONE, response_header_mode=pb.SKIP, response_body_mode=pb.BUFFERED
    )

    async def changing(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            kind = str(message.WhichOneof("request"))
            if kind == "request_headers":
                yield head(kind, mode_override=override)
            else:
                yield whole(kind, b"!") if kind == "response_body" and allowed else echo(message)

    for allowed in (False, True):
        processor = Processor(changing)
        exchange = Exchange(processor, {"allowModeOverride": allowed})
        made, got = post(b"abc"), response(200, {}, b"fine")
        await exchange.ask(made)
        assert await read(made.body) == b"abc"
        await exchange.answer(made, got)
        assert await read(got.body) == (b"!" if allowed else b"fine")
        bodies = ["request_body"], ["response_headers"]
        asked = processor.kinds
        assert all((kind[0] in asked) is not allowed for kind in bodies)
        exchange.end(made)


async def test_a_mode_that_is_not_known_is_refused():
    said = head("request_headers")
    said.mode_override.request_body_mode = 9
    exchange = Exchange(
        Processor(saying(said)), {"allowModeOverride": True}, failureMode="failOpen"
    )
    with pytest.raises(RequestError, match="a body mode that is not known"):
        await exchange.ask(post(b"abc"))


async def test_a_head_may_be_answered_with_the_whole_message():
    async def replacing(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            kind = str(message.WhichOneof("request"))
            if kind.endswith("_headers"):
                yield head(kind, [("x-by", kind)], body=b"instead")

    body = Coming(b"abc")
    made, got = post(body), response(200, {"content-length": "4"}, b"fine")
    exchange = Exchange(Processor(replacing), {})
    await exchange.ask(made)
    assert (await read(made.body), made.body.length) == (b"instead", 7)
    assert body.is_closed
    await exchange.answer(made, got)
    assert await read(got.body) == b"instead"
    assert not got.headers.has(b"content-length")
    exchange.end(made)


async def test_a_response_without_a_body_gets_none():
    async def replacing(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            kind = str(message.WhichOneof("request"))
            yield head(kind, [("x-by", "me")], body=b"instead")

    for method, status in (("HEAD", 200), ("GET", 204), ("GET", 304)):
        made, got = request(method), response(status, {"content-length": "4"})
        exchange = Exchange(Processor(replacing), {"requestHeaderMode": "skip"})
        await exchange.ask(made)
        await exchange.answer(made, got)
        assert await read(got.body) == b""
        assert got.headers.get(b"x-by") == b"me"
        exchange.end(made)


async def test_a_response_that_is_too_long_to_be_held():
    exchange = Exchange(Processor(), {"responseBodyMode": "buffered"}, failureMode="failOpen")
    made = request()
    await exchange.ask(made)
    got = response(200, {}, b"x" * 100_001)
    assert await read((await exchange.answer(made, got)).body) == b"x" * 100_001
    closed = Exchange(Processor(), {"responseBodyMode": "buffered"})
    await closed.ask(made := request())
    with pytest.raises(RequestError, match="response body too large"):
        await closed.answer(made, response(200, {}, b"x" * 100_001))


async def test_answers_of_the_gateway_are_not_shown():
    processor = Processor()
    exchange = Exchange(processor, {})
    made = request()
    await exchange.ask(made)
    own = response(503)
    own.reason = "NoHealthyBackend"
    await exchange.answer(made, own)
    assert processor.kinds == ["request_headers"]
    exchange.end(made)


async def test_an_answer_of_its_own_within_a_body_ends_the_call():
    async def judging(messages: Messages) -> AsyncIterator[Any]:
        yield echo(await anext(messages))
        await anext(messages)
        yield at_once(422, b"bad words", [("x-why", "words")])

    made = post(Coming(b"abc", b""))
    exchange = Exchange(Processor(judging), {})
    await exchange.ask(made)
    with pytest.raises(RequestError) as caught:
        await made.body.read()
    error = caught.value
    assert (error.status, error.message, error.headers) == (
        422,
        "bad words",
        ((b"x-why", b"words"),),
    )
    exchange.end(made)


async def test_a_path_is_shown_as_the_router_reads_it():
    processor = Processor()
    exchange = Exchange(processor, {"responseHeaderMode": "skip"})
    made = request("GET", "/public/%2e%2e/admin")
    await exchange.ask(made)
    assert fields(processor.sent[0].request_headers.headers)[":path"] == "/admin"
    exchange.end(made)


async def test_a_query_is_shown_octet_by_octet():
    processor = Processor()
    exchange = Exchange(processor, {"responseHeaderMode": "skip"})
    made = request("GET", "/a?q=\xc3\xa9\xff")
    await exchange.ask(made)
    (path,) = (
        one.raw_value
        for one in processor.sent[0].request_headers.headers.headers
        if one.key == ":path"
    )
    assert path == b"/a?q=\xc3\xa9\xff"
    exchange.end(made)


async def test_the_same_for_a_grpc_client():
    async def judging(messages: Messages) -> AsyncIterator[Any]:
        yield echo(await anext(messages))
        await anext(messages)
        yield at_once(429, b"bad words", grpc_status=8)

    made = post(Coming(b"abc", b""))
    made.headers.append((b"content-type", b"application/grpc"))
    exchange = Exchange(Processor(judging), {})
    await exchange.ask(made)
    with pytest.raises(RequestError) as caught:
        await made.body.read()
    assert (caught.value.status, caught.value.headers) == (429, ())
    exchange.end(made)


async def test_what_it_tells_is_bounded_over_all_answers():
    async def talking(messages: Messages) -> AsyncIterator[Any]:
        async for message in messages:
            said = echo(message)
            said.dynamic_metadata.update({"a": "x" * 60_000})
            yield said

    made = post(Coming(*[b"abc"] * 20, b""))
    exchange = Exchange(Processor(talking), {}, failureMode="failOpen")
    await exchange.ask(made)
    assert isinstance(made.state["extproc"], dict)
    with pytest.raises(RequestError, match="bytes of metadata"):
        await read(made.body)
    exchange.end(made)


async def test_an_upgrade_has_no_body_to_show():
    processor = Processor()
    exchange = Exchange(processor, {})
    made = request()
    made.upgrade = "websocket"
    made.body = Coming(b"frames")  # type: ignore[assignment]
    await exchange.ask(made)
    assert await made.body.read() == b"frames"
    assert processor.sent[0].request_headers.end_of_stream
    exchange.end(made)


# --- configuration ------------------------------------------------------------------------------


async def test_metadata_of_the_call():
    space = "agentgateway.dev.grpc_initial_metadata"
    values = {"X-User": "request.headers['x-user']", "x-none": "null", "x-raw-bin": "b'\\x01\\xff'"}
    processor = Processor()
    exchange = Exchange(processor, {}, metadataContext={space: values})
    made = request(headers={"x-user": "ann"})
    await exchange.ask(made)
    assert processor.streams[0].metadata == ((b"x-user", b"ann"), (b"x-raw-bin", b"Af8="))
    assert not processor.sent[0].HasField("metadata_context")
    exchange.end(made)
    made = request(headers={"x-user": "caf\xe9"})
    await (exchange := Exchange(processor, {}, metadataContext={space: values})).ask(made)
    assert processor.streams[1].metadata == ((b"x-raw-bin", b"Af8="),)
    exchange.end(made)


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({}, "extProc"),
        ({"host": "a:1", "failureMode": "allow"}, "extProc.failureMode"),
        (
            {"host": "a:1", "processingOptions": {"requestBodyMode": "streamed"}},
            "extProc.processingOptions.requestBodyMode",
        ),
        ({"host": "a:1", "requestAttributes": {"a": "1 +"}}, "extProc.requestAttributes.a"),
        (
            {"host": "a:1", "requestAttributes": {"a": "response.code"}},
            "extProc.requestAttributes.a",
        ),
        ({"host": "a:1", "metadataContext": {"n": {"a": "1 +"}}}, "extProc.metadataContext.n.a"),
        (
            {
                "host": "a:1",
                "metadataContext": {"agentgateway.dev.grpc_initial_metadata": {"grpc-a": "1"}},
            },
            "extProc.metadataContext.agentgateway.dev.grpc_initial_metadata.grpc-a",
        ),
        ({"conditional": [{"host": "a:1", "what": 1}]}, "extProc.conditional[0].what"),
    ],
    ids=str,
)
def test_what_is_refused(payload, path):
    with pytest.raises(ConfigError) as caught:
        make("extProc", payload, replace(services(), callouts=Processor()))
    assert caught.value.path == path


async def test_the_first_alternative_that_applies_sees_both_directions():
    entries = [
        {"host": "a:1", "condition": "request.path == '/a'"},
        {"host": "b:1", "condition": "request.nonsense"},
    ]
    processor = Processor()
    made: Any = make("extProc", {"conditional": entries}, replace(services(), callouts=processor))
    other = request("GET", "/b")
    assert await made.on_request(other) is None
    await made.on_response(other, response())
    assert processor.streams == []
    first = request("GET", "/a")
    await made.on_request(first)
    await made.on_response(first, response())
    assert processor.kinds == ["request_headers", "response_headers"]
    Exchange.end(first)
