"""Accepting connections when accept(2) tells of errors."""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from istio.sidecar.accept import Acceptor, Caught

PATIENCE_SECONDS = 20.0


class Troubled(socket.socket):
    """A listening socket that fails at first."""

    errors: list[int]

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        if self.errors:
            raise OSError(self.errors.pop(), "so it is")
        return super().accept()


def listening(*errors: int) -> Troubled:
    sock = Troubled()
    sock.errors = list(errors)
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.setblocking(False)
    return sock


@pytest.mark.parametrize(
    "errors",
    [(errno.EPROTO,), (errno.EPERM, errno.ECONNABORTED), (errno.ENETDOWN,) * 100, (errno.EMFILE,)],
    ids=["one that failed", "two that failed", "more than are taken at once", "no more files"],
)
async def test_the_next_connection_is_taken(errors: tuple[int, ...]) -> None:
    loop = asyncio.get_running_loop()
    caught: asyncio.Queue[Caught] = asyncio.Queue()
    acceptor = Acceptor(loop, listening(*errors), caught.put_nowait)
    acceptor.start()
    with socket.create_connection(("127.0.0.1", acceptor.port)) as client:
        one = await asyncio.wait_for(caught.get(), PATIENCE_SECONDS)
        assert one.peer == client.getsockname()
        one.reset()
    acceptor.stop()
