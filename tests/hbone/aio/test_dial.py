"""Sockets that are prepared before they connect."""

from __future__ import annotations

import errno
import socket

import pytest

from hbone.aio import PoolKey, dial_tcp
from hbone.aio.pool import Pool
from hbone.errors import ConnectFailedError
from tests.hbone.aio.mesh import CLIENT, SERVER, TARGET, mesh, read_all


async def test_a_pool_prepares_its_sockets_before_they_connect() -> None:
    seen: list[bool] = []

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 2)
        with pytest.raises(OSError, match="not connected"):
            sock.getpeername()
        seen.append(sock.getsockname()[1] == 0)

    async with mesh() as net:
        pool = Pool(net.pki.credentials(CLIENT), prepare=prepare)
        key = PoolKey(CLIENT, frozenset((SERVER,)), net.key.address, "127.0.0.1")
        tunnel = await pool.connect(key, TARGET)
        await tunnel.write(b"x")
        await tunnel.write_eof()
        assert await read_all(tunnel) == b"x"
        assert seen == [True]
        await pool.close()


async def test_a_socket_that_cannot_be_prepared_connects_nowhere() -> None:
    def prepare(sock: socket.socket) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    async with mesh() as net:
        pool = Pool(net.pki.credentials(CLIENT), prepare=prepare)
        with pytest.raises(ConnectFailedError, match="not permitted"):
            await pool.connect(net.key, TARGET)
        assert not net.server.connections
        await pool.close()


async def test_every_address_of_a_name_is_tried() -> None:
    tried: list[int] = []
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()

    def prepare(sock: socket.socket) -> None:
        tried.append(sock.family)

    stream = await dial_tcp("localhost", listener.getsockname()[1], prepare=prepare)
    accepted, _ = listener.accept()
    await stream.write(b"hello")
    await stream.write_eof()
    accepted.settimeout(20)
    assert accepted.recv(100) == b"hello"
    assert tried[-1] == socket.AF_INET
    accepted.close()
    listener.close()
    stream.abort()


async def test_nobody_listens() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectFailedError, match="failed"):
            await dial_tcp("127.0.0.1", sock.getsockname()[1], prepare=lambda _: None)


async def test_a_name_that_no_resolver_takes() -> None:
    async with mesh() as net:
        key = PoolKey(CLIENT, frozenset((SERVER,)), ("a" * 64 + ".shop", 15008))
        with pytest.raises(ConnectFailedError, match="looked up"):
            await net.pool.connect(key, TARGET)
        assert net.pool.connections == 0
