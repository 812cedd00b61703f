"""Changes of budgets within one stripe, whose lock the caller holds.

Source: design section 5. Invariants B1 to B6 are those of `shm.budgets`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from shm.budget_holds import Holder
from shm.budget_slots import (
    HOLD_BYTES,
    HOLDS_AT,
    MAKER_AT,
    SLOT,
    Ask,
    BudgetRow,
    Hold,
    Standing,
    annex,
    budget_in,
    budget_of,
    holds_in,
    is_budget,
    new_budget,
    row_of,
    slot_of,
)
from shm.budget_sums import (
    Part,
    charged,
    given_back,
    goes_by,
    held_in,
    is_stale,
    maker_in,
    place_in,
    renewed,
    reserved_in,
    with_held,
    with_hold,
    with_reserved,
)
from shm.errors import TableFullError
from shm.stripe import KEY_BYTES, Stripe


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


def hold(stripe: Stripe, ask: Ask, amount: int, holder: Holder, times: tuple[int, int]) -> Part:
    """Add to what a process holds of a budget that is there (`ensure`); what was added to.

    `times`: now, and the deadline. Raises: TableFullError.
    """
    at, raw = stripe.get(ask.key)
    place = place_in(raw, holder.who)
    if place < 0:
        return _hold_elsewhere(stripe, ask, amount, holder, times)
    if raw.startswith(holder.who, place + MAKER_AT):
        before, latest_ns = held_in(raw, place)
        deadline_ns = max(times[1], latest_ns) if before else times[1]
        fields = with_held(raw, place, before + amount, deadline_ns)
    else:
        fields = with_hold(raw, place, holder.hold(amount, times[1]))
    stripe.write(at, raw, with_reserved(fields, reserved_in(raw) + amount))
    return ask.key, place, maker_in(fields, place), amount


def _hold_elsewhere(
    stripe: Stripe, ask: Ask, amount: int, holder: Holder, times: tuple[int, int]
) -> Part:
    """`hold` in an annex. Raises: TableFullError."""
    wall_ns, deadline_ns = times
    annex_id = holder.annex_id(ask.key)
    annex_at, held = stripe.get(annex_id)
    if not held:
        annex_at = _place(stripe, annex_id, wall_ns)
        # Making room may have found the very annex behind a damaged tag.
        found_at, held = stripe.get(annex_id)
        annex_at = found_at if held else annex_at
    # After the annex: reading that may come upon damage, and then the sums are new (B1).
    at, raw = stripe.get(ask.key)
    if not raw:
        raise TableFullError("budgets: damaged while room was made")
    if held:
        before, latest_ns = held_in(held, HOLDS_AT)
        latest_ns = max(deadline_ns, latest_ns) if before else deadline_ns
        fields = with_held(held, HOLDS_AT, before + amount, latest_ns)
    else:
        fields = annex(annex_id, ask.key, holder.hold(amount, deadline_ns))
    stripe.change([(at, with_reserved(raw, reserved_in(raw) + amount)), (annex_at, fields)])
    return annex_id, HOLDS_AT, maker_in(fields, HOLDS_AT), amount


def charge(stripe: Stripe, ask: Ask, part: Part | None, actual: int, wall_ns: int) -> Standing:
    """Charge in the window of now, and give back the part of a hold, if it is still there.

    Raises: TableFullError when the budget is gone and there is no room for it.
    """
    if part is None or part[0] == ask.key:
        at, raw = stripe.get(ask.key)
        if not raw:
            # Evicted or lost. What was held in a slot that was lost is of no later one (B7).
            at, raw = ensure(stripe, ask, (at, raw), wall_ns)
        fields, standing = charged(raw, actual, part, wall_ns, stripe.step_own_word())
        stripe.write(at, raw, fields)
        return standing
    annex_at, held = stripe.get(part[0])
    back = given_back(held, part) if held else None
    at, raw = stripe.get(ask.key)
    if not raw:
        # What was reserved of a lost budget has been freed (B1).
        (at, raw), back = ensure(stripe, ask, (at, raw), wall_ns), None
    left = raw if back is None else with_reserved(raw, reserved_in(raw) - back[1])
    fields, standing = charged(left, actual, None, wall_ns, stripe.step_own_word())
    stripe.change([(at, fields)] if back is None else [(at, fields), (annex_at, back[0])])
    return standing


def give_back(stripe: Stripe, part: Part) -> bool:
    """Take a part out of a hold and of its budget's sum; False: it was returned before."""
    at, raw = stripe.get(part[0])
    back = given_back(raw, part) if raw else None
    if back is None:
        return False
    _take_out(stripe, (at, raw), *back)
    return True


