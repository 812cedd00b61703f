"""Connections to one endpoint: kept, reused, replaced; HTTP/1.1 and HTTP/2.

Source: design section 3; spec/config.md section 4.9.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal, final

from sidecar.errors import UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.net.dialer import Address, Dialer, DialSettings, UpstreamTls
from sidecar.net.h1_client import H1Client, call_failed
from sidecar.net.h2_client import H2Client
from sidecar.net.sweep import Sweeper

Version = Literal["h1", "h2", "auto"]
"""`auto` lets ALPN decide; without TLS it is HTTP/1.1."""

_FRAMING: Final = frozenset((b"content-length", b"transfer-encoding"))


@final
@dataclass(slots=True)
class Call:
    """One request as it goes upstream. `headers`: no Host, content-length ignored."""

    method: str
    scheme: str
    authority: str
    target: str
    headers: Headers
    body: Body
    request: Request
    upgrade: str = ""
    wants_trailers: bool = False

    def h1_head(self) -> bytes:
        """Request line and fields, up to where the framing field goes. Raises UpstreamError."""
        lines = [b"%b: %b\r\n" % field for field in self.headers if field[0] not in _FRAMING]
        count = len(lines) + 2
        if self.wants_trailers:
            lines.append(b"connection: te\r\nte: trailers\r\n")
            count += 2
        elif self.upgrade:
            lines.append(b"connection: upgrade\r\nupgrade: %b\r\n" % self.upgrade.encode("latin-1"))
            count += 2
        line = f"{self.method} {self.target} HTTP/1.1\r\nhost: {self.authority}\r\n"
        head = line.encode("latin-1", "replace") + b"".join(lines)
        named = self.method + self.target + self.authority
        # Policies and expressions may have built these octets; none may end a line early.
        if (
            head.count(b"\n") != count
            or head.count(b"\r") != count
            or b"\0" in head
            or not (named.isascii() and named.isprintable())
            or " " in named
        ):
            raise UpstreamError(500, "Internal", "invalid http: a rewritten request is malformed")
        return head


@final
@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Bounds of a pool; 0 idle connections would disable reuse."""

    idle_seconds: float = 90.0
    max_idle: int = 1024
    dial: DialSettings = DialSettings()  # noqa: RUF009 - frozen and without state
    answer_seconds: float = 900.0
    """How long a response head may take after the last progress of its request."""


