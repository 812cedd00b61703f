"""A sidecar in a thread of its own, which is in a pod's network namespace."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvloop

from hbone.aio import Credentials
from istio.sidecar.capture import Capture
from istio.sidecar.ways import Judge, Settings
from tests.support.namespaces import Pod, enter

PATIENCE_SECONDS = 20.0


class Side:
    """`settled` waits for what it ends with."""

    def __init__(
        self, pod: Pod, judge: Judge, credentials: Credentials | None, settings: Settings
    ) -> None:
        self._pod = pod
        self._judge = judge
        self._credentials = credentials
        self._settings = settings
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.capture: Capture
        self._loop: asyncio.AbstractEventLoop
        self._stopping: asyncio.Event

    def start(self) -> None:
        self._thread.start()
        assert self._is_up.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(PATIENCE_SECONDS)

    def _run(self) -> None:
        enter(self._pod.name)
        uvloop.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        self.capture = Capture(self._settings, self._judge)
        self.capture.start()
        if self._credentials is not None:
            await self.capture.set_credentials(self._credentials)
        self._is_up.set()
        await self._stopping.wait()
        await self.capture.close()

    def do(self, work: Callable[[], Any]) -> Any:
        """Its result, when the sidecar's own loop ran it."""

        async def run() -> Any:
            found = work()
            return await found if asyncio.iscoroutine(found) else found

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(PATIENCE_SECONDS)

    def settled(self, direction: str, flag: str) -> int:
        """How many connections ended so; waits for one."""

        async def look() -> int:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not self.capture.counts.ended[direction, flag]:  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
            return self.capture.counts.ended[direction, flag]

        return int(self.do(look))


@contextmanager
def side(
    pod: Pod, judge: Judge, credentials: Credentials | None, **settings: Any
) -> Iterator[Side]:
    """A sidecar for as long as the block runs."""
    made = Side(pod, judge, credentials, Settings(**settings))
    made.start()
    try:
        yield made
    finally:
        made.stop()
