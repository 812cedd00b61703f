"""Log lines on their way to a file descriptor, without ever holding up the request that made them.

A line is queued and written by the event loop some milliseconds later, many lines a system call.
What the reader of the descriptor cannot take is dropped and counted; a full disk is the same case
(hardening case 58). No write may block, and the way to that differs by what the descriptor is:

- A pipe or terminal is opened again through `/proc/self/fd`, so that O_NONBLOCK is set on an open
  file of our own: set on the inherited one it would reach the parent's shell and the other workers.
- Where that is refused (a container that runs as another user than the pipe's), the descriptor is
  asked with poll(2) first and given at most PIPE_BUF bytes. Two workers may ask at the same moment,
  so this fallback can wait for the reader once; it is the price of such a descriptor.
- A socket is sent to with MSG_DONTWAIT. A regular file never makes a writer wait.

Source: POSIX write(2), section on pipes: a write of at most PIPE_BUF bytes is not interleaved with
those of other processes. A single line longer than that may be.
"""

from __future__ import annotations

import asyncio
import os
import select
import socket
import stat
import threading
import time
from collections import deque
from typing import final

_FILE_CHUNK_BYTES = 64 * 1024
_RETRY_SECONDS = 0.05
_LINGER_SECONDS = 0.01


@final
class LogSink:
    """A bounded queue of whole lines in front of one descriptor.

    Without a loop (`attach` not called) each line is written at once. The object belongs to the
    thread that attached it; other threads go through `write_threadsafe`.
    """

    def __init__(self, fd: int, *, capacity_bytes: int = 1 << 20) -> None:
        self._capacity_bytes = capacity_bytes
        self._lines: deque[bytes] = deque()
        self._size = 0
        self._chunk = b""
        self._torn = False
        """The last chunk was given up half-way through a line: the next starts on a new one."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._owner = threading.get_ident()
        self._pid = os.getpid()
        self._timer: asyncio.TimerHandle | None = None
        self._watching = False
        self.dropped_lines = 0
        """Lines lost since the start, because the sink was slow or failed."""
        self.last_error = ""
        """Text of the latest failed write, empty after one that succeeded."""
        self._open(fd)

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Queue from now on and write from `loop`. Lines queued before a fork stay the parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._forget()
        self._owner = threading.get_ident()
        self._loop = loop
        if self._lines or self._chunk:
            self._arm()

    def detach(self) -> None:
        """Write what the descriptor takes at once, then write each line as it comes."""
        self.flush()
        self._disarm()
        self._loop = None

    def write(self, line: bytes) -> None:
        """Take one line, which ends in a newline. Owner's thread only."""
        size = self._size + len(line)
        if size > self._capacity_bytes:
            self.dropped_lines += 1
            return
        self._size = size
        self._lines.append(line)
        if self._timer is None and not self._watching:
            self._arm()

    def write_threadsafe(self, line: bytes) -> None:
        """Take one line from any thread."""
        loop = self._loop
        if loop is None or threading.get_ident() == self._owner:
            self.write(line)
        elif not loop.is_closed():
            loop.call_soon_threadsafe(self.write, line)
        else:
            self.dropped_lines += 1

    def flush(self) -> bool:
        """Write until the queue is empty (True) or the descriptor would block (False)."""
        while self._chunk or self._lines:
            if not self._chunk:
                self._next_chunk()
            try:
                written = self._write(self._chunk)
            except BlockingIOError:
                return False
            except OSError as exc:
                self.last_error = exc.strerror or str(exc)
                self._give_up()
                return True
            self._size -= written
            self._torn = self._chunk[written - 1 : written] != b"\n"
            self._chunk = self._chunk[written:]
            self.last_error = ""
        return True

    def close(self, timeout_seconds: float = 1.0) -> None:
        """Write the rest, waiting for a slow reader at most `timeout_seconds`; then let go."""
        self._disarm()
        self._loop = None
        deadline = time.monotonic() + timeout_seconds
        poller = select.poll()
        poller.register(self._fd, select.POLLOUT)
        while not self.flush():
            left = deadline - time.monotonic()
            if left <= 0:
                self._give_up()
                break
            poller.poll(min(left, _RETRY_SECONDS) * 1000)
        if self._socket is not None:
            self._socket.close()
        else:
            os.close(self._fd)

    def _arm(self) -> None:
        if self._loop is None or self._loop.is_closed():
            self.flush()
        else:
            self._timer = self._loop.call_later(_LINGER_SECONDS, self._on_timer)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._watching and self._loop is not None:
            self._loop.remove_writer(self._fd)
        self._watching = False

    def _on_timer(self) -> None:
        self._timer = None
        if not self.flush():
            self._await_writable()

    def _await_writable(self) -> None:
        assert self._loop is not None
        try:
            self._loop.add_writer(self._fd, self._on_writable)
            self._watching = True
        except (OSError, NotImplementedError):
            # Not every device can be watched; then time has to do.
            self._timer = self._loop.call_later(_RETRY_SECONDS, self._on_timer)

    def _on_writable(self) -> None:
        if self.flush():
            self._disarm()

    def _next_chunk(self) -> None:
        lines = self._lines
        parts = [b"\n", lines.popleft()] if self._torn else [lines.popleft()]
        self._size += len(parts) - 1
        size = len(parts[-1])
        while lines and size + len(lines[0]) < self._limit_bytes:
            size += len(lines[0])
            parts.append(lines.popleft())
        self._chunk = b"".join(parts)

    def _give_up(self) -> None:
        """Drop all that waits: a full disk must not fill the memory as well."""
        self.dropped_lines += len(self._lines) + self._chunk.count(b"\n")
        self._forget()

    def _forget(self) -> None:
        self._lines.clear()
        self._chunk = b""
        self._size = 0

    def _open(self, fd: int) -> None:
        mode = os.fstat(fd).st_mode
        self._socket: socket.socket | None = None
        self._limit_bytes = _FILE_CHUNK_BYTES
        self._write = self._write_file
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._fd = self._socket.fileno()
            self._write = self._write_socket
            return
        if not (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)):
            self._fd = os.dup(fd)
            return
        self._limit_bytes = select.PIPE_BUF
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            self._fd = os.open(f"/proc/self/fd/{fd}", flags)
        except OSError:
            self._fd = os.dup(fd)
            self._poller = select.poll()
            self._poller.register(self._fd, select.POLLOUT)
            self._write = self._write_polled

    def _write_file(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def _write_socket(self, data: bytes) -> int:
        assert self._socket is not None
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _write_polled(self, data: bytes) -> int:
        if not self._poller.poll(0):
            raise BlockingIOError
        return os.write(self._fd, data[: select.PIPE_BUF])
