"""Changes of budgets within one stripe, whose lock the caller holds.

Source: design section 5. Invariants B1 to B6 are those of `shm.budgets`.
"""

from __future__ import annotations

from typing import Final, NamedTuple, final

from shm.budget_slots import (
    MAX_SPENT,
    RESERVATION,
    SLOT,
    BudgetLimit,
    BudgetRow,
    Standing,
    amount_in,
    budget_in,
    charged,
    goes_by,
    hold_in,
    is_budget,
    is_stale,
    new_budget,
    renewed,
    reserved_in,
    row_of,
    slot_of,
    with_reserved,
)
from shm.errors import TableFullError
from shm.stripe import KEY_BYTES, Stripe

_NOWHERE: Final = -1


class Ask(NamedTuple):
    """What one request wants of one budget."""

    key: bytes
    label: bytes
    """What an operator sees of the budget, at most 105 bytes; kept from its first use on."""
    limit: BudgetLimit
    amount: int
    """Held until it is settled. 0: only asks that something is left."""
    name: bytes = b""
    """What the budget is called on every machine that shares it, 16 bytes; see `shm.leases`."""


class Owner(NamedTuple):
    """The process that holds. `ticks`: its start, since boot."""

    pid: int
    ticks: int


def find(stripe: Stripe, key: bytes) -> tuple[int, bytes]:
    """Where the slot is and what it holds; b"" when it is not there, or was damaged."""
    at = stripe.find(key)
    return at, stripe.read(at) if at >= 0 else b""


def ensure(stripe: Stripe, ask: Ask, found: tuple[int, bytes], wall_ns: int) -> tuple[int, bytes]:
    """The budget's slot, with the ask's limit and in a window that runs, so that it stays (B4).

    `found`: what `find` gave. Raises: TableFullError.
    """
    key, label, limit, _, _ = ask
    at, raw = found
    if not raw:
        at = _place(stripe, key, wall_ns)
        # Making room may have found the very budget behind a damaged tag.
        raw = stripe.read(at) if stripe.find(key) == at else b""
    if not raw:
        stripe.insert(at, SLOT.pack(*new_budget(key, label, limit, wall_ns)))
        return at, stripe.read(at)
    # Fast path: nothing to write.
    if goes_by(raw, limit) and not is_stale(raw, wall_ns):
        return at, raw
    slot = renewed(budget_in(raw), limit, wall_ns)._replace(sequence=_next_sequence(stripe))
    stripe.write(at, raw, SLOT.pack(*slot))
    return at, stripe.read(at)


def hold(
    stripe: Stripe, ask: Ask, amount: int, hold_id: bytes, owner: Owner, times: tuple[int, int]
) -> int:
    """Make a reservation; the budget is there (`ensure`). `times`: now, and the deadline.

    Gives where its slot is.

    Raises: TableFullError.
    """
    wall_ns, deadline_ns = times
    held_at = _place(stripe, hold_id, wall_ns)
    # Making room may have come upon damage, and what was lost is counted anew then (B1).
    at, raw = find(stripe, ask.key)
    if not raw:
        raise TableFullError("budgets: damaged while room was made")
    deadline_ns = min(deadline_ns, MAX_SPENT)
    held = (hold_id, amount, 0, deadline_ns, owner.ticks, owner.pid, 0, wall_ns, 0)
    fields = SLOT.pack(*held, RESERVATION, 0, 0, ask.key)
    budget = with_reserved(raw, reserved_in(raw) + amount)
    stripe.change([(at, budget), (held_at, fields)])
    return held_at


