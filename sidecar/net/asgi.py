"""The `granian` front door's ASGI side: one exchange from scope to Request to Response.

Source: ASGI 3 (HTTP scope); RFC 9113 section 8; design section 3. Streams only HTTP/2: see
sidecar.net.granian for why.

Fields come through `h2_fields`, as those of the native HTTP/2 front door do, so both refuse and
drop the same. What ASGI cannot carry: trailers (so gRPC is refused, saying why), 1xx responses,
upgrades. A closed stream is told by `receive` alone, never by `send`; so each exchange has a task
that receives until the end, and what that task learns cancels the handler.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, Protocol, final

from sidecar.errors import ClientDisconnected, RequestError, SidecarError
from sidecar.http.client_cert import drop_unproven
from sidecar.http.h2_fields import FieldRules, MessageError, RequestHead, outgoing, request_head
from sidecar.http.h2_hpack import Block
from sidecar.http.headers import Field
from sidecar.http.message import Body, Connection, FixedBody, Handler, Request, Response
from sidecar.net.incoming import IncomingBody
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import Clock

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[Mapping[str, Any]], Awaitable[None]]
_LOOK_SECONDS: Final = 1.0
_GRPC_REFUSED: Final[list[Field]] = [
    (b"content-type", b"application/grpc"),
    (b"grpc-status", b"12"),
    (b"grpc-message", b"this front door cannot send trailers; config.frontDoor: native can"),
]


class Door(Protocol):
    """What exchanges need of the front door that serves them."""

    handler: Handler
    settings: HttpSettings
    rules: FieldRules
    sweeper: Sweeper
    clock: Clock
    date: Callable[[], bytes]

    def client_of(self, port: int) -> Client | None:
        """The relayed connection that has this port on its side of the loopback."""

    def refused(self, connection: Connection, error: RequestError) -> None:
        """A request was refused before it became one."""


@final
class Client:
    """A downstream connection relayed to Granian, and its exchanges under way.

    `deadline` cuts a connection that has none for the idle time: Granian would keep it for ever.
    """

    __slots__ = ("_cut", "_settings", "_sweeper", "connection", "deadline", "exchanges")

    def __init__(
        self,
        connection: Connection,
        settings: HttpSettings,
        sweeper: Sweeper,
        cut: Callable[[], None],
    ) -> None:
        self.connection = connection
        self.exchanges: set[Exchange] = set()
        self._settings = settings
        self._sweeper = sweeper
        self._cut = cut
        self.deadline = sweeper.time() + settings.header_read_seconds
        sweeper.add(self)

    def began(self, exchange: Exchange) -> None:
        """A request is there: not idle."""
        self.exchanges.add(exchange)
        self.deadline = 0.0

    def ended(self, exchange: Exchange) -> None:
        """Idle again, if that was the last."""
        self.exchanges.discard(exchange)
        if not self.exchanges:
            self.deadline = self._sweeper.time() + self._settings.idle_seconds

    def expire(self) -> None:
        """See Expirable."""
        self._cut()

    def lost(self) -> None:
        """The connection is gone: so is whoever waits for an answer on it."""
        self._sweeper.discard(self)
        self.deadline = 0.0
        for exchange in list(self.exchanges):
            exchange.gone("the client closed the connection")


@final
class Application:
    """The ASGI application of one front door."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request. A stranger on the loopback port is served nothing."""
        client = self._door.client_of(int(scope["client"][1]))
        if scope["type"] != "http" or client is None:
            await _answer(send, 403, [], b"")
            return
        exchange = Exchange(self._door, client, receive, send)
        client.began(exchange)
        try:
            await exchange.run(scope)
        finally:
            client.ended(exchange)


async def _answer(send: Send, status: int, fields: list[Field], text: bytes) -> None:
    headers = [*fields, (b"content-length", b"%d" % len(text))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text})


