"""Budgets of all workers: reserve, then commit or refund, exact and surviving any of them.

Source: design section 5; spec llm section 4.5. The slots are laid out in `shm.budget_slots`.

    (nothing) → reserved    `reserve`: refused when the budget blocks and has not that much left
    reserved → committed    `commit`: what was held is given back, what was spent is charged
    reserved → refunded     `refund`: what was held is given back
    reserved → returned     the deadline passed, or the owner died: see B8
    returned → committed    `commit` of an owner that lived on: charges; nothing is held any more

All that one process reserves of one budget is one slot, a hold; a reservation is the caller's
handle, and a part of it (`shm.budget_holds`). A reservation of nothing has no part in any hold.

Invariants:
    B1  `reserved` of a budget is the sum of its holds. They lie in one stripe (an id begins like
        its budget's key), and change in one transaction (T2). After damage the sums are made anew,
        and holds whose budget was lost are freed.
    B2  A handle is settled once: its first `commit` or `refund` counts, a later one does nothing.
        One that failed (ShmError) has changed nothing and may be tried again. Only the process that
        made it settles it.
    B3  Windows only move forward, see `spent_now`. Within a window `spent` only rises, except by
        `reset`. So of two states of a budget the later one has more resets, or else a later window,
        or else more spent: that is how `restore` chooses, in any order and any number of times.
    B4  A budget is evicted only when its window is over and nothing is reserved, or nothing was
        spent of it for an hour. A hold is evicted only when it is empty.
    B5  Each change of `spent` takes the stripe's next sequence number, which is stored with it.
    B6  Who locks several stripes does so by rising index.
    B7  A hold is the sum of the open reservations that were added to the slot as it is now: each
        making of the slot has an epoch, and a handle of another one gives nothing back. So what was
        returned once (death, deadline, damage) is never returned again.
    B8  A hold is freed whole when its owner is dead, or the latest of its deadlines past; so only
        its owner adds to it. Of a hold that goes on, the owner gives back what is overdue before it
        reserves again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Final, NamedTuple, Self, TypeVar, final

from shm.budget_changes import (
    Ask,
    Recount,
    charge,
    ensure,
    give_back,
    hold,
    release,
    reset,
    restore,
)
from shm.budget_holds import Holder, Reservation, capped
from shm.budget_slots import (
    KIND,
    MAX_AMOUNT,
    MAX_SPENT,
    SLOT,
    Allowance,
    BudgetLimit,
    BudgetRow,
    Standing,
    budget_in,
    held_in,
    hold_in,
    is_budget,
    is_expired,
    refused,
    renewed,
    reservable,
    reserved_in,
    row_of,
    standing_of,
    with_held,
    with_reserved,
)
from shm.errors import SegmentRefusedError, ShmError, TableFullError
from shm.segment import segment_name, start_ticks
from shm.stripe import Stripe
from shm.table import HashTable, TableStats, locked

T = TypeVar("T")
_HOLDS: Final = 16_384
"""Room for so many holds at least, beside the budgets: one a process and budget that it reserves
of. One that is empty makes room."""


class Refused(NamedTuple):
    """The budget that has not that much left."""

    number: int
    """Of its ask, from 0."""
    standing: Standing


@final
class BudgetTable:
    """The table, in the process that made it and, over fork, in its children.

    `wall_ns` is CLOCK_REALTIME. Every method may raise LockTimeoutError and LockBrokenError.
    """

    __slots__ = ("_holder", "_stripe", "key", "table")

    def __init__(self, table: HashTable) -> None:
        self.table = table
        self._stripe = table.stripe
        self.key = table.key
        """The key of these parts, 16 bytes; the caller may keep it."""
        self._holder = Holder()

    @classmethod
    def create(cls, instance: str, keys: int, secret: bytes = b"") -> Self:
        """A new table with room for `keys` budgets.

        `secret`: of the table whose rows are to be restored. Raises: SegmentInUseError, ShmError.
        """
        name = segment_name(instance, KIND.name)
        return cls(
            HashTable.create(
                name, KIND, SLOT.size, keys + max(keys, _HOLDS), is_expired, Recount(), secret
            )
        )

    @classmethod
    def open(
        cls, instance: str, keys: int, secret: bytes = b"", *, from_living: bool = False
    ) -> Self:
        """The kept table of an earlier instance, or a new one that is kept.

        `secret`: the journal's, empty without one; a table of another secret is replaced, since
        the journal's rows could not be restored into it. `from_living`: also take it over from a
        predecessor that still runs. `table.refusal` says why a table was replaced.
        Raises: SegmentInUseError, ShmError.
        """
        name, why = segment_name(instance, KIND.name, kept=True), ""
        known = (name, KIND, SLOT.size, keys + max(keys, _HOLDS), is_expired, Recount())
        try:
            table = HashTable.inherit(*known, from_living=from_living)
        except SegmentRefusedError as problem:
            table, why = None, str(problem)
        if table is not None and secret and table.secret != secret:
            why = f"{name}: is not the table of the journal"
            table.segment.close()
            table = None
        if table is None:
            table = HashTable.create(*known, secret)
        table.refusal = why
        return cls(table)

    @classmethod
    def attach(cls, instance: str, *, kept: bool = False) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        name = segment_name(instance, KIND.name, kept=kept)
        return cls(HashTable.attach(name, KIND, is_expired, Recount()))

    @property
    def secret(self) -> bytes:
        """What the keys are made with: rows can be restored only where it is the same."""
        return self.table.secret

    def close(self) -> None:
        """Remove the table, if this process owns it."""
        self.table.segment.close()

    def leave(self) -> None:
        """Let go of a kept table; the next instance finds it."""
        self.table.segment.leave()

    def beat(self) -> None:
        """Renew the sign of life of a kept table; at least once an hour."""
        self.table.segment.beat()

    # --- a request ------------------------------------------------------------------------

    def reserve(
        self,
        key: bytes,
        label: bytes,
        limit: BudgetLimit,
        amount: int,
        wall_ns: int,
        ttl_ns: int,
    ) -> Reservation | None:
        """Hold `amount`; None: refused, the budget has not that much left.

        Raises: TableFullError.
        """
        made = self.reserve_all((Ask(key, label, limit, amount),), wall_ns, ttl_ns)
        return None if isinstance(made, Refused) else made[0]

    def reserve_all(
        self,
        asks: Sequence[Ask],
        wall_ns: int,
        ttl_ns: int,
        allowances: Sequence[Allowance | None] = (),
    ) -> list[Reservation] | Refused:
        """Hold all amounts, of different budgets, or none of them.

        `allowances`: one an ask, for what is shared with other machines (`shm.leases`); a budget
        with one goes by it instead of its limit.
        Raises: TableFullError, and then nothing is held.
        """
        if wall_ns >= self._holder.due_ns:
            self._return_overdue(wall_ns)
        # Fast path: most policies have one budget.
        if len(asks) == 1:
            ask = asks[0]
            with self._stripe(ask.key) as stripe:
                at, raw = stripe.get(ask.key)
                by = allowances[0] if allowances else None
                reserved = -1
                if raw and by is None:
                    reserved = reservable(raw, ask.limit, ask.amount, wall_ns)
                if reserved < 0:
                    standing = refused(raw, ask.limit, ask.amount, wall_ns, by)
                    if standing is not None:
                        return Refused(0, standing)
                    at, raw = ensure(stripe, ask, (at, raw), wall_ns)
                    reserved = reserved_in(raw)
                return [self._hold(stripe, ask, (at, raw, reserved), wall_ns, ttl_ns)]
        made: list[Reservation] = []
        try:
            with locked([self._stripe(ask.key) for ask in asks]):
                for index, ask in enumerate(asks):
                    _, raw = self._stripe(ask.key).get(ask.key)
                    by = allowances[index] if allowances else None
                    standing = refused(raw, ask.limit, ask.amount, wall_ns, by)
                    if standing is not None:
                        return Refused(index, standing)
                for ask in asks:
                    stripe = self._stripe(ask.key)
                    # Once more: what was done for those before it may have come upon damage.
                    at, raw = ensure(stripe, ask, stripe.get(ask.key), wall_ns)
                    found = at, raw, reserved_in(raw)
                    made.append(self._hold(stripe, ask, found, wall_ns, ttl_ns))
        except TableFullError:
            for reservation in made:
                self.refund(reservation)
            raise
        return made

    def commit(self, reservation: Reservation, actual: int, wall_ns: int) -> Standing:
        """Charge what was spent, in the window of now, and give the hold back (B2).

        Raises: TableFullError when the budget is gone and there is no room for it.
        """
        if reservation.is_settled:
            outcome = reservation.outcome or self.standing(reservation.ask.key, wall_ns)
            return outcome or Standing(0, 0, reservation.ask.limit.amount, 0, 0, exceeded=False)
        with self._stripe(reservation.ask.key) as stripe:
            part = reservation.part
            outcome = charge(stripe, reservation.ask, part, max(actual, 0), wall_ns)
        reservation.is_settled = True
        reservation.outcome = outcome
        if part is not None:
            self._holder.settled(reservation)
        return outcome

    def refund(self, reservation: Reservation) -> None:
        """Give the hold back; nothing was spent (B2)."""
        if reservation.is_settled:
            return
        if reservation.part is not None:
            with self._stripe(reservation.ask.key) as stripe:
                give_back(stripe, reservation.part)
            self._holder.settled(reservation)
        reservation.is_settled = True

    def _hold(
        self, stripe: Stripe, ask: Ask, found: tuple[int, bytes, int], wall_ns: int, ttl_ns: int
    ) -> Reservation:
        """Make the reservation. `found`: where the budget is, its slot, and what is reserved."""
        at, raw, reserved = found
        amount = ask.amount
        if amount > MAX_AMOUNT or reserved > MAX_SPENT - amount:
            amount = min(amount, MAX_AMOUNT, MAX_SPENT - reserved)
        # Fast path: nothing to hold.
        if amount <= 0:
            return Reservation(ask, 0, None)
        holder, deadline_ns = self._holder, capped(wall_ns + ttl_ns)
        hold_id = holder.hold_id(ask.key)
        held_at, held = stripe.get(hold_id)
        # Fast path: two slots in place.
        if held:
            before, epoch, latest_ns = held_in(held)
            latest_ns = deadline_ns if deadline_ns > latest_ns or not before else latest_ns
            fields = with_held(held, before + amount, epoch, latest_ns)
            budget = with_reserved(raw, reserved + amount)
            stripe.write_two(at, raw, budget, held_at, held, fields)
        else:
            epoch = hold(stripe, ask, amount, hold_id, holder.maker(), (wall_ns, deadline_ns))
        return holder.made(ask, (hold_id, epoch, amount), deadline_ns)

    def _return_overdue(self, wall_ns: int) -> int:
        """Give back what this process holds past its deadline (B8); how many reservations."""
        count = 0
        for reservation, part in self._holder.overdue(wall_ns):
            try:
                with self._stripe(part[0]) as stripe:
                    count += give_back(stripe, part)
            except ShmError:  # of another stripe than the caller's, perhaps: tried again later
                continue
            self._holder.settled(reservation)
        return count

    # --- control and operators --------------------------------------------------------------

    def release_dead(self, wall_ns: int) -> int:
        """Return what dead processes hold, and what is past its deadline; how many.

        Of another process's hold as a whole, of this one's a reservation at a time (B8).
        """
        count = self._return_overdue(wall_ns)
        alive: dict[tuple[int, int], bool] = {}
        gone: list[tuple[bytes, bool]] = []
        for raw in self.table.raws():
            if is_budget(raw):
                continue
            held = hold_in(raw)
            owner = (held.pid, held.ticks)
            if owner not in alive:
                alive[owner] = start_ticks(held.pid) == held.ticks
            if not alive[owner] or held.deadline_ns <= wall_ns:
                gone.append((held.key, not alive[owner]))
        for hold_id, is_dead in gone:
            with self._stripe(hold_id) as stripe:
                count += release(stripe, hold_id, is_dead=is_dead, wall_ns=wall_ns)
        return count

    def standing(self, key: bytes, wall_ns: int) -> Standing | None:
        """Where the budget stands, by its own limit; None: nothing is known of it."""
        with self._stripe(key) as stripe:
            _, raw = stripe.get(key)
        if not raw:
            return None
        slot = budget_in(raw)
        return standing_of(renewed(slot, row_of(slot).limit, wall_ns))

    def inspect(self, key: bytes, wall_ns: int, seen: Callable[[BudgetRow | None], T]) -> T:
        """What `seen` gives for the budget in the window of now, under the lock of its stripe.

        None: nothing is known of it. `seen` may lock a stripe of `shm.leases`, and nothing else.
        """
        with self._stripe(key) as stripe:
            _, raw = stripe.get(key)
            if not raw:
                return seen(None)
            slot = budget_in(raw)
            return seen(row_of(renewed(slot, row_of(slot).limit, wall_ns)))

    def rows(self) -> Iterator[BudgetRow]:
        """Every budget, as its slot has it: of one whose window is over the spend of then."""
        return (row_of(budget_in(raw)) for raw in self.table.raws() if is_budget(raw))

    def changed(self, since: Sequence[int] = ()) -> tuple[list[BudgetRow], list[int]]:
        """The budgets whose spend changed after the marks `since`, and the marks of now.

        Marks are sequence numbers, one a stripe; none: everything.
        """
        # Read before the slots: what changes in between is found again the next time.
        marks = [stripe.own_word for stripe in self.table.stripes]
        before = list(since) or [0] * len(marks)
        rows: list[BudgetRow] = []
        for stripe, mark, old in zip(self.table.stripes, marks, before, strict=True):
            if mark != old:
                slots = (budget_in(raw) for raw in stripe.raws() if is_budget(raw))
                rows += (row_of(slot) for slot in slots if slot.sequence > old)
        return rows, marks

    def restore(self, rows: Iterable[BudgetRow], wall_ns: int) -> int:
        """Take over what a journal knows, where it is later than what is here (B3); how many.

        Rows whose window is over are passed by. Raises: TableFullError.
        """
        count = 0
        for row in rows:
            if row.is_over(wall_ns):
                continue
            with self._stripe(row.key) as stripe:
                count += restore(stripe, row, wall_ns)
        return count

    def reset(self, key: bytes, wall_ns: int) -> bool:
        """Forget what was spent; what is reserved stays. False: nothing is known of the budget."""
        with self._stripe(key) as stripe:
            return reset(stripe, key, wall_ns)

    def stats(self) -> TableStats:
        """Takes no lock. Holds count as slots in use."""
        return self.table.stats()


__all__ = [
    "Ask",
    "BudgetLimit",
    "BudgetRow",
    "BudgetTable",
    "Refused",
    "Reservation",
    "Standing",
]
