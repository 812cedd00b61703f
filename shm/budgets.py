"""Budgets of all workers: reserve, then commit or refund, exact and surviving any of them.

Source: design section 5; spec llm section 4.5. The slots are laid out in `shm.budget_slots`.

    (nothing) → reserved    `reserve`: refused when the budget blocks and has not that much left
    reserved → committed    `commit`: the hold is given back and what was really spent is charged
    reserved → refunded     `refund`: the hold is given back
    reserved → returned     `release_dead`: the owner died, or the deadline passed
    returned → committed    `commit` of an owner that lived on: charges; there is no hold any more

A reservation of nothing has no slot: it is the caller's handle alone, and `commit` charges.

Invariants:
    B1  `reserved` of a budget is the sum of the amounts of its reservations. Both lie in one stripe
        (an id begins like its budget's key) and change in one transaction (T2). After damage the
        sums are made anew, and reservations whose budget was lost are freed.
    B2  A handle is settled once: its first `commit` or `refund` counts, a later one does nothing.
        One that failed (ShmError) has changed nothing and may be tried again.
    B3  Windows only move forward, see `spent_now`. Within a window `spent` only rises, except by
        `reset`. So of two states of a budget the later one has more resets, or else a later window,
        or else more spent: that is how `restore` chooses, in any order and any number of times.
    B4  A budget is evicted only when its window is over and nothing is reserved, or nothing was
        spent of it for an hour. A reservation is never evicted.
    B5  Each change of `spent` takes the stripe's next sequence number, which is stored with it.
    B6  Who locks several stripes does so by rising index.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple, Self, TypeVar, final

from shm.budget_changes import (
    Ask,
    Owner,
    Recount,
    charge,
    ensure,
    find,
    give_back,
    hold,
    reset,
    restore,
)
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
    hold_in,
    is_budget,
    is_expired,
    refused,
    renewed,
    reserved_in,
    row_of,
    standing_of,
)
from shm.errors import SegmentRefusedError, TableFullError
from shm.segment import Identity, segment_name, start_ticks
from shm.stripe import Stripe
from shm.table import HashTable, TableStats

T = TypeVar("T")
_ID_MASK: Final = 2**112 - 1
_STEP: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835 & _ID_MASK | 1
"""Odd, so that a process comes to an id again only after 2**112; near the golden ratio, so that
the ids of one process spread over the groups of a stripe."""
_RESERVATIONS: Final = 16_384
"""Room for so many reservations at least, beside the budgets; all of one budget share a stripe,
one of eight or more."""


class Refused(NamedTuple):
    """The budget that has not that much left."""

    number: int
    """Of its ask, from 0."""
    standing: Standing


@final
class Reservation:
    """A hold on a budget, in the process that made it. Settle it once: B2."""

    __slots__ = ("amount", "ask", "id", "is_settled", "outcome")

    def __init__(self, ask: Ask, amount: int, reservation_id: bytes) -> None:
        self.ask = ask
        self.amount = amount
        self.id = reservation_id
        """Empty: nothing is held, there is no slot."""
        self.is_settled = False
        self.outcome: Standing | None = None
        """What the first `commit` gave."""


@final
class BudgetTable:
    """The table, in the process that made it and, over fork, in its children.

    `wall_ns` is CLOCK_REALTIME. Every method may raise LockTimeoutError and LockBrokenError.
    """

    __slots__ = ("_base", "_counter", "_owner", "_stripe", "key", "table")

    def __init__(self, table: HashTable) -> None:
        self.table = table
        self._stripe = table.stripe
        self.key = table.key
        """The key of these parts, 16 bytes; the caller may keep it."""
        self._owner = Owner(0, 0)
        self._base = 0
        self._counter = 0

    @classmethod
    def create(cls, instance: str, keys: int, secret: bytes = b"") -> Self:
        """A new table with room for `keys` budgets.

        `secret`: of the table whose rows are to be restored. Raises: SegmentInUseError, ShmError.
        """
        name = segment_name(instance, KIND.name)
        return cls(
            HashTable.create(name, KIND, SLOT.size, _room(keys), is_expired, Recount(), secret)
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
        known = (name, KIND, SLOT.size, _room(keys), is_expired, Recount())
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
        # Fast path: most policies have one budget.
        if len(asks) == 1:
            (ask,) = asks
            with self._stripe(ask.key) as stripe:
                found = find(stripe, ask.key)
                by = allowances[0] if allowances else None
                standing = refused(found[1], ask.limit, ask.amount, wall_ns, by)
                if standing is not None:
                    return Refused(0, standing)
                return [self._hold(stripe, ask, found, wall_ns, ttl_ns)]
        made: list[Reservation] = []
        try:
            with ExitStack() as locks:
                stripes = {id(one): one for one in (self._stripe(ask.key) for ask in asks)}
                for stripe in sorted(stripes.values(), key=_number):
                    locks.enter_context(stripe)  # B6
                for index, ask in enumerate(asks):
                    _, raw = find(self._stripe(ask.key), ask.key)
                    by = allowances[index] if allowances else None
                    standing = refused(raw, ask.limit, ask.amount, wall_ns, by)
                    if standing is not None:
                        return Refused(index, standing)
                for ask in asks:
                    stripe = self._stripe(ask.key)
                    found = find(stripe, ask.key)
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
            outcome = charge(stripe, reservation.ask, reservation.id, max(actual, 0), wall_ns)
        self._settled(reservation)
        reservation.outcome = outcome
        return outcome

    def refund(self, reservation: Reservation) -> None:
        """Give the hold back; nothing was spent (B2)."""
        if reservation.is_settled:
            return
        if reservation.id:
            with self._stripe(reservation.ask.key) as stripe:
                give_back(stripe, reservation.id)
        self._settled(reservation)

    def _settled(self, reservation: Reservation) -> None:
        reservation.is_settled = True
        self.table.hints.pop(reservation.id, None)

    def _hold(
        self, stripe: Stripe, ask: Ask, found: tuple[int, bytes], wall_ns: int, ttl_ns: int
    ) -> Reservation:
        """Make the reservation. The budget is there afterwards, with the ask's limit."""
        _, raw = ensure(stripe, ask, found, wall_ns)
        # Fast path: nothing to hold.
        if ask.amount <= 0:
            return Reservation(ask, 0, b"")
        amount = min(ask.amount, MAX_AMOUNT, MAX_SPENT - reserved_in(raw))
        if amount <= 0:
            return Reservation(ask, 0, b"")
        hold_id = self._new_id(ask.key)
        at = hold(stripe, ask, amount, hold_id, self._owner, (wall_ns, wall_ns + ttl_ns))
        # So that it need not be looked for when it is settled.
        self.table.hints[hold_id] = at
        return Reservation(ask, amount, hold_id)

    def _new_id(self, key: bytes) -> bytes:
        """Beginning like the key, so that it lies in the same stripe; the rest is used once."""
        pid = os.getpid()
        if pid != self._owner.pid:
            # A child takes none of its parent's ids, and answers for its own holds only.
            self._owner = Owner(pid, Identity.of_self().start_ticks)
            self._base = int.from_bytes(os.urandom(14), "little")
            self._counter = 0
        self._counter += 1
        number = self._base + self._counter * _STEP & _ID_MASK
        return key[:2] + number.to_bytes(14, "little")

    # --- control and operators --------------------------------------------------------------

    def release_dead(self, wall_ns: int) -> int:
        """Return what dead processes hold, and what is past its deadline; how many."""
        alive: dict[tuple[int, int], bool] = {}
        gone: list[bytes] = []
        for raw in self.table.raws():
            if is_budget(raw):
                continue
            held = hold_in(raw)
            owner = (held.pid, held.ticks)
            if owner not in alive:
                alive[owner] = start_ticks(held.pid) == held.ticks
            if not alive[owner] or held.deadline_ns <= wall_ns:
                gone.append(held.key)
        count = 0
        for reservation_id in gone:
            with self._stripe(reservation_id) as stripe:
                count += give_back(stripe, reservation_id)
        return count

    def standing(self, key: bytes, wall_ns: int) -> Standing | None:
        """Where the budget stands, by its own limit; None: nothing is known of it."""
        with self._stripe(key) as stripe:
            _, raw = find(stripe, key)
        if not raw:
            return None
        slot = budget_in(raw)
        return standing_of(renewed(slot, row_of(slot).limit, wall_ns))

    def inspect(self, key: bytes, wall_ns: int, seen: Callable[[BudgetRow | None], T]) -> T:
        """What `seen` gives for the budget in the window of now, under the lock of its stripe.

        None: nothing is known of it. `seen` may lock a stripe of `shm.leases`, and nothing else.
        """
        with self._stripe(key) as stripe:
            _, raw = find(stripe, key)
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
        """Takes no lock. Reservations count as slots in use."""
        return self.table.stats()


def _room(keys: int) -> int:
    return keys + max(keys, _RESERVATIONS)


def _number(stripe: Stripe) -> int:
    return stripe.lock.address  # rising with the index, in every process alike


__all__ = [
    "Ask",
    "BudgetLimit",
    "BudgetRow",
    "BudgetTable",
    "Refused",
    "Reservation",
    "Standing",
]
