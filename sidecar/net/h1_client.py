"""One upstream HTTP/1.1 connection: one exchange at a time, strict about what comes back.

Source: RFC 9112; spec hardening section 4.3 A 19.

A connection goes back to its pool only when the request was sent whole, the response was read
whole, both agreed to keep it, and not one octet more than the response arrived. Anything else
closes it: a connection whose state is in doubt would hand one client's answer to another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol, cast, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http import h1
from sidecar.http.chunked import ChunkedDecoder, FramingError, encode_chunk, encode_last_chunk
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.http.spelling import REQUEST, RESPONSE, spelling_of
from sidecar.net.dialled import close_soon
from sidecar.net.incoming import IncomingBody
from sidecar.net.outbox import Outbox
from sidecar.net.reading import BoundedReader, switch
from sidecar.net.sweep import Sweeper

_IDLE, _WAIT, _BODY, _TUNNEL, _DEAD = range(5)
_TELLING_BYTES: Final = 32 * 1024
_INFORMATIONAL_MAX: Final = 16
_IDEMPOTENT: Final = frozenset(("GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"))
_NO_BODY: Final = FixedBody()
"""Stands in a response until its own is made."""
LIMITS: Final = h1.HeadLimits(block_bytes=64 * 1024, count=200)
"""An upstream is trusted further than a client, not without end."""


def call_failed(why: str, *, retryable: bool = True, sent: bool = True) -> UpstreamError:
    """The upstream took the call and did not answer it."""
    return UpstreamError(
        503, "UpstreamFailure", f"upstream call failed: {why}", retryable=retryable, sent=sent
    )


class Answer(Protocol):
    """Who waits for a response: a future, or somebody who is called at once. Never raises."""

    def done(self) -> bool:
        """Whether nobody waits any more."""

    def set_result(self, response: Response, /) -> None:
        """The head is here."""

    def set_exception(self, error: Exception, /) -> None:
        """There will be none."""


@final
class H1Client(asyncio.Protocol):
    """See the module. `release(connection)` is called once per exchange that left it reusable.

    `on_lost(connection)` is called once, when the transport is gone.
    """

    __slots__ = (
        "_body",
        "_body_done",
        "_buffer",
        "_can_write",
        "_chunked",
        "_eof",
        "_head",
        "_interims",
        "_is_bounded",
        "_is_head",
        "_keep",
        "_loop",
        "_on_lost",
        "_release",
        "_remaining",
        "_request",
        "_sender",
        "_state",
        "_stream_limit",
        "_sweeper",
        "_tunnel_waiter",
        "answer_seconds",
        "deadline",
        "exchanges",
        "stall_seconds",
        "transport",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        release: Callable[[H1Client], None],
        on_lost: Callable[[H1Client], None],
        *,
        stream_limit_bytes: int = 64 * 1024,
        stall_seconds: float = 900.0,
        answer_seconds: float = 900.0,
    ) -> None:
        self._loop = loop
        self._sweeper = sweeper
        self._release = release
        self._on_lost = on_lost
        self._stream_limit = stream_limit_bytes
        self.stall_seconds = stall_seconds
        self.answer_seconds = answer_seconds
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self.deadline = 0.0
        self.exchanges = 0
        self._state = _IDLE
        self._buffer = b""
        self._interims = 0
        self._is_bounded = False
        self._head: Answer | None = None
        self._request: Request | None = None
        self._is_head = False
        self._body: IncomingBody | None = None
        self._body_done = True
        self._chunked: ChunkedDecoder | None = None
        self._remaining = 0
        self._keep = True
        self._eof = False
        self._sender: asyncio.Task[None] | None = None
        self._can_write: asyncio.Future[None] | None = None
        self._tunnel_waiter: asyncio.Future[None] | None = None

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready for an exchange."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._stream_limit)
        self._sweeper.add(self)

    def data_received(self, data: bytes) -> None:
        """Octets of a response; between exchanges they are a fault."""
        state = self._state
        if state == _BODY:
            self._feed_body(data)
        elif state == _WAIT:
            self._buffer = self._buffer + data if self._buffer else data
            try:
                self._parse_head()
            except UpstreamError as error:
                self._fail(error)
        elif state == _TUNNEL:
            self._buffer += data
            self._wake_tunnel()
            if len(self._buffer) > self._stream_limit:
                self.transport.pause_reading()
        else:
            # Octets nobody asked for would be read as the next client's answer.
            self._kill()

    def eof_received(self) -> bool:
        """The upstream ended its side."""
        self._eof = True
        if self._state == _TUNNEL:
            self._wake_tunnel()
            return True
        self._ended("upstream closed the connection")
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._sweeper.discard(self)
        self._eof = True
        self._wake_tunnel()
        if exc is not None and self._state in (_WAIT, _BODY):
            # A reset is no end of a body, not even of one that lasts until the connection closes.
            is_fresh = self._state == _WAIT and not self._buffer
            self._fail(call_failed(f"connection error: {exc}", retryable=is_fresh))
        elif self._state != _TUNNEL:
            self._ended("upstream closed the connection")
        self._state = _DEAD
        self.resume_writing()
        self._on_lost(self)

    def pause_writing(self) -> None:
        """The upstream reads slower than the client sends."""
        if self._can_write is None:
            self._can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        """The upstream caught up."""
        waiter, self._can_write = self._can_write, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def expire(self) -> None:
        """Idle too long in the pool, or a peer that stalls in mid-message."""
        if self._state == _IDLE:
            self._kill()
        elif self._state == _BODY and self._body is not None and not self._body.is_awaited:
            self.deadline = self._sweeper.time() + self.stall_seconds
        elif self._state == _WAIT:
            self._fail(UpstreamError(504, "Timeout", "upstream call timeout", retryable=True))
        else:
            self._fail(UpstreamError(504, "Timeout", "upstream call failed: the upstream stalled"))

    # --- the pool's side ------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether an exchange may begin."""
        return self._state == _IDLE and not self.transport.is_closing()

    def close(self) -> None:
        """Drop the connection; an exchange under way fails."""
        if self._state == _IDLE:
            self._kill()  # its last answer, complete by now, may not have been handed over yet
        else:
            self._fail(call_failed("connection closed"))

    async def exchange(self, head: bytes, body: Body, request: Request, method: str) -> Response:
        """Send one request and give the response as soon as its head is here.

        `head`: everything before the body but the framing field and the blank line.
        Cancelling drops the connection. Raises UpstreamError, and what reading `body` raises.
        """
        if not self.is_usable:
            raise call_failed("stale connection", sent=False)
        reused = self.exchanges > 0
        self.exchanges += 1
        self._state = _WAIT
        self._request = request
        self._is_head = method == "HEAD"
        self._interims = 0
        future: asyncio.Future[Response] = self._loop.create_future()
        self._head = future
        self.deadline = self._sweeper.time() + self.answer_seconds
        try:
            try:
                replayable = self._send(head, body, method)
            except SidecarError:
                self._kill()  # the body at hand is bad; nothing was written
                raise
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                future.result().body.close()
            elif self._head is future:
                self._kill()
            raise
        except UpstreamError as error:
            # A kept connection may die under a request that never reached anybody.
            stale = reused and error.retryable and replayable and method in _IDEMPOTENT
            error.sent = not stale
            raise
        finally:
            # The next exchange may have begun before this one's waiter ran.
            if self._head is future:
                self._head = None

    def begin(
        self,
        head: bytes,
        data: bytes,
        request: Request,
        method: str,
        answer: Answer,
        outbox: Outbox,
    ) -> None:
        """As `exchange`, for a body wholly at hand: `answer` is called when the head is here.

        The connection must be usable. `close` drops the exchange. Written by way of `outbox`.
        """
        self.exchanges += 1
        self._state = _WAIT
        self._request = request
        self._is_head = method == "HEAD"
        self._interims = 0
        self._head = answer
        self._body_done = True
        self.deadline = self._sweeper.time() + self.answer_seconds
        if data or method in ("POST", "PUT", "PATCH"):
            head = b"%bcontent-length: %d\r\n\r\n%b" % (head, len(data), data)
        else:
            head += b"\r\n"
        outbox.write(self.transport, head)

    def _send(self, head: bytes, body: Body, method: str) -> bool:
        """Write what is at hand; whether the whole request went out without reading a stream."""
        length = body.length
        data = body.read_nowait() if length != 0 else b""
        if length is None and data == b"" and not body.trailers:
            length = 0
        if length is None:
            framing = b"transfer-encoding: chunked\r\n\r\n"
        elif length or method in ("POST", "PUT", "PATCH"):
            framing = b"content-length: %d\r\n\r\n" % length
        else:
            framing = b"\r\n"
        if length is not None and len(data or b"") == length:
            self.transport.write(b"".join((head, framing, data)) if data else head + framing)
            self._body_done = True
            return True
        self.transport.write(head + framing)
        self._body_done = False
        self._sender = self._loop.create_task(self._send_body(body, data, length))
        return False

    async def _send_body(self, body: Body, data: bytes | None, length: int | None) -> None:
        sent = 0
        write = self.transport.write
        try:
            while True:
                if data is None:
                    data = await body.read()
                if not data:
                    break
                sent += len(data)
                if length is not None and sent > length:
                    raise call_failed("request body longer than declared", retryable=False)
                write(encode_chunk(data) if length is None else data)
                if len(data) > _TELLING_BYTES:
                    # uvloop writes at the end of a turn and only then says that it is full.
                    del data
                    await asyncio.sleep(0)
                if self._can_write is not None:
                    await self._can_write
                if self._state == _DEAD:
                    return
                if self._state == _WAIT:
                    # An upload may last longer than its answer.
                    self.deadline = self._sweeper.time() + self.answer_seconds
                data = body.read_nowait() if length is None or sent < length else b""
            if length is None:
                write(encode_last_chunk(body.trailers))
            elif sent != length:
                raise call_failed("request body shorter than declared", retryable=False)
            self._body_done = True
            self._maybe_release()
        except Exception as error:  # whoever awaits the response gets it, whatever it is
            self._fail(error)
        finally:
            body.close()

    # --- reading --------------------------------------------------------------------------

    def _parse_head(self) -> None:
        while True:
            head = h1.parse_response(self._buffer, self._is_head, LIMITS)
            if head is None:
                return
            data, self._buffer = self._buffer, b""
            rest = data[head.size :]
            if head.status >= 200 or head.status == 101:
                request = self._request
                if request is not None and REQUEST in request.state:
                    request.state[RESPONSE] = spelling_of(data[: head.size])
                self._take_head(head, rest)
                return
            self._interims += 1
            if self._interims > _INFORMATIONAL_MAX:
                raise h1.bad_response("too many interim responses")
            request = self._request
            if request is not None and request.on_informational is not None:
                request.on_informational(head.status, head.headers)
            self._buffer = rest

    def _take_head(self, head: h1.ResponseHead, rest: bytes) -> None:
        self._keep = head.keep_alive
        response = Response(head.status, head.headers, _NO_BODY, version=head.version)
        if head.status == 101:
            response.body = FixedBody()
            self._upgrade(head, response, rest)
        elif head.length == 0:
            # HEAD and 304 declare the length of a body they do not carry.
            body = FixedBody()
            body.length = head.declared
            if head.declared is None and not self._is_head and head.status not in (204, 304):
                body.length = 0
            response.body = body
            self._finish(rest)
        elif 0 < head.length <= len(rest):
            # Fast path: the whole response came in one segment.
            response.body = FixedBody(rest[: head.length])
            self._finish(rest[head.length :])
        else:
            self._stream(head, response, rest)
        # Kept until here: a failure above, such as a broken first chunk, is the call's failure.
        future, self._head = self._head, None
        if future is not None and not future.done():
            future.set_result(response)
        else:
            response.body.close()

    def _stream(self, head: h1.ResponseHead, response: Response, rest: bytes) -> None:
        length = head.length
        body = IncomingBody(
            length if length >= 0 else None,
            self._stream_limit,
            self._on_flow,
            self._abandoned,
            self._loop,
        )
        response.body = body
        self._body = body
        self._state = _BODY
        self._is_bounded = True
        switch(self.transport, BoundedReader(self))
        self._remaining = length
        self._chunked = ChunkedDecoder(LIMITS) if length == h1.CHUNKED else None
        self.deadline = self._sweeper.time() + self.stall_seconds
        if rest:
            self._feed_body(rest)

    def _feed_body(self, data: bytes) -> None:
        body = self._body
        assert body is not None
        self.deadline = self._sweeper.time() + self.stall_seconds
        if self._chunked is not None:
            try:
                part = self._chunked.feed(data)
            except FramingError as error:
                self._fail(h1.bad_response(str(error)))
                return
            if part:
                body.feed(part)
            if self._chunked.done:
                self._end_body(body, self._chunked.trailers, self._chunked.rest)
        elif self._remaining == h1.UNTIL_CLOSE:
            body.feed(data)
        else:
            part = data if len(data) <= self._remaining else data[: self._remaining]
            self._remaining -= len(part)
            body.feed(part)
            if not self._remaining:
                self._end_body(body, None, data[len(part) :])

    def _end_body(self, body: IncomingBody, trailers: Headers | None, rest: bytes) -> None:
        self._body = None
        self._chunked = None
        body.feed_end(trailers)
        self._finish(rest)

    def _on_flow(self, pause: bool) -> None:
        if self._state == _DEAD or self.transport.is_closing():
            return
        if pause:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _abandoned(self) -> None:
        """The reader of the response gave up: the rest of it is not worth its bandwidth."""
        self._kill()

    def _finish(self, rest: bytes) -> None:
        """The response is complete."""
        self.deadline = 0.0
        self._state = _IDLE
        if rest or not self._keep:
            self._kill()
        elif not self._body_done:
            # Answered before it had read the request: what it will do with the rest is unknown.
            self._kill()
        else:
            self._maybe_release()

    def _maybe_release(self) -> None:
        if self._state == _IDLE and self._body_done and not self.transport.is_closing():
            self._sender = None
            self._request = None
            if self._is_bounded:
                self._is_bounded = False
                switch(self.transport, self)
            self._release(self)

    def _ended(self, why: str) -> None:
        body = self._body
        if self._state == _BODY and self._remaining == h1.UNTIL_CLOSE and body is not None:
            self._body = None
            body.feed_end(None)
            self._state = _DEAD
            self.transport.close()
        elif self._state in (_WAIT, _BODY):
            incomplete = self._state == _BODY or bool(self._buffer)
            self._fail(call_failed(why, retryable=not incomplete))
        elif self._state == _IDLE:
            self._kill()

    def _fail(self, error: Exception) -> None:
        """End the exchange under way with `error`, and the connection."""
        future, body = self._head, self._body
        self._body = None
        if body is not None:
            body.fail(error)
        if future is not None and not future.done():
            future.set_exception(error)
        self._kill()

    def _kill(self) -> None:
        self._state = _DEAD
        self.deadline = 0.0
        if self._sender is not None:
            if self._sender is not asyncio.current_task():
                self._sender.cancel()
            self._sender = None
        self.transport.abort()

    # --- tunnel ---------------------------------------------------------------------------

    def _upgrade(self, head: h1.ResponseHead, response: Response, rest: bytes) -> None:
        wanted = self._request.upgrade if self._request is not None else ""
        if not wanted or head.upgrade != wanted:
            raise UpstreamError(
                502,
                "Internal",
                f"request upgrade failed, backend tried {head.upgrade or 'none'} "
                f"but {wanted or 'none'} was requested",
            )
        self._state = _TUNNEL
        self.deadline = 0.0  # the downstream side watches the tunnel for both
        self._buffer = rest
        response.headers.append((b"upgrade", wanted.encode("latin-1")))
        response.tunnel = ClientTunnel(self)

    def _wake_tunnel(self) -> None:
        waiter, self._tunnel_waiter = self._tunnel_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def tunnel_read(self) -> bytes:
        """Next octets of an upgraded connection; b"" at its end."""
        while not self._buffer:
            if self._eof:
                return b""
            waiter = self._tunnel_waiter = self._loop.create_future()
            await waiter
        data, self._buffer = self._buffer, b""
        if not self.transport.is_closing():
            self.transport.resume_reading()
        return data

    async def tunnel_write(self, data: bytes) -> None:
        """Send octets on an upgraded connection."""
        self.transport.write(data)
        if self._can_write is not None:
            await self._can_write

    def tunnel_close(self) -> None:
        """End an upgraded connection."""
        close_soon(self.transport, self._loop)


@final
class ClientTunnel:
    """See sidecar.http.message.Tunnel."""

    __slots__ = ("_client",)

    def __init__(self, client: H1Client) -> None:
        self._client = client

    async def read(self) -> bytes:
        """See Tunnel."""
        return await self._client.tunnel_read()

    async def write(self, data: bytes) -> None:
        """See Tunnel."""
        await self._client.tunnel_write(data)

    def write_eof(self) -> None:
        """See Tunnel."""
        transport = self._client.transport
        if transport.can_write_eof() and not transport.is_closing():
            transport.write_eof()

    def close(self) -> None:
        """See Tunnel."""
        self._client.tunnel_close()
