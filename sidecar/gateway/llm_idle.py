"""A bound of how long a stream may be silent, with one timer a stream instead of one a read.

Source: spec/llm.md section 0 (`streamIdleTimeout`).
"""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import final


@final
class IdleWatch:
    """`with watch:` around a wait that may take `seconds`. `close` when nobody reads any more.

    The timer runs on from read to read and looks, when it is due, since when the reader waits: a
    stream of a thousand chunks sets it once, where `asyncio.timeout` would do so for each of them.
    """

    __slots__ = ("_cancels", "_handle", "_is_late", "_seconds", "_since", "_task")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._handle: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        """Who waits now."""
        self._since = 0.0
        self._cancels = 0
        """Cancellations that the task had been asked for before it waited."""
        self._is_late = False

    def __enter__(self) -> None:
        """The task that runs begins to wait."""
        task = self._task = asyncio.current_task()
        assert task is not None
        loop = task.get_loop()
        self._since = loop.time()
        self._cancels = task.cancelling()
        if self._handle is None:
            self._handle = loop.call_later(self._seconds, self._look)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """It has waited. Raises: TimeoutError in the place of the cancellation that is ours."""
        task, self._task = self._task, None
        # As asyncio.timeout: somebody else may have cancelled the task at the same time.
        if (
            self._is_late
            and isinstance(error, asyncio.CancelledError)
            and task is not None
            and task.uncancel() <= self._cancels
        ):
            raise TimeoutError from error

    def _look(self) -> None:
        self._handle = None
        task = self._task
        if task is None:
            return  # the next wait sets the timer again
        loop = task.get_loop()
        left = self._since + self._seconds - loop.time()
        if left > 0:
            self._handle = loop.call_later(left, self._look)
            return
        self._is_late = True
        task.cancel()

    def close(self) -> None:
        """Drop the timer."""
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
