"""Messages on their way from whoever reads a server's connection to whoever they are for.

Source: base.Messages; design section 8 (bounds).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, final

from sidecar.errors import UpstreamError
from sidecar.jsonrpc import Json
from sidecar.mcp.upstream.base import Inbound
from sidecar.mcp.waiter import Waiter

FULL_BYTES: Final = 1024 * 1024
FULL_MESSAGES: Final = 256


def _ignore() -> None:
    """Nobody cares."""


@final
class Inbox:
    """A bounded queue in one process. See Messages.

    `put` never refuses: who puts looks at `is_full` and stops reading its peer, and `on_room` says
    when to go on. So a box passes its bound by what one read of the peer held.
    """

    __slots__ = (
        "_bytes",
        "_error",
        "_idle",
        "_items",
        "_name",
        "_waiter",
        "is_closed",
        "is_ended",
        "is_json",
        "on_close",
        "on_room",
        "retry_ms",
    )

    def __init__(self, name: str, idle_seconds: float | None) -> None:
        """`idle_seconds`: how long the reader waits for one message; None is for ever, for streams
        on which silence is no fault. `name` stands in errors."""
        self.is_json = False
        self.retry_ms: int | None = None
        self.is_closed = False
        """The reader has given up."""
        self.is_ended = False
        """Nothing more will be put."""
        self.on_close: Callable[[], None] = _ignore
        self.on_room: Callable[[], None] = _ignore
        self._name = name
        self._idle = idle_seconds
        self._items: deque[tuple[Inbound, int]] = deque()
        self._bytes = 0
        self._error: UpstreamError | None = None
        self._waiter = Waiter()

    @property
    def is_full(self) -> bool:
        """Whether the peer should be read no further for now."""
        return self._bytes > FULL_BYTES or len(self._items) > FULL_MESSAGES

    def put(self, message: Json, size_bytes: int, event_id: bytes = b"") -> None:
        """Hand one over; nothing when the box is closed or ended."""
        if self.is_closed or self.is_ended:
            return
        self._items.append((Inbound(message, event_id), size_bytes))
        self._bytes += size_bytes
        self._waiter.wake()

    def finish(self, error: UpstreamError | None = None) -> None:
        """The end; with an error, which the reader gets after what was put. Once only."""
        if not self.is_ended:
            self.is_ended = True
            self._error = error
            self._waiter.wake()

    def drop(self, error: UpstreamError) -> None:
        """End it for a reader that does not read: what was put is lost."""
        self._items.clear()
        self._bytes = 0
        self.finish(error)
        self.on_room()
        self.on_close()

    async def next(self) -> Inbound | None:
        """See Messages. One reader at a time."""
        while not self._items:
            if self.is_closed:
                return None
            if self.is_ended:
                if self._error is not None:
                    raise self._error
                return None
            try:
                async with asyncio.timeout(self._idle):
                    await self._waiter.wait()
            except TimeoutError as error:
                text = f"MCP target {self._name} sent nothing for {self._idle:g} s"
                raise UpstreamError(504, "Timeout", text) from error
        was_full = self.is_full
        inbound, size_bytes = self._items.popleft()
        self._bytes -= size_bytes
        if was_full and not self.is_full:
            self.on_room()
        return inbound

    def close(self) -> None:
        """See Messages."""
        if self.is_closed:
            return
        self.is_closed = True
        was_full = self.is_full
        self._items.clear()
        self._bytes = 0
        self._waiter.wake()
        if was_full:
            self.on_room()
        self.on_close()


@final
class Whole:
    """Messages that are all at hand. See Messages."""

    __slots__ = ("_items", "is_json", "retry_ms")

    def __init__(self, items: Sequence[Inbound], *, is_json: bool) -> None:
        self.is_json = is_json
        self.retry_ms: int | None = None
        self._items = deque(items)

    async def next(self) -> Inbound | None:
        """See Messages."""
        return self._items.popleft() if self._items else None

    def close(self) -> None:
        """See Messages."""
        self._items.clear()
