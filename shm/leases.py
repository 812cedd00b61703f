"""What this machine may use of buckets and budgets that a store holds for several machines.

Source: design section 5; Gray and Cheriton, "Leases", 1989. Slots are laid out in
`shm.lease_slots`; what the store does is the caller's affair.

A lease is a share of a bucket or a budget that the store has handed out: from then on it is taken
from here, without asking. Numbers that go to the store are whole states, never changes: "of this
bucket I was granted so much, and have taken so much of it". So a message that is lost, or whose
answer is lost, is mended by the next one, and one that comes twice changes nothing.

    (nothing) → asked     `begin`: a process claims the lease and sends its state
    asked → leased        `finish`: what the answer grants is added
    asked → (as before)   the claim runs out; the next message says that nothing was granted
    leased → returned     `begin` with `returns`: what is not used is given up before it is sent
    leased → ended        its time is over: nothing more may be taken of it

Invariants:
    L1  What is taken of a bucket never exceeds its allowance, but by `settle` (a cost that was
        known too late) and by `alone` (no store, and the operator wants to go on). What may be
        spent of a budget is its allowance; how much is spent and reserved, `shm.budgets` knows, and
        its stripe's lock is held while the two are compared or the allowance is lowered.
    L2  The allowance is raised by the answer to the last message only, to what that answer says;
        it is lowered only before a message that says so. So the store never thinks less of it than
        may be used here. What was taken `alone` while the message was under way is paid of what the
        answer grants; if that is less, nothing is granted, and the next message says so (`OWES`).
    L3  A lease ends here before it ends in the store, since its time is counted from before the
        message was sent. What was left of it then belongs to the store.
    L4  Messages of one key are numbered upwards, also over restarts, as long as the clock is not
        set back: a store that has seen a number ignores older ones, which come late.
    L5  One process at a time asks for a key, until its claim runs out.
    L6  Locks: a budget's stripe first, then one of this table. Several stripes by rising index.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Final, Self, final

from shm.bucket import MAX_TOKENS, UNKNOWN, Ask, refilled
from shm.budget_slots import Ask as BudgetAsk
from shm.errors import TableFullError
from shm.layout import Kind
from shm.lease_slots import (
    BUCKET,
    BUDGET,
    ENOUGH,
    LOW,
    OWES,
    SHORT,
    SLOT,
    Answer,
    Message,
    Slot,
    Spending,
    Taken,
    answered,
    ended,
    forgiven,
    is_low,
    is_over,
    limited,
    new_bucket,
    new_budget,
    slot_in,
    taken,
    taken_quickly,
    verdict_on,
)
from shm.segment import segment_name
from shm.stripe import Stripe
from shm.table import HashTable, KeptTable

KIND: Final = Kind("leases", 2)


@final
class LeaseTable(KeptTable):
    """The table, in the process that made it and, over fork, in its children.

    `now_ns` is CLOCK_MONOTONIC. Every method may raise LockTimeoutError and LockBrokenError.
    """

    __slots__ = ("_stripe",)

    def __init__(self, table: HashTable) -> None:
        super().__init__(table)
        self._stripe = table.stripe

    @classmethod
    def create(cls, instance: str, keys: int, secret: bytes = b"") -> Self:
        """A new table. `secret`: what this machine is known by to the store comes of it."""
        name = segment_name(instance, KIND.name)
        return cls(HashTable.create(name, KIND, SLOT.size, keys, is_over, secret=secret))

    @classmethod
    def open(cls, instance: str, keys: int, secret: bytes, *, from_living: bool = False) -> Self:
        """The kept table of an earlier instance with this secret, or a new one that is kept.

        Raises: SegmentInUseError, ShmError.
        """
        name = segment_name(instance, KIND.name, kept=True)
        stranger = "is not the table of these budgets"
        table = HashTable.open(
            name,
            KIND,
            SLOT.size,
            keys,
            is_over,
            secret=secret,
            stranger=stranger,
            from_living=from_living,
        )
        table.move_in()
        return cls(table)

    def peek(self, key: bytes) -> Slot | None:
        """The lease as its slot has it."""
        with self._stripe(key):
            return self.find(key)

    def rows(self) -> Iterator[Slot]:
        """Every lease."""
        return (slot_in(raw) for raw in self.table.raws())

    def forget(self, slot: Slot, now_ns: int) -> bool:
        """Free the slot of a lease that is over, unless it changed since it was seen."""
        with self._stripe(slot.key) as stripe:
            at = stripe.find(slot.key)
            raw = stripe.read(at) if at >= 0 else b""
            if not raw or slot_in(raw) != slot or not is_over(raw, now_ns):
                return False
            stripe.remove(at)
        return True

    def forgive(self, key: bytes) -> None:
        """The store has made the bucket full: what is owed of it is forgotten."""
        with self._stripe(key):
            slot = self.find(key)
            if slot is not None and slot.kind == BUCKET:
                self._store(forgiven(slot))

    def mark(self, word: int) -> bool:
        """Set the word that says how the store is; whether it was another. For saying it once."""
        with self.table.stripes[0] as stripe:
            before, stripe.own_word = stripe.own_word, word
        return before != word

    @property
    def marked(self) -> int:
        """That word; 0 at first."""
        return self.table.stripes[0].own_word

    # --- a request: buckets -----------------------------------------------------------------

    def take_all(
        self, asks: Sequence[Ask], now_ns: int, wall_ns: int, *, alone: bool = False
    ) -> list[Taken]:
        """Take all costs, or none. Asks of one key add up.

        `alone`: there is no store now; go on with what it had left, refilled here.
        """
        # Fast path: most policies have one bucket, and most leases have enough.
        if len(asks) == 1:
            (ask,) = asks
            with self._stripe(ask.key) as stripe:
                at = stripe.find(ask.key)
                raw = stripe.read(at) if at >= 0 else b""
                found_quickly = taken_quickly(raw, ask, now_ns) if raw else None
                if found_quickly is not None:
                    fields, verdict = found_quickly
                    stripe.write(at, raw, fields)
                    return [Taken(verdict, ENOUGH)]
        with ExitStack() as locks:
            stripes = {id(one): one for one in (self._stripe(ask.key) for ask in asks)}
            for stripe in sorted(stripes.values(), key=_number):
                locks.enter_context(stripe)  # L6
            found: dict[bytes, Slot | None] = {}
            for ask in asks:
                if ask.key not in found:
                    found[ask.key] = self._bucket(ask, now_ns, wall_ns)
            before = dict(found)
            results = [_tried(ask, found, now_ns, alone) for ask in asks]
            if all(one.verdict.allowed for one in results):
                for slot in found.values():
                    assert slot is not None
                    self._store(slot._replace(touched=now_ns))
                return results
            return [
                one if (slot := before[ask.key]) is None else _untaken(ask, one, slot, now_ns)
                for ask, one in zip(asks, results, strict=True)
            ]

    def settle(self, ask: Ask, now_ns: int, wall_ns: int, delta: int) -> None:
        """Correct an earlier take: above 0 it charges, which may leave a debt; below 0 it refunds.

        A debt is paid by the next message, first of all.
        """
        with self._stripe(ask.key):
            slot = self._bucket(ask, now_ns, wall_ns)
            if slot is None:
                return
            used = slot.used + delta
            if not slot.carries:
                used = min(used, max(slot.allowance, slot.used))
            self._store(slot._replace(used=min(used, MAX_TOKENS), touched=now_ns))

    # --- a request: budgets -----------------------------------------------------------------

    def allowance(
        self,
        ask: BudgetAsk,
        committed: int,
        start_ns: int,
        times: tuple[int, int],
        *,
        alone: bool = False,
    ) -> tuple[int, int]:
        """What may be spent here in the window, and ENOUGH, LOW or SHORT. Within `budgets`' lock.

        `committed`: spent and reserved. `times`: now, monotonic and of the wall.
        Raises: TableFullError.
        """
        now_ns = times[0]
        with self._stripe(ask.key):
            slot = self.budget(ask, start_ns, times)
            if slot is None:
                raise TableFullError("leases: no room for another key")
            if now_ns - slot.touched > 10_000_000:
                self._store(slot._replace(touched=now_ns))
        most = slot.allowance if now_ns < slot.expires else 0
        if alone:
            return max(most, slot.allowance + max(slot.pool, 0)), ENOUGH
        left = most - committed - max(ask.amount, 1)
        if left >= 0:
            is_near = left * 4 < slot.chunk and now_ns >= slot.dry
            return most, LOW if is_near else ENOUGH
        # What is known to be spent needs no question for a while.
        is_known = now_ns < slot.dry and slot.allowance + slot.pool - committed < max(ask.amount, 1)
        return most, ENOUGH if is_known else SHORT

    def enroll(self, ask: BudgetAsk, start_ns: int, times: tuple[int, int]) -> bool:
        """Know of a budget that is only watched, so that its spend is reported."""
        with self._stripe(ask.key):
            return self.budget(ask, start_ns, times) is not None

    def others(self, key: bytes, start_ns: int) -> int:
        """What other machines have spent of the budget in this window, as far as known."""
        with self._stripe(key):
            slot = self.find(key)
        return slot.used if slot is not None and slot.since == start_ns else 0

    # --- messages ---------------------------------------------------------------------------

    def begin(
        self,
        key: bytes,
        times: tuple[int, int],
        claim_ns: int,
        spending: Spending | None = None,
        *,
        returns: bool = False,
    ) -> Message | None:
        """Claim a lease and say how it stands; None: another process is asking, or it is gone.

        `times`: now, monotonic and of the wall. `spending`: of a budget, whose stripe is locked.
        `returns`: give up what is not used (L2).
        """
        now_ns, wall_ns = times
        resets = 0
        with self._stripe(key):
            slot = self.find(key)
            if slot is None or slot.claim > now_ns:
                return None
            if spending is None:
                slot = ended(slot, now_ns)
                level, since = refilled(
                    slot.pool, slot.since, slot.amount, slot.refill, slot.interval, now_ns
                )
                slot = slot._replace(pool=level, since=since)
                if returns and slot.left > 0:
                    slot = slot._replace(allowance=slot.used)
                spent = committed = slot.used
            else:
                if spending.start_ns != slot.since:
                    return None
                is_ended = now_ns >= slot.expires
                if (returns or is_ended) and slot.allowance > spending.committed:
                    slot = slot._replace(allowance=spending.committed)
                spent, resets = spending.spent, spending.resets
                committed = spending.committed
            sequence = max(slot.sequence + 1, wall_ns // 1000)  # L4
            slot = slot._replace(sequence=sequence, claim=now_ns + claim_ns)
            self._store(slot)
        forgets = slot.kind == BUDGET and slot.told > 0 and resets > slot.birth
        member = resets if slot.kind == BUDGET else slot.birth
        hint = slot.pool if slot.told else -1
        return Message(slot, spent, committed, hint, now_ns, member, forgets)

    def finish(self, message: Message, answer: Answer | None, now_ns: int) -> None:
        """Take the answer, or None when there was none; of the last message only (L2)."""
        key, sequence = message.slot.key, message.slot.sequence
        with self._stripe(key):
            slot = self.find(key)
            if slot is None or slot.sequence != sequence:
                return
            if slot.kind == BUDGET and slot.since != message.slot.since:
                return
            if answer is None:
                self._store(slot._replace(claim=0))
                return
            self._store(answered(slot, message, answer, now_ns))

    # --- slots, their stripe locked -----------------------------------------------------------

    def find(self, key: bytes) -> Slot | None:
        """The lease; its stripe is locked."""
        stripe = self._stripe(key)
        at = stripe.find(key)
        raw = stripe.read(at) if at >= 0 else b""
        return slot_in(raw) if raw else None

    def _bucket(self, ask: Ask, now_ns: int, wall_ns: int) -> Slot | None:
        slot = self.find(ask.key)
        if slot is None:
            return self._made(new_bucket(ask, now_ns, wall_ns), now_ns)
        return ended(limited(slot, ask.limit, now_ns), now_ns)

    def budget(self, ask: BudgetAsk, start_ns: int, times: tuple[int, int]) -> Slot | None:
        """The lease of a budget in this window, by the limit of now; None: there is no room."""
        now_ns, wall_ns = times
        slot, limit = self.find(ask.key), ask.limit
        if slot is None or (slot.since, slot.interval) != (start_ns, limit.window_ns):
            end_ns = now_ns + max(start_ns + limit.window_ns - wall_ns, 0)
            window = (start_ns, limit.window_ns)
            fresh = new_budget(ask.key, ask.name, limit.amount, window, now_ns, end_ns)
            if slot is None:
                return self._made(fresh, now_ns)
            slot = fresh._replace(sequence=slot.sequence)
            self._store(slot)
        if slot.amount != limit.amount:
            # Asked anew under the new limit; what is granted already stays below it.
            pool = slot.pool + limit.amount - slot.amount
            allowance = min(slot.allowance, limit.amount)
            slot = slot._replace(amount=limit.amount, pool=pool, allowance=allowance, dry=0)
            self._store(slot)
        return slot

    def _made(self, slot: Slot, now_ns: int) -> Slot | None:
        stripe = self._stripe(slot.key)
        at = stripe.place(slot.key, now_ns)
        if at < 0:
            return None
        stripe.insert(at, SLOT.pack(*slot))
        return slot

    def _store(self, slot: Slot) -> None:
        stripe = self._stripe(slot.key)
        at = stripe.find(slot.key)
        raw = stripe.read(at) if at >= 0 else b""
        if raw:
            stripe.write(at, raw, SLOT.pack(*slot))


def _tried(ask: Ask, found: dict[bytes, Slot | None], now_ns: int, alone: bool) -> Taken:
    slot = found[ask.key]
    if slot is None:
        return Taken(UNKNOWN, ENOUGH)
    after = taken(slot, ask.cost, alone)
    if after is not None:
        found[ask.key] = after
        state = LOW if is_low(after, now_ns) else ENOUGH
        return Taken(verdict_on(after, ask, now_ns, True), state)
    never = not 0 <= ask.cost <= ask.limit.capacity
    needed = max(ask.cost, 1) - slot.left
    is_known = never or (now_ns < slot.dry and slot.pool < needed)
    return Taken(verdict_on(slot, ask, now_ns, False), ENOUGH if is_known else SHORT)


def _untaken(ask: Ask, one: Taken, slot: Slot, now_ns: int) -> Taken:
    """With the numbers of a lease of which nothing was taken."""
    return one._replace(verdict=verdict_on(slot, ask, now_ns, one.verdict.allowed))


def _number(stripe: Stripe) -> int:
    return stripe.index


__all__ = [
    "BUCKET",
    "BUDGET",
    "ENOUGH",
    "LOW",
    "OWES",
    "SHORT",
    "Answer",
    "LeaseTable",
    "Message",
    "Slot",
    "Spending",
    "Taken",
]
