"""What MCP servers write to their standard error, as lines of our log: bounded in rate and length.

Source: MCP, transports (stdio); hardening: a server may flood.
"""

from __future__ import annotations

import logging
import time
from typing import Final, final

from sidecar.mcp.upstream.lines import LineReader

_log = logging.getLogger("sidecar.mcp.stderr")
LINE_BYTES: Final = 4096
LINES_PER_SECOND: Final = 50.0
BURST_LINES: Final = 200.0


@final
class StderrLog:
    """The log of one target: its processes share the rate."""

    __slots__ = ("_at", "_dropped", "_name", "_tokens")

    def __init__(self, name: str) -> None:
        self._name = name
        self._tokens = BURST_LINES
        self._at = time.monotonic()
        self._dropped = 0

    def reader(self) -> LineReader:
        """For one process's pipe, which is always read: else a server that writes would stop."""
        return LineReader(LINE_BYTES, self._line, self._drop, self._end)

    def _line(self, line: bytes) -> None:
        now = time.monotonic()
        self._tokens = min(BURST_LINES, self._tokens + (now - self._at) * LINES_PER_SECOND)
        self._at = now
        if self._tokens < 1.0:
            self._drop()
            return
        self._tokens -= 1.0
        self._report()
        _log.info("%s: %s", self._name, line.rstrip().decode("utf-8", "replace"))

    def _drop(self) -> None:
        self._dropped += 1

    def _report(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            _log.warning("%s: %d lines were not logged: too many or too long", self._name, dropped)

    def _end(self) -> None:
        self._report()
