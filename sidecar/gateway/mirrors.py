"""Copies of requests that nobody waits for, in the background and within bounds.

Source: spec/config.md sections 3.2 and 3.4.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final, final

from sidecar.errors import SidecarError
from sidecar.gateway.plan import Mirror
from sidecar.http.message import Request

_log = logging.getLogger("sidecar.gateway.worker")
_MIRRORS_MAX: Final = 128
_MIRROR_SECONDS: Final = 30.0


@final
class Mirrors:
    """Those of one worker. A copy for which there is no room is not sent."""

    __slots__ = ("_loop", "_sending")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._sending: set[asyncio.Task[None]] = set()

    def send(self, request: Request, mirror: Mirror) -> None:
        """See WorkerState."""
        if len(self._sending) >= _MIRRORS_MAX:
            return
        task = self._loop.create_task(self._send(mirror.policy.copied(request), mirror))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def cancel(self) -> None:
        """Those that are not done when the worker ends."""
        for task in self._sending:
            task.cancel()

    async def _send(self, request: Request, mirror: Mirror) -> None:
        shadow = mirror.shadow
        try:
            await shadow.discard(request, _MIRROR_SECONDS)
        except SidecarError as error:
            _log.debug("mirror to %s: %s", shadow.label, error)
