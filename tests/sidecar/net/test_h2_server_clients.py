"""H2Server on a real socket: curl and h2load, where they are installed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sidecar.net.h2_server import H2Server
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.telemetry.clock import SystemClock
from tests.support.h2_server import Handler, echo, hello, lower
from tests.support.programs import needs_program


@asynccontextmanager
async def serve(handler: Handler) -> AsyncIterator[int]:
    """A real listener on loopback; gives its port."""
    loop = asyncio.get_running_loop()
    sweeper = Sweeper(loop)
    servers: list[H2Server] = []

    def accept() -> H2Server:
        server = H2Server(
            handler, None, HttpSettings(), sweeper, SystemClock(),
            scheme="http", check_authority=lower, on_closed=servers.remove,
        )  # fmt: skip
        servers.append(server)
        return server

    listener = await loop.create_server(accept, "127.0.0.1", 0)
    try:
        yield listener.sockets[0].getsockname()[1]
    finally:
        listener.close()
        for server in servers:
            server.abort()
            await server.wait_closed()
        sweeper.close()


async def run(*command: str) -> bytes:
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    return out


@needs_program("curl")
async def test_curl(tmp_path: Any) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(b"0123456789" * 100_000)
    async with serve(echo) as port:
        url = f"http://127.0.0.1:{port}/"
        out = await run("curl", "-s", "--http2-prior-knowledge", "--data-binary", f"@{upload}", url)
        assert out == upload.read_bytes()
        out = await run("curl", "-s", "--http2-prior-knowledge", "-I", url)
        assert out.startswith(b"HTTP/2 200")


@needs_program("h2load")
async def test_h2load() -> None:
    async with serve(hello) as port:
        out = await run("h2load", "-n2000", "-c4", "-m50", f"http://127.0.0.1:{port}/")
    assert b"2000 succeeded, 0 failed, 0 errored" in out
