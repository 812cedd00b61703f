"""What a waypoint carries and costs: `python -m tests.bench.waypoint_bench [--quick] [--write]`.

A client with a tunnel, a gateway of one worker, an application: three processes over loopback. TCP
through one tunnel by wall time and by the CPU time of the worker, and what a hop adds to a request
of 1 KiB. On a computer that does other work the CPU times are the ones to compare. Missed targets
do not change the exit code.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import cast

import uvloop

from hbone.aio import ByteStream, Pool, PoolKey, dial_tcp
from hbone.wire.authority import make_authority
from tests.bench.mesh_bench import everything
from tests.bench.section import Figures
from tests.hbone.pki import Pki, spiffe
from tests.support.compiled import InProcess, snapshot_data
from tests.support.gateway import GatewayProcess, free_ports
from tests.support.mesh import WAYPOINT, put_certificate

CLIENT = spiffe("client")
BLOCK = bytes(64 * 1024)
MEGABYTE = 1_000_000
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 1024\r\n\r\n" + bytes(1024)
REQUEST = b"POST /x HTTP/1.1\r\nhost: app\r\ncontent-length: 1024\r\n\r\n" + bytes(1024)
TARGET_MB_S, TARGET_MS = 150.0, 0.6
COMMAND = "python -m tests.bench.waypoint_bench --write"
ABOUT = (
    "A client with a tunnel, a gateway of one worker and an application: three processes over\n"
    "loopback. One run; times of requests are medians."
)
DOMAIN = "shop.svc.cluster.local"


class App(asyncio.Protocol):
    """Takes octets after `S`, gives as many as `G<number>\\n` says, answers what else it gets."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.mode = b""
        self.size = 0
        self.may_write = asyncio.Event()
        self.may_write.set()

    def data_received(self, data: bytes) -> None:
        self.size += len(data)
        self.mode = self.mode or data[:1]
        if self.mode == b"G" and data.endswith(b"\n"):
            self.task = asyncio.get_running_loop().create_task(self.give(int(data[1:])))
        elif self.mode == b"P" and self.size >= len(REQUEST):
            self.size = 0
            self.transport.write(ANSWER)

    async def give(self, left: int) -> None:
        while left > 0:
            await self.may_write.wait()
            self.transport.write(BLOCK[:left])
            left -= len(BLOCK)
        self.transport.close()

    def eof_received(self) -> None:
        if self.mode == b"S":
            self.transport.write(b"%d" % (self.size - 1))

    def pause_writing(self) -> None:
        self.may_write.clear()

    def resume_writing(self) -> None:
        self.may_write.set()


async def serve() -> None:
    server = await asyncio.get_running_loop().create_server(App, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)


# --- the client's process -----------------------------------------------------------------


