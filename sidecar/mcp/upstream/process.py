"""MCP servers as child processes, seen from the worker: pipes, lines, the order of an end.

The processes themselves are the keeper's; see its design note.

Source: MCP, transports (stdio); spec/mcp_a2a.md section 5.2.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, final

from sidecar.errors import UpstreamError
from sidecar.mcp.upstream import keeper
from sidecar.mcp.upstream.lines import LineReader

_log = logging.getLogger("sidecar.mcp.upstream")
_OWN_SECRETS: Final = frozenset(("SESSION_KEY",))
"""What of the gateway's environment no server gets: with it, it could forge sessions."""
_KEEPER_ENV: Final = ("LD_LIBRARY_PATH", "PATH")
_SEND_PAUSE_SECONDS: Final = 0.01
_SEND_TRIES: Final = 200
_STDIN_GRACE_SECONDS: Final = 0.5
"""How long a server may take to end by itself after its input has ended."""


@final
@dataclass(frozen=True, slots=True)
class StdioSpec:
    """What to run, as the configuration says."""

    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    clear_env: bool = False
    """Whether the gateway's own environment is kept from it."""
    cwd: str = ""

    def environment(self) -> dict[str, str]:
        """All that the server gets."""
        if self.clear_env:
            return dict(self.env)
        own = {name: value for name, value in os.environ.items() if name not in _OWN_SECRETS}
        return {**own, **self.env}


@final
@dataclass(frozen=True, slots=True)
class ProcessLimits:
    """Bounds of one server process."""

    line_bytes: int = 4 * 1024 * 1024
    """Of a message; a longer line is dropped."""
    stdin_bytes: int = 4 * 1024 * 1024
    """What may wait for a server that does not read."""
    write_seconds: float = 10.0
    """How long a message waits for it."""
    start_seconds: float = 10.0
    """Until the program runs; not until it answers."""
    grace_seconds: float = 2.0
    """Between SIGTERM and SIGKILL."""


@final
class _Writer(asyncio.BaseProtocol):
    """The server's input: whether it takes more."""

    def __init__(self) -> None:
        self.room = asyncio.Event()
        self.room.set()
        self.is_lost = False

    def pause_writing(self) -> None:
        self.room.clear()

    def resume_writing(self) -> None:
        self.room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = True
        self.room.set()


