"""One port: admission, plans that change, drain, and what happens when files run out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import RequestError
from sidecar.http.message import Connection, FixedBody, Handler, Request, Response
from sidecar.net.bind import BindPlan
from sidecar.net.listener import Port
from sidecar.net.settings import HttpSettings
from sidecar.net.sweep import Sweeper
from sidecar.net.tcp import Relay
from sidecar.routing import canonical
from sidecar.telemetry.clock import Clock, SystemClock
from tests.support.turns import turn_until

REQUEST = b"GET / HTTP/1.1\r\nhost: h.test\r\n\r\n"
PLAN = BindPlan("bind/1", 1, HttpSettings())


class Owner:
    """The port's owner: answers requests with the client's address, and notes what it is told."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.sweeper = Sweeper(loop)
        self.clock: Clock = SystemClock()
        self.told: list[str] = []
        self.closed = asyncio.Event()
        self.admits = True
        self.examines: Callable[[Connection], Awaitable[None]] | None = None
        self.hold: asyncio.Event | None = None
        self.serving = asyncio.Event()

    def handler_for(self, bind: str) -> Handler:
        async def serve(request: Request) -> Response:
            self.serving.set()
            if self.hold is not None:
                await self.hold.wait()
            return Response(200, body=FixedBody(request.connection.peer_host.encode()))

        return serve

    def date(self) -> bytes:
        return b"date: now\r\n"

    def date_value(self) -> bytes:
        return b"now"

    check_authority: Callable[[str], str] = staticmethod(canonical.authority)

    def examine(self, bind: str, connection: Connection) -> Awaitable[None] | None:
        return None if self.examines is None else self.examines(connection)

    def admit(self, bind: str, connection: Connection) -> bool:
        self.told.append("admit")
        return self.admits

    async def relay(self, bind: str, listener: str, connection: Connection, side: Relay) -> None:
        self.told.append(f"relay {listener}")
        side.transport.close()

    def connection_opened(self, bind: str, connection: Connection, handshake: float) -> None:
        self.told.append("opened")

    def connection_closed(
        self, bind: str, connection: Connection, received: int, sent: int
    ) -> None:
        self.told.append("closed")
        self.closed.set()

    def request_refused(self, bind: str, connection: Connection, error: RequestError) -> None:
        self.told.append(f"refused {error.status}")


class Bench:
    """A port on loopback and its clients."""

    def __init__(self, owner: Owner, plan: BindPlan) -> None:
        self.owner = owner
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        self.number: int = listening.getsockname()[1]
        self.port = Port(plan, owner, listening)
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.number)
        self._writers.append(writer)
        return reader, writer

    async def ask(self, data: bytes) -> bytes:
        """Send on a new connection; all that comes until its end, or the first response."""
        reader, writer = await self.connect()
        writer.write(data)
        head = await asyncio.wait_for(reader.read(1000), 20)
        writer.close()
        return head

    async def close(self) -> None:
        for writer in self._writers:
            writer.close()
        self.port.stop_accepting()
        self.port.abort()
        await asyncio.wait_for(self.port.wait_idle(), 20)
        self.owner.sweeper.close()


Open = Callable[..., Bench]


@pytest.fixture
async def open_port() -> AsyncIterator[Open]:
    benches: list[Bench] = []

    def make(**changes: Any) -> Bench:
        bench = Bench(Owner(asyncio.get_running_loop()), replace(PLAN, **changes))
        bench.port.start()
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        await bench.close()


async def test_a_request_and_its_connection_are_told(open_port: Open) -> None:
    bench = open_port()
    answer = await bench.ask(REQUEST)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"127.0.0.1")
    await asyncio.wait_for(bench.owner.closed.wait(), 20)
    assert bench.owner.told == ["admit", "opened", "closed"]


async def test_not_admitted_is_closed_unheard(open_port: Open) -> None:
    bench = open_port()
    bench.owner.admits = False
    reader, _ = await bench.connect()
    assert await asyncio.wait_for(reader.read(), 20) == b""
    assert bench.owner.told == ["admit"]


async def test_malformed_request_is_told(open_port: Open) -> None:
    bench = open_port()
    assert (await bench.ask(b"GET / HTTP/9.9\r\n\r\n")).startswith(b"HTTP/1.1 ")
    await asyncio.wait_for(bench.owner.closed.wait(), 20)
    assert any(told.startswith("refused ") for told in bench.owner.told)


async def test_tcp_is_relayed(open_port: Open) -> None:
    bench = open_port(tcp_listener="key")
    reader, _ = await bench.connect()
    assert await asyncio.wait_for(reader.read(), 20) == b""
    assert bench.owner.told[:3] == ["admit", "opened", "relay key"]


