"""A small upstream to try a gateway on: it answers with what it was asked, and streams events.

It stands on the same front door as the gateway, so it takes HTTP/1.1 and, with prior knowledge,
HTTP/2. `/sse` streams server-sent events; every other path answers with the request as JSON.
"""

from __future__ import annotations

import asyncio
import email.utils
import socket
import time
from typing import Final, final
from urllib.parse import parse_qs

import orjson

from sidecar.errors import BodyTooLarge, ClientDisconnected, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import (
    Connection,
    FixedBody,
    Handler,
    Request,
    Response,
    read_all,
    text_response,
)
from sidecar.net.bind import BindPlan
from sidecar.net.listener import Port
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.routing import canonical
from sidecar.telemetry.clock import Clock, SystemClock

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_EVENTS: Final = 1000
EVENT_SECONDS: Final = 0.1
_DRAIN_SECONDS: Final = 2.0
_BACKLOG: Final = 128


@final
class EchoServer:
    """The server on one loopback port. It is the Gate (sidecar.net.bind) of that port.

    `handler`: who answers in place of the echo.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, handler: Handler | None = None) -> None:
        self.loop = loop
        self._handler = handler or respond
        self.clock: Clock = SystemClock()
        self.sweeper = Sweeper(loop)
        self.port = 0
        """The real one once started."""
        self._port: Port | None = None

    def start(self, port: int) -> None:
        """Listen on 127.0.0.1; 0 takes any free port. Raises: OSError."""
        sock = socket.socket()
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setblocking(False)
            sock.bind(("127.0.0.1", port))
            sock.listen(_BACKLOG)
        except OSError:
            sock.close()
            raise
        self.port = sock.getsockname()[1]
        self._port = Port(BindPlan("echo", self.port, HttpSettings()), self, sock)
        self._port.start()

    async def stop(self) -> None:
        """Stop listening, and give what is under way two seconds to end."""
        port, self._port = self._port, None
        if port is None:
            return
        port.drain()
        port.stop_accepting()
        try:
            async with asyncio.timeout(_DRAIN_SECONDS):
                await port.wait_idle()
        except TimeoutError:
            port.abort()
            await port.wait_idle()
        self.sweeper.close()

    # --- Gate ---------------------------------------------------------------------------------

    def handler_for(self, bind: str) -> Handler:
        """See Gate."""
        return self._handler

    def date(self) -> bytes:
        """See Gate."""
        return b"date: %b\r\n" % self.date_value()

    def date_value(self) -> bytes:
        """See Gate."""
        return email.utils.formatdate(time.time(), usegmt=True).encode()

    def check_authority(self, raw: str) -> str:
        """See Gate."""
        return canonical.authority(raw)

    def examine(self, bind: str, connection: Connection) -> None:
        """See Gate: nobody."""

    def admit(self, bind: str, connection: Connection) -> bool:
        """See Gate: whoever reaches the loopback address."""
        return True

    async def dial(self, bind: str, listener: str, connection: Connection) -> Relay:
        """See Gate: there is nowhere to dial."""
        raise UpstreamError(503, "NoHealthyBackend", "the echo server dials nobody", sent=False)

    def handed_on(self, bind: str, connection: Connection) -> Port | None:
        """See Gate: nobody hands anything on."""
        return self._port

    def carry(self, bind: str, tunnel: str, connection: Connection) -> None:
        """See Gate: the port has no tunnels."""

    async def relay(self, bind: str, listener: str, connection: Connection, side: Relay) -> None:
        """See Gate: the port has no TCP listener."""
        side.transport.close()

    def connection_opened(self, bind: str, connection: Connection, handshake: float) -> None:
        """See Gate: nothing is counted."""

    def connection_closed(
        self, bind: str, connection: Connection, received: int, sent: int
    ) -> None:
        """See Gate: nothing is counted."""

    def request_refused(self, bind: str, connection: Connection, error: RequestError) -> None:
        """See Gate: nothing is counted."""


async def respond(request: Request) -> Response:
    """The Handler (sidecar.http.message): never raises but for CancelledError."""
    if request.path == "/sse":
        return _events(request)
    try:
        body = await read_all(request.body, MAX_BODY_BYTES)
    except BodyTooLarge as error:
        request.body.close()
        return text_response(413, f"{error}\n", reason="Echo")
    except (ClientDisconnected, RequestError) as error:
        return text_response(400, f"{error}\n", reason="Echo")
    headers: dict[str, str] = {}
    for name, value in request.headers:
        key, text = name.decode("latin-1"), value.decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    seen = {
        "method": request.method,
        "authority": request.authority,
        "path": request.target,
        "headers": headers,
        "body": body.decode("utf-8", "replace"),
    }
    data = orjson.dumps(seen, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return Response(200, Headers([(b"content-type", b"application/json")]), FixedBody(data))


def _events(request: Request) -> Response:
    text = parse_qs(request.query).get("events", ["10"])[-1]
    if not (text.isascii() and text.isdigit()) or int(text[:6]) > MAX_EVENTS:
        return text_response(400, f"events: expected a number to {MAX_EVENTS}\n", reason="Echo")
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    return Response(200, Headers(headers), EventBody(int(text)))


@final
class EventBody:
    """A Body of `count` server-sent events, one every 0.1 s."""

    __slots__ = ("_count", "_sent", "length", "trailers")

    def __init__(self, count: int) -> None:
        self.length: int | None = None
        self.trailers: Headers | None = None
        self._count = count
        self._sent = 0

    def read_nowait(self) -> bytes | None:
        """See Body: the end is at hand, an event never is but for the first."""
        if self._sent >= self._count:
            return b""
        return None if self._sent else self._next()

    async def read(self) -> bytes:
        """See Body."""
        if self._sent >= self._count:
            return b""
        if self._sent:
            await asyncio.sleep(EVENT_SECONDS)
        return self._next()

    def close(self) -> None:
        """See Body."""
        self._count = 0

    def _next(self) -> bytes:
        self._sent += 1
        number = self._sent
        return b"id: %d\ndata: event %d of %d\n\n" % (number, number, self._count)
