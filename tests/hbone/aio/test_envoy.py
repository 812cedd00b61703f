"""With Envoy as the other proxy, both ways: octets, half closes, statuses, refused identities."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from hbone.aio import Connect, Pool, PoolKey, Server
from hbone.aio.server import Handler
from hbone.errors import HandshakeError, HboneError, PeerRejectedError, TunnelRefusedError
from hbone.wire.authority import make_authority
from tests.hbone.aio import envoy
from tests.hbone.aio.mesh import CLIENT, SERVER, echo, read_all, settle
from tests.hbone.pki import Pki, spiffe

pytestmark = pytest.mark.skipif(envoy.binary() is None, reason="envoy is not installed")

BODY = bytes(range(256)) * 8192  # 2 MiB
APP = make_authority("app.ns", 80)


class Mesh:
    def __init__(self, pki: Pki, ports: envoy.Ports) -> None:
        self.pki = pki
        self.ports = ports


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    pki = Pki()
    with envoy.running(pki, tmp_path_factory.mktemp("envoy")) as ports:
        yield Mesh(pki, ports)


# --- Envoy is the client ------------------------------------------------------------------


@asynccontextmanager
async def our_server(net: Mesh, handler: Handler = echo) -> AsyncIterator[Server]:
    server = Server(handler, net.pki.credentials(SERVER))
    await server.listen("127.0.0.1", net.ports.our_server)
    try:
        yield server
    finally:
        await server.close()


async def talk(port: int, body: bytes) -> bytes:
    """What comes back for `body` and a half close; nothing when the connection is cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        writer.write(body)
        await writer.drain()
        writer.write_eof()

    try:
        _, data = await asyncio.wait_for(
            asyncio.gather(send(), reader.read(), return_exceptions=True), 30
        )
        return data if isinstance(data, bytes) else b""
    finally:
        writer.transport.abort()


async def test_envoy_tunnels_to_us(net: Mesh) -> None:
    seen: list[Connect] = []

    async def handler(connect: Connect) -> int | None:
        seen.append(connect)
        return await echo(connect)

    async with our_server(net, handler):
        answers = await asyncio.gather(*(talk(net.ports.out, BODY) for _ in range(5)))
        assert all(answer == BODY for answer in answers)
        assert str(seen[0].authority) == "svc.ns.svc.cluster.local:8080"
        assert seen[0].request.values(b"baggage") == [b"service.name=app"]
        assert str(seen[0].peer.identity) == CLIENT


async def test_our_half_close_reaches_envoys_client_first(net: Mesh) -> None:
    async def handler(connect: Connect) -> int | None:
        tunnel = connect.accept()
        await tunnel.write(b"hello")
        await tunnel.write_eof()
        heard.append(await read_all(tunnel))
        return None

    heard: list[bytes] = []
    async with our_server(net, handler):
        reader, writer = await asyncio.open_connection("127.0.0.1", net.ports.out)
        assert await asyncio.wait_for(reader.read(), 20) == b"hello"
        writer.write(b"after your end")
        writer.write_eof()
        await settle(lambda: heard == [b"after your end"])
        writer.close()
        await writer.wait_closed()


async def test_our_refusals_end_envoys_client(net: Mesh) -> None:
    async def handler(connect: Connect) -> int | None:
        return 401

    async with our_server(net, handler) as server:
        assert await talk(net.ports.out, b"x") == b""
        assert server.answered[401] >= 1


async def test_envoy_of_a_foreign_trust_domain(net: Mesh) -> None:
    async with our_server(net) as server:
        assert await talk(net.ports.out_as_outsider, b"x") == b""
        await settle(lambda: server.ended["IDENTITY_ERROR"] >= 1)
        assert server.answered == {}
        assert await talk(net.ports.out, b"x") == b"x"


async def test_envoy_does_not_want_us(net: Mesh) -> None:
    async with our_server(net) as server:
        assert await talk(net.ports.out_to_another, b"x") == b""
        await settle(lambda: server.ended["TLS_FAILURE"] >= 1)
        assert server.answered == {}