async def test_proxy_header_comes_before_admission(open_port: Open) -> None:
    bench = open_port(proxy_versions=(1,))
    answer = await bench.ask(b"PROXY TCP4 192.0.2.9 192.0.2.1 4711 80\r\n" + REQUEST)
    assert answer.endswith(b"192.0.2.9")
    await asyncio.wait_for(bench.owner.closed.wait(), 20)
    bench.owner.told.clear()
    reader, writer = await bench.connect()
    writer.write(REQUEST)
    # Closed with octets unread, which the kernel tells by a reset.
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    assert bench.owner.told == []


async def test_a_new_plan_holds_for_new_connections(open_port: Open) -> None:
    bench = open_port()
    reader, writer = await bench.connect()
    writer.write(REQUEST)
    assert (await asyncio.wait_for(reader.read(1000), 20)).endswith(b"127.0.0.1")
    bench.port.replace(replace(PLAN, proxy_versions=(1,)))
    assert (await bench.ask(b"PROXY TCP4 192.0.2.9 192.0.2.1 1 2\r\n" + REQUEST)).endswith(
        b"192.0.2.9"
    )
    # The one that was open goes on as it began.
    writer.write(REQUEST)
    assert (await asyncio.wait_for(reader.read(1000), 20)).endswith(b"127.0.0.1")


async def test_with_other_settings_the_next_answer_is_the_last(open_port: Open) -> None:
    """Nobody is cut: a client may be sending just now."""
    bench = open_port()
    reader, writer = await bench.connect()
    writer.write(REQUEST)
    first = await asyncio.wait_for(reader.read(1000), 20)
    assert b"connection: close" not in first
    bench.port.replace(replace(PLAN, settings=HttpSettings(idle_seconds=5.0)))
    writer.write(REQUEST)
    last = await asyncio.wait_for(reader.read(), 20)
    assert last.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close" in last


async def test_drain_waits_for_the_request_under_way(open_port: Open) -> None:
    bench = open_port()
    bench.owner.hold = asyncio.Event()
    idle_reader, _ = await bench.connect()
    reader, writer = await bench.connect()
    writer.write(REQUEST)
    await asyncio.wait_for(bench.owner.serving.wait(), 20)
    bench.port.drain()
    bench.port.stop_accepting()
    waiting = asyncio.ensure_future(bench.port.wait_idle())
    assert await asyncio.wait_for(idle_reader.read(), 20) == b""
    assert not waiting.done()
    bench.owner.hold.set()
    whole = await asyncio.wait_for(reader.read(), 20)
    assert whole.startswith(b"HTTP/1.1 200 ")
    assert b"connection: close\r\n" in whole
    await asyncio.wait_for(waiting, 20)


async def test_a_connection_in_its_admission_counts_for_the_drain(open_port: Open) -> None:
    bench = open_port(proxy_versions=(1,))
    _, writer = await bench.connect()
    await turn_until(lambda: bench.port.connections._tasks)
    bench.port.drain()
    waiting = asyncio.ensure_future(bench.port.wait_idle())
    await asyncio.sleep(0)
    assert not waiting.done()
    writer.close()
    await asyncio.wait_for(waiting, 20)


class Full:
    """A listening socket of a process that is out of files, until it is told otherwise."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self.is_full = True
        self.accepts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.accepts += 1
        if self.is_full:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._sock.accept()

    def fileno(self) -> int:
        return self._sock.fileno()

    def close(self) -> None:
        self._sock.close()


async def test_hardening_32_out_of_files_pauses_accepting(
    caplog: pytest.LogCaptureFixture,
) -> None:
    loop = asyncio.get_running_loop()
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setblocking(False)
    full = Full(listening)
    owner = Owner(loop)
    port = Port(PLAN, owner, full)  # type: ignore[arg-type]
    port.start()
    with caplog.at_level(logging.WARNING):
        reader, writer = await asyncio.open_connection("127.0.0.1", listening.getsockname()[1])
        writer.write(REQUEST)
        await turn_until(lambda: full.accepts)
        # Readable all the time, and yet not asked again and again.
        for _ in range(100):
            await asyncio.sleep(0)
        assert full.accepts == 1
        full.is_full = False
        assert (await asyncio.wait_for(reader.read(1000), 20)).startswith(b"HTTP/1.1 200 ")
    assert "Too many open files" in caplog.text
    writer.close()
    port.stop_accepting()
    port.abort()
    await asyncio.wait_for(port.wait_idle(), 20)
    owner.sweeper.close()
