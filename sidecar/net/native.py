"""The native front door for HTTP/1.1: one asyncio protocol a connection, one task that serves it.

Source: RFC 9112; design section 3. Parsing is in sidecar.http.h1; this file moves octets.

A connection is in one of these states, told by `_phase`:

    HEAD   waits for a request head          deadline: idle, or header read once octets came
    SERVE  the handler works on a request    deadline: none but that of a body read or a write
    TUNNEL octets pass both ways             deadline: tunnel idle
    LINGER nothing more is said              deadline: for the peer to end its side

The serving task makes every transition, but for one shortcut: a request that is wholly at hand
while the task waits for a head is offered to `direct`, which may answer in callbacks (HEAD, SERVE,
HEAD again) while the task stays where it is. Else `data_received` only appends and wakes the task.
Octets past the current request stay in `_buffer` (a pipelining client), and reading pauses when
they pass the stream limit.

A client that ends its side while it is being served has gone, as far as anybody can tell: hyper,
nginx and Envoy treat it so, and so what is under way for it is cancelled at once.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, cast, final

from sidecar.errors import ClientDisconnected, RequestError
from sidecar.http import h1
from sidecar.http.client_cert import drop_unproven
from sidecar.http.headers import Headers
from sidecar.http.message import Body, Connection, FixedBody, Request, Response
from sidecar.http.spelling import REQUEST, spelling_of
from sidecar.net import target as targets
from sidecar.net import tunnel
from sidecar.net.host import Cancellable, Direct, Host
from sidecar.net.intake import Intake
from sidecar.net.sending import Sender, head_parts, refusal, tunnel_head

_log = logging.getLogger("sidecar.net.native")
_HEAD, _SERVE, _TUNNEL, _LINGER = range(4)
_LINGER_SECONDS: Final = 2.0
_FIRST_REQUEST_SECONDS: Final = 1.0
"""How long a drain waits for one more request of a connection that has none under way."""
_LINGER_BYTES: Final = 256 * 1024
H2_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


@final
class H1Server(asyncio.Protocol):
    """One downstream HTTP/1.x connection."""

    __slots__ = (
        "_body_bytes",
        "_buffer",
        "_call",
        "_direct",
        "_eof",
        "_host",
        "_intake",
        "_is_ending",
        "_is_head_fresh",
        "_left",
        "_loop",
        "_made",
        "_phase",
        "_reading_paused",
        "_remaining",
        "_started",
        "_task",
        "_waiter",
        "can_write",
        "connection",
        "deadline",
        "received_bytes",
        "sent_bytes",
        "transport",
    )

    def __init__(
        self,
        host: Host,
        connection: Connection,
        loop: asyncio.AbstractEventLoop,
        direct: Direct | None = None,
    ) -> None:
        """`direct`: asked first for a request wholly at hand; without it the handler serves all."""
        self._host = host
        self._direct = direct
        self._call: Cancellable | None = None
        self._made: tuple[h1.RequestHead, Request, Response | None] | None = None
        self._is_head_fresh = True
        self._is_ending = False
        self._loop = loop
        self.connection = connection
        self.deadline = 0.0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._buffer = b""
        self._waiter: asyncio.Future[None] | None = None
        self.can_write: asyncio.Future[None] | None = None
        self._intake: Intake | None = None
        self._remaining = 0
        self._body_bytes = 0
        self._left = host.settings.requests_per_connection
        self._phase = _HEAD
        self._reading_paused = False
        self._eof = False
        self._started = 0.0
        self._task: asyncio.Task[None] | None = None

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start serving."""
        self.transport = cast("asyncio.Transport", transport)
        host = self._host
        self.transport.set_write_buffer_limits(high=host.settings.stream_buffer_bytes)
        self._started = host.sweeper.time()
        self.deadline = self._started + (
            _FIRST_REQUEST_SECONDS if host.draining else host.settings.header_read_seconds
        )
        host.sweeper.add(self)
        host.opened(self)
        self._task = self._loop.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        """Octets from the client: body, the next head, or tunnel."""
        self.received_bytes += len(data)
        intake = self._intake
        if intake is not None:
            self._feed_body(intake, data)
            return
        if self._phase == _LINGER:
            self._remaining -= len(data)
            if self._remaining < 0:
                self.transport.close()
            return
        self._buffer = self._buffer + data if self._buffer else data
        if self._phase == _HEAD:
            size = len(self._buffer)
            # A long head that comes in crumbs would be parsed from its start for each of them;
            # without a line's end a crumb neither completes nor spoils anything.
            if size > len(data) + h1.CRUMBS_BYTES and h1.is_crumb(data, size, self._host.limits):
                return
            if self._direct is None or self._waiter is None or not self._begin_direct(self._direct):
                self._wake()
        elif self._phase == _TUNNEL:
            self._wake()
        if len(self._buffer) > self._host.settings.stream_buffer_bytes and self._phase != _HEAD:
            self._pause_reading(True)

    def eof_received(self) -> bool:
        """The client sends no more: between requests that is the end, within one it has gone."""
        self._eof = True
        if self._phase == _SERVE and not self._buffer:
            self.transport.abort()
        else:
            self._wake()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more: whatever is under way for this client ends."""
        host = self._host
        host.sweeper.discard(self)
        self.deadline = 0.0
        if self._intake is not None:
            self._intake.body.fail(ClientDisconnected("the client closed the connection"))
        if self._call is not None:
            self._call.cancel()
        if self._task is not None:
            self._task.cancel()
        host.closed(self)

    def pause_writing(self) -> None:
        """The client reads slower than we write."""
        if self.can_write is None:
            self.can_write = self._loop.create_future()

    def resume_writing(self) -> None:
        """The client caught up."""
        waiter, self.can_write = self.can_write, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def expire(self) -> None:
        """The state's deadline passed: 408 where a request had begun, else the end."""
        if self._phase == _HEAD and self._buffer:
            error = h1.bad_request("request head not received in time", 408)
            self._host.refused(self, error)
            self.write(refusal(error, self._host.date()))
            self.transport.close()
            self._host.sweeper.discard(self)
        elif self._phase == _SERVE and self._intake is not None and self.can_write is None:
            body = self._intake.body
            if body.is_awaited:
                body.fail(RequestError(408, "Timeout", "request body stalled", close=True))
            else:  # it is we who do not read: no fault of the client's
                self.deadline = self._host.sweeper.time() + self._host.settings.body_stall_seconds
        else:
            # A reader that takes nothing cannot be told anything either.
            self.transport.abort()

    # --- used by the listener -------------------------------------------------------------

    def drain(self) -> None:
        """Finish what is under way, then close; an idle connection has a second more.

        Its client may be sending a request just now, and would take an end without an answer for a
        failure; what comes in that time is answered with `connection: close`.
        """
        if self._phase == _HEAD and not self._buffer and self.transport is not None:
            last = self._host.sweeper.time() + _FIRST_REQUEST_SECONDS
            self.deadline = min(self.deadline or last, last)

    @property
    def _is_fresh(self) -> bool:
        return self._left == self._host.settings.requests_per_connection

    def abort(self) -> None:
        """Close without regard to what is under way."""
        self.transport.abort()

    def detach(self) -> asyncio.Transport:
        """Give the transport up to another protocol; this one ends quietly."""
        self._host.sweeper.discard(self)
        self.deadline = 0.0
        return self.transport

    # --- reading --------------------------------------------------------------------------

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    def _pause_reading(self, pause: bool) -> None:
        if pause != self._reading_paused and not self.transport.is_closing():
            self._reading_paused = pause
            if pause:
                self.transport.pause_reading()
                return
            self.transport.resume_reading()
            if self._intake is not None:
                self._await_body(self._intake)  # it could bring nothing while it was not read

    def _feed_body(self, intake: Intake, data: bytes) -> None:
        if intake.body.is_failed:
            return  # where it would have ended is unknown, and the connection ends for it
        self._body_bytes += len(data)
        if intake.feed(data):
            self._buffer = intake.rest
            self._intake = None
            self.deadline = 0.0
        elif intake.progress_bytes >= self._host.settings.body_stall_bytes:
            self._await_body(intake)

    def _await_body(self, intake: Intake) -> None:
        """The body has until the deadline to bring its next `body_stall_bytes`."""
        intake.progress_bytes = 0
        self.deadline = self._host.sweeper.time() + self._host.settings.body_stall_seconds

    def _make_body(self, head: h1.RequestHead, data: bytes) -> Body:
        """The body object of a request whose first octets may already be in `data`."""
        length = head.length
        if length == 0:
            self._buffer = data
            return FixedBody()
        # Fast path: a small body usually comes in the same segment as its head.
        if 0 < length <= len(data):
            self._buffer = data[length:]
            self._body_bytes = length
            return FixedBody(data[:length])
        self._buffer = b""
        intake = self._intake = Intake(length, self._host, self._pause_reading, self._loop)
        self._await_body(intake)
        if data:
            self._feed_body(intake, data)
        return intake.body

    # --- serving --------------------------------------------------------------------------

    async def _serve(self) -> None:
        host = self._host
        try:
            while True:
                head = await self._next_head()
                if head is None:
                    break
                if not await self._serve_one(head):
                    break
                if self.transport.is_closing():
                    return
                if not self._buffer:
                    self.deadline = host.sweeper.time() + host.settings.idle_seconds
                    if self._reading_paused:
                        self._pause_reading(False)
        except RequestError as error:
            host.refused(self, error)
            self.write(refusal(error, self._host.date()))
        except ClientDisconnected:
            self.transport.abort()
            return
        except Exception:
            # Our own fault. Without this the client would wait for ever for a task that is gone.
            _log.exception("a connection failed inside the gateway")
            self.transport.abort()
            return
        await self._linger()

    async def _next_head(self) -> h1.RequestHead | None:
        """The next request's head, or None when the connection is to end."""
        host = self._host
        self._phase = _HEAD
        self._is_head_fresh = True
        while True:
            if self._made is not None:
                return self._made[0]
            if self._buffer:
                data = self._buffer = h1.skip_blank(self._buffer)
                if data[:3] == b"PRI" and self._preface(data):
                    return None
                if data and not H2_PREFACE.startswith(data):
                    head = h1.parse_request(data, host.limits)
                    if head is not None:
                        self.deadline = 0.0
                        return head
                if self._is_head_fresh and data:
                    self._is_head_fresh = False
                    self.deadline = host.sweeper.time() + host.settings.header_read_seconds
            if (
                self._is_ending
                or self._eof
                or (host.draining and not self._buffer and not self._is_fresh)
            ):
                return None
            if self._reading_paused:
                self._pause_reading(False)
            waiter = self._waiter = self._loop.create_future()
            await waiter

    def _preface(self, data: bytes) -> bool:
        if len(data) < len(H2_PREFACE):
            return False
        # Only as a connection's first octets: later ones may be another client's, behind a proxy.
        if self._is_fresh and data.startswith(H2_PREFACE) and self._host.take_h2(self, data):
            self._task = None
            return True
        raise h1.bad_request("HTTP version not supported", 505)

    async def _serve_one(self, head: h1.RequestHead) -> bool:
        """Serve one request; False when the connection must end after it."""
        self._phase = _SERVE
        made, self._made = self._made, None
        response: Response | None = None
        if made is not None:
            request, response = made[1], made[2]
        else:
            self._body_bytes = 0
            request = self._make_request(head)
            self._left -= 1
        if self._eof and not self._buffer:
            raise ClientDisconnected("the client ended its side with its request")
        if response is None:
            response = await self._host.handler(request)
        if response.tunnel is not None:
            await self._tunnel(response)
            return False
        return await self._send(request, head, response)

    # --- serving without the task ---------------------------------------------------------

    def _begin_direct(self, direct: Direct) -> bool:
        """Hand a request that is wholly at hand to `direct`; False when the task has to see to it.

        The task stays parked in `_next_head` meanwhile. What is wrong with a request is left for
        it to find, so that there is one place that refuses.
        """
        data = self._buffer
        host = self._host
        if self._eof or host.draining or host.settings.preserves_case:
            return False
        try:
            # Blank lines ahead, and the preface of HTTP/2, are malformed here.
            head = h1.parse_request(data, host.limits)
            if (
                head is None
                or head.upgrade
                or head.expects_continue
                or not 0 <= head.length <= len(data) - head.size
            ):
                return False
            self._body_bytes = 0
            request = self._make_request(head)
        except RequestError:
            return False
        self._phase = _SERVE
        self._left -= 1
        self.deadline = 0.0
        self._made = (head, request, None)
        self._call = direct.start(request, self._replied, self._wake)
        if self._call is None:
            self._wake()
        return True

    def _replied(self, response: Response) -> None:
        """The answer to a direct call: written at once when it is at hand, else by the task."""
        self._call = None
        made = self._made
        assert made is not None
        head, request, _ = made
        body = response.body
        if type(body) is not FixedBody or response.tunnel is not None or self.can_write is not None:
            self._made = (head, request, response)
            self._wake()
            return
        self._made = None
        host = self._host
        parts, keep, _ = head_parts(
            request, head, response, self._may_keep(head, response), host.date
        )
        has_body = request.method != "HEAD" and response.status not in (204, 304)
        data = body.unread if has_body else b""
        parts.append(data)
        message = b"".join(parts)
        self.sent_bytes += len(message)
        direct = self._direct
        assert direct is not None
        direct.outbox.write(self.transport, message)
        request.received_body_bytes = self._body_bytes
        if response.on_done is not None:
            response.on_done(len(data), "")
        self._phase = _HEAD
        if not keep:
            self._is_ending = True
            self._wake()
            return
        self.deadline = host.sweeper.time() + host.settings.idle_seconds
        self._is_head_fresh = True
        if self._buffer or self._eof:
            self._wake()
        elif self._reading_paused:
            self._pause_reading(False)

    def _make_request(self, head: h1.RequestHead) -> Request:
        host = self._host
        scheme = host.scheme
        target = head.target
        raw = head.host.decode("latin-1") if head.host is not None else ""
        if target[0] != "/":
            scheme, raw, target = targets.resolve(head, raw, scheme)
        elif head.method == "CONNECT" or "#" in target:
            raise h1.bad_request("invalid request target")
        try:
            authority = host.check_authority(raw) if raw or head.host is not None else ""
        except RequestError as error:
            error.close = True
            raise
        if head.has_client_cert:
            drop_unproven(head.headers, self.connection)
        data = self._buffer
        body = self._make_body(head, data[head.size :])
        request = Request(
            head.method,
            scheme,
            authority,
            target,
            head.version,
            head.headers,
            body,
            self.connection,
            host.clock.monotonic_ns(),
        )
        request.upgrade = head.upgrade
        request.wants_trailers = head.wants_trailers
        if host.settings.preserves_case:
            request.state[REQUEST] = spelling_of(data[: head.size])
        if head.version == "HTTP/1.1":
            request.on_informational = self._informational
        if head.expects_continue and self._intake is not None:
            request.expects_continue = True
            self._intake.body.on_demand = self._continue
        return request

    def _continue(self) -> None:
        self.write(_CONTINUE)

    def _informational(self, status: int, headers: Headers) -> None:
        # 100 is ours to send, when somebody wants the body; 101 comes as a response.
        if status > 101:
            self.write(h1.status_line(status) + h1.encode_fields(headers) + b"\r\n")

    # --- writing --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """See sending.Sink."""
        self.sent_bytes += len(data)
        self.transport.write(data)

    async def flush(self) -> None:
        """See sending.Sink. A client that takes nothing is cut by the sweeper."""
        if self.can_write is not None:
            self.deadline = self._host.sweeper.time() + self._host.settings.body_stall_seconds
            await self.can_write
            self.deadline = 0.0

    def _may_keep(self, head: h1.RequestHead, response: Response) -> bool:
        host, intake = self._host, self._intake
        oldest = host.settings.max_connection_seconds
        return (
            head.keep_alive
            and not response.close
            and not host.draining
            and self._left > 0
            and not self._eof
            and not (oldest and host.sweeper.time() - self._started > oldest)
            # An answer ahead of the request's end: whether the client goes on sending, and how
            # much, is unknown, and swallowing it for nobody is worse than another connection.
            and intake is None
            # Octets sent ahead for a protocol that was refused are nobody's request, and those for
            # a refused tunnel may still be on their way.
            and not (head.upgrade and self._buffer)
            and head.method != "CONNECT"
        )

    async def _send(self, request: Request, head: h1.RequestHead, response: Response) -> bool:
        body = response.body
        parts, keep, chunked = head_parts(
            request, head, response, self._may_keep(head, response), self._host.date
        )
        if self._intake is not None:
            self._intake.body.on_demand = None  # a 100 may not follow the head of the answer
        bodiless = request.method == "HEAD" or response.status in (204, 304)
        sender = Sender(body, None if bodiless else body.length, chunked, request.wants_trailers)
        try:
            if not bodiless:
                return await sender.send(parts, self) and keep
            self.write(b"".join(parts))
            body.close()
            return keep
        finally:
            request.received_body_bytes = self._body_bytes
            if response.on_done is not None:
                response.on_done(sender.sent, sender.error)

    async def _linger(self) -> None:
        """Close so that the last response is not lost to a reset (RFC 9112 section 9.6)."""
        if self._task is None or self.transport.is_closing():
            return
        if self._eof or not self.transport.can_write_eof():
            self.transport.close()
            return
        self._phase = _LINGER
        self._buffer = b""
        self._intake = None
        self._remaining = _LINGER_BYTES
        self._pause_reading(False)
        # What is still on its way to a slow reader gets the time a response body gets.
        is_sent = not self.transport.get_write_buffer_size()
        seconds = _LINGER_SECONDS if is_sent else self._host.settings.body_stall_seconds
        self.deadline = self._host.sweeper.time() + seconds
        self.transport.write_eof()
        if not self._eof:
            waiter = self._waiter = self._loop.create_future()
            await waiter
        self.transport.close()

    # --- tunnels --------------------------------------------------------------------------

    async def _tunnel(self, response: Response) -> None:
        assert response.tunnel is not None
        self._phase = _TUNNEL
        self.write(tunnel_head(response))
        try:
            await tunnel.join(self, response.tunnel, self._loop)
        finally:
            if response.on_done is not None:
                response.on_done(self.sent_bytes, "")

    def touch(self) -> None:
        """See tunnel.NearSide."""
        self.deadline = self._host.sweeper.time() + self._host.settings.tunnel_idle_seconds

    async def tunnel_read(self) -> bytes:
        """See tunnel.NearSide."""
        while True:
            data, self._buffer = self._buffer, b""
            if data or self._eof:
                return data
            self._pause_reading(False)
            waiter = self._waiter = self._loop.create_future()
            await waiter

    async def tunnel_write(self, data: bytes) -> None:
        """See tunnel.NearSide."""
        self.write(data)
        if self.can_write is not None:
            await self.can_write
