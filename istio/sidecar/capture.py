"""A pod's sidecar in one worker: everything that is captured, and its certificate.

Source: spec istio 1.10, 2.9 and 1.8 (drain).

    port    who comes                                 what becomes of it
    15001   the application, redirected               Judge.outbound; its HTTP maybe to the gateway
    15006   others in plaintext, redirected           closed in strict mode; Judge.inbound
    15008   others by tunnel                          Judge.inbound, and an answer as ztunnel's
    SOCKS   the application, on 127.0.0.1 alone       as 15001, and names too

1. A connection that nobody redirected was made to the listener itself and is closed: to serve it
   would be a loop.
2. There is no 15008 before there is a certificate, and no tunnel either: what needs one fails.
3. Every socket that leads out is marked before it connects, or all of the sidecar's user's are let
   pass by the redirect rules; else they would be redirected here. Whether that is so is tried out
   at the start, and while it is not nothing goes out.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from typing import Any, Final, final

from hbone import aio
from hbone.aio import ByteStream, Credentials, Pool, RevocationList, Server, TcpStream
from hbone.errors import HboneError
from hbone.wire.authority import ILLEGAL_PORTS
from istio.sidecar.accept import Acceptor, Caught
from istio.sidecar.inward import Inward
from istio.sidecar.joined import Counts, Prefixed, relayed
from istio.sidecar.original_dst import original_destination
from istio.sidecar.outward import Outward
from istio.sidecar.probe import NOBODY, is_redirected
from istio.sidecar.sockets import check_mark, check_transparent, keep_alive, listening, outgoing
from istio.sidecar.socks5 import Reply, Socks5, SocksError, reply
from istio.sidecar.ways import UNKNOWN, Arrival, Judge, Mode, Refused, Settings, Way

_log = logging.getLogger("istio.sidecar")
_SOCKS_SECONDS: Final = 10.0
_LAST_SECONDS: Final = 1.0

HandOver = Callable[[Caught, tuple[str, int], Way], bool]
"""Takes a captured connection, given the address it called and its way, if the gateway has routes
for it; its socket is then the gateway's (`Caught.give`)."""

_Serve = Callable[[Caught], Awaitable[None]]


