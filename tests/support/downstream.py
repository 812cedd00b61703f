"""An H1Server in memory: its transport, its listener, and a handler that does as told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from sidecar.errors import RequestError, SidecarError
from sidecar.gateway.respond import error_response
from sidecar.http import h1
from sidecar.http.message import Connection, FixedBody, Handler, Request, Response
from sidecar.net.host import DateSource
from sidecar.net.native import H1Server
from sidecar.net.outbox import Outbox
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.routing import canonical
from sidecar.telemetry.clock import Clock, SystemClock
from tests.support.stream import FakeTransport, ManualTime, turns

DATE = b"date: now\r\n"


class PlainTransport(FakeTransport):
    """A FakeTransport as TCP has it: either side can be ended, reading can be paused."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__(protocol)
        self.has_ended = False
        self.is_reading_paused = False

    def can_write_eof(self) -> bool:
        return True

    def write(self, data: Any) -> None:
        assert not self.has_ended, "written after the end"
        super().write(data)

    def write_eof(self) -> None:
        self.has_ended = True

    def pause_reading(self) -> None:
        self.is_reading_paused = True

    def resume_reading(self) -> None:
        self.is_reading_paused = False


class EchoHandler:
    """Answers with method, target and body once it has read all; notes what it got."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.bodies: list[bytes] = []
        self.cancelled = 0

    async def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        try:
            canonical.resolve(request.target)
            body = b""
            while chunk := await request.body.read():
                body += chunk
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        except SidecarError as error:
            self.requests.pop()
            return error_response(request, error)
        self.bodies.append(body)
        text = f"{request.method} {request.target} {len(body)}"
        return Response(200, None, FixedBody(text.encode()))


class Call:
    """A request under way in callbacks."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class Downstream:
    """See sidecar.net.host.Host; also drives the one connection it has.

    `is_direct`: requests wholly at hand are served in callbacks, as the pipeline's short cut does.
    """

    scheme = "http"
    draining = False

    def __init__(
        self, handler: Handler | None = None, *, is_direct: bool = False, **settings: Any
    ) -> None:
        self.echo = EchoHandler()
        self.handler: Handler = self.echo if handler is None else handler
        self.settings = HttpSettings(**settings)
        self.limits = h1.HeadLimits(
            self.settings.request_line_bytes, self.settings.header_bytes, self.settings.header_count
        )
        self.time = ManualTime()
        self.sweeper = Sweeper(self.time)  # type: ignore[arg-type]  # the two methods it uses
        self.outbox = Outbox(asyncio.get_running_loop())
        self.clock: Clock = SystemClock()
        self.date: DateSource = lambda: DATE
        self.check_authority: Callable[[str], str] = canonical.authority
        self.refusals: list[RequestError] = []
        self.has_closed = False
        self.h2_data = b""
        self.server = H1Server(
            self,
            Connection("192.0.2.7", 4711, "192.0.2.1", 80),
            asyncio.get_running_loop(),
            self if is_direct else None,
        )
        self.transport = PlainTransport(self.server)
        self.server.connection_made(self.transport)

    def start(
        self, request: Request, reply: Callable[[Response], None], again: Callable[[], None]
    ) -> Call:
        """See sidecar.net.host.Direct."""

        async def run() -> None:
            try:
                response = await self.handler(request)
            except Exception:
                again()
            else:
                reply(response)

        return Call(asyncio.get_running_loop().create_task(run()))

    def opened(self, connection: H1Server) -> None:
        assert connection is not None

    def closed(self, connection: H1Server) -> None:
        self.has_closed = True

    def refused(self, connection: H1Server, error: RequestError) -> None:
        self.refusals.append(error)

    def take_h2(self, connection: H1Server, data: bytes) -> bool:
        connection.detach()
        self.h2_data = data
        return True

    async def feed(self, *pieces: bytes, rounds: int = 8) -> None:
        """Deliver octets, a segment each; the loop runs before the first and after each."""
        await turns(2)
        for piece in pieces:
            if piece and not self.transport.is_closed:
                self.server.data_received(piece)
            await turns(rounds)

    async def ask(self, *pieces: bytes) -> bytes:
        """Deliver octets and give what was written since."""
        await self.feed(*pieces)
        return self.transport.take()

    async def end(self) -> None:
        """The client ends its side."""
        self.server.eof_received()
        await turns()

    async def advance(self, seconds: float) -> None:
        """Let time pass."""
        self.time.advance(seconds)
        await turns()


def statuses(written: bytes) -> list[int]:
    """Of the responses in what was written (their bodies must not look like status lines)."""
    return [int(part[:3]) for part in written.split(b"HTTP/1.1 ")[1:]]
