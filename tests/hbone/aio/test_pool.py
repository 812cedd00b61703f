"""The pool: one connection a key, its limits, retries, idle release, double HBONE."""

from __future__ import annotations

import asyncio
import socket

import pytest

from hbone.aio import Connect, Credentials, Pool, PoolKey, Settings, Tunnel
from hbone.aio.carrier import Carrier
from hbone.errors import (
    CertificateError,
    ConnectFailedError,
    ConnectionLostError,
    ConnectTimeoutError,
    HandshakeError,
    PeerRejectedError,
)
from hbone.wire.authority import make_authority
from hbone.wire.limits import Limits
from tests.hbone.aio.mesh import CLIENT, SERVER, TARGET, echo, mesh, read_all, settle
from tests.hbone.pki import Pki, spiffe


async def test_those_who_come_together_share_a_dial() -> None:
    async with mesh() as net:
        tunnels = await asyncio.gather(*(net.tunnel() for _ in range(50)))
        assert net.pool.dials == 1
        assert len({tunnel.stream_id for tunnel in tunnels}) == 50


async def test_keys_do_not_share() -> None:
    async with mesh() as net:
        net.pool.set_credentials(net.pki.credentials(spiffe("other")))
        keys = [
            net.key,
            net.key_of(source=spiffe("other")),
            net.key_of(expected=frozenset((SERVER, spiffe("x")))),
            net.key_of(source_ip="127.0.0.1"),
        ]
        for key in keys * 2:
            await net.pool.connect(key, TARGET)
        assert net.pool.dials == len(keys)


async def test_another_connection_when_one_is_full_and_the_old_one_again() -> None:
    async with mesh(settings=Settings(limits=Limits(max_streams=2))) as net:
        tunnels = [await net.tunnel() for _ in range(4)]
        assert net.pool.dials == 2
        tunnels[0].abort()
        await net.tunnel()
        assert net.pool.dials == 2


async def test_a_goaway_means_a_new_connection_and_live_tunnels_go_on() -> None:
    async with mesh() as net:
        first = await net.tunnel()
        await first.write(b"a")
        assert await first.read() == b"a"
        (endpoint,) = net.server._endpoints
        endpoint.drain()
        await settle(lambda: not net.pool._slots)
        second = await net.tunnel()
        assert net.pool.dials == 2
        for tunnel in (first, second):
            await tunnel.write(b"b")
            assert await tunnel.read() == b"b"
        await first.write_eof()
        assert await read_all(first) == b""
        await settle(lambda: net.pool.connections == 1)


async def test_a_connect_that_crossed_the_goaway_is_asked_again() -> None:
    async with mesh() as net:
        live = await net.tunnel()
        (endpoint,) = net.server._endpoints
        endpoint.drain()
        endpoint._connection.finish()
        tunnel = await net.tunnel()  # asked for before the GOAWAY was heard
        assert net.pool.dials == 2
        for each in (live, tunnel):
            await each.write(b"x")
            assert await each.read() == b"x"
        assert net.server.answered == {200: 2}


async def test_idle_connections_go_and_live_tunnels_stay() -> None:
    async with mesh(settings=Settings(idle_release_seconds=0.05)) as net:
        tunnel = await net.tunnel()
        await settle(lambda: not net.pool._slots)
        await tunnel.write(b"a")
        assert await tunnel.read() == b"a"
        tunnel.abort()
        await settle(lambda: net.pool.connections == 0)
        await settle(lambda: net.server.connections == 0)
        assert net.server.ended == {}


async def test_nobody_listens() -> None:
    async with mesh() as net:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            port = sock.getsockname()[1]
            with pytest.raises(ConnectFailedError, match=f"connect 127.0.0.1:{port} failed"):
                await net.pool.connect(net.key_of(address=("127.0.0.1", port)), TARGET)
        assert net.pool.failed == {"CONNECT": 1}
        assert net.pool.connections == 0


async def test_a_connect_that_hangs_names_the_likely_cause() -> None:
    with socket.socket() as listener, socket.socket() as filler:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        filler.connect(address)  # the backlog is full: a SYN gets no answer
        settings = Settings(connect_timeout_seconds=0.1)
        async with mesh(pool_settings=settings) as net:
            key = net.key_of(address=address)
            results = await asyncio.gather(
                *(net.pool.connect(key, TARGET) for _ in range(3)), return_exceptions=True
            )
            # The kernel may still complete one connection beyond the backlog.
            with pytest.raises(ConnectTimeoutError) as caught:
                await net.pool.connect(key, TARGET)
    assert all(isinstance(result, ConnectTimeoutError) for result in results)
    assert "NetworkPolicy" in str(caught.value) or "no HBONE handshake" in str(caught.value)
    assert caught.value.flag == "NETWORK_POLICY"


async def test_a_server_that_accepts_and_says_nothing() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        async with mesh(pool_settings=Settings(connect_timeout_seconds=0.1)) as net:
            with pytest.raises(ConnectTimeoutError, match="handshake"):
                await net.pool.connect(net.key_of(address=listener.getsockname()), TARGET)
            await settle(lambda: net.pool.connections == 0)


