"""Slow and many clients against a real gateway: others are served, memory and CPU stay bounded.

Source: spec hardening section 4.3 C; the case's number is in the name. Deadlines that cannot be
shortened by configuration (body stall 60 s) are tested in memory: tests/sidecar/net/test_native.py.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateway import GatewayProcess, free_ports, proxy_config
from tests.support.hostile_http1 import get, post
from tests.support.origin import Client, Origin, Recorded, Stream, answer

KIB = 1024


def resident_bytes(pid: int) -> int:
    """What the kernel says the process holds in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def cpu_seconds(pid: int) -> float:
    """CPU time the process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


class Front:
    def __init__(self, gateway: GatewayProcess, origin: Origin, port: int) -> None:
        self.gateway = gateway
        self.origin = origin
        self.port = port
        (self.pid,) = gateway.worker_pids()

    def crowd(self, count: int, data: bytes, receive_buffer: int = 0) -> list[Client]:
        """That many connections, each of which has sent this."""
        clients = []
        for _ in range(count):
            client = Client(self.port, receive_buffer=receive_buffer)
            client.send(data)
            clients.append(client)
        return clients

    def wait_served(self) -> None:
        """Until a request is answered as it should be."""
        until = time.monotonic() + 20
        while True:
            with Client(self.port) as client:
                if client.ask(get()).status == 200:
                    return
            assert time.monotonic() < until
            time.sleep(0.02)

    def quick_seconds(self) -> float:
        """How long a well-behaved client waits, nine times in ten or longer: the machine may be
        busy with other things, but who waits for slow clients waits each time."""
        taken = []
        with Client(self.port) as client:
            for _ in range(51):
                began = time.monotonic()
                assert client.ask(get(line=b"GET /ok HTTP/1.1")).status == 200
                taken.append(time.monotonic() - began)
        return sorted(taken)[len(taken) // 10]


def _script(stream: Stream, request: Recorded) -> None:
    stream.send(answer())


@pytest.fixture
def front() -> Iterator[Front]:
    port = free_ports(1)[0]
    with Origin(_script) as origin, GatewayProcess(proxy_config(port, origin.address)) as gateway:
        yield Front(gateway, origin, port)
        assert "Traceback" not in gateway.log()


def test_28_31_slow_and_silent_heads(front: Front) -> None:
    began = time.monotonic()
    slow = front.crowd(300, b"GET / HTTP/1.1\r\nHost: a")
    silent = front.crowd(50, b"")
    with contextlib.ExitStack() as stack:
        for client in (*slow, *silent):
            stack.enter_context(client)
        assert front.quick_seconds() < 0.1
        for client in slow:
            client.send(b".example\r\nX: y\r\n")  # an octet more does not buy more time
            assert client.read().status == 408
            assert client.rest() == b""
        for client in silent:
            assert client.rest() == b""
    assert 9.0 < time.monotonic() - began < 19.0  # with time bought, 20
    assert {request.target for request in front.origin.requests} == {"/ok"}
    assert front.quick_seconds() < 0.1


def test_29_slow_bodies_do_not_disturb_others(front: Front) -> None:
    with contextlib.ExitStack() as stack:
        clients = front.crowd(300, post(b"Content-Length: 100000"))
        for client in clients:
            stack.enter_context(client)
        for _ in range(5):
            for client in clients:
                client.send(b"x")
            assert front.quick_seconds() < 0.1
    assert {request.target for request in front.origin.requests} == {"/ok"}


def test_30_readers_that_stop(front: Front) -> None:
    count, total = 500, 64 * KIB * KIB  # more than the sockets in between hold
    blocked = threading.Semaphore(0)
    go = threading.Event()

    def flood(stream: Stream, request: Recorded) -> bool:
        if request.target == "/ok":
            stream.send(answer())
            return True
        stream.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n")
        stream.send(b"content-length: %d\r\n\r\n" % total)
        stream.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32 * KIB)
        stream.sock.settimeout(0.5)
        block, sent = bytes(16 * KIB), 0
        try:
            while sent < total:
                sent += stream.sock.send(block[: total - sent])
        except TimeoutError:
            blocked.release()  # nobody takes more: that is what is wanted
        go.wait(60)
        return False

    front.origin.script = flood
    front.quick_seconds()
    before = resident_bytes(front.pid)
    try:
        with contextlib.ExitStack() as stack:
            for client in front.crowd(count, get(), receive_buffer=4 * KIB):
                stack.enter_context(client)
            for number in range(count):
                assert blocked.acquire(timeout=30), number
            grown = resident_bytes(front.pid) - before
            assert front.quick_seconds() < 0.1
    finally:
        go.set()
    assert grown / count < 256 * KIB


def test_32_no_more_files(front: Front) -> None:
    front.quick_seconds()
    limit = open_files(front.pid) + 40
    resource.prlimit(front.pid, resource.RLIMIT_NOFILE, (limit, limit))
    with contextlib.ExitStack() as stack:
        clients = front.crowd(200, get())
        for client in clients:
            stack.enter_context(client)
        began, used = time.monotonic(), cpu_seconds(front.pid)
        served = [clients[0].read().status]
        while time.monotonic() - began < 1.5:
            with Client(front.port) as extra:
                extra.sock.settimeout(0.1)
                with contextlib.suppress(TimeoutError):
                    extra.sock.recv(1)
        assert cpu_seconds(front.pid) - used < 0.5  # waiting for a free one does not spin
        assert set(served) <= {200, 503}
        assert open_files(front.pid) <= limit
    front.wait_served()
    assert front.quick_seconds() < 0.1
    assert front.gateway.worker_pids() == [front.pid]


def test_33_idle_connections_are_small(front: Front) -> None:
    count = 2000
    front.quick_seconds()
    with contextlib.ExitStack() as stack:
        for client in front.crowd(200, get()):  # what grows once is not counted
            stack.enter_context(client)
            assert client.read().status == 200
        before = resident_bytes(front.pid)
        for _ in range(count):
            client = stack.enter_context(Client(front.port))
            assert client.ask(get()).status == 200
        grown = resident_bytes(front.pid) - before
        assert front.quick_seconds() < 0.1
    assert grown / count < 20 * KIB
