"""A sidecar without a packet filter: SOCKS, tunnels, and what nobody redirected."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hbone import aio
from hbone.aio import Connect, Pool, PoolKey, Server
from hbone.errors import HboneError, TunnelRefusedError, TunnelResetError
from hbone.wire.authority import make_authority
from istio.sidecar.capture import Capture
from istio.sidecar.sockets import CaptureError
from istio.sidecar.ways import UNKNOWN, Refused, Settings, Transport, Tunnelled, Way
from tests.hbone.pki import Pki, spiffe
from tests.istio.sidecar.judges import TableJudge, by_tunnel
from tests.support.gateway import free_ports

PKI = Pki()
A, B = spiffe("a"), spiffe("b")
PATIENCE_SECONDS = 20.0
HOST = "127.0.0.1"


@asynccontextmanager
async def captures(
    judge: TableJudge, account: str = "b", **settings: Any
) -> AsyncIterator[tuple[Capture, Settings]]:
    names = ("outbound_port", "inbound_port", "hbone_port", "socks5_port")
    ports = dict(zip(names, free_ports(4), strict=True))
    made = Settings(**{"packet_mark": 0, "uses_ipv6": False, **ports, **settings})
    capture = Capture(made, judge)
    capture.start()
    await capture.set_credentials(PKI.credentials(spiffe(account)))
    try:
        yield capture, made
    finally:
        await capture.close()


@asynccontextmanager
async def echo_server() -> AsyncIterator[int]:
    """An application that says everything back, to the end."""
    writers: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
            writer.write_eof()
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(serve, HOST, 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def by_socks(settings: Settings, host: str, port: int) -> tuple[Any, Any, bytes]:
    """Reader, writer, and the answer to CONNECT."""
    reader, writer = await asyncio.open_connection(HOST, settings.socks5_port)
    name = host.encode()
    request = b"\5\1\0\3" + bytes((len(name),)) + name + port.to_bytes(2, "big")
    writer.write(b"\5\1\0" + request)
    assert await reader.readexactly(2) == b"\5\0"
    return reader, writer, await reader.read(10)


def pool_of(account: str) -> Pool:
    return Pool(PKI.credentials(spiffe(account)))


async def is_cut(port: int) -> bool:
    """Whether a connection is reset, as it is made or after."""
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except ConnectionResetError:
        return True
    try:
        return await reader.read() == b"it is not"
    except ConnectionResetError:
        return True
    finally:
        writer.close()


async def settle(capture: Capture, direction: str, flag: str) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not capture.counts.ended[direction, flag]:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def test_from_socks_by_a_tunnel_to_the_application() -> None:
    async with echo_server() as port, captures(TableJudge()) as (server, theirs):
        judge = TableJudge({("shop.test", 80): by_tunnel(HOST, port, [B], theirs.hbone_port)})
        async with captures(judge, "a") as (client, ours):
            reader, writer, answer = await by_socks(ours, "shop.test", 80)
            assert answer[:2] == b"\5\0"
            writer.write(b"hello")
            writer.write_eof()
            assert await reader.read() == b"hello"
            writer.close()
            await settle(client, "outbound", "-")
            await settle(server, "inbound", "-")
            assert client.counts.sent_bytes["outbound"] == 5
            assert server.counts.received_bytes["inbound"] == 5


async def test_socks_as_it_is_and_what_came_with_the_request() -> None:
    async with echo_server() as port, captures(TableJudge()) as (_, settings):
        reader, writer = await asyncio.open_connection(HOST, settings.socks5_port)
        writer.write(b"\5\1\0\5\1\0\1\x7f\0\0\1" + port.to_bytes(2, "big") + b"early")
        assert (await reader.readexactly(12))[:4] == b"\5\0\5\0"
        writer.write_eof()
        assert await reader.read() == b"early"
        writer.close()


@pytest.mark.parametrize(
    ("way", "code"),
    [
        (Refused(503, "NO_HEALTHY", "no endpoint"), 2),
        (by_tunnel(HOST, 80, [B], 1), 4),
        (by_tunnel(HOST, 80, [], 1), 4),
        (Way(Transport.PLAIN, HOST, 1), 4),
    ],
)
async def test_socks_that_leads_nowhere(way: Way | Refused, code: int) -> None:
    async with captures(TableJudge({("x.test", 80): way})) as (_, settings):
        reader, writer, answer = await by_socks(settings, "x.test", 80)
        assert answer[:2] == bytes((5, code))
        assert await reader.read() == b""
        writer.close()


async def test_who_leaves_before_the_answer_leaves_no_tunnel_behind() -> None:
    came, may_answer = asyncio.Event(), asyncio.Event()
    ended: asyncio.Future[HboneError] = asyncio.get_running_loop().create_future()

    async def handle(connect: Connect) -> int | None:
        came.set()
        await may_answer.wait()
        tunnel = connect.accept()
        try:
            await tunnel.read()
        except HboneError as error:
            ended.set_result(error)
        return None

    server = Server(handle, PKI.credentials(B))
    port = await server.listen(HOST, 0)
    judge = TableJudge({("shop.test", 80): by_tunnel(HOST, 80, {B}, port)})
    async with captures(judge, "a") as (_, settings):
        _, writer = await asyncio.open_connection(HOST, settings.socks5_port)
        writer.write(b"\5\1\0\5\1\0\3\x09shop.test\0\x50")
        await asyncio.wait_for(came.wait(), PATIENCE_SECONDS)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        await asyncio.sleep(0.01)  # so that it is known here; nothing fails where it is not
        may_answer.set()
        assert isinstance(await asyncio.wait_for(ended, PATIENCE_SECONDS), TunnelResetError)
    await server.close()


async def test_what_is_no_socks_is_closed() -> None:
    async with captures(TableJudge()) as (_, settings):
        reader, writer = await asyncio.open_connection(HOST, settings.socks5_port)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        assert await reader.read() == b""
        writer.close()


@pytest.mark.parametrize("kind", ["outbound_port", "inbound_port"])
async def test_what_nobody_redirected_is_closed(kind: str) -> None:
    judge = TableJudge()
    async with captures(judge) as (capture, settings):
        assert await is_cut(getattr(settings, kind))
        direction = "outbound" if kind == "outbound_port" else "plaintext"
        assert capture.counts.ended[direction, "LOOP"] == 1
        assert not judge.arrivals


async def test_the_statuses_of_tunnels() -> None:
    async with echo_server() as port:
        judge = TableJudge()
        async with captures(judge) as (capture, settings):
            own = sorted(settings.own_ports)[0]
            judge.targets = {81: (HOST, own), 82: (HOST, 1)}
            pool = pool_of("a")
            key = PoolKey(A, frozenset((B,)), (HOST, settings.hbone_port))
            denied = PoolKey(spiffe("x"), frozenset((B,)), (HOST, settings.hbone_port))
            pool.set_credentials(PKI.credentials(spiffe("x")))
            judge.denied.add(spiffe("x"))
            for at, host, number, status in (
                (key, "10.0.0.1", port, 400),  # another address than the connection's
                (key, HOST, own, 503),  # a port of the sidecar's own
                (key, HOST, 15001, 503),
                (key, HOST, 81, 503),  # a way that leads to one
                (key, HOST, 82, 503),  # nobody listens
                (denied, HOST, port, 401),
            ):
                with pytest.raises(TunnelRefusedError) as refusal:
                    await pool.connect(at, make_authority(host, number))
                assert refusal.value.status == status, (host, number)
            tunnel = await pool.connect(key, make_authority(HOST, port))
            assert tunnel.headers == ((b"baggage", b"k8s.pod.name=x"),)
            tunnel.abort()
            await pool.close()
            assert capture.counts.ended["inbound", "DENY"] == 1
            assert capture.counts.ended["inbound", "LOOP"] == 1
            assert capture.counts.ended["inbound", "BAD_AUTHORITY"] == 1


@pytest.mark.parametrize("foreign", ["trust domain", "root", "nobody expected"])
async def test_strangers_get_no_tunnel(foreign: str) -> None:
    judge = TableJudge()
    async with captures(judge) as (_, settings):
        who = spiffe("a", domain="elsewhere" if foreign == "trust domain" else "cluster.local")
        pki = Pki() if foreign == "root" else PKI
        expected = frozenset() if foreign == "nobody expected" else frozenset((B,))
        pool = Pool(pki.credentials(who, roots=PKI.root_pem))
        key = PoolKey(who, expected, (HOST, settings.hbone_port))
        with pytest.raises(HboneError):
            await pool.connect(key, make_authority(HOST, 80))
        await pool.close()
        assert not judge.arrivals


async def test_the_own_workload_is_waited_for() -> None:
    async with echo_server() as port:
        judge = TableJudge(unknown=True)
        async with captures(judge) as (capture, settings):
            pool = pool_of("a")
            key = PoolKey(A, frozenset((B,)), (HOST, settings.hbone_port))
            asked = asyncio.ensure_future(pool.connect(key, make_authority(HOST, port)))
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not judge.arrivals:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            capture.recheck()  # something else has changed
            judge.unknown = False
            capture.recheck()
            tunnel = await asked
            await tunnel.write(b"x")
            assert await tunnel.read() == b"x"
            await pool.close()
        async with captures(TableJudge(unknown=True), known_seconds=0.01) as (capture, settings):
            pool = pool_of("a")
            key = PoolKey(A, frozenset((B,)), (HOST, settings.hbone_port))
            with pytest.raises(TunnelRefusedError, match="503"):
                await pool.connect(key, make_authority(HOST, port))
            assert capture.counts.ended["inbound", "UNKNOWN"] == 1
            await pool.close()


async def test_the_mesh_is_waited_for_before_anything_goes_out() -> None:
    async with echo_server() as port:
        judge = TableJudge(ways={(HOST, port): Refused(503, UNKNOWN, "not known yet")})
        async with captures(judge) as (capture, settings):
            asked = asyncio.ensure_future(by_socks(settings, HOST, port))
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not judge.called:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
            judge.ways.clear()
            capture.recheck()
            _, writer, answer = await asked
            assert answer[:2] == b"\5\0"
            writer.close()
        judge = TableJudge(ways={(HOST, port): Refused(503, UNKNOWN, "not known yet")})
        async with captures(judge, known_seconds=0.01) as (capture, settings):
            _, writer, answer = await by_socks(settings, HOST, port)
            assert answer[:2] == b"\5\2"
            writer.close()
            await settle(capture, "outbound", "UNKNOWN")


async def test_a_preface_comes_first() -> None:
    async with echo_server() as port, captures(TableJudge(preface=b"PROXY!")) as (_, settings):
        pool = pool_of("a")
        key = PoolKey(A, frozenset((B,)), (HOST, settings.hbone_port))
        tunnel = await pool.connect(key, make_authority(HOST, port))
        await tunnel.write(b" x")
        await tunnel.write_eof()
        said = b""
        while part := await tunnel.read():
            said += part
        assert said == b"PROXY! x"
        await pool.close()


async def test_a_tunnel_in_a_tunnel() -> None:
    async with echo_server() as port, captures(TableJudge()) as (_, inner):
        # The gateway of the other network leads to the workload's own tunnels as they are.
        judge = TableJudge(targets={443: (HOST, inner.hbone_port)})

        async with captures(judge, "gateway") as (gateway, theirs):
            gateway._inward._settings = Settings(packet_mark=0, hbone_port=0)
            way = Way(
                Transport.DOUBLE_HBONE,
                HOST,
                theirs.hbone_port,
                Tunnelled(make_authority(HOST, 443), frozenset((spiffe("gateway"),))),
                Tunnelled(make_authority(HOST, port), frozenset((B,))),
            )
            async with captures(TableJudge({("far.test", 80): way}), "a") as (_, ours):
                reader, writer, answer = await by_socks(ours, "far.test", 80)
                assert answer[:2] == b"\5\0"
                writer.write(b"far")
                writer.write_eof()
                assert await reader.read() == b"far"
                writer.close()


async def test_a_drain_lets_end_what_ends_and_cuts_the_rest() -> None:
    async with echo_server() as port, captures(TableJudge()) as (server, theirs):
        ways: dict[tuple[str, int], Way | Refused] = {
            ("shop.test", 80): by_tunnel(HOST, port, [B], theirs.hbone_port)
        }
        async with captures(TableJudge(ways), "a") as (client, ours):
            first = await by_socks(ours, "shop.test", 80)
            second = await by_socks(ours, "shop.test", 80)
            draining = asyncio.ensure_future(server.drain(PATIENCE_SECONDS))
            await asyncio.sleep(0)
            # Those there are go on.
            first[1].write(b"still")
            assert await first[0].readexactly(5) == b"still"
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection(HOST, theirs.hbone_port)
            for reader, writer, _ in (first, second):
                writer.write_eof()
                assert await reader.read() == b""
                writer.close()
            await asyncio.wait_for(draining, PATIENCE_SECONDS)
            third = await by_socks(ours, "shop.test", 80)
            assert third[2][1] == 4
            third[1].close()
        async with captures(TableJudge(), "a") as (client, ours):
            reader, writer, _ = await by_socks(ours, HOST, port)
            await client.drain(0.01)
            with pytest.raises(ConnectionResetError):
                await reader.read()
            writer.close()


async def test_a_renewed_certificate_leaves_tunnels_alone() -> None:
    async with echo_server() as port, captures(TableJudge()) as (server, settings):
        pool = pool_of("a")
        key = PoolKey(A, frozenset((B,)), (HOST, settings.hbone_port))
        tunnel = await pool.connect(key, make_authority(HOST, port))
        await asyncio.gather(
            *(server.set_credentials(PKI.credentials(B, A)) for _ in range(2)),
        )
        await tunnel.write(b"x")
        assert await tunnel.read() == b"x"
        other = await pool.connect(
            PoolKey(A, frozenset((A,)), (HOST, settings.hbone_port)), make_authority(HOST, port)
        )
        assert A in other.peer.identities
        judge = TableJudge(denied={A})
        server.set_judge(judge)
        with pytest.raises(TunnelResetError):
            await tunnel.read()
        await pool.close()


async def test_no_more_connections_than_allowed() -> None:
    async with captures(TableJudge(), max_connections=1) as (_, settings):
        first = await asyncio.open_connection(HOST, settings.socks5_port)
        first[1].write(b"\5\1\0")
        assert await first[0].readexactly(2) == b"\5\0"
        assert await is_cut(settings.socks5_port)
        first[1].close()


async def test_a_port_that_is_taken() -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        capture = Capture(
            Settings(packet_mark=0, uses_ipv6=False, outbound_port=port), TableJudge()
        )
        with pytest.raises(CaptureError, match=f"port {port}: in use"):
            capture.start()
        await capture.close()


def test_limits_of_tunnels_are_taken_over() -> None:
    async def main() -> None:
        limits = aio.Settings(connect_timeout_seconds=3.0)
        capture = Capture(Settings(packet_mark=0, hbone_port=7), TableJudge(), hbone=limits)
        assert capture._hbone.connect_timeout_seconds == 3.0
        assert {7, 15008} <= capture._hbone.refused_ports
        await capture.close()

    asyncio.run(main())