@final
class Capture:
    """To be made in the loop that runs it. Raises: CaptureError.

    `trust_domains`: as hbone.aio.Server. `hand_over`: see HandOver.
    """

    def __init__(
        self,
        settings: Settings,
        judge: Judge,
        *,
        hbone: aio.Settings | None = None,
        trust_domains: frozenset[str] | None = frozenset(),
        hand_over: HandOver | None = None,
    ) -> None:
        check_mark(settings.packet_mark)
        if settings.preserve_source:
            check_transparent()
        self._loop = asyncio.get_running_loop()
        self._settings = settings
        self._judge = judge
        own = settings.own_ports | ILLEGAL_PORTS
        self._hbone = replace(hbone or aio.Settings(), refused_ports=own)
        self._trust_domains = trust_domains
        self._hand_over = hand_over
        self.counts = Counts()
        mark = settings.packet_mark
        self._outward = Outward(outgoing(mark), settings.connect_seconds)
        inwards = outgoing(mark, is_transparent=settings.preserve_source)
        self._inward = Inward(settings, lambda: self._judge, inwards, self.counts)
        self._server: Server | None = None
        self._changing = asyncio.Lock()
        self._acceptors: list[Acceptor] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_draining = False
        self._trial: asyncio.Task[None] | None = None
        self._is_looping = False
        """Whether our own connections are redirected to us."""

    # --- life -----------------------------------------------------------------------------

    def start(self) -> None:
        """Accept what is captured. Raises: CaptureError for a port that is taken."""
        settings = self._settings
        for host in self._hosts():
            self._listen(host, settings.outbound_port, self._captured)
            self._listen(host, settings.inbound_port, self._plaintext)
        self._listen("127.0.0.1", settings.socks5_port, self._socks)
        if settings.outbound_port:
            self._trial = self._loop.create_task(self._look_for_loops())

    async def _look_for_loops(self) -> None:
        if await is_redirected(outgoing(self._settings.packet_mark)):
            self._is_looping = True
            _log.error(
                "the redirect rules redirect the sidecar's own connections to it: they must let "
                "pass %s; nothing goes out",
                f"packets with mark {self._settings.packet_mark}"
                if self._settings.packet_mark
                else f"those of user {os.geteuid()}",
            )

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _hosts(self) -> tuple[str, ...]:
        return ("0.0.0.0", "::") if self._settings.uses_ipv6 else ("0.0.0.0",)

    def _listen(self, host: str, port: int, serve: _Serve) -> None:
        if not port:
            return

        def take(caught: Caught) -> None:
            if len(self._tasks) >= self._settings.max_connections:
                caught.reset()
                return
            self._own(_guarded(caught, serve))

        acceptor = Acceptor(self._loop, listening(host, port), take)
        self._acceptors.append(acceptor)
        acceptor.start()

    async def set_credentials(
        self, credentials: Credentials | None, revoked: RevocationList | None = None
    ) -> None:
        """The first certificate, or a renewed one: live connections keep theirs. None: what needs
        one fails from now on. `revoked`: peers whose connections end, too.

        Raises: CertificateError, CaptureError.
        """
        async with self._changing:
            if credentials is None:
                await self._close_tunnels()
                return
            outward = self._outward
            if outward.pool is None:
                prepare = outgoing(self._settings.packet_mark)
                outward.pool = Pool(credentials, settings=self._hbone, prepare=prepare)
            else:
                outward.pool.set_credentials(credentials)
            outward.pool.set_revoked(revoked)
            outward.identity = str(credentials.identity)
            if self._server is not None:
                self._server.set_credentials(credentials)
                self._server.set_revoked(revoked)
            elif self._settings.hbone_port and not self._is_draining:
                self._server = await self._serve_tunnels(credentials, revoked)

    async def _close_tunnels(self) -> None:
        server, self._server = self._server, None
        pool, self._outward.pool = self._outward.pool, None
        if server is not None:
            await server.close()
        if pool is not None:
            await pool.close()

    async def _serve_tunnels(
        self, credentials: Credentials, revoked: RevocationList | None
    ) -> Server:
        server = Server(
            self._inward.tunnel,
            credentials,
            settings=self._hbone,
            trust_domains=self._trust_domains,
            revoked=revoked,
        )
        for host in self._hosts():
            await server.listen_on(listening(host, self._settings.hbone_port))
        return server

    @property
    def connections(self) -> int:
        """Captured ones, as of now."""
        return len(self._tasks)

    @property
    def tunnel_connections(self) -> tuple[int, int]:
        """Of others to us, and of us to others."""
        server, pool = self._server, self._outward.pool
        return (
            0 if server is None else server.connections,
            0 if pool is None else pool.connections,
        )

    def set_judge(self, judge: Judge) -> None:
        """Decide by something else from now on; what it denies of the living ends."""
        self._judge = judge
        self.recheck()

    def recheck(self) -> int:
        """Policies or workloads have changed: end what is denied by now; gives how many."""
        return self._inward.recheck()

    async def drain(self, deadline_seconds: float) -> None:
        """Take no more connections; those there are may go on until the deadline."""
        self._is_draining = True
        for acceptor in self._acceptors:
            acceptor.stop()
        until = self._loop.time() + deadline_seconds
        if self._server is not None:
            await self._server.drain(deadline_seconds)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=max(until - self._loop.time(), 0.0))
        await self.close()

    async def close(self) -> None:
        """End everything now."""
        self._is_draining = True
        for acceptor in self._acceptors:
            acceptor.stop()
        tasks = [*self._tasks, *([self._trial] if self._trial is not None else [])]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._close_tunnels()

    # --- connections ----------------------------------------------------------------------

    async def _captured(self, caught: Caught) -> None:
        target = original_destination(caught.sock)
        if target is None:
            self._refuse(caught, "outbound", Refused(503, "LOOP", "nobody redirected it"))
            return
        if self._is_looping or target == NOBODY:
            self._refuse(caught, "outbound", Refused(503, "LOOP", "our own connections come back"))
            return
        way = await self._way(target, caught.peer[0])
        if isinstance(way, Refused):
            self._refuse(caught, "outbound", way)
            return
        if self._hand_over is not None and self._hand_over(caught, target, way):
            return
        other = await self._open(way)
        try:
            stream = await caught.stream(self._loop)
        except BaseException:
            other.abort()
            raise
        await relayed(self.counts, "outbound", stream, other)

    async def _way(self, target: tuple[str, int], peer: str) -> Way | Refused:
        """The judge's word; a mesh that is not known yet is waited for."""
        way = self._judge.outbound(*target, peer)
        until = self._loop.time() + self._settings.known_seconds
        while (
            isinstance(way, Refused) and way.flag == UNKNOWN and await self._inward.changed(until)
        ):
            way = self._judge.outbound(*target, peer)
        return way

    async def _open(self, way: Way) -> ByteStream:
        try:
            return await self._outward.open(way)
        except HboneError as error:
            self.counts.ended["outbound", error.flag] += 1
            _log.info("outbound to %s:%d failed: %s", way.host, way.port, error)
            raise

    async def _plaintext(self, caught: Caught) -> None:
        target = original_destination(caught.sock)
        if target is None:
            self._refuse(caught, "plaintext", Refused(503, "LOOP", "nobody redirected it"))
        elif self._settings.mode is Mode.STRICT:
            self._refuse(caught, "plaintext", Refused(401, "DENY", "plaintext in strict mode"))
        else:
            await self._inward.plaintext(caught, Arrival(None, None, target, caught.peer))

    def _refuse(self, caught: Caught, direction: str, refused: Refused) -> None:
        self.counts.ended[direction, refused.flag] += 1
        _log.info("%s of %s refused: %s", direction, caught.peer[0], refused.reason)
        caught.reset()

    async def _socks(self, caught: Caught) -> None:
        stream = await caught.stream(self._loop)
        try:
            other, rest = await self._ask_socks(stream, caught.peer[0])
        except BaseException:
            stream.abort()
            raise
        await relayed(self.counts, "outbound", Prefixed(stream, rest), other)

    async def _ask_socks(self, stream: TcpStream, peer: str) -> tuple[ByteStream, bytes]:
        """What the client wants to be joined with, and what it sent already."""
        socks = Socks5()
        try:
            async with asyncio.timeout(_SOCKS_SECONDS):
                while socks.target is None:
                    data = await stream.read()
                    if not data:
                        raise ConnectionResetError("the client left")
                    if said := socks.feed(data):
                        await stream.write(said)
        except SocksError as error:
            await _say_last(stream, error.last)
            raise ConnectionAbortedError(f"SOCKS: {error}") from error
        way = await self._way(socks.target, peer)
        if isinstance(way, Refused):
            await _say_last(stream, reply(Reply.NOT_ALLOWED))
            self.counts.ended["outbound", way.flag] += 1
            raise ConnectionAbortedError(f"SOCKS: {way.reason}")
        try:
            other = await self._open(way)
        except HboneError:
            await _say_last(stream, reply(Reply.HOST_UNREACHABLE))
            raise
        try:
            await stream.write(reply(Reply.SUCCEEDED))
        except BaseException:
            other.abort()
            raise
        return other, socks.rest


async def _guarded(caught: Caught, serve: _Serve) -> None:
    """No failure of one connection is any other's."""
    try:
        keep_alive(caught.sock)
        await serve(caught)
    except (OSError, HboneError) as error:  # TimeoutError is an OSError
        _log.debug("connection of %s ended early: %s", caught.peer[0], error)
    finally:
        caught.reset()


async def _say_last(stream: TcpStream, words: bytes) -> None:
    """An answer after which nothing follows; waits for the peer to have seen it."""
    if words:
        await stream.write(words)
    await stream.write_eof()
    async with asyncio.timeout(_LAST_SECONDS):
        while await stream.read():
            continue
