"""The connections of one port in one worker, from their acceptance to their end.

Source: design section 1 (drain).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Protocol, cast, final

from sidecar.http.message import Connection
from sidecar.net.bind import Gate


class _Served(Protocol):
    """A connection being served, whatever it speaks."""

    def drain(self) -> None: ...

    def abort(self) -> None: ...


@final
class Connections:
    """What is open, by what serves it, and the tasks that open or relay.

    Who begins to serve a connection puts it into `open`, and tells `forget` of its end.
    """

    def __init__(self, gate: Gate, bind: str) -> None:
        self.open: dict[object, Connection] = {}
        self._gate = gate
        self._bind = bind
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Future[None] | None = None

    def __bool__(self) -> bool:
        return bool(self.open)

    def follow(self, task: asyncio.Task[None]) -> None:
        """Wait for this task too; `abort` cancels it."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def forget(self, served: object, connection: Connection, received: int, sent: int) -> None:
        """A connection is gone."""
        if served in self.open:
            del self.open[served]
            self._gate.connection_closed(self._bind, connection, received, sent)
        if not self.open and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def drain(self) -> None:
        """Tell each to end when it can."""
        for served in list(self.open):
            cast("_Served", served).drain()

    async def wait_idle(self) -> None:
        """Until no connection is left."""
        while self.open or self._tasks:
            self._idle = self._gate.loop.create_future()
            waits: list[Awaitable[object]] = [*self._tasks]
            if self.open:
                waits.append(self._idle)
            await asyncio.wait(
                [asyncio.ensure_future(wait) for wait in waits],
                return_when=asyncio.FIRST_COMPLETED,
            )

    def cut(self, is_meant: Callable[[Connection], bool]) -> None:
        """Cut those that are meant."""
        for served, connection in list(self.open.items()):
            if is_meant(connection):
                with contextlib.suppress(OSError):
                    cast("_Served", served).abort()

    def abort(self) -> None:
        """Cut what is left."""
        for task in list(self._tasks):
            task.cancel()
        for served in list(self.open):
            with contextlib.suppress(OSError):
                cast("_Served", served).abort()
