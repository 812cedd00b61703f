"""The processes that a benchmark starts in a folder of their own, and ends."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.support.gateway import ROOT, GatewayProcess

_END_SECONDS: Final = 20.0
_KILL_SECONDS: Final = 5.0


class Processes(ABC):
    """`with` one, and everything runs. Its end undoes the start, also one that failed."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self.folder = Path(self._folder.name)
        self._processes: list[subprocess.Popen[bytes]] = []
        self._gateways: list[GatewayProcess] = []

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end()

    @abstractmethod
    def _start(self) -> None:
        """Start everything, each on the core that is its own."""

    def _spawn(self, command: list[str]) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
        self._processes.append(process)
        return process

    def _end(self) -> None:
        for gateway in self._gateways:
            gateway.__exit__(None, None, None)
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        for process in self._processes:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(_KILL_SECONDS)
        self._folder.cleanup()
