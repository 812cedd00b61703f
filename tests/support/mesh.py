"""The other proxies of a mesh, in a thread: they bring applications' connections to the gateway by
tunnels, and take its tunnels to applications.

What they are told to expect and to refuse is a test's; the tunnels themselves are hbone's, which is
tested with Envoy elsewhere.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from hbone.aio import Connect, Credentials, Pool, PoolKey, Server, TcpStream, dial_tcp, relay
from hbone.aio.carrier import Carrier
from hbone.errors import HboneError
from hbone.wire.authority import make_authority
from tests.hbone.pki import Leaf, Pki, spiffe

SECONDS = 20.0
T = TypeVar("T")
WAYPOINT = spiffe("waypoint")


@dataclass
class Arrived:
    """A CONNECT that the gateway sent."""

    authority: str
    peer: str
    headers: dict[str, str]


@dataclass
class Inbound:
    """Who takes the gateway's tunnels: `refuse` is its answer where it is set."""

    port: int
    identity: str
    seen: list[Arrived] = field(default_factory=list)
    refuse: int = 0
    target: int = 0
    """The port to dial; 0 for the authority's."""


class Proxies:
    """`with Proxies(pki) as proxies:`."""

    def __init__(self, pki: Pki) -> None:
        self.pki = pki
        self.leaves: dict[str, Leaf] = {}
        """Certificates of doors, by identity."""
        self.refused: list[HboneError] = []
        """Why doors' tunnels failed, the last at the end."""
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._pools: dict[str, Pool] = {}
        self._servers: list[Server] = []
        self._doors: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._wires: list[asyncio.Transport] = []

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """In the thread's loop."""
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(SECONDS)

    def door(
        self,
        gateway_port: int,
        authority: str,
        *,
        identity: str = spiffe("client"),
        expected: str = WAYPOINT,
        pki: Pki | None = None,
    ) -> int:
        """A port on which an application reaches `authority` (`host:port`) by a tunnel."""
        return self.run(self._door(gateway_port, authority, identity, expected, pki or self.pki))

    async def _door(
        self, gateway_port: int, authority: str, identity: str, expected: str, pki: Pki
    ) -> int:
        host, _, port = authority.rpartition(":")
        key = PoolKey(identity, frozenset((expected,)), ("127.0.0.1", gateway_port))
        target = make_authority(host.strip("[]"), int(port))
        pool = self._pools.get(identity + str(id(pki)))
        if pool is None:
            leaf = self.leaves[identity] = pki.leaf(identity)
            made = Credentials(leaf.chain, leaf.key, self.pki.root_pem)
            pool = self._pools[identity + str(id(pki))] = Pool(made)

        async def serve(stream: TcpStream) -> None:
            try:
                tunnel = await pool.connect(key, target)
            except HboneError as error:
                self.refused.append(error)
                stream.abort()
                return
            try:
                await relay(stream, tunnel)
            except (HboneError, OSError):
                stream.abort()
            finally:
                tunnel.release()

        def accepted() -> asyncio.Protocol:
            return _Accepted(self._wires, lambda stream: self._own(serve(stream)))

        door = await self._loop.create_server(accepted, "127.0.0.1", 0)
        self._doors.append(door)
        return int(door.sockets[0].getsockname()[1])

    def _own(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def inbound(self, identity: str, leaf: Leaf | None = None) -> Inbound:
        """Takes tunnels for any address, and dials 127.0.0.1 at the authority's port."""
        return self.run(self._inbound(identity, leaf or self.pki.leaf(identity)))

    async def _inbound(self, identity: str, leaf: Leaf) -> Inbound:
        made = Inbound(0, identity)

        async def handle(connect: Connect) -> int | None:
            made.seen.append(_arrived(connect))
            if made.refuse:
                return made.refuse
            stream = await dial_tcp("127.0.0.1", made.target or connect.authority.port)
            await relay(connect.accept(), stream)
            return None

        credentials = Credentials(leaf.chain, leaf.key, self.pki.root_pem)
        server = Server(handle, credentials, trust_domains=None)
        made.port = await server.listen("0.0.0.0", 0)
        self._servers.append(server)
        return made

    def between(self, identity: str, inner: str) -> Inbound:
        """The gateway of another network: in its tunnels there are others, which `inner` takes."""
        return self.run(self._between(identity, inner))

    async def _between(self, identity: str, inner: str) -> Inbound:
        made = await self._inbound(inner, self.pki.leaf(inner))
        behind = self._servers[-1]

        async def handle(connect: Connect) -> int | None:
            made.seen.append(_arrived(connect))
            carrier = Carrier(self._loop, connect.accept(), behind.protocol())
            await carrier.wait_closed()
            return None

        server = Server(handle, self.pki.credentials(identity))
        made.port = await server.listen("0.0.0.0", 0)
        self._servers.append(server)
        return made

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(SECONDS)
        self._loop.close()

    async def _close(self) -> None:
        for door in self._doors:
            door.close()
        for pool in self._pools.values():
            await pool.close()
        for server in self._servers:
            await server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(list(self._tasks), timeout=5)
        for wire in self._wires:
            wire.abort()
        await asyncio.sleep(0.01)  # what was aborted is told so in the next turns of the loop


def _arrived(connect: Connect) -> Arrived:
    headers = {name.decode(): value.decode() for name, value in connect.headers}
    return Arrived(str(connect.authority), str(connect.peer.identity), headers)


class _Accepted(TcpStream):  # type: ignore[misc] # nothing of it is changed
    """Tells of itself when it is accepted."""

    def __init__(self, wires: list[asyncio.Transport], told: Any) -> None:
        super().__init__()
        self._wires = wires
        self._told = told

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._wires.append(cast("asyncio.Transport", transport))
        self._told(self)


def put_certificate(leaf: Leaf, pki: Pki, folder: Path) -> dict[str, str]:
    """`config.istio.certificate` of a leaf whose files are in the folder."""
    texts = {"chain": leaf.chain, "key": leaf.key, "roots": pki.root_pem}
    for name, text in texts.items():
        fresh = folder / f"{name}.new"
        fresh.write_bytes(text)
        fresh.replace(folder / f"{name}.pem")
    return {name: str(folder / f"{name}.pem") for name in texts}
