"""Changes of budgets within one stripe, whose lock the caller holds.

Source: design section 5. Invariants B1 to B6 are those of `shm.budgets`.
"""

from __future__ import annotations

from typing import Final, NamedTuple, final

from shm.budget_slots import (
    HOLD,
    SLOT,
    BudgetLimit,
    BudgetRow,
    Standing,
    amount_in,
    budget_in,
    charged,
    goes_by,
    held_in,
    hold_in,
    is_budget,
    is_stale,
    new_budget,
    renewed,
    reserved_in,
    row_of,
    slot_of,
    with_held,
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


Part = tuple[bytes, int, int]
"""What a reservation is of a hold: the hold's id, the epoch of its slot, and the amount."""
Maker = tuple[int, int, int]
"""Who makes a hold's slot: pid, start in ticks since boot, and the slot's epoch."""


def ensure(stripe: Stripe, ask: Ask, found: tuple[int, bytes], wall_ns: int) -> tuple[int, bytes]:
    """The budget's slot, with the ask's limit and in a window that runs, so that it stays (B4).

    `found`: what `Stripe.get` gave. Raises: TableFullError.
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
    slot = renewed(budget_in(raw), limit, wall_ns)._replace(sequence=stripe.step_own_word())
    stripe.write(at, raw, SLOT.pack(*slot))
    return at, stripe.read(at)


def hold(
    stripe: Stripe,
    ask: Ask,
    amount: int,
    hold_id: bytes,
    maker: Maker,
    times: tuple[int, int],
) -> int:
    """Add to what the process of `maker` holds; gives the epoch of the slot that it was added to.

    The budget is there (`ensure`). `times`: now, and the deadline. Raises: TableFullError.
    """
    wall_ns, deadline_ns = times
    held_at, held = stripe.get(hold_id)
    if not held:
        held_at = _place(stripe, hold_id, wall_ns)
        # Making room may have found the very hold behind a damaged tag.
        found_at, held = stripe.get(hold_id)
        held_at = found_at if held else held_at
    # After the hold: reading that may come upon damage, and then the sums are new (B1).
    at, raw = stripe.get(ask.key)
    if not raw:
        raise TableFullError("budgets: damaged while room was made")
    budget = with_reserved(raw, reserved_in(raw) + amount)
    if held:
        before, epoch, latest_ns = held_in(held)
        latest_ns = deadline_ns if deadline_ns > latest_ns or not before else latest_ns
        fields = with_held(held, before + amount, epoch, latest_ns)
        stripe.write_two(at, raw, budget, held_at, held, fields)
        return epoch
    pid, ticks, epoch = maker
    fields = SLOT.pack(
        hold_id, amount, epoch, deadline_ns, ticks, pid, 0, wall_ns, 0, HOLD, 0, 0, ask.key
    )
    stripe.change([(at, budget), (held_at, fields)])
    return epoch


def charge(stripe: Stripe, ask: Ask, part: Part | None, actual: int, wall_ns: int) -> Standing:
    """Charge in the window of now, and give back the part of a hold, if it is still there.

    Raises: TableFullError when the budget is gone and there is no room for it.
    """
    held_at, held, given_back, epoch, deadline_ns, before = _NOWHERE, b"", 0, 0, 0, 0
    if part is not None:
        held_at, held = stripe.get(part[0])
        if held:
            before, epoch, deadline_ns = held_in(held)
            given_back = min(part[2], before) if epoch == part[1] else 0
    at, raw = stripe.get(ask.key)
    if not raw:
        # Evicted or lost. What was reserved of a lost budget has been freed (B1).
        at, raw = ensure(stripe, ask, (at, raw), wall_ns)
        given_back = 0
    fields, standing = charged(raw, actual, given_back, wall_ns, stripe.step_own_word())
    # Fast path: nothing was held, one slot changes.
    if not given_back:
        stripe.write(at, raw, fields)
    else:
        left = with_held(held, before - given_back, epoch, deadline_ns)
        stripe.write_two(at, raw, fields, held_at, held, left)
    return standing


def give_back(stripe: Stripe, part: Part) -> bool:
    """Take a part out of a hold and of its budget's sum; False: it was returned before."""
    hold_id, epoch, amount = part
    at, held = stripe.get(hold_id)
    if not held or held_in(held)[1] != epoch:
        return False
    budget_at, budget = stripe.get(hold_in(held).budget)
    if not budget:  # found damaged just now, and the hold was freed with it
        return True
    before, _, deadline_ns = held_in(held)
    amount = min(amount, before)
    left = with_reserved(budget, reserved_in(budget) - amount)
    kept = with_held(held, before - amount, epoch, deadline_ns)
    stripe.write_two(budget_at, budget, left, at, held, kept)
    return True


def release(stripe: Stripe, hold_id: bytes, *, is_dead: bool, wall_ns: int) -> bool:
    """Free a hold whose owner is dead, or all of whose deadlines are past; whether it held any."""
    at, held = stripe.get(hold_id)
    # Looked at again, now that it is locked: a living owner may have added to it.
    if not held or not (is_dead or held_in(held)[2] <= wall_ns):
        return False
    budget_at, budget = stripe.get(hold_in(held).budget)
    amount = amount_in(held)
    if not budget:  # found damaged just now, and the hold was freed with it; or evicted
        if stripe.get(hold_id)[1]:
            stripe.remove(at)
        return amount > 0
    left = reserved_in(budget) - amount
    stripe.change([(at, b""), (budget_at, with_reserved(budget, left))])
    return amount > 0


def reset(stripe: Stripe, key: bytes, wall_ns: int) -> bool:
    """Forget what was spent; False when nothing is known of the budget."""
    at, raw = stripe.get(key)
    if not raw:
        return False
    slot = budget_in(raw)
    row = row_of(slot)
    fresh = new_budget(key, slot.label, row.limit, wall_ns)._replace(
        reserved=slot.reserved, resets=slot.resets + 1, sequence=stripe.step_own_word()
    )
    stripe.write(at, raw, SLOT.pack(*fresh))
    return True


def restore(stripe: Stripe, row: BudgetRow, wall_ns: int) -> bool:
    """Take a row over where it is later than what is here (B3). Raises: TableFullError."""
    # What is written from now on must be later than the row to who reads sequences.
    stripe.own_word = max(stripe.own_word, row.sequence)
    at, raw = stripe.get(row.key)
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
