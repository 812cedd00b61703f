"""What both ends of an HTTP/2 connection do with a transport: write, wait for room, watch the time.

Source: RFC 9113 sections 5.2, 6.7, 6.8; design section 3.

Octets are written once per turn of the event loop: senders put frames into the codec and ask for a
flush, which is one callback at the end of the turn. A sender stops when its stream's window or the
connection's is empty, or when the transport said to pause; nothing is buffered for it meanwhile.
Senders that wait for the connection's window are woken the longest waiting first, and no more of
them than it has room for: else a peer could wake a hundred by granting one octet.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar, cast

from h2.errors import ErrorCodes
from h2.events import WindowUpdated

from sidecar.errors import UpstreamError
from sidecar.http.h2 import H2Codec, H2Limits
from sidecar.http.h2_fields import outgoing
from sidecar.http.h2_guard import H2ConnectionError
from sidecar.http.message import Body
from sidecar.net.h2_stream import Stream, StreamGone
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper

_FLUSH_BYTES: Final = 64 * 1024
"""A sender that puts this much into the codec in one turn writes at once."""
_UNREAD_BYTES: Final = 1024 * 1024
"""Octets waiting in the transport for a peer that does not read; beyond, the connection is cut."""
LOOK_SECONDS: Final = 1.0
"""How often a connection with streams is looked at for stalls."""
_PING: Final = b"keepaliv"

S = TypeVar("S", bound=Stream)


def limits_of(settings: HttpSettings) -> H2Limits:
    """The codec's limits under these settings. Raises ConfigError."""
    return H2Limits(
        max_streams=settings.h2_max_streams,
        stream_window_bytes=settings.h2_stream_window_bytes,
        connection_window_bytes=settings.h2_connection_window_bytes,
        frame_bytes=settings.h2_frame_bytes,
        header_list_bytes=settings.h2_header_list_bytes,
        resets_per_10s=settings.h2_resets_per_10s,
        pings_per_10s=settings.h2_pings_per_10s,
        empty_data_frames=settings.h2_empty_data_frames,
        continuation_frames=settings.h2_continuation_frames,
    )