def charge(stripe: Stripe, ask: Ask, hold_id: bytes, actual: int, wall_ns: int) -> Standing:
    """Charge in the window of now, and give back what the reservation, if it is there, holds.

    Raises: TableFullError when the budget is gone and there is no room for it.
    """
    held_at, held = find(stripe, hold_id) if hold_id else (_NOWHERE, b"")
    at, raw = find(stripe, ask.key)
    if not raw:
        # Evicted or lost. What was reserved of a lost budget has been freed (B1).
        at, raw = ensure(stripe, ask, (at, raw), wall_ns)
        held = b""
    given_back = amount_in(held) if held else 0
    fields, standing = charged(raw, actual, given_back, wall_ns, _next_sequence(stripe))
    # Fast path: nothing was held, one slot changes.
    if held:
        stripe.change([(at, fields), (held_at, b"")])
    else:
        stripe.write(at, raw, fields)
    return standing


def give_back(stripe: Stripe, hold_id: bytes) -> bool:
    """Free a reservation and what it holds; False when it is not there any more."""
    _, raw = find(stripe, hold_id)
    if not raw:
        return False
    held = hold_in(raw)
    budget_at, budget = find(stripe, held.budget)
    at = stripe.find(hold_id)
    if at < 0:  # freed with its budget, which was found damaged just now
        return True
    changes = [(at, b"")]
    if budget:
        left = reserved_in(budget) - held.amount
        changes.append((budget_at, with_reserved(budget, left)))
    stripe.change(changes)
    return True


def reset(stripe: Stripe, key: bytes, wall_ns: int) -> bool:
    """Forget what was spent; False when nothing is known of the budget."""
    at, raw = find(stripe, key)
    if not raw:
        return False
    slot = budget_in(raw)
    row = row_of(slot)
    fresh = new_budget(key, slot.label, row.limit, wall_ns)._replace(
        reserved=slot.reserved, resets=slot.resets + 1, sequence=_next_sequence(stripe)
    )
    stripe.write(at, raw, SLOT.pack(*fresh))
    return True


def restore(stripe: Stripe, row: BudgetRow, wall_ns: int) -> bool:
    """Take a row over where it is later than what is here (B3). Raises: TableFullError."""
    # What is written from now on must be later than the row to who reads sequences.
    stripe.own_word = max(stripe.own_word, row.sequence)
    at, raw = find(stripe, row.key)
    if not raw:
        at = _place(stripe, row.key, wall_ns)
        stripe.insert(at, SLOT.pack(*slot_of(row, 0)))
        return True
    here = row_of(budget_in(raw))
    if _age(here) >= _age(row):
        return False
    stripe.write(at, raw, SLOT.pack(*slot_of(row, here.reserved)))
    return True


def _age(row: BudgetRow) -> tuple[int, int, int]:
    """Grows with every change of the spend (B3)."""
    return row.resets, row.window_start_ns, row.spent


def _place(stripe: Stripe, key: bytes, wall_ns: int) -> int:
    at = stripe.place(key, wall_ns)
    if at < 0:
        raise TableFullError("budgets: no room for another key")
    return at


def _next_sequence(stripe: Stripe) -> int:
    # Before the change: a number that a dead process took is only left out.
    stripe.own_word += 1
    return stripe.own_word


@final
class Recount:
    """Makes the sums of a stripe anew after slots were lost or rolled back: B1."""

    __slots__ = ("_is_busy",)

    def __init__(self) -> None:
        self._is_busy = False

    def __call__(self, stripe: Stripe) -> None:
        """Under the stripe's lock."""
        # Reading finds the rest of the damage, which calls this again: once is enough.
        if self._is_busy:
            return
        self._is_busy = True
        try:
            found = [(at, stripe.read(at)) for at in list(stripe.slots())]
        finally:
            self._is_busy = False
        budgets = [(at, raw) for at, raw in found if raw and is_budget(raw)]
        sums = {raw[:KEY_BYTES]: 0 for _, raw in budgets}
        for at, raw in found:
            if not raw or is_budget(raw):
                continue
            held = hold_in(raw)
            if held.budget in sums:
                sums[held.budget] += held.amount
            else:
                stripe.remove(at)
        for at, raw in budgets:
            reserved = sums[raw[:KEY_BYTES]]
            if reserved_in(raw) != reserved:
                stripe.write(at, raw, with_reserved(raw, reserved))
