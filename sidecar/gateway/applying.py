"""A worker's way from the revision that is published to the one that it runs, and its report.

Source: design section 2; spec/config.md section 10.1.

What changed is read beside the running revision, in slices, and handed to the worker, which
compiles it and swaps. Either way control is told; what failed for want of a lock or of descriptors
is no fault of the configuration, and is tried again soon.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, final

from shm.config import ConfigTable
from shm.errors import LockTimeoutError, ShmError
from sidecar.config.common import Common
from sidecar.config.snapshot import read_header, read_record
from sidecar.config.snapshot_diff import Difference, Index, diff
from sidecar.errors import ConfigError
from sidecar.gateway.memory import collect_frozen
from sidecar.gateway.parts import IN_NO_PART
from sidecar.gateway.process import WorkerContext, clear
from sidecar.gateway.slices import Slices

_log = logging.getLogger("sidecar.gateway.worker")
_RETRY_SECONDS: Final = 1.0
_STALE_IDLE: Final = 500
_STALE_MAX: Final = 20_000


@final
@dataclass(slots=True)
class Change:
    """What a revision changes of the one before it."""

    generation: int
    changed: dict[str, Mapping[str, Any]]
    """New resources, and those that are not as they were, by key."""
    removed: Sequence[str]
    encoded: list[bytes]
    """The changed ones that may need parts of the program that are not loaded yet."""


@final
class Applying:
    """One in a worker, which applies one revision at a time."""

    def __init__(
        self,
        context: WorkerContext,
        configs: ConfigTable,
        loop: asyncio.AbstractEventLoop,
        slices: Slices,
        *,
        take: Callable[[Change], Awaitable[None]],
        running: Callable[[], int],
        is_stopping: Callable[[], bool],
        keep: Callable[[asyncio.Task[None]], None],
    ) -> None:
        """`take`: compiles and swaps; what it raises changes nothing. `running`: the generation
        that was swapped in last. `keep`: holds a task, and cancels it when the worker ends."""
        self._context = context
        self._configs = configs
        self._loop = loop
        self._slices = slices
        self._take = take
        self._running = running
        self._is_stopping = is_stopping
        self._keep = keep
        self._index: Index = ()
        self._common = Common()
        self._applying = asyncio.Lock()
        self._stale = 0
        """Resources replaced since the last collection."""
        self._seen_generation = 0
        """The newest that was applied or refused."""

    def woken(self) -> None:
        """To be called when the descriptor for it can be read."""
        clear(self._context.wake_fd)
        self._look()

    async def begin(self) -> None:
        """Apply the revision that a worker starts with. Raises whatever is in the way of it."""
        async with self._applying:
            if self._is_stopping():
                return
            generation, buffer = self._configs.read_current()
            await self._slices.give_way()
            await self._compile_and_swap(generation, buffer)
            self._report(generation, "")

    def collect(self, *, is_idle: bool) -> None:
        """Free what earlier revisions left, when there is enough of it."""
        if self._stale > (_STALE_IDLE if is_idle else _STALE_MAX):
            self._stale = 0
            collect_frozen()

    def _look(self) -> None:
        self._keep(self._loop.create_task(self._apply()))

    def _look_later(self) -> None:
        self._loop.call_later(_RETRY_SECONDS, self._look)

    async def _apply(self) -> None:
        async with self._applying:
            if self._is_stopping() or self._configs.generation == self._running():
                return
            try:
                generation, buffer = self._configs.read_current()
            except (ShmError, OSError):
                # Out of descriptors, say. Nobody would wake us for this one again.
                _log.exception("the configuration cannot be read; trying again soon")
                self._look_later()
                return
            await self._slices.give_way()
            try:
                refusal = await self._try(generation, buffer)
            except LockTimeoutError as error:
                # No fault of the configuration: were it refused, it would be gone for good.
                _log.error("configuration %d: trying again soon: %s", generation, error)
                self._look_later()
                return
            self._report(generation, refusal)

    async def _try(self, generation: int, buffer: memoryview) -> str:
        """Why it is refused; empty when it runs. Raises: LockTimeoutError."""
        try:
            await self._compile_and_swap(generation, buffer)
        except ConfigError as error:
            _log.error("configuration %d refused: %s", generation, error)
            return str(error)
        except LockTimeoutError:
            raise
        except Exception as error:
            _log.exception("configuration %d failed inside the gateway", generation)
            return f"internal error: {error}"
        return ""

    def _report(self, generation: int, refusal: str) -> None:
        """Tell control, now or, where the table's lock is not to be had, a little later."""
        self._seen_generation = max(self._seen_generation, generation)
        if generation < self._seen_generation:
            return  # more was said since
        try:
            self._configs.report(self._context.worker, generation, refusal)
        except LockTimeoutError as error:
            _log.error("configuration %d: not reported yet: %s", generation, error)
            self._loop.call_later(_RETRY_SECONDS, self._report, generation, refusal)
        else:
            self._context.report()

    async def _compile_and_swap(self, generation: int, buffer: memoryview) -> None:
        read_header(buffer)
        difference = await self._slices.run(diff(self._index, buffer))
        await self._take(await self._read(generation, buffer, difference))
        # What is garbage now was there before: a mesh that comes whole leaves none.
        held = sum([block.count for block in self._index])
        self._index = difference.index
        # A collection would otherwise walk all of this again and again (tens of milliseconds).
        gc.freeze()
        self._stale += min(len(difference.changed), held) + len(difference.removed)

    async def _read(self, generation: int, buffer: memoryview, difference: Difference) -> Change:
        change = Change(generation, {}, difference.removed, [])
        for count, record in enumerate(difference.changed):
            change.changed[record.key] = data = read_record(buffer, record)
            if not record.key.startswith(IN_NO_PART):
                change.encoded.append(bytes(buffer[record.offset : record.offset + record.size]))
            if record.key.startswith("workload/"):
                self._common.share(data)
            if count % 64 == 63:
                await self._slices.give_way()
        return change
