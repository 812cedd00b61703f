"""What a slot of the leases table holds, and its arithmetic. No I/O, no lock.

Source: design section 5; Gray and Cheriton, "Leases", 1989. Rules and invariants: `shm.leases`.

Slot, 197 bytes; written and read under its stripe's lock:

    offset size type  a bucket's lease                    a budget's
    0      16   -     key, that of `rates`                key, that of `budgets`
    16     8    i64   allowance: all that was granted     what may be spent in the window
    24     8    i64   taken of it, ever                   what others have spent in the window
    32     8    i64   left in the store when it last answered, for whoever asks first
    40     8    u64   last refill, ns (monotonic)         window start, ns (epoch)
    48     8    u64   up to when the store knows all, ns (monotonic); 0: it never answered;
                      1: something was taken alone that it has not been told
    56     8    u64   end of the lease, ns (monotonic)
    64     8    u64   until when a refusal needs no question, ns (monotonic)
    72     8    u64   number of the last message sent
    80     8    u64   until when a process is asking, ns (monotonic); 0: none is
    88     8    u64   last use, ns (monotonic)
    96     8    u64   made, ns (epoch)                    resets of the budget
    104    8    u64   not evicted before, ns (monotonic)
    112    8    i64   the last grant                      the same
    120    8    u64   capacity                            amount
    128    8    u64   refill                              spent, as last reported
    136    8    u64   interval, ns                        window, ns
    144    1    u8    1: the debt is carried              0
    145    1    u8    1                                   2
    146    16   -     the name on all machines
    162    31   char  label, zeros behind                 zeros: `shm.budgets` has it
    193    4    u32   CRC-32
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple, final

from shm.bucket import LABEL_BYTES, Limit, Verdict, fitted, judged, refilled
from shm.bucket import Ask as RateAsk

SLOT: Final = struct.Struct(f"=16sqqqQQQQQQQQQqQQQBB16s{LABEL_BYTES}s")
_FRONT: Final = struct.Struct("=qqqQQQ")
"""From the allowance to the end of the lease."""
_USED: Final = struct.Struct("=q")
_TOUCHED: Final = struct.Struct("=Q")
_CHUNK_AT: Final = 112
_LIMIT_AT: Final = 120
_LIMIT_END: Final = 145
_LOW: Final = 4
"""A lease is renewed when less than this part of the last grant is left."""
BUCKET: Final = 1
BUDGET: Final = 2
_SECOND_NS: Final = 1_000_000_000


@final
class Slot(NamedTuple):
    """A slot, field by field; see the module."""

    key: bytes
    allowance: int
    used: int
    pool: int
    since: int
    told: int
    expires: int
    dry: int
    sequence: int
    claim: int
    touched: int
    birth: int
    keep: int
    chunk: int
    amount: int
    refill: int
    interval: int
    carries: int
    kind: int
    name: bytes
    label: bytes
    """With the zeros behind it; see the module."""

    @property
    def left(self) -> int:
        """Of a bucket's lease; below 0: debt."""
        return self.allowance - self.used


OWES: Final = 1
"""`Slot.told`: to be said as soon as the store answers again, whether or not someone asks."""
ENOUGH, LOW, SHORT = range(3)
"""`Taken.state`: nothing to do; ask for more soon; refused here, but the store may have some."""


class Taken(NamedTuple):
    """What a lease says to an ask."""

    verdict: Verdict
    state: int


class Spending(NamedTuple):
    """A budget as `shm.budgets` has it, in its window."""

    committed: int
    """Spent and reserved."""
    spent: int
    resets: int
    start_ns: int


class Message(NamedTuple):
    """The state of a lease for the store, and what is wanted."""

    slot: Slot
    """As of the message; `slot.sequence` is its number."""
    spent: int
    """Of a budget; of a bucket, what was taken of the lease."""
    committed: int
    """That and what is reserved."""
    hint: int
    """What a bucket had left when the store answered last, as of now; -1: it never did."""
    sent_ns: int
    member: int
    """Which of this machine's leases of that name it is: each is counted for itself."""
    forgets: bool
    """An operator has reset the budget: what all have spent is to be forgotten."""


class Answer(NamedTuple):
    """What the store says."""

    allowance: int
    left: int
    next_ns: int
    """Until the bucket's next refill."""
    others: int
    """What others have spent of a budget."""
    ttl_ns: int
    """How long the lease lasts from when the message was sent."""
    retry_ns: int
    """How long a refusal needs no further question."""


def slot_in(raw: bytes) -> Slot:
    """The value of a slot."""
    return Slot._make(SLOT.unpack_from(raw))


def new_bucket(ask: RateAsk, now_ns: int, wall_ns: int) -> Slot:
    """The lease of a bucket of which nothing is granted yet; alone it would be full."""
    limit = ask.limit
    return Slot(
        key=ask.key,
        allowance=0,
        used=0,
        pool=limit.capacity,
        since=now_ns,
        told=0,
        expires=0,
        dry=0,
        sequence=0,
        claim=0,
        touched=now_ns,
        birth=wall_ns,
        keep=now_ns + _SECOND_NS,
        chunk=0,
        amount=limit.capacity,
        refill=limit.refill,
        interval=limit.interval_ns,
        carries=limit.carry_debt,
        kind=BUCKET,
        name=ask.name,
        label=fitted(ask.label),
    )


