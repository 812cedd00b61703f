"""Many requests of all kinds, and at the end the gateway is as small as it was at the beginning.

Source: spec hardening section 4.3 F 59. `make test` runs the short form; `make soak` the long one,
of SOAK_REQUESTS (10,000,000 unless told otherwise).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

import h2.connection
import h2.events
import pytest

from tests.support.gateway import GatewayProcess, free_ports
from tests.support.processes import descendants, open_files, resident_bytes, threads, wait_until
from tests.support.upstream import Answer, Seen, Upstream

SHORT, LONG = 12_000, int(os.environ.get("SOAK_REQUESTS", "10000000"))
SECONDS = 30.0
MIB = 1024 * 1024
BODY = bytes(range(256)) * 16
H2_HEAD = [(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/direct")]

Wave = Callable[[int, int], Awaitable[None]]
"""Sends so many requests to a port and looks at what comes back."""


def script(seen: Seen) -> Answer:
    return Answer(200, body=seen.body or b"ok")


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with Upstream(script) as made:
        yield made


async def _answers(port: int, request: bytes, count: int, status: bytes, chunk: int) -> None:
    """On one kept connection, `chunk` requests at a time."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for start in range(0, count, chunk):
            many = min(chunk, count - start)
            writer.write(request * many)
            for _ in range(many):
                head = await reader.readuntil(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 " + status), head
                length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
                await reader.readexactly(int(length))
    finally:
        writer.close()
        await writer.wait_closed()


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nhost: a.test\r\n\r\n".encode()


async def pipelined(port: int, count: int) -> None:
    await _answers(port, _get("/direct"), count, b"200", 16)


async def proxied(port: int, count: int) -> None:
    await _answers(port, _get("/up"), count, b"200", 1)


async def posted(port: int, count: int) -> None:
    head = b"POST /up HTTP/1.1\r\nhost: a.test\r\ncontent-length: %d\r\n\r\n" % len(BODY)
    await _answers(port, head + BODY, count, b"200", 1)


async def lost(port: int, count: int) -> None:
    """No route, and as many paths as requests: labels and caches must not grow by them."""
    for number in range(0, count, 50):
        await _answers(port, _get(f"/none/{number}"), min(50, count - number), b"404", 50)


async def left(port: int, count: int) -> None:
    """Clients that ask and are gone before the answer."""
    for _ in range(count):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_get("/up"))
        await writer.drain()
        writer.transport.abort()


async def multiplexed(port: int, count: int) -> None:
    """HTTP/2 streams, 32 at a time on one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    client = h2.connection.H2Connection()
    client.initiate_connection()
    done = sent = 0
    try:
        while done < count:
            while sent < count and sent - done < 32:
                stream = client.get_next_available_stream_id()
                client.send_headers(stream, H2_HEAD, end_stream=True)
                sent += 1
            writer.write(client.data_to_send())
            for event in client.receive_data(await reader.read(65536)):
                assert not isinstance(event, h2.events.ConnectionTerminated), event
                if isinstance(event, h2.events.DataReceived):
                    client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                done += isinstance(event, h2.events.StreamEnded)
    finally:
        writer.close()
        await writer.wait_closed()


WAVES: tuple[tuple[Wave, float], ...] = (
    (pipelined, 0.4),
    (multiplexed, 0.2),
    (proxied, 0.2),
    (posted, 0.1),
    (lost, 0.09),
    (left, 0.01),
)
"""Each with its share of the requests."""


@dataclass(frozen=True)
class Size:
    """What the gateway's processes hold together."""

    memory_bytes: int
    files: int
    threads: int

    @classmethod
    def of(cls, pids: set[int]) -> Size:
        return cls(
            sum(map(resident_bytes, pids)), sum(map(open_files, pids)), sum(map(threads, pids))
        )


async def _send(port: int, count: int) -> None:
    async with asyncio.timeout(SECONDS + count / 100):
        await asyncio.gather(*(wave(port, max(int(count * share), 1)) for wave, share in WAVES))


def _config(port: int, upstream: Upstream) -> dict[str, object]:
    direct = {"directResponse": {"status": 200, "body": "ok"}}
    routes = [
        {"matches": [{"path": {"exact": "/direct"}}], "policies": direct},
        {"matches": [{"path": {"exact": "/up"}}], "backends": [{"host": upstream.address}]},
    ]
    # A log of ten million lines is another test.
    quiet = {"logging": {"level": "warn"}}
    return {"config": quiet, "binds": [{"port": port, "listeners": [{"routes": routes}]}]}


def _soak(upstream: Upstream, requests: int, rounds: int) -> None:
    """A round to warm up, then all the others; what they leave behind is looked at."""
    [port] = free_ports(1)
    with GatewayProcess(_config(port, upstream), workers=2) as gateway:
        pids = descendants(gateway.process.pid) | {gateway.process.pid}
        share = requests // rounds
        asyncio.run(_send(port, share))
        wait_until(lambda: gateway.metric("agentgateway_requests_in_flight") == 0)
        before = Size.of(pids)
        for _ in range(rounds - 1):
            asyncio.run(_send(port, share))
            upstream.take()
        wait_until(lambda: gateway.metric("agentgateway_requests_in_flight") == 0)
        # Connections to the upstream may stay open, as many as were at the beginning.
        wait_until(lambda: Size.of(pids).files <= before.files + 8, "files")
        after = Size.of(pids)
        assert descendants(gateway.process.pid) | {gateway.process.pid} == pids, gateway.log()
        assert after.threads <= before.threads + 2
        assert after.memory_bytes - before.memory_bytes < 12 * MIB, (before, after)
        assert gateway.metric("agentgateway_requests_total") >= 0.98 * share * rounds
        assert "Traceback" not in gateway.log()
        assert gateway.stop() == 0


def test_59_short(upstream: Upstream) -> None:
    _soak(upstream, SHORT, 4)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_59_long(upstream: Upstream) -> None:
    _soak(upstream, LONG, 20)
