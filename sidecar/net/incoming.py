"""A body that arrives on a connection and is read by somebody else, with backpressure between.

The connection's protocol feeds it; the reader pulls. When more than `limit` octets wait, the
connection is told to pause; when they are read and more is asked for, to resume. Used on both
sides of the gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final

from sidecar.http.headers import Headers


@final
class IncomingBody:
    """See sidecar.http.message.Body. Single reader.

    `on_flow(paused)`: pause or resume the source. `on_close()`: the reader gave up before the end.
    `on_demand`, when set, is called once, the first time a reader has to wait (100-continue).
    """

    __slots__ = (
        "_chunks",
        "_closed",
        "_error",
        "_limit",
        "_loop",
        "_on_close",
        "_on_flow",
        "_paused",
        "_size",
        "_waiter",
        "ended",
        "length",
        "on_demand",
        "trailers",
    )

    def __init__(
        self,
        length: int | None,
        limit_bytes: int,
        on_flow: Callable[[bool], None],
        on_close: Callable[[], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.length = length
        self.trailers: Headers | None = None
        self.ended = False
        self._chunks: list[bytes] = []
        self._size = 0
        self._limit = limit_bytes
        self._on_flow = on_flow
        self._on_close = on_close
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None
        self._error: Exception | None = None
        self._paused = False
        self._closed = False
        self.on_demand: Callable[[], None] | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether a reader waits for the next octets."""
        return self._waiter is not None

    @property
    def is_failed(self) -> bool:
        """Whether the body can never be complete; what arrives after that is dropped."""
        return self._error is not None

    def feed(self, data: bytes) -> None:
        """Octets arrived (not empty)."""
        if self._closed or self._error is not None:
            return
        self._chunks.append(data)
        self._size += len(data)
        if self._size > self._limit and not self._paused:
            self._paused = True
            self._on_flow(True)
        self._wake()

    def feed_end(self, trailers: Headers | None = None) -> None:
        """The body is complete, unless it failed before."""
        if self._error is not None:
            return
        self.trailers = trailers
        self.ended = True
        self._wake()

    def fail(self, error: Exception) -> None:
        """The body will never be complete; the reader gets `error` after what arrived before."""
        if not self.ended and self._error is None:
            self._error = error
            self._wake()

    def read_nowait(self) -> bytes | None:
        """See Body."""
        chunks = self._chunks
        if chunks:
            data = chunks[0] if len(chunks) == 1 else b"".join(chunks)
            chunks.clear()
            self._size = 0
            return data
        # Only who comes back for more sets a paused source going: until then the last chunk may
        # still wait in a transport, and a second beside it would double what a stream holds.
        if self._paused:
            self._paused = False
            self._on_flow(False)
        if self.ended or self._closed:
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
            demand, self.on_demand = self.on_demand, None
            if demand is not None:
                demand()
            waiter = self._waiter = self._loop.create_future()
            try:
                await waiter
            finally:
                self._waiter = None

    def close(self) -> None:
        """See Body."""
        if self._closed:
            return
        self._closed = True
        self._chunks.clear()
        self._size = 0
        if self._paused:
            self._paused = False
            self._on_flow(False)
        if not self.ended:
            self._on_close()

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)
