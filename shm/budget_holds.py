"""What this process holds of budgets: its reservations, and how it signs the holds of their sums.

Source: design section 5. Invariants B1 to B8 are those of `shm.budgets`.

All that a process reserves of a budget is one hold, so that reserving and settling change one slot
in place. What tells reservations apart is known here alone: amounts and deadlines.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, final

from shm.budget_slots import HOLD, MAX_SPENT, OWNER, Ask, Hold, Standing, holds_in
from shm.budget_sums import Part
from shm.segment import Identity, start_ticks
from shm.stripe import KEY_BYTES

_IDS: Final = 8192
"""Ids of annexes that are remembered; another is made anew in 1 µs."""
_NEVER: Final = 2**64
_RETRY_NS: Final = 1_000_000_000
"""Until what could not be returned, since its stripe stayed locked, is tried again."""
_NOBODY: Final = b"\xff" * OWNER.size
"""Signs no hold: there is no such pid."""


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

    __slots__ = ("__weakref__", "_epoch", "_ids", "_open", "due_ns", "who")

    def __init__(self) -> None:
        self._epoch = 0
        self._ids: dict[bytes, bytes] = {}
        self._open: set[Reservation] = set()
        self.who = _NOBODY
        """What the holds of this process have at MAKER_AT; nobody's until it makes one."""
        self.due_ns = _NEVER
        """Before it no deadline passes, ns since the epoch."""
        _holders.add(self)

    def hold(self, amount: int, deadline_ns: int) -> bytes:
        """A hold to put into a slot."""
        # Never twice the same: a part of a hold that was freed is none of the one in its place.
        self._epoch = (self._epoch + 1) % 2**32
        return HOLD.pack(amount, deadline_ns, *OWNER.unpack(self.who), self._epoch)

    def annex_id(self, key: bytes) -> bytes:
        """Of this process's annex of the budget: it begins like the key, for the same stripe."""
        found = self._ids.get(key)
        if found is None:
            found = key[:2] + blake2b(self.who, key=key, digest_size=14).digest()
            if len(self._ids) >= _IDS:
                self._ids.clear()
            self._ids[key] = found
        return found

    def sign(self) -> None:
        """Know who this process is, before it makes a hold."""
        if self.who == _NOBODY:
            identity = Identity.of_self()
            self.who = OWNER.pack(identity.start_ticks, identity.pid)

    def made(self, ask: Ask, part: Part, deadline_ns: int) -> Reservation:
        """The handle of what was just added to a hold."""
        reservation = Reservation(ask, part[3], part, deadline_ns)
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
        if wall_ns < self.due_ns:
            return
        for reservation in [one for one in self._open if one.deadline_ns <= wall_ns]:
            if reservation.part is not None:
                yield reservation, reservation.part
        due_ns = min((one.deadline_ns for one in self._open), default=_NEVER)
        self.due_ns = due_ns if due_ns > wall_ns else wall_ns + _RETRY_NS

    def forget(self) -> None:
        """Be another process: it has none of its parent's holds, and answers for its own only."""
        self.who = _NOBODY
        self._ids.clear()
        self._open.clear()
        self.due_ns = _NEVER


def abandoned(raws: Iterable[bytes], wall_ns: int) -> list[tuple[bytes, Hold, bool]]:
    """The holds that control is to empty: the key of the slot, the hold, whether its owner is dead.

    Those of the dead, and those whose deadlines are past.
    """
    alive: dict[tuple[int, int], bool] = {}
    gone: list[tuple[bytes, Hold, bool]] = []
    for raw in raws:
        for hold in holds_in(raw):
            owner = hold.pid, hold.ticks
            if owner not in alive:
                alive[owner] = start_ticks(hold.pid) == hold.ticks
            if not alive[owner] or hold.deadline_ns <= wall_ns:
                gone.append((raw[:KEY_BYTES], hold, not alive[owner]))
    return gone


def capped(deadline_ns: int) -> int:
    """A deadline that a slot can hold."""
    return deadline_ns if deadline_ns < MAX_SPENT else MAX_SPENT


_holders: Final[weakref.WeakSet[Holder]] = weakref.WeakSet()


def _forked() -> None:
    for holder in list(_holders):
        holder.forget()


# Each request would ask for the pid otherwise, which is a system call.
os.register_at_fork(after_in_child=_forked)
