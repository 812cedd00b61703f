"""Tunnels between our client and our server: octets, half closes, backpressure, endings."""

from __future__ import annotations

import asyncio

import pytest
from h2.errors import ErrorCodes

from hbone.aio import Connect, Settings, Tunnel, dial_tcp, relay
from hbone.errors import (
    ConnectFailedError,
    ConnectionLostError,
    ConnectTimeoutError,
    TunnelRefusedError,
    TunnelResetError,
)
from hbone.wire.authority import make_authority
from hbone.wire.limits import Limits
from tests.hbone.aio.mesh import CLIENT, SERVER, TARGET, mesh, read_all, settle

BODY = bytes(range(256)) * 4096  # 1 MiB


async def test_octets_go_there_and_back() -> None:
    async with mesh() as net:
        tunnel = await net.tunnel()
        assert str(tunnel.peer.identity) == SERVER
        writing = asyncio.ensure_future(tunnel.write(BODY))
        data = b""
        while len(data) < len(BODY):
            data += await tunnel.read()
        await writing
        await tunnel.write_eof()
        assert await read_all(tunnel) == b""
        assert data == BODY
        assert (tunnel.sent_bytes, tunnel.received_bytes) == (len(BODY), len(BODY))
        await settle(lambda: net.server.answered[200] == 1)


async def test_what_the_handler_learns() -> None:
    seen: list[Connect] = []

    async def handler(connect: Connect) -> int | None:
        seen.append(connect)
        connect.accept([(b"baggage", b"a=b")])
        return None

    async with mesh(handler) as net:
        tunnel = await net.pool.connect(net.key, TARGET, [(b"forwarded", b"for=x")])
        assert tunnel.headers == ((b"baggage", b"a=b"),)
        (connect,) = seen
        assert connect.authority == TARGET
        assert connect.headers == ((b"forwarded", b"for=x"),)
        assert str(connect.peer.identity) == CLIENT
        assert connect.local_address == net.key.address
        assert connect.remote_address[0] == "127.0.0.1"


@pytest.mark.parametrize("status", [401, 404, 503])
async def test_refusals(status: int) -> None:
    async def handler(connect: Connect) -> int | None:
        return status

    async with mesh(handler) as net:
        for _ in range(3):
            with pytest.raises(TunnelRefusedError) as caught:
                await net.tunnel()
            assert caught.value.status == status
            assert caught.value.is_denied is (status == 401)
        assert net.pool.dials == 1
        assert net.server.answered == {status: 3}


async def test_ports_of_proxies_are_refused_before_the_handler() -> None:
    async with mesh() as net:
        for port in (15001, 15006, 15008, 15080):
            with pytest.raises(TunnelRefusedError, match="503"):
                await net.pool.connect(net.key, make_authority("10.0.0.1", port))


async def test_a_handler_that_breaks_or_forgets_is_a_503() -> None:
    async def handler(connect: Connect) -> int | None:
        if connect.authority.port == 1:
            raise RuntimeError("broken")
        return None if connect.authority.port == 2 else 200

    told: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: told.append(str(context["exception"])))
    async with mesh(handler) as net:
        for port in (1, 2, 3):
            with pytest.raises(TunnelRefusedError, match="503"):
                await net.pool.connect(net.key, make_authority("a", port))
    assert told == ["broken"]


async def test_a_handler_that_leaves_its_tunnel_resets_it() -> None:
    async def handler(connect: Connect) -> int | None:
        await connect.accept().write(b"half")
        return None

    async with mesh(handler) as net:
        tunnel = await net.tunnel()
        assert await tunnel.read() == b"half"
        with pytest.raises(TunnelResetError) as caught:
            await tunnel.read()
        assert caught.value.code == ErrorCodes.CANCEL


async def test_each_direction_ends_on_its_own() -> None:
    async def handler(connect: Connect) -> int | None:
        tunnel = connect.accept()
        await tunnel.write(b"hello")
        await tunnel.write_eof()
        received = await read_all(tunnel)
        assert received == b"still there"
        return None

    async with mesh(handler) as net:
        tunnel = await net.tunnel()
        assert await read_all(tunnel) == b"hello"
        assert not tunnel.is_closed
        await tunnel.write(b"still ")
        await tunnel.write(b"there")
        await tunnel.write_eof()
        await tunnel.wait_closed()
        with pytest.raises(ConnectionLostError):
            await tunnel.write(b"x")


async def test_a_client_that_gives_up_cancels_the_handler() -> None:
    cancelled = asyncio.Event()
    begun = asyncio.Event()

    async def handler(connect: Connect) -> int | None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()
        return None

    async with mesh(handler) as net:
        opening = asyncio.ensure_future(net.tunnel())
        await begun.wait()
        opening.cancel()
        await asyncio.wait_for(cancelled.wait(), 20)
        await settle(lambda: net.pool.connections == 1)


async def test_an_answer_that_never_comes() -> None:
    async def handler(connect: Connect) -> int | None:
        await asyncio.Event().wait()
        return None

    async with mesh(handler, settings=Settings(answer_timeout_seconds=0.05)) as net:
        with pytest.raises(ConnectTimeoutError, match="no answer"):
            await net.tunnel()


