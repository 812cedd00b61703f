"""A budget as this process last saw it, for requests without an estimate.

It holds nothing: it asks that something is left, and is charged at its end.

Source: design section 5; spec llm section 4.5. Slots are laid out in `shm.budget_slots`, and
arithmetic on any of them is in `shm.budget_sums`; invariants are those of `shm.budgets`.
"""

from __future__ import annotations

from typing import Final, final

from shm.budget_slots import (
    AMOUNT_AND_WINDOW,
    HOLDS_AT,
    HOT,
    HOT_AT,
    LIMIT_AT,
    MAX_SPENT,
    SLOT,
    BudgetLimit,
    Standing,
)
from shm.budget_sums import IDLE_NS, window_now
from shm.seen import Seen

_AMOUNT_AT: Final = HOT_AT - AMOUNT_AND_WINDOW.size
_new: Final = tuple.__new__


@final
class SeenBudget(Seen):
    """Read and stored with its stripe locked."""

    __slots__ = (
        *("_head", "_holds", "_limit", "amount", "changed_ns", "reserved", "spent", "start_ns"),
        "window_ns",
    )

    # Set by `look`, before which nobody reads them.
    _head: bytes
    """What the slot has before the numbers that a request changes."""
    _holds: bytes
    """What it has behind them."""
    _limit: bytes
    amount: int
    window_ns: int
    start_ns: int
    changed_ns: int
    spent: int
    reserved: int

    def look(self) -> bool:
        """See what the slot says; whether there is one."""
        raw = self.find()
        if not raw:
            return False
        self._head, self._holds = raw[:HOT_AT], raw[HOLDS_AT : SLOT.size]
        self._limit = raw[LIMIT_AT:HOT_AT]
        self.amount, self.window_ns = AMOUNT_AND_WINDOW.unpack_from(
            raw, HOT_AT - AMOUNT_AND_WINDOW.size
        )
        self.start_ns, self.changed_ns, _, self.spent, self.reserved = HOT.unpack_from(raw, HOT_AT)
        self.raw = raw
        return True

    def has_some(self, limit: BudgetLimit, wall_ns: int) -> bool:
        """Whether something is left for certain; False: look closer.

        True is for the budget as it is mostly found: it goes by this limit, its window runs, and it
        is not idle. Nothing changes.
        """
        spent, window = self.spent, limit.window_ns
        return (
            self._limit == limit.encoded
            and not wall_ns - self.start_ns >= window > 0
            and (not limit.blocks or spent + self.reserved < limit.amount)
            and (spent > 0 or wall_ns - self.changed_ns < IDLE_NS)
        )

    def charge(self, actual: int, wall_ns: int, sequence: int) -> Standing:
        """`budget_sums.charged` of what held nothing, stored."""
        start, window, limit, spent = self.start_ns, self.window_ns, self.amount, self.spent
        # Fast path: the window that runs.
        if window and wall_ns - start >= window:
            spent, start = window_now(spent, start, window, window, wall_ns)
        if actual > 0:
            spent += actual
        if spent > MAX_SPENT:
            spent = MAX_SPENT
        reserved = self.reserved
        hot = HOT.pack(start, wall_ns, sequence, spent, reserved)
        fields = self._head + hot + self._holds
        self.raw = self.stripe.rewrite(self.where, self.offset, self.raw, fields)
        self.start_ns, self.changed_ns, self.spent = start, wall_ns, spent
        end = start + window if window else 0
        # What Standing(...) does, without its own function.
        return _new(Standing, (spent, reserved, limit, start, end, spent >= limit))