class Endpoint(asyncio.Protocol, ABC, Generic[S]):
    """The half of H2Server and H2Client that does not depend on which side it is.

    `deadline` and `expire` make it a sidecar.net.sweep.Expirable.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        settings: HttpSettings,
        limits: H2Limits,
        *,
        is_client: bool,
    ) -> None:
        self.loop = loop
        self.deadline = 0.0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)
        self._sweeper = sweeper
        self._settings = settings
        self._codec = H2Codec(limits, is_client=is_client)
        self._streams: dict[int, S] = {}
        self._waiting: dict[int, S] = {}
        """Streams whose sender waits, the longest waiting first."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._dispatch: dict[type, Callable[[Any], None]] = {}
        """Each side's answers to the codec's events."""
        self._is_closing = False
        """No frame is read or written any more."""
        self._is_lost = False
        self._is_paused = False
        self._is_flush_due = False
        self._heard = 0.0
        self._ping_sent = 0.0
        self._all_done: asyncio.Future[None] | None = None

    def now(self) -> float:
        """Loop time in seconds."""
        return self._sweeper.time()

    @abstractmethod
    def expire(self) -> None:
        """The deadline has passed: look at everything that may have taken too long."""

    # --- the transport's side -------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send our preface and settings."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=self._settings.stream_buffer_bytes)
        self._heard = self.now()
        self._sweeper.add(self)
        self._codec.start()
        self._flush()

    def _handle(self, data: bytes) -> None:
        """Act upon octets from the peer. Raises H2ConnectionError."""
        self.received_bytes += len(data)
        now = self._heard = self.now()
        self._ping_sent = 0.0
        dispatch = self._dispatch
        for event in self._codec.receive(data, now):
            handle = dispatch.get(type(event))
            if handle is not None:
                handle(event)

    def _on_window(self, event: WindowUpdated) -> None:
        stream_id = event.stream_id
        if stream_id:
            stream = self._waiting.get(stream_id)
            if stream is not None and self._codec.send_window(stream_id) and not self._is_paused:
                stream.wake()
        else:
            self._wake_senders()

    def pause_writing(self) -> None:
        """The peer does not read: senders wait."""
        self._is_paused = True

    def resume_writing(self) -> None:
        """There is room again."""
        self._is_paused = False
        self._wake_senders()

    def eof_received(self) -> bool:
        """A peer that half-closes HTTP/2 is gone: let the transport close."""
        return False

    def _wake_senders(self) -> None:
        """Wake who can send now, as far as the connection's window goes."""
        codec = self._codec
        room = 0 if self._is_paused else codec.connection_window
        for stream in self._waiting.values():
            if room <= 0:
                return
            # Negative, the stream takes nothing any more: its sender has to learn that.
            own = codec.send_window(stream.id)
            if own:
                stream.wake()
                room -= min(max(own, 0), stream.wanted)

    # --- writing --------------------------------------------------------------------------

    def flush_soon(self) -> None:
        """Write what the codec holds at the end of this turn of the loop."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_flush_due = False
        if self._is_lost:
            return
        data = self._codec.take()
        if data:
            self.sent_bytes += len(data)
            self.transport.write(data)
            if self._is_paused and self.transport.get_write_buffer_size() > _UNREAD_BYTES:
                self.transport.abort()

    def _fail(self, code: int) -> None:
        """End the connection now: GOAWAY, then close; a peer that does not read gets neither."""
        if self._is_closing:
            return
        self._codec.goaway(self._codec.guard.highest_stream_id, code)
        self._close_now(LOOK_SECONDS)
        if self._is_paused:
            self.transport.abort()

    def _close_now(self, patience_seconds: float) -> None:
        """Write what is left and close; after `patience_seconds` whether it was taken or not."""
        self._flush()
        self._is_closing = True
        self.deadline = self.now() + patience_seconds
        self.transport.close()

    def _reset(self, stream: S, code: int, *, is_peers_fault: bool = False) -> None:
        """Reset one stream, if it is still open."""
        stream.is_over = True
        if self._is_closing:
            return
        try:
            self._codec.reset(stream.id, code, is_peers_fault=is_peers_fault)
        except H2ConnectionError as error:
            self._fail(error.code)
        self.flush_soon()

    # --- sending a body -------------------------------------------------------------------

    async def _send_body(
        self, stream: S, body: Body, data: bytes | None, length: int | None
    ) -> None:
        """Send a body and its trailers, ending the stream.

        `data`: what `read_nowait` gave at first. `length`: octets promised. Raises: StreamGone;
        UpstreamError when the body is not as long as promised; MessageError for trailers that
        cannot be sent; whatever the body raises.
        """
        sent = 0
        while True:
            if data is None:
                stream.blocked_since = 0.0  # the peer has taken all there was
                data = await body.read()
            if not data:
                break
            sent += len(data)
            if length is not None and sent > length:
                raise UpstreamError(502, "UpstreamFailure", "the body is longer than announced")
            try:
                following = body.read_nowait()
            except Exception:
                # What came before the failure is still due to the reader.
                await self._send_data(stream, data, end=False)
                raise
            if following == b"" and not body.trailers and (length is None or sent == length):
                await self._send_data(stream, data, end=True)
                return
            await self._send_data(stream, data, end=False)
            data = following
        if length is not None and sent != length:
            raise UpstreamError(502, "UpstreamFailure", "the body is shorter than announced")
        if self._codec.send_window(stream.id) < 0 or stream.is_over:
            raise StreamGone
        if body.trailers:
            self._codec.send_trailers(stream.id, outgoing(body.trailers))
        else:
            self._codec.send_data(stream.id, b"", end=True)
        self.flush_soon()

    async def _send_data(self, stream: S, data: bytes, *, end: bool) -> None:
        """Send octets as the peer has room. Raises StreamGone."""
        codec = self._codec
        position = 0
        stream.sent_bytes += len(data)
        while True:
            room = -1 if stream.is_over or self._is_closing else codec.send_window(stream.id)
            if room < 0:
                self._wake_senders()  # what it was woken for is another's now
                raise StreamGone
            left = len(data) - position
            # Fast path: it fits one frame and the peer has room.
            if left <= room and not self._is_paused:
                codec.send_data(stream.id, data[position:] if position else data, end=end)
                stream.blocked_sent += left
                self.flush_soon()
                if codec.pending_bytes >= _FLUSH_BYTES:
                    self._flush()
                return
            if room > 0 and not self._is_paused:
                codec.send_data(stream.id, data[position : position + room], end=False)
                position += room
                stream.blocked_sent += room
                self.flush_soon()
                if codec.pending_bytes >= _FLUSH_BYTES:
                    self._flush()
                continue
            await self._wait_room(stream, left)

    async def _wait_room(self, stream: S, wanted: int) -> None:
        waiter = stream.waiter = self.loop.create_future()
        stream.wanted = wanted
        if not stream.blocked_since or stream.blocked_sent >= self._settings.body_stall_bytes:
            stream.blocked_since = self.now()
            stream.blocked_sent = 0
        self._waiting[stream.id] = stream
        try:
            await waiter
        except asyncio.CancelledError:
            if not waiter.cancelled():
                # Woken and cancelled in one turn: the room it was woken for is another's.
                del self._waiting[stream.id]
                self._wake_senders()
            raise
        finally:
            self._waiting.pop(stream.id, None)
            stream.waiter = None
        stream.touched = self.now()

    # --- bodies' side (StreamOwner) -------------------------------------------------------

    def body_read(self, stream: Stream, octets: int) -> int:
        """See StreamOwner."""
        if self._is_closing:
            return 0
        left = self._codec.consumed(stream.id, octets)
        if not left:
            self.flush_soon()
        return left

    # --- time -----------------------------------------------------------------------------

    def _look_by(self, when: float) -> None:
        """Have `expire` called then at the latest."""
        if not self.deadline or when < self.deadline:
            self.deadline = when

    def _look_keepalive(self, now: float) -> float:
        """Send or judge the keepalive PING; gives when to look next, 0.0 for never."""
        interval = self._settings.h2_keepalive_interval_seconds
        if interval <= 0:
            return 0.0
        if self._ping_sent:
            if now - self._ping_sent >= self._settings.h2_keepalive_timeout_seconds:
                self.transport.abort()
                return 0.0
            return self._ping_sent + self._settings.h2_keepalive_timeout_seconds
        if now - self._heard >= interval:
            self._codec.ping(_PING)
            self._ping_sent = now
            self._flush()
            return now + self._settings.h2_keepalive_timeout_seconds
        return self._heard + interval

    # --- tasks ----------------------------------------------------------------------------

    def _own(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            error = task.exception()
            if error is not None:
                self.loop.call_exception_handler(
                    {"message": "an HTTP/2 stream failed", "exception": error, "task": task}
                )
        if self._is_lost and not self._tasks:
            self._finished()

    def _finished(self) -> None:
        if self._all_done is not None and not self._all_done.done():
            self._all_done.set_result(None)

    async def wait_closed(self) -> None:
        """Until the transport is gone and every stream's task has ended."""
        if self._is_lost and not self._tasks:
            return
        if self._all_done is None:
            self._all_done = self.loop.create_future()
        await asyncio.shield(self._all_done)

    def abort(self) -> None:
        """Drop the connection without a word; the tasks are cancelled."""
        if self.transport is not None:
            self.transport.abort()


NO_ERROR: Final = ErrorCodes.NO_ERROR
PROTOCOL_ERROR: Final = ErrorCodes.PROTOCOL_ERROR
INTERNAL_ERROR: Final = ErrorCodes.INTERNAL_ERROR
REFUSED_STREAM: Final = ErrorCodes.REFUSED_STREAM
CANCEL: Final = ErrorCodes.CANCEL
