"""Messages of servers on their way to one client: changed, joined, or watched to their end.

Source: mcp.upstream.base.Messages; spec/mcp_a2a.md sections 1.3 and 2.3.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, Final, TypeVar, final

from sidecar import jsonrpc
from sidecar.errors import SidecarError
from sidecar.jsonrpc import INTERNAL_ERROR, Id, Json, JsonRpcError
from sidecar.mcp.upstream.base import Inbound, Messages, Refused
from sidecar.mcp.waiter import Waiter

T = TypeVar("T")
_WAITING_MAX: Final = 64
"""Messages that wait for a slow client, a server; then that server is not read."""

Change = Callable[[Inbound], Inbound | None]
"""The message as the client gets it; None leaves it out."""


def _nothing() -> None:
    """For streams nobody waits for."""


async def opened(ways: Iterable[Coroutine[Any, Any, T]], close: Callable[[T], object]) -> list[T]:
    """What several servers gave, in this order. Raises: the first error.

    When the client leaves meanwhile, or one fails, what the others gave is closed: nobody reads it.
    """
    loop = asyncio.get_running_loop()
    tasks = [loop.create_task(way) for way in ways]

    def left(task: asyncio.Task[T]) -> None:
        if not task.cancelled() and task.exception() is None:
            close(task.result())

    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
            task.add_done_callback(left)
        raise


def close_one(messages: Messages | None) -> None:
    """See `opened`."""
    if messages is not None:
        messages.close()


@final
class Ready:
    """Messages that are all at hand. See Messages."""

    __slots__ = ("_items", "is_json", "retry_ms")

    def __init__(self, items: Sequence[Inbound], *, is_json: bool = True) -> None:
        self._items = deque(items)
        self.is_json = is_json and len(items) == 1
        self.retry_ms: int | None = None

    @classmethod
    def of(cls, message: Json) -> Ready:
        """One message."""
        return cls((Inbound(message),))

    async def next(self) -> Inbound | None:
        """See Messages."""
        return self._items.popleft() if self._items else None

    def close(self) -> None:
        """See Messages."""
        self._items.clear()


@final
class Changed:
    """The messages of one server, each as `change` makes it. See Messages.

    `at_end`: called once, when the reader has read all, has given up, or the server has failed.
    """

    __slots__ = ("_at_end", "_change", "_source", "is_json", "retry_ms")

    def __init__(
        self, source: Messages, change: Change, at_end: Callable[[], None] = _nothing
    ) -> None:
        self.is_json = source.is_json
        self.retry_ms = source.retry_ms
        self._source = source
        self._change = change
        self._at_end: Callable[[], None] | None = at_end

    async def next(self) -> Inbound | None:
        """See Messages."""
        while True:
            try:
                inbound = await self._source.next()
            except SidecarError:
                self._ended()
                raise
            if inbound is None:
                self._ended()
                return None
            changed = self._change(inbound)
            if changed is not None:
                return changed

    def close(self) -> None:
        """See Messages."""
        self._source.close()
        self._ended()

    def _ended(self) -> None:
        at_end, self._at_end = self._at_end, None
        if at_end is not None:
            at_end()


@final
class Answering:
    """The messages of one request, its answer certain: a server that fails makes an error of it.

    See Messages; `next` does not raise.
    """

    __slots__ = ("_has_failed", "_identity", "_source", "is_json", "retry_ms")

    def __init__(self, source: Messages, identity: Id | None) -> None:
        self.is_json = source.is_json
        self.retry_ms = source.retry_ms
        self._source = source
        self._identity = identity
        self._has_failed = False

    async def next(self) -> Inbound | None:
        """See Messages."""
        if self._has_failed:
            return None
        try:
            return await self._source.next()
        except JsonRpcError as error:
            return self._failed(error.code, str(error), error.data)
        except (SidecarError, Refused) as error:
            return self._failed(INTERNAL_ERROR, str(error))

    def _failed(self, code: int, text: str, data: object = None) -> Inbound:
        self._has_failed = True
        self._source.close()
        return Inbound(jsonrpc.error(self._identity, code, text, data))

    def close(self) -> None:
        """See Messages."""
        self._source.close()


@final
class Merged:
    """What several servers send, in the order of its coming. See Messages.

    It ends when all have ended; with `is_fragile`, a server that fails ends it for all.
    """

    __slots__ = (
        "_error",
        "_is_fragile",
        "_items",
        "_room",
        "_running",
        "_sources",
        "_waiter",
        "is_json",
        "retry_ms",
    )

    def __init__(self, sources: Sequence[Messages], *, is_fragile: bool = False) -> None:
        self.is_json = False
        self.retry_ms: int | None = None
        self._sources = tuple(sources)
        self._is_fragile = is_fragile
        self._items: deque[Inbound] = deque()
        self._waiter = Waiter()
        self._room = asyncio.Event()
        self._room.set()
        self._error: SidecarError | None = None
        loop = asyncio.get_running_loop()
        self._running = {loop.create_task(self._pump(source)) for source in self._sources}
        for task in self._running:
            task.add_done_callback(self._done)

    async def _pump(self, source: Messages) -> None:
        try:
            while (inbound := await source.next()) is not None:
                self._items.append(inbound)
                if len(self._items) >= _WAITING_MAX:
                    self._room.clear()
                self._waiter.wake()
                await self._room.wait()
        except SidecarError as error:
            # The others go on: what this server has to say is lost with it.
            if self._is_fragile or len(self._running) == 1:
                self._error = error

    def _done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        # First: whoever reads must not wait for a task that our own bug has ended.
        self._waiter.wake()
        if not task.cancelled():
            task.result()

    async def next(self) -> Inbound | None:
        """See Messages."""
        while not self._items:
            if self._error is not None:
                self.close()
                raise self._error
            if not self._running:
                return None
            await self._waiter.wait()
        inbound = self._items.popleft()
        if not self._room.is_set() and len(self._items) <= _WAITING_MAX // 2:
            self._room.set()
        return inbound

    def close(self) -> None:
        """See Messages."""
        for task in tuple(self._running):
            task.cancel()
        self._items.clear()
        for source in self._sources:
            source.close()
        self._waiter.wake()