def read_scope(scope: Scope, rules: FieldRules, settings: HttpSettings) -> RequestHead:
    """The head of a request. Raises RequestError; a malformed one is a 400 here, not a reset.

    Granian gives the authority as a Host field, or Host itself where the client sent both, so
    that two different names cannot be told here (docs/frontdoors.md).
    """
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    if len(target) > settings.request_line_bytes:
        raise RequestError(414, "InvalidRequest", "request target too long")
    block = Block()
    method = scope["method"].encode("latin-1")
    block.fields = [(b":method", method), (b":scheme", b"http"), (b":path", target)]
    block.fields += scope["headers"]
    try:
        return request_head(block, rules)
    except MessageError as error:
        raise RequestError(400, "InvalidRequest", f"malformed request: {error}") from error


@final
class Exchange:
    """One request and its response. `gone` may come at any time and cancels what runs."""

    __slots__ = (
        "_body",
        "_client",
        "_door",
        "_gone",
        "_heard",
        "_receive",
        "_request",
        "_resumed",
        "_send",
        "_sending_since",
        "_sent",
        "_task",
        "deadline",
    )

    def __init__(self, door: Door, client: Client, receive: Receive, send: Send) -> None:
        self._door = door
        self._client = client
        self._receive = receive
        self._send = send
        self._task = asyncio.current_task()
        self._body: IncomingBody | None = None
        self._request: Request | None = None
        self._resumed: asyncio.Future[None] | None = None
        self._gone = ""
        """Why nobody waits for the answer any more."""
        self._sent = 0
        self._sending_since = 0.0
        self._heard = door.sweeper.time()
        self.deadline = self._heard + _LOOK_SECONDS

    async def run(self, scope: Scope) -> None:
        """From head to the end of the response."""
        door = self._door
        try:
            head = read_scope(scope, door.rules, door.settings)
        except RequestError as error:
            door.refused(self._client.connection, error)
            await _answer(
                self._send,
                error.status,
                [(b"content-type", b"text/plain"), (b"date", door.date())],
                error.message.encode(),
            )
            return
        kind = head.headers.get(b"content-type") or b""
        if kind.startswith(b"application/grpc"):
            await _answer(self._send, 200, _GRPC_REFUSED, b"")
            return
        door.sweeper.add(self)
        try:
            await self._serve(head)
        except asyncio.CancelledError:
            if not self._gone:
                raise
        finally:
            door.sweeper.discard(self)

    async def _serve(self, head: RequestHead) -> None:
        loop = asyncio.get_running_loop()
        body: Body = FixedBody()
        if head.length is None:
            # Only the first message tells whether there is a body; without asking, a GET would go
            # upstream with an empty chunked one.
            message = await self._receive()
            if message["type"] != "http.request":
                return
            if message.get("more_body"):
                body = self._make_body(None, loop)
                self._feed(message.get("body", b""))
            elif message.get("body"):
                body = FixedBody(message["body"])
        elif head.length:
            body = self._make_body(head.length, loop)
        drop_unproven(head.headers, self._client.connection)
        request = self._request = Request(
            head.method,
            "http",
            head.authority,
            head.target,
            "HTTP/2.0",
            head.headers,
            body,
            self._client.connection,
            self._door.clock.monotonic_ns(),
        )
        request.expects_continue = head.expects_continue
        pump = loop.create_task(self._pump())
        try:
            response = await self._door.handler(request)
            await self._respond(request, response)
        finally:
            request.body.close()
            pump.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await pump

    def gone(self, why: str) -> None:
        """Nobody waits for the answer: end the handler."""
        if self._gone or self._task is None:
            return
        self._gone = why
        if self._body is not None:
            self._body.fail(ClientDisconnected(why))
        self._task.cancel()

    # --- the request's body -----------------------------------------------------------------

    def _make_body(self, length: int | None, loop: asyncio.AbstractEventLoop) -> IncomingBody:
        limit = self._door.settings.stream_buffer_bytes
        body = self._body = IncomingBody(length, limit, self._flow, _nothing, loop)
        return body

    def _feed(self, data: bytes) -> None:
        assert self._body is not None
        if data:
            self._body.feed(data)
            if self._request is not None:
                self._request.received_body_bytes += len(data)

    def _flow(self, paused: bool) -> None:
        if paused:
            self._resumed = asyncio.get_running_loop().create_future()
        elif self._resumed is not None:
            resumed, self._resumed = self._resumed, None
            if not resumed.done():
                resumed.set_result(None)

    async def _pump(self) -> None:
        """Receive until the client is gone, as fast as the body is read."""
        has_ended = self._body is None
        while True:
            if self._resumed is not None:
                await self._resumed
            message = await self._receive()
            self._heard = self._door.sweeper.time()
            if message["type"] != "http.request":
                self.gone("the client reset the stream")
                return
            if not has_ended:
                self._feed(message.get("body", b""))
                if not message.get("more_body"):
                    has_ended = True
                    assert self._body is not None
                    self._body.feed_end()

    # --- the response -----------------------------------------------------------------------

    async def _respond(self, request: Request, response: Response) -> None:
        failure = "client disconnected"
        try:
            await self._send_response(request, response)
            failure = ""
        except SidecarError as error:
            # The status is out. Returning without the last message has Granian reset the stream,
            # which is how its reader learns that the response is not whole.
            failure = str(error)
        finally:
            response.body.close()
            if response.tunnel is not None:
                response.tunnel.close()
            if response.on_done is not None:
                response.on_done(self._sent, failure or self._gone)

    async def _send_response(self, request: Request, response: Response) -> None:
        body, status = response.body, response.status
        if status < 200 or response.tunnel is not None:
            raise RequestError(502, "UpstreamFailure", "a response cannot be informational")
        is_bodiless = request.method == "HEAD" or status in (204, 304)
        fields = [field for field in outgoing(response.headers) if field[0] != b"content-length"]
        length = body.length
        if length is not None and status != 204 and (length or not is_bodiless):
            fields.append((b"content-length", b"%d" % length))
        if not response.headers.has(b"date"):
            fields.append((b"date", self._door.date()))
        await self._put({"type": "http.response.start", "status": status, "headers": fields})
        if is_bodiless:
            await self._put({"type": "http.response.body"})
            return
        await self._send_body(body, length)

    async def _send_body(self, body: Body, length: int | None) -> None:
        while True:
            data = body.read_nowait()
            if data is None:
                data = await body.read()
            if not data:
                break
            if length is not None and self._sent + len(data) > length:
                raise RequestError(502, "UpstreamFailure", "the response body is too long")
            self._sent += len(data)
            is_last = length is not None and self._sent == length
            await self._put({"type": "http.response.body", "body": data, "more_body": not is_last})
            if is_last:
                return
        if length is not None and self._sent != length:
            raise RequestError(502, "UpstreamFailure", "the response body is too short")
        await self._put({"type": "http.response.body"})

    async def _put(self, message: Mapping[str, Any]) -> None:
        self._sending_since = self._door.sweeper.time()
        await self._send(message)
        self._sending_since = 0.0

    def expire(self) -> None:
        """Look whether the client keeps us waiting for longer than it may."""
        now = self._door.sweeper.time()
        stall = self._door.settings.body_stall_seconds
        body = self._body
        if self._sending_since and now - self._sending_since >= stall:
            self.gone("the client does not read")
        elif self._request is None and now - self._heard >= stall:
            self.gone("the request body stalled")
        elif body is not None and body.is_awaited and now - self._heard >= stall:
            body.fail(RequestError(408, "Timeout", "request body stalled"))
        self.deadline = now + _LOOK_SECONDS


def _nothing() -> None:
    """Whoever gave the body up: what comes of it is received and dropped."""
