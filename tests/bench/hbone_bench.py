"""What a tunnel carries: `python -m tests.bench.hbone_bench [--megabytes N] [--write]`.

A client process and a server process with mutual TLS 1.3 over loopback, each on a core of its own
where there are two, both with the allocator set as the gateway's workers set it. Wall time, and
the CPU seconds of both sides: on a computer that does other work the latter are the ones to
compare. Missed targets do not change the exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import uvloop

from hbone.aio import Connect, Credentials, Pool, PoolKey, Server
from hbone.wire.authority import Authority, make_authority
from sidecar.gateway.memory import keep_freed_memory
from tests.bench.section import Figures
from tests.hbone.pki import Pki, spiffe

CLIENT, SERVER = spiffe("client"), spiffe("server")
BLOCK = bytes(64 * 1024)
MEGABYTE = 1_000_000
SINK, SOURCE, ECHO, CPU = (make_authority(name, 1) for name in ("sink", "source", "echo", "cpu"))
TARGET_MB_S, TARGET_TUNNELS_S = 300.0, 1000.0
COMMAND: Final = "python -m tests.bench.hbone_bench --write"
ABOUT: Final = "Two processes, mutual TLS 1.3 over loopback, everything on one TLS connection."


# --- the server's process -----------------------------------------------------------------


async def handle(connect: Connect) -> int | None:
    tunnel = connect.accept()
    if connect.authority == SINK:
        size = 0
        while data := await tunnel.read():
            size += len(data)
        await tunnel.write(b"%d" % size)
    elif connect.authority == SOURCE:
        left = int(await tunnel.read())
        while left > 0:
            await tunnel.write(BLOCK[:left])
            left -= len(BLOCK)
    elif connect.authority == CPU:
        await tunnel.write(b"%f" % time.process_time())
    else:
        while data := await tunnel.read():
            await tunnel.write(data)
    await tunnel.write_eof()
    await tunnel.wait_closed()
    return None


async def serve(core: int | None) -> None:
    _pin(core)
    texts = json.loads(sys.stdin.readline())
    server = Server(handle, Credentials(*(text.encode() for text in texts)))
    print(await server.listen("127.0.0.1", 0), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.close()


def _pin(core: int | None) -> None:
    if core is not None:
        os.sched_setaffinity(0, {core})


# --- the client's process -----------------------------------------------------------------


@dataclass(frozen=True)
class Timing:
    wall_seconds: float
    client_cpu_seconds: float
    server_cpu_seconds: float


class Client:
    def __init__(self, pki: Pki, port: int) -> None:
        self.pool = Pool(pki.credentials(CLIENT))
        self.key = PoolKey(CLIENT, frozenset((SERVER,)), ("127.0.0.1", port))

    async def ask(self, authority: Authority, words: bytes) -> bytes:
        """Send, end, and hear the whole answer."""
        async with await self.pool.connect(self.key, authority) as tunnel:
            if words:
                await tunnel.write(words)
            await tunnel.write_eof()
            answer = []
            while data := await tunnel.read():
                answer.append(data)
            return b"".join(answer)

    async def timed(self, work: Callable[[], Awaitable[None]]) -> Timing:
        server = float(await self.ask(CPU, b""))
        client, wall = time.process_time(), time.perf_counter()
        await work()
        wall, client = time.perf_counter() - wall, time.process_time() - client
        return Timing(wall, client, float(await self.ask(CPU, b"")) - server)

    async def upload(self, size: int) -> None:
        async with await self.pool.connect(self.key, SINK) as tunnel:
            for _ in range(size // len(BLOCK)):
                await tunnel.write(BLOCK)
            await tunnel.write_eof()
            assert int(await tunnel.read()) == size // len(BLOCK) * len(BLOCK)
            assert await tunnel.read() == b""

    async def download(self, size: int) -> None:
        async with await self.pool.connect(self.key, SOURCE) as tunnel:
            await tunnel.write(b"%d" % size)
            await tunnel.write_eof()
            received = 0
            while data := await tunnel.read():
                received += len(data)
            assert received == size

    async def tunnels(self, count: int, together: int) -> None:
        async def some() -> None:
            for _ in range(count // together):
                assert await self.ask(ECHO, b"x") == b"x"

        await asyncio.gather(*(some() for _ in range(together)))

    async def latencies(self, count: int) -> list[float]:
        """Seconds of 1 KiB there and back on one tunnel."""
        found = []
        async with await self.pool.connect(self.key, ECHO) as tunnel:
            for _ in range(count):
                begun = time.perf_counter()
                await tunnel.write(BLOCK[:1024])
                size = 0
                while size < 1024:
                    size += len(await tunnel.read())
                found.append(time.perf_counter() - begun)
        return found


async def measure(pki: Pki, port: int, megabytes: int, tunnels: int, found: Figures) -> None:
    client = Client(pki, port)
    size = megabytes * MEGABYTE
    await client.upload(10 * MEGABYTE)
    for name, work in (("to the server", client.upload), ("to the client", client.download)):
        timing = await client.timed(lambda work=work: work(size))  # type: ignore[misc]
        rate = size / MEGABYTE / timing.wall_seconds
        per_core = size / MEGABYTE / max(timing.client_cpu_seconds, timing.server_cpu_seconds)
        what = f"one tunnel, {megabytes} MB {name}"
        found.reached(what, rate, TARGET_MB_S, "MB/s", is_floor=True)
        found.noted(f"{what}: {per_core:,.0f} MB per CPU second of the busier side")
    for together in (1, 50):
        timing = await client.timed(lambda n=together: client.tunnels(tunnels, n))  # type: ignore[misc]
        rate = tunnels / timing.wall_seconds
        cpu = (timing.client_cpu_seconds + timing.server_cpu_seconds) / tunnels * 1e6
        what = f"tunnels, one octet echoed, {together} at a time"
        if together > 1:
            found.reached(what, rate, TARGET_TUNNELS_S, "/s", is_floor=True)
        else:  # mostly waking up
            found.noted(f"{what}: {rate:,.0f}/s")
        found.noted(f"{what}: {cpu:,.0f} µs CPU each, both sides")
    assert client.pool.dials == 1, "all of it on one TLS connection"
    centiles = statistics.quantiles(await client.latencies(tunnels), n=100)
    found.noted(
        f"1 KiB there and back on a tunnel: p50 {centiles[49] * 1e6:,.0f} µs,"
        f" p99 {centiles[98] * 1e6:,.0f} µs"
    )
    await client.pool.close()


def main() -> int:
    """Exit codes: 0 measured, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--tunnels", type=int, default=5000)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help="write its section of the page")
    parser.add_argument("--serve", type=int, metavar="CORE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve is not None:
        keep_freed_memory()
        uvloop.run(serve(options.serve if options.serve >= 0 else None))
        return 0
    keep_freed_memory()
    if options.quick:
        options.megabytes, options.tunnels = 100, 500
    cores = sorted(os.sched_getaffinity(0))
    found = Figures("Tunnels", COMMAND, f"{ABOUT} Load {os.getloadavg()[0]:.1f} at the start.")
    pki = Pki()
    leaf = pki.leaf(SERVER)
    server = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "--serve", str(cores[1] if cores[1:] else -1)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with server:
        assert server.stdin is not None
        assert server.stdout is not None
        texts = [leaf.chain.decode(), leaf.key.decode(), pki.root_pem.decode()]
        server.stdin.write(json.dumps(texts) + "\n")
        server.stdin.flush()
        port = int(server.stdout.readline())
        _pin(cores[0] if cores[1:] else None)
        uvloop.run(measure(pki, port, options.megabytes, options.tunnels, found))
        server.stdin.close()
    if options.write:
        found.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