async def test_a_reader_that_stops_stops_the_writer_and_nobody_else() -> None:
    limits = Limits(stream_window_bytes=128 * 1024, connection_window_bytes=512 * 1024)
    release = asyncio.Event()

    async def handler(connect: Connect) -> int | None:
        tunnel = connect.accept()
        if connect.authority.port == 1:
            await release.wait()
        while data := await tunnel.read():
            await tunnel.write(data)
        await tunnel.write_eof()
        return None

    async with mesh(handler, settings=Settings(limits=limits)) as net:
        stalled = await net.pool.connect(net.key, make_authority("a", 1))
        writing = asyncio.ensure_future(stalled.write(BODY))
        lively = await net.pool.connect(net.key, make_authority("a", 2))
        for _ in range(40):
            await lively.write(bytes(20_000))
            size = 0
            while size < 20_000:
                size += len(await lively.read())
        assert stalled.sent_bytes == 128 * 1024
        assert not writing.done()
        assert net.pool.dials == 1
        release.set()
        size = 0
        while size < len(BODY):
            size += len(await stalled.read())
        await writing


async def test_many_tunnels_at_once() -> None:
    async def one(net: object, number: int) -> None:
        tunnel = await pool.connect(key, TARGET)
        await tunnel.write(b"%d" % number)
        await tunnel.write_eof()
        assert await read_all(tunnel) == b"%d" % number

    async with mesh() as net:
        pool, key = net.pool, net.key
        await asyncio.gather(*(one(net, number) for number in range(250)))
        assert net.pool.dials <= 3
        assert net.server.answered == {200: 250}


async def test_aborts_both_ways() -> None:
    seen: list[int] = []

    async def handler(connect: Connect) -> int | None:
        tunnel = connect.accept()
        if connect.authority.port == 1:
            tunnel.abort(ErrorCodes.CONNECT_ERROR)
        try:
            await tunnel.read()
        except TunnelResetError as error:
            seen.append(error.code)
        return None

    async with mesh(handler) as net:
        tunnel = await net.pool.connect(net.key, make_authority("a", 1))
        with pytest.raises(TunnelResetError) as caught:
            await tunnel.read()
        assert caught.value.code == ErrorCodes.CONNECT_ERROR
        async with await net.pool.connect(net.key, make_authority("a", 2)):
            pass
        await settle(lambda: len(seen) == 2)
        assert seen == [ErrorCodes.CONNECT_ERROR, ErrorCodes.CANCEL]


async def test_the_connection_is_lost() -> None:
    accepted: list[Tunnel] = []

    async def handler(connect: Connect) -> int | None:
        accepted.append(connect.accept())
        await accepted[-1].read()
        return None

    async with mesh(handler) as net:
        tunnel = await net.tunnel()
        net.server.close_where(lambda _: True, ConnectionLostError("policy"))
        with pytest.raises(ConnectionLostError):
            await tunnel.read()
        with pytest.raises(ConnectionLostError):
            await tunnel.write(b"x")
        await settle(lambda: net.pool.connections == 0)
        assert await net.tunnel()
        assert net.pool.dials == 2


# --- relayed to a TCP application ---------------------------------------------------------


async def relayed(connect: Connect) -> int | None:
    try:
        stream = await dial_tcp(connect.authority.host, connect.authority.port)
    except (ConnectFailedError, ConnectTimeoutError):
        return 503
    await relay(connect.accept(), stream)
    return None


async def test_relay_to_an_application() -> None:
    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = await reader.read()  # until the half close
        writer.write(data[::-1])
        writer.close()
        await writer.wait_closed()

    listener = await asyncio.start_server(application, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, mesh(relayed) as net:
        tunnel = await net.pool.connect(net.key, make_authority("127.0.0.1", port))
        await tunnel.write(BODY)
        await tunnel.write_eof()
        assert await read_all(tunnel) == BODY[::-1]
        listener.close()
        with pytest.raises(TunnelRefusedError, match="503"):
            await net.pool.connect(net.key, make_authority("127.0.0.1", port))


async def test_relay_passes_a_reset_on() -> None:
    reset: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
            reset.set_result(False)
        except ConnectionResetError:
            reset.set_result(True)
        writer.close()

    listener = await asyncio.start_server(application, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    async with listener, mesh(relayed) as net:
        tunnel = await net.pool.connect(net.key, make_authority("127.0.0.1", port))
        await tunnel.write(b"half of")
        tunnel.abort()
        assert await asyncio.wait_for(reset, 20), "the application took a piece for the whole"


async def test_relay_holds_the_application_back() -> None:
    """An application that sends without end to a client that does not read."""
    sent = 0

    async def application(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while not writer.is_closing():
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    listener = await asyncio.start_server(application, "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    limits = Limits(stream_window_bytes=65536, connection_window_bytes=65536)
    async with listener, mesh(relayed, settings=Settings(limits=limits)) as net:
        tunnel = await net.pool.connect(net.key, make_authority("127.0.0.1", port))
        await settle(lambda: tunnel.received_bytes == 65536)
        before = -1
        while sent != before:  # what the sockets between take; it has an end
            before = sent
            await asyncio.sleep(0.05)
        assert tunnel.received_bytes == 65536
        tunnel.abort()