@final
class Pool:
    """The connections to one address with one way of TLS.

    `on_connect(seconds, transport_name)` is told of each connection made.
    """

    __slots__ = (
        "_dialer",
        "_h2",
        "_h2_connecting",
        "_idle",
        "_live",
        "_loop",
        "_on_connect",
        "_settings",
        "_sweeper",
        "_tls",
        "address",
        "closed",
    )

    def __init__(
        self,
        address: Address,
        tls: UpstreamTls | None,
        dialer: Dialer,
        settings: PoolSettings,
        loop: asyncio.AbstractEventLoop,
        sweeper: Sweeper,
        on_connect: Callable[[float, str], None],
    ) -> None:
        self.address = address
        self.closed = False
        self._tls = tls
        self._dialer = dialer
        self._settings = settings
        self._loop = loop
        self._sweeper = sweeper
        self._on_connect = on_connect
        self._idle: list[H1Client] = []
        self._live: set[H1Client] = set()
        self._h2: list[H2Client] = []
        self._h2_connecting: asyncio.Task[H2Client | None] | None = None

    async def send(self, call: Call, version: Version) -> Response:
        """One exchange, on a kept connection where there is one. Raises UpstreamError."""
        if version == "h1":
            return await self._send_h1(call)
        if version == "h2" or self._tls is not None:
            return await self._send_h2(call, version)
        return await self._send_h1(call)

    async def _send_h1(self, call: Call, first: H1Client | None = None) -> Response:
        head = call.h1_head()
        body = call.body
        # What is wholly at hand can be sent again when a kept connection proves stale.
        whole = body.read_nowait() if type(body) is FixedBody else None
        client = first or self._take()
        while client is not None:
            try:
                if whole is not None:
                    body = FixedBody(whole)
                return await client.exchange(head, body, call.request, call.method)
            except UpstreamError as error:
                if error.sent or whole is None:
                    raise
            client = self._take()
        client = await self._connect_h1()
        if whole is not None:
            body = FixedBody(whole)
        return await client.exchange(head, body, call.request, call.method)

    def take_kept(self) -> H1Client | None:
        """A kept HTTP/1.1 connection that is free now, for `H1Client.begin`."""
        return self._take()

    def _take(self) -> H1Client | None:
        idle = self._idle
        while idle:
            client = idle.pop()
            if client.is_usable:
                return client
        return None

    def _released(self, client: H1Client) -> None:
        if self.closed or len(self._idle) >= self._settings.max_idle:
            client.close()
            return
        client.deadline = self._sweeper.time() + self._settings.idle_seconds
        self._idle.append(client)

    def _lost(self, client: H1Client) -> None:
        self._live.discard(client)
        # Left in place, dead ones under a busy one would fill the pool up to its bound.
        if client in self._idle:
            self._idle.remove(client)

    def _make_h1(self) -> H1Client:
        return H1Client(
            self._loop,
            self._sweeper,
            self._released,
            self._lost,
            answer_seconds=self._settings.answer_seconds,
        )

    async def _connect_h1(self) -> H1Client:
        client = self._make_h1()
        await self._dial(lambda: client, http1_only=True)
        if client.is_usable:
            self._live.add(client)
        return client

    async def _dial(
        self, factory: Callable[[], asyncio.Protocol], *, http1_only: bool
    ) -> asyncio.Transport:
        started = time.monotonic()
        transport = await self._dialer.connect(
            factory, self.address, self._tls, self._settings.dial, http1_only=http1_only
        )
        self._on_connect(
            time.monotonic() - started, "tls" if self._tls is not None else "plaintext"
        )
        return transport

    async def open_stream(self, factory: Callable[[], asyncio.Protocol]) -> None:
        """A connection of its own for octets that are not HTTP (TCP routes)."""
        await self._dial(factory, http1_only=True)

    # --- HTTP/2 ---------------------------------------------------------------------------

    async def _send_h2(self, call: Call, version: Version) -> Response:
        for _ in range(3):
            client = self._take_h2()
            if client is None:
                if version == "auto" and (kept := self._take()) is not None:
                    return await self._send_h1(call, kept)
                client = await self._connect_h2(version)
                if client is None:
                    return await self._send_h1(call)
            if not client.can_take:
                continue
            head = (call.method, call.scheme, call.authority, call.target, call.headers)
            return await client.request(call.request, head=head, body=call.body)
        raise call_failed("no HTTP/2 stream to be had", sent=False)

    def _take_h2(self) -> H2Client | None:
        for client in self._h2:
            if client.can_take:
                return client
        return None

    async def _connect_h2(self, version: Version) -> H2Client | None:
        """One connection is made at a time: those who wait share it. See `_open_h2`."""
        task = self._h2_connecting
        if task is None:
            task = self._loop.create_task(self._open_h2(version))
            self._h2_connecting = task
            task.add_done_callback(self._h2_connected)
        return await asyncio.shield(task)

    def _h2_connected(self, task: asyncio.Task[H2Client | None]) -> None:
        self._h2_connecting = None
        if not task.cancelled():
            task.exception()  # each waiter gets it; an abandoned one is no surprise

    async def _open_h2(self, version: Version) -> H2Client | None:
        """None when ALPN chose HTTP/1.1: the connection is kept then, for whoever takes it first.

        Nobody owns it by being handed it: all who waited may be gone. Raises UpstreamError.
        """
        chooser = _Chooser(self)
        if version == "h2" and self._tls is None:
            client = self._make_h2()
            await self._dial(lambda: client, http1_only=False)
            return self._keep_h2(client)
        transport = await self._dial(lambda: chooser, http1_only=False)
        alpn = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if alpn == "h2":
            client = self._make_h2()
            chooser.hand_over(transport, client)
            return self._keep_h2(client)
        if version == "h2":
            transport.abort()
            raise call_failed("the upstream does not offer HTTP/2 in ALPN", sent=False)
        fallback = self._make_h1()
        chooser.hand_over(transport, fallback)
        if fallback.is_usable:
            self._live.add(fallback)
            self._released(fallback)
        return None

    def _keep_h2(self, client: H2Client) -> H2Client:
        """Offer a fresh connection to all, unless it is gone already. Raises UpstreamError."""
        if self.closed:
            client.close()  # nobody would close it later
            raise call_failed("the backend was removed", sent=False)
        if not client.transport.is_closing():
            self._h2.append(client)
        return client

    def _make_h2(self) -> H2Client:
        return H2Client(
            self._loop,
            self._sweeper,
            on_closed=self._h2_lost,
            answer_seconds=self._settings.answer_seconds,
        )

    def _h2_lost(self, client: H2Client) -> None:
        if client in self._h2:
            self._h2.remove(client)

    # --- the owner's side -----------------------------------------------------------------

    def close(self) -> None:
        """Drop idle connections; those in use are dropped as they finish."""
        self.closed = True
        for client in self._idle:
            client.close()
        self._idle.clear()
        for h2_client in list(self._h2):
            h2_client.close()

    @property
    def open_connections(self) -> int:
        """Connections in use or kept."""
        return len(self._live) + len(self._h2)


@final
class _Chooser(asyncio.Protocol):
    """Holds a fresh TLS connection until ALPN has said which protocol it speaks."""

    def __init__(self, pool: Pool) -> None:
        self._early = b""
        self._lost = False

    def data_received(self, data: bytes) -> None:
        """A server may speak first (HTTP/2 SETTINGS)."""
        self._early += data

    def connection_lost(self, exc: Exception | None) -> None:
        """Gone before anybody used it."""
        self._lost = True

    def hand_over(self, transport: asyncio.Transport, protocol: asyncio.Protocol) -> None:
        """Make `protocol` the connection's protocol."""
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        if self._early:
            protocol.data_received(self._early)
        if self._lost:
            protocol.connection_lost(None)
