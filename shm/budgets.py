"""Budgets of all workers: reserve, then commit or refund, exact and surviving any of them.

Source: design section 5; spec llm section 4.5. The slots are laid out in `shm.budget_slots`.

    (nothing) → reserved    `reserve`: refused when the budget blocks and has not that much left
    reserved → committed    `commit`: what was held is given back, what was spent is charged
    reserved → refunded     `refund`: what was held is given back
    reserved → returned     the deadline passed, or the owner died: see B8
    returned → committed    `commit` of an owner that lived on: charges; nothing is held any more

All that one process reserves of one budget is one hold; a reservation is the caller's handle, and a
part of it (`shm.budget_holds`). A reservation of nothing has no part in any hold. A budget's slot
has room for the holds of four processes, so that a request changes one slot and pays for one
checksum at a time; a process that finds no room there has a slot of its own, an annex.

Invariants:
    B1  `reserved` of a budget is the sum of its holds, those in its slot and those in annexes. They
        lie in one stripe (the id of an annex begins like its budget's key), and change in one
        transaction (T2). After damage the sums are made anew, and annexes whose budget was lost are
        freed.
    B2  A handle is settled once: its first `commit` or `refund` counts, a later one does nothing.
        One that failed (ShmError) has changed nothing and may be tried again. Only the process that
        made it settles it.
    B3  Windows only move forward, see `spent_now`. Within a window `spent` only rises, except by
        `reset`. So of two states of a budget the later one has more resets, or else a later window,
        or else more spent: that is how `restore` chooses, in any order and any number of times.
    B4  A budget is evicted only when its window is over and nothing is reserved, or nothing was
        spent of it for an hour. An annex is evicted only when it is empty.
    B5  Each change of `spent` takes the stripe's next sequence number, which is stored with it.
    B6  Who locks several stripes does so by rising index.
    B7  A hold is the sum of the open reservations that were added to it as it is now: each making
        of it has an epoch, and a handle of another one gives nothing back. So what was returned
        once (death, deadline, damage) is never returned again.
    B8  A hold is emptied whole when its owner is dead, or the latest of its deadlines past; so only
        its owner adds to it, and another process takes its place only when it is empty. Of a hold
        that goes on, the owner gives back what is overdue before it reserves again.
    B9  A process has at most one hold in a slot, and adds to no annex while the slot has room. What
        it began in an annex ends there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple, Self, TypeVar, final

from shm.budget_changes import (
    Recount,
    changed,
    charge,
    ensure,
    give_back,
    hold,
    release,
    reset,
    restore,
)
from shm.budget_holds import Holder, Reservation, abandoned, capped
from shm.budget_seen import SeenBudget
from shm.budget_slots import (
    KIND,
    MAX_AMOUNT,
    MAX_SPENT,
    SLOT,
    Ask,
    BudgetLimit,
    BudgetRow,
    Standing,
    budget_in,
    is_budget,
    row_of,
    slots_for,
)
from shm.budget_sums import (
    Allowance,
    charged,
    held_more,
    is_expired,
    maker_in,
    refused,
    renewed,
    reserved_in,
    standing_of,
)
from shm.errors import ShmError, TableFullError
from shm.lock import trylock, unlock
from shm.seen import SeenSlots
from shm.segment import segment_name
from shm.stripe import Stripe
from shm.table import HashTable, KeptTable, locked

T = TypeVar("T")


class Refused(NamedTuple):
    """The budget that has not that much left."""

    number: int
    """Of its ask, from 0."""
    standing: Standing


@final
class BudgetTable(KeptTable):
    """The table, in the process that made it and, over fork, in its children.

    `wall_ns` is CLOCK_REALTIME. Every method may raise LockTimeoutError and LockBrokenError. In
    `stats` annexes count as slots in use.
    """

    __slots__ = ("_budgets", "_holder", "_stripe", "key")

    def __init__(self, table: HashTable) -> None:
        super().__init__(table)
        self._stripe = table.stripe
        self._budgets = SeenSlots(SeenBudget, table)
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
            HashTable.create(name, KIND, SLOT.size, slots_for(keys), is_expired, Recount(), secret)
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
        name = segment_name(instance, KIND.name, kept=True)
        known = (name, KIND, SLOT.size, slots_for(keys), is_expired, Recount(), secret)
        stranger = "is not the table of the journal"
        made = cls(HashTable.open(*known, stranger=stranger, from_living=from_living))
        # What was held there was held by the dead.
        made.table.former = [raw for raw in made.table.former if is_budget(raw)]
        made.table.move_in(lambda raw: made.restore([row_of(budget_in(raw))], 0))
        return made

    @classmethod
    def attach(cls, instance: str, *, kept: bool = False) -> Self:
        """A running instance's table. Raises: SegmentMissingError, SegmentRefusedError."""
        name = segment_name(instance, KIND.name, kept=kept)
        return cls(HashTable.attach(name, KIND, is_expired, Recount()))

    @property
    def secret(self) -> bytes:
        """What the keys are made with: rows can be restored only where it is the same."""
        return self.table.secret

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
            if not allowances and (free := self.without_hold(asks[0], wall_ns)) is not None:
                return [free]
            return self._reserve_one(
                asks[0], wall_ns, ttl_ns, allowances[0] if allowances else None
            )
        made: list[Reservation] = []
        try:
            with locked([self._stripe(ask.key) for ask in asks]):
                # Fast path: budgets of which this process holds, or has held.
                quickly = None if allowances else self._held_all(asks, wall_ns, ttl_ns)
                if quickly is not None:
                    return quickly
                for index, ask in enumerate(asks):
                    _, raw = self._stripe(ask.key).get(ask.key)
                    by = allowances[index] if allowances else None
                    standing = refused(raw, ask.limit, ask.amount, wall_ns, by)
                    if standing is not None:
                        return Refused(index, standing)
                for ask in asks:
                    # One by one: when one raises, those before it are given back.
                    made.append(self._hold(ask, wall_ns, ttl_ns))  # noqa: PERF401 - see above
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
        ask, part = reservation.ask, reservation.part
        # Fast path: it held nothing.
        if part is None and (standing := self._charged(ask.key, actual, wall_ns)) is not None:
            reservation.is_settled = True
            reservation.outcome = standing
            return standing
        key = ask.key
        with self._stripe(key) as stripe:
            at, raw = stripe.get(key)
            # Fast path: what it holds lies in the budget's slot.
            if raw and (part is None or part[0] == key):
                number = stripe.step_own_word()
                fields, outcome = charged(raw, actual, part, wall_ns, number)
                stripe.write(at, raw, fields)
            else:
                outcome = charge(stripe, ask, part, actual, wall_ns)
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

    def without_hold(self, ask: Ask, wall_ns: int) -> Reservation | None:
        """`reserve` of nothing where something is left for certain; None: reserve it."""
        if ask.amount > 0:
            return None
        budget = self._budgets[ask.key]
        # Fast path: nobody has charged it since, so there is nothing to lock (R5 in `shm.rates`).
        if not (
            budget.stripe.file[budget.where] == budget.raw and budget.has_some(ask.limit, wall_ns)
        ) and not self._has_some(budget, ask, wall_ns):
            return None
        return Reservation(ask, 0, None)

    def _has_some(self, budget: SeenBudget, ask: Ask, wall_ns: int) -> bool:
        stripe = budget.stripe
        code = trylock(stripe.mutex)
        if code:
            stripe.settle(code)
        try:
            has_some = (
                stripe.file[budget.where] == budget.raw or budget.look()
            ) and budget.has_some(ask.limit, wall_ns)
        except BaseException:
            stripe.leave()
            raise
        unlock(stripe.mutex)
        return has_some

    def _charged(self, key: bytes, actual: int, wall_ns: int) -> Standing | None:
        """Charge what was not held; None: the budget is not there."""
        budget = self._budgets[key]
        stripe = budget.stripe
        code = trylock(stripe.mutex)
        if code:
            budget.settle(code)
        try:
            standing = None
            if stripe.file[budget.where] == budget.raw or budget.look():
                standing = budget.charge(actual, wall_ns, stripe.step_own_word())
        except BaseException:
            stripe.leave()
            raise
        unlock(stripe.mutex)
        return standing

    def _reserve_one(
        self, ask: Ask, wall_ns: int, ttl_ns: int, allowance: Allowance | None
    ) -> list[Reservation] | Refused:
        """`reserve_all` of one budget."""
        key, _, limit, amount, _ = ask
        with self._stripe(key) as stripe:
            at, raw = stripe.get(key)
            # Fast path: a budget of which this process holds, or has held.
            if raw and allowance is None:
                holder, deadline_ns = self._holder, wall_ns + ttl_ns
                more = held_more(raw, limit, amount, holder.who, (wall_ns, deadline_ns))
                if more is not None:
                    fields, place = more
                    if not place:
                        return [Reservation(ask, 0, None)]
                    stripe.write(at, raw, fields)
                    part = key, place, maker_in(raw, place), amount
                    return [holder.made(ask, part, deadline_ns)]
            standing = refused(raw, limit, amount, wall_ns, allowance)
            if standing is not None:
                return Refused(0, standing)
            return [self._hold(ask, wall_ns, ttl_ns)]

    def _held_all(self, asks: Sequence[Ask], wall_ns: int, ttl_ns: int) -> list[Reservation] | None:
        """`reserve_all` with the stripes locked; None: nothing is done, look closer."""
        holder, deadline_ns = self._holder, wall_ns + ttl_ns
        changes: list[tuple[Stripe, int, bytes, bytes, int]] = []
        for ask in asks:
            stripe = self._stripe(ask.key)
            # What one that is read after others finds damaged is none: nothing read is old then.
            at, raw = stripe.get(ask.key)
            times = wall_ns, deadline_ns
            more = held_more(raw, ask.limit, ask.amount, holder.who, times) if raw else None
            if more is None:
                return None
            changes.append((stripe, at, raw, *more))
        made: list[Reservation] = []
        for ask, (stripe, at, raw, fields, place) in zip(asks, changes, strict=True):
            if not place:
                made.append(Reservation(ask, 0, None))
                continue
            stripe.write(at, raw, fields)
            part = ask.key, place, maker_in(raw, place), ask.amount
            made.append(holder.made(ask, part, deadline_ns))
        return made

    def _hold(self, ask: Ask, wall_ns: int, ttl_ns: int) -> Reservation:
        """Make the reservation, with the stripe locked. Raises: TableFullError."""
        stripe = self._stripe(ask.key)
        _, raw = ensure(stripe, ask, stripe.get(ask.key), wall_ns)
        amount = min(ask.amount, MAX_AMOUNT, MAX_SPENT - reserved_in(raw))
        if amount <= 0:
            return Reservation(ask, 0, None)
        holder, deadline_ns = self._holder, capped(wall_ns + ttl_ns)
        holder.sign()
        part = hold(stripe, ask, amount, holder, (wall_ns, deadline_ns))
        return holder.made(ask, part, deadline_ns)

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
        for slot_key, one, is_dead in abandoned(self.table.raws(), wall_ns):
            with self._stripe(slot_key) as stripe:
                count += release(stripe, slot_key, one, is_dead=is_dead, wall_ns=wall_ns)
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
        return changed(self.table.stripes, since)

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


__all__ = [
    "Ask",
    "BudgetLimit",
    "BudgetRow",
    "BudgetTable",
    "Refused",
    "Reservation",
    "Standing",
]
