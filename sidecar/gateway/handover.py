"""Hands listening sockets to the instance that takes over: whoever waits in them is not lost.

Source: unix(7) (SCM_RIGHTS, SO_PEERCRED); socket(7) (SO_REUSEPORT); Linux,
Documentation/networking/ip-sysctl.rst, tcp_migrate_req.

Two instances may listen side by side by SO_REUSEPORT, each worker in a queue of its own. But Linux
resets whom it has put into a queue that is closed, or is greeting that moment, and moves them to
another queue only for the privileged. So a worker of the new instance asks one of the old for its
sockets: both accept from the same queue until the old one stops, and the queue stays.

A worker answers in its gateway's folder, at `worker-N.fds`: messages of one octet with some
sockets, until the end. What they are for they say themselves: see `place_of`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import stat
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, final

_BATCH: Final = 128
"""Linux takes 253 a message."""
_SECONDS: Final = 5.0
"""How long a worker of the older instance may take to answer."""
_CREDENTIALS: Final = struct.Struct("3i")
_NAME: Final = re.compile(r"worker-(\d+)\.fds")

_log = logging.getLogger(__name__)

Place = tuple[str, int, bool]
"""Host, port, and whether an IPv6 socket takes IPv4, too."""


def place_of(sock: socket.socket) -> Place:
    """Where it listens."""
    host, port = sock.getsockname()[:2]
    is_dual = sock.family == socket.AF_INET6 and not sock.getsockopt(
        socket.IPPROTO_IPV6, socket.IPV6_V6ONLY
    )
    return host, port, is_dual


def path_of(folder: str, worker: int) -> str:
    """Where a worker answers."""
    return os.path.join(folder, f"worker-{worker}.fds")


@final
class Handover:
    """A worker's side that gives. `listening`: its sockets of the moment."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        path: str,
        listening: Callable[[], Sequence[socket.socket]],
    ) -> None:
        self._loop = loop
        self._path = path
        self._listening = listening
        self._sock: socket.socket | None = None

    def start(self) -> None:
        """Answer from now on; or say in the log why an upgrade may reset connections."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sock.setblocking(False)
            with suppress(FileNotFoundError):  # of a worker that died in our place
                os.unlink(self._path)
            sock.bind(self._path)
            sock.listen()
        except OSError as error:
            sock.close()
            _log.warning("an upgrade could not take over our sockets: %s", error.strerror or error)
            return
        self._sock = sock
        self._loop.add_reader(sock, self._answer, sock)

    def close(self) -> None:
        """No more."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock)
            sock.close()
            with suppress(FileNotFoundError):
                os.unlink(self._path)

    def _answer(self, sock: socket.socket) -> None:
        try:
            asking, _ = sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError as error:
            # Out of descriptors: who asks would wake us again and again.
            _log.warning("an upgrade cannot take over our sockets: %s", error.strerror)
            self.close()
            return
        with asking:
            asking.setblocking(False)
            try:
                if _user_of(asking) == os.geteuid():
                    _send(asking, [one.fileno() for one in self._listening()])
            except OSError as error:
                _log.warning("sockets were not handed over: %s", error.strerror or error)


def _user_of(asking: socket.socket) -> int:
    raw = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    user: int = _CREDENTIALS.unpack(raw)[1]
    return user


def _send(asking: socket.socket, descriptors: Sequence[int]) -> None:
    for start in range(0, len(descriptors), _BATCH):
        socket.send_fds(asking, [b"L"], descriptors[start : start + _BATCH])


@final
class Inherited:
    """What a worker got of an older instance, to be taken or closed."""

    def __init__(self) -> None:
        self._found: dict[Place, list[socket.socket]] = {}

    @classmethod
    def ask(cls, folder: str, worker: int, workers: int) -> Inherited:
        """Ask those workers of the older instance that this one of so many answers for.

        `folder`: the older instance's; empty when there is none. Takes as long as their answers:
        for a process that does not serve yet. Who does not answer gives nothing.
        """
        inherited = cls()
        try:
            if not folder or not _is_ours(folder):
                return inherited
            numbers = sorted(int(m[1]) for m in map(_NAME.fullmatch, os.listdir(folder)) if m)
        except OSError as error:
            _log.warning("no sockets of the older instance: %s", error.strerror or error)
            return inherited
        for number in numbers:
            if number % workers == worker:
                inherited._ask_one(path_of(folder, number))
        return inherited

    def _ask_one(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as asking:
            asking.settimeout(_SECONDS)
            try:
                asking.connect(path)
                while True:
                    data, descriptors, _, _ = socket.recv_fds(asking, 1, _BATCH)
                    for descriptor in descriptors:
                        self._keep(socket.socket(fileno=descriptor))
                    if not data:
                        return
            except OSError as error:  # TimeoutError is one
                _log.warning("no sockets from %s: %s", path, error.strerror or error)

    def _keep(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        sock.set_inheritable(False)  # `recv_fds` makes them so
        if sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            self._found.setdefault(place_of(sock), []).append(sock)
        else:
            sock.close()  # it stopped listening on its way

    def take(self, host: str, port: int, *, is_dual: bool) -> list[socket.socket]:
        """Those that listen there; they are the caller's."""
        return self._found.pop((host, port, is_dual), [])

    def close(self) -> None:
        """Let go of the others."""
        for sockets in self._found.values():
            for sock in sockets:
                sock.close()
        self._found.clear()


def _is_ours(folder: str) -> bool:
    """Nobody else may make up what is in it. Raises: OSError."""
    info = os.lstat(folder)
    is_closed = stat.S_ISDIR(info.st_mode) and stat.S_IMODE(info.st_mode) == stat.S_IRWXU
    return is_closed and info.st_uid == os.geteuid()
