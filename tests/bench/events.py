"""Event streams for the benchmark: a server that sends them and a client that counts.

`python -m tests.bench.events PORT` serves `/events` (100 events of 1 KiB, each written for itself)
and `/events/held` (one event, the rest only after the client is gone).
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field

import uvloop

EVENT = b"data: ".ljust(1022, b"e") + b"\n\n"
EVENTS = 100
_CHUNK = b"%x\r\n%b\r\n" % (len(EVENT), EVENT)
_HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n"
    b"transfer-encoding: chunked\r\n\r\n"
)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_HEAD)
            for _ in range(1 if b" /events/held " in head else EVENTS):
                writer.write(_CHUNK)
                await writer.drain()
                await asyncio.sleep(0)  # so that each event is a packet of its own
            if b" /events/held " in head:
                await reader.read()
                return
            writer.write(b"0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return  # the client has what it wanted
    finally:
        writer.close()


async def _serve(port: int) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


@dataclass
class Counted:
    """What the clients saw. `latencies`: seconds from request to the last octet of a stream."""

    streams: int = 0
    events: int = 0
    errors: int = 0
    latencies: list[float] = field(default_factory=list)


async def _consume(port: int, until: float, counted: Counted) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
    request = b"GET /events HTTP/1.1\r\nhost: bench\r\n\r\n"
    try:
        while time.monotonic() < until:
            began = time.monotonic()
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 200"):
                counted.errors += 1
                return
            octets = 0
            while size := int(await reader.readline(), 16):
                octets += size
                await reader.readexactly(size + 2)
            await reader.readline()
            counted.latencies.append(time.monotonic() - began)
            counted.streams += 1
            counted.events += octets // len(EVENT)
            counted.errors += octets != EVENTS * len(EVENT)
    except (OSError, asyncio.IncompleteReadError, ValueError):
        counted.errors += 1
    finally:
        writer.close()


async def _first_event(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /events/held HTTP/1.1\r\nhost: bench\r\n\r\n")
    try:
        async with asyncio.timeout(5):
            data = b""
            while EVENT not in data:
                got = await reader.read(65536)
                if not got:
                    break
                data += got
            return data
    finally:
        writer.close()


def is_incremental(port: int) -> bool:
    """Whether an event arrives while the stream that it belongs to is still open."""
    try:
        return EVENT in asyncio.run(_first_event(port))
    except TimeoutError:
        return False


def count(port: int, connections: int, seconds: float) -> Counted:
    """Read streams on so many connections for so long."""

    async def all_of_them() -> Counted:
        counted = Counted()
        until = time.monotonic() + seconds
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(_consume(port, until, counted))
        return counted

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(all_of_them())


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1])))
