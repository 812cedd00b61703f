"""A pipe's bytes as lines, bounded in length.

Source: MCP, transports (stdio): a message is a line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import final


@final
class LineReader(asyncio.Protocol):
    """Lines of a pipe, without their ends. One that passes the limit is left out, and counted."""

    def __init__(
        self,
        limit_bytes: int,
        on_line: Callable[[bytes], None],
        on_long: Callable[[], None],
        on_end: Callable[[], None],
    ) -> None:
        self._limit = limit_bytes
        self._on_line = on_line
        self._on_long = on_long
        self._on_end = on_end
        self._pending = bytearray()
        self._is_skipping = False

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        first, *more = data.split(b"\n")
        self._add(first)
        for part in more:
            self._complete()
            self._add(part)

    def _add(self, part: bytes) -> None:
        if self._is_skipping:
            return
        self._pending += part
        if len(self._pending) > self._limit:
            self._pending.clear()
            self._is_skipping = True
            self._on_long()

    def _complete(self) -> None:
        line = bytes(self._pending)
        self._pending.clear()
        if not self._is_skipping and line:
            self._on_line(line)
        self._is_skipping = False

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._complete()
        self._on_end()
