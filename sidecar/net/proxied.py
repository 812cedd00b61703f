"""Dials through a proxy: HTTP CONNECT, then TLS or whatever comes inside.

Source: RFC 9110 section 9.3.6; RFC 9112 section 3.2.3; spec/config.md section 3.11 (backendTunnel).

The proxy gets a head, and its answer is read up to the empty line. What comes behind that is the
target's; but before TLS a target has nothing to say, so that octets there are a fault.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol, cast, final

from sidecar.errors import SidecarError, UpstreamError
from sidecar.http import h1
from sidecar.net.dialer import Address, DialSettings, UpstreamTls, connect_failed, dialling

_LIMITS: Final = h1.HeadLimits(block_bytes=16 * 1024, count=100)


@final
@dataclass(frozen=True, slots=True)
class Way:
    """How a proxy is reached for one connection. `head`: the whole request, with its empty line."""

    open: Callable[[Callable[[], asyncio.Protocol]], Awaitable[None]]
    """Connects a protocol to one of its endpoints. Raises: SidecarError."""
    head: bytes
    label: str
    ended: Callable[[SidecarError | None], None]
    """Tells how that went; once."""


class Proxy(Protocol):
    """Knows a proxy."""

    async def way(self, target: str) -> Way:
        """To `host:port` by one of its endpoints. Raises: SidecarError."""


@final
class ProxyDialer:
    """A Dialer by way of a proxy; `address` may then hold a name, which the proxy resolves."""

    __slots__ = ("_loop", "_proxy")

    def __init__(self, proxy: Callable[[], Proxy], loop: asyncio.AbstractEventLoop) -> None:
        """`proxy()`: that of the newest configuration."""
        self._proxy = proxy
        self._loop = loop

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        tls: UpstreamTls | None,
        settings: DialSettings,
        *,
        http1_only: bool,
    ) -> asyncio.Transport:
        """See Dialer."""
        async with dialling(address, settings.connect_seconds, ", through a proxy"):
            return await self._connected(factory, address, tls, http1_only)

    async def _connected(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        tls: UpstreamTls | None,
        http1_only: bool,
    ) -> asyncio.Transport:
        transport, rest = await self._opened(address)
        try:
            if tls is None:
                return _handed_over(transport, factory(), rest)
            if rest:
                raise connect_failed(address, "the proxy sent octets before TLS began")
            return await self._secured(transport, factory, tls, http1_only)
        except BaseException:
            transport.abort()
            raise

    async def _opened(self, address: Address) -> tuple[asyncio.Transport, bytes]:
        """A connection that is the target's from now on, and its first octets."""
        way = await self._proxy().way(str(address))
        failure: SidecarError | None = None
        try:
            asked = _Asked(self._loop)
            await way.open(lambda: asked)
            transport = asked.transport
            try:
                transport.write(way.head)
                status, rest = await asked.answer
                if not 200 <= status < 300:
                    raise connect_failed(address, f"the proxy {way.label} answered {status}")
            except BaseException:
                transport.abort()
                raise
            return transport, rest
        except SidecarError as error:
            failure = error
            raise
        except OSError as error:
            failure = connect_failed(address, str(error))
            raise failure from error
        finally:
            way.ended(failure)

    async def _secured(
        self,
        transport: asyncio.Transport,
        factory: Callable[[], asyncio.Protocol],
        tls: UpstreamTls,
        http1_only: bool,
    ) -> asyncio.Transport:
        protocol = factory()
        context = tls.context(http1_only=http1_only)
        made = await self._loop.start_tls(
            transport, protocol, context, server_hostname=tls.server_hostname
        )
        if made is None:
            raise ConnectionError("the connection was closed during the handshake")
        try:
            tls.verify(made.get_extra_info("ssl_object"))
        except ssl.SSLError:
            made.abort()
            raise
        protocol.connection_made(made)
        return made


def _handed_over(
    transport: asyncio.Transport, protocol: asyncio.Protocol, rest: bytes
) -> asyncio.Transport:
    transport.set_protocol(protocol)
    protocol.connection_made(transport)
    if rest:
        protocol.data_received(rest)
    transport.resume_reading()
    return transport


@final
class _Asked(asyncio.Protocol):
    """Reads a proxy's answer. `answer`: its status, and what came behind its head."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._data = b""
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if self.answer.done():
            return
        self._data += data
        try:
            # The answer to CONNECT has no body when it is a success; others end the connection.
            head = h1.parse_response(self._data, True, _LIMITS)
            while head is not None and head.status < 200:
                self._data = self._data[head.size :]
                head = h1.parse_response(self._data, True, _LIMITS)
        except UpstreamError as error:
            self.answer.set_exception(ConnectionError(f"the proxy: {error.message}"))
            return
        if head is not None:
            # What comes from now on is for another protocol.
            self.transport.pause_reading()
            self.answer.set_result((head.status, self._data[head.size :]))

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.answer.done():
            self.answer.set_exception(ConnectionError("the proxy closed the connection"))
