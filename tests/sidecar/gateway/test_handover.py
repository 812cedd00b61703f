"""Listening sockets passed from one process to another; here both are this one."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from sidecar.gateway.handover import Handover, Inherited, path_of, place_of


def listening(host: str = "127.0.0.1", *, only_ipv6: bool = False) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_ipv6)
    sock.bind((host, 0))
    sock.listen()
    return sock


@contextmanager
def given(folder: Path, worker: int, socks: Sequence[socket.socket]) -> Iterator[None]:
    handover = Handover(asyncio.get_running_loop(), path_of(str(folder), worker), lambda: socks)
    handover.start()
    try:
        yield
    finally:
        handover.close()
        assert not os.path.exists(path_of(str(folder), worker))


async def asked(folder: Path, worker: int = 0, workers: int = 1) -> Inherited:
    return await asyncio.to_thread(Inherited.ask, str(folder), worker, workers)


def taken(inherited: Inherited, sock: socket.socket) -> list[int]:
    """The inodes of what is listening where this one does."""
    host, port, is_dual = place_of(sock)
    found = inherited.take(host, port, is_dual=is_dual)
    inodes = [os.fstat(one.fileno()).st_ino for one in found]
    for one in found:
        assert not one.getblocking()
        assert not one.get_inheritable()
        one.close()
    return inodes


def inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine").mkdir(mode=0o700)
    return tmp_path / "mine"


async def test_it_is_the_same_socket(folder: Path) -> None:
    with listening() as one, listening() as two, given(folder, 0, [one, two]):
        inherited = await asked(folder)
        assert taken(inherited, one) == [inode(one)]
        assert taken(inherited, one) == []
        with socket.create_connection(two.getsockname()):
            before = len(os.listdir("/proc/self/fd"))
            inherited.close()
            assert len(os.listdir("/proc/self/fd")) == before - 1
            two.accept()[0].close()  # whoever waited is there


async def test_one_that_takes_ipv4_too_is_another(folder: Path) -> None:
    with listening("::") as dual, given(folder, 0, [dual]):
        inherited = await asked(folder)
        host, port, is_dual = place_of(dual)
        assert is_dual
        assert inherited.take(host, port, is_dual=False) == []
        assert taken(inherited, dual) == [inode(dual)]


@pytest.mark.parametrize(("worker", "expected"), [(0, {0, 2}), (1, {1})])
async def test_fewer_workers_have_more_each(folder: Path, worker: int, expected: set[int]) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(listening()) for _ in range(3)]
        for number, sock in enumerate(socks):
            stack.enter_context(given(folder, number, [sock]))
        inherited = await asked(folder, worker, 2)
        assert {n for n, sock in enumerate(socks) if taken(inherited, sock)} == expected


async def test_more_than_fit_in_a_message(folder: Path) -> None:
    with ExitStack() as stack:
        socks = [stack.enter_context(listening()) for _ in range(300)]
        stack.enter_context(given(folder, 0, socks))
        inherited = await asked(folder)
        assert all(taken(inherited, sock) == [inode(sock)] for sock in socks)


async def test_one_that_listens_no_more_is_left(folder: Path) -> None:
    with socket.socket() as idle:
        idle.bind(("127.0.0.1", 0))
        with given(folder, 0, [idle]):
            assert taken(await asked(folder), idle) == []


async def test_nobody_else_may_give(folder: Path) -> None:
    with listening() as sock, given(folder, 0, [sock]):
        os.chmod(folder, 0o755)
        assert taken(await asked(folder), sock) == []
        link = folder.with_name("link")
        os.symlink(folder, link)
        os.chmod(folder, 0o700)
        assert taken(await asked(link), sock) == []


async def test_who_is_gone_gives_nothing(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(path_of(str(folder), 0))
    assert (await asked(folder)).take("127.0.0.1", 80, is_dual=False) == []
    assert "worker-0.fds: Connection refused" in caplog.text
    with listening() as sock, given(folder, 0, [sock]):  # its replacement
        assert taken(await asked(folder), sock) == [inode(sock)]
    assert (await asked(folder / "none")).take("127.0.0.1", 80, is_dual=False) == []
