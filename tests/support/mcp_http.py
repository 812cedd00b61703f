"""An HTTP server for MCP tests that a script controls octet by octet, and the way to it.

A script is a coroutine that gets an `Exchange`. The sender is the gateway's own pool.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request, Response
from sidecar.mcp.upstream.base import Era, Held, Messages, Outbound, Scope
from sidecar.net.dialer import Address, DirectDialer
from sidecar.net.pool import Call, Pool, PoolSettings
from sidecar.net.sweep import Sweeper

PATIENCE_SECONDS = 20.0


class Exchange:
    """One request as it came, and its answer as it is made."""

    def __init__(
        self,
        method: str,
        target: str,
        headers: dict[str, str],
        body: bytes,
        out: asyncio.StreamWriter,
    ) -> None:
        self.method = method
        self.target = target
        self.headers = headers
        self.body = body
        self.gone = asyncio.Event()
        """The other side has closed the connection."""
        self._out = out

    @property
    def json(self) -> dict[str, Any]:
        return json.loads(self.body)  # type: ignore[no-any-return]

    async def head(self, status: int = 200, **headers: str) -> None:
        """The head of a chunked answer."""
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        head = f"HTTP/1.1 {status} X\r\ntransfer-encoding: chunked\r\n{''.join(lines)}\r\n"
        self._out.write(head.encode())
        await self._out.drain()

    async def stream(self, **headers: str) -> None:
        """The head of an event stream."""
        await self.head(content_type="text/event-stream", **headers)

    async def chunk(self, data: bytes) -> None:
        self._out.write(b"%x\r\n%b\r\n" % (len(data), data))
        await self._out.drain()

    async def event(self, message: object, *, id: str = "", name: str = "", retry: int = 0) -> None:
        lines = [f"id: {id}\n"] if id else []
        lines += [f"event: {name}\n"] if name else []
        lines += [f"retry: {retry}\n"] if retry else []
        data = message if isinstance(message, str) else json.dumps(message)
        await self.chunk(f"{''.join(lines)}data: {data}\n\n".encode())

    async def finish(self) -> None:
        self._out.write(b"0\r\n\r\n")
        await self._out.drain()

    def cut(self) -> None:
        """End the connection in the middle."""
        self._out.transport.abort()

    async def whole(self, status: int = 200, body: object = b"", **headers: str) -> None:
        """An answer with its length."""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        if not isinstance(body, bytes):
            headers.setdefault("content_type", "application/json")
        lines = [f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items()]
        head = f"HTTP/1.1 {status} X\r\ncontent-length: {len(raw)}\r\n{''.join(lines)}\r\n"
        self._out.write(head.encode() + raw)
        await self._out.drain()

    async def result(self, **result: Any) -> None:
        """The answer to the request, as a JSON document."""
        await self.whole(200, {"jsonrpc": "2.0", "id": self.json["id"], "result": result})


Script = Callable[[Exchange], Awaitable[None]]


@dataclass
class Sender:
    """SendHttp over a pool, to one address."""

    pool: Pool
    pin: str
    seen: list[Exchange] = field(default_factory=list)
    connections: int = 0

    async def __call__(
        self, request: Request, timeout_seconds: float, pin: str = ""
    ) -> tuple[Response, str]:
        if pin not in ("", self.pin):
            raise UpstreamError(503, "UpstreamFailure", f"{pin} is gone", sent=False)
        call = Call(
            request.method,
            "http",
            request.authority,
            request.target,
            request.headers,
            request.body,
            request,
        )
        async with asyncio.timeout(timeout_seconds):
            return await self.pool.send(call, "h1"), self.pin


@asynccontextmanager
async def http_server(script: Script) -> AsyncIterator[Sender]:
    """A server on a free port of the loop's own, and the sender that reaches it."""
    tasks: set[asyncio.Task[None]] = set()
    loop = asyncio.get_running_loop()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                exchange = await read_exchange(reader, writer)
                sender.seen.append(exchange)
                running = loop.create_task(_run(script, exchange))
                tasks.add(running)
                if not await _until_next(reader, running):
                    exchange.gone.set()
                    await asyncio.wait((running,), timeout=PATIENCE_SECONDS)
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.transport.abort()

    def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender.connections += 1
        tasks.add(loop.create_task(converse(reader, writer)))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with sender_to(server.sockets[0].getsockname()[1]) as sender:
            yield sender
    finally:
        server.close()
        # Connections end by themselves now; scripts that still wait for something do not.
        _, late = await asyncio.wait(tasks, timeout=0.2) if tasks else (set(), set())
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late)
        await asyncio.sleep(0)


@asynccontextmanager
async def sender_to(port: int) -> AsyncIterator[Sender]:
    """The gateway's own way to a port of this machine."""
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    pool = Pool(
        Address("127.0.0.1", port),
        None,
        DirectDialer(loop),
        PoolSettings(),
        loop,
        sweeper,
        lambda *_: None,
    )
    try:
        yield Sender(pool, f"127.0.0.1:{port}")
    finally:
        pool.close()
        sweeper.close()


async def _run(script: Script, exchange: Exchange) -> None:
    with contextlib.suppress(ConnectionError):
        await script(exchange)


async def _until_next(reader: asyncio.StreamReader, running: asyncio.Task[None]) -> bool:
    """Until the answer is made, or the client has left; False then."""
    left = asyncio.ensure_future(_left(reader))
    await asyncio.wait((left, running), return_when=asyncio.FIRST_COMPLETED)
    if left.done():
        return False
    left.cancel()
    await asyncio.wait((left,))
    return True


async def _left(reader: asyncio.StreamReader) -> None:
    while not reader.at_eof():  # noqa: ASYNC110 - a reader tells of its end to who reads alone
        await asyncio.sleep(0.005)


async def read_exchange(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Exchange:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.strip().split("\r\n")
    method, target, _ = line.split(" ")
    headers = dict(field.split(": ", 1) for field in fields)
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Exchange(method, target, headers, body, writer)


def client_request(headers: Headers | None = None) -> Request:
    """What the client of the gateway sent."""
    connection = Connection("192.0.2.7", 1234, "192.0.2.1", 80)
    return Request(
        "POST", "http", "gw.example", "/mcp", "HTTP/1.1", headers or Headers(), FixedBody(),
        connection, 0,
    )  # fmt: skip


def outbound(
    method: str = "tools/call",
    params: dict[str, Any] | None = None,
    *,
    id: str | int | None = 1,
    era: Era = "legacy",
    version: str = "2025-11-25",
    held: Held | None = None,
    scope: Scope | None = None,
    headers: Headers | None = None,
    message: dict[str, Any] | None = None,
) -> Outbound:
    """A message on its way to a server; without `id` a notification."""
    if message is None:
        message = {"jsonrpc": "2.0", "method": method}
        if id is not None:
            message["id"] = id
        if params is not None:
            message["params"] = params
    return Outbound(
        message,
        era,
        version,
        client_request(),
        headers or Headers(),
        scope or Scope("session", b"s1", 0),
        held or Held(),
    )


async def drained(messages: Messages) -> list[dict[str, Any]]:
    """All messages up to the end."""
    taken = []
    async with asyncio.timeout(PATIENCE_SECONDS):
        while (inbound := await messages.next()) is not None:
            taken.append(inbound.message)
    return taken


async def until(is_true: Callable[[], bool], what: object = "") -> None:
    """Wait for what no event tells."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_true():  # noqa: ASYNC110 - of processes there is no event
            await asyncio.sleep(0.005)
