"""A worker's McpWorker, made by the first configuration that has an `mcp` backend.

Until then nothing of MCP is imported (see gateway.parts).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, final

from sidecar.state.tables import Tables
from sidecar.telemetry.clock import Clock

if TYPE_CHECKING:
    from sidecar.gateway.mcp_worker import McpWorker


@final
class KeptMcp:
    """Outlives configurations; see McpWorker, whose methods these are."""

    def __init__(
        self, tables: Tables, worker: int, workers: int, directory: str, clock: Clock
    ) -> None:
        """See McpWorker."""
        self._given = (tables, worker, workers, directory, clock)
        self._made: McpWorker | None = None

    def begin_round(self) -> None:
        """A full compilation begins."""
        if self._made is not None:
            self._made.begin_round()

    def serving(self, config: Mapping[str, Any]) -> McpWorker:
        """Ready to be used, for there is an `mcp` backend."""
        if self._made is None:
            from sidecar.gateway.mcp_worker import McpWorker

            self._made = McpWorker(*self._given)
            self._made.begin_round()
        return self._made.serving(config)

    async def start(self) -> None:
        """Once there is an `mcp` backend. Raises: ConfigError, OSError."""
        made = self._made
        if made is not None:
            try:
                await made.start()
            except BaseException:
                self._made = None  # the next configuration may have no `mcp` backend
                await made.close()
                raise

    def retire(self, resources: Mapping[str, Mapping[str, Any]]) -> None:
        """A configuration is in force."""
        if self._made is not None:
            self._made.retire(resources)

    async def close(self) -> None:
        """The worker ends."""
        if self._made is not None:
            await self._made.close()
