"""A gRPC call of a policy with messages both ways: over a stream of a pooled HTTP/2 connection.

Source: gRPC over HTTP2 (PROTOCOL-HTTP2.md); spec/config.md sections 9.1, 9.3 and 10.4.

The head of the answer may come as late as its first message, so the call is opened by a task of
its own; `close` ends that. What was sent is kept until the head is here, up to a bound, since a
connection that is being closed may refuse the stream after it took some of it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, final

from sidecar.errors import SidecarError
from sidecar.http import grpc
from sidecar.http.headers import Headers
from sidecar.http.message import Request, Response

MESSAGE_BYTES: Final = 4 * 1024 * 1024
"""Bound of one message of the peer; gRPC's own servers have the same."""
_UNSENT_MAX: Final = 64 * 1024
_REPLAY_MAX: Final = 256 * 1024
_LAST_WORDS_SECONDS: Final = 1.0


@final
class Outgoing:
    """The request's body: what is fed comes out, until its end. See sidecar.http.message.Body."""

    __slots__ = (
        "_chunks",
        "_ended",
        "_history",
        "_is_closed",
        "_reader",
        "_writers",
        "length",
        "size",
        "trailers",
    )

    def __init__(self) -> None:
        self.length: int | None = None
        self.trailers: Headers | None = None
        self.size = 0
        """Octets that nobody has taken yet."""
        self._chunks: list[bytes] = []
        self._history: list[bytes] | None = []
        self._ended = False
        self._is_closed = False
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []

    def feed(self, data: bytes) -> None:
        """Append octets."""
        if self._ended or (self._is_closed and self._history is None):
            return
        self._chunks.append(data)
        self.size += len(data)
        _wake(self._reader)

    def end(self) -> None:
        """Nothing more comes."""
        self._ended = True
        _wake(self._reader)
        self._wake_writers()

    def rewind(self) -> bool:
        """Begin anew, if all that was taken is still known."""
        if self._history is None:
            return False
        self._chunks[:0] = self._history
        self._history = []
        self._is_closed = False
        self.size = sum(map(len, self._chunks))
        return True

    def forget(self) -> None:
        """It will not begin anew."""
        self._history = None

    async def wait_room(self) -> None:
        """Until little is left to take, or nobody takes it any more."""
        while self.size > _UNSENT_MAX and not self._ended and not self._is_closed:
            writer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._writers.append(writer)
            await writer

    def read_nowait(self) -> bytes | None:
        """See Body."""
        if not self._chunks:
            return b"" if self._ended else None
        data = b"".join(self._chunks)
        self._chunks.clear()
        self.size = 0
        if self._history is not None:
            self._history.append(data)
            if sum(map(len, self._history)) > _REPLAY_MAX:
                self._history = None
        self._wake_writers()
        return data

    async def read(self) -> bytes:
        """See Body."""
        while (data := self.read_nowait()) is None:
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        return data

    def close(self) -> None:
        """See Body: the stream is over, or will be tried again."""
        self._is_closed = True
        self._wake_writers()

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for writer in writers:
            _wake(writer)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


@final
class CalloutStream:
    """See policies.callouts.Stream.

    `exchange(request)` sends a request whose body is an Outgoing and gives the head of its answer.
    `on_end(failure)` is called once; "" for a call that ended well. `linger(make)` runs what is
    left in the background, or gives False.
    """

    __slots__ = (
        "_body",
        "_exchange",
        "_frames",
        "_is_over",
        "_linger",
        "_messages",
        "_on_end",
        "_opening",
        "_request",
        "_response",
    )

    def __init__(
        self,
        request: Request,
        exchange: Callable[[Request], Awaitable[Response]],
        on_end: Callable[[str], None],
        linger: Callable[[Callable[[], Coroutine[Any, Any, None]]], bool],
    ) -> None:
        self._request = request
        self._exchange = exchange
        self._on_end = on_end
        self._linger = linger
        self._body = Outgoing()
        self._frames = grpc.Frames(MESSAGE_BYTES)
        self._messages: deque[bytes] = deque()
        self._opening: asyncio.Task[Response] | None = None
        self._response: Response | None = None
        self._is_over = False

    def send(self, message: bytes) -> None:
        """See Stream."""
        if self._is_over:
            return
        self._body.feed(grpc.frame(message))
        if self._opening is None:
            self._request.body = self._body
            self._opening = asyncio.get_running_loop().create_task(self._open())
            self._opening.add_done_callback(self._opened)

    async def wait_room(self) -> None:
        """See Stream."""
        await self._body.wait_room()

    async def _open(self) -> Response:
        return await self._exchange(self._request)

    def _opened(self, task: asyncio.Task[Response]) -> None:
        self._body.forget()
        if task.cancelled() or task.exception() is not None:
            # Whoever sends must not wait for room that nobody makes.
            self._body.end()
            self._body.read_nowait()

    async def receive(self) -> bytes | None:
        """See Stream."""
        while not self._messages:
            response = self._response or await self._head()
            body = response.body
            data = body.read_nowait()
            if data is None:
                data = await body.read()
            if not data:
                self._check_end(response)
                return None
            self._messages.extend(self._frames.feed(data))
        return self._messages.popleft()

    async def _head(self) -> Response:
        assert self._opening is not None, "nothing was sent"
        response = await asyncio.shield(self._opening)
        self._response = response
        if response.status != 200 or response.headers.has(b"grpc-status"):
            grpc.check(response.status, response.headers, None)
        return response

    def _check_end(self, response: Response) -> None:
        grpc.check(response.status, response.headers, response.body.trailers)
        if not self._frames.is_between:
            raise grpc.GrpcError(grpc.INTERNAL, "the stream ended within a message")

    def finish(self) -> None:
        """See Stream."""
        self._body.end()
        if self._opening is None or not self._linger(self._last_words):
            self.close()

    async def _last_words(self) -> None:
        """Let the peer end by itself: a reset is an error to it."""
        try:
            with contextlib.suppress(TimeoutError, SidecarError):
                async with asyncio.timeout(_LAST_WORDS_SECONDS):
                    while await self.receive() is not None:
                        continue
        finally:
            self.close()

    def close(self, failure: str = "") -> None:
        """See Stream. `failure`: what it is told as."""
        if self._is_over:
            return
        self._is_over = True
        self._body.end()
        if self._response is not None:
            self._response.body.close()
        elif self._opening is not None:
            self._opening.cancel()
            if self._opening.done() and not self._opening.cancelled():
                self._drop(self._opening)
        if self._opening is not None:
            self._on_end(failure)

    @staticmethod
    def _drop(opening: asyncio.Task[Response]) -> None:
        if opening.exception() is None:
            opening.result().body.close()