async def test_drain_under_envoys_tunnels(net: Mesh) -> None:
    async with our_server(net) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", net.ports.out)
        writer.write(b"x")
        assert await asyncio.wait_for(reader.read(1), 20) == b"x"
        draining = asyncio.ensure_future(server.drain(20))
        writer.write(b"y")
        assert await asyncio.wait_for(reader.read(1), 20) == b"y"
        assert not draining.done()
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 20) == b""
        await asyncio.wait_for(draining, 20)
        writer.close()
        await writer.wait_closed()


# --- Envoy is the server ------------------------------------------------------------------


@asynccontextmanager
async def our_pool(net: Mesh, source: str = CLIENT) -> AsyncIterator[tuple[Pool, PoolKey]]:
    pool = Pool(net.pki.credentials(source))
    try:
        yield pool, PoolKey(source, frozenset((SERVER,)), ("127.0.0.1", net.ports.hbone))
    finally:
        await pool.close()


async def backwards(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    data = await reader.read()
    writer.write(data[::-1])
    writer.close()
    await writer.wait_closed()


async def test_we_tunnel_to_envoy(net: Mesh) -> None:
    app = await asyncio.start_server(backwards, "127.0.0.1", net.ports.app)
    async with app, our_pool(net) as (pool, key):

        async def one(size: int) -> None:
            tunnel = await pool.connect(key, APP, [(b"baggage", b"service.name=a")])
            await tunnel.write(BODY[:size])
            await tunnel.write_eof()
            assert await read_all(tunnel) == BODY[:size][::-1]
            await tunnel.wait_closed()

        await asyncio.gather(*(one(size) for size in (0, 1, 16_384, 65_536, len(BODY))))
        assert pool.dials == 1


async def test_envoys_application_ends_first(net: Mesh) -> None:
    """Envoy 1.40 as a server then gives up our direction (NO_ERROR): what it sent is whole."""

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(BODY)
        writer.write_eof()
        await reader.read()
        writer.close()

    app = await asyncio.start_server(application, "127.0.0.1", net.ports.app)
    async with app, our_pool(net) as (pool, key):
        tunnel = await pool.connect(key, APP)
        assert await read_all(tunnel) == BODY
        await tunnel.wait_closed()
        with pytest.raises(HboneError):
            await tunnel.write(b"x")


@pytest.mark.parametrize(("host", "status"), [("denied.ns", 401), ("closed.ns", 503)])
async def test_envoy_refuses_a_target(net: Mesh, host: str, status: int) -> None:
    async with our_pool(net) as (pool, key):
        for _ in range(2):
            with pytest.raises(TunnelRefusedError) as caught:
                await pool.connect(key, make_authority(host, 80))
            assert caught.value.status == status
        assert pool.dials == 1


async def test_envoy_refuses_our_identity(net: Mesh) -> None:
    async with our_pool(net, envoy.OUTSIDER) as (pool, key):
        with pytest.raises(HandshakeError):
            await pool.connect(key, APP)
    pool = Pool(Pki().credentials(CLIENT, roots=net.pki.root_pem))
    with pytest.raises(HandshakeError):
        await pool.connect(key_of(net), APP)
    await pool.close()


def key_of(net: Mesh) -> PoolKey:
    return PoolKey(CLIENT, frozenset((SERVER,)), ("127.0.0.1", net.ports.hbone))


async def test_we_do_not_want_envoy(net: Mesh) -> None:
    async with our_pool(net) as (pool, key):
        for expected in (frozenset[str](), frozenset((spiffe("another"),))):
            other = PoolKey(CLIENT, expected, key.address)
            with pytest.raises(PeerRejectedError):
                await pool.connect(other, APP)
    pool = Pool(net.pki.credentials(CLIENT, roots=Pki().root_pem))
    with pytest.raises(HboneError):
        await pool.connect(key, APP)
    await pool.close()
