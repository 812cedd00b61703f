"""Workers ask each other for what one of them holds: a child process, or a server's stream.

Source: design section 5 (`sessions`); unix(7), SO_PEERCRED.

Each worker listens on a Unix socket in a folder of the gateway's own (0700), and both ends look at
the other's user. A connection carries one exchange at a time and is kept for the next. A frame is a
32-bit length, in network order, and that many bytes of JSON, 8 MiB at most.

    asks     {op, key, scope, era, version, held, message, headers, of, last}
    answers  request, listen   {held, json} or {none}, then {m, e, r} a message, then {end}
             send, end         {done}
             instead           {refused: […]} or {error: […]}

Closing the connection within an exchange gives it up, whichever side does. An owner that is dead is
an error of its own, OwnerGone: whoever asks may claim the session then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, final
from zlib import crc32

from sidecar.errors import ConfigError, UpstreamError
from sidecar.mcp import peer_frames
from sidecar.mcp.peer_connection import Asking, OwnerGone, PeerConnection, Serving
from sidecar.mcp.upstream.base import Answered, Messages, Outbound, Refused, Target

_log = logging.getLogger("sidecar.mcp.peers")
MAX_CONNECTIONS: Final = 1024
"""That one worker takes."""
CONNECT_SECONDS: Final = 2.0
_KEPT: Final = 64
_CREDENTIALS: Final = struct.Struct("=iII")
_MAX_PATH_BYTES: Final = 107


@final
class Peers:
    """This worker's socket, and its way to those of the others."""

    def __init__(
        self,
        directory: str,
        worker: int,
        target_of: Callable[[str], Target | None],
        workers: int = 1,
    ) -> None:
        """`directory`: made by the supervisor, 0700. `target_of`: the local target of a key.
        `workers`: how many there are."""
        self.worker = worker
        self.workers = workers
        self._directory = Path(directory)
        self._target_of = target_of
        self._listening: socket.socket | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._connections: set[PeerConnection] = set()
        self._kept: dict[int, list[PeerConnection]] = {}

    def path(self, worker: int) -> str:
        """Of a worker's socket."""
        return str(self._directory / f"worker-{worker}.sock")

    async def start(self) -> None:
        """Listen. Raises: ConfigError when the folder is not ours alone; OSError."""
        _check_directory(self._directory)
        self._listening = _listen(self.path(self.worker))
        self._own(self._accept(self._listening))

    async def close(self) -> None:
        """Stop listening and give up every exchange."""
        tasks = set(self._tasks)
        for connection in list(self._connections):
            connection.transport.abort()
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        if self._listening is not None:
            self._listening.close()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.path(self.worker))

    async def request(
        self, owner: int, key: str, outbound: Outbound, *, with_facts: bool = True
    ) -> Answered:
        """See base.Target. Raises: OwnerGone besides."""
        frame = peer_frames.asked("request", key, outbound, with_facts=with_facts)
        asking, reply = await self._ask(owner, frame)
        return Answered(asking.messages(), peer_frames.held_of(reply["held"]))

    async def send(self, owner: int, key: str, outbound: Outbound) -> None:
        """See base.Target. Raises: OwnerGone besides."""
        await self._ask(owner, peer_frames.asked("send", key, outbound))

    async def listen(
        self, owner: int, key: str, outbound: Outbound, last_event_id: bytes
    ) -> Messages | None:
        """See base.Target. Raises: OwnerGone besides."""
        frame = peer_frames.asked("listen", key, outbound, last_event_id)
        asking, reply = await self._ask(owner, frame)
        return None if "none" in reply else asking.messages()

    async def end(self, owner: int, key: str, outbound: Outbound) -> None:
        """See base.Target. Raises: OwnerGone besides."""
        await self._ask(owner, peer_frames.asked("end", key, outbound))

    # --- connections ----------------------------------------------------------------------

    async def _ask(self, owner: int, frame: dict[str, Any]) -> tuple[Asking, dict[str, Any]]:
        kept = self._kept.setdefault(owner, [])
        connection = kept.pop() if kept else await self._connect(owner)

        def release() -> None:
            if not connection.is_lost and len(kept) < _KEPT:
                connection.on_lost = lambda: kept.remove(connection)
                kept.append(connection)
            else:
                connection.transport.close()

        asking = Asking(connection, owner, release)
        return asking, await asking.ask(frame)

    async def _connect(self, owner: int) -> PeerConnection:
        """Raises: OwnerGone."""
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await loop.sock_connect(sock, self.path(owner))
            _check_peer(sock)
            _, connection = await loop.create_unix_connection(PeerConnection, sock=sock)
        except (OSError, TimeoutError) as error:
            sock.close()
            raise OwnerGone(owner, sent=False) from error
        except BaseException:
            sock.close()
            raise
        self._keep(connection)
        return connection

    def _keep(self, connection: PeerConnection) -> None:
        self._connections.add(connection)
        connection.on_gone = lambda: self._connections.discard(connection)

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, _ = await loop.sock_accept(listening)
            except OSError as error:
                _log.warning("a worker's connection was not accepted: %s", error)
                await asyncio.sleep(0.1)
                continue
            try:
                _check_peer(sock)
                if len(self._tasks) > MAX_CONNECTIONS:
                    raise PermissionError("too many connections")
                await self._take(sock)
            except OSError as error:
                _log.warning("a worker's connection was not accepted: %s", error)
                sock.close()

    async def _take(self, sock: socket.socket) -> None:
        """Serve what another worker asks here. Raises: OSError."""
        # All in place before there is a transport: a frame may come in the turn that makes it.
        connection = PeerConnection()
        serving = Serving(connection, self._target_of)
        await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        task = self._own(serving.run())
        self._keep(connection)
        connection.on_lost = task.cancel

    def _own(self, coroutine: Any) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


