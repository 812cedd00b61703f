"""One upstream connection in memory: what is sent, what is believed, when it may be used again."""

from __future__ import annotations

import asyncio

import pytest

from sidecar.errors import ClientDisconnected, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Connection, FixedBody, Request, Response
from sidecar.net.h1_client import H1Client
from sidecar.net.incoming import IncomingBody
from sidecar.net.sweep import Sweeper
from tests.support.downstream import PlainTransport
from tests.support.stream import ManualTime, turns

HEAD = b"GET / HTTP/1.1\r\nhost: a\r\n"
OK = b"HTTP/1.1 200 OK\r\n"


class Upstream:
    """A client connection and its far end."""

    def __init__(self) -> None:
        self.time = ManualTime()
        self.released = 0
        self.lost = 0
        loop = asyncio.get_running_loop()
        sweeper = Sweeper(self.time)  # type: ignore[arg-type]  # the two methods it uses
        self.client = H1Client(loop, sweeper, self._released, self._lost)
        self.transport = PlainTransport(self.client)
        self.client.connection_made(self.transport)

    def _released(self, client: H1Client) -> None:
        self.released += 1

    def _lost(self, client: H1Client) -> None:
        self.lost += 1

    def begin(
        self, body: Body | None = None, *, method: str = "GET", upgrade: str = ""
    ) -> Exchange:
        request = Request(
            method,
            "http",
            "a",
            "/",
            "HTTP/1.1",
            Headers(),
            FixedBody(),
            Connection("", 0, "", 0),
            0,
        )
        request.upgrade = upgrade
        made = FixedBody() if body is None else body
        return Exchange(
            self, request, asyncio.ensure_future(self.client.exchange(HEAD, made, request, method))
        )

    def lose(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self.transport.is_closed = True
        self.client.connection_lost(exc)

    def receive(self, data: bytes) -> None:
        """Octets from the upstream, to whoever reads the transport now."""
        reader = self.transport.get_protocol()
        if isinstance(reader, asyncio.BufferedProtocol):
            while data:
                buffer = memoryview(reader.get_buffer(-1))
                count = min(len(buffer), len(data))
                buffer[:count] = data[:count]
                reader.buffer_updated(count)
                data = data[count:]
        elif isinstance(reader, asyncio.Protocol):
            reader.data_received(data)


class Exchange:
    def __init__(
        self, upstream: Upstream, request: Request, task: asyncio.Future[Response]
    ) -> None:
        self.upstream = upstream
        self.request = request
        self.task = task

    async def answer(self, *pieces: bytes) -> Response:
        await turns()
        for piece in pieces:
            self.upstream.receive(piece)
        return await self.task


def streamed() -> IncomingBody:
    return IncomingBody(None, 1000, lambda _: None, lambda: None, asyncio.get_running_loop())


async def whole(response: Response) -> bytes:
    body = b""
    while chunk := await response.body.read():
        body += chunk
    return body


class TestReuse:
    @pytest.mark.parametrize(
        "data",
        [
            OK + b"content-length: 2\r\n\r\nok",
            OK + b"content-length: 0\r\n\r\n",
            OK + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            b"HTTP/1.1 204 No\r\n\r\n",
            b"HTTP/1.1 103 Early\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok",
        ],
    )
    @pytest.mark.parametrize("cut", [0, 1])
    async def test_kept(self, data: bytes, cut: int) -> None:
        upstream = Upstream()
        for number in range(1, 3):
            exchange = upstream.begin()
            await turns()
            pieces = [data[at : at + 1] for at in range(len(data))] if cut else [data]
            response = await exchange.answer(*pieces)
            assert await whole(response) in (b"", b"ok")
            assert upstream.released == number
            assert upstream.transport.get_protocol() is upstream.client

    @pytest.mark.parametrize(
        "data",
        [
            OK + b"content-length: 2\r\n\r\nok!",
            OK + b"content-length: 2\r\nconnection: close\r\n\r\nok",
            OK + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\nHTTP/1.1",
            b"HTTP/1.1 204 No\r\ncontent-length: 2\r\n\r\n",
            b"HTTP/1.1 204 No\r\n\r\nok",
            b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ],
    )
    async def test_not_kept(self, data: bytes) -> None:
        upstream = Upstream()
        await upstream.begin().answer(data)
        assert upstream.released == 0
        assert upstream.transport.was_aborted

    async def test_octets_between_exchanges_end_it(self) -> None:
        upstream = Upstream()
        await upstream.begin().answer(OK + b"content-length: 0\r\n\r\n")
        upstream.receive(OK + b"content-length: 6\r\n\r\npoison")
        assert not upstream.client.is_usable

    async def test_answer_before_the_request_was_sent(self) -> None:
        upstream = Upstream()
        exchange = upstream.begin(streamed(), method="POST")
        await exchange.answer(OK + b"content-length: 0\r\n\r\n")
        assert upstream.released == 0
        assert upstream.transport.was_aborted

    async def test_reader_that_gives_up(self) -> None:
        upstream = Upstream()
        response = await upstream.begin().answer(OK + b"content-length: 100\r\n\r\nok")
        response.body.close()
        assert upstream.transport.was_aborted


class TestFaults:
    @pytest.mark.parametrize(
        "data",
        [
            OK + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n",
            OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
            OK + b"a b: c\r\n\r\n",
            b"HTTP/1.1 103 Early\r\n\r\n" * 17,
            b"HTTP/1.1 101 Up\r\nupgrade: x\r\n\r\n",
        ],
    )
    @pytest.mark.parametrize("cut", [0, 1])
    async def test_refused(self, data: bytes, cut: int) -> None:
        upstream = Upstream()
        exchange = upstream.begin()
        await turns()
        for at in range(0, len(data), cut or len(data)):
            upstream.receive(data[at : at + (cut or len(data))])
        with pytest.raises(UpstreamError) as caught:
            await whole(await exchange.task)
        assert caught.value.status == 502
        assert upstream.released == 0

    async def test_refused_upgrade_names_both(self) -> None:
        upstream = Upstream()
        exchange = upstream.begin(upgrade="websocket")
        with pytest.raises(UpstreamError, match="tried x but websocket was requested"):
            await exchange.answer(b"HTTP/1.1 101 Up\r\nupgrade: x\r\n\r\n")

    @pytest.mark.parametrize("exc", [None, ConnectionResetError("reset")])
    async def test_lost_before_the_answer(self, exc: Exception | None) -> None:
        upstream = Upstream()
        exchange = upstream.begin()
        await turns()
        upstream.lose(exc)
        with pytest.raises(UpstreamError) as caught:
            await exchange.task
        assert (caught.value.status, caught.value.retryable, caught.value.sent) == (503, True, True)
        assert upstream.lost == 1

    async def test_stale_connection_may_be_replaced(self) -> None:
        upstream = Upstream()
        await upstream.begin().answer(OK + b"content-length: 0\r\n\r\n")
        for method, sent in (("GET", False), ("POST", True)):
            fresh = Upstream()
            await fresh.begin().answer(OK + b"content-length: 0\r\n\r\n")
            exchange = fresh.begin(method=method)
            await turns()
            fresh.lose(None)
            with pytest.raises(UpstreamError) as caught:
                await exchange.task
            assert caught.value.sent is sent

    @pytest.mark.parametrize(("exc", "is_cut"), [(None, False), (ConnectionResetError(), True)])
    async def test_end_of_a_body_until_close(self, exc: Exception | None, is_cut: bool) -> None:
        upstream = Upstream()
        response = await upstream.begin().answer(OK + b"\r\nok")
        assert await response.body.read() == b"ok"
        if exc is None:
            upstream.client.eof_received()
        upstream.lose(exc)
        if is_cut:
            with pytest.raises(UpstreamError):
                await response.body.read()
        else:
            assert await response.body.read() == b""

    async def test_cut_body(self) -> None:
        upstream = Upstream()
        response = await upstream.begin().answer(OK + b"content-length: 5\r\n\r\nok")
        assert await response.body.read() == b"ok"
        upstream.client.eof_received()
        with pytest.raises(UpstreamError):
            await response.body.read()

    async def test_no_answer_in_time(self) -> None:
        upstream = Upstream()
        exchange = upstream.begin()
        await turns()
        upstream.time.advance(901)
        with pytest.raises(UpstreamError, match="upstream call timeout") as caught:
            await exchange.task
        assert caught.value.status == 504

    async def test_upload_may_last_longer_than_the_answer(self) -> None:
        upstream = Upstream()
        body = streamed()
        exchange = upstream.begin(body, method="POST")
        for _ in range(3):
            await turns()
            upstream.time.advance(800)
            body.feed(b"part")
        await turns()
        upstream.time.advance(890)
        assert not exchange.task.done()
        assert not upstream.transport.was_aborted
        upstream.time.advance(11)
        with pytest.raises(UpstreamError, match="upstream call timeout") as caught:
            await exchange.task
        assert caught.value.status == 504

    async def test_body_that_stalls(self) -> None:
        upstream = Upstream()
        response = await upstream.begin().answer(OK + b"content-length: 5\r\n\r\n")
        reader = asyncio.ensure_future(response.body.read())
        await turns()
        upstream.time.advance(890)
        assert not reader.done()
        assert not upstream.transport.was_aborted
        upstream.time.advance(11)
        with pytest.raises(UpstreamError) as caught:
            await reader
        assert caught.value.status == 504

    async def test_body_that_nobody_reads_is_no_stall(self) -> None:
        upstream = Upstream()
        await upstream.begin().answer(OK + b"content-length: 5\r\n\r\n")
        upstream.time.advance(901)
        assert not upstream.transport.was_aborted

    async def test_cancelled(self) -> None:
        upstream = Upstream()
        exchange = upstream.begin()
        await turns()
        exchange.task.cancel()
        await turns()
        assert upstream.transport.was_aborted


class TestRequest:
    @pytest.mark.parametrize(
        ("method", "data", "framing"),
        [
            ("GET", b"", b"\r\n"),
            ("POST", b"", b"content-length: 0\r\n\r\n"),
            ("GET", b"hi", b"content-length: 2\r\n\r\nhi"),
        ],
    )
    async def test_framing(self, method: str, data: bytes, framing: bytes) -> None:
        upstream = Upstream()
        exchange = upstream.begin(FixedBody(data), method=method)
        await turns()
        assert upstream.transport.take() == HEAD + framing
        exchange.task.cancel()

    async def test_stream_with_trailers(self) -> None:
        upstream = Upstream()
        body = streamed()
        exchange = upstream.begin(body, method="POST")
        await turns()
        body.feed(b"hello")
        body.feed_end(Headers([(b"x-sum", b"1"), (b"host", b"evil")]))
        await turns()
        expected = b"transfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 1\r\n\r\n"
        assert upstream.transport.take() == HEAD + expected
        await exchange.answer(OK + b"content-length: 0\r\n\r\n")
        assert upstream.released == 1

    @pytest.mark.parametrize(
        "error", [RequestError(400, "InvalidRequest", "bad chunk"), ClientDisconnected("left")]
    )
    @pytest.mark.parametrize("early", [True, False])
    async def test_body_that_fails(self, error: Exception, early: bool) -> None:
        upstream = Upstream()
        body = streamed()
        if early:
            body.fail(error)
        exchange = upstream.begin(body, method="POST")
        await turns()
        body.fail(error)
        with pytest.raises(type(error)):
            await exchange.task
        assert upstream.transport.was_aborted
        assert not upstream.transport.take().endswith(b"0\r\n\r\n")

    @pytest.mark.parametrize("sent", [b"hell", b"hello!"])
    async def test_body_of_another_length_than_declared(self, sent: bytes) -> None:
        upstream = Upstream()
        body = IncomingBody(5, 1000, lambda _: None, lambda: None, asyncio.get_running_loop())
        exchange = upstream.begin(body, method="POST")
        await turns()
        body.feed(sent)
        body.feed_end()
        with pytest.raises(UpstreamError):
            await exchange.task

    async def test_upstream_that_stops_reading(self) -> None:
        upstream = Upstream()
        flow: list[bool] = []
        body = IncomingBody(None, 1000, flow.append, lambda: None, asyncio.get_running_loop())
        exchange = upstream.begin(body, method="POST")
        await turns()
        upstream.transport.is_stuck = True
        for _ in range(3):
            body.feed(b"x" * 70_000)
            await turns()
        assert flow[-1] is True
        upstream.transport.release()
        await turns()
        assert flow[-1] is False
        exchange.task.cancel()
        await turns()


class TestTunnel:
    async def test_both_ways(self) -> None:
        upstream = Upstream()
        exchange = upstream.begin(upgrade="x")
        response = await exchange.answer(b"HTTP/1.1 101 Up\r\nupgrade: X\r\n\r\nahead")
        tunnel = response.tunnel
        assert tunnel is not None
        assert await tunnel.read() == b"ahead"
        upstream.transport.take()
        await tunnel.write(b"up")
        assert upstream.transport.take() == b"up"
        upstream.client.eof_received()
        assert await tunnel.read() == b""
        tunnel.write_eof()
        assert upstream.transport.has_ended
        tunnel.close()
        assert upstream.released == 0
