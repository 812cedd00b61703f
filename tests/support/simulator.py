"""The simulator of model providers (sidecar.simulator) on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

from sidecar.simulator.server import Seen, Simulator

START_SECONDS = 20.0


class Models:
    """`with Models() as models:` serves on `models.port` until the block ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)
        self._started = threading.Event()
        self._simulator: Simulator

    @property
    def port(self) -> int:
        """Where it listens."""
        return self._simulator.port

    @property
    def address(self) -> str:
        """`host:port`."""
        return f"127.0.0.1:{self.port}"

    def take(self) -> list[Seen]:
        """What it was asked since the last time."""
        seen = self._simulator.seen
        return [seen.popleft() for _ in range(len(seen))]

    @property
    def closed_streams(self) -> int:
        """Streams whose reader left before their end."""
        return self._simulator.closed_streams

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._simulator = Simulator(self._loop)
        self._simulator.start(0)
        self._loop.call_soon(self._started.set)
        self._loop.run_forever()
        self._loop.run_until_complete(self._simulator.stop())
        self._loop.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(START_SECONDS)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