def release(stripe: Stripe, slot_key: bytes, hold: Hold, *, is_dead: bool, wall_ns: int) -> bool:
    """Empty a hold whose owner is dead, or all of whose deadlines are past; whether it held any."""
    at, raw = stripe.get(slot_key)
    # Looked at again, now that it is locked: a living owner may have added to it.
    if not raw or not raw.startswith(hold.maker, hold.at + MAKER_AT):
        return False
    amount, deadline_ns = held_in(raw, hold.at)
    if not amount or not (is_dead or deadline_ns <= wall_ns):
        return False
    # An annex is freed with the only hold it has.
    fields = with_hold(raw, hold.at, bytes(HOLD_BYTES)) if is_budget(raw) else b""
    _take_out(stripe, (at, raw), fields, amount)
    return True


def _take_out(stripe: Stripe, found: tuple[int, bytes], fields: bytes, amount: int) -> None:
    """Store a slot's fields with so much less held, b"" frees it, and the budget's sum."""
    at, raw = found
    if is_budget(raw):
        stripe.write(at, raw, with_reserved(fields, reserved_in(raw) - amount))
        return
    budget_at, budget = stripe.get(budget_of(raw))
    if not budget:  # found damaged just now, and the annex was freed with it
        return
    left = with_reserved(budget, reserved_in(budget) - amount)
    stripe.change([(budget_at, left), (at, fields)])


def reset(stripe: Stripe, key: bytes, wall_ns: int) -> bool:
    """Forget what was spent; False when nothing is known of the budget."""
    at, raw = stripe.get(key)
    if not raw:
        return False
    slot = budget_in(raw)
    row = row_of(slot)
    fresh = new_budget(key, slot.label, row.limit, wall_ns)._replace(
        reserved=slot.reserved,
        holds=slot.holds,
        resets=slot.resets + 1,
        sequence=stripe.step_own_word(),
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
        stripe.insert(at, SLOT.pack(*slot_of(row)))
        return True
    here = budget_in(raw)
    if _age(row_of(here)) >= _age(row):
        return False
    stripe.write(at, raw, SLOT.pack(*slot_of(row, here.reserved, here.holds)))
    return True


def changed(stripes: Sequence[Stripe], since: Sequence[int]) -> tuple[list[BudgetRow], list[int]]:
    """See `BudgetTable.changed`. Takes the locks."""
    # Read before the slots: what changes in between is found again the next time.
    marks = [stripe.own_word for stripe in stripes]
    before = list(since) or [0] * len(marks)
    rows: list[BudgetRow] = []
    for stripe, mark, old in zip(stripes, marks, before, strict=True):
        if mark != old:
            slots = (budget_in(raw) for raw in stripe.raws() if is_budget(raw))
            rows += (row_of(slot) for slot in slots if slot.sequence > old)
    return rows, marks


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
        sums = {raw[:KEY_BYTES]: _held_by(raw) for _, raw in budgets}
        for at, raw in found:
            if not raw or is_budget(raw):
                continue
            if budget_of(raw) in sums:
                sums[budget_of(raw)] += _held_by(raw)
            else:
                stripe.remove(at)
        for at, raw in budgets:
            reserved = sums[raw[:KEY_BYTES]]
            if reserved_in(raw) != reserved:
                stripe.write(at, raw, with_reserved(raw, reserved))


def _held_by(raw: bytes) -> int:
    return sum(hold.amount for hold in holds_in(raw))
