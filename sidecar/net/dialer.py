"""How octets reach an upstream: the seam between the pool and TCP, TLS, Unix sockets and tunnels.

Source: design section 3 ("Dialer"); spec/config.md section 4.9.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol, final

from sidecar.errors import UpstreamError


@final
@dataclass(frozen=True, slots=True)
class Address:
    """Where an endpoint is: an IP literal and a port, or the path of a Unix socket."""

    host: str
    port: int
    unix: str = ""
    hop: str = ""
    """How a mesh reaches it, in the mesh's own words; "" for directly."""

    def __str__(self) -> str:
        """As logs and metrics name it."""
        if self.unix:
            return f"unix:{self.unix}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@final
@dataclass(frozen=True, slots=True)
class DialSettings:
    """Connection settings of a backend; times in seconds (spec/config.md section 4.9)."""

    connect_seconds: float = 10.0
    keepalive: bool = True
    keepalive_time_seconds: int = 180
    keepalive_interval_seconds: int = 180
    keepalive_retries: int = 9


class UpstreamTls(Protocol):
    """TLS towards an upstream, made once from `backendTLS`."""

    server_hostname: str

    def context(self, *, http1_only: bool) -> ssl.SSLContext:
        """The context to connect with; `http1_only` offers no h2 in ALPN."""

    def verify(self, ssl_object: ssl.SSLObject) -> None:
        """Checks beyond the chain, after the handshake. Raises ssl.SSLCertVerificationError."""


class Dialer(Protocol):
    """Opens a transport to an address."""

    async def connect(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        tls: UpstreamTls | None,
        settings: DialSettings,
        *,
        http1_only: bool,
    ) -> asyncio.Transport:
        """Connect within `settings.connect_seconds`; the protocol is `factory`'s.

        Raises: UpstreamError, retryable.
        """


def connect_failed(address: Address, why: str) -> UpstreamError:
    """Nothing of the request was sent."""
    return UpstreamError(
        503,
        "UpstreamFailure",
        f"upstream call failed: connect {address}: {why}",
        retryable=True,
        sent=False,
    )


@asynccontextmanager
async def dialling(address: Address, seconds: float, way: str = "") -> AsyncIterator[None]:
    """What is done within is done in time, and fails with words. Raises: UpstreamError.

    `way`: behind a time-out, as `, through a proxy`.
    """
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as exc:
        raise connect_failed(address, f"timed out after {seconds:g}s{way}") from exc
    except ssl.SSLError as exc:
        # Which of these an error has depends on who raised it.
        said = getattr(exc, "verify_message", "") or getattr(exc, "reason", "") or str(exc)
        raise connect_failed(address, f"TLS: {said}") from exc
    except OSError as exc:
        raise connect_failed(address, exc.strerror or str(exc) or type(exc).__name__) from exc


@final
class DirectDialer:
    """TCP, TLS over TCP, and Unix sockets."""

    __slots__ = ("_loop", "mark")

    def __init__(self, loop: asyncio.AbstractEventLoop, mark: int = 0) -> None:
        self._loop = loop
        self.mark = mark
        """Packet mark (SO_MARK) of what is dialled from now on; 0 for none."""

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
        async with dialling(address, settings.connect_seconds):
            transport = await self._open(factory, address, tls, http1_only)
        if not address.unix and settings.keepalive:
            _keep_alive(transport, settings)
        return transport

    async def _open(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        tls: UpstreamTls | None,
        http1_only: bool,
    ) -> asyncio.Transport:
        arguments: dict[str, Any] = {}
        if tls is not None:
            arguments["ssl"] = tls.context(http1_only=http1_only)
            arguments["server_hostname"] = tls.server_hostname
        if address.unix:
            made = await self._loop.create_unix_connection(factory, address.unix, **arguments)
        elif self.mark:
            made = await self._open_marked(factory, address, arguments)
        else:
            made = await self._loop.create_connection(
                factory, address.host, address.port, **arguments
            )
        transport: asyncio.Transport = made[0]
        if tls is not None:
            try:
                tls.verify(transport.get_extra_info("ssl_object"))
            except ssl.SSLError:
                transport.abort()
                raise
        return transport

    async def _open_marked(
        self,
        factory: Callable[[], asyncio.Protocol],
        address: Address,
        arguments: dict[str, Any],
    ) -> tuple[asyncio.Transport, asyncio.Protocol]:
        """The mark counts from the first packet on, so the socket has it before it connects."""
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, self.mark)
            await self._loop.sock_connect(sock, (address.host, address.port))
        except BaseException:
            sock.close()
            raise
        return await self._loop.create_connection(factory, sock=sock, **arguments)


def _keep_alive(transport: asyncio.Transport, settings: DialSettings) -> None:
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is None:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, settings.keepalive_time_seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, settings.keepalive_interval_seconds)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, settings.keepalive_retries)
