"""Connections on loopback and Unix sockets, and what is said when there is none."""

from __future__ import annotations

import asyncio
import socket
import ssl
from pathlib import Path

import pytest

from sidecar.errors import UpstreamError
from sidecar.net.dialer import Address, DialSettings, DirectDialer
from tests.support.certificates import Pair, make_pair
from tests.support.octets import TcpUpstream, read_all
from tests.support.origin import Origin


class Far(asyncio.Protocol):
    """The accepting side; a test waits for its end, so that nothing is left open."""

    def __init__(self) -> None:
        self.ended = asyncio.get_running_loop().create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set_result(None)


class Tls:
    """Trusts one certificate for one name."""

    def __init__(self, pair: Pair, server_hostname: str) -> None:
        self.server_hostname = server_hostname
        self.verified: list[str | None] = []
        self.refuses = False
        self._context = ssl.create_default_context(cadata=pair.cert)

    def context(self, *, http1_only: bool) -> ssl.SSLContext:
        return self._context

    def verify(self, ssl_object: ssl.SSLObject) -> None:
        self.verified.append(ssl_object.version())
        if self.refuses:
            raise ssl.SSLCertVerificationError(1, "an unwanted identity")


async def dial(
    address: Address, tls: Tls | None = None, settings: DialSettings | None = None
) -> asyncio.Transport:
    dialer = DirectDialer(asyncio.get_running_loop())
    used = DialSettings(connect_seconds=5) if settings is None else settings
    return await dialer.connect(asyncio.Protocol, address, tls, used, http1_only=True)


async def test_tcp_with_keep_alive() -> None:
    with Origin() as origin:
        settings = DialSettings(keepalive_time_seconds=7)
        transport = await dial(Address("127.0.0.1", origin.port), settings=settings)
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 7
        transport.abort()


async def test_unix(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    far = Far()
    server = await asyncio.get_running_loop().create_unix_server(lambda: far, path)
    transport = await dial(Address("", 0, path))
    assert not transport.is_closing()
    transport.abort()
    await far.ended
    server.close()


async def test_refused() -> None:
    with Origin() as origin:
        port = origin.port
    with pytest.raises(UpstreamError, match=f"connect 127.0.0.1:{port}: ") as caught:
        await dial(Address("127.0.0.1", port))
    assert (caught.value.status, caught.value.retryable, caught.value.sent) == (503, True, False)


async def test_no_unix_socket(tmp_path: Path) -> None:
    with pytest.raises(UpstreamError, match="No such file"):
        await dial(Address("", 0, str(tmp_path / "none")))


def swallow(sock: socket.socket) -> None:
    read_all(sock)


async def test_silent_handshake_times_out() -> None:
    # One that reads and says nothing, whatever octets the handshake has: an end is no time-out.
    with TcpUpstream(swallow) as silent:
        tls = Tls(make_pair("a.example"), "a.example")
        settings = DialSettings(connect_seconds=0.1)
        with pytest.raises(UpstreamError, match=r"timed out after 0\.1s") as caught:
            await dial(Address("127.0.0.1", silent.port), tls, settings)
        assert caught.value.retryable


@pytest.mark.parametrize(
    ("name", "refuses", "message"),
    [
        ("a.example", False, ""),
        ("b.example", False, "TLS: Hostname mismatch"),
        ("a.example", True, "TLS: an unwanted identity"),
    ],
)
async def test_tls(tmp_path: Path, name: str, refuses: bool, message: str) -> None:
    pair = make_pair("a.example")
    file = tmp_path / "pair.pem"
    file.write_bytes(pair.any())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    loop = asyncio.get_running_loop()
    far = Far()
    server = await loop.create_server(lambda: far, "127.0.0.1", 0, ssl=context)
    tls = Tls(pair, name)
    tls.refuses = refuses
    address = Address("127.0.0.1", server.sockets[0].getsockname()[1])
    if message:
        with pytest.raises(UpstreamError, match=message):
            await dial(address, tls)
    else:
        transport = await dial(address, tls)
        assert tls.verified == ["TLSv1.3"]
        transport.abort()
    if name == "a.example":  # else its handshake fails, and there is no connection on its side
        await far.ended
    server.close()


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("192.0.2.1", 80), "192.0.2.1:80"),
        (Address("2001:db8::1", 80), "[2001:db8::1]:80"),
        (Address("", 0, "/run/a"), "unix:/run/a"),
    ],
)
def test_address_as_text(address: Address, text: str) -> None:
    assert str(address) == text
