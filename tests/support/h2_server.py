"""An H2Server in memory with a hand-driven client, and handlers and bodies for it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from h2.events import ResponseReceived

from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, read_all
from sidecar.net.h2_server import H2Server
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import SystemClock
from tests.support.stream import FakeTransport, ManualTime, Peer

Handler = Callable[[Request], Awaitable[Response]]
GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
POST = [(b":method", b"POST"), *GET[1:]]
HEAD = [(b":method", b"HEAD"), *GET[1:]]


def lower(raw: str) -> str:
    if "@" in raw:
        raise RequestError(400, "InvalidRequest", "bad authority")
    return raw.lower()


class Bench:
    """A server on a fake transport, its peer, and the time."""

    def __init__(
        self, handler: Handler, settings: HttpSettings | None = None, cut: int = 0, **extra: Any
    ) -> None:
        self.time = ManualTime()
        self.sweeper = Sweeper(self.time)  # type: ignore[arg-type]
        self.closed: list[H2Server] = []
        self.server = H2Server(
            handler,
            None,
            settings or HttpSettings(),
            self.sweeper,
            SystemClock(),
            scheme="http",
            check_authority=lower,
            on_closed=self.closed.append,
            **extra,
        )
        self.transport = FakeTransport(self.server)
        self.server.connection_made(self.transport)
        self.peer = Peer(self.server, self.transport, is_client=True, cut=cut)

    async def get(self, stream_id: int = 1, fields: Any = GET, end: bool = True) -> None:
        self.peer.h2.send_headers(stream_id, fields, end_stream=end)
        await self.peer.pump()

    def head(self, stream_id: int = 1) -> dict[bytes, bytes]:
        (event,) = self.peer.of(ResponseReceived, stream_id)
        return dict(event.headers)


class ChunkBody:
    """A body that gives chunks, waiting before each for `gate` when there is one."""

    def __init__(
        self,
        *chunks: bytes | Exception,
        trailers: Headers | None = None,
        gate: asyncio.Semaphore | None = None,
        length: int | None = None,
    ) -> None:
        self.length = length
        self.trailers: Headers | None = None
        self.taken = 0
        self.is_closed = False
        self._chunks = list(chunks)
        self._end = trailers
        self._gate = gate

    def read_nowait(self) -> bytes | None:
        if self._gate is not None and self._chunks:
            return None
        return self._next()

    async def read(self) -> bytes:
        if self._gate is not None:
            await self._gate.acquire()
        return self._next()

    def _next(self) -> bytes:
        if not self._chunks:
            self.trailers = self._end
            return b""
        chunk = self._chunks.pop(0)
        if isinstance(chunk, Exception):
            raise chunk
        self.taken += 1
        return chunk

    def close(self) -> None:
        self.is_closed = True


async def hello(request: Request) -> Response:
    return Response(200, Headers([(b"x", b"y"), (b"connection", b"close")]), FixedBody(b"hello"))


async def echo(request: Request) -> Response:
    whole = await read_all(request.body, 1 << 24)
    return Response(200, body=FixedBody(whole, request.body.trailers))