def new_budget(
    key: bytes, name: bytes, amount: int, window: tuple[int, int], now_ns: int, end_ns: int
) -> Slot:
    """The lease of a budget in this window: start and length; `end_ns`: its end, monotonic."""
    start_ns, length_ns = window
    return Slot(
        key=key,
        allowance=0,
        used=0,
        pool=amount,
        since=start_ns,
        told=0,
        expires=0,
        dry=0,
        sequence=0,
        claim=0,
        touched=now_ns,
        birth=0,
        keep=end_ns,
        chunk=0,
        amount=amount,
        refill=0,
        interval=length_ns,
        carries=0,
        kind=BUDGET,
        name=name,
        label=bytes(LABEL_BYTES),
    )


def limited(slot: Slot, limit: Limit, now_ns: int) -> Slot:
    """A bucket's lease under the limit of now, its pool as of now."""
    level, since = refilled(slot.pool, slot.since, slot.amount, slot.refill, slot.interval, now_ns)
    if (slot.amount, slot.refill, slot.interval, slot.carries) != (
        *(limit.capacity, limit.refill, limit.interval_ns),
        limit.carry_debt,
    ):
        # Asked anew: what the store has left was told of the old limit.
        slot = slot._replace(
            amount=limit.capacity,
            refill=limit.refill,
            interval=limit.interval_ns,
            carries=int(limit.carry_debt),
            dry=0,
        )
        level = min(level, limit.capacity)
    return slot._replace(pool=level, since=since)


def forgiven(slot: Slot) -> Slot:
    """A bucket's lease after the store made it full: nothing is owed, and asking is worth it."""
    return slot._replace(used=min(slot.used, slot.allowance), pool=slot.amount, dry=0)


def taken_quickly(raw: bytes, ask: RateAsk, now_ns: int) -> tuple[bytes, Verdict] | None:
    """A bucket's slot after a take that changes nothing else, and the verdict; None: look closer.

    What `limited`, `ended` and `taken` do, for the lease that runs and has enough.
    """
    limit, cost = ask.limit, ask.cost
    allowance, used, pool, since, _, expires = _FRONT.unpack_from(raw, 16)
    (chunk,) = _USED.unpack_from(raw, _CHUNK_AT)
    left = allowance - used - cost
    if (
        left * _LOW < chunk
        or not 0 <= cost <= left + cost
        or left + cost <= 0
        or now_ns >= expires
        or not 0 <= now_ns - since < limit.interval_ns
        or raw[_LIMIT_AT:_LIMIT_END] != limit.encoded
    ):
        return None
    level = min(left + pool, limit.capacity) if pool > 0 else left
    changed = raw[:24] + _USED.pack(used + cost) + raw[32:88] + _TOUCHED.pack(now_ns)
    return changed + raw[96 : SLOT.size], judged(ask, level, since, now_ns, True)


def is_low(slot: Slot, now_ns: int) -> bool:
    """Whether to ask for more."""
    return slot.left * _LOW < slot.chunk and now_ns >= slot.dry


def ended(slot: Slot, now_ns: int) -> Slot:
    """A bucket's lease; what is left of it goes back to the store when it has ended (L3)."""
    left = slot.left
    if left <= 0 or now_ns < slot.expires:
        return slot
    return slot._replace(allowance=slot.used, pool=min(slot.pool + left, slot.amount))


def taken(slot: Slot, cost: int, alone: bool) -> Slot | None:
    """The lease after a take; None: it has not that much. `alone`: take from the pool as well."""
    left = slot.left
    if 0 <= cost <= left and left > 0:
        return slot._replace(used=slot.used + cost)
    if not alone or cost < 0 or not max(cost, 1) <= left + slot.pool:
        return None
    own = max(cost - left, 0)
    return slot._replace(
        allowance=slot.allowance + own,
        pool=slot.pool - own,
        used=slot.used + cost,
        told=min(slot.told, OWES),
    )


def answered(slot: Slot, message: Message, answer: Answer, now_ns: int) -> Slot:
    """The lease after the answer to its last message (L2)."""
    granted = answer.allowance - message.slot.allowance
    slot = slot._replace(
        expires=message.sent_ns + answer.ttl_ns,
        dry=now_ns + answer.retry_ns if answer.retry_ns else 0,
        claim=0,
        chunk=granted if granted > 0 else slot.chunk,
    )
    if slot.kind == BUDGET:
        return slot._replace(
            allowance=slot.allowance + granted,
            pool=answer.left,
            told=message.sent_ns,
            used=answer.others,
            refill=message.spent,
            birth=message.member,
        )
    # Taken alone since the message was sent: the store is about to charge it.
    owed = max(slot.allowance - answer.allowance, 0)
    if owed:
        told = min(slot.told, OWES)
    elif slot.used != message.spent:
        # A take waits for the lock, so that its time may be that of the message or before.
        told = min(message.sent_ns, slot.touched - 1)
    else:
        told = message.sent_ns
    return slot._replace(
        allowance=max(slot.allowance, answer.allowance),
        pool=max(answer.left - owed, min(answer.left, 0)),
        told=told,
        since=now_ns + answer.next_ns - slot.interval,
    )


def verdict_on(slot: Slot, ask: RateAsk, now_ns: int, allowed: bool) -> Verdict:
    """The verdict: by what is left here and, as far as known, in the store."""
    level = min(slot.left + max(slot.pool, 0), slot.amount)
    return judged(ask, level, slot.since, now_ns, allowed)


def is_over(raw: bytes, now_ns: int) -> bool:
    """Whether a slot carries no information any more: its lease has ended, and so has its time."""
    slot = slot_in(raw)
    return now_ns >= max(slot.keep, slot.expires, slot.claim)
