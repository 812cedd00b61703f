"""Opens the table of budgets with what is known of it: a table that was left, and the journal.

Source: design section 5. Both may know of the same budget; the later state counts (`restore`).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

from shm.budgets import BudgetTable
from shm.errors import ShmError
from sidecar.state import journal
from sidecar.state.journal import Journal, JournalError
from sidecar.state.journal_lock import claim

_log = logging.getLogger("sidecar.state.budgets")
BUDGET_KEYS: Final = 10_000


@final
@dataclass(frozen=True, slots=True)
class Budgets:
    """The table and where it is written, in the process that opened it and in its children."""

    table: BudgetTable
    journal: Path | None
    is_left: bool
    """Whether the table stays when this process ends."""
    lock: int | None = None
    """The descriptor that keeps the journal from other gateways."""

    def beat(self) -> None:
        """Renew the sign of life of a table that a crash would leave."""
        if self.is_left or self.journal is not None:
            self.table.beat()

    def writer(self) -> Journal | None:
        """Writes the journal, if there is one."""
        return None if self.journal is None else Journal(self.journal, self.table.secret)

    def close(self) -> None:
        """Remove the table, or leave it to the next start: also when the journal lacks some of it.

        By the process that opened it, when no other uses it any more.
        """
        if not self._is_written() or self.is_left:
            self.table.leave()
        else:
            self.table.close()
        if self.lock is not None:
            os.close(self.lock)

    def _is_written(self) -> bool:
        writer = self.writer()
        if writer is None:
            return True
        try:
            with writer:
                rows, _ = self.table.changed()
                writer.write(rows, time.time_ns(), is_whole=True)
        except (JournalError, ShmError) as error:
            _log.error("budgets stay in shared memory, the journal lacks some: %s", error)
            return False
        return True


def open_budgets(
    config: Mapping[str, Any], instance: str, kept: str, *, from_living: bool = False
) -> Budgets:
    """As `config.state` says. `instance`: of a table that ends with it; `kept`: of one that stays.

    With a journal the table is one that a crash leaves, since it is ahead of what was written.
    Raises: ConfigError for a journal that cannot be used; SegmentInUseError; ShmError.
    """
    keys = int(config.get("budgetKeys") or BUDGET_KEYS)
    is_kept = bool(config.get("keep"))
    path = config.get("journal")
    if path is None:
        if not is_kept:
            return Budgets(BudgetTable.create(instance, keys), None, is_left=False)
        table = BudgetTable.open(kept, keys, from_living=from_living)
        return Budgets(table, None, is_left=True)
    place = Path(path).absolute()
    lock = claim(place, journal.PLACE, from_living=from_living)
    try:
        table = _journalled(place, kept, keys, from_living=from_living)
    except BaseException:
        if lock is not None:
            os.close(lock)
        raise
    # A predecessor that was to be taken over may live on, if this start fails.
    return Budgets(table, place, is_left=is_kept or from_living, lock=lock)


def _journalled(place: Path, kept: str, keys: int, *, from_living: bool) -> BudgetTable:
    """The table of what a crash left and what was written."""
    contents = journal.read(place)
    secret = contents.secret if contents is not None else b""
    table = BudgetTable.open(kept, keys, secret, from_living=from_living)
    try:
        if contents is None:
            journal.create(place, table.secret)
        else:
            table.restore(contents.rows, time.time_ns())
    except BaseException:
        # It was not ours to lose: what a crash left is still there for the next try.
        table.leave()
        raise
    return table
