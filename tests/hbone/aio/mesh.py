"""A server and a pool of a small mesh, in one loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from hbone.aio import Connect, Pool, PoolKey, Server, Settings, Tunnel
from hbone.aio.server import Handler
from hbone.wire.authority import make_authority
from tests.hbone.pki import Pki, spiffe

SERVER = spiffe("server")
CLIENT = spiffe("client")
TARGET = make_authority("10.0.0.1", 80)
PATIENCE_SECONDS = 20.0


async def echo(connect: Connect) -> int | None:
    tunnel = connect.accept()
    while data := await tunnel.read():
        await tunnel.write(data)
    await tunnel.write_eof()
    return None


@dataclass
class Mesh:
    pki: Pki
    server: Server
    pool: Pool
    key: PoolKey

    async def tunnel(self) -> Tunnel:
        return await self.pool.connect(self.key, TARGET)

    def key_of(self, **changes: object) -> PoolKey:
        return replace(self.key, **changes)  # type: ignore[arg-type]


@asynccontextmanager
async def mesh(
    handler: Handler = echo,
    *,
    settings: Settings | None = None,
    pool_settings: Settings | None = None,
    pki: Pki | None = None,
) -> AsyncIterator[Mesh]:
    pki = pki or Pki()
    server = Server(handler, pki.credentials(SERVER), settings=settings)
    port = await server.listen("127.0.0.1", 0)
    pool = Pool(pki.credentials(CLIENT), settings=pool_settings or settings)
    key = PoolKey(CLIENT, frozenset((SERVER,)), ("127.0.0.1", port))
    try:
        yield Mesh(pki, server, pool, key)
    finally:
        await pool.close()
        await server.close()


async def read_all(tunnel: Tunnel) -> bytes:
    data = b""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while part := await tunnel.read():
            data += part
    return data


async def settle(is_true: Callable[[], bool], what: object = "") -> None:
    """Until it is so: each turn of the loop lets something happen."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not is_true():  # noqa: ASYNC110 # what it waits for is the other end's
            await asyncio.sleep(0.001)
