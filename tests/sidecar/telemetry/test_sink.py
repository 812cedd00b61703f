from __future__ import annotations

import asyncio
import os
import select
import socket
import subprocess
import sys
import textwrap

import pytest

from sidecar.telemetry.sink import LogSink


@pytest.fixture
def pipe():
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    yield reader, writer
    os.close(reader)
    os.close(writer)


def drained(reader: int) -> bytes:
    parts = []
    while True:
        try:
            parts.append(os.read(reader, 1 << 16))
        except BlockingIOError:
            return b"".join(parts)


async def readable(fd: int) -> None:
    loop = asyncio.get_running_loop()
    event = asyncio.Event()
    loop.add_reader(fd, event.set)
    try:
        await asyncio.wait_for(event.wait(), 20)
    finally:
        loop.remove_reader(fd)


def test_without_a_loop_a_line_is_written_at_once(pipe):
    reader, writer = pipe
    sink = LogSink(writer)
    sink.write(b"one\n")
    assert drained(reader) == b"one\n"
    sink.close()


async def test_with_a_loop_lines_of_a_moment_share_a_write(pipe):
    reader, writer = pipe
    sink = LogSink(writer)
    sink.attach(asyncio.get_running_loop())
    sink.write(b"one\n")
    sink.write(b"two\n")
    assert drained(reader) == b""
    await readable(reader)
    assert drained(reader) == b"one\ntwo\n"
    sink.close()


def test_the_inherited_descriptor_keeps_its_blocking_mode(pipe):
    _, writer = pipe
    sink = LogSink(writer)
    assert os.get_blocking(writer)
    sink.close()


@pytest.mark.parametrize("reopens", [True, False], ids=["own-file", "polled"])
async def test_a_reader_that_stalls_costs_lines_and_no_time(pipe, monkeypatch, reopens):
    reader, writer = pipe
    if not reopens:

        def refuse(path: str, flags: int) -> int:
            raise PermissionError(path)

        monkeypatch.setattr(os, "open", refuse)
    sink = LogSink(writer, capacity_bytes=64 * 1024)
    monkeypatch.undo()
    sink.attach(asyncio.get_running_loop())
    line = b"x" * 99 + b"\n"
    for _ in range(5000):
        sink.write(line)
    sink.flush()
    for _ in range(5000):
        sink.write(line)
    assert not sink.flush()
    assert sink.dropped_lines > 0
    got = b""
    expected = 10_000 - sink.dropped_lines
    while len(got) < expected * 100:
        await readable(reader)
        got += drained(reader)
    assert got == line * expected
    sink.close()


def test_hardening_58_a_full_disk_is_counted_and_survived():
    fd = os.open("/dev/full", os.O_WRONLY)
    sink = LogSink(fd)
    os.close(fd)
    for _ in range(3):
        sink.write(b"lost\n")
    assert sink.dropped_lines == 3
    assert "space" in sink.last_error
    sink.close()


def test_a_closed_reader_is_survived():
    reader, writer = os.pipe()
    sink = LogSink(writer)
    os.close(reader)
    sink.write(b"lost\n")
    assert sink.dropped_lines == 1
    sink.close()
    os.close(writer)


def test_a_socket_is_written_without_blocking():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sink = LogSink(ours.fileno(), capacity_bytes=1 << 22)
        line = b"y" * 999 + b"\n"
        for _ in range(2000):
            sink.write(line)
        assert not sink.flush()
        theirs.setblocking(False)
        got = b""
        while not sink.flush():
            select.select([theirs], [], [], 5)
            got += theirs.recv(1 << 20)
        sink.close()
        ours.close()
        theirs.setblocking(True)
        while chunk := theirs.recv(1 << 20):
            got += chunk
    assert got == line * (2000 - sink.dropped_lines)


def test_close_waits_for_a_slow_reader_only_so_long(pipe):
    _, writer = pipe
    sink = LogSink(writer, capacity_bytes=1 << 20)
    for _ in range(200):
        sink.write(b"z" * 999 + b"\n")
    sink.close(timeout_seconds=0.05)
    assert sink.dropped_lines > 0


def test_lines_of_other_threads_arrive(pipe):
    reader, writer = pipe
    sink = LogSink(writer)

    async def scenario() -> None:
        sink.attach(asyncio.get_running_loop())
        await asyncio.to_thread(sink.write_threadsafe, b"from a thread\n")
        await readable(reader)

    asyncio.run(scenario())
    assert drained(reader) == b"from a thread\n"
    sink.write_threadsafe(b"the loop is closed\n")
    assert drained(reader) == b"the loop is closed\n"
    sink.close()


def run(script: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=30)


def test_after_a_torn_line_the_next_begins_a_new_one(tmp_path):
    path = tmp_path / "log"
    run(f"""
        import os, resource
        from sidecar.telemetry.sink import LogSink
        fd = os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT)
        sink = LogSink(fd)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (15, hard))
        sink.write(b"123456789\\n")
        sink.write(b"abcdefghi\\n")
        assert sink.dropped_lines == 1, sink.dropped_lines
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        sink.write(b"after\\n")
        sink.close()
    """)
    assert path.read_bytes() == b"123456789\nabcde\nafter\n"


def test_lines_queued_before_a_fork_are_written_once(tmp_path):
    path = tmp_path / "log"
    run(f"""
        import asyncio, os
        from sidecar.telemetry.sink import LogSink
        fd = os.open({str(path)!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        sink = LogSink(fd)
        loop = asyncio.new_event_loop()
        sink.attach(loop)
        sink.write(b"parent\\n")
        pid = os.fork()
        if pid == 0:
            sink.attach(asyncio.new_event_loop())
            sink.write(b"child\\n")
            sink.close()
            os._exit(0)
        os.waitpid(pid, 0)
        sink.close()
        loop.close()
    """)
    assert sorted(path.read_bytes().splitlines()) == [b"child", b"parent"]
