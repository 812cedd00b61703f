"""The native front door for HTTP/2: one asyncio protocol a connection, one task a stream.

Source: RFC 9113, RFC 8441; design sections 3 and 8; spec/config.md section 10.2.

A stream's task runs the handler, then sends the response; the connection owns the tasks and is not
closed (`on_closed`) before the last has ended. A stream counts against the limit as long as its
task lives, so a client cannot open and reset streams faster than their work is undone.

Draining (`drain`) has the two phases of RFC 9113 section 6.8, each step made by `_advance_drain`:

    OPEN -> WARNED    GOAWAY(2^31-1) and a PING: requests on their way are still served
    WARNED -> LEAVING the PING's answer, or a second: GOAWAY(last id); what comes above is refused
    LEAVING -> closed when the last stream has ended
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final, final

from h2 import events as h2_events
from h2.errors import ErrorCodes

from sidecar.errors import ClientDisconnected, RequestError, SidecarError
from sidecar.http.client_cert import drop_unproven
from sidecar.http.h2 import MAX_STREAM_ID, block_of
from sidecar.http.h2_fields import FieldRules, MessageError, request_head, trailers
from sidecar.http.h2_guard import GoAwayReceived, H2ConnectionError
from sidecar.http.headers import Field
from sidecar.http.message import Connection, FixedBody, Handler, Request
from sidecar.net.h2_endpoint import (
    CANCEL,
    INTERNAL_ERROR,
    LOOK_SECONDS,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
)
from sidecar.net.h2_respond import Responder, ServerStream
from sidecar.net.h2_stream import H2Body, Stream, StreamGone
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import Clock

_OPEN, _WARNED, _LEAVING = range(3)
_DRAIN_PING: Final = b"draining"


@final
class H2Server(Responder):
    """One downstream HTTP/2 connection.

    `connection`: None to be made from the transport. `check_authority(raw) -> canonical` raises
    RequestError. `on_closed(server)` is called once, when the transport is gone and every task has
    ended. `on_refused(error)`: a request was answered before there was a Request. `date()` gives
    the value of the Date field. Raises ConfigError for settings HTTP/2 cannot express.
    """

    def __init__(
        self,
        handler: Handler,
        connection: Connection | None,
        settings: HttpSettings,
        sweeper: Sweeper,
        clock: Clock,
        *,
        scheme: str,
        check_authority: Callable[[str], str],
        on_closed: Callable[[H2Server], None],
        initial_data: bytes = b"",
        on_refused: Callable[[RequestError], None] | None = None,
        date: Callable[[], bytes] | None = None,
    ) -> None:
        super().__init__(sweeper, settings, date)
        self._handler = handler
        self._connection = connection
        self._clock = clock
        self._scheme = scheme
        self._rules = FieldRules(check_authority, settings.header_count)
        self._on_closed = on_closed
        self._on_refused = on_refused
        self._initial_data = initial_data
        self._left = settings.h2_requests_per_connection
        self._phase = _OPEN
        self._drain_started = 0.0
        self._opened = self._idle_since = self._block_since = 0.0
        self._is_settled = False
        self._dispatch = {
            h2_events.RequestReceived: self._on_request,
            h2_events.DataReceived: self._on_data,
            h2_events.TrailersReceived: self._on_trailers,
            h2_events.StreamReset: self._on_reset,
            h2_events.WindowUpdated: self._on_window,
            h2_events.RemoteSettingsChanged: self._on_settings,
            h2_events.PingAckReceived: self._on_ping_ack,
            GoAwayReceived: self._on_goaway,
        }

    def adopt(self, transport: asyncio.Transport, data: bytes) -> None:
        """Take over a transport that is open on another protocol, and the octets it had read."""
        transport.set_protocol(self)
        self.connection_made(transport)
        if data:
            self.data_received(data)

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start serving."""
        super().connection_made(transport)
        if self._connection is None:
            self._connection = _describe(transport)
        self._opened = self._idle_since = self._heard
        self.deadline = self._opened + min(self._settings.header_read_seconds, LOOK_SECONDS)
        if self._initial_data:
            data, self._initial_data = self._initial_data, b""
            self.data_received(data)

    def data_received(self, data: bytes) -> None:
        """Octets from the client."""
        if self._is_closing:
            return
        try:
            self._handle(data)
        except H2ConnectionError as error:
            self._fail(error.code)
            return
        guard = self._codec.guard
        if not guard.is_in_block and (self._streams or not guard.is_in_frame):
            self._block_since = 0.0
        elif not self._block_since:
            self._block_since = self._heard
            self._look_by(self._heard + self._settings.header_read_seconds)
        if not self._is_closing:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is there any more: whatever is under way for this client ends."""
        self._is_lost = self._is_closing = True
        self._sweeper.discard(self)
        self.deadline = 0.0
        for stream in list(self._streams.values()):
            self._cancel(stream, ClientDisconnected("the client closed the connection"))
        if not self._tasks:
            self._finished()

    def _finished(self) -> None:
        super()._finished()
        self._on_closed(self)

    # --- events ---------------------------------------------------------------------------

    def _on_request(self, event: h2_events.RequestReceived) -> None:
        stream_id = event.stream_id
        ended = event.stream_ended is not None
        codec = self._codec
        if len(self._tasks) >= self._settings.h2_max_streams or self._phase == _LEAVING:
            # A client that could not know the limit or the GOAWAY yet may send it again.
            codec.reset(stream_id, REFUSED_STREAM, is_peers_fault=self._phase != _LEAVING)
            return
        try:
            head = request_head(block_of(event), self._rules)
        except MessageError:
            codec.reset(stream_id, PROTOCOL_ERROR, is_peers_fault=True)
            return
        except RequestError as error:
            self._refuse(stream_id, error)
            return
        if ended and head.length:
            codec.reset(stream_id, PROTOCOL_ERROR, is_peers_fault=True)
            return
        now = self._heard
        stream = ServerStream(stream_id, now)
        body = None if ended else H2Body(self, stream, head.length)
        stream.body = body
        connection = self._connection
        assert connection is not None
        drop_unproven(head.headers, connection)
        request = Request(
            head.method,
            self._scheme,
            head.authority,
            head.target,
            "HTTP/2.0",
            head.headers,
            FixedBody() if body is None else body,
            connection,
            self._clock.monotonic_ns(),
        )
        request.upgrade = head.protocol
        request.wants_trailers = head.wants_trailers
        request.expects_continue = stream.expects_continue = head.expects_continue and not ended
        request.on_informational = partial(self._informational, stream)
        stream.request = request
        self._streams[stream_id] = stream
        self._look_by(now + LOOK_SECONDS)
        task = stream.task = self.loop.create_task(self._serve(stream, request))
        self._tasks.add(task)
        # Not at the end of `_serve`: a task cancelled before its first step never gets there.
        task.add_done_callback(partial(self._ended, stream, request))
        self._left -= 1
        if self._left <= 0:
            self.drain()

    def _refuse(self, stream_id: int, error: RequestError) -> None:
        """Answer a request that never became one."""
        text = error.message.encode()
        codec = self._codec
        fields: list[Field] = [(b"content-type", b"text/plain")]
        fits = len(text) <= codec.send_window(stream_id)
        if fits:
            fields.append((b"content-length", b"%d" % len(text)))
        codec.respond(stream_id, error.status, fields, end=not fits)
        if fits:
            codec.send_data(stream_id, text, end=True)
        codec.reset(stream_id, NO_ERROR)
        if self._on_refused is not None:
            self._on_refused(error)

    def _on_data(self, event: h2_events.DataReceived) -> None:
        octets = event.flow_controlled_length
        self._codec.received(octets)
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.body is None or stream.is_over:
            return
        body = stream.body
        stream.touched = self._heard
        data = event.data
        body.feed(data, octets - len(data))
        if stream.request is not None:
            stream.request.received_body_bytes = body.received_bytes
        ended = event.stream_ended is not None
        if body.length is not None and (
            body.received_bytes > body.length or (ended and body.received_bytes != body.length)
        ):
            self._malformed(stream)
        elif ended:
            body.feed_end()

    def _on_trailers(self, event: h2_events.TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.body is None or stream.is_over:
            return
        body = stream.body
        try:
            fields = trailers(block_of(event), self._settings.header_count, from_client=True)
        except MessageError:
            self._malformed(stream)
            return
        if body.length is not None and body.received_bytes != body.length:
            self._malformed(stream)
        else:
            body.feed_end(fields)

    def _malformed(self, stream: ServerStream) -> None:
        self._reset(stream, PROTOCOL_ERROR, is_peers_fault=True)
        self._cancel(stream, RequestError(400, "InvalidRequest", "malformed request body"))

    def _on_reset(self, event: h2_events.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_over:
            return
        self._cancel(stream, ClientDisconnected("the client reset the stream"))
        if event.remote_reset:
            self._codec.guard.count_end(not stream.has_head)

    def _cancel(self, stream: ServerStream, error: Exception) -> None:
        stream.is_over = True
        if stream.body is not None:
            stream.body.fail(error)
        if stream.task is not None:
            stream.task.cancel()

    def _on_settings(self, event: h2_events.RemoteSettingsChanged) -> None:
        self._is_settled = True
        self._wake_senders()

    def _on_ping_ack(self, event: h2_events.PingAckReceived) -> None:
        if event.ping_data == _DRAIN_PING and self._phase == _WARNED:
            self._advance_drain()

    def _on_goaway(self, event: GoAwayReceived) -> None:
        # The client opens no more streams; those it has go on.
        self.drain()

    # --- serving --------------------------------------------------------------------------

    async def _serve(self, stream: ServerStream, request: Request) -> None:
        try:
            response = await self._handler(request)
            await self._respond(stream, request, response)
        except StreamGone:
            stream.is_over = True
        except asyncio.CancelledError:
            # Whoever cancelled has told the client; a handler that cancelled itself has not.
            if not stream.is_over:
                self._reset(stream, INTERNAL_ERROR)
        except SidecarError:
            # The response was cut; the reset is how its reader learns that it is not whole.
            self._reset(stream, INTERNAL_ERROR)
        except BaseException:
            self._reset(stream, INTERNAL_ERROR)
            raise

    def _ended(self, stream: ServerStream, request: Request, task: asyncio.Task[None]) -> None:
        request.body.close()
        if stream.body is not None:
            stream.body.close()  # which the request may not have any more
        self._streams.pop(stream.id, None)
        self._task_done(task)
        if self._is_closing:
            return
        if not stream.is_over:
            self._codec.guard.count_end(False)
            # The response is whole and the request is not: nobody will read the rest.
            if self._codec.is_open(stream.id):
                self._codec.reset(stream.id, NO_ERROR)
                self.flush_soon()
        if not self._streams:
            self._idle_since = self.now()
            if self._phase == _LEAVING:
                self._close_now(self._settings.body_stall_seconds)

    # --- bodies' side ---------------------------------------------------------------------

    def body_dropped(self, stream: Stream) -> None:
        """See StreamOwner: the window stays shut, and the response's end resets the stream."""

    # --- ending ---------------------------------------------------------------------------

    def drain(self) -> None:
        """Take no new requests, finish those under way, close. May be called more than once."""
        if self._phase == _OPEN and not self._is_closing and self.transport is not None:
            self._advance_drain()

    def _advance_drain(self) -> None:
        codec = self._codec
        if self._phase == _OPEN:
            self._phase = _WARNED
            self._drain_started = self.now()
            codec.goaway(MAX_STREAM_ID, NO_ERROR)
            codec.ping(_DRAIN_PING)
            self._look_by(self._drain_started + LOOK_SECONDS)
        else:
            self._phase = _LEAVING
            codec.goaway(codec.guard.highest_stream_id, NO_ERROR)
            if not self._streams:
                self._close_now(self._settings.body_stall_seconds)
                return
        self.flush_soon()

    # --- time -----------------------------------------------------------------------------

    def expire(self) -> None:
        """Look at everything that may have taken too long."""
        now = self.now()
        settings = self._settings
        if self._is_closing:
            self.transport.abort()
            return
        if not self._is_settled and now - self._opened >= settings.header_read_seconds:
            self._fail(ErrorCodes.SETTINGS_TIMEOUT)
        elif self._block_since and now - self._block_since >= settings.header_read_seconds:
            self._fail(ErrorCodes.ENHANCE_YOUR_CALM)
        elif self._phase == _WARNED and now - self._drain_started >= LOOK_SECONDS:
            self._advance_drain()
        elif settings.max_connection_seconds and (
            now - self._opened >= settings.max_connection_seconds
        ):
            self.drain()
        if not self._streams and now - self._idle_since >= settings.idle_seconds:
            self._fail(NO_ERROR)
        if self._is_closing:
            return
        for stream in list(self._streams.values()):
            self._look_at(stream, now)
        self._look_by(self._next_look(now))

    def _next_look(self, now: float) -> float:
        settings = self._settings
        keepalive = self._look_keepalive(now)
        if not self._streams:
            self._codec.tidy()
        if self._streams or self._phase == _WARNED or self._block_since or not self._is_settled:
            return now + LOOK_SECONDS
        times = [self._idle_since + settings.idle_seconds]
        if keepalive:
            times.append(keepalive)
        if settings.max_connection_seconds and self._phase == _OPEN:
            times.append(self._opened + settings.max_connection_seconds)
        return max(min(times), now)

    def _look_at(self, stream: ServerStream, now: float) -> None:
        """Cut a stream whose client neither sends what is awaited nor takes what it asked for.

        Once the response has begun the client may be silent: a gRPC stream is made that way.
        """
        stall = self._settings.body_stall_seconds
        if stream.is_over:
            return
        if stream.is_stalled(now, stall):
            self._reset(stream, CANCEL)
            self._cancel(stream, ClientDisconnected("the client does not read"))
        elif stream.is_tunnel:
            if now - stream.touched >= self._settings.tunnel_idle_seconds:
                self._reset(stream, CANCEL)
                self._cancel(stream, ClientDisconnected("the tunnel is idle"))
        elif stream.body is not None and stream.body.waiting_since and not stream.has_head:
            since = max(stream.body.waiting_since, stream.touched)
            if now - since >= stall:
                stream.body.fail(
                    RequestError(408, "Timeout", "the request body did not arrive in time")
                )


def _describe(transport: asyncio.BaseTransport) -> Connection:
    peer = transport.get_extra_info("peername") or ("", 0)
    local = transport.get_extra_info("sockname") or ("", 0)
    if isinstance(peer, str) or isinstance(local, str):
        peer = local = ("", 0)
    return Connection(
        peer[0], peer[1], local[0], local[1], raw_peer_host=peer[0], raw_peer_port=peer[1]
    )
