"""Keeps the journal of budgets up to date, and the budgets free of what dead processes held.

Source: design section 5. Runs in control; what waits for a disk does so in a thread.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final, final

from shm.budgets import BudgetTable
from shm.errors import ShmError
from sidecar.state.journal import Journal, JournalError

_log = logging.getLogger("sidecar.state.keeper")
FLUSH_SECONDS: Final = 1.0
"""A power failure loses at most what was spent in this time, and in one write."""
_RELEASE_SECONDS: Final = 1.0


@final
class BudgetKeeper:
    """One in a gateway. `wrote(rows)` and `failed(1)` count for the metrics."""

    def __init__(
        self,
        table: BudgetTable,
        journal: Journal | None,
        wall_ns: Callable[[], int],
        *,
        wrote: Callable[[int], object],
        failed: Callable[[int], object],
    ) -> None:
        self._table = table
        self._journal = journal
        self._wall_ns = wall_ns
        self._wrote = wrote
        self._failed = failed
        self._marks: Sequence[int] = ()
        """As of the last commit; none: everything is to be written."""
        self._has_failed = False
        self._damaged = table.stats().damaged

    async def run(self) -> None:
        """Until cancelled. A change is in the journal a second later, if the disk takes it."""
        # Apart: a disk that hangs keeps nobody's reservation.
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._releasing())
            tasks.create_task(self._flushing())

    async def _releasing(self) -> None:
        while True:
            self.release()
            await asyncio.sleep(_RELEASE_SECONDS)

    async def _flushing(self) -> None:
        while self._journal is not None:
            await asyncio.to_thread(self.flush)
            await asyncio.sleep(FLUSH_SECONDS)

    def release(self) -> None:
        """Return what dead processes reserved, and what is past its deadline."""
        try:
            count = self._table.release_dead(self._wall_ns())
        except ShmError as error:
            _log.error("budgets: %s", error)
            return
        if count:
            _log.info("budgets: returned %d holds that nobody will settle", count)

    def flush(self) -> bool:
        """Write what changed since the last commit; whether the journal has it. Blocks."""
        journal = self._journal
        if journal is None:
            return True
        try:
            self._restore_lost(journal)
            since = () if journal.is_gone() else self._marks
            rows, marks = self._table.changed(since)
            if rows:
                journal.write(rows, self._wall_ns(), is_whole=not since)
                self._wrote(len(rows))
        except (JournalError, ShmError) as error:
            self._failed(1)
            # Once: it would come each second. The metric tells how often.
            if not self._has_failed:
                _log.error("budgets are not written, which is tried again: %s", error)
            self._has_failed = True
            return False
        self._marks = marks
        if self._has_failed:
            _log.warning("budgets are written again")
        self._has_failed = False
        return True

    def _restore_lost(self, journal: Journal) -> None:
        """Take what was written of budgets whose slots were found damaged, and so freed."""
        damaged = self._table.stats().damaged
        if damaged != self._damaged:
            count = self._table.restore(journal.rows(), self._wall_ns())
            _log.error("budgets: slots were damaged; restored %d from the journal", count)
            self._damaged = damaged

    def close(self) -> None:
        """Write the rest and let go of the file. Blocks."""
        self.flush()
        if self._journal is not None:
            try:
                self._journal.close()
            except JournalError as error:
                _log.error("budgets: %s", error)
