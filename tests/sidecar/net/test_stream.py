"""Streams as transports: pipes, back pressure, half closes, and TLS in the middle of them."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.net.pipe import PipeEnd, PipeError, PipeTunnel, pipe
from sidecar.net.stream import ByteStream, StreamTransport, Unread
from sidecar.net.tls_stream import TlsStream
from tests.support.authority import Authority

SECONDS = 20.0
BODY = bytes(range(256)) * 4096  # 1 MiB


class Peer(asyncio.Protocol):
    """Notes what happens."""

    def __init__(self, *, stays: bool = True) -> None:
        self.data = b""
        self.stays = stays
        self.ended = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.pauses = 0
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.data += data

    def eof_received(self) -> bool:
        self.ended.set()
        return self.stays

    def pause_writing(self) -> None:
        self.pauses += 1

    def resume_writing(self) -> None:
        self.pauses += 1

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


class Buffered(asyncio.BufferedProtocol):
    """Takes so many octets at a time."""

    def __init__(self, size: int) -> None:
        self._buffer = bytearray(size)
        self.data = b""
        self.ended = asyncio.Event()

    def eof_received(self) -> bool:
        self.ended.set()
        return True

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data += self._buffer[:nbytes]


async def soon(work: Awaitable[Any]) -> Any:
    return await asyncio.wait_for(work, SECONDS)


async def read_all(stream: ByteStream) -> bytes:
    data = b""
    while part := await soon(stream.read()):
        data += part
    return data


def joined(make: Callable[[], Any] = Peer) -> tuple[Any, StreamTransport, PipeEnd]:
    """A protocol on one end of a pipe, its transport, and the other end."""
    loop = asyncio.get_running_loop()
    near, far = pipe(loop)
    protocol = make()
    return protocol, StreamTransport(loop, near, protocol), far


async def test_octets_pass_both_ways_and_each_way_ends_alone() -> None:
    peer, transport, far = joined()
    transport.write(b"out")
    assert await soon(far.read()) == b"out"
    await far.write(b"in")
    await far.write_eof()
    await soon(peer.ended.wait())
    assert peer.data == b"in"
    transport.write(b"more")
    transport.write_eof()
    assert await read_all(far) == b"more"
    transport.close()
    assert await soon(peer.lost) is None
    assert transport.closed.done()


async def test_a_protocol_that_does_not_stay_is_closed_with_its_peer() -> None:
    peer, _, far = joined(lambda: Peer(stays=False))
    await far.write_eof()
    assert await soon(peer.lost) is None
    assert await read_all(far) == b""


async def test_who_writes_is_told_to_wait() -> None:
    peer, transport, far = joined()
    transport.write(BODY)
    assert peer.pauses == 1
    assert transport.get_write_buffer_size() > 0
    transport.write_eof()
    assert await read_all(far) == BODY
    assert (peer.pauses, transport.get_write_buffer_size()) == (2, 0)
    transport.abort()
    await soon(peer.lost)


async def test_who_does_not_read_makes_the_sender_wait() -> None:
    peer, transport, far = joined()
    transport.pause_reading()
    assert not transport.is_reading()
    sending = asyncio.ensure_future(far.write(BODY))
    done, _ = await asyncio.wait([sending], timeout=0.05)
    assert not done
    assert peer.data == b""
    transport.resume_reading()
    await soon(sending)
    await far.write_eof()
    await soon(peer.ended.wait())
    assert peer.data == BODY
    transport.abort()
    await soon(peer.lost)


@pytest.mark.parametrize("size", [1, 7, 65536])
async def test_protocols_with_a_buffer_of_their_own(size: int) -> None:
    peer, transport, far = joined()
    buffered = Buffered(size)
    transport.set_protocol(buffered)
    assert transport.get_protocol() is buffered
    data = BODY[: size * 3000]
    await soon(far.write(data))
    await far.write_eof()
    await soon(buffered.ended.wait())
    assert buffered.data == data
    transport.set_protocol(peer)
    transport.abort()
    await soon(peer.lost)


async def test_what_was_written_before_a_close_still_goes_out() -> None:
    peer, transport, far = joined()
    transport.write(BODY)
    transport.close()
    transport.write(b"too late")
    assert transport.is_closing()
    assert await read_all(far) == BODY
    assert await soon(peer.lost) is None


async def test_a_cut_is_told_to_both() -> None:
    peer, transport, far = joined()
    far.abort()
    assert isinstance(await soon(peer.lost), PipeError)
    transport.write(b"into nothing")
    other, transport, far = joined()
    transport.abort()
    assert await soon(other.lost) is None
    with pytest.raises(PipeError):
        await soon(far.read())
    with pytest.raises(PipeError):
        far.write_nowait(b"x")


async def test_a_protocol_that_fails_is_cut_and_told_of() -> None:
    class Failing(Peer):
        def data_received(self, data: bytes) -> None:
            raise ValueError("on purpose")

    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
    peer, _, far = joined(Failing)
    await far.write(b"x")
    assert isinstance(await soon(peer.lost), ValueError)
    assert len(told) == 1


async def test_a_pipe_as_the_tunnel_of_a_response() -> None:
    near, far = pipe(asyncio.get_running_loop())
    tunnel = PipeTunnel(near)
    await tunnel.write(b"up")
    tunnel.write_eof()
    assert await read_all(far) == b"up"
    await far.write(b"down")
    assert await soon(tunnel.read()) == b"down"
    far.abort()
    assert await soon(tunnel.read()) == b""
    await tunnel.write(b"lost")
    tunnel.close()


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.binary(max_size=40))
def test_what_was_looked_at_comes_again(parts: list[bytes], early: bytes) -> None:
    async def run() -> bytes:
        near, far = pipe(asyncio.get_running_loop())
        for part in parts:
            await far.write(part)
        await far.write_eof()
        return await read_all(Unread(near, early))

    assert asyncio.run(run()) == early + b"".join(parts)


@asynccontextmanager
async def secured(folder: Path) -> AsyncIterator[tuple[TlsStream, TlsStream]]:
    """Client and server, after the handshake."""
    authority = Authority()
    pair = authority.issue(["app.test"])
    file = folder / "pair.pem"
    file.write_text(pair.key + pair.cert)
    here, there = pipe(asyncio.get_running_loop())
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    asking = ssl.create_default_context(cadata=authority.root)
    client = TlsStream(here, asking, server_hostname="app.test")
    server = TlsStream(there, serving)
    await soon(asyncio.gather(client.handshake(), server.handshake()))
    yield client, server
    client.abort()


async def test_tls_in_a_stream(tmp_path: Path) -> None:
    async with secured(tmp_path) as (client, server):
        assert client.ssl_object.version() == "TLSv1.3"
        sent = asyncio.ensure_future(client.write(BODY))
        got = b""
        while len(got) < len(BODY):
            got += await soon(server.read())
        await soon(sent)
        assert got == BODY
        await soon(client.write_eof())
        assert await soon(server.read()) == b""
        await soon(server.write(b"still"))
        await soon(server.write_eof())
        assert await read_all(client) == b"still"


async def test_an_end_that_tls_did_not_say_is_no_end(tmp_path: Path) -> None:
    async with secured(tmp_path) as (client, server):
        await client._stream.write_eof()
        with pytest.raises(ssl.SSLError):
            await soon(server.read())


async def test_a_certificate_that_is_not_trusted(tmp_path: Path) -> None:
    pair = Authority().issue(["app.test"])
    file = tmp_path / "pair.pem"
    file.write_text(pair.key + pair.cert)
    here, there = pipe(asyncio.get_running_loop())
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(file)
    client = TlsStream(here, ssl.create_default_context(), server_hostname="app.test")
    server = TlsStream(there, serving)
    first, second = await soon(
        asyncio.gather(client.handshake(), _told(server), return_exceptions=True)
    )
    assert isinstance(first, ssl.SSLCertVerificationError)
    assert isinstance(second, ssl.SSLError)


async def _told(server: TlsStream) -> None:
    await server.handshake()
    await server.read()