class Client:
    def __init__(self, pki: Pki, port: int, worker: int) -> None:
        self._pool = Pool(pki.credentials(CLIENT))
        self._key = PoolKey(CLIENT, frozenset((WAYPOINT,)), ("127.0.0.1", port))
        self._worker = worker

    async def tunnel(self, service: str) -> ByteStream:
        return await self._pool.connect(self._key, make_authority(f"{service}.{DOMAIN}", 80))

    def worker_seconds(self) -> float:
        """CPU time of the worker so far."""
        fields = Path(f"/proc/{self._worker}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    async def carry(self, name: str, megabytes: int, figures: Figures | None = None) -> None:
        size = megabytes * MEGABYTE
        stream = await self.tunnel("tcp")
        cpu, begun = self.worker_seconds(), time.perf_counter()
        if name == "to the application":
            await stream.write(b"S")
            for _ in range(size // len(BLOCK)):
                await stream.write(BLOCK)
            await stream.write_eof()
            assert int(await stream.read()) == size // len(BLOCK) * len(BLOCK)
        else:
            await stream.write(b"G%d\n" % size)
            got = 0
            while data := await stream.read():
                got += len(data)
            assert got == size
        wall, cpu = time.perf_counter() - begun, self.worker_seconds() - cpu
        rate = megabytes / wall
        if figures is not None:
            title = f"TCP through the waypoint, {megabytes} MB {name}"
            figures.reached(title, rate, TARGET_MB_S, "MB/s", is_floor=True)
            figures.noted(f"{title}: {megabytes / cpu:.0f} MB per CPU second of the worker")

    async def latency(self, open_stream: Callable[[], object], count: int) -> float:
        """Median of a request of 1 KiB and its answer, milliseconds."""
        stream = await open_stream()  # type: ignore[misc]
        found = []
        for _ in range(count):
            begun = time.perf_counter()
            await stream.write(REQUEST)
            size = 0
            while size < 1024:
                size += len(await stream.read())
            found.append((time.perf_counter() - begun) * 1e3)
        stream.abort()
        return statistics.median(found)

    async def close(self) -> None:
        await self._pool.close()


async def measure(
    pki: Pki, gateway: GatewayProcess, port: int, app: int, figures: Figures, *, quick: bool
) -> None:
    client = Client(pki, port, gateway.worker_pids()[0])
    megabytes, count = (100, 500) if quick else (1000, 5000)
    await client.carry("to the application", 10)
    for name in ("to the application", "from the application"):
        await client.carry(name, megabytes, figures)
    rounds = []
    for _ in range(5):
        direct = await client.latency(lambda: dial_tcp("127.0.0.1", app), count // 5)
        hop = await client.latency(lambda: client.tunnel("http"), count // 5)
        rounds.append((hop - direct, direct, hop))
    added, direct, hop = (statistics.median(column) for column in zip(*rounds, strict=True))
    figures.reached("request of 1 KiB, added by the hop, p50", added, TARGET_MS, "ms")
    figures.noted(f"the same, p50: {direct:.3f} ms direct, {hop:.3f} ms by the tunnel")
    await client.close()


async def changes(count: int, figures: Figures) -> None:
    """One endpoint after the other, of 10,000 of 1,000 services, as a worker compiles it."""
    config = {"binds": [{"port": 15008, "tunnelProtocol": "hboneWaypoint", "listeners": [_HBONE]}]}
    async with InProcess(config) as gateway:
        data = {**snapshot_data(config), **{key: dict(one) for key, one in everything().items()}}
        begun = time.perf_counter()
        gateway.step(dict(data))
        first = (time.perf_counter() - begun) * 1e3
        keys = [key for key in data if key.startswith("workload/")][:count]
        found = []
        for key in keys:
            changed = {key: {**data[key], "capacity": 7}}
            steps = gateway.compiler.compile(1, changed, ())
            begun = time.perf_counter()
            for _ in steps:
                continue
            found.append((time.perf_counter() - begun) * 1e3)
    figures.noted(
        f"11,000 services and workloads compiled in {first:.0f} ms; one endpoint changed: "
        f"{statistics.median(found):.2f} ms p50, {max(found):.1f} ms at most"
        " (without reading the snapshot)"
    )


_HBONE = {"protocol": "HBONE"}


def config_of(certificate: dict[str, str], port: int, app: int) -> dict[str, object]:
    names = {"tcp": "TCP", "http": "HTTP11"}
    return {
        "config": {"istio": {"certificate": certificate}},
        "frontendPolicies": {"accessLog": {"filter": "false"}},
        "binds": [
            {
                "port": port,
                "tunnelProtocol": "hboneWaypoint",
                "listeners": [{"protocol": "HBONE"}],
            }
        ],
        "services": [
            {
                "name": name,
                "namespace": "shop",
                "hostname": f"{name}.{DOMAIN}",
                "ports": {"80": app},
                "appProtocols": {"80": protocol},
                "waypoint": {"destination": "default/default.default.svc.cluster.local"},
            }
            for name, protocol in names.items()
        ],
        "workloads": [
            {
                "uid": "app",
                "namespace": "shop",
                "workloadIps": ["127.0.0.1"],
                "services": {f"shop/{name}.{DOMAIN}": {"80": app} for name in names},
            }
        ],
    }


def main() -> int:
    """Exit codes: 0 measured, 2 wrong usage."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--write", action="store_true", help="write its section of the page")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        uvloop.run(serve())
        return 0
    figures = Figures("Waypoint", COMMAND, ABOUT)
    pki = Pki()
    (port,) = free_ports(1)
    app = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with app, tempfile.TemporaryDirectory() as folder:
        assert app.stdin is not None
        assert app.stdout is not None
        app_port = int(app.stdout.readline())
        certificate = put_certificate(pki.leaf(WAYPOINT), pki, Path(folder))
        uvloop.run(changes(50 if options.quick else 500, figures))
        with GatewayProcess(config_of(certificate, port, app_port)) as gateway:
            uvloop.run(measure(pki, gateway, port, app_port, figures, quick=options.quick))
        app.stdin.close()
    if options.write:
        figures.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
