"""One upstream HTTP/2 connection: many exchanges at a time, each with a body both ways.

Source: RFC 9113; spec hardening section 4.3 A 19.

The pool owns connecting (prior knowledge or ALPN) and choosing; it asks `can_take` and calls
`request`. What is sent besides the head runs in a task the connection owns; the response's body is
read with backpressure, its window returned as it is read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, final

from h2 import events as h2_events

from sidecar.errors import UpstreamError
from sidecar.http.h2 import MAX_STREAM_ID, block_of
from sidecar.http.h2_fields import MessageError, ResponseHead, response_head, trailers
from sidecar.http.h2_guard import GoAwayReceived, H2ConnectionError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.net.h2_endpoint import (
    CANCEL,
    LOOK_SECONDS,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Endpoint,
    limits_of,
)
from sidecar.net.h2_exchange import ClientStream, Head, call_failed, code_name, request_fields
from sidecar.net.h2_stream import H2Body, Stream, StreamGone
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper

SETTINGS: Final = HttpSettings(
    header_count=200, h2_header_list_bytes=64 * 1024, idle_seconds=90.0, h2_pings_per_10s=500
)
"""An upstream is trusted further than a client, not without end."""

_STREAMS_BEFORE_SETTINGS: Final = 100
"""Streams opened before the peer has said how many it takes (RFC 9113 6.5.2 advises 100)."""
_INFORMATIONAL_MAX: Final = 16


@final
class H2Client(Endpoint[ClientStream]):
    """See the module. `on_closed(client)` is called once, when the connection takes no more.

    It may still have exchanges under way then (after a GOAWAY); `wait_closed` waits for those.
    `answer_seconds`: how long a response head may take after the last progress of its request.
    Raises ConfigError for settings HTTP/2 cannot express.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        *,
        on_closed: Callable[[H2Client], None],
        settings: HttpSettings = SETTINGS,
        answer_seconds: float = 900.0,
    ) -> None:
        super().__init__(loop, sweeper, settings, limits_of(settings), is_client=True)
        self._on_closed = on_closed
        self._answer_seconds = answer_seconds
        self._max_streams = _STREAMS_BEFORE_SETTINGS
        self._is_leaving = False
        self._idle_since = 0.0
        self._dispatch = {
            h2_events.ResponseReceived: self._on_response,
            h2_events.InformationalResponseReceived: self._on_informational,
            h2_events.DataReceived: self._on_data,
            h2_events.TrailersReceived: self._on_trailers,
            h2_events.StreamReset: self._on_reset,
            h2_events.WindowUpdated: self._on_window,
            h2_events.RemoteSettingsChanged: self._on_settings,
            GoAwayReceived: self._on_goaway,
        }

    @property
    def in_flight(self) -> int:
        """Exchanges under way."""
        return len(self._streams)

    @property
    def can_take(self) -> bool:
        """Whether `request` would open a stream now."""
        return (
            not self._is_leaving
            and len(self._streams) < self._max_streams
            and self.transport is not None
        )

    # --- an exchange ----------------------------------------------------------------------

    async def request(self, request: Request, *, head: Head, body: Body) -> Response:
        """Send a request, give the response once its head is here; bodies flow on after that.

        1xx go to `request.on_informational`. Raises UpstreamError, `retryable` when the peer has
        certainly not acted (REFUSED_STREAM, above the last stream of a GOAWAY, no stream to be
        had); whatever reading `body` raises. Cancelling it resets the stream.
        """
        if not self.can_take:
            raise call_failed("no stream to be had", retryable=True, sent=False)
        fields = request_fields(head, request, body)
        data = body.read_nowait()
        ends = data == b"" and not body.length and not body.trailers
        method = head[0]
        stream_id = self._codec.request(fields, b"GET", end=ends)
        stream = ClientStream(stream_id, self.now(), request, self.loop.create_future())
        stream.has_no_body = method == "HEAD"
        stream.is_sent = ends
        self._streams[stream_id] = stream
        if stream_id > MAX_STREAM_ID - 2:
            self._leave()
        self._look_by(stream.touched + LOOK_SECONDS)
        self.flush_soon()
        if not ends and not self._send_now(stream, body, data):
            stream.upload = body
            task = stream.task = self.loop.create_task(self._upload(stream, body, data))
            self._own(task)
        try:
            answer = await stream.head
        except BaseException:
            # Cancelled, or failed already: in the latter case there is nothing left to reset.
            self._give_up(stream, CANCEL)
            raise
        return self._response(stream, answer)

    def _send_now(self, stream: ClientStream, body: Body, data: bytes | None) -> bool:
        """Fast path: a body that is whole and fits one frame needs no task."""
        if data is None or self._is_paused or len(data) > self._codec.send_window(stream.id):
            return False
        if type(body) is not FixedBody or body.trailers or len(data) != (body.length or 0):
            return False
        self._codec.send_data(stream.id, data, end=True)
        stream.is_sent = True
        return True

    def _response(self, stream: ClientStream, head: ResponseHead) -> Response:
        body: Body = FixedBody() if stream.body is None else stream.body
        return Response(head.status, head.headers, body, version="HTTP/2.0")

    async def _upload(self, stream: ClientStream, body: Body, data: bytes | None) -> None:
        try:
            await self._send_body(stream, body, data, body.length)
            stream.is_sent = True
            self._settle(stream)
        except StreamGone:
            # The response, or the reset, has its own way to whoever waits.
            return
        except Exception as error:
            self._give_up(stream, CANCEL, error)

    async def _send_data(self, stream: ClientStream, data: bytes, *, end: bool) -> None:
        await super()._send_data(stream, data, end=end)
        stream.touched = self.now()  # an upload may last longer than its answer

    def _give_up(self, stream: ClientStream, code: int, error: Exception | None = None) -> None:
        """Reset the stream if it lives, and let whoever waits know."""
        if stream.is_over:
            return
        self._reset(stream, code)
        self._fail_stream(stream, error or call_failed("the exchange was given up"))

    def _fail_stream(self, stream: ClientStream, error: Exception) -> None:
        stream.is_over = True
        stream.wake()
        if not stream.head.done():
            stream.head.set_exception(error)
            # A caller that was cancelled does not look at it; that is no fault.
            stream.head.exception()
        if stream.body is not None:
            stream.body.fail(error)
        self._forget(stream)

    def _settle(self, stream: ClientStream) -> None:
        """Forget a stream both of whose halves are complete."""
        if not stream.head.done() or (stream.body is not None and not stream.body.has_ended):
            return
        if not stream.is_sent:
            # The response is whole: what is left of the request interests nobody (RFC 9113 8.1).
            self._reset(stream, CANCEL)
        stream.is_over = True
        self._forget(stream)

    def _forget(self, stream: ClientStream) -> None:
        self._streams.pop(stream.id, None)
        current = asyncio.current_task(self.loop)
        if stream.task is not None and stream.task is not current:
            stream.task.cancel()
        if stream.upload is not None:
            # Here and not in the task: one cancelled before its first step runs no `finally`.
            stream.upload.close()
        if not self._streams:
            self._idle_since = self.now()
            if self._is_leaving and not self._is_closing:
                self._codec.goaway(0, NO_ERROR)
                self._close_now(self._settings.body_stall_seconds)

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Ready: streams may be opened before the peer's SETTINGS."""
        super().connection_made(transport)
        self._idle_since = self._heard
        self.deadline = self._next_look(self._heard)

    def data_received(self, data: bytes) -> None:
        """Octets from the server."""
        if self._is_closing:
            return
        try:
            self._handle(data)
        except H2ConnectionError as error:
            self._leave()
            self._fail(error.code)
            self._fail_all(UpstreamError(502, "UpstreamFailure", f"invalid http: {error}"))
            return
        if not self._is_closing:
            self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """The exchanges under way fail; the pool is told."""
        self._is_lost = self._is_closing = True
        self._sweeper.discard(self)
        self.deadline = 0.0
        self._leave()
        self._fail_all(call_failed("the connection was closed"))
        if not self._tasks:
            self._finished()

    def _fail_all(self, error: UpstreamError) -> None:
        for stream in list(self._streams.values()):
            self._fail_stream(stream, error)

    def _leave(self) -> None:
        if not self._is_leaving:
            self._is_leaving = True
            self._on_closed(self)

    def close(self) -> None:
        """Open no more streams; close once those under way have ended."""
        self._leave()
        if not self._streams and not self._is_closing and self.transport is not None:
            self._codec.goaway(0, NO_ERROR)
            self._close_now(self._settings.body_stall_seconds)

    # --- events ---------------------------------------------------------------------------

    def _on_response(self, event: h2_events.ResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_over:
            return
        ended = event.stream_ended is not None
        try:
            head = response_head(block_of(event), self._settings.header_count)
        except MessageError as error:
            self._malformed(stream, str(error))
            return
        if head.status == 204 or head.status == 304:
            stream.has_no_body = True
        has_no_body = stream.has_no_body
        if ended and head.length and not has_no_body:
            self._malformed(stream, "the response body is too short")
            return
        if not ended or has_no_body:
            # Content-Length of a response without a body tells what it would have been.
            stream.body = H2Body(self, stream, None if has_no_body else head.length)
            if ended:
                stream.body.feed_end()
        if not stream.head.done():
            stream.head.set_result(head)
        if ended:
            self._settle(stream)

    def _on_informational(self, event: h2_events.InformationalResponseReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_over:
            return
        stream.informational += 1
        try:
            head = response_head(block_of(event), self._settings.header_count)
        except MessageError as error:
            self._malformed(stream, str(error))
            return
        if stream.informational > _INFORMATIONAL_MAX:
            self._malformed(stream, "too many informational responses")
        elif stream.request.on_informational is not None:
            stream.request.on_informational(head.status, head.headers)

    def _on_data(self, event: h2_events.DataReceived) -> None:
        octets = event.flow_controlled_length
        self._codec.received(octets)
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.body is None or stream.is_over:
            return
        body = stream.body
        stream.touched = self._heard
        data = event.data
        if data and stream.has_no_body:
            self._malformed(stream, "a response without a body has one")
            return
        body.feed(data, octets - len(data))
        self._end_body(stream, body, None, ended=event.stream_ended is not None)

    def _on_trailers(self, event: h2_events.TrailersReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.body is None or stream.is_over:
            return
        try:
            fields = trailers(block_of(event), self._settings.header_count)
        except MessageError as error:
            self._malformed(stream, str(error))
            return
        self._end_body(stream, stream.body, fields, ended=True)

    def _end_body(
        self, stream: ClientStream, body: H2Body, fields: Headers | None, *, ended: bool
    ) -> None:
        length = body.length
        if length is not None and body.received_bytes > length:
            self._malformed(stream, "the response body is too long")
        elif not ended:
            return
        elif length is not None and body.received_bytes != length:
            self._malformed(stream, "the response body is too short")
        else:
            body.feed_end(fields)
            self._settle(stream)

    def _malformed(self, stream: ClientStream, why: str) -> None:
        error = UpstreamError(502, "UpstreamFailure", f"invalid http: {why}")
        self._give_up(stream, PROTOCOL_ERROR, error)

    def _on_reset(self, event: h2_events.StreamReset) -> None:
        stream = self._streams.get(event.stream_id)
        if stream is None or stream.is_over:
            return
        code = event.error_code
        if code == REFUSED_STREAM and not stream.head.done():
            error = call_failed("the upstream refused the stream", retryable=True, sent=False)
        else:
            error = call_failed(f"the upstream reset the stream ({code_name(code)})")
        self._fail_stream(stream, error)

    def _on_settings(self, event: h2_events.RemoteSettingsChanged) -> None:
        self._max_streams = self._codec.remote_max_streams
        self._wake_senders()

    def _on_goaway(self, event: GoAwayReceived) -> None:
        self._leave()
        for stream in list(self._streams.values()):
            if stream.id > event.last_stream_id:
                why = f"the upstream is going away ({code_name(event.code)})"
                self._fail_stream(stream, call_failed(why, retryable=True, sent=False))
        if not self._streams:
            self.close()

    # --- bodies' side ---------------------------------------------------------------------

    def body_wanted(self, stream: Stream) -> None:
        """See StreamOwner: the window is all that holds the server back."""

    def body_dropped(self, stream: Stream) -> None:
        """See StreamOwner: stop the server."""
        assert isinstance(stream, ClientStream)
        self._give_up(stream, CANCEL)

    # --- time -----------------------------------------------------------------------------

    def _next_look(self, now: float) -> float:
        if self._streams:
            return now + LOOK_SECONDS
        self._codec.tidy()
        when = self._idle_since + self._settings.idle_seconds
        keepalive = self._look_keepalive(now)
        return min(when, keepalive) if keepalive else when

    def expire(self) -> None:
        """Close when idle; cut uploads whose server takes nothing, and calls it never answers."""
        now = self.now()
        if self._is_closing:
            self.transport.abort()
            return
        if not self._streams and now - self._idle_since >= self._settings.idle_seconds:
            self.close()
            return
        stall = self._settings.body_stall_seconds
        for stream in list(self._streams.values()):
            if stream.is_stalled(now, stall):
                error = UpstreamError(
                    504, "Timeout", "upstream call failed: the upstream does not read"
                )
                self._give_up(stream, CANCEL, error)
            elif not stream.head.done() and now - stream.touched >= self._answer_seconds:
                error = UpstreamError(504, "Timeout", "upstream call timeout", retryable=True)
                self._give_up(stream, CANCEL, error)
        if not self._is_closing:
            if self._streams:
                self._look_keepalive(now)
            self._look_by(self._next_look(now))
