"""A Redis of the test's own on a Unix socket or a port, which a test may kill or hold."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.certificates import Pair
from tests.support.gateway import free_ports

START_SECONDS = 20.0


class RedisServer:
    """`with RedisServer() as redis:`; it keeps nothing over a restart.

    `on_port`: listens on a port of the loopback instead. `pair`: on a port with TLS, and beside it
    on the socket, where `command` asks. `password`: what clients of either have to say.
    """

    def __init__(
        self, *, on_port: bool = False, pair: Pair | None = None, password: str = ""
    ) -> None:
        self._pair = pair
        self._password = password
        self._folder = tempfile.TemporaryDirectory(prefix="agw")
        self._socket = Path(self._folder.name) / "redis.sock"
        self.port = free_ports(1)[0] if on_port else 0
        self.url = f"redis://127.0.0.1:{self.port}/0" if on_port else f"unix://{self._socket}"
        self.tls_port = free_ports(1)[0] if pair is not None else 0
        self.process: subprocess.Popen[bytes]

    def start(self) -> Self:
        """Start, empty, and wait until it answers."""
        self.process = subprocess.Popen(
            [
                *("redis-server", "--port", str(self.port), "--bind", "127.0.0.1"),
                *("--save", "", "--appendonly", "no", "--dir", self._folder.name),
                *(() if self.port else ("--unixsocket", str(self._socket))),
                *(("--requirepass", self._password) if self._password else ()),
                *self._tls(),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        until = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self.process.poll() is None, "redis-server ended"
            assert time.monotonic() < until, "redis-server does not answer"
            time.sleep(0.01)
        return self

    def _tls(self) -> list[str]:
        if self._pair is None:
            return []
        folder = Path(self._folder.name)
        (folder / "cert.pem").write_text(self._pair.cert)
        (folder / "key.pem").write_text(self._pair.key)
        files = ["--tls-cert-file", str(folder / "cert.pem"), "--tls-key-file"]
        port = ["--tls-port", str(self.tls_port), "--tls-auth-clients", "no"]
        return [*port, *files, str(folder / "key.pem")]

    def _answers(self) -> bool:
        try:
            return self.command("PING") == b"+PONG\r\n"
        except OSError:
            return False

    def command(self, *words: str) -> bytes:
        """The reply, as it came; for short ones."""
        family = socket.AF_INET if self.port else socket.AF_UNIX
        with socket.socket(family) as sock:
            sock.settimeout(START_SECONDS)
            sock.connect(("127.0.0.1", self.port) if self.port else str(self._socket))
            if self._password:
                sock.sendall(f"AUTH {self._password}\r\n".encode())
                assert sock.recv(64) == b"+OK\r\n"
            parts = [f"*{len(words)}\r\n", *(f"${len(word)}\r\n{word}\r\n" for word in words)]
            sock.sendall("".join(parts).encode())
            return sock.recv(1 << 20)

    def kill(self) -> None:
        """As a crash does."""
        self.process.kill()
        self.process.wait()

    def hold(self) -> None:
        """Let it answer nobody."""
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
        self._folder.cleanup()
