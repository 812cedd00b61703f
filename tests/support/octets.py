"""A TCP upstream in a thread, and small helpers for sockets."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Serve = Callable[[socket.socket], None]


def read_all(sock: socket.socket) -> bytes:
    """Until the end; a reset ends it too."""
    parts = []
    with contextlib.suppress(ConnectionResetError, ssl.SSLEOFError):
        while piece := sock.recv(65536):
            parts.append(piece)
    return b"".join(parts)


def read_exactly(sock: socket.socket, count: int) -> bytes:
    """So many octets, or fewer at the end."""
    parts = b""
    while len(parts) < count and (piece := sock.recv(count - len(parts))):
        parts += piece
    return parts


def echo(sock: socket.socket) -> None:
    """Send back what comes, then end."""
    while piece := sock.recv(65536):
        sock.sendall(piece)


class TcpUpstream:
    """`with TcpUpstream(serve) as up:` runs `serve(socket)` for each connection in a thread.

    A subclass may serve in another way: `_take` is given each accepted socket.
    """

    def __init__(self, serve: Serve = echo, *, tls: ssl.SSLContext | None = None) -> None:
        self._talk = serve
        self._tls = tls
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._threads: list[threading.Thread] = []
        self.open: list[socket.socket] = []
        self.port: int = self._listening.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listening.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.open.append(sock)
                self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        self._run(self._one, sock)

    def _run(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _one(self, raw: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(raw.close)
            sock: socket.socket = raw
            if self._tls is not None:
                sock = stack.enter_context(self._tls.wrap_socket(raw, server_side=True))
                self.open.append(sock)
            self._talk(sock)

    def __enter__(self) -> Self:
        self._accepting.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._accepting.join(20)  # else one more may come, which nobody ends
        self._listening.close()
        for sock in list(self.open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(20)
