"""Servers on the official Python SDK as processes of their own: `with SdkServer() as server:`."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from types import TracebackType
from typing import Self

from tests.support.gateway import ROOT, free_ports

START_SECONDS = 30.0
EVERYTHING = "tests.support.mcp_everything"
SMALL = "tests.support.mcp_sdk"


class SdkServer:
    """`module`: one of the above. `transport`: http or sse."""

    def __init__(
        self, transport: str = "http", name: str = "everything", module: str = EVERYTHING
    ) -> None:
        (self.port,) = free_ports(1)
        self.name = name
        self._command = [sys.executable, "-m", module, transport, str(self.port), name]
        self._process: subprocess.Popen[bytes]

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, cwd=ROOT, env=_environment())
        until = time.monotonic() + START_SECONDS
        while not self._listens():
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < until, "the server does not listen"
            time.sleep(0.02)
        return self

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # It may hold streams open, for which its own end would wait.
        self._process.kill()
        self._process.wait()


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def stdio_target(name: str) -> dict[str, object]:
    """The everything server as a child of the gateway."""
    stdio = {"cmd": sys.executable, "args": ["-m", EVERYTHING, "stdio", name]}
    return {"name": name, "stdio": {**stdio, "env": {"PYTHONPATH": str(ROOT)}}}
