"""What this process holds of budgets: its reservations, and the ids of the slots that sum them up.

Source: design section 5. Invariants B1 to B8 are those of `shm.budgets`.

A budget's hold is one slot for all reservations of one process, so that reserving and settling
change two slots in place. What tells them apart is known here alone: amounts and deadlines.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from typing import Final, final

from shm.budget_changes import Ask, Maker, Part
from shm.budget_slots import MAX_SPENT, Standing
from shm.segment import Identity

_IDS: Final = 8192
"""Ids that are remembered; another is made anew in 1 µs."""
_NEVER: Final = 2**64
_RETRY_NS: Final = 1_000_000_000
"""Until what could not be returned, since its stripe stayed locked, is tried again."""


@final
class Reservation:
    """A part of a hold on a budget, in the process that made it. Settle it once: B2."""

    __slots__ = ("amount", "ask", "deadline_ns", "is_settled", "outcome", "part")

    def __init__(self, ask: Ask, amount: int, part: Part | None, deadline_ns: int = 0) -> None:
        self.ask = ask
        self.amount = amount
        self.part = part
        """None: nothing is held, or not any more."""
        self.deadline_ns = deadline_ns
        self.is_settled = False
        self.outcome: Standing | None = None
        """What the first `commit` gave."""


@final
class Holder:
    """This process, as far as it holds. After a fork the child begins with nothing."""

    __slots__ = ("_epoch", "_ids", "_open", "_pid", "_ticks", "due_ns")

    def __init__(self) -> None:
        self._pid = 0
        self._ticks = 0
        self._epoch = 0
        self._ids: dict[bytes, bytes] = {}
        self._open: set[Reservation] = set()
        self.due_ns = _NEVER
        """Before it no deadline passes, ns since the epoch."""

    def hold_id(self, key: bytes) -> bytes:
        """Of this process's hold on the budget: it begins like the key, for the same stripe."""
        if os.getpid() != self._pid:
            self._begin()
        found = self._ids.get(key)
        if found is None:
            owner = b"%d %d" % (self._pid, self._ticks)
            found = key[:2] + blake2b(owner, key=key, digest_size=14).digest()
            if len(self._ids) >= _IDS:
                self._ids.clear()
            self._ids[key] = found
        return found

    def maker(self) -> Maker:
        """Of a slot that is made now; call `hold_id` first."""
        # Never twice the same: a part of a slot that was freed is none of the one in its place.
        self._epoch += 1
        return self._pid, self._ticks, self._epoch

    def made(self, ask: Ask, part: Part, deadline_ns: int) -> Reservation:
        """The handle of what was just added to a hold."""
        reservation = Reservation(ask, part[2], part, deadline_ns)
        self._open.add(reservation)
        if deadline_ns < self.due_ns:
            self.due_ns = deadline_ns
        return reservation

    def settled(self, reservation: Reservation) -> None:
        """It holds nothing any more."""
        reservation.part = None
        self._open.discard(reservation)

    def overdue(self, wall_ns: int) -> Iterator[tuple[Reservation, Part]]:
        """The reservations of this process that are past their deadline, each to be returned."""
        if os.getpid() != self._pid:
            self._begin()
        if wall_ns < self.due_ns:
            return
        for reservation in [one for one in self._open if one.deadline_ns <= wall_ns]:
            if reservation.part is not None:
                yield reservation, reservation.part
        due_ns = min((one.deadline_ns for one in self._open), default=_NEVER)
        self.due_ns = due_ns if due_ns > wall_ns else wall_ns + _RETRY_NS

    def _begin(self) -> None:
        # A child takes none of its parent's holds, and answers for its own only.
        self._pid, self._ticks = os.getpid(), Identity.of_self().start_ticks
        self._ids.clear()
        self._open.clear()
        self.due_ns = _NEVER


def capped(deadline_ns: int) -> int:
    """A deadline that a slot can hold."""
    return deadline_ns if deadline_ns < MAX_SPENT else MAX_SPENT
