"""The server as a whole: drain, limits, floods, peers that vanish; uvloop as well as asyncio."""

from __future__ import annotations

import asyncio
import socket
import ssl

import pytest
import uvloop

from hbone.aio import Connect, Settings
from hbone.errors import ConnectionLostError, HboneError, TunnelRefusedError
from hbone.wire.authority import make_authority
from hbone.wire.connection import Connection
from hbone.wire.events import Event
from hbone.wire.limits import Limits
from tests.hbone.aio.mesh import CLIENT, TARGET, Mesh, echo, mesh, read_all, settle
from tests.hbone.aio.test_certificates import context_of
from tests.hbone.wire.pair import TARGET as WIRE_TARGET
from tests.hbone.wire.pair import frame


async def test_drain_keeps_tunnels_until_they_end() -> None:
    async with mesh() as net:
        tunnel = await net.tunnel()
        draining = asyncio.ensure_future(net.server.drain(20))
        await settle(lambda: not net.pool._slots)
        with pytest.raises(HboneError):
            await net.tunnel()
        await tunnel.write(b"x")
        assert await tunnel.read() == b"x"
        assert not draining.done()
        await tunnel.write_eof()
        assert await read_all(tunnel) == b""
        await asyncio.wait_for(draining, 20)
        assert net.server.connections == 0


async def test_drain_ends_what_does_not_end() -> None:
    async with mesh() as net:
        tunnel = await net.tunnel()
        await net.server.drain(0.05)
        with pytest.raises(HboneError):
            await read_all(tunnel)


async def test_drain_of_nothing_is_at_once() -> None:
    async with mesh() as net:
        (await net.tunnel()).abort()
        await net.server.drain(20)


async def test_on_a_socket_of_the_caller() -> None:
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    async with mesh() as net:
        await net.server.listen_on(sock)
        assert await net.pool.connect(net.key_of(address=sock.getsockname()), TARGET)


async def test_connections_above_the_limit_are_reset() -> None:
    async with mesh(settings=Settings(max_connections=1)) as net:
        first = await net.tunnel()
        with pytest.raises(HboneError):
            await net.pool.connect(net.key_of(source_ip="127.0.0.1"), TARGET)
        await first.write(b"x")
        assert await first.read() == b"x"


class Raw:
    """A client whose octets the test chooses."""

    def __init__(self, net: Mesh) -> None:
        self._net = net
        self.codec = Connection(Limits(), is_client=True, now=0.0)
        self.events: list[Event] = []

    async def __aenter__(self) -> Raw:
        context = context_of(self._net.pki.leaf(CLIENT), is_server=False)
        self.reader, self.writer = await asyncio.open_connection(
            *self._net.key.address, ssl=context
        )
        self.codec.start()
        await self.turn()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.transport.abort()

    async def turn(self) -> None:
        self.writer.write(self.codec.take())
        data = await asyncio.wait_for(self.reader.read(65536), 20)
        self.events += self.codec.receive(data, 0.0)

    async def rest(self) -> bytes:
        data = b""
        try:
            while part := await asyncio.wait_for(self.reader.read(65536), 20):
                data += part
        except (OSError, ssl.SSLError):
            return data
        return data


async def test_rapid_reset_ends_the_connection_and_no_other() -> None:
    begun = 0

    async def handler(connect: Connect) -> int | None:
        nonlocal begun
        begun += 1
        await asyncio.Event().wait()
        return None

    async with mesh(handler) as net, Raw(net) as raw:
        for _ in range(300):
            stream_id = raw.codec.open(WIRE_TARGET)
            raw.codec.reset(stream_id, 8)
        raw.writer.write(raw.codec.take())
        assert b"\0\0\0\x0b" in await raw.rest()  # ENHANCE_YOUR_CALM
        await settle(lambda: net.server.ended == {"H2_FAILURE": 1})
        await settle(lambda: not net.server._tasks)
        assert begun == 0, "what was taken back in the same breath is not begun"


async def test_ping_flood() -> None:
    async with mesh() as net, Raw(net) as raw:
        raw.writer.write(frame(6, 0, 0, bytes(8)) * 5000)
        assert b"\0\0\0\x0b" in await raw.rest()
        assert await net.tunnel()


async def test_a_peer_that_reads_nothing_does_not_fill_our_memory() -> None:
    """It sends 16 MiB to be echoed, grants all the windows there are, and never reads."""
    settings = Settings(write_buffer_bytes=4096)
    async with mesh(settings=settings) as net, Raw(net) as raw:
        raw.writer.transport.pause_reading()
        streams = [raw.codec.open(WIRE_TARGET) for _ in range(4)]
        for stream_id in streams:
            while room := raw.codec.send_window(stream_id):
                raw.codec.send(stream_id, bytes(room))
        raw.writer.write(raw.codec.take())
        (endpoint,) = net.server._endpoints
        tunnels = endpoint.tunnels
        await settle(lambda: sum(each.received_bytes for each in tunnels.values()) == 2**24)
        await settle(lambda: endpoint._is_paused)
        assert endpoint.transport.get_write_buffer_size() <= 4096 + 4 * 65536
        assert sum(each.sent_bytes for each in tunnels.values()) < 2**24
        assert not endpoint.is_lost()


async def test_a_peer_that_vanishes_is_noticed() -> None:
    limits = Limits(ping_interval_seconds=0.05, ping_timeout_seconds=0.05)
    ended = asyncio.Event()

    async def handler(connect: Connect) -> int | None:
        try:
            await connect.accept().read()
        except HboneError:
            ended.set()
        return None

    async with mesh(handler, settings=Settings(limits=limits)) as net, Raw(net) as raw:
        raw.codec.open(WIRE_TARGET)
        await raw.turn()
        await asyncio.wait_for(ended.wait(), 20)  # it answers no PING
        await settle(lambda: net.server.connections == 0)


async def test_a_live_peer_answers() -> None:
    limits = Limits(ping_interval_seconds=0.02, ping_timeout_seconds=10)
    async with mesh(settings=Settings(limits=limits)) as net:
        tunnel = await net.tunnel()
        (endpoint,) = net.server._endpoints
        heard = endpoint._connection._keepalive._heard
        await settle(lambda: endpoint._connection._keepalive._heard > heard)
        await tunnel.write(b"x")
        assert await tunnel.read() == b"x"


async def test_policy_closes_connections_by_identity() -> None:
    async with mesh() as net:
        tunnel = await net.tunnel()
        denied = ConnectionLostError("denied by policy")
        assert net.server.close_where(lambda peer: peer.identity.namespace == "x", denied) == 0
        assert net.server.close_where(lambda peer: str(peer.identity) == CLIENT, denied) == 1
        with pytest.raises(HboneError):
            await read_all(tunnel)


def test_uvloop() -> None:
    async def run() -> None:
        async def handler(connect: Connect) -> int | None:
            return 401 if connect.authority.port == 1 else await echo(connect)

        async with mesh(handler) as net:
            tunnel = await net.tunnel()
            await tunnel.write(bytes(100_000))
            await tunnel.write_eof()
            assert len(await read_all(tunnel)) == 100_000
            with pytest.raises(TunnelRefusedError):
                await net.pool.connect(net.key, make_authority("a", 1))
            await net.server.drain(20)

    uvloop.run(run())