async def test_one_who_gives_up_does_not_take_the_dial_from_the_others() -> None:
    async with mesh() as net:
        first = asyncio.ensure_future(net.tunnel())
        second = asyncio.ensure_future(net.tunnel())
        await asyncio.sleep(0)
        first.cancel()
        assert await second
        assert net.pool.dials == 1


async def test_who_answers_must_be_expected() -> None:
    async with mesh() as net:
        for expected in (frozenset[str](), frozenset((spiffe("other"),))):
            with pytest.raises(PeerRejectedError):
                await net.pool.connect(net.key_of(expected=expected), TARGET)
        assert net.pool.failed == {"IDENTITY_ERROR": 2}
        assert net.server.answered == {}
        with pytest.raises(CertificateError, match="no credentials"):
            await net.pool.connect(net.key_of(source=spiffe("nobody")), TARGET)


async def test_a_closed_pool() -> None:
    async with mesh() as net:
        tunnel = await net.tunnel()
        await net.pool.close()
        with pytest.raises(ConnectionLostError):
            await tunnel.read()
        with pytest.raises(ConnectionLostError):
            await net.tunnel()


# --- double HBONE -------------------------------------------------------------------------


async def test_a_tunnel_in_a_tunnel() -> None:
    """The gateway relays octets; the inner TLS is between the workloads."""
    pki, seen = Pki(), []

    async def gateway(connect: Connect) -> int | None:
        seen.append(str(connect.authority))
        outer = connect.accept()
        carrier = Carrier(asyncio.get_running_loop(), outer, inner.server.protocol())
        await carrier.wait_closed()
        return None

    async with mesh(echo, pki=pki) as inner, mesh(gateway, pki=pki) as net:
        target = make_authority("svc.ns.svc.cluster.local", 80)
        body = bytes(range(256)) * 2000
        for _ in range(2):
            outer = await net.pool.connect(net.key, target)
            tunnel = await net.pool.connect_inside(
                outer, CLIENT, frozenset((SERVER,)), target, [(b"x-forwarded-network", b"n")]
            )
            assert isinstance(tunnel, Tunnel)
            writing = asyncio.ensure_future(tunnel.write(body))
            data = b""
            while len(data) < len(body):
                data += await tunnel.read()
            await writing
            await tunnel.write_eof()
            assert await read_all(tunnel) == b""
            assert data == body
            await asyncio.wait_for(outer.wait_closed(), 20)
        assert seen == ["svc.ns.svc.cluster.local:80"] * 2
        assert net.pool.dials == 1
        assert inner.server.answered == {200: 2}
        await settle(lambda: inner.server.connections == 0)


async def test_the_inner_identity_is_checked_too() -> None:
    pki = Pki()

    async def gateway(connect: Connect) -> int | None:
        carrier = Carrier(asyncio.get_running_loop(), connect.accept(), inner.server.protocol())
        await carrier.wait_closed()
        return None

    async with mesh(echo, pki=pki) as inner, mesh(gateway, pki=pki) as net:
        outer = await net.tunnel()
        with pytest.raises(PeerRejectedError):
            await net.pool.connect_inside(outer, CLIENT, frozenset(), TARGET)
        assert outer.is_closed


async def test_a_gateway_that_is_none() -> None:
    async with mesh() as net:  # it echoes our own TLS
        outer = await net.tunnel()
        with pytest.raises(HandshakeError):
            await net.pool.connect_inside(outer, CLIENT, frozenset((SERVER,)), TARGET)
        assert outer.is_closed


async def test_pool_refuses_credentials_that_do_not_fit() -> None:
    pki = Pki()
    leaf, other = pki.leaf(CLIENT), pki.leaf(CLIENT)
    with pytest.raises(CertificateError) as caught:
        Pool(Credentials(leaf.chain, other.key, pki.root_pem))
    assert "BEGIN" not in str(caught.value)
    with pytest.raises(CertificateError):
        Pool(Credentials(leaf.chain, leaf.key, b"no roots"))
    with pytest.raises(CertificateError):
        Credentials(b"nothing", leaf.key, pki.root_pem)
    with pytest.raises(CertificateError, match="SPIFFE"):
        Credentials(pki.leaf("https://x").chain, leaf.key, pki.root_pem)
    assert "PRIVATE" not in repr(Credentials(leaf.chain, leaf.key, pki.root_pem))
    assert PoolKey(CLIENT, frozenset(), ("a", 1)) == PoolKey(CLIENT, frozenset(), ("a", 1))


async def test_a_protocol_that_fails_in_a_tunnel_ends_it() -> None:
    class Failing(asyncio.Protocol):
        def __init__(self) -> None:
            self.lost: asyncio.Future[Exception | None] = loop.create_future()

        def data_received(self, data: bytes) -> None:
            raise RuntimeError("so it is")

        def connection_lost(self, exc: Exception | None) -> None:
            self.lost.set_result(exc)

    loop = asyncio.get_running_loop()
    told: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: told.append(context))
    async with mesh() as net:
        protocol = Failing()
        carrier = Carrier(loop, await net.tunnel(), protocol)
        carrier.write(b"echo")
        assert isinstance(await asyncio.wait_for(protocol.lost, 20), RuntimeError)
        await carrier.wait_closed()
    assert len(told) == 1