@final
class OwnedTarget:
    """A target whose state lives in one worker: here, or asked for there. See base.Target."""

    __slots__ = ("_has_homes", "_here", "_key", "_peers", "_salt", "_with_facts", "name")

    def __init__(
        self,
        here: Target,
        key: str,
        peers: Peers,
        *,
        with_facts: bool = True,
        has_homes: bool = False,
    ) -> None:
        """`here`: the target itself, `key` what its table and `target_of` know it by.

        `with_facts`: whether it has policies, to which what ours learnt may matter. `has_homes`:
        whether all modern requests of a principal go to one worker, whichever they came to."""
        self._has_homes = has_homes and peers.workers > 1
        self._salt = crc32(key.encode())
        self.name = here.name
        self._here = here
        self._key = key
        self._peers = peers
        self._with_facts = with_facts

    async def request(self, outbound: Outbound) -> Answered:
        """See base.Target. Raises: OwnerGone besides."""
        owner = self._owner(outbound)
        if owner == self._peers.worker:
            return await self._here.request(outbound)
        try:
            return await self._peers.request(
                owner, self._key, outbound, with_facts=self._with_facts
            )
        except OwnerGone as error:
            if error.sent or owner == outbound.scope.owner:
                raise
        # Its home is being replaced: what was sealed there is lost, and all else is served.
        return await self._here.request(outbound)

    def _owner(self, outbound: Outbound) -> int:
        """The worker that has the state."""
        if self._has_homes and outbound.era == "modern":
            # What a process says to one request (`requestState`, a change of its lists) it alone
            # can go on with, and the client's next request may come to any worker.
            return crc32(outbound.scope.key, self._salt) % self._peers.workers
        return outbound.scope.owner

    async def send(self, outbound: Outbound) -> None:
        """See base.Target. Raises: OwnerGone besides."""
        owner = self._owner(outbound)
        if owner == self._peers.worker:
            await self._here.send(outbound)
        else:
            await self._peers.send(owner, self._key, outbound)

    async def listen(self, outbound: Outbound, last_event_id: bytes = b"") -> Messages | None:
        """See base.Target. Raises: OwnerGone besides."""
        owner = outbound.scope.owner
        if owner == self._peers.worker:
            return await self._here.listen(outbound, last_event_id)
        return await self._peers.listen(owner, self._key, outbound, last_event_id)

    async def end(self, outbound: Outbound) -> None:
        """See base.Target. What a dead worker held has ended with it."""
        owner = outbound.scope.owner
        if owner == self._peers.worker:
            await self._here.end(outbound)
            return
        try:
            await self._peers.end(owner, self._key, outbound)
        except (UpstreamError, Refused) as error:
            _log.debug("%s: a session could not be ended: %s", self.name, error)


def _listen(path: str) -> socket.socket:
    """Raises: ConfigError, OSError."""
    if len(os.fsencode(path)) > _MAX_PATH_BYTES:
        raise ConfigError("", f"the path of a worker's socket is too long: {path}")
    # What lies there is a dead worker's: there is one of each number.
    Path(path).unlink(missing_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.setblocking(False)
    sock.bind(path)
    sock.listen(128)
    return sock


def _check_directory(directory: Path) -> None:
    """Raises: ConfigError."""
    found = directory.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise ConfigError("", f"{directory} must belong to the gateway's user alone (mode 0700)")


def _check_peer(sock: socket.socket) -> None:
    """Raises: PermissionError when the other end is another user's."""
    raw = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    _, uid, _ = _CREDENTIALS.unpack(raw)
    if uid != os.geteuid():
        raise PermissionError(f"user {uid} is not ours")
