"""The HTTP/1 front door in memory: framing, order, deadlines, disconnects."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response
from sidecar.net.incoming import IncomingBody
from tests.support.downstream import Downstream, statuses
from tests.support.hostile_http1 import CASES, LARGE, SMUGGLED, Hostile, chunked, get, post
from tests.support.stream import turns


def fixed(status: int, body: bytes, *fields: tuple[bytes, bytes]) -> Response:
    return Response(status, Headers(fields), FixedBody(body))


class TestHostile:
    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    @pytest.mark.parametrize("is_direct", [False, True], ids=["task", "direct"])
    async def test_split_in_two_anywhere(self, case: Hostile, is_direct: bool) -> None:
        for at in range(len(case.payload)):
            front = Downstream(is_direct=is_direct)
            await front.feed(case.payload[:at], case.payload[at:], rounds=5)
            written = front.transport.take()
            assert statuses(written)[:1] in [[status] for status in case.statuses], at
            assert len(statuses(written)) == 1
            assert b"connection: close\r\n" in written
            assert front.echo.requests == []
            assert front.transport.has_ended

    @pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
    async def test_by_octets(self, case: Hostile) -> None:
        front = Downstream()
        data = case.payload + SMUGGLED
        await front.feed(*[data[at : at + 1] for at in range(len(data))], rounds=5)
        written = front.transport.take()
        assert len(statuses(written)) == 1
        assert statuses(written)[0] in case.statuses
        assert front.echo.requests == []

    @pytest.mark.parametrize("cut", [0, 1000])
    @pytest.mark.parametrize("case", LARGE, ids=lambda case: case.name)
    async def test_large(self, case: Hostile, cut: int) -> None:
        front = Downstream()
        data = case.payload
        await front.feed(
            *[data[at : at + (cut or len(data))] for at in range(0, len(data), cut or len(data))]
        )
        assert statuses(front.transport.take())[0] in case.statuses
        assert front.echo.requests == []

    async def test_28_long_head_in_crumbs_is_not_parsed_for_each(self) -> None:
        front = Downstream()
        head = get(b"X: " + b"a" * 30_000)
        await front.feed(head[:2000])
        began = time.process_time()
        for at in range(2000, len(head) - 1):
            front.server.data_received(head[at : at + 1])
            await asyncio.sleep(0)
        assert time.process_time() - began < 2.0  # parsing from the start each time took ten
        assert statuses(await front.ask(head[-1:])) == [200]

    async def test_a_broken_chunk_is_not_forgotten_when_good_ones_follow(self) -> None:
        # The reader is late: without care it would see only the good part of the body.
        release = asyncio.Event()
        bodies: list[bytes] = []

        async def late(request: Request) -> Response:
            await release.wait()
            bodies.append(await request.body.read())
            return fixed(200, b"")

        front = Downstream(late)
        await front.feed(chunked(b"zz\r\n"), b"5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)
        release.set()
        await turns()
        assert bodies == []
        assert statuses(front.transport.take()) == [400]

    async def test_preface_is_taken_over(self) -> None:
        front = Downstream()
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        await front.feed(*[preface[at : at + 1] for at in range(len(preface))])
        assert front.h2_data == preface
        assert not front.transport.is_closed

    async def test_preface_later_is_refused(self) -> None:
        front = Downstream()
        written = await front.ask(get(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        assert statuses(written) == [200, 505]
        assert not front.h2_data


@pytest.mark.parametrize("is_direct", [False, True], ids=["task", "direct"])
class TestConnection:
    async def test_requests_are_answered_in_order(self, is_direct: bool) -> None:
        front = Downstream(is_direct=is_direct)
        lines = [b"GET /%d HTTP/1.1" % number for number in range(5)]
        written = await front.ask(b"".join(get(line=line) for line in lines))
        assert statuses(written) == [200] * 5
        assert [request.target for request in front.echo.requests] == ["/0", "/1", "/2", "/3", "/4"]

    @pytest.mark.parametrize(
        ("data", "closes", "field"),
        [
            (get(), False, b""),
            (get(b"Connection: close"), True, b"connection: close"),
            (get(line=b"GET / HTTP/1.0"), True, b"connection: close"),
            (
                get(b"Connection: keep-alive", line=b"GET / HTTP/1.0"),
                False,
                b"connection: keep-alive",
            ),
        ],
    )
    async def test_keep_alive(
        self, is_direct: bool, data: bytes, closes: bool, field: bytes
    ) -> None:
        front = Downstream(is_direct=is_direct)
        written = await front.ask(data)
        assert field in written
        assert front.transport.has_ended is closes

    async def test_last_request_of_a_connection(self, is_direct: bool) -> None:
        front = Downstream(is_direct=is_direct, requests_per_connection=2)
        assert b"connection: close" not in await front.ask(get())
        assert b"connection: close" in await front.ask(get())

    async def test_head_has_the_length_and_no_body(self, is_direct: bool) -> None:
        front = Downstream(is_direct=is_direct)
        written = await front.ask(get(line=b"HEAD /x HTTP/1.1"))
        assert b"content-length: 9\r\n" in written
        assert written.endswith(b"\r\n\r\n")

    @pytest.mark.parametrize("status", [204, 304])
    async def test_status_without_a_body(self, is_direct: bool, status: int) -> None:
        async def wrong(request: Request) -> Response:
            return fixed(status, b"what nobody may see")

        front = Downstream(wrong, is_direct=is_direct)
        assert (await front.ask(get())).endswith(b"\r\n\r\n")

    async def test_received_body_is_counted(self, is_direct: bool) -> None:
        front = Downstream(is_direct=is_direct)
        await front.feed(post(b"Content-Length: 5", body=b"hel"), b"lo")
        await front.feed(post(b"Content-Length: 2", body=b"xx"))
        counts = [request.received_body_bytes for request in front.echo.requests]
        assert counts == [5, 2]

    async def test_client_that_leaves_cancels(self, is_direct: bool) -> None:
        front = Downstream(is_direct=is_direct)
        await front.feed(post(b"Content-Length: 5", body=b"he"))
        front.server.connection_lost(None)
        await turns()
        assert front.echo.cancelled == 1
        assert front.has_closed

    async def test_client_that_ends_its_side_has_left(self, is_direct: bool) -> None:
        started = asyncio.Event()
        ended: list[str] = []

        async def slow(request: Request) -> Response:
            started.set()
            try:
                await asyncio.get_running_loop().create_future()
            finally:
                ended.append(request.target)
            raise AssertionError("never reached")

        front = Downstream(slow, is_direct=is_direct)
        await front.feed(get())
        await started.wait()
        await front.end()
        assert ended == ["/"]
        assert front.transport.was_aborted

    async def test_end_of_an_idle_connection_is_quiet(self, is_direct: bool) -> None:
        front = Downstream(is_direct=is_direct)
        await front.feed(get())
        front.transport.take()
        await front.end()
        assert front.transport.take() == b""
        assert front.transport.is_closed

    async def test_failure_of_ours_ends_the_connection(
        self, is_direct: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def broken(request: Request) -> Response:
            raise ZeroDivisionError

        front = Downstream(broken, is_direct=is_direct)
        with caplog.at_level(logging.ERROR):
            await front.feed(get())
        assert front.transport.was_aborted
        assert "failed inside the gateway" in caplog.text

    async def test_drain_gives_idle_a_moment_and_tells_busy(self, is_direct: bool) -> None:
        front = Downstream(is_direct=is_direct)
        await front.feed(get())
        front.draining = True
        front.server.drain()
        await turns()
        assert not front.transport.is_closed
        assert front.server.deadline <= front.sweeper.time() + 1.0
        front.server.expire()
        assert front.transport.was_aborted
        # A request that was on its way meanwhile is answered, and told that it was the last.
        late = Downstream(is_direct=is_direct)
        await late.feed(get())
        late.draining = True
        late.server.drain()
        late.transport.take()
        assert b"connection: close" in await late.ask(get())
        busy = Downstream(is_direct=is_direct)
        await busy.feed(post(b"Content-Length: 1"))
        busy.draining = True
        busy.server.drain()
        assert b"connection: close" in await busy.ask(b"x")

    async def test_an_answer_ahead_of_the_body_is_the_last(self, is_direct: bool) -> None:
        """Else the rest of the body, or a request behind it, would wait for somebody to read."""

        async def early(request: Request) -> Response:
            request.body.close()
            return fixed(200, b"early")

        front = Downstream(early, is_direct=is_direct)
        answer = await front.ask(post(b"Content-Length: 100000", body=b"x" * 50_000))
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert b"connection: close" in answer
        await front.feed(b"x" * 50_000 + get())
        assert front.server.deadline
        assert front.transport.take() == b""
        front.server.expire()
        assert front.transport.is_closed or front.transport.was_aborted

    async def test_pipelined_octets_are_bounded(self, is_direct: bool) -> None:
        gate = asyncio.Event()

        async def wait(request: Request) -> Response:
            await gate.wait()
            return fixed(200, b"")

        front = Downstream(wait, is_direct=is_direct, stream_buffer_bytes=1000)
        await front.feed(get(), get() * 40)
        assert front.transport.is_reading_paused
        gate.set()
        await turns(400)
        assert statuses(front.transport.take()) == [200] * 41
        assert not front.transport.is_reading_paused


class TestExpect:
    HEAD = post(b"Expect: 100-continue", b"Content-Length: 2")

    async def test_continue_when_the_body_is_wanted(self) -> None:
        front = Downstream()
        assert await front.ask(self.HEAD) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert statuses(await front.ask(b"xx")) == [200]

    async def test_no_continue_when_the_body_is_there(self) -> None:
        front = Downstream()
        assert statuses(await front.ask(self.HEAD + b"xx")) == [200]

    async def test_refused_without_the_body(self) -> None:
        async def refuse(request: Request) -> Response:
            return fixed(403, b"no")

        front = Downstream(refuse)
        written = await front.ask(self.HEAD)
        assert statuses(written) == [403]
        assert b"connection: close" in written
        await front.feed(b"xx" + SMUGGLED)
        assert front.transport.take() == b""

    async def test_no_continue_after_the_final_head(self) -> None:
        body: list[IncomingBody] = []

        async def early(request: Request) -> Response:
            # It answers while something still reads the request's body, as a proxy does.
            stream = IncomingBody(
                None, 1000, lambda _: None, lambda: None, asyncio.get_running_loop()
            )
            body.append(stream)
            readers.append(asyncio.ensure_future(request.body.read()))
            return Response(200, None, stream)

        readers: list[asyncio.Future[bytes]] = []
        front = Downstream(early)
        front.server.data_received(self.HEAD + b"x")
        await turns()
        body[0].feed(b"data")
        await turns()
        written = front.transport.take()
        assert written.count(b"HTTP/1.1 ") == 1
        for reader in readers:
            reader.cancel()
        front.server.connection_lost(None)
        await turns()


class TestDeadlines:
    async def test_28_slow_head_gets_408(self) -> None:
        front = Downstream(header_read_seconds=10.0)
        await front.feed(b"GET / HT")
        await front.advance(9.0)
        await front.feed(b"TP/1.1\r\n")
        assert front.transport.take() == b""
        await front.advance(1.5)
        assert statuses(front.transport.take()) == [408]
        assert front.transport.is_closed
        assert [error.status for error in front.refusals] == [408]

    async def test_31_silence_is_closed_without_a_word(self) -> None:
        front = Downstream(header_read_seconds=10.0)
        await front.advance(10.5)
        assert front.transport.take() == b""
        assert front.transport.is_closed

    async def test_idle_connection_is_closed(self) -> None:
        front = Downstream(idle_seconds=60.0)
        await front.feed(get())
        front.transport.take()
        await front.advance(59.0)
        assert not front.transport.is_closed
        await front.advance(1.5)
        assert front.transport.is_closed
        assert front.transport.take() == b""

    async def test_29_silent_body(self) -> None:
        front = Downstream(body_stall_seconds=60.0)
        await front.feed(post(b"Content-Length: 5", body=b"he"))
        await front.advance(60.5)
        assert statuses(front.transport.take()) == [408]
        assert front.transport.has_ended

    async def test_29_body_of_one_octet_a_second(self) -> None:
        front = Downstream(body_stall_seconds=60.0)
        await front.feed(post(b"Content-Length: 5000"))
        for _ in range(61):
            await front.feed(b"x")
            await front.advance(1.0)
        assert statuses(front.transport.take()) == [408]

    async def test_29_body_at_a_fair_rate(self) -> None:
        front = Downstream(body_stall_seconds=60.0)
        await front.feed(post(b"Content-Length: 5120"))
        for _ in range(5):
            assert front.transport.take() == b""
            await front.advance(30.0)
            await front.feed(b"x" * 1024)
        assert statuses(front.transport.take()) == [200]

    async def test_30_reader_that_takes_nothing(self) -> None:
        async def large(request: Request) -> Response:
            return fixed(200, b"x" * 200_000)

        front = Downstream(large, body_stall_seconds=60.0)
        front.transport.is_stuck = True
        await front.feed(get())
        await front.advance(59.0)
        assert not front.transport.was_aborted
        await front.advance(1.5)
        assert front.transport.was_aborted

    async def test_lingers_for_the_client_to_end(self) -> None:
        front = Downstream()
        await front.feed(get(b"Connection: close"))
        await front.feed(b"more that nobody reads")
        assert not front.transport.is_closed
        await front.end()
        assert front.transport.is_closed

    async def test_lingers_not_for_ever(self) -> None:
        front = Downstream()
        await front.feed(get(b"Connection: close"), b"more")
        await front.advance(2.5)
        assert front.transport.is_closed

    async def test_lingers_not_for_a_flood(self) -> None:
        front = Downstream()
        await front.feed(get(b"Connection: close"), *[b"x" * 65536] * 6)
        assert front.transport.is_closed

    async def test_lingers_longer_for_a_slow_reader(self) -> None:
        front = Downstream()
        front.transport.is_stuck = True
        await front.feed(get(b"Connection: close"))
        await front.advance(30.0)
        assert not front.transport.is_closed
        await front.advance(31.0)
        assert front.transport.was_aborted


class TestStreaming:
    async def test_chunked_for_1_1_and_until_close_for_1_0(self) -> None:
        streams: list[IncomingBody] = []

        async def stream(request: Request) -> Response:
            body = IncomingBody(
                None, 1000, lambda _: None, lambda: None, asyncio.get_running_loop()
            )
            streams.append(body)
            return Response(200, None, body)

        for line, expected in (
            (b"GET / HTTP/1.1", b"2\r\nab\r\n0\r\n\r\n"),
            (b"GET / HTTP/1.0", b"\r\n\r\nab"),
        ):
            front = Downstream(stream)
            await front.feed(get(line=line))
            streams[-1].feed(b"ab")
            streams[-1].feed_end()
            await turns()
            assert front.transport.take().endswith(expected)

    async def test_trailers_for_those_who_want_them(self) -> None:
        async def trailed(request: Request) -> Response:
            body = IncomingBody(
                None, 1000, lambda _: None, lambda: None, asyncio.get_running_loop()
            )
            body.feed(b"ab")
            body.feed_end(Headers([(b"x-sum", b"1"), (b"content-length", b"9")]))
            return Response(200, None, body)

        wanted = await Downstream(trailed).ask(get(b"TE: trailers"))
        assert wanted.endswith(b"2\r\nab\r\n0\r\nx-sum: 1\r\n\r\n")
        assert (await Downstream(trailed).ask(get())).endswith(b"0\r\n\r\n")

    @pytest.mark.parametrize("length", [None, 10])
    async def test_a_cut_body_looks_cut(self, length: int | None) -> None:
        streams: list[IncomingBody] = []

        async def stream(request: Request) -> Response:
            body = IncomingBody(
                length, 1000, lambda _: None, lambda: None, asyncio.get_running_loop()
            )
            streams.append(body)
            return Response(200, None, body)

        front = Downstream(stream)
        await front.feed(get())
        streams[0].feed(b"ab")
        await turns()
        streams[0].fail(UpstreamError(502, "UpstreamFailure", "gone"))
        await turns()
        written = front.transport.take()
        assert b"ab" in written
        assert not written.endswith(b"0\r\n\r\n")
        assert front.transport.is_closed

    async def test_client_that_stops_reading_stops_the_source(self) -> None:
        flow: list[bool] = []
        streams: list[IncomingBody] = []

        async def stream(request: Request) -> Response:
            body = IncomingBody(None, 1000, flow.append, lambda: None, asyncio.get_running_loop())
            streams.append(body)
            return Response(200, None, body)

        front = Downstream(stream, stream_buffer_bytes=1000)
        front.transport.is_stuck = True
        await front.feed(get())
        for _ in range(3):
            streams[0].feed(b"x" * 1001)
            await turns()
        assert flow[-1] is True
        front.transport.release()
        await turns()
        assert flow[-1] is False


@pytest.mark.parametrize("is_direct", [False, True], ids=["task", "direct"])
async def test_an_old_connection_ends_behind_the_answer_it_owes(is_direct: bool) -> None:
    front = Downstream(is_direct=is_direct, max_connection_seconds=30)
    await front.feed(get(), rounds=5)
    assert b"connection: close" not in front.transport.take()
    front.time.advance(31)
    assert not front.transport.has_ended
    await front.feed(get(), rounds=5)
    written = front.transport.take()
    assert statuses(written) == [200]
    assert b"connection: close\r\n" in written
    assert front.transport.has_ended
