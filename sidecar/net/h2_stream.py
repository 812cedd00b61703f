"""One HTTP/2 stream as its two halves: octets to be read with backpressure, and a sender's place.

Source: RFC 9113 sections 5.2 and 8.1.
"""

from __future__ import annotations

import asyncio
from typing import Protocol, final

from sidecar.http.headers import Headers


class StreamOwner(Protocol):
    """The connection, as a stream's body needs it."""

    loop: asyncio.AbstractEventLoop

    def now(self) -> float:
        """Loop time in seconds."""

    def body_wanted(self, stream: Stream) -> None:
        """A reader is about to wait for octets."""

    def body_read(self, stream: Stream, octets: int) -> int:
        """`octets` were taken and not yet returned to the window; gives what remains so."""

    def body_dropped(self, stream: Stream) -> None:
        """The reader gave up before the end."""


class StreamGone(Exception):
    """The stream takes no more octets: it was reset or its connection is gone."""


class Stream:
    """What both sides keep of a stream; each side subclasses it."""

    __slots__ = (
        "blocked_sent",
        "blocked_since",
        "body",
        "id",
        "is_over",
        "sent_bytes",
        "task",
        "touched",
        "waiter",
        "wanted",
    )

    def __init__(self, stream_id: int, now: float) -> None:
        self.id = stream_id
        self.body: H2Body | None = None
        """What the peer sends, None when it sends nothing."""
        self.task: asyncio.Task[None] | None = None
        self.waiter: asyncio.Future[None] | None = None
        """Held by a sender that waits for a window or for the transport."""
        self.wanted = 0
        """Octets a waiting sender has at hand."""
        self.blocked_since = 0.0
        """Loop time since when the peer holds its sender back, 0.0 when it does not.

        It begins anew with each `body_stall_bytes` that went out, not with each octet: a peer that
        grants one at a time is a stall as well.
        """
        self.blocked_sent = 0
        """Octets that went out since then."""
        self.sent_bytes = 0
        """Octets of body given to the codec."""
        self.touched = now
        """Loop time of the last octets, in either direction."""
        self.is_over = False
        """Reset, by either side, or its connection lost: nothing more is sent."""

    def is_stalled(self, now: float, seconds: float) -> bool:
        """Whether its sender waits and the peer has not taken enough for so many seconds."""
        return (
            self.waiter is not None
            and self.blocked_since > 0
            and now - self.blocked_since >= seconds
        )

    def wake(self) -> None:
        """Let a waiting sender look again."""
        waiter = self.waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


@final
class H2Body:
    """See sidecar.http.message.Body. Single reader.

    What waits here is bounded by the stream's receive window, which is returned as it is read.
    """

    __slots__ = (
        "_chunks",
        "_ended",
        "_error",
        "_is_closed",
        "_owner",
        "_stream",
        "_unreturned",
        "_waiter",
        "length",
        "received_bytes",
        "trailers",
        "waiting_since",
    )

    def __init__(self, owner: StreamOwner, stream: Stream, length: int | None) -> None:
        self.length = length
        self.trailers: Headers | None = None
        self.received_bytes = 0
        self.waiting_since = 0.0
        """Loop time since when a reader waits, 0.0 when none does."""
        self._owner = owner
        self._stream = stream
        self._chunks: list[bytes] = []
        self._unreturned = 0
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._ended = False
        self._is_closed = False

    @property
    def has_ended(self) -> bool:
        """Whether the peer has sent everything, read or not."""
        return self._ended

    def feed(self, data: bytes, padding: int) -> None:
        """Octets arrived; `padding` is what else the frame took of the window."""
        self.received_bytes += len(data)
        self._unreturned += padding
        if self._is_closed:
            return
        if data:
            self._chunks.append(data)
            self._wake()

    def feed_end(self, trailers: Headers | None = None) -> None:
        """The body is complete."""
        self.trailers = trailers
        self._ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """It will never be complete; the reader gets `error` after what arrived before."""
        if not self._ended and self._error is None:
            self._error = error
            self._wake()

    def read_nowait(self) -> bytes | None:
        """See Body."""
        chunks = self._chunks
        if chunks:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            if self._ended:
                return data
            self._unreturned = self._owner.body_read(self._stream, self._unreturned + len(data))
            return data
        if self._ended or self._is_closed:
            return b""
        if self._error is not None:
            raise self._error
        return None

    async def read(self) -> bytes:
        """See Body."""
        while True:
            data = self.read_nowait()
            if data is not None:
                return data
            self._owner.body_wanted(self._stream)
            self._waiter = self._owner.loop.create_future()
            self.waiting_since = self._owner.now()
            try:
                await self._waiter
            finally:
                self._waiter = None
                self.waiting_since = 0.0

    def close(self) -> None:
        """See Body."""
        if self._is_closed:
            return
        self._is_closed = True
        self._chunks.clear()
        self._wake()
        if not self._ended and self._error is None:
            self._owner.body_dropped(self._stream)

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
