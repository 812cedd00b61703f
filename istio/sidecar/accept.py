"""Accepts connections, and hands over each of them before anything of it is read.

Source: accept(2).
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import Final, final

from hbone.aio import TcpStream
from istio.sidecar.original_dst import plain_address

_log = logging.getLogger("istio.sidecar")
_ACCEPTS_PER_WAKE: Final = 64
_PAUSE_SECONDS: Final = 0.1
_LINGER_OFF: Final = struct.pack("ii", 1, 0)
_OF_ONE: Final = frozenset(
    (
        *(errno.ECONNABORTED, errno.EPROTO, errno.ENOPROTOOPT, errno.EPERM, errno.EOPNOTSUPP),
        *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT),
    )
)
"""Linux tells at accept(2) what has befallen the connection itself: the next may be sound."""
_OUT_OF_FILES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@final
class Acceptor:
    """`on_caught` becomes the owner of each connection."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        on_caught: Callable[[Caught], None],
    ) -> None:
        self._loop = loop
        self._sock = sock
        self._on_caught = on_caught
        self._resume: asyncio.TimerHandle | None = None

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._sock.getsockname()[1])

    def start(self) -> None:
        """Accept from now on."""
        self._resume = None
        self._loop.add_reader(self._sock, self._accept)

    def _accept(self) -> bool:
        """Take what waits, within bounds; whether there may be more."""
        for _ in range(_ACCEPTS_PER_WAKE):
            try:
                sock, address = self._sock.accept()
            except (BlockingIOError, InterruptedError):
                return False
            except OSError as error:
                if error.errno in _OF_ONE:
                    continue
                if error.errno not in _OUT_OF_FILES:
                    raise
                # Level-triggered readiness would spin; the kernel's queue holds them meanwhile.
                _log.warning("accept on port %d: %s", self.port, error.strerror)
                self._loop.remove_reader(self._sock)
                self._resume = self._loop.call_later(_PAUSE_SECONDS, self.start)
                return False
            sock.setblocking(False)
            self._on_caught(Caught(sock, (plain_address(address[0]), address[1])))
        return True

    def stop(self) -> None:
        """Take what the kernel has accepted already, which it would reset, and close."""
        if self._sock.fileno() == -1:
            return
        while self._accept():
            continue
        if self._resume is not None:
            self._resume.cancel()
        self._loop.remove_reader(self._sock)
        self._sock.close()


@final
class Caught:
    """An accepted connection of which nothing was read; `peer`: address and port.

    Its socket is ours until `stream` or `give` lets go of it.
    """

    __slots__ = ("_sock", "peer")

    def __init__(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        self._sock: socket.socket | None = sock
        self.peer = peer

    @property
    def sock(self) -> socket.socket:
        """While it is ours."""
        assert self._sock is not None
        return self._sock

    def give(self) -> None:
        """Somebody else closes it from now on."""
        self._sock = None

    async def stream(self, loop: asyncio.AbstractEventLoop) -> TcpStream:
        """Read and write it from now on. Raises: OSError."""
        sock = self.sock
        self.give()
        try:
            _, stream = await loop.connect_accepted_socket(TcpStream, sock)
        except BaseException:
            sock.close()
            raise
        return stream

    def reset(self) -> None:
        """Close it, if it is still ours, so that the peer sees a failure and not an end."""
        sock, self._sock = self._sock, None
        if sock is not None:
            try:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
            finally:
                sock.close()
