"""Deletes what the request log has kept for long enough.

Source: `frontendPolicies.accessLog.database.retention`, a key of ours; agentgateway keeps all.
Runs in control; what waits for the disk does so in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final, final

from sidecar.state.request_log import RequestLogDatabase, RequestLogError
from sidecar.telemetry.request_log import time_text

_ROUND_SECONDS: Final = 60.0
_log = logging.getLogger("sidecar.state.retention")


@final
class RowKeeper:
    """One in a gateway."""

    def __init__(
        self,
        database: RequestLogDatabase,
        age_ns: Callable[[], int | None],
        wall_ns: Callable[[], int],
    ) -> None:
        """`age_ns`: that of the configuration in force; None keeps all."""
        self._database = database
        self._age_ns = age_ns
        self._wall_ns = wall_ns
        self._has_failed = False

    async def run(self) -> None:
        """Until cancelled: a row goes within a minute of its time."""
        while True:
            await asyncio.to_thread(self.purge)
            await asyncio.sleep(_ROUND_SECONDS)

    def purge(self) -> int:
        """Delete what is due; how many rows. Blocks. What fails is tried again the next time."""
        age_ns = self._age_ns()
        if age_ns is None:
            return 0
        try:
            count = self._database.purge(time_text(max(self._wall_ns() - age_ns, 0)))
        except RequestLogError as error:
            # Once: it would come each minute.
            if not self._has_failed:
                _log.error("request log: old rows stay: %s", error)
            self._has_failed = True
            return 0
        self._has_failed = False
        if count:
            _log.info("request log: deleted %d rows that were old enough", count)
        return count
