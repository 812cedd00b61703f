"""The application's side of a tunnel: a peer that does not read."""

from __future__ import annotations

import socket

import pytest

from hbone.aio import dial_tcp, tcp
from tests.hbone.aio.mesh import settle


async def test_who_never_takes_the_last_of_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "_LAST_SECONDS", 0.05)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        stream = await dial_tcp(*listener.getsockname())
        peer, _ = listener.accept()
        with peer:
            while not stream._transport.get_write_buffer_size():
                await stream.write(b"x" * 65536)
            peer.shutdown(socket.SHUT_WR)
            assert await stream.read() == b""
            await stream.write_eof()
            last = stream._last
            assert last is not None
            assert not last.cancelled()
            await settle(last.cancelled)  # as it is when the socket is gone
