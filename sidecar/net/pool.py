"""Connections to one endpoint: kept, reused, replaced; HTTP/1.1 and HTTP/2.

Source: design section 3; spec/config.md section 4.9.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final, Literal, final

from sidecar.errors import UpstreamError
from sidecar.http.headers import Field, Headers
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.http.spelling import REQUEST as SPELLING
from sidecar.http.spelling import respelt
from sidecar.net import h2_client
from sidecar.net.dialer import Address, Dialer, DialSettings, UpstreamTls
from sidecar.net.h1_client import H1Client, call_failed
from sidecar.net.h2_client import H2Client
from sidecar.net.sweep import Sweeper

Version = Literal["h1", "h2", "auto"]
"""`auto` lets ALPN decide; without TLS it is HTTP/1.1."""

_TRAILERS_WANTED: Final = (b"connection: te", b"te: trailers")
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
        """See the function."""
        spelling = self.request.state.get(SPELLING)
        if spelling is not None:
            line = request_line(self.method, self.target, self.authority, spelling)
            return line + field_lines(
                self.headers, self.upgrade, self.wants_trailers, spelling=spelling
            )
        return h1_head(
            self.method,
            self.target,
            self.authority,
            self.headers,
            self.upgrade,
            self.wants_trailers,
        )


def h1_head(
    method: str,
    target: str,
    authority: str,
    headers: Headers,
    upgrade: str,
    wants_trailers: bool,
) -> bytes:
    """Request line and fields, up to where the framing field goes. Raises UpstreamError."""
    return request_line(method, target, authority) + field_lines(headers, upgrade, wants_trailers)


def request_line(method: str, target: str, authority: str, spelling: object = None) -> bytes:
    """The request line and the Host field. `spelling`: see `field_lines`. Raises UpstreamError."""
    named = method + target + authority
    # Policies and expressions may have built these octets; none may end a line early.
    if not (named.isascii() and named.isprintable()) or " " in named:
        raise _malformed()
    line = f"{method} {target} HTTP/1.1\r\nhost: {authority}\r\n".encode()
    if spelling is None:
        return line
    ((name, _),) = respelt(((b"host", b""),), spelling)
    return line.replace(b"\r\nhost:", b"\r\n" + name + b":")


def field_lines(
    headers: list[Field],
    upgrade: str = "",
    wants_trailers: bool = False,
    *,
    spelling: object = None,
) -> bytes:
    """The fields of a request but for those of its framing. Raises UpstreamError.

    `spelling`: see `sidecar.http.spelling`.
    """
    # Fast path: spelling hardly ever matters to anybody.
    if spelling is None:
        lines = [b": ".join(field) for field in headers if field[0] not in _FRAMING]
    else:
        kept = respelt((field for field in headers if field[0] not in _FRAMING), spelling)
        lines = [b": ".join(field) for field in kept]
    if wants_trailers:
        lines += _TRAILERS_WANTED
    elif upgrade:
        lines += (b"connection: upgrade", b"upgrade: " + upgrade.encode("latin-1"))
    count = len(lines)
    lines.append(b"")
    fields = b"\r\n".join(lines)
    # As in `request_line`.
    if fields.count(b"\n") != count or fields.count(b"\r") != count or b"\0" in fields:
        raise _malformed()
    return fields


def _malformed() -> UpstreamError:
    return UpstreamError(500, "Internal", "invalid http: a rewritten request is malformed")


@final
@dataclass(frozen=True, slots=True)
class PoolSettings:
    """Bounds of a pool; 0 idle connections would disable reuse."""

    idle_seconds: float = 90.0
    max_idle: int = 1024
    dial: DialSettings = DialSettings()  # noqa: RUF009 - frozen and without state
    answer_seconds: float = 900.0
    """How long a response head may take after the last progress of its request."""
    proxy: str = ""
    """Names the proxy on the way (gateway.upstream.Pools.proxies); "" for none."""


@final
class Pool:
    """The connections to one address with one way of TLS.

    `on_connect(seconds, transport_name)` is told of each connection made.
    """

    __slots__ = (
        "_dialer",
        "_h2",
        "_h2_connecting",
        "_h2_settings",
        "_h2_waiting",
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
        self._h2_settings = replace(h2_client.SETTINGS, idle_seconds=settings.idle_seconds)
        self._h2_waiting = 0
        """Calls that wait for the connection being made."""

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
        client = first or self.take_kept()
        while client is not None:
            try:
                if whole is not None:
                    body = FixedBody(whole)
                return await client.exchange(head, body, call.request, call.method)
            except UpstreamError as error:
                if error.sent or whole is None:
                    raise
            client = self.take_kept()
        client = await self._connect_h1()
        if whole is not None:
            body = FixedBody(whole)
        return await client.exchange(head, body, call.request, call.method)

    def take_kept(self) -> H1Client | None:
        """A kept HTTP/1.1 connection that is free now, for `H1Client.begin`."""
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
                if version == "auto" and (kept := self.take_kept()) is not None:
                    return await self._send_h1(call, kept)
                client = await self._connect_h2(version)
                if client is None:
                    return await self._send_h1(call)
            if not client.can_take:
                continue
            head = (call.method, call.scheme, call.authority, call.target, call.headers)
            try:
                return await client.request(call.request, head=head, body=call.body)
            finally:
                if self.closed:
                    client.close()
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
        self._h2_waiting += 1
        try:
            return await asyncio.shield(task)
        finally:
            self._h2_waiting -= 1

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
        """Offer a fresh connection to all, unless it is gone already.

        When the backend was removed meanwhile, it is for those alone who wait, for they end on the
        configuration that they began with; they close it.
        """
        if self.closed:
            if not self._h2_waiting:
                client.close()
        elif not client.transport.is_closing():
            self._h2.append(client)
        return client

    def _make_h2(self) -> H2Client:
        return H2Client(
            self._loop,
            self._sweeper,
            on_closed=self._h2_lost,
            settings=self._h2_settings,
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
        for multiplexed in list(self._h2):
            multiplexed.close()

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