@final
class Process:
    """One running server. Made by `Spawner.spawn`.

    `on_end(status)` is called once, when the process is gone and all it wrote has been handed out;
    not for one that never ran.
    """

    def __init__(self, name: str, limits: ProcessLimits, on_end: Callable[[int], None]) -> None:
        self.pid = 0
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit code, or minus the signal that ended it."""
        self._name = name
        self._limits = limits
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._started: asyncio.Future[None] = self._loop.create_future()
        self._control: socket.socket
        self._writer = _Writer()
        self._stdin: asyncio.WriteTransport
        self._stdout: asyncio.ReadTransport
        self._stderr: asyncio.ReadTransport
        self._status: int | None = None
        self._has_stdout = True

    async def open(
        self,
        control: socket.socket,
        descriptors: tuple[int, int, int],
        on_line: Callable[[bytes], None],
        on_stderr: LineReader,
    ) -> None:
        """Join the pipes and wait until the program runs. Owns all it is given.

        Raises: UpstreamError.
        """
        self._control = control
        limits, loop = self._limits, self._loop
        control.setblocking(False)
        loop.add_reader(control.fileno(), self._told)
        lines = LineReader(limits.line_bytes, on_line, self._long, self._stdout_ended)
        stdin, stdout, stderr = descriptors
        self._stdin, _ = await loop.connect_write_pipe(lambda: self._writer, os.fdopen(stdin, "wb"))
        self._stdout, _ = await loop.connect_read_pipe(lambda: lines, os.fdopen(stdout, "rb"))
        self._stderr, _ = await loop.connect_read_pipe(lambda: on_stderr, os.fdopen(stderr, "rb"))
        try:
            async with asyncio.timeout(limits.start_seconds):
                await self._started
        except TimeoutError as error:
            self._abandon()
            raise _failed(self._name, "did not start in time") from error
        except BaseException:
            self._abandon()
            raise

    def hold(self, is_held: bool) -> None:
        """Stop reading its output, or go on."""
        if self._has_stdout and not self._stdout.is_closing():
            if is_held:
                self._stdout.pause_reading()
            else:
                self._stdout.resume_reading()

    async def write(self, data: bytes) -> None:
        """Send a line. Raises: UpstreamError when the server is gone or does not read."""
        self._check_room()
        if not self._writer.room.is_set():
            try:
                async with asyncio.timeout(self._limits.write_seconds):
                    await self._writer.room.wait()
            except TimeoutError as error:
                raise _failed(self._name, "does not read its input") from error
            self._check_room()
        self._stdin.write(data)

    def write_nowait(self, data: bytes) -> None:
        """Send a line that may be lost: nothing when the server is gone or does not read."""
        try:
            self._check_room()
        except UpstreamError as error:
            _log.debug("a message was dropped: %s", error)
            return
        self._stdin.write(data)

    def _check_room(self) -> None:
        if self.ended.done() or self._writer.is_lost or self._stdin.is_closing():
            raise _failed(self._name, "has ended")
        if self._stdin.get_write_buffer_size() > self._limits.stdin_bytes:
            raise _failed(self._name, "does not read its input")

    async def stop(self) -> None:
        """End it: its input ends, then SIGTERM, then SIGKILL to it and all below it.

        Returns when nothing of it is left.
        """
        for word, seconds in (
            (b"", _STDIN_GRACE_SECONDS),
            (b"term", self._limits.grace_seconds),
            (b"kill", self._limits.grace_seconds),
        ):
            if not word:
                self._stdin.close()
            else:
                with contextlib.suppress(OSError):
                    self._control.send(word)
            done, _ = await asyncio.wait((self.ended,), timeout=seconds)
            if done:
                return
        _log.warning("MCP target %s: process %d does not end", self._name, self.pid)
        self._abandon()

    def _abandon(self) -> None:
        """Leave the rest to the monitor: it kills when its socket ends."""
        self._status = -9 if self._status is None else self._status
        self._close_control()
        self._stdin.close()
        self._stdout.close()
        self._stderr.close()

    def _close_control(self) -> None:
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control.fileno())
            self._control.close()

    def _told(self) -> None:
        """A word of the monitor."""
        try:
            word, _, rest = self._received().decode("utf-8", "replace").partition(" ")
        except BlockingIOError:
            return
        if word == "started":
            self.pid = int(rest)
            if not self._started.done():
                self._started.set_result(None)
            return
        if not self._started.done():
            text = f"could not be started: {rest or 'its keeper ended'}"
            self._started.set_exception(_failed(self._name, text))
        self._close_control()
        self._status = int(rest) if word == "ended" else -9
        # Nothing is left that could write: what the pipe holds is all there will be.
        self._stdin.close()
        self._settle()

    def _received(self) -> bytes:
        """What the monitor said; b"" when it is gone. Raises: BlockingIOError."""
        for _ in range(2):
            try:
                return self._control.recv(512)
            except ConnectionResetError:
                # It left a word of ours unread. That is told first, and once; then its last words.
                continue
        return b""

    def _stdout_ended(self) -> None:
        self._has_stdout = False
        if self._status is None and self._control.fileno() >= 0:
            # Mostly it has ended, and the monitor is about to say so. Else it can say nothing more
            # and is of no use, though it still runs.
            self._loop.call_later(self._limits.grace_seconds, self._kill)
        self._settle()

    def _kill(self) -> None:
        if self._control.fileno() >= 0:
            with contextlib.suppress(OSError):
                self._control.send(b"kill")

    def _settle(self) -> None:
        if self._status is not None and not self._has_stdout and not self.ended.done():
            self.ended.set_result(self._status)
            if self.pid:
                self._on_end(self._status)

    def _long(self) -> None:
        limit = self._limits.line_bytes
        _log.warning("MCP target %s: a line of more than %d bytes was dropped", self._name, limit)


@final
class Spawner:
    """Starts servers through this worker's keeper, which it starts with the first one."""

    def __init__(self, limits: ProcessLimits | None = None) -> None:
        self.limits = limits or ProcessLimits()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    async def spawn(
        self,
        name: str,
        spec: StdioSpec,
        on_line: Callable[[bytes], None],
        on_stderr: LineReader,
        on_end: Callable[[int], None],
    ) -> Process:
        """Start a server. Raises: UpstreamError when it cannot be started."""
        order = {"argv": spec.argv, "env": spec.environment(), "cwd": spec.cwd}
        packet = json.dumps(order).encode()
        if len(packet) > keeper.MAX_REQUEST_BYTES:
            raise _failed(name, "has too large an environment to be started")
        pipes = [os.pipe() for _ in range(3)]
        (stdin, to_stdin), (from_stdout, stdout), (from_stderr, stderr) = pipes
        control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours = (to_stdin, from_stdout, from_stderr)
        try:
            await self._send(name, packet, [stdin, stdout, stderr, theirs.fileno()])
        except BaseException:
            control.close()
            for descriptor in ours:
                os.close(descriptor)
            raise
        finally:
            theirs.close()
            for descriptor in (stdin, stdout, stderr):
                os.close(descriptor)
        process = Process(name, self.limits, on_end)
        await process.open(control, ours, on_line, on_stderr)
        return process

    async def _send(self, name: str, packet: bytes, descriptors: list[int]) -> None:
        """Hand the order over. Raises: UpstreamError."""
        for _ in range(_SEND_TRIES):
            sock = self._socket or self._start()
            try:
                socket.send_fds(sock, [packet], descriptors)
                return
            except BlockingIOError:
                await asyncio.sleep(_SEND_PAUSE_SECONDS)
            except OSError as error:
                # The keeper is gone; the next round starts another.
                _log.warning("the keeper of MCP servers has ended: %s", error)
                self._forget()
        raise _failed(name, "could not be started: its keeper does not answer")

    def _start(self) -> socket.socket:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._socket.setblocking(False)
            descriptor = theirs.fileno()
            self._keeper = subprocess.Popen(  # noqa: S603 - our own program
                [sys.executable, "-I", "-S", keeper.__file__, str(descriptor)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(descriptor,),
                env={key: os.environ[key] for key in _KEEPER_ENV if key in os.environ},
            )
        return self._socket

    def _forget(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._keeper is not None:
            self._keeper.poll()
        self._socket = self._keeper = None

    async def close(self) -> None:
        """Let the keeper end. Servers end with their own sockets."""
        process = self._keeper
        if self._socket is not None:
            self._socket.close()
        self._socket = self._keeper = None
        if process is None:
            return
        for _ in range(_SEND_TRIES):
            if process.poll() is not None:
                return
            await asyncio.sleep(_SEND_PAUSE_SECONDS)
        process.kill()
        process.wait()


def _failed(name: str, what: str) -> UpstreamError:
    return UpstreamError(503, "UpstreamFailure", f"MCP target {name} {what}", sent=False)
